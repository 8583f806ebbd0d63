"""Odd but legal stores come out equal, in-process and through a receiver, as batches and as files built for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rocksdict

import kvbatch
from support.places import Place
from support.stores import Families, copy_open_store, numbered, raw_options, read_store, tree, write_store
from support.stores import kvbatch as run_kvbatch

MIB = 1 << 20


@pytest.fixture(params=["batch", "sst"])
def lane(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def check_equal(source: Path, place: Place, lane: str, expected: Families, **options: Any) -> None:
    """Migrates, none of the source's own files as it is, and reads the target back with a RocksDB that is not ours."""
    summary = kvbatch.migrate(source, place.endpoint(), lane=lane, graft_bytes="1TiB", **options).wait()
    assert summary.lane == lane
    found = read_store(place.path())
    assert {name: len(entries) for name, entries in found.items()} == {
        name: len(entries) for name, entries in expected.items()
    }
    assert found == expected
    assert summary.entries == sum(len(entries) for entries in expected.values())
    assert summary.raw_bytes == sum(len(k) + len(v) for entries in expected.values() for k, v in entries.items())
    report = kvbatch.verify(str(source), place.endpoint())
    assert report.equal
    assert report.entries_source == report.entries_target == summary.entries


ODD_STORES: dict[str, Families] = {
    "an empty store": {"default": {}},
    "empty families beside full ones": {"default": {}, "full": numbered(50), "empty": {}, "after": {b"z": b"1"}},
    "the empty key": {"default": {b"": b"of the empty key", b"\0": b"one byte", b"a": b""}},
    "only the empty key": {"default": {b"": b""}},
    "zero-length values": {"default": {f"k{number}".encode(): b"" for number in range(300)}},
    "every byte value in keys": {
        "default": {bytes([a, b]): bytes([b]) for a in range(256) for b in (0, 1, 127, 128, 254, 255)},
        "single": {bytes([byte]): bytes([255 - byte]) for byte in range(256)},
        "runs": {bytes([byte]) * length: b"x" for byte in (0, 255) for length in range(1, 40)},
    },
    "keys of 64 KiB": {"default": {bytes([n]) * 65536: numbered(1)[b"key-00000000"] for n in range(0, 256, 5)}},
    "long keys that differ at their end": {
        "default": {b"x" * 65000 + n.to_bytes(2, "big"): str(n).encode() for n in range(40)}
    },
    "keys that are prefixes of each other": {"default": {b"p" * n: str(n).encode() for n in range(300)}},
    "family names with spaces and non-ASCII": {
        "default": numbered(3),
        "with space": numbered(4),
        " edges ": numbered(5),
        "Käse 日本 ключ": numbered(6),
        "a/b:c#d\\e[f]=\"g'": numbered(7),
        "tab\tand\nline": numbered(8),
        "-dash": numbered(9),
        "🗝": numbered(10),
    },
}


@pytest.mark.parametrize("flush", [True, False], ids=["in files", "only in the WAL"])
@pytest.mark.parametrize("name", ODD_STORES)
def test_odd_store_comes_out_equal(tmp_path: Path, place: Place, lane: str, name: str, flush: bool) -> None:
    source = write_store(tmp_path / "source", ODD_STORES[name], flush=flush)
    check_equal(source, place, lane, ODD_STORES[name])


def test_40_families(tmp_path: Path, place: Place, lane: str) -> None:
    families = {"default": numbered(1), **{f"family-{n:02}": numbered(n * 3, start=n) for n in range(39)}}
    check_equal(write_store(tmp_path / "source", families), place, lane, families)


def test_data_only_in_the_wal_has_no_table_file(tmp_path: Path) -> None:
    """Guards the parameter above: without flush the entries stand in the WAL."""
    source = write_store(tmp_path / "source", {"default": numbered(500)}, flush=False)
    assert not list(source.glob("*.sst"))
    assert sum(log.stat().st_size for log in source.glob("*.log")) > 500 * 10


