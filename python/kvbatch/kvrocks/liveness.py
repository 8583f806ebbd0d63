"""Which subkeys belong to live metadata: a join in bounded memory, by contiguous reads.

Metadata is read from its beginning to its end, a window at a time. Of a window what can own subkeys is kept, by the
digest of its key, and all subkeys that belong there are read. They lie together but for one thing: in a slot subkeys
sort by the length of their user key before the key itself, so where a window begins or ends inside of a slot (or, in a
directory without slots, a namespace) its subkeys are one contiguous range for each length that there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvbatch._core.store import EntryPage, EntryPages, SourceStore, digest_key_parts
from kvbatch.kvrocks.keys import METADATA, parse_metadata_key, successor
from kvbatch.kvrocks.metadata import HEADER_BYTES
from kvbatch.kvrocks.pages import (
    Integers,
    MetadataColumns,
    NamespaceRun,
    SubkeyColumns,
    Words,
    last_well_formed,
    metadata_columns,
    namespace_runs,
)
from kvbatch.ranges import KeyRange

__all__ = ["GARBAGE", "UNKNOWN", "MetadataPage", "Owners", "Window", "read_windows", "subkey_ranges"]

# What `Owners.kinds` says besides a Type: no live metadata owns the subkey; whether any does is not known, because what
# could be its metadata cannot be read.
GARBAGE = -1
UNKNOWN = 0

# And those of a page more, in about 25 bytes each, three times that while they are sorted. More make windows fewer, but
# looking for one slower: they should fit the processor's caches.
_WINDOW_OWNERS = 1 << 18

# Both halves of a digest, version, kind.
_Columns = tuple[Words, Words, Words, npt.NDArray[np.int8]]


@dataclass(frozen=True, slots=True)
class MetadataPage:
    """A page of metadata and its namespaces, each with its columns."""

    page: EntryPage
    runs: list[tuple[NamespaceRun, MetadataColumns]]


class Owners:
    """Metadata that can own subkeys, of a window. Complete before the first question."""

    def __init__(self) -> None:
        self._added: list[_Columns] = []
        self._count = 0
        self._sorted: _Columns | None = None
        self._most_alike = 0  # how many have the same low half of their digest

    def __len__(self) -> int:
        return self._count

    def add(self, seen: MetadataPage) -> None:
        for _, columns in seen.runs:
            owners = columns.owners
            self._add(seen.page, columns.parts[owners], columns.versions[owners], columns.kinds[owners])
            unreadable = columns.unreadable_parts
            none = np.zeros(len(unreadable), np.uint64)
            self._add(seen.page, unreadable, none, np.full(len(unreadable), UNKNOWN))

    def _add(self, page: EntryPage, parts: Integers, versions: Words, kinds: Integers) -> None:
        if len(parts):
            low, high = digest_key_parts(page.keys, parts)
            self._added.append((low, high, versions, kinds.astype(np.int8)))
            self._count += len(parts)

    def _sort(self) -> _Columns:
        if self._sorted is None:
            low, high, versions, kinds = (np.concatenate(column) for column in zip(*self._added, strict=True))
            self._added.clear()
            order = np.argsort(low)
            low = low[order]
            begins = np.flatnonzero(np.concatenate(([True], low[1:] != low[:-1], [True])))
            self._most_alike = int(np.diff(begins).max())
            self._sorted = low, high[order], versions[order], kinds[order]
        return self._sorted

    def kinds(self, page: EntryPage, subkeys: SubkeyColumns) -> Integers:
        """Of each subkey the Type that it belongs to, or GARBAGE, or UNKNOWN."""
        found = np.full(len(subkeys.rows), GARBAGE)
        if not len(found) or not self._count:
            return found
        low, high, versions, kinds = self._sort()
        sought_low, sought_high = digest_key_parts(page.keys, subkeys.parts)
        # The subkeys of a key stand together: each key is looked for once.
        is_first = np.concatenate(([True], (sought_low[1:] != sought_low[:-1]) | (sought_high[1:] != sought_high[:-1])))
        group = np.cumsum(is_first) - 1
        places = np.searchsorted(low, sought_low[is_first])
        for step in range(self._most_alike):
            at = np.minimum(places + step, self._count - 1)[group]
            owned = (low[at] == sought_low) & (high[at] == sought_high)
            owned &= (versions[at] == subkeys.versions) | (kinds[at] == UNKNOWN)
            found[owned] = kinds[at[owned]]
        return found


@dataclass(frozen=True, slots=True)
class Window:
    """The metadata keys of [low, high), and what can own subkeys there. None: from the first, or to the last, key."""

    low: bytes | None
    high: bytes | None
    owners: Owners


def read_windows(store: SourceStore, slot_encoded: bool, now_ms: int) -> Iterator[MetadataPage | Window]:
    """Each page of metadata, and behind the pages of a window the window; the windows cover all keys that can be.
    `now_ms`: when keys count as expired, in ms since the epoch. Raises SourceError."""
    pages = EntryPages(store, METADATA, head_bytes=HEADER_BYTES)
    low, owners = None, Owners()
    while (page := pages.next()) is not None:
        runs = [(run, metadata_columns(page, run, slot_encoded, now_ms)) for run in namespace_runs(page)]
        seen = MetadataPage(page, runs)
        owners.add(seen)
        yield seen
        if len(owners) >= _WINDOW_OWNERS and (last := last_well_formed(page, slot_encoded)) is not None:
            high = last + b"\0"
            yield Window(low, high, owners)
            low, owners = high, Owners()
    yield Window(low, None, owners)


def subkey_ranges(store: SourceStore, family: str, window: Window, slot_encoded: bool) -> Iterator[KeyRange]:
    """Where the subkeys of a window stand in a family, in its order. The ranges of all windows are the whole family and
    do not overlap. Raises SourceError."""
    low_head, high_head = (_head(key, slot_encoded) for key in (window.low, window.high))
    if low_head is not None and low_head == high_head:
        yield from _ranges_by_length(store, family, low_head, window.low, window.high)
        return
    start: bytes | None = None
    if low_head is not None:
        yield from _ranges_by_length(store, family, low_head, window.low, None)
        start = successor(low_head)
        if start is None:
            return
    yield KeyRange(start, high_head)
    if high_head is not None:
        yield from _ranges_by_length(store, family, high_head, None, window.high)


def _head(key: bytes | None, slot_encoded: bool) -> bytes | None:
    """What stands before the user key of a well-formed key."""
    if key is None:
        return None
    return key[: len(key) - len(parse_metadata_key(key, slot_encoded).user_key)]


def _ranges_by_length(
    store: SourceStore, family: str, head: bytes, low: bytes | None, high: bytes | None
) -> Iterator[KeyRange]:
    """Of the subkeys behind `head` those of metadata keys of [low, high), a range for each length of user keys."""
    position: bytes | None = head
    while position is not None and (key := _first_key(store, family, position, successor(head))) is not None:
        prefix = key[: len(head) + 4]
        if len(prefix) < len(head) + 4:
            # Too short to say a length: nobody's. The window in which the slot begins has it.
            if low is None:
                yield KeyRange(key, key + b"\0")
            position = key + b"\0"
            continue
        start = prefix if low is None else _first_behind(prefix, low[len(head) :])
        end = successor(prefix) if high is None else _first_behind(prefix, high[len(head) :])
        if start is not None and (end is None or start < end):
            yield KeyRange(start, end)
        position = successor(prefix)


def _first_key(store: SourceStore, family: str, start: bytes, end: bytes | None) -> bytes | None:
    page = EntryPages(store, family, start, end, max_entries=1).next()
    return None if page is None else page.key(0)


def _first_behind(prefix: bytes, user_key: bytes) -> bytes | None:
    """Where subkeys begin whose user keys have the length that `prefix` ends with and sort at or behind `user_key`."""
    length = int.from_bytes(prefix[-4:], "big")
    # A longer key sorts behind what it begins with.
    return prefix + user_key if len(user_key) <= length else successor(prefix + user_key[:length])
