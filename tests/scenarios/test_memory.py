"""`--max-memory` bounds what a process takes: no more than 150 MiB above it, as the kernel counts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import kvbatch
from kvbatch.units import parse_bytes
from support.places import quick_folder
from support.processes import Processes
from support.steered import SteeredJob, until

MIB = 1 << 20
# What Python, RocksDB and the code of both take besides.
BESIDE_BYTES = 150 * MIB
# 256 MiB and the least budget for a value of it: three and a half times as much, and what the streams have.
LARGE_BYTES = 256 * MIB
ENOUGH_FOR_LARGE = "960MiB"
NOT_ENOUGH_FOR_LARGE = "512MiB"
_PEAK_MEMORY = Path(__file__).parents[1] / "support" / "peak_memory.py"
# Written by another process: this one's own memory must not grow with the stores.
_WRITER = """
import random, sys
import rocksdict
from pathlib import Path
from support.stores import raw_options

path, families, count, size, kind, compression = sys.argv[1:]
options = raw_options()
options.set_compression_type(getattr(rocksdict.DBCompressionType, compression)())
store = rocksdict.Rdict(path, options)
source = random.Random(4)
for name in ["default", *(f"family{number}" for number in range(1, int(families)))]:
    family = store if name == "default" else store.create_column_family(name, options)
    family[b"before"] = b"1"
    for number in range(int(count)):
        piece = bytes(1 << 20) if kind == "zeros" else source.randbytes(1 << 20)
        family[b"large%06d" % number] = piece * (int(size) >> 20)
    family[b"zlast"] = b"2"
    family.flush()
store.close()
"""
# Stores that are hard on whoever reads or writes them: (kind, how many, bytes of each).
_ODD_WRITER = """
import random, sys
import rocksdict
from pathlib import Path
from support.stores import copy_open_store, raw_options

path, kind, count, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
options = raw_options()
options.set_compression_type(rocksdict.DBCompressionType.none())
options.set_disable_auto_compactions(True)
options.set_write_buffer_size(1 << 30)
written = path.with_name(path.name + ".open")
store = rocksdict.Rdict(str(written), options)
source = random.Random(4)
if kind == "files":  # that overlap, all in level 0
    for _ in range(count):
        for _ in range(size >> 10):
            store[source.randbytes(16)] = source.randbytes(1000)
        store.flush()
elif kind == "keys":
    for _ in range(count):
        store[source.randbytes(size)] = b"1"
    store.flush()
elif kind == "wal":
    for number in range(count):
        store[b"key%012d" % number] = source.randbytes(size)
