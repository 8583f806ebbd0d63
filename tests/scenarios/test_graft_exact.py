"""Moved by files, a range is what an iterator over the source shows, whatever the store's history was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import rocksdict

import kvbatch
from support.stores import copy_open_store, need_rocksdb, raw_options, read_store
from support.tables import KEYS, VALUE, compacted, key_of, table_options_of

LATER = KEYS // 2


@pytest.fixture(autouse=True, scope="module")
def _grafting() -> None:
    need_rocksdb((9, 10), "ingest files that a database wrote")


def migrate(source: Path, target: Path, **more: Any) -> tuple[kvbatch.Plan, kvbatch.Summary]:
    migration = kvbatch.migrate(source, target, graft_bytes=1, lane="sst", state_dir=target.parent / "state", **more)
    return migration.plan, migration.wait()


def check_moved(source: Path, target: Path, *, least: int = 10, **more: Any) -> kvbatch.Summary:
    """By at least so many files, counted exactly, and read back by a RocksDB that is not ours."""
    plan, summary = migrate(source, target, **more)
    assert plan.files_grafted >= least
    families = {part.column_family for part in plan.ranges}
    expected = {name: entries for name, entries in read_store(source).items() if name in families}
    found = {name: entries for name, entries in read_store(target).items() if name in families}
    assert found == expected
    assert summary.entries == sum(map(len, expected.values()))
    return summary


def ingest(store: rocksdict.Rdict, path: Path, entries: dict[bytes, bytes]) -> None:
    """A file from outside: RocksDB keeps the sequence number of its entries in the MANIFEST alone."""
    writer = rocksdict.SstFileWriter(options=table_options_of())
    writer.open(str(path))
    for key, value in sorted(entries.items()):
        writer[key] = value
    writer.finish()
    store.ingest_external_file([str(path)])


def test_a_deletion_in_an_old_wal_does_not_hide_what_was_compacted_behind_it(tmp_path: Path) -> None:
    """The files have lost the sequence numbers that would tell which is the newer one."""
    store = compacted(tmp_path / "open")
    # The WAL lives on for the other family's sake.
    other = store.create_column_family("other", table_options_of())
    other[b"unflushed"] = b"entry"
    for number in range(0, KEYS, 100):
        del store[key_of(number)]
        store[key_of(number)] = b"again" + VALUE
        del store[key_of(number + 1)]
    store.flush()
    store.compact_range(None, None)
    store[key_of(LATER)] = b"in the memtable"
    del store[key_of(LATER + 2)]
    copy_open_store(store, tmp_path / "open", tmp_path / "source")
    del other
    store.close()
    check_moved(tmp_path / "source", tmp_path / "copy")
    found = read_store(tmp_path / "copy")["default"]
    assert found[key_of(0)] == b"again" + VALUE
    assert key_of(1) not in found
    assert key_of(LATER + 2) not in found


@pytest.mark.parametrize("newest", ["put", "deletion"])
def test_a_file_from_outside_stands_over_what_is_older(tmp_path: Path, newest: str) -> None:
    store = compacted(tmp_path / "source")
    for number in range(0, KEYS, 100):
        store[key_of(number)] = b"older"
        del store[key_of(number + 1)]
    store.flush()
    keys = [key_of(number + more) for number in range(0, KEYS, 100) for more in (0, 1, 2)]
    ingest(store, tmp_path / "outside.sst", dict.fromkeys(keys, b"newer"))
    if newest == "deletion":
        for number in range(0, KEYS, 200):
            del store[key_of(number)]
        store.flush()
    store.close()
    check_moved(tmp_path / "source", tmp_path / "copy")
    found = read_store(tmp_path / "copy")["default"]
    assert found[key_of(100)] == found[key_of(1)] == found[key_of(2)] == b"newer"
    assert (key_of(0) in found) == (newest == "put")


def test_a_copy_is_moved_by_its_files_again(tmp_path: Path) -> None:
    """What a job built over the files it moved stands there as a file from outside."""
    store = compacted(tmp_path / "source")
    for number in range(0, KEYS, 50):
        store[key_of(number)] = b"overwritten"
        del store[key_of(number + 1)]
    store.flush()
    store.close()
    check_moved(tmp_path / "source", tmp_path / "copy")
    copy = rocksdict.Rdict(str(tmp_path / "copy"), table_options_of())
    for number in range(0, KEYS, 100):
        del copy[key_of(number)]
        copy[key_of(number + 1)] = b"back"
    copy.flush()
    copy.close()
    check_moved(tmp_path / "copy", tmp_path / "again")


def test_wide_columns_in_the_files_and_over_them(tmp_path: Path) -> None:
    store = rocksdict.Rdict(str(tmp_path / "open"), table_options_of())
    for first in (0, 1):
        for number in range(first, KEYS, 2):
            store.put_entity(key_of(number), values=[b"", b"more"], names=[b"", b"column"])
            store[key_of(number) + b"-plain"] = VALUE
        store.flush()
    store.compact_range(None, None)
    for number in range(0, KEYS, 50):
        store.put_entity(key_of(number), values=[b"new"], names=[b"flushed"])
        store[key_of(number + 1)] = b"plain now"
    store.flush()
    for number in range(0, KEYS, 100):
        store.put_entity(key_of(number) + b"-plain", values=[b"newer", b"w"], names=[b"", b"in the WAL"])
        del store[key_of(number + 2)]
    copy_open_store(store, tmp_path / "open", tmp_path / "source")
    store.close()
    plan, summary = migrate(tmp_path / "source", tmp_path / "copy")
    assert plan.files_grafted >= 5
    assert summary.entries == 2 * KEYS - KEYS // 100
    assert entities(tmp_path / "copy") == entities(tmp_path / "source")
    assert kvbatch.verify(tmp_path / "source", tmp_path / "copy").equal


def entities(path: Path) -> list[Any]:
    store = rocksdict.Rdict(str(path), raw_options(), access_type=rocksdict.AccessType.read_only())
    found = [(bytes(key), sorted(columns)) for key, columns in store.entities()]
    store.close()
    return found


def test_families_whose_ids_are_others_at_the_target(tmp_path: Path) -> None:
    store = compacted(tmp_path / "source")
    for name in ("dropped", "first", "second"):
        family = store.create_column_family(name, table_options_of())
        for first in (0, 1):
            for number in range(first, KEYS, 2):
                family[key_of(number)] = name.encode() + VALUE
            family.flush()
        family.compact_range(None, None)
        del family
    store.drop_column_family("dropped")
    store.close()
    check_moved(tmp_path / "source", tmp_path / "copy", column_families=("second",))
    check_moved(tmp_path / "source", tmp_path / "all", least=30)


def test_records_of_a_dropped_family_and_of_none_in_several_wals(tmp_path: Path) -> None:
    store = compacted(tmp_path / "open")
    dropped = store.create_column_family("dropped", table_options_of())
    other = store.create_column_family("other", table_options_of())
    other[b"unflushed"] = b"entry"
    for number in range(100):
        dropped[key_of(number)] = b"gone"
        del dropped[key_of(number)]
    for part in range(3):
        del store[key_of(part)]
        store[key_of(10 + part)] = b"part %d" % part
        store.write(rocksdict.WriteBatch(raw_mode=True))
        if part < 2:
            # Begins another WAL.
            store.flush()
    del dropped
    store.drop_column_family("dropped")
    copy_open_store(store, tmp_path / "open", tmp_path / "source")
    del other
    store.close()
    assert len(list((tmp_path / "source").glob("*.log"))) >= 3
    check_moved(tmp_path / "source", tmp_path / "copy")
    assert kvbatch.verify(tmp_path / "source", tmp_path / "copy").equal


def test_the_empty_key_and_keys_equal_to_bounds(tmp_path: Path) -> None:
    store = rocksdict.Rdict(str(tmp_path / "source"), table_options_of())
    for first in (0, 1):
        for number in range(first, KEYS, 2):
            store[key_of(number) if number else b""] = VALUE
        store.flush()
    store.compact_range(None, None)
    store[b""] = b"overwritten"
    store[key_of(1)] = b"overwritten"
    store.flush()
    store.close()
    check_moved(tmp_path / "source", tmp_path / "copy")
    files = {
        part.file: part
        for part in kvbatch.plan(tmp_path / "source", tmp_path / "none", lane="sst", graft_bytes=1).ranges
        if part.file
    }
    third = sorted(part.start for part in files.values() if part.start)[2]
    everything = read_store(tmp_path / "source")["default"]
    for name, start, end in [("from", third, None), ("to", None, third), ("empty", b"", third), ("one", b"", b"\0")]:
        plan, summary = migrate(tmp_path / "source", tmp_path / name, key_range=kvbatch.KeyRange(start, end))
        found = read_store(tmp_path / name).get("default", {})
        assert found == {k: v for k, v in everything.items() if (start or b"") <= k and (end is None or k < end)}
        assert summary.entries == len(found)
        assert all(part.start is None or part.start != part.end for part in plan.ranges), "a range of nothing"


def test_a_bound_on_the_first_key_of_a_file_that_another_reaches_over(tmp_path: Path) -> None:
    store = compacted(tmp_path / "source")
    store[key_of(0)] = b"new"
    store[key_of(KEYS - 1)] = b"new"
    store.flush()
    store.close()
    ranges = kvbatch.plan(tmp_path / "source", tmp_path / "none", lane="sst", graft_bytes=1).ranges
    start = next(part.start for part in ranges if part.file and part.start is not None)
    plan, summary = migrate(tmp_path / "source", tmp_path / "copy", key_range=kvbatch.KeyRange(start, None))
    assert all(part.start != part.end for part in plan.ranges), "a range of nothing"
    found = read_store(tmp_path / "copy")["default"]
    assert found == {key: value for key, value in read_store(tmp_path / "source")["default"].items() if key >= start}
    assert summary.entries == len(found)