def test_value_of_64_mib(tmp_path: Path, place: Place, lane: str) -> None:
    entries = {b"before": b"1", b"large": bytes(range(256)) * (64 * MIB // 256), b"zlast": b"2"}
    source = write_store(tmp_path / "source", {"default": entries})
    check_equal(source, place, lane, {"default": entries})


def test_value_too_large_for_the_memory_is_refused_with_the_way_out(tmp_path: Path, place: Place) -> None:
    entries = {b"before": b"1", b"large": bytes(range(256)) * (16 * MIB // 256)}
    source = write_store(tmp_path / "source", {"default": entries})
    with pytest.raises(kvbatch.SourceError, match=r"an entry behind key .* takes 16 MiB, .*raise --max-memory"):
        kvbatch.migrate(source, place.endpoint(), max_memory="16MiB").wait()
    check_equal(source, place, "batch", {"default": entries}, max_memory="64MiB")


def test_value_too_large_for_the_memory_is_refused_in_a_built_file_too(tmp_path: Path, place: Place) -> None:
    """It needs no frame that it fits into, but the block that it is built into."""
    entries = {b"before": b"1", b"large": bytes(range(256)) * (16 * MIB // 256)}
    source = write_store(tmp_path / "source", {"default": entries})
    with pytest.raises(kvbatch.SourceError, match=r"an entry behind key .* takes 16 MiB, .*raise --max-memory"):
        kvbatch.migrate(source, place.endpoint(), lane="sst", max_memory="16MiB").wait()
    check_equal(source, place, "sst", {"default": entries}, max_memory="64MiB")


def test_values_just_around_a_batch(tmp_path: Path, place: Place, lane: str) -> None:
    sizes = [65536 + delta for delta in (-40, -30, -25, -20, -15, -10, -1, 0, 1, 100)]
    entries = {f"{position:02}-{size}".encode(): b"v" * size for position, size in enumerate(sizes)}
    source = write_store(tmp_path / "source", {"default": entries})
    check_equal(source, place, lane, {"default": entries}, batch_bytes="64KiB")


def _overwrite_and_delete(store: rocksdict.Rdict) -> dict[bytes, bytes]:
    entries = numbered(400)
    for round_ in range(3):
        for key in entries:
            store[key] = str(round_).encode()
        store.flush()
    for key in list(entries)[::3]:
        del store[key]
        del entries[key]
    return dict.fromkeys(entries, b"2")


def _delete_ranges(store: rocksdict.Rdict) -> dict[bytes, bytes]:
    entries = numbered(600)
    for key, value in entries.items():
        store[key] = value
    store.flush()
    # One tombstone in a file over another file, one over it in the WAL, then new entries inside both.
    store.delete_range(b"key-00000100", b"key-00000200")
    store.flush()
    store.delete_range(b"key-00000150", b"key-00000300")
    store[b"key-00000170"] = b"again"
    left = {key: value for key, value in entries.items() if not b"key-00000100" <= key < b"key-00000300"}
    return {**left, b"key-00000170": b"again"}


def _delete_everything(store: rocksdict.Rdict) -> dict[bytes, bytes]:
    for key, value in numbered(200).items():
        store[key] = value
    store.flush()
    store.delete_range(b"", b"\xff")
    store.flush()
    return {}


def _close(store: rocksdict.Rdict, written: Path, source: Path) -> None:
    store.close()
    written.rename(source)


def _compact(store: rocksdict.Rdict, written: Path, source: Path) -> None:
    store.compact_range(None, None)
    _close(store, written, source)


def _leave_open(store: rocksdict.Rdict, written: Path, source: Path) -> None:
    copy_open_store(store, written, source)
    store.close()


@pytest.mark.parametrize("end", [_close, _compact, _leave_open])
@pytest.mark.parametrize("write", [_overwrite_and_delete, _delete_ranges, _delete_everything])
def test_only_what_is_visible_is_moved(
    tmp_path: Path,
    place: Place,
    lane: str,
    write: Callable[[rocksdict.Rdict], dict[bytes, bytes]],
    end: Callable[[rocksdict.Rdict, Path, Path], None],
) -> None:
    options = raw_options()
    options.set_disable_auto_compactions(True)
    source = tmp_path / "source"
    store = rocksdict.Rdict(str(tmp_path / "written"), options)
    expected = write(store)
    end(store, tmp_path / "written", source)
    if (write, end) == (_delete_ranges, _leave_open):
        # The end of a range that was deleted, which no entry of the WAL has as its key.
        assert any(b"key-00000300" in log.read_bytes() for log in source.glob("*.log"))
    check_equal(source, place, lane, {"default": expected})


def test_files_and_wal_together(tmp_path: Path, place: Place, lane: str) -> None:
    """The newest entry wins wherever it stands."""
    flushed = write_store(tmp_path / "flushed", {"default": numbered(100)})
    store = rocksdict.Rdict(str(flushed), raw_options())
    store[b"key-00000050"] = b"newer"
    store[b"new"] = b"1"
    del store[b"key-00000051"]
    _leave_open(store, flushed, tmp_path / "source")
    expected = {**numbered(100), b"key-00000050": b"newer", b"new": b"1"}
    del expected[b"key-00000051"]
    check_equal(tmp_path / "source", place, lane, {"default": expected})


def test_a_dropped_family_does_not_come_back(tmp_path: Path, place: Place, lane: str) -> None:
    source = write_store(tmp_path / "source", {"default": numbered(5), "dropped": numbered(6), "kept": numbered(7)})
    store = rocksdict.Rdict(
        str(source), raw_options(), column_families={name: raw_options() for name in ("dropped", "kept")}
    )
    store.drop_column_family("dropped")
    store.close()
    check_equal(source, place, lane, {"default": numbered(5), "kept": numbered(7)})


def test_paths_that_are_no_text(tmp_path: Path) -> None:
    source, target = tmp_path / os.fsdecode(b"source-\xff"), tmp_path / os.fsdecode(b"target-\xfe")
    write_store(tmp_path / "written", {"default": numbered(10)}).rename(source)
    done = run_kvbatch("migrate", source, target, "--json", "--state-dir", tmp_path / "state")
    assert done.returncode == 0, done.stderr
    assert read_store(target.rename(tmp_path / "read")) == {"default": numbered(10)}
    shown = run_kvbatch("status", "--state-dir", tmp_path / "state")
    assert shown.returncode == 0, shown.stderr
    assert r"source-\xff" in shown.stdout


def test_what_to_type_next_about_paths_that_are_no_text(tmp_path: Path) -> None:
    source, target = tmp_path / os.fsdecode(b"source-\xff"), tmp_path / os.fsdecode(b"it's-\xfe")
    write_store(tmp_path / "written", {"default": {b"a": b"1", b"large": bytes(20 << 20)}}).rename(source)
    state = ["--state-dir", tmp_path / "state"]
    stopped = run_kvbatch("migrate", source, target, "--job", "nightly", "--max-memory", "16MiB", *state)
    assert stopped.returncode == 1, stopped.stderr
    before = tree(target)
    status = json.loads(run_kvbatch("status", "nightly", "--json", *state).stdout)
    # Another limit alone is what it lacks.
    command = status["carry_on"].replace(" --max-memory 16MiB", "")
    discarded = run_kvbatch("cancel", "--discard", "--yes", "nightly", *state)
    assert "was removed" in discarded.stdout, discarded.stdout + discarded.stderr
    assert before, "there was something to remove"
    assert not target.exists()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    typed = subprocess.run(["bash", "-c", command], env={**os.environ, "PATH": path}, capture_output=True, check=False)
    assert typed.returncode == 0, typed.stderr
    assert len(list(tmp_path.iterdir())) == 3, "source, target and state directory"
    assert read_store(target.rename(tmp_path / "read")) == {"default": {b"a": b"1", b"large": bytes(20 << 20)}}
