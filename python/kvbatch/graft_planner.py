"""Which of a store's own SST files can be moved whole, and which spans between them are read entry by entry."""

from __future__ import annotations

import operator
from dataclasses import dataclass

from kvbatch._core.store import SourceStore, TableFile
from kvbatch.ranges import KeyRange

__all__ = ["Span", "plan_spans"]

# Reading what lies over a file costs about as much an entry as reading all of it; above this share of the file's bytes
# the whole span is read.
_MOST_OVERLAY = 1 / 3


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a column family: `table` moved whole, and about `overlay_bytes` of keys and values that lie over it; or
    read entry by entry (None)."""

    keys: KeyRange
    table: TableFile | None = None
    overlay_bytes: int = 0


class _Order:
    """Comparisons in the order of a column family."""

    def __init__(self, reverse: bool) -> None:
        self.before = operator.gt if reverse else operator.lt

    def inside(self, table: TableFile, keys: KeyRange) -> bool:
        return (keys.start is None or not self.before(table.smallest, keys.start)) and (
            keys.end is None or self.before(table.largest, keys.end)
        )

    def meets(self, table: TableFile, keys: KeyRange) -> bool:
        return (keys.start is None or not self.before(table.largest, keys.start)) and (
            keys.end is None or self.before(table.smallest, keys.end)
        )


def _disjoint(tables: list[TableFile], order: _Order) -> list[TableFile]:
    """Those of `tables`, in the order of their smallest keys, that overlap no other of them."""
    kept: list[TableFile] = []
    clashing = False
    for table in tables:
        if kept and not order.before(kept[-1].largest, table.smallest):
            clashing = True
            if order.before(kept[-1].largest, table.largest):
                kept[-1] = table
            continue
        if clashing:
            kept.pop()
        clashing = False
        kept.append(table)
    return kept[:-1] if clashing else kept


def plan_spans(
    store: SourceStore, family: str, keys: KeyRange, *, reverse: bool, least_bytes: int, memtable_entries: int
) -> list[Span]:
    """Cuts [keys.start, keys.end) into spans; together they are exactly that. Files smaller than `least_bytes` are not
    worth being moved by themselves."""
    order = _Order(reverse)
    met = [table for table in store.tables(family) if order.meets(table, keys)]
    wanted = [table for table in met if table.graftable and order.inside(table, keys)]
    grafts = [table for table in _disjoint(wanted, order) if table.file_bytes >= least_bytes]
    if not grafts:
        return [Span(keys)]
    names = {table.name for table in grafts}
    others = [table for table in met if table.name not in names]
    memtables_plain = store.memtables_are_plain(family)
    spans: list[Span] = []
    at = keys.start
    # Where no file begins before it, the first one's span reaches to the start.
    if at != grafts[0].smallest and any(order.before(table.smallest, grafts[0].smallest) for table in others):
        spans.append(Span(KeyRange(at, grafts[0].smallest)))
        at = grafts[0].smallest
    ahead = 0
    for table, following in zip(grafts, [*grafts[1:], None], strict=True):
        # Up to where the next file begins, so that what lies between two files belongs to one of the spans.
        while ahead < len(met) and not order.before(table.largest, met[ahead].smallest):
            ahead += 1
        end = met[ahead].smallest if ahead < len(met) else keys.end
        span = KeyRange(at, end)
        over = [other for other in others if order.meets(other, span)]
        bytes_over = _overlay_bytes(store, family, span, table) if over or memtable_entries else 0
        grafted = (
            all(other.plain for other in over) and memtables_plain and bytes_over <= _MOST_OVERLAY * table.file_bytes
        )
        # Estimates are of bytes in files; those above are taken to be compressed like this one.
        raw_over = bytes_over * table.raw_bytes // max(1, table.file_bytes)
        spans.append(Span(span, table, raw_over) if grafted else Span(span))
        at = end
        if following is not None and at != following.smallest:
            spans.append(Span(KeyRange(at, following.smallest)))
            at = following.smallest
    if not spans or at != keys.end:
        spans.append(Span(KeyRange(at, keys.end)))
    return _merged(spans)


def _overlay_bytes(store: SourceStore, family: str, keys: KeyRange, table: TableFile) -> int:
    """About what stands in the span besides the file."""
    start = table.smallest if keys.start is None else keys.start
    end = table.largest if keys.end is None else keys.end
    [stored] = store.approximate_sizes(family, start, [end])
    return max(0, stored - table.file_bytes)


def _merged(spans: list[Span]) -> list[Span]:
    """Spans that are read entry by entry and follow one another are one."""
    merged: list[Span] = []
    for span in spans:
        if merged and span.table is None and merged[-1].table is None:
            merged[-1] = Span(KeyRange(merged[-1].keys.start, span.keys.end))
        else:
            merged.append(span)
    return merged
