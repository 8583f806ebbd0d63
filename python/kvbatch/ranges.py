"""Ranges: the unit of scheduling and of resume."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kvbatch._core.store import TablePlace
from kvbatch.errors import UsageError

__all__ = ["REVERSE_COMPARATOR", "KeyRange", "Range", "describe_key", "optional_hex", "parse_key_range"]

REVERSE_COMPARATOR = "rocksdb.ReverseBytewiseComparator"


@dataclass(frozen=True, slots=True)
class KeyRange:
    """[start, end) in the order of the column family; None is the first, or past the last, key."""

    start: bytes | None = None
    end: bytes | None = None

    def __str__(self) -> str:
        return f"{optional_hex(self.start) or ''}..{optional_hex(self.end) or ''}"


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
