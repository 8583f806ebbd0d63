"""Files of the source moved as they are, with whatever stands over and between them: always what an iterator shows."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest
import rocksdict
from hypothesis import event, given, settings
from hypothesis import strategies as st

import kvbatch
from kvbatch import graft_planner
from support.places import quick_folder
from support.stores import ROCKSDB, copy_open_store, raw_options, read_store, table_options

KEYS = 240
FAMILIES = ("default", "other")


def key_of(number: int) -> bytes:
    return b"key-%04d" % number


@dataclass(frozen=True)
class Operation:
    """On one family; `number` is a key's, `more` says how much."""

    what: str
    number: int
    more: int
    family: str


LONGEST = 40
# And how often.
WHAT = {
    "put": 2,
    "put many": 5,
    "delete": 3,
    "flush": 4,
    "compact": 2,
    "compact automatically": 3,
    "compact all": 1,
    "delete range": 1,
    "ingest": 2,
}
# With a range deletion in the WAL, or a sequence number that a file from outside took out of it, nothing is moved by
# files.
KEEPS_WAL_PLAIN = {what: weight for what, weight in WHAT.items() if what not in ("delete range", "ingest")}


@dataclass(frozen=True)
class Case:
    """A store and what is moved of it. Unless it is `closed`, what was not flushed stands in the WAL alone."""

    script: list[Operation]
    closed: bool
    start: bytes | None
    end: bytes | None
    batch_bytes: int