copy_open_store(store, written, path)
"""


@pytest.fixture(scope="module")
def odd_store() -> Iterator[Callable[[str, int, int], Path]]:
    """Made once: ("files", how many, bytes of each), ("keys", …) or ("wal", entries, bytes of each)."""
    with quick_folder("kvbatch-memory-") as folder:

        def store(kind: str, count: int, size: int) -> Path:
            path = folder / f"{kind}-{count}-{size}"
            if not path.exists():
                subprocess.run(
                    [sys.executable, "-c", _ODD_WRITER, str(path), kind, str(count), str(size)],
                    check=True,
                    env={"PYTHONPATH": str(_PEAK_MEMORY.parents[1])},
                )
            return path

        yield store


@pytest.fixture(scope="module")
def stores() -> Iterator[Callable[..., Path]]:
    """Stores that are made once: (families, values in each, bytes of a value, "zeros" or "random", compression)."""
    with quick_folder("kvbatch-memory-") as folder:

        def store(families: int, count: int, size: int, kind: str, compression: str) -> Path:
            path = folder / f"{families}-{count}-{size}-{kind}-{compression}"
            if not path.exists():
                arguments = [str(path), str(families), str(count), str(size), kind, compression]
                subprocess.run(
                    [sys.executable, "-c", _WRITER, *arguments],
                    check=True,
                    env={"PYTHONPATH": str(_PEAK_MEMORY.parents[1])},
                )
            return path

        yield store


def _kvbatch(peak_file: Path) -> list[str]:
    return [str(_PEAK_MEMORY), str(peak_file)]


@dataclass
class Outcome:
    code: int
    errors: str
    peaks: dict[str, int]
    target: Path
    output: str

    def stays_within(self, max_memory: str) -> None:
        allowed = parse_bytes(max_memory) + BESIDE_BYTES
        assert all(peak <= allowed for peak in self.peaks.values()), (
            f"{ {name: peak // MIB for name, peak in self.peaks.items()} } MiB with {max_memory}"
        )


@pytest.fixture
def migrate(tmp_path: Path) -> Iterator[Callable[..., Outcome]]:
    """`kvbatch migrate` as a process, to a directory or to a receiver that is one of its own."""
    processes = Processes(tmp_path)

    def run(source: Path, place: str, *options: str, sender: str, receiver: str = "") -> Outcome:
        root = tmp_path / "root"
        target, serving = str(tmp_path / "target"), None
        peak_files = {"sender": tmp_path / "sender.peak"}
        if place == "receiver":
            peak_files["receiver"] = tmp_path / "receiver.peak"
            listening = ["--root", str(root), "--listen", "127.0.0.1:0", "--max-memory", receiver or sender]
            serving = processes.start("serve", [*_kvbatch(peak_files["receiver"]), "serve", *listening])
            port = int(serving.first_line().split(",")[0].rpartition(":")[2])
            target = f"kvbatch://127.0.0.1:{port}/copy"
        # The port is another one each time, and with it the job would be.
        job = ["--job", "copy", "--state-dir", str(tmp_path / "state"), "--progress", "none", "--max-memory", sender]
        sending = processes.start(
            "migrate", [*_kvbatch(peak_files["sender"]), "migrate", str(source), target, *job, *options]
        )
        code = sending.wait()
        if serving is not None:
            serving.close()
        peaks = {name: int(file.read_text()) for name, file in peak_files.items()}
        return Outcome(code, sending.errors, peaks, root / "copy" if serving else tmp_path / "target", sending.stdout)

    yield run
    processes.close()


places = pytest.mark.parametrize("place", ["directory", "receiver"])
lanes = pytest.mark.parametrize("lane", ["batch", "sst"])
kinds = pytest.mark.parametrize(("kind", "compression"), [("random", "none"), ("zeros", "lz4")])


@places
@lanes
@kinds
def test_a_value_of_256_mib_goes_where_the_budget_allows_it(
    stores: Callable[..., Path], migrate: Callable[..., Outcome], place: str, lane: str, kind: str, compression: str
) -> None:
    source = stores(1, 1, LARGE_BYTES, kind, compression)
    outcome = migrate(source, place, "--lane", lane, "--compression", "lz4", sender=ENOUGH_FOR_LARGE)
    assert outcome.code == 0, outcome.errors
    outcome.stays_within(ENOUGH_FOR_LARGE)
    assert (outcome.target / "CURRENT").exists()


@lanes
@pytest.mark.parametrize(
    ("place", "kind", "compression"), [("directory", "random", "none"), ("receiver", "zeros", "lz4")]
)
def test_a_value_of_256_mib_is_refused_by_name_before_it_is_read_where_it_does_not(
    stores: Callable[..., Path], migrate: Callable[..., Outcome], place: str, lane: str, kind: str, compression: str
) -> None:
    source = stores(1, 1, LARGE_BYTES, kind, compression)
    refused = migrate(source, place, "--lane", lane, sender="64MiB", receiver="960MiB")
    assert refused.code == 1
    # Two ranges meet in its block, and either stream may be the first to see it.
    behind = rf"({b'before'.hex()}|{b'large'.hex()}|\(the first\))"
    assert re.search(rf"an entry behind key {behind}.* takes 256 MiB", refused.errors)
    assert "this side's --max-memory" in refused.errors
    assert refused.peaks["sender"] <= 64 * MIB + BESIDE_BYTES
    # What it says to type is enough.
    enough = re.search(r"raise --max-memory to (\d+MiB)", refused.errors)
    assert enough is not None
    assert f" with: kvbatch migrate --max-memory {enough[1]} " in refused.errors
    assert migrate(source, place, "--lane", lane, sender=enough[1], receiver="960MiB").code == 0


@lanes
def test_a_receiver_with_too_little_is_named(
    stores: Callable[..., Path], migrate: Callable[..., Outcome], lane: str
) -> None:
    source = stores(1, 1, LARGE_BYTES, "zeros", "lz4")
    outcome = migrate(source, "receiver", "--lane", lane, sender=ENOUGH_FOR_LARGE, receiver=NOT_ENOUGH_FOR_LARGE)
    assert outcome.code == 1
    assert "the receiver's --max-memory" in outcome.errors
    assert outcome.peaks["receiver"] <= parse_bytes(NOT_ENOUGH_FOR_LARGE) + BESIDE_BYTES


@places
@lanes
def test_streams_with_large_values_wait_for_each_other(
    stores: Callable[..., Path], migrate: Callable[..., Outcome], place: str, lane: str
) -> None:
    """More streams than the budget has room for values, one of them waiting for memory nearly always."""
    source = stores(8, 6, 8 * MIB, "zeros", "lz4")
    options = ["--lane", lane, "--streams", "8", "--batch-size", "64KiB", "--json"]
    outcome = migrate(source, place, *options, sender="48MiB")
    assert outcome.code == 0, outcome.errors
    outcome.stays_within("48MiB")
    # Nothing else holds a stream back that has neither a limit nor a window.
    assert place == "receiver" or json.loads(outcome.output)["throttled_seconds"] > 0


def test_a_job_whose_streams_wait_for_memory_says_so(
    stores: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for one value at a time, and who sends it takes seconds, so that the others wait for memory."""
    monkeypatch.setattr("kvbatch.migration.SAMPLE_SECONDS", 0.05)
    source = stores(8, 6, 8 * MIB, "zeros", "lz4")
    options = {"lane": "batch", "streams": 4, "max_memory": "44MiB", "rate_limit": "4MiB/s"}
    with SteeredJob(source, tmp_path / "target", **options) as job:
        waiting = job.until(lambda progress: progress.throttle == "memory")
        assert waiting.throttled_seconds["memory"] > 0
        until(lambda: {"reason": "memory"} in job.told("throttle"), "the event")
        operator = kvbatch.control(job.migration.job)
        until(lambda: operator.status().throttle == "memory", "the reason in the status")
        job.finish(rate_limit=0)


