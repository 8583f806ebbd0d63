"""Counting what a Kvrocks directory holds: every entry once, in bulk."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from kvbatch._core.store import EntryPage, EntryPages, SourceStore
from kvbatch.kvrocks.keys import KEYED_FAMILIES, METADATA, parse_metadata_key, parse_subkey
from kvbatch.kvrocks.layout import Layout
from kvbatch.kvrocks.liveness import GARBAGE, MetadataPage, Owners, Window, read_windows, subkey_ranges
from kvbatch.kvrocks.metadata import Type, parse_metadata
from kvbatch.kvrocks.pages import Integers, entry_sizes, namespace_runs, subkey_columns
from kvbatch.kvrocks.slots import SLOTS

__all__ = ["UNKNOWN_TYPE", "BrokenEntry", "Census", "FamilyCount", "Tally", "take_census"]

# What belongs to no Type: garbage, and subkeys of metadata that cannot be read.
UNKNOWN_TYPE = "unknown"
_BROKEN_SAMPLES = 10


@dataclass(frozen=True, slots=True)
class Tally:
    """What a part of a directory holds. Bytes are keys and values, uncompressed.

    `keys` are user keys, of which `expired` are past their time and `empty` have nothing left in them; `subkeys` are
    those of live keys, `garbage` the others. `dead_bytes`: of expired and empty keys and of garbage, out of `bytes`.
    """

    keys: int = 0
    expired: int = 0
    empty: int = 0
    subkeys: int = 0
    garbage: int = 0
    bytes: int = 0
    dead_bytes: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    def to_json(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class FamilyCount:
    """`broken`: entries that Kvrocks could not read; they are in no Tally."""

    entries: int = 0
    bytes: int = 0
    broken: int = 0


@dataclass(frozen=True, slots=True)
class BrokenEntry:
    column_family: str
    key: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Census:
    """`namespaces`: by type, which is named as Type in lower case, or UNKNOWN_TYPE. `slots`: those that hold something;
    none where keys have no slots. `judged_ms`: when keys counted as expired, in ms since the epoch."""

    slot_encoded: bool | None
    judged_ms: int
    namespaces: dict[bytes, dict[str, Tally]]
    slots: dict[int, Tally]
    families: dict[str, FamilyCount]
    broken: tuple[BrokenEntry, ...]  # the first few

    def total(self) -> Tally:
        return sum((tally for types in self.namespaces.values() for tally in types.values()), Tally())

    def types(self) -> dict[str, Tally]:
        """Of all namespaces, in the order of Type."""
        return {
            name: total
            for name in (*(kind.name.lower() for kind in Type), UNKNOWN_TYPE)
            if (total := sum((types.get(name, Tally()) for types in self.namespaces.values()), Tally())) != Tally()
        }

    def to_json(self) -> dict[str, Any]:
        """Names of namespaces as those of paths: bytes that are no UTF-8 as lone surrogates."""
        return {
            "slot_encoded": self.slot_encoded,
            "judged_ms": self.judged_ms,
            "total": self.total().to_json(),
            "types": {name: tally.to_json() for name, tally in self.types().items()},
            "namespaces": {
                os.fsdecode(namespace): {
                    "total": sum(types.values(), Tally()).to_json(),
                    "types": {name: tally.to_json() for name, tally in types.items()},
                }
                for namespace, types in self.namespaces.items()
            },
            "slots": {str(slot): tally.to_json() for slot, tally in self.slots.items()},
            "broken": sum(family.broken for family in self.families.values()),
            "broken_samples": [
                {"column_family": entry.column_family, "key": entry.key.hex(), "reason": entry.reason}
                for entry in self.broken
            ],
        }


def take_census(store: SourceStore, layout: Layout, now_ms: int) -> Census:
    """Reads every entry of the store once. `now_ms`: when keys count as expired, in ms since the epoch. Raises
    SourceError."""
    counting = _Counting(store, bool(layout.slot_encoded))
    for seen in read_windows(store, counting.slot_encoded, now_ms):
        if isinstance(seen, MetadataPage):
            counting.count_metadata(seen)
            continue
        for family in KEYED_FAMILIES[1:]:
            if family in layout.families:
                counting.count_subkeys(family, seen)
    for family in layout.families:
        if family not in KEYED_FAMILIES:
            counting.count_family(family)
    return counting.result(layout, now_ms)


class _Tallies:
    """A Tally for each of `count` things."""

    def __init__(self, count: int) -> None:
        self._counts = np.zeros((len(Tally.__slots__), count), np.int64)

    def add(self, name: str, things: Integers, weights: Integers | None = None) -> None:
        # Sums of a page are far from where floating point is not exact.
        counted = np.bincount(things, weights, minlength=self._counts.shape[1])
        self._counts[Tally.__slots__.index(name)] += counted.astype(np.int64)

    def filled(self) -> dict[int, Tally]:
        things = np.flatnonzero(self._counts.any(axis=0))
        return {int(thing): Tally(*map(int, self._counts[:, thing])) for thing in things}


@dataclass(slots=True)
class _Counting:
    store: SourceStore
    slot_encoded: bool
    namespaces: dict[bytes, _Tallies] = field(default_factory=dict)
    slots: _Tallies = field(default_factory=lambda: _Tallies(SLOTS))
    families: dict[str, FamilyCount] = field(default_factory=dict)
    broken: list[BrokenEntry] = field(default_factory=list)

    def count_metadata(self, seen: MetadataPage) -> None:
        sizes = entry_sizes(seen.page)
        for run, columns in seen.runs:
            if len(columns.rows):
                bytes_of = sizes[columns.rows]
                dead = columns.expired | columns.empty
                for tallies, things in self._axes(run.namespace, columns.kinds, columns.slots):
                    tallies.add("keys", things)
                    tallies.add("expired", things[columns.expired])
                    tallies.add("empty", things[columns.empty])
                    tallies.add("bytes", things, bytes_of)
                    tallies.add("dead_bytes", things[dead], bytes_of[dead])
            self._note_broken(METADATA, seen.page, columns.broken)
        broken = sum(len(columns.broken) for _, columns in seen.runs)
        self._count(METADATA, len(seen.page), int(sizes.sum()), broken)

    def count_subkeys(self, family: str, window: Window) -> None:
        for part in subkey_ranges(self.store, family, window, self.slot_encoded):
            pages = EntryPages(self.store, family, part.start, part.end)
            while (page := pages.next()) is not None:
                self._count_subkeys(family, page, window.owners)

    def _count_subkeys(self, family: str, page: EntryPage, owners: Owners) -> None:
        sizes = entry_sizes(page)
        broken = 0
        for run in namespace_runs(page):
            columns = subkey_columns(page, run, self.slot_encoded)
            if len(columns.rows):
                bytes_of = sizes[columns.rows]
                found = owners.kinds(page, columns)
                garbage = found == GARBAGE
                for tallies, things in self._axes(run.namespace, np.where(garbage, 0, found), columns.slots):
                    tallies.add("subkeys", things[~garbage])
                    tallies.add("garbage", things[garbage])
                    tallies.add("bytes", things, bytes_of)
                    tallies.add("dead_bytes", things[garbage], bytes_of[garbage])
            self._note_broken(family, page, columns.broken)
            broken += len(columns.broken)
        self._count(family, len(page), int(sizes.sum()), broken)

    def count_family(self, family: str) -> None:
        """One whose keys are not looked at."""
        pages = EntryPages(self.store, family)
        while (page := pages.next()) is not None:
            self._count(family, len(page), int(entry_sizes(page).sum()), 0)

    def _axes(self, namespace: bytes | None, kinds: Integers, slots: Integers) -> list[tuple[_Tallies, Integers]]:
        """Where entries are counted, and as what."""
        assert namespace is not None, "only a key that has one is well-formed"
        if namespace not in self.namespaces:
            self.namespaces[namespace] = _Tallies(1 + max(Type))
        axes = [(self.namespaces[namespace], kinds)]
        return [*axes, (self.slots, slots)] if self.slot_encoded else axes

    def _count(self, family: str, entries: int, size: int, broken: int) -> None:
        before = self.families.get(family, FamilyCount())
        self.families[family] = FamilyCount(before.entries + entries, before.bytes + size, before.broken + broken)

    def _note_broken(self, family: str, page: EntryPage, rows: Integers) -> None:
        for row in map(int, islice(rows, _BROKEN_SAMPLES - len(self.broken))):
            self.broken.append(BrokenEntry(family, page.key(row), self._reason(family, page, row)))

    def _reason(self, family: str, page: EntryPage, row: int) -> str:
        """Why it is broken: what reading it by itself says."""
        try:
            if family == METADATA:
                parse_metadata_key(page.key(row), self.slot_encoded)
                parse_metadata(page.value_heads[row].tobytes()[: page.value_sizes[row]])
            else:
                parse_subkey(page.key(row), self.slot_encoded)
        except ValueError as error:
            return str(error)
        raise AssertionError("what is broken in bulk is broken by itself")

    def result(self, layout: Layout, now_ms: int) -> Census:
        names = {0: UNKNOWN_TYPE, **{int(kind): kind.name.lower() for kind in Type}}
        return Census(
            slot_encoded=layout.slot_encoded,
            judged_ms=now_ms,
            namespaces={
                namespace: {names[kind]: tally for kind, tally in sorted(tallies.filled().items())}
                for namespace, tallies in sorted(self.namespaces.items())
            },
            slots=self.slots.filled(),
            families={name: self.families.get(name, FamilyCount()) for name in layout.families},
            broken=tuple(self.broken),
        )