def case_of(seed: int, length: int) -> Case:
    """Drawn from a seed: of a list of operations hypothesis would run each draw another five times, with one operation
    repeated, so that sixty examples were ten stores."""
    draw = random.Random(seed)
    closed = draw.random() < 0.5
    weights = WHAT if closed or draw.random() < 0.3 else KEEPS_WAL_PLAIN
    script = [
        Operation(what, draw.randrange(KEYS), draw.randint(1, 80), draw.choice(FAMILIES))
        for what in draw.choices(list(weights), list(weights.values()), k=LONGEST)
    ]
    # Wide ranges mostly: hardly a file lies in what two random keys have between them.
    edge = draw.choice((KEYS // 10, KEYS // 10, KEYS // 2))
    start, end = draw.randrange(edge), KEYS - 1 - draw.randrange(edge)
    return Case(
        script[:length],
        closed,
        draw.choice((None, key_of(start), key_of(start) + b"x")),
        draw.choice((None, key_of(end), key_of(end) + b"x")),
        draw.choice((4096, 1 << 20)),
    )


def options(family: str) -> rocksdict.Options:
    made = raw_options()
    # Files so small that a store of a few hundred keys has many; they end with a block.
    made.set_target_file_size_base(2048)
    table = table_options()
    table.set_block_size(512)
    made.set_block_based_table_factory(table)
    made.set_compression_type(rocksdict.DBCompressionType.none())
    made.set_disable_auto_compactions(True)
    if family == "default":
        # Levels so small that they fill one after the other, from the first one on.
        made.set_level_compaction_dynamic_level_bytes(False)
        made.set_max_bytes_for_level_base(8192)
        made.set_max_bytes_for_level_multiplier(2.0)
        made.set_level_zero_file_num_compaction_trigger(2)
    else:
        # From the last one on, where the files are larger.
        made.set_target_file_size_multiplier(2)
    return made


def ingest(store: rocksdict.Rdict, folder: Path, operation: Operation) -> None:
    """A file from outside, in the lowest level that has room for it: above all that it overlaps."""
    path = folder / "outside.sst"
    writer = rocksdict.SstFileWriter(options=options(operation.family))
    writer.open(str(path))
    for number in range(operation.number, operation.number + operation.more):
        if number % 7:
            writer[key_of(number)] = b"outside%d" % number * 10
        else:
            del writer[key_of(number)]
    writer.finish()
    store.ingest_external_file([str(path)])
    path.unlink()


def compact_automatically(store: rocksdict.Rdict) -> None:
    """Until nothing is left to do: what is made does not depend on the moment at which it ends."""
    store.set_options({"disable_auto_compactions": "false"})
    for _ in range(10_000):
        if not any(map(store.property_int_value, ("rocksdb.compaction-pending", "rocksdb.num-running-compactions"))):
            break
        time.sleep(0.0005)
    else:
        raise AssertionError("automatic compactions do not end")
    store.set_options({"disable_auto_compactions": "true"})


def apply(store: rocksdict.Rdict, folder: Path, operation: Operation) -> None:
    number, more = operation.number, operation.more
    match operation.what:
        case "put":
            store[key_of(number)] = b"v" * (more * 10)
        case "put many":
            for other in range(number, min(KEYS, number + more)):
                store[key_of(other)] = b"many%d" % other * 20
        case "delete":
            del store[key_of(number)]
        case "delete range":
            store.delete_range(key_of(number), key_of(number + more // 4 + 1))
        case "flush":
            store.flush()
        case "ingest":
            ingest(store, folder, operation)
        case "compact":
            store.compact_range(key_of(number), key_of(number + more))
        case "compact automatically":
            compact_automatically(store)
        case "compact all":
            store.compact_range(None, None)


def write(path: Path, case: Case) -> None:
    written = path if case.closed else path.with_name("open")
    store = rocksdict.Rdict(str(written), options("default"))
    families = {"default": store, "other": store.create_column_family("other", options("other"))}
    # A last level to begin with: without one nothing can be moved as it is.
    for family in families.values():
        # Two files that overlap, so that they are merged and not just moved there, which leaves sequence numbers alone.
        for first in (0, 2):
            for number in range(first, KEYS, 4):
                family[key_of(number)] = b"first" * 40 + b"%d" % number
            family.flush()
        family.compact_range(None, None)
    for operation in case.script:
        apply(families[operation.family], path.parent, operation)
    if not case.closed:
        copy_open_store(store, written, path)
    families.clear()
    store.close()


def levels_of(path: Path) -> list[list[int]]:
    """Those that hold files, of each family."""
    store = rocksdict.Rdict(
        str(path),
        raw_options(),
        column_families={name: raw_options() for name in FAMILIES},
        access_type=rocksdict.AccessType.read_only(),
    )
    families = [store.get_column_family(name) for name in FAMILIES]
    levels = [
        [level for level in range(7) if family.property_value(f"rocksdb.num-files-at-level{level}") != "0"]
        for family in families
    ]
    families.clear()
    store.close()
    return levels


@dataclass(frozen=True)
class Example:
    most_levels: int
    files_grafted: int


@pytest.fixture(scope="module")
def met() -> Iterator[list[Example]]:
    """What the examples were. Stores of one level, and jobs that take no file as it is, would pass the test too."""
    examples: list[Example] = []
    yield examples
    assert sum(example.most_levels >= 3 for example in examples) >= len(examples) // 4
    if ROCKSDB >= (9, 10):
        assert sum(example.files_grafted > 0 for example in examples) >= len(examples) * 3 // 4


@settings(deadline=None, max_examples=settings().max_examples * 3 // 2)
@given(seed=st.integers(0, 1 << 32), length=st.sampled_from(range(LONGEST + 1)))
def test_a_range_moved_by_files_is_the_range(met: list[Example], seed: int, length: int) -> None:
    case = case_of(seed, length)
    with quick_folder("kvbatch-graft-") as directory:
        path, copy = directory / "source", directory / "copy"
        write(path, case)
        # Whatever stands over a file, however much of it.
        with patch.object(graft_planner, "_MOST_OVERLAY", 1e9):
            migration = kvbatch.migrate(
                path,
                copy,
                lane="sst",
                key_range=kvbatch.KeyRange(case.start, case.end),
                graft_bytes=1,
                batch_bytes=case.batch_bytes,
                state_dir=directory / "state",
            )
        levels = levels_of(path)
        met.append(Example(max(map(len, levels)), migration.plan.files_grafted))
        event(f"levels {levels}")
        event(f"{min(migration.plan.files_grafted, 10)} files")
        summary = migration.wait()
        expected = {
            family: {
                key: value
                for key, value in entries.items()
                if (case.start is None or key >= case.start) and (case.end is None or key < case.end)
            }
            for family, entries in read_store(path).items()
        }
        assert read_store(copy) == expected
        moved = [entry for entries in expected.values() for entry in entries.items()]
        assert summary.entries == len(moved)
        assert summary.raw_bytes == sum(len(key) + len(value) for key, value in moved)
