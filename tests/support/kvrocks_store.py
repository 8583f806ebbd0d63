"""Kvrocks directories: recorded ones, made-up ones with the table options that Kvrocks has, and parts of them."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import rocksdict

import kvbatch
from kvbatch import migration
from kvbatch._core.store import SourceStore
from kvbatch.kvrocks.keys import (
    DEFAULT_NAMESPACE,
    FAMILIES,
    KEYED_FAMILIES,
    METADATA,
    metadata_key,
    parse_metadata_key,
    parse_subkey,
    subkey_prefix,
)
from kvbatch.kvrocks.slots import SLOTS, parse_slots, slot_of
from support.stores import Families, raw_options

__all__ = ["ALL_SLOTS", "bytes_read_of", "filtered", "unpack", "write_kvrocks_store"]

ALL_SLOTS = f"0-{SLOTS - 1}"

_BATCH_ENTRIES = 5000
_VALUE_BYTES = 100
_STRING, _HASH = b"\x81", b"\x82"


def _options(file_bytes: int) -> rocksdict.Options:
    options = raw_options()
    table = rocksdict.BlockBasedOptions()
    table.set_format_version(5)
    table.set_block_size(16 << 10)
    table.set_index_type(rocksdict.BlockBasedIndexType.two_level_index_search())
    table.set_partition_filters(True)
    table.set_metadata_block_size(4096)
    table.set_bloom_filter(10, False)
    options.set_block_based_table_factory(table)
    options.set_compression_type(rocksdict.DBCompressionType.none())
    options.set_target_file_size_base(file_bytes)
    return options


def unpack(archive: Path, folder: Path) -> Path:
    """The RocksDB directory within a recorded one."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["tar", "--zstd", "-xf", archive, "-C", folder], check=True)
    [current] = folder.rglob("CURRENT")
    return current.parent


def write_kvrocks_store(
    path: Path,
    user_keys: int,
    *,
    slot_encoded: bool = True,
    namespaces: Iterable[bytes] = (DEFAULT_NAMESPACE,),
    families: Iterable[str] = FAMILIES,
    file_bytes: int = 64 << 20,
) -> Path:
    """A compacted one with so many user keys in each namespace, `user:0000000000` and on: three strings of 100 bytes,
    then a hash of two fields, and so on."""
    values = random.Random(1).randbytes(1 << 20)
    store = rocksdict.Rdict(str(path), _options(file_bytes))
    opened = {"default": store}
    for name in list(families)[1:]:
        opened[name] = store.create_column_family(name, _options(file_bytes))
    handles = {name: store.get_column_family_handle(name) for name in opened}
    batch = rocksdict.WriteBatch(raw_mode=True)
    for namespace in namespaces:
        for number in range(user_keys):
            key = b"user:%010d" % number
            at = number * 97 % (len(values) - _VALUE_BYTES)
            value = values[at : at + _VALUE_BYTES]
            head = metadata_key(namespace, key, slot_encoded)
            if number % 4 < 3:
                batch.put(head, _STRING + bytes(8) + value, handles["metadata"])
            else:
                size = (2).to_bytes(8, "big")
                batch.put(head, _HASH + bytes(8) + number.to_bytes(8, "big") + size, handles["metadata"])
                fields = subkey_prefix(namespace, key, number, slot_encoded)
                batch.put(fields + b"mail", value, handles["default"])
                batch.put(fields + b"name", value[::-1], handles["default"])
            if batch.len() >= _BATCH_ENTRIES:
                store.write(batch)
                batch = rocksdict.WriteBatch(raw_mode=True)
    store.write(batch)
    compact = rocksdict.CompactOptions()
    # A file that nothing overlaps would be moved down as it is.
    compact.set_bottommost_level_compaction(rocksdict.BottommostLevelCompaction.force())
    for family in opened.values():
        family.flush()
        family.compact_range(None, None, compact)
    del family
    opened.clear()
    store.close()
    return path


def bytes_read_of(source: Path, target: Path, **options: Any) -> int:
    """What a migration reads of its source's files, as the source counts it: to plan the job, and to move it."""
    opened: list[SourceStore] = []

    def keep(*arguments: Any) -> SourceStore:
        opened.append(open_source(*arguments))
        return opened[0]

    open_source = migration.open_source
    with mock.patch.object(migration, "open_source", keep):
        kvbatch.migrate(source, target, **options).wait()
    return opened[0].bytes_read


def filtered(store: Families, slot_encoded: bool, slots: str | None = None, namespace: str | None = None) -> Families:
    """What is selected, key by key: a slot is computed from the user key."""
    wanted = parse_slots(slots or ALL_SLOTS)

    def belongs(family: str, key: bytes) -> bool:
        if family == "search":
            return slots is None and parse_metadata_key(key, slot_encoded=False).namespace.decode() == namespace
        if family not in KEYED_FAMILIES:
            return False
        parsed = (parse_metadata_key if family == METADATA else parse_subkey)(key, slot_encoded)
        of_namespace = namespace is None or parsed.namespace.decode() == namespace
        return of_namespace and slot_of(parsed.user_key) in wanted

    return {
        family: {key: value for key, value in entries.items() if belongs(family, key)}
        for family, entries in store.items()
    }
