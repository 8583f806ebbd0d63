"""Sources as other RocksDB versions and options leave them, read back by RocksDBs that are not ours."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import rocksdict

import kvbatch
from support.capi_store import REVERSE_BYTEWISE, run_store_script
from support.places import Place
from support.stores import Families, need_rocksdb, numbered, raw_options, read_store, table_options, write_store
from support.tools import as_ldb_scan, ldb_scan, table_format_version, table_properties

Setting = Callable[[rocksdict.Options], None]


def _table(setting: Callable[[rocksdict.BlockBasedOptions], None]) -> Setting:
    def apply(options: rocksdict.Options) -> None:
        table = table_options()
        setting(table)
        options.set_block_based_table_factory(table)

    return apply


def _blobs(options: rocksdict.Options) -> None:
    options.set_enable_blob_files(True)
    options.set_min_blob_size(100)
    options.set_blob_compression_type(rocksdict.DBCompressionType.zstd())


def _two_levels_of_compression(options: rocksdict.Options) -> None:
    options.set_compression_type(rocksdict.DBCompressionType.none())
    options.set_bottommost_compression_type(rocksdict.DBCompressionType.zstd())


def _format(version: int) -> Setting:
    return _table(lambda table: table.set_format_version(version))


def _compression(name: str) -> Setting:
    return lambda options: options.set_compression_type(getattr(rocksdict.DBCompressionType, name)())


def _checksum(name: str) -> Setting:
    return _table(lambda table: table.set_checksum_type(getattr(rocksdict.ChecksumType, name)()))


def _one_level(options: rocksdict.Options) -> None:
    options.set_num_levels(1)
    options.set_compaction_style(rocksdict.DBCompactionStyle.universal())


SETTINGS: dict[str, Setting] = {
    **{f"table format {version}": _format(version) for version in (2, 3, 4, 5, 6)},
    **{f"compression {name}": _compression(name) for name in ("none", "snappy", "zlib", "bz2", "lz4", "lz4hc", "zstd")},
    **{f"checksum {name}": _checksum(name) for name in ("no_checksum", "crc32c", "xxhash", "xxhash64", "xxh3")},
    "blob files": _blobs,
    "compression by level": _two_levels_of_compression,
    "partitioned index": _table(lambda t: t.set_index_type(rocksdict.BlockBasedIndexType.two_level_index_search())),
    "bloom filter": _table(lambda t: t.set_bloom_filter(10, False)),
    "hash index in data blocks": _table(
        lambda t: t.set_data_block_index_type(rocksdict.DataBlockIndexType.binary_and_hash())
    ),
    "prefix extractor": lambda o: o.set_prefix_extractor(rocksdict.SliceTransform.create_fixed_prefix(4)),
    "universal compaction": lambda o: o.set_compaction_style(rocksdict.DBCompactionStyle.universal()),
    "one level": _one_level,
    "atomic flush": lambda o: o.set_atomic_flush(True),
}


def _options(name: str) -> rocksdict.Options:
    if name == "table format 6":
        need_rocksdb((8, 6), "read table format 6")
    options = raw_options()
    SETTINGS[name](options)
    return options


def _entries() -> dict[bytes, bytes]:
    """Small and large values, compressible and not."""
    random_ = random.Random(7)
    large = {f"large-{n:03}".encode(): random_.randbytes(3000) for n in range(60)}
    return {**numbered(2000), **large, **{f"text-{n:03}".encode(): b"abc" * n for n in range(200)}}


def check_content(target: Path, families: Families) -> None:
    """By an older RocksDB, and by a newer one."""
    for name, entries in families.items():
        assert ldb_scan(target, name) == as_ldb_scan(entries)
    # rocksdict's zlib cannot inflate what other RocksDBs deflate, ldb's own files included.
    if not any(table_properties(file)["SST file compression algo"] == "Zlib" for file in target.glob("*.sst")):
        assert read_store(target) == families


@pytest.mark.parametrize("name", SETTINGS)
def test_source_with_setting_comes_out_equal(tmp_path: Path, name: str) -> None:
    options = _options(name)
    families = {"default": _entries(), "other": numbered(300)}
    source = write_store(tmp_path / "source", families, options=options)
    if name.startswith("table format"):
        versions = {table_format_version(file) for file in source.glob("*.sst")}
        assert versions == {int(name.split()[-1])}, "the source is not what the test is about"
    if name == "blob files":
        assert list(source.glob("*.blob")), "the source is not what the test is about"
    kvbatch.migrate(source, tmp_path / "target", batch_bytes="16KiB").wait()
    check_content(tmp_path / "target", families)
    assert kvbatch.verify(str(source), str(tmp_path / "target")).equal


@pytest.mark.parametrize("name", ["table format 2", "table format 6", "compression zstd", "blob files"])
def test_target_files_are_of_format_5_without_blobs(tmp_path: Path, place: Place, name: str) -> None:
    options = _options(name)
    source = write_store(tmp_path / "source", {"default": _entries(), "other": numbered(300)}, options=options)
    kvbatch.migrate(source, place.endpoint()).wait()
    files = list(place.path().glob("*.sst"))
    assert {table_format_version(file) for file in files} == {5}
    assert sum(int(table_properties(file)["# entries"]) for file in files) == len(_entries()) + 300
    assert not list(place.path().glob("*.blob"))


@pytest.mark.parametrize(
    ("compression", "shown"),
    [("none", "NoCompression"), ("lz4", "LZ4"), ("zstd", "ZSTD"), ("snappy", "Snappy"), ("zlib", "Zlib")],
)
def test_target_compression_is_the_sources_or_the_one_asked_for(tmp_path: Path, compression: str, shown: str) -> None:
    options = raw_options()
    options.set_compression_type(getattr(rocksdict.DBCompressionType, compression)())
    source = write_store(tmp_path / "source", {"default": _entries()}, options=options)
    plain = write_store(tmp_path / "plain", {"default": _entries()})
    kvbatch.migrate(source, tmp_path / "followed").wait()
    kvbatch.migrate(plain, tmp_path / "asked", target_compression=compression).wait()
    for target in (tmp_path / "followed", tmp_path / "asked"):
        used = {table_properties(file)["SST file compression algo"] for file in target.glob("*.sst")}
        assert used == {shown}
        check_content(target, {"default": _entries()})


def test_wide_column_entities_stay_entities(tmp_path: Path, place: Place) -> None:
    need_rocksdb((9, 0), "write files with entities")
    entities = {
        f"entity-{n:03}".encode(): [(b"", b"of default"), (b"a", b"1" * n), (b"name", str(n).encode())]
        for n in range(200)
    }
    store = rocksdict.Rdict(str(tmp_path / "source"), raw_options())
    for key, columns in entities.items():
        store.put_entity(key, [name for name, _ in columns], [value for _, value in columns])
    store[b"plain"] = b"value"
    store.close()
    kvbatch.migrate(tmp_path / "source", place.endpoint()).wait()
    copied = rocksdict.Rdict(str(place.path()), raw_options(), access_type=rocksdict.AccessType.read_only())
    assert dict(copied.entities()) == {**entities, b"plain": [(b"", b"value")]}
    copied.close()
    assert kvbatch.verify(str(tmp_path / "source"), place.endpoint()).equal


def test_an_entity_is_not_equal_to_its_default_column(tmp_path: Path) -> None:
    with_columns = rocksdict.Rdict(str(tmp_path / "source"), raw_options())
    with_columns.put_entity(b"key", [b"", b"more"], [b"value", b"1"])
    with_columns.close()
    write_store(tmp_path / "target", {"default": {b"key": b"value"}})
    report = kvbatch.verify(str(tmp_path / "source"), str(tmp_path / "target"))
    assert not report.equal
    assert report.keys_different == 1


def test_reverse_order_is_kept(tmp_path: Path, place: Place) -> None:
    entries = {f"key-{n:05}".encode(): f"value-{n}".encode() * 20 for n in range(3000)}
    entries |= {b"": b"empty", b"\xff" * 3: b"high"}
    run_store_script(
        tmp_path / "source", [("put", key, value) for key, value in entries.items()], comparator=REVERSE_BYTEWISE
    )
    summary = kvbatch.migrate(
        tmp_path / "source", place.endpoint(), range_bytes="64KiB", sst_file_bytes="32KiB", batch_bytes="4KiB"
    ).wait()
    assert summary.ranges > 2, "one range would not show whether boundaries are in the right order"
    assert run_store_script(place.path(), comparator=REVERSE_BYTEWISE) == sorted(entries.items(), reverse=True)
    assert kvbatch.verify(str(tmp_path / "source"), place.endpoint()).equal


def test_known_merge_operator_is_applied_and_kept(tmp_path: Path, place: Place) -> None:
    def number(value: int) -> bytes:
        return value.to_bytes(8, "little")

    operations = [("put", b"both", number(100)), ("merge", b"both", number(5)), ("merge", b"both", number(7))]
    operations += [("merge", f"only-{n:03}".encode(), number(n)) for n in range(200) for _ in range(2)]
    run_store_script(tmp_path / "source", operations, merge_operator="uint64add")
    expected = [(b"both", number(112)), *((f"only-{n:03}".encode(), number(2 * n)) for n in range(200))]
    kvbatch.migrate(tmp_path / "source", place.endpoint()).wait()
    assert kvbatch.verify(str(tmp_path / "source"), place.endpoint()).equal
    # The copied store still merges: its owner opens it with the same operator and adds to what is there.
    run_store_script(place.path(), [("merge", b"both", number(1))], merge_operator="uint64add")
    found = run_store_script(place.path(), merge_operator="uint64add")
    assert found == [(b"both", number(113)), *expected[1:]]


def test_unknown_merge_operator_without_operands_is_no_obstacle(tmp_path: Path) -> None:
    run_store_script(
        tmp_path / "source", [("put", key, value) for key, value in numbered(50).items()], merge_operator="my.Merge"
    )
    kvbatch.migrate(tmp_path / "source", tmp_path / "target").wait()
    assert run_store_script(tmp_path / "target", merge_operator="my.Merge") == sorted(numbered(50).items())