@places
@lanes
def test_many_families(stores: Callable[..., Path], migrate: Callable[..., Outcome], place: str, lane: str) -> None:
    source = stores(40, 3, MIB, "random", "lz4")
    outcome = migrate(source, place, "--lane", lane, sender="64MiB")
    assert outcome.code == 0, outcome.errors
    outcome.stays_within("64MiB")


@lanes
def test_files_that_overlap_are_read_by_many_streams(
    odd_store: Callable[[str, int, int], Path], migrate: Callable[..., Outcome], lane: str
) -> None:
    """Each stream merges them all: what is read ahead of one file is multiplied by both numbers."""
    source = odd_store("files", 36, 1 << 20)
    outcome = migrate(source, "receiver", "--lane", lane, "--streams", "8", sender="24MiB")
    assert outcome.code == 0, outcome.errors
    outcome.stays_within("24MiB")


def test_so_many_files_that_overlap_that_their_blocks_alone_are_too_much(
    odd_store: Callable[[str, int, int], Path], migrate: Callable[..., Outcome]
) -> None:
    source = odd_store("files", 600, 16 << 10)
    refused = migrate(source, "directory", "--lane", "batch", "--streams", "8", sender="24MiB")
    assert refused.code == 2
    assert "600 files that each stream merges" in refused.errors
    enough = re.search(r"give at least (\d+MiB)", refused.errors)
    assert enough is not None
    assert not refused.target.exists()
    outcome = migrate(source, "directory", "--lane", "batch", "--streams", "8", sender=enough[1])
    assert outcome.code == 0, outcome.errors
    outcome.stays_within(enough[1])


def test_a_wal_that_was_not_flushed_is_refused_by_name_where_it_takes_too_much(
    odd_store: Callable[[str, int, int], Path], migrate: Callable[..., Outcome]
) -> None:
    source = odd_store("wal", 12_000, 10_000)
    refused = migrate(source, "directory", sender="16MiB")
    assert refused.code == 2
    assert "its WAL was not flushed" in refused.errors
    assert not refused.target.exists()
    assert refused.peaks["sender"] <= 16 * MIB + BESIDE_BYTES
    enough = re.search(r"give --max-memory (\d+MiB)", refused.errors)
    assert enough is not None
    assert parse_bytes(enough[1]) < 140 * MIB
    outcome = migrate(source, "directory", "--lane", "batch", sender=enough[1])
    assert outcome.code == 0, outcome.errors
    outcome.stays_within(enough[1])


@lanes
def test_a_large_key_is_refused_by_name_where_the_budget_does_not_allow_it(
    odd_store: Callable[[str, int, int], Path], migrate: Callable[..., Outcome], lane: str
) -> None:
    source = odd_store("keys", 3, 3 * MIB)
    refused = migrate(source, "receiver", "--lane", lane, sender="64MiB")
    assert refused.code == 4
    assert "a key of 3 MiB" in refused.errors
    refused.stays_within("64MiB")
    enough = re.search(r"raise it to (\d+MiB)", refused.errors)
    assert enough is not None
    outcome = migrate(source, "receiver", "--lane", lane, sender=enough[1])
    assert outcome.code == 0, outcome.errors
    outcome.stays_within(enough[1])


def test_so_many_large_keys_that_the_target_cannot_have_them_in_memory(
    odd_store: Callable[[str, int, int], Path], migrate: Callable[..., Outcome]
) -> None:
    """In the lane `sst` each is a file of its own."""
    source = odd_store("keys", 20, 2 * MIB)
    outcome = migrate(source, "receiver", "--lane", "sst", sender="64MiB")
    assert outcome.code == 4
    assert "first and last key of every file in memory" in outcome.errors
    outcome.stays_within("64MiB")
