"""Ranges: the unit of scheduling and of resume."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field
from typing import Any

from kvbatch._core.store import TablePlace
from kvbatch.errors import UsageError

__all__ = [
    "BYTEWISE_COMPARATOR",
    "REVERSE_COMPARATOR",
    "KeyRange",
    "Range",
    "Selection",
    "describe_key",
    "optional_hex",
    "parse_key_range",
]

BYTEWISE_COMPARATOR = "leveldb.BytewiseComparator"
REVERSE_COMPARATOR = "rocksdb.ReverseBytewiseComparator"
# Of what is selected, in a message: more is cut, and a digest of all of it stands behind.
_MOST_SHOWN = 400


@dataclass(frozen=True, slots=True)
class KeyRange:
    """[start, end) in the order of the column family; None is the first, or past the last, key."""

    start: bytes | None = None
    end: bytes | None = None

    def __str__(self) -> str:
        return f"{optional_hex(self.start) or ''}..{optional_hex(self.end) or ''}"

    def to_json(self) -> list[str | None]:
        return [optional_hex(self.start), optional_hex(self.end)]

    @staticmethod
    def from_json(value: Any) -> KeyRange:
        start, end = value
        return KeyRange(optional_bytes(start), optional_bytes(end))


@dataclass(frozen=True, slots=True)
class Selection:
    """What of a source's keys is selected: `key_range` in each column family, all keys unless it says otherwise. Where
    it is None, `of_families` has the ranges of some families, (name, ranges) by name, and of the others nothing is
    selected.

    A family's ranges ascend bytewise, none is empty, and something lies between any two; ValueError where that does not
    hold."""

    key_range: KeyRange | None = KeyRange()
    of_families: tuple[tuple[str, tuple[KeyRange, ...]], ...] = ()

    def __post_init__(self) -> None:
        names = [name for name, _ in self.of_families]
        if self.key_range is not None and names:
            raise ValueError("ranges of all column families and of each one exclude each other")
        if names != sorted(set(names)) or not all(ranges and _ascend(ranges) for _, ranges in self.of_families):
            raise ValueError("the key ranges of each column family are to ascend, and each family to have some")

    def of(self, column_family: str) -> tuple[KeyRange, ...]:
        if self.key_range is not None:
            return (self.key_range,)
        return next((ranges for name, ranges in self.of_families if name == column_family), ())

    def outside(self, column_family: str) -> list[KeyRange]:
        """Where keys of the family are not selected."""
        outside = []
        start: bytes | None = None
        for selected in self.of(column_family):
            if selected.start is not None:
                outside.append(KeyRange(start, selected.start))
            if selected.end is None:
                return outside
            start = selected.end
        return [*outside, KeyRange(start)]

    def _alike(self) -> dict[tuple[KeyRange, ...], list[str]]:
        """Families by their ranges, which mostly are those of others too."""
        alike: dict[tuple[KeyRange, ...], list[str]] = {}
        for name, ranges in self.of_families:
            alike.setdefault(ranges, []).append(name)
        return alike

    def to_json(self) -> dict[str, Any]:
        """The fields of a manifest."""
        if self.key_range is not None:
            return {"key_range": self.key_range.to_json()}
        return {
            "selection": [
                {"column_families": names, "key_ranges": [selected.to_json() for selected in ranges]}
                for ranges, names in self._alike().items()
            ]
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> Selection:
        """Raises KeyError, TypeError or ValueError where these are no such fields."""
        if "selection" not in value:
            return Selection(KeyRange.from_json(value["key_range"]))
        of_families = []
        for part in value["selection"]:
            ranges = tuple(map(KeyRange.from_json, part["key_ranges"]))
            of_families += [(str(name), ranges) for name in part["column_families"]]
        return Selection(None, tuple(sorted(of_families, key=lambda each: each[0])))

    def __str__(self) -> str:
        """Two that differ read differently."""
        if self.key_range is not None:
            return str(self.key_range)
        text = "; ".join(
            f"{', '.join(names)}: {', '.join(map(str, ranges))}" for ranges, names in self._alike().items()
        )
        if len(text) <= _MOST_SHOWN:
            return text
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
        return f"{text[:_MOST_SHOWN]}… (in all {digest})"


def _ascend(ranges: tuple[KeyRange, ...]) -> bool:
    """Whether none is empty, and something lies between any two."""
    return all(part.start is None or part.end is None or part.start < part.end for part in ranges) and all(
        before.end is not None and after.start is not None and before.end < after.start
        for before, after in itertools.pairwise(ranges)
    )


@dataclass(frozen=True, slots=True)
class Range:
    """(column family, [start, end)) with its id in the job and what the planner thinks it holds.

    `file` is the source's SST file, of `file_bytes`, that is moved whole for it: grafted. `estimated_bytes` and
    `estimated_entries` are the file's then, `overlay_bytes` what stands over it and is read. In the lane `files` a
    range is a file of the store and nothing else; where chosen column families are moved, an SST file of one, which has
    its `place` there.
    """

    id: int
    column_family: str
    start: bytes | None
    end: bytes | None
    estimated_bytes: int = 0
    estimated_entries: int = 0
    file: str = ""
    file_bytes: int = 0
    overlay_bytes: int = 0
    place: TablePlace | None = field(default=None, hash=False)

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "column_family": self.column_family,
            "start": optional_hex(self.start),
            "end": optional_hex(self.end),
            "estimated_bytes": self.estimated_bytes,
            "estimated_entries": self.estimated_entries,
            "file": self.file,
            "file_bytes": self.file_bytes,
            "overlay_bytes": self.overlay_bytes,
            **({"place": _place_to_json(self.place)} if self.place is not None else {}),
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> Range:
        return Range(
            id=int(value["id"]),
            column_family=str(value["column_family"]),
            start=optional_bytes(value["start"]),
            end=optional_bytes(value["end"]),
            estimated_bytes=int(value["estimated_bytes"]),
            estimated_entries=int(value["estimated_entries"]),
            file=str(value["file"]),
            file_bytes=int(value["file_bytes"]),
            overlay_bytes=int(value["overlay_bytes"]),
            place=_place_from_json(value["place"]) if "place" in value else None,
        )

    def __str__(self) -> str:
        if self.file and (not self.column_family or self.place is not None):
            return f"file {self.file}"
        return f'range {self.id} ("{self.column_family}" {describe_key(self.start)}..{describe_key(self.end)})'


def _place_to_json(place: TablePlace) -> dict[str, Any]:
    return {
        "level": place.level,
        "sequences": [place.smallest_sequence, place.largest_sequence],
        "epoch": place.epoch,
        "keys": [place.smallest.hex(), place.largest.hex()],
    }


def _place_from_json(value: dict[str, Any]) -> TablePlace:
    first_sequence, last_sequence = value["sequences"]
    smallest, largest = value["keys"]
    return TablePlace(
        int(value["level"]),
        int(first_sequence),
        int(last_sequence),
        int(value["epoch"]),
        bytes.fromhex(smallest),
        bytes.fromhex(largest),
    )


def optional_hex(key: bytes | None) -> str | None:
    return None if key is None else key.hex()


def optional_bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def describe_key(key: bytes | None) -> str:
    """Short enough for a message: hex, cut after 16 bytes."""
    if key is None:
        return ""
    return key.hex() if len(key) <= 16 else f"{key[:16].hex()}… ({len(key)} bytes)"


def parse_key_range(text: str | KeyRange) -> KeyRange:
    """`HEX..HEX`; either side may be empty. Raises UsageError."""
    if isinstance(text, KeyRange):
        if not all(isinstance(bound, bytes | None) for bound in (text.start, text.end)):
            raise UsageError(f"malformed range {text!r}: its bounds are bytes, or None")
        return text
    start, separator, end = text.partition("..") if isinstance(text, str) else ("", "", "")
    if not separator:
        raise UsageError(f"malformed range {text!r}: write HEX..HEX, for example 6100..62 or 61..")
    try:
        return KeyRange(bytes.fromhex(start) if start else None, bytes.fromhex(end) if end else None)
    except ValueError as error:
        raise UsageError(f"malformed range {text!r}: {error}") from error
