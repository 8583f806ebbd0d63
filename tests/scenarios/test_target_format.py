"""A finished target is an ordinary store: an older RocksDB opens it, and nothing of kvbatch is left in it."""

from __future__ import annotations

from pathlib import Path

import rocksdict

import kvbatch
from support.places import Place
from support.stores import copy_open_store, need_rocksdb, numbered, raw_options, read_store, write_store
from support.tables import KEYS, compacted, key_of
from support.tools import (
    CRC32C,
    as_ldb_scan,
    ldb,
    ldb_families,
    ldb_scan,
    table_checksum,
    table_format_version,
    table_properties,
)

FAMILIES = {"default": {**numbered(1000), b"": b"empty key", b"\x00\xff": b""}, "second": numbered(20), "empty": {}}


def test_an_older_rocksdb_reads_every_family(tmp_path: Path, place: Place) -> None:
    source = write_store(tmp_path / "source", FAMILIES)
    kvbatch.migrate(source, place.endpoint()).wait()
    assert ldb_families(place.path()) == list(FAMILIES)
    for name, entries in FAMILIES.items():
        assert ldb_scan(place.path(), name) == as_ldb_scan(entries)
    assert f"Internal keys in range: {len(FAMILIES['default'])}" in ldb(place.path(), "idump", "--count_only")
    ldb(place.path(), "checkconsistency")


def test_an_older_rocksdb_reads_and_writes_over_files_of_the_source(tmp_path: Path, place: Place) -> None:
    """As far as it reads the format in which the source's program wrote them."""
    need_rocksdb((9, 10), "ingest files that a database wrote")
    store = compacted(tmp_path / "open", format_version=5)
    assert {table_format_version(file) for file in (tmp_path / "open").glob("*.sst")} == {5}
    for number in range(0, KEYS, 40):
        store[key_of(number)] = b"overwritten"
        del store[key_of(number + 1)]
    copy_open_store(store, tmp_path / "open", tmp_path / "source")
    store.close()
    migration = kvbatch.migrate(tmp_path / "source", place.endpoint(), lane="sst", graft_bytes=1)
    assert migration.plan.files_grafted >= 10
    migration.wait()
    entries = read_store(tmp_path / "source")["default"]
    assert ldb_scan(place.path()) == as_ldb_scan(entries)
    ldb(place.path(), "--try_load_options=false", "put", "new", "1")
    ldb(place.path(), "--try_load_options=false", "compact")
    assert ldb_scan(place.path()) == as_ldb_scan({**entries, b"new": b"1"})


def test_an_older_rocksdb_writes_to_it(tmp_path: Path) -> None:
    source = write_store(tmp_path / "source", FAMILIES)
    kvbatch.migrate(source, tmp_path / "target").wait()
    ldb(tmp_path / "target", "--try_load_options=false", "put", "new", "1")
    ldb(tmp_path / "target", "--try_load_options=false", "compact")
    assert ldb_scan(tmp_path / "target") == as_ldb_scan({**FAMILIES["default"], b"new": b"1"})


def test_only_store_files_are_left(tmp_path: Path, place: Place) -> None:
    source = write_store(tmp_path / "source", FAMILIES)
    kvbatch.migrate(source, place.endpoint()).wait()
    names = {entry.name for entry in place.path().iterdir()}
    assert not {name for name in names if "kvbatch" in name}
    assert "__kvbatch__" not in rocksdict.Rdict.list_cf(str(place.path()), raw_options())
    kinds = {name.split("-")[0] if "-" in name else name.split(".")[-1] for name in names}
    assert kinds <= {"CURRENT", "IDENTITY", "LOCK", "LOG", "MANIFEST", "OPTIONS", "log", "sst"}


def test_base_data_stands_in_bottom_files_of_format_5_without_deletes(tmp_path: Path, place: Place) -> None:
    """Files of at most the size asked for; no debt of deletes, overwrites or overlapping levels is copied along."""
    source = write_store(tmp_path / "source", {"default": numbered(20_000)})
    kvbatch.migrate(
        source, place.endpoint(), sst_file_bytes="64KiB", batch_bytes="16KiB", target_compression="none"
    ).wait()
    files = sorted(place.path().glob("*.sst"))
    assert len(files) > 2
    assert {table_format_version(file) for file in files} == {5}
    assert {table_checksum(file) for file in files} == {CRC32C}
    properties = [table_properties(file) for file in files]
    assert sum(int(each["# entries"]) for each in properties) == 20_000
    assert {each["# deletions"] for each in properties} == {"0"}
    store = rocksdict.Rdict(str(place.path()), raw_options(), access_type=rocksdict.AccessType.read_only())
    assert {file["level"] for file in store.live_files()} == {6}
    store.close()
