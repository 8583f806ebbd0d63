"""What of a Kvrocks directory a running server is sent."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from kvbatch._core.store import SourceStore
from kvbatch.kvrocks.keys import KEYED_FAMILIES
from kvbatch.kvrocks.layout import require_layout
from kvbatch.kvrocks.selection import find_namespaces
from kvbatch.ranges import Range

__all__ = ["KvrocksSource", "read_source", "server_ranges"]


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
    left_out = (name for name in layout.families if name not in families)
    return KvrocksSource(
        layout.slot_encoded,
        families,
        tuple(find_namespaces(store)),
        tuple(name for name in left_out if store.first_and_last_key(name) is not None),
    )


def server_ranges(ranges: list[Range], source: KvrocksSource) -> tuple[Range, ...]:
    """Those of the column families that are sent, in the order in which they are: a subkey that is there before its
    metadata is garbage, which the server's compactions remove."""
    sent = [part for name in source.families for part in ranges if part.column_family == name]
    return tuple(dataclasses.replace(part, id=number) for number, part in enumerate(sent))
