"""Pages of entries, classified in bulk: a few numpy operations a page and none an entry.

Columns are arrays with one item for each entry that they speak of; `rows` says which those are in the page.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from kvbatch._core.store import EntryPage
from kvbatch.kvrocks.keys import namespace_prefix, successor
from kvbatch.kvrocks.metadata import MAY_BE_EMPTY, WITHOUT_SUBKEYS, Type, header_bytes
from kvbatch.kvrocks.slots import SLOTS

__all__ = [
    "Booleans",
    "Integers",
    "MetadataColumns",
    "NamespaceRun",
    "SubkeyColumns",
    "Words",
    "entry_sizes",
    "last_well_formed",
    "metadata_columns",
    "namespace_runs",
    "subkey_columns",
]

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Booleans = npt.NDArray[np.bool_]

_KINDS = 16  # of which Type names some
_NEVER = 1 << 62
_HEADER_BYTES = np.full((2, _KINDS), _NEVER, np.int64)
_HAS_SUBKEYS = np.zeros(_KINDS, np.bool_)
_MAY_BE_EMPTY = np.zeros(_KINDS, np.bool_)
for _kind in Type:
    _HEADER_BYTES[:, _kind] = [header_bytes(_kind, is_64bit) for is_64bit in (False, True)]
    _HAS_SUBKEYS[_kind] = _kind not in WITHOUT_SUBKEYS
    _MAY_BE_EMPTY[_kind] = _kind in MAY_BE_EMPTY


@dataclass(frozen=True, slots=True)
class NamespaceRun:
    """The entries of a page, from `first` up to `end`, whose keys begin with one namespace; None: their keys are too
    short to have one."""

    namespace: bytes | None
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class MetadataColumns:
    """The metadata of a run. `parts`: of each the key, as digest_key_parts takes it. `broken`: rows whose key is
    malformed or whose value cannot be read. `unreadable_parts`: the keys of the latter, where they are well-formed."""

    rows: Integers
    slots: Integers
    kinds: Integers
    expired: Booleans
    empty: Booleans  # and not expired
    versions: Words
    parts: Integers
    broken: Integers
    unreadable_parts: Integers

    @property
    def owners(self) -> Booleans:
        """Which can have subkeys that are no garbage."""
        return _HAS_SUBKEYS[self.kinds] & ~self.expired & ~self.empty


@dataclass(frozen=True, slots=True)
class SubkeyColumns:
    """The subkeys of a run. `parts`: of each its metadata's key, as digest_key_parts takes it. `broken`: rows whose key
    is malformed."""

    rows: Integers
    slots: Integers
    versions: Words
    parts: Integers
    broken: Integers


def namespace_runs(page: EntryPage) -> Iterator[NamespaceRun]:
    """All of the page, in its order. Keys sort by their namespace, so there are as many runs as namespaces."""
    first, count = 0, len(page)
    while first < count:
        key = page.key(first)
        if not key or len(key) <= key[0]:
            yield NamespaceRun(None, first, first + 1)
            first += 1
            continue
        behind = successor(key[: 1 + key[0]])
        end = count if behind is None else bisect_left(range(count), behind, lo=first, key=page.key)
        yield NamespaceRun(key[1 : 1 + key[0]], first, end)
        first = end


def entry_sizes(page: EntryPage) -> Integers:
    """Bytes of key and value of each entry."""
    return np.diff(page.key_offsets) + page.value_sizes


def metadata_columns(page: EntryPage, run: NamespaceRun, slot_encoded: bool, now_ms: int) -> MetadataColumns:
    """`page` has the first HEADER_BYTES of each value. `now_ms`: when keys count as expired, in ms since the epoch."""
    well_formed, slots, _ = _heads(page, run, slot_encoded)
    heads = page.value_heads[well_formed]
    is_64bit = heads[:, 0] >= 0x80
    kinds = (heads[:, 0] & 0x0F).astype(np.int64)
    expires = np.where(is_64bit, _field(heads, 1, 8), 1000 * _field(heads, 1, 4))
    versions = np.where(is_64bit, _field(heads, 9, 8), _field(heads, 5, 8))
    sizes = np.where(is_64bit, _field(heads, 17, 8), _field(heads, 13, 4))
    expired = (expires > 0) & (expires < now_ms)
    empty = ~expired & (sizes == 0) & ~_MAY_BE_EMPTY[kinds]
    readable = page.value_sizes[well_formed] >= _HEADER_BYTES[is_64bit.astype(np.int64), kinds]
    parts = np.zeros((len(well_formed), 4), np.int64)
    parts[:, 0] = page.key_offsets[well_formed]
    parts[:, 1] = page.key_offsets[well_formed + 1]
    rows = well_formed[readable]
    return MetadataColumns(
        rows=rows,
        slots=slots[readable],
        kinds=kinds[readable],
        expired=expired[readable],
        empty=empty[readable],
        versions=versions[readable],
        parts=parts[readable],
        broken=_others(run, rows),
        unreadable_parts=parts[~readable],
    )


def subkey_columns(page: EntryPage, run: NamespaceRun, slot_encoded: bool) -> SubkeyColumns:
    rows, slots, head = _heads(page, run, slot_encoded)
    keys, begins, ends = page.keys, page.key_offsets[rows], page.key_offsets[rows + 1]
    user_keys = begins + head + 4
    whole = user_keys <= ends
    rows, slots, begins, ends, user_keys = rows[whole], slots[whole], begins[whole], ends[whole], user_keys[whole]
    versions_at = user_keys + _numbers(keys, user_keys - 4, 4).astype(np.int64)
    whole = versions_at + 8 <= ends
    rows, slots, begins, user_keys, versions_at = (
        rows[whole], slots[whole], begins[whole], user_keys[whole], versions_at[whole],
    )  # fmt: skip
    return SubkeyColumns(
        rows=rows,
        slots=slots,
        versions=_numbers(keys, versions_at, 8),
        parts=np.stack([begins, begins + head, user_keys, versions_at], axis=1),
        broken=_others(run, rows),
    )


def last_well_formed(page: EntryPage, slot_encoded: bool) -> bytes | None:
    """The page's last key that has all that stands before a user key."""
    for run in reversed(list(namespace_runs(page))):
        rows, _, _ = _heads(page, run, slot_encoded)
        if len(rows):
            return page.key(int(rows[-1]))
    return None


