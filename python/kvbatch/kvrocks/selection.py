"""Slots and namespaces of a Kvrocks directory as ranges of its keys."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from kvbatch._core.store import ColumnFamilyDescription, SourceStore
from kvbatch.errors import RefusedError, UsageError
from kvbatch.kvrocks.keys import (
    DEFAULT_NAMESPACE,
    FAMILIES,
    KEYED_FAMILIES,
    namespace_prefix,
    parse_metadata_key,
    successor,
)
from kvbatch.kvrocks.layout import require_layout
from kvbatch.kvrocks.slots import Slots
from kvbatch.options import SourceOptions
from kvbatch.ranges import KeyRange, Selection

__all__ = ["families_of_copy", "find_namespaces", "find_selection", "key_ranges", "listed", "selected_namespaces"]

# Its keys begin with a namespace too, but have no slots.
_SEARCH = "search"
# Of the server that wrote it, in `propagate`: another server that had them would take itself for that one, and its
# tenants' passwords for its own.
_OF_THE_SERVER = (b"__namespace_keys__", b"replication_id_")
_MOST_NAMED = 20
# Each has a cursor of its own.
_MOST_RANGES = 4096


def find_selection(store: SourceStore, options: SourceOptions) -> Selection:
    """What `options` select of a store that was opened with `options.families_to_open`. Raises RefusedError where slots
    or a namespace are asked for and the directory has no such thing, UsageError for a namespace or a column family
    that is not in it and for slots in too many pieces, and SourceError."""
    if not options.selects_kvrocks:
        return Selection(options.key_range)
    layout = require_layout(store)
    asked = options.column_families
    _check_families(store, asked)
    if options.slots is not None and layout.slot_encoded is False:
        raise RefusedError(
            f"{store.path} is not slot-encoded: its server was not in cluster mode, so that its keys do not say their "
            f"slots, and --slots {options.slots} cannot be told from the others. It has the namespaces "
            f"{listed(find_namespaces(store))}. Nothing was changed; choose one with --namespace, or move all of it"
        )
    # Where there are no keys, the one that every server has.
    namespaces = selected_namespaces(store, options) or [DEFAULT_NAMESPACE]
    keyed = tuple(key_ranges(namespaces, options.slots))
    if len(keyed) * len(KEYED_FAMILIES) > _MOST_RANGES:
        raise UsageError(
            f"--slots names {len(keyed) // len(namespaces)} separate ranges of slots, in all namespaces and column "
            f"families {len(keyed) * len(KEYED_FAMILIES)} ranges of keys; a job moves {_MOST_RANGES} at most. Nothing "
            "was changed; give fewer and larger ones, or move them in several jobs, which have --allow-nonempty where "
            "they share a directory"
        )
    ranges = dict.fromkeys(KEYED_FAMILIES, keyed)
    # An index is of all slots.
    if options.slots is None:
        ranges[_SEARCH] = keyed
    # What belongs to neither slots nor namespaces comes along where it is asked for.
    of_others = {_SEARCH: (_all_of(options.namespace),), "propagate": _all_but(_OF_THE_SERVER)}
    if asked:
        ranges = {name: ranges.get(name) or of_others.get(name) or (KeyRange(),) for name in asked}
    return Selection(None, tuple((name, ranges[name]) for name in sorted(ranges) if name in layout.families))


def families_of_copy(store: SourceStore, options: SourceOptions) -> list[ColumnFamilyDescription]:
    """Those that a target gets: the source's, and of a Kvrocks directory by an old release, where a part is selected,
    the ones that later releases have behind them. RocksDB gives no id twice, and the records of a job take the next."""
    families = store.column_families
    later = list(FAMILIES)[len(families) :] if options.selects_kvrocks else []
    return [*families, *map(ColumnFamilyDescription, later)]


def find_namespaces(store: SourceStore) -> list[bytes]:
    """All that have a key, in the order of their keys. One entry is read for each of them in each column family. Raises
    SourceError."""
    found: set[bytes] = set()
    names = {family.name for family in store.column_families}
    for family in (*KEYED_FAMILIES, _SEARCH):
        start: bytes | None = b""
        while family in names and start is not None:
            # Seeking alone might give back what it is given, where a large entry would have to be read.
            entries, _ = store.list_entries(family, start, None, 1)
            if not entries:
                break
            [(key, _)] = entries
            try:
                namespace = parse_metadata_key(key, slot_encoded=False).namespace
            except ValueError:
                start = key + b"\0"
                continue
            found.add(namespace)
            start = successor(namespace_prefix(namespace))
    return sorted(found, key=namespace_prefix)


def selected_namespaces(store: SourceStore, options: SourceOptions) -> list[bytes]:
    """Of those that have a key the one that is asked for, or all. Raises UsageError where it has none, SourceError."""
    found = find_namespaces(store)
    if options.namespace is None:
        return found
    namespace = os.fsencode(options.namespace)
    if namespace not in found:
        raise UsageError(
            f"{store.path} has no namespace {options.namespace!r}; it has {listed(found)}. Nothing was changed"
        )
    return [namespace]


def key_ranges(namespaces: Iterable[bytes], slots: Slots | None) -> list[KeyRange]:
    """Of the keys of these namespaces, all or those of some slots, in each of KEYED_FAMILIES."""
    prefixes = [namespace_prefix(namespace) for namespace in namespaces]
    if slots is None:
        return [KeyRange(prefix, successor(prefix)) for prefix in prefixes]
    return [
        KeyRange(prefix + first.to_bytes(2, "big"), prefix + (last + 1).to_bytes(2, "big"))
        for prefix in prefixes
        for first, last in slots.ranges
    ]


def listed(namespaces: Sequence[bytes]) -> str:
    """For a message: the first of them."""
    named = ", ".join(repr(os.fsdecode(namespace)) for namespace in namespaces[:_MOST_NAMED])
    more = len(namespaces) - _MOST_NAMED
    return f"{named or 'none'}{f' and {more} more' if more > 0 else ''}"


def _check_families(store: SourceStore, asked: Sequence[str]) -> None:
    names = [family.name for family in store.column_families]
    missing = next((name for name in asked if name not in names), None)
    if missing is not None:
        has = ", ".join(f'"{name}"' for name in names)
        raise UsageError(f'{store.path} has no column family "{missing}"; it has {has}')


def _all_of(namespace: str | None) -> KeyRange:
    return KeyRange() if namespace is None else key_ranges([os.fsencode(namespace)], None)[0]


def _all_but(keys: Sequence[bytes]) -> tuple[KeyRange, ...]:
    """All keys but these, which ascend."""
    starts = [None, *(key + b"\0" for key in keys)]
    return tuple(KeyRange(start, end) for start, end in zip(starts, [*keys, None], strict=True))
