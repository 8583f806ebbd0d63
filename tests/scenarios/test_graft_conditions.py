"""What cannot be moved as a file of the source, or has the wrong things over it, is read; its neighbours are not."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import rocksdict

import kvbatch
from kvbatch._core.store import SourceStore, TableFile
from support.capi_store import Operation, run_store_script
from support.places import Place
from support.stores import copy_open_store, need_rocksdb, read_store
from support.tables import KEYS, VALUE, compacted, key_of, table_options_of, write_in_last_level


@pytest.fixture(autouse=True, scope="module")
def _grafting() -> None:
    need_rocksdb((9, 10), "ingest files that a database wrote")


def tables_of(source: Path, family: str = "default") -> list[TableFile]:
    return SourceStore(str(source)).tables(family)


def migrate(source: Path, place: Place, **more: Any) -> kvbatch.Plan:
    migration = kvbatch.migrate(source, place.endpoint(), graft_bytes=1, lane="sst", **more)
    migration.wait()
    return migration.plan


def grafted_names(plan: kvbatch.Plan) -> set[str]:
    return {part.file for part in plan.ranges if part.file}


def names(tables: Collection[TableFile]) -> set[str]:
    return {table.name for table in tables}


# -- merge operands ---------------------------------------------------------------------------------------------------

NUMBERS = 2000
MERGED = range(1000, 1100, 10)


def number_of(value: int) -> bytes:
    return value.to_bytes(8, "little")


def counters(path: Path, *, flush: bool) -> dict[bytes, bytes]:
    """Compacted counters, some of them added to since; returns what they come to. `flush`: not in the WAL alone."""
    # Two files that overlap, so that they are merged and not just moved, which leaves sequence numbers alone.
    operations: list[Operation] = []
    for first in (0, 1):
        operations += [("put", key_of(number), number_of(number)) for number in range(first, NUMBERS, 2)]
        operations.append(("flush", b"", b""))
    operations.append(("compact", b"", b""))
    operations += [("merge", key_of(number), number_of(7)) for number in MERGED]
    run_store_script(path, operations, merge_operator="uint64add", file_bytes=4 << 10, flush=flush)
    return {key_of(number): number_of(number + 7 * (number in MERGED)) for number in range(NUMBERS)}


def test_files_under_merge_operands_are_read(tmp_path: Path, place: Place) -> None:
    expected = counters(tmp_path / "source", flush=True)
    over = [table for table in tables_of(tmp_path / "source") if not table.plain]
    assert [(table.smallest, table.largest) for table in over] == [(key_of(MERGED[0]), key_of(MERGED[-1]))]
    clear = [
        table
        for table in tables_of(tmp_path / "source")
        if table.graftable and (table.largest < key_of(MERGED[0]) or table.smallest > key_of(MERGED[-1]))
    ]
    assert len(clear) >= 5
    plan = migrate(tmp_path / "source", place)
    assert grafted_names(plan) == names(clear)
    assert kvbatch.verify(tmp_path / "source", place.endpoint()).equal
    assert run_store_script(place.path(), merge_operator="uint64add") == list(expected.items())


def test_nothing_is_grafted_where_merge_operands_stand_in_the_wal(tmp_path: Path, place: Place) -> None:
    expected = counters(tmp_path / "source", flush=False)
    assert all(table.graftable for table in tables_of(tmp_path / "source"))
    plan = migrate(tmp_path / "source", place)
    assert plan.files_grafted == 0
    assert kvbatch.verify(tmp_path / "source", place.endpoint()).equal
    assert run_store_script(place.path(), merge_operator="uint64add") == list(expected.items())


# -- blob files -------------------------------------------------------------------------------------------------------


def blob_options() -> rocksdict.Options:
    options = table_options_of(16 << 10)
    options.set_enable_blob_files(True)
    options.set_min_blob_size(1000)
    return options


def test_files_with_references_to_blob_files_are_read(tmp_path: Path, place: Place) -> None:
    first_small = KEYS // 2
    store = rocksdict.Rdict(str(tmp_path / "source"), blob_options())
    entries = {key_of(number): VALUE * (2 if number < first_small else 1) for number in range(KEYS)}
    write_in_last_level(store, entries)
    store.close()
    assert list((tmp_path / "source").glob("*.blob"))
    small = [table for table in tables_of(tmp_path / "source") if table.smallest >= key_of(first_small)]
    large = [table for table in tables_of(tmp_path / "source") if table.smallest < key_of(first_small)]
    assert min(len(small), len(large)) >= 3
    plan = migrate(tmp_path / "source", place)
    assert grafted_names(plan) == names(small)
    assert read_store(place.path()) == {"default": entries}


def test_files_under_references_to_blob_files_are_read(tmp_path: Path, place: Place) -> None:
    store = compacted(tmp_path / "source")
    store.set_options({"enable_blob_files": "true", "min_blob_size": "1000"})
    low, high = key_of(KEYS // 2), key_of(KEYS // 2 + 10)
    store[low] = store[high] = VALUE * 2
    store.flush()
    store.close()
    assert list((tmp_path / "source").glob("*.blob"))
    clear = [
        table
        for table in tables_of(tmp_path / "source")
        if table.graftable and (table.largest < low or table.smallest > high)
    ]
    assert len(clear) >= 10
    plan = migrate(tmp_path / "source", place)
    assert grafted_names(plan) == names(clear)
    assert read_store(place.path()) == read_store(tmp_path / "source")


# -- what is worth it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "grafted"), [(0.27, True), (0.4, False)], ids=["less than a third", "more than a third"]
)
@pytest.mark.parametrize("where", ["in files", "in the WAL"])
def test_a_file_with_more_than_a_third_of_its_bytes_over_it_is_read(
    tmp_path: Path, place: Place, share: float, grafted: bool, where: str
) -> None:
    store = compacted(tmp_path / "open")
    tables = tables_of(copied(store, tmp_path / "open", tmp_path / "before"))
    table = tables[len(tables) // 2]
    inside = [key for key in map(key_of, range(KEYS)) if table.smallest <= key <= table.largest]
    # Few, for RocksDB counts a memtable's entries roughly once they are many.
    for key in inside[10:30]:
        store[key] = bytes(int(share * table.file_bytes / 20))
    if where == "in files":
        store.flush()
    plan = migrate(copied(store, tmp_path / "open", tmp_path / "source"), place)
    store.close()
    assert grafted_names(plan) == names(tables) - (set() if grafted else {table.name})
    assert read_store(place.path()) == read_store(tmp_path / "source")


def copied(store: rocksdict.Rdict, written: Path, path: Path) -> Path:
    copy_open_store(store, written, path)
    return path


# -- many families ----------------------------------------------------------------------------------------------------


def test_forty_families_with_a_file_each(tmp_path: Path, place: Place) -> None:
    expected = {f"family-{number}": {key_of(key): b"%d" % number + VALUE for key in range(20)} for number in range(40)}
    store = rocksdict.Rdict(str(tmp_path / "source"), table_options_of())
    for name, entries in expected.items():
        family = store.create_column_family(name, table_options_of())
        write_in_last_level(family, entries)
        del family
    store.close()
    plan = migrate(tmp_path / "source", place)
    assert sorted(part.column_family for part in plan.ranges if part.file) == sorted(expected)
    assert read_store(place.path()) == {"default": {}, **expected}
