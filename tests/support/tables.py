"""Stores that consist of many small SST files which can be moved as they are."""

from __future__ import annotations

from pathlib import Path

import rocksdict

from support.stores import raw_options

__all__ = ["KEYS", "VALUE", "compacted", "key_of", "table_options_of"]

KEYS = 4000
VALUE = bytes(range(256)) * 2


def key_of(number: int) -> bytes:
    return b"key-%06d" % number


def table_options_of(file_bytes: int = 128 << 10) -> rocksdict.Options:
    options = raw_options()
    options.set_compression_type(rocksdict.DBCompressionType.none())
    options.set_target_file_size_base(file_bytes)
    options.set_disable_auto_compactions(True)
    return options


def compacted(path: Path, *, file_bytes: int = 128 << 10) -> rocksdict.Rdict:
    """A store with two dozen files in its last level, all of its sequence numbers 0; still open."""
    store = rocksdict.Rdict(str(path), table_options_of(file_bytes))
    # Two files that overlap, so that they are merged and not just moved, which leaves sequence numbers alone.
    for first in (0, 1):
        for number in range(first, KEYS, 2):
            store[key_of(number)] = b"%d" % number + VALUE
        store.flush()
    store.compact_range(None, None)
    return store