def _heads(page: EntryPage, run: NamespaceRun, slot_encoded: bool) -> tuple[Integers, Integers, int]:
    """The rows with all that stands before the user key, their slots (0 where keys have none), and its length."""
    rows = np.arange(run.first, run.end)
    if run.namespace is None:
        return rows[:0], rows[:0], 0
    head = len(namespace_prefix(run.namespace))
    if not slot_encoded:
        return rows, np.zeros_like(rows), head
    begins = page.key_offsets[rows]
    whole = begins + head + 2 <= page.key_offsets[rows + 1]
    rows, begins = rows[whole], begins[whole]
    slots = _numbers(page.keys, begins + head, 2).astype(np.int64)
    valid = slots < SLOTS
    return rows[valid], slots[valid], head + 2


def _others(run: NamespaceRun, rows: Integers) -> Integers:
    """The rows of the run without these."""
    others = np.ones(run.end - run.first, np.bool_)
    others[rows - run.first] = False
    return np.flatnonzero(others) + run.first


def _numbers(data: npt.NDArray[np.uint8], places: Integers, width: int) -> Words:
    """The integers of `width` bytes that stand there."""
    if not len(places):
        return np.zeros(0, np.uint64)
    return _field(sliding_window_view(data, width)[places], 0, width)


def _field(rows: npt.NDArray[np.uint8], begin: int, width: int) -> Words:
    """The integers that stand in those columns of bytes."""
    return np.ascontiguousarray(rows[:, begin : begin + width]).view(f">u{width}").ravel().astype(np.uint64)
