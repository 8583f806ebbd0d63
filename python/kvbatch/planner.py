"""The planner: cuts the selected column families into ranges of about equal size whose bounds are real keys."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace

from kvbatch._core.store import ColumnFamilyDescription, SourceStore
from kvbatch.errors import UsageError
from kvbatch.graft_planner import Span, plan_spans
from kvbatch.ranges import REVERSE_COMPARATOR, KeyRange, Range, Selection

__all__ = ["RangeSizes", "middle_key", "plan_ranges"]

# Bytes of a key behind the common prefix that take part in the search for a boundary.
_SEARCH_BYTES = 16
# A larger key is no boundary.
_MAX_BOUND_BYTES = 64 << 10
# A cut may be off by one part in so many of a piece.
_TOLERANCE = 64


@dataclass(frozen=True, slots=True)
class _KeySpace:
    """Keys between two others as integers: the common prefix dropped, the next bytes big-endian."""

    prefix: bytes
    low: int
    high: int

    @staticmethod
    def between(first: bytes, last: bytes) -> _KeySpace:
        length = 0
        while length < min(len(first), len(last)) and first[length] == last[length]:
            length += 1

        def number(key: bytes) -> int:
            return int.from_bytes(key[length : length + _SEARCH_BYTES].ljust(_SEARCH_BYTES, b"\0"), "big")

        return _KeySpace(first[:length], number(first), number(last))

    def key(self, number: int) -> bytes:
        return self.prefix + number.to_bytes(_SEARCH_BYTES, "big").rstrip(b"\0")


def _boundaries(store: SourceStore, family: str, first: bytes, last: bytes, pieces: int) -> list[bytes]:
    """Up to pieces - 1 keys of the store that cut [first, last] into pieces of about equal stored size.

    All cuts are searched at once: a bisection of the key space in which every step asks RocksDB for the sizes up to
    one middle a cut.
    """
    [total] = store.approximate_sizes(family, first, [last])
    if total == 0 or pieces < 2:
        return []
    space = _KeySpace.between(first, last)
    wanted = [total * piece // pieces for piece in range(1, pieces)]
    # Invariant: near lies on the side of `first`, what is wanted between the two, or close enough to both.
    near = [space.low] * len(wanted)
    far = [space.high] * len(wanted)
    for _ in range(8 * _SEARCH_BYTES):
        searched = [cut for cut in range(len(wanted)) if abs(near[cut] - far[cut]) > 1]
        if not searched:
            break
        middles = [(near[cut] + far[cut]) // 2 for cut in searched]
        sizes = store.approximate_sizes(family, first, [space.key(middle) for middle in middles])
        for cut, middle, size in zip(searched, middles, sizes, strict=True):
            if abs(size - wanted[cut]) * _TOLERANCE * pieces <= total:
                near[cut] = far[cut] = middle
            elif size <= wanted[cut]:
                near[cut] = middle
            else:
                far[cut] = middle
    keys: list[bytes] = []
    for middle in near:
        key = store.seek(family, space.key(middle))
        # A bound is part of the manifest and of many a message.
        if key is not None and len(key) <= _MAX_BOUND_BYTES and key not in (first, *keys[-1:]):
            keys.append(key)
    return keys


def _clip(first: bytes, last: bytes, wanted: KeyRange, reverse: bool) -> tuple[bytes, bytes] | None:
    """The part of [first, last] that `wanted` leaves, as bounds for the search; None when there is none."""
    ahead = max if not reverse else min
    behind = min if not reverse else max
    low = first if wanted.start is None else ahead(first, wanted.start)
    high = last if wanted.end is None else behind(last, wanted.end)
    return None if (low > high) != reverse and low != high else (low, high)


def _check_key_range(store: SourceStore, wanted: KeyRange) -> None:
    """Raises UsageError for a range that can hold no key in any family: most likely its ends were mixed up."""
    if wanted.start is None or wanted.end is None:
        return
    reverse = [family.comparator == REVERSE_COMPARATOR for family in store.column_families]
    if all((wanted.start <= wanted.end) if each else (wanted.start >= wanted.end) for each in reverse):
        raise UsageError(f"the range {wanted} is empty: its end does not lie behind its start")


def _pieces(raw_bytes: float, range_bytes: int, max_ranges: int, streams: int) -> int:
    """A multiple of `streams` unless one range is enough, so that all streams end at about the same time."""
    pieces = round(raw_bytes / range_bytes)
    if pieces > 1:
        pieces = -(-pieces // streams) * streams
    return max(1, min(max_ranges, pieces))


@dataclass(frozen=True, slots=True)
class RangeSizes:
    """How the ranges of a job are cut. A family gets `max_ranges` at most, unless more of its key ranges are
    selected."""

    range_bytes: int
    max_ranges: int
    streams: int = 1
    # Files of the source of at least so many bytes are moved whole; None: none is.
    graft_bytes: int | None = None


class _FamilyPlanner:
    """Cuts one column family."""

    def __init__(self, store: SourceStore, family: ColumnFamilyDescription, sizes: RangeSizes) -> None:
        self._store = store
        self._name = family.name
        self._reverse = family.comparator == REVERSE_COMPARATOR
        self._sizes = sizes
        self._figures = store.figures(family.name)
        self._keys = store.first_and_last_key(family.name)

    def plan(self, selected: tuple[KeyRange, ...]) -> list[Range]:
        """Without their ids."""
        most = self._sizes.max_ranges // max(1, len(selected))
        return [part for key_range in selected for part in self._plan_one(key_range, most)]

    def _plan_one(self, key_range: KeyRange, max_ranges: int) -> list[Range]:
        spans = [Span(key_range)]
        if self._sizes.graft_bytes is not None and self._keys is not None:
            spans = plan_spans(
                self._store,
                self._name,
                key_range,
                reverse=self._reverse,
                least_bytes=self._sizes.graft_bytes,
                memtable_entries=self._figures.memtable_entries,
            )
        return [part for span in spans for part in (self._grafted(span) or self._read(span.keys, max_ranges))]

    def _grafted(self, span: Span) -> list[Range]:
        if span.table is None:
            return []
        return [
            Range(
                id=0,
                column_family=self._name,
                start=span.keys.start,
                end=span.keys.end,
                estimated_bytes=span.table.raw_bytes,
                estimated_entries=span.table.entries,
                file=span.table.name,
                file_bytes=span.table.file_bytes,
                overlay_bytes=span.overlay_bytes,
            )
        ]

    def _read(self, wanted: KeyRange, max_ranges: int) -> list[Range]:
        bounds: list[bytes] = []
        share = 0.0
        if self._keys is not None and (clipped := _clip(*self._keys, wanted, self._reverse)) is not None:
            first, last = self._keys
            [whole, part] = self._store.approximate_sizes(self._name, first, [last, clipped[1]])
            [before] = self._store.approximate_sizes(self._name, first, [clipped[0]])
            share = (part - before) / whole if whole else 1.0
            sizes = self._sizes
            pieces = _pieces(share * self._figures.raw_bytes, sizes.range_bytes, max_ranges, sizes.streams)
            bounds = _boundaries(self._store, self._name, *clipped, pieces)
        starts = [wanted.start, *bounds]
        ends = [*bounds, wanted.end]
        return [
            Range(
                id=0,
                column_family=self._name,
                start=start,
                end=end,
                estimated_bytes=int(share * self._figures.raw_bytes / len(starts)),
                estimated_entries=int(share * self._figures.entries / len(starts)),
            )
            for start, end in zip(starts, ends, strict=True)
        ]


def plan_ranges(store: SourceStore, *, selection: Selection, sizes: RangeSizes) -> list[Range]:
    """One range for each file of the source that is moved whole; of what is read, one for each `range_bytes` of a span,
    `max_ranges` at most, as many for each of the `streams`; one for a key range without entries.

    Together the ranges of a family are exactly what is selected of it, and there is none of a family of which nothing
    is. `estimated_bytes` are keys and values before compression. Raises UsageError when the one range of all families
    is empty.
    """
    if selection.key_range is not None:
        _check_key_range(store, selection.key_range)
    ranges: list[Range] = []
    for family in store.column_families:
        for part in _FamilyPlanner(store, family, sizes).plan(selection.of(family.name)):
            ranges.append(replace(part, id=len(ranges)))
    return ranges


def middle_key(store: SourceStore, part: Range, after: bytes) -> bytes | None:
    """A key of the store about half way between `after`, which lies in the range, and the end of the range; None where
    there is none between them."""
    keys = store.first_and_last_key(part.column_family)
    if keys is None:
        return None
    [middle, *_] = [*_boundaries(store, part.column_family, after, keys[1] if part.end is None else part.end, 2), None]
    comparator = next(family.comparator for family in store.column_families if family.name == part.column_family)
    before = operator.gt if comparator == REVERSE_COMPARATOR else operator.lt
    # The next key of the store behind a place within the range may lie at its end, or behind it.
    inside = middle is not None and before(after, middle) and (part.end is None or before(middle, part.end))
    return middle if inside else None
