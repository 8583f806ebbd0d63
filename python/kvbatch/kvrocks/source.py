"""What of a Kvrocks directory a running server is sent."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from kvbatch._core.store import SourceStore
from kvbatch.kvrocks.keys import KEYED_FAMILIES
from kvbatch.kvrocks.layout import require_layout
from kvbatch.kvrocks.selection import find_selection, key_ranges, listed, selected_namespaces
from kvbatch.kvrocks.slots import Slots
from kvbatch.options import SourceOptions
from kvbatch.ranges import KeyRange, Range, Selection

__all__ = ["KvrocksSource", "read_source", "server_ranges"]


@dataclass(frozen=True, slots=True)
class KvrocksSource:
    """`selection` of the keys of `families`: those of `namespaces`, and of these the ones of `slots` (None: all).
    `slot_encoded`: None where there are no keys. `left_out`: column families with entries that are not sent."""

    slot_encoded: bool | None
    families: tuple[str, ...]
    selection: Selection
    namespaces: tuple[bytes, ...]
    slots: Slots | None
    left_out: tuple[str, ...]

    @property
    def key_ranges(self) -> list[KeyRange]:
        """Where a server that is overwritten keeps nothing of its own, in each of KEYED_FAMILIES."""
        return key_ranges(self.namespaces, self.slots)

    def __str__(self) -> str:
        namespaces = f"{'namespace' if len(self.namespaces) == 1 else 'namespaces'} {listed(self.namespaces)}"
        return namespaces if self.slots is None else f"slots {self.slots} of {namespaces}"


def read_source(store: SourceStore, options: SourceOptions) -> KvrocksSource:
    """What `options`, which choose no column families, select of a store that has all of its families open. Raises
    RefusedError where it is no Kvrocks directory, and what find_selection does."""
    layout = require_layout(store)
    families = tuple(name for name in KEYED_FAMILIES if name in layout.families)
    left_out = (name for name in layout.families if name not in families)
    return KvrocksSource(
        layout.slot_encoded,
        families,
        find_selection(store, options.model_copy(update={"column_families": families})),
        tuple(selected_namespaces(store, options)),
        options.slots,
        tuple(name for name in left_out if store.first_and_last_key(name) is not None),
    )


def server_ranges(ranges: list[Range], source: KvrocksSource) -> tuple[Range, ...]:
    """Those of the column families that are sent, in the order in which they are: a subkey that is there before its
    metadata is garbage, which the server's compactions remove."""
    sent = [part for name in source.families for part in ranges if part.column_family == name]
    return tuple(dataclasses.replace(part, id=number) for number, part in enumerate(sent))
