"""Stores that consist of many small SST files which can be moved as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import rocksdict

from support.stores import raw_options

__all__ = ["KEYS", "VALUE", "compacted", "key_of", "table_options_of", "write_in_last_level"]

KEYS = 4000
VALUE = bytes(range(256)) * 2


def key_of(number: int) -> bytes:
    return b"key-%06d" % number


def table_options_of(file_bytes: int = 128 << 10, format_version: int | None = None) -> rocksdict.Options:
    """The version is what rocksdict takes by itself unless it is given."""
    options = raw_options()
    if format_version is not None:
        table = rocksdict.BlockBasedOptions()
        table.set_format_version(format_version)
        options.set_block_based_table_factory(table)
    options.set_compression_type(rocksdict.DBCompressionType.none())
    options.set_target_file_size_base(file_bytes)
    options.set_disable_auto_compactions(True)
    return options


def compacted(path: Path, *, file_bytes: int = 128 << 10, format_version: int | None = None) -> rocksdict.Rdict:
    """A store with two dozen files in its last level, all of its sequence numbers 0; still open."""
    store = rocksdict.Rdict(str(path), table_options_of(file_bytes, format_version))
    write_in_last_level(store, {key_of(number): b"%d" % number + VALUE for number in range(KEYS)})
    return store


def write_in_last_level(family: rocksdict.Rdict, entries: Mapping[bytes, bytes]) -> None:
    """Into files whose sequence numbers are all 0."""
    keys = list(entries)
    # Two files that overlap, so that they are merged and not just moved, which leaves sequence numbers alone.
    for some in (keys[::2], keys[1::2]):
        for key in some:
            family[key] = entries[key]
        family.flush()
    family.compact_range(None, None)
