"""What of a Kvrocks directory a server is sent."""

from __future__ import annotations

from pathlib import Path

from kvbatch._core.store import SourceStore
from kvbatch.kvrocks.keys import FAMILIES, KEYED_FAMILIES, namespace_prefix, subkey_prefix
from kvbatch.kvrocks.source import read_source, server_ranges
from kvbatch.options import MigrationOptions
from kvbatch.ranges import Range
from support.stores import write_store

OPTIONS = MigrationOptions()
STRING = b"\x81" + bytes(8) + b"x"


def make(path: Path, **families: dict[bytes, bytes]) -> SourceStore:
    return SourceStore(str(write_store(path, {name: families.get(name, {}) for name in FAMILIES})))


def test_namespaces_are_found_in_every_family_wherever_they_sort(tmp_path: Path) -> None:
    names = [b"", b"a", b"b", b"\xff", b"ab", b"__namespace", b"x" * 255]
    metadata = {namespace_prefix(name) + key: STRING for name in names for key in (b"", b"k", b"\xff\xff")}
    # Garbage alone, and a key that ends within its namespace.
    default = {subkey_prefix(b"gone", b"key", 1, False) + b"f": b"1"}
    store = make(tmp_path / "source", metadata=metadata, default=default, stream={b"\x05ab": b""})
    source = read_source(store, OPTIONS)
    assert source.namespaces == tuple(sorted([*names, b"gone"], key=namespace_prefix))
    assert (source.slot_encoded, source.families, source.left_out) == (False, KEYED_FAMILIES, ())


def test_an_empty_directory_is_of_either_kind(tmp_path: Path) -> None:
    source = read_source(make(tmp_path / "source"), OPTIONS)
    assert (source.slot_encoded, source.namespaces) == (None, ())


def test_what_is_not_sent_is_named_where_it_holds_something(tmp_path: Path) -> None:
    store = make(tmp_path / "source", propagate={b"lua_f_x": b""}, search={b"\x01a\x00": b""})
    assert read_source(store, OPTIONS).left_out == ("propagate", "search")


def test_ranges_are_sent_metadata_first_and_numbered_anew(tmp_path: Path) -> None:
    ranges = [
        Range(number, name, None, None)
        for number, name in enumerate(["default", "default", "metadata", "pubsub", "stream", "metadata"])
    ]
    sent = server_ranges(ranges, read_source(make(tmp_path / "source"), OPTIONS))
    assert [(part.id, part.column_family) for part in sent] == [
        (0, "metadata"),
        (1, "metadata"),
        (2, "default"),
        (3, "default"),
        (4, "stream"),
    ]
