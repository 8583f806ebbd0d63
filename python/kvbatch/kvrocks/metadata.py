"""The values of Kvrocks' column family `metadata`.

u8 flags     bit 7: 64-bit encoding; bits 0 to 3: the type
expire       64-bit: u64 milliseconds; else u32 seconds; since the epoch, 0 is never
-- not of strings and JSON documents, whose value follows at once --
u64 version
size         64-bit: u64; else u32
…            more, which depends on the type

Releases since 2.9 write the 64-bit encoding; a value keeps the encoding that it has.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["HEADER_BYTES", "MAY_BE_EMPTY", "WITHOUT_SUBKEYS", "Metadata", "Type", "header_bytes", "parse_metadata"]

# No header is longer.
HEADER_BYTES = 25


class Type(enum.IntEnum):
    STRING = 1
    HASH = 2
    LIST = 3
    SET = 4
    ZSET = 5
    BITMAP = 6
    SORTEDINT = 7
    STREAM = 8
    BLOOM = 9
    JSON = 10
    HYPERLOGLOG = 11


# All of them is their metadata, which has neither version nor size.
WITHOUT_SUBKEYS = frozenset({Type.STRING, Type.JSON})
# A key of another type whose size is 0 is gone.
MAY_BE_EMPTY = frozenset({Type.STRING, Type.STREAM, Type.BLOOM, Type.JSON, Type.HYPERLOGLOG})


@dataclass(frozen=True, slots=True)
class Metadata:
    """`expire_ms`: milliseconds since the epoch; 0: never. `version` and `size` are None of types without subkeys."""

    type: Type
    expire_ms: int
    version: int | None
    size: int | None
    is_64bit: bool

    def is_expired(self, now_ms: int) -> bool:
        return 0 < self.expire_ms < now_ms

    def is_empty(self) -> bool:
        """Whether the key is gone because nothing is left in it."""
        return self.size == 0 and self.type not in MAY_BE_EMPTY

    def is_live(self, now_ms: int) -> bool:
        return not self.is_expired(now_ms) and not self.is_empty()


def header_bytes(kind: Type, is_64bit: bool) -> int:
    """The least that metadata of this type and encoding has."""
    width = 8 if is_64bit else 4
    return 1 + width + (0 if kind in WITHOUT_SUBKEYS else 8 + width)


def parse_metadata(value: bytes) -> Metadata:
    """Reads the header, which takes the first HEADER_BYTES at most. Raises ValueError for a value that is too short or
    of an unknown type."""
    if not value:
        raise ValueError("metadata is empty")
    is_64bit = bool(value[0] & 0x80)
    try:
        kind = Type(value[0] & 0x0F)
    except ValueError:
        raise ValueError(f"metadata of the unknown type {value[0] & 0x0F}") from None
    width = 8 if is_64bit else 4
    version_at = 1 + width
    size_at = version_at + 8
    needed = header_bytes(kind, is_64bit)
    if len(value) < needed:
        raise ValueError(f"metadata of a {kind.name.lower()} has {len(value)} bytes, at least {needed} are needed")
    expire = int.from_bytes(value[1:version_at], "big")
    return Metadata(
        type=kind,
        expire_ms=expire if is_64bit else 1000 * expire,
        version=None if kind in WITHOUT_SUBKEYS else int.from_bytes(value[version_at:size_at], "big"),
        size=None if kind in WITHOUT_SUBKEYS else int.from_bytes(value[size_at:needed], "big"),
        is_64bit=is_64bit,
    )
