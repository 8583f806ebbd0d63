"""Whether a directory is one of Kvrocks, and how its keys are written."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from kvbatch._core.store import SourceStore, family_shape
from kvbatch.errors import RefusedError
from kvbatch.kvrocks.keys import FAMILIES, KEYED_FAMILIES, METADATA, parse_metadata_key, parse_subkey
from kvbatch.kvrocks.slots import slot_of

__all__ = ["Layout", "find_layout", "require_layout", "sample_keys"]

# What the oldest release with today's numbering has: default, metadata, zset_score, pubsub, propagate.
_LEAST_FAMILIES = 5
_SEEKS = 64


@dataclass(frozen=True, slots=True)
class Layout:
    """`slot_encoded`: None where there are no keys at all, which then is as good as either. `families`: all that the
    directory has, in the order of their ids."""

    slot_encoded: bool | None
    families: tuple[str, ...]


def find_layout(store: SourceStore) -> Layout | None:
    """None where the column families are not those of Kvrocks by name and id. All families of `store` are open. Raises
    SourceError."""
    families = tuple(family.name for family in store.column_families)
    known = tuple(FAMILIES)
    shared = min(len(families), len(known))
    if shared < _LEAST_FAMILIES or families[:shared] != known[:shared]:
        return None
    # One that was dropped leaves a gap.
    if any(family_shape(store, name).id != FAMILIES[name] for name in families[:shared]):
        return None
    return Layout(_is_slot_encoded(store, families), families)


def require_layout(store: SourceStore) -> Layout:
    """Raises RefusedError for a directory that is not one of Kvrocks, and SourceError."""
    layout = find_layout(store)
    if layout is None:
        found = {family.name: family_shape(store, family.name).id for family in store.column_families}
        raise RefusedError(
            f"{store.path} is no Kvrocks directory: its column families, with their ids, are {_listed(found)}; those "
            f"of Kvrocks are {_listed(FAMILIES)}. Nothing was changed; a Kvrocks server keeps its store in `db` below "
            "its own directory"
        )
    return layout


def _listed(ids: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in ids.items())


def _is_slot_encoded(store: SourceStore, families: tuple[str, ...]) -> bool | None:
    """Whether most of the sampled keys have the slot of their user key behind their namespace. Of other keys one in
    16384 seems to by chance; and a broken key or two in a slot-encoded directory do not outvote the rest."""
    votes = [
        _has_its_slot(name, key)
        for name in KEYED_FAMILIES
        if name in families
        for key in sample_keys(store, name, _SEEKS)
    ]
    return 2 * sum(votes) > len(votes) if votes else None


def _has_its_slot(family: str, key: bytes) -> bool:
    parse = parse_metadata_key if family == METADATA else parse_subkey
    try:
        parsed = parse(key, slot_encoded=True)
    except ValueError:
        return False
    return parsed.slot == slot_of(parsed.user_key)


def sample_keys(store: SourceStore, family: str, seeks: int) -> set[bytes]:
    """Keys from all over a family in bytewise order, found by that many seeks at most: each halves a gap between two
    keys, wide gaps before narrow ones. Raises SourceError."""
    ends = store.first_and_last_key(family)
    if ends is None:
        return set()
    found = set(ends)
    gaps = deque([ends])
    for _ in range(seeks):
        if not gaps:
            break
        low, high = gaps.popleft()
        middle = _between(low, high)
        if middle is None:
            continue
        key = store.seek(family, middle)
        # What is exactly in the middle may be our own guess, given back where a large entry would have to be read.
        if key is not None and middle < key < high:
            found.add(key)
            gaps.append((key, high))
        gaps.append((low, middle))
    return found


def _between(low: bytes, high: bytes) -> bytes | None:
    """Bytes about halfway between two keys; None where they are too near to each other to tell."""
    width = max(len(low), len(high)) + 1
    numbers = [int.from_bytes(key.ljust(width, b"\0"), "big") for key in (low, high)]
    middle = (sum(numbers) // 2).to_bytes(width, "big").rstrip(b"\0")
    return middle if low < middle < high else None
