"""What of a Kvrocks directory a running server is sent."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from kvbatch._core.store import SourceStore
from kvbatch.kvrocks.keys import KEYED_FAMILIES, namespace_prefix
from kvbatch.kvrocks.layout import require_layout
from kvbatch.ranges import Range

__all__ = ["KvrocksSource", "prefix_end", "read_source", "server_ranges"]


@dataclass(frozen=True, slots=True)
class KvrocksSource:
    """`slot_encoded`: None where there are no keys. `left_out`: column families with entries that are not sent."""

    slot_encoded: bool | None
    families: tuple[str, ...]
    namespaces: tuple[bytes, ...]
    left_out: tuple[str, ...]


def read_source(store: SourceStore) -> KvrocksSource:
    """`store` has all of its families open. Raises RefusedError where it is no Kvrocks directory, SourceError."""
    layout = require_layout(store)
    families = tuple(name for name in KEYED_FAMILIES if name in layout.families)
    namespaces = {namespace for name in families for namespace in _namespaces(store, name)}
    left_out = (name for name in layout.families if name not in families)
    return KvrocksSource(
        layout.slot_encoded,
        families,
        tuple(sorted(namespaces, key=namespace_prefix)),
        tuple(name for name in left_out if store.first_and_last_key(name) is not None),
    )


def _namespaces(store: SourceStore, family: str) -> list[bytes]:
    """By a seek for each of them. A key that is cut within its namespace belongs to none."""
    found = []
    key = store.seek(family, b"")
    while key is not None:
        length = key[0] if key else 0
        prefix = key[: 1 + length]
        if key and len(prefix) == 1 + length:
            found.append(prefix[1:])
        key = store.seek(family, prefix_end(prefix))
    return found


def prefix_end(prefix: bytes) -> bytes:
    """What sorts behind all keys that begin with `prefix` and before all others that sort behind it. Where there is
    no such bytes, `prefix` with a byte more than any namespace has."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b"\xff" * 257


def server_ranges(ranges: list[Range], source: KvrocksSource) -> tuple[Range, ...]:
    """Those of the column families that are sent, in the order in which they are: a subkey that is there before its
    metadata is garbage, which the server's compactions remove."""
    sent = [part for name in source.families for part in ranges if part.column_family == name]
    return tuple(dataclasses.replace(part, id=number) for number, part in enumerate(sent))
