"""Slots: the hash of a user key that a Redis cluster distributes by."""

from __future__ import annotations

import binascii
import bisect
import operator
from collections.abc import Iterable
from dataclasses import dataclass

from kvbatch.errors import UsageError

__all__ = ["SLOTS", "Slots", "parse_slots", "slot_of"]

SLOTS = 16384


def slot_of(user_key: bytes) -> int:
    """CRC16 (XMODEM) of the key modulo SLOTS. Of its hash tag alone where it has one: something between its first `{`
    and the next `}`."""
    start = user_key.find(b"{") + 1
    end = user_key.find(b"}", start) if start else -1
    return binascii.crc_hqx(user_key[start:end] if end > start else user_key, 0) % SLOTS


@dataclass(frozen=True, slots=True)
class Slots:
    """A set of slots. `ranges`: the first and last slot of each; sorted, neither touching nor overlapping."""

    ranges: tuple[tuple[int, int], ...]

    def __contains__(self, slot: int) -> bool:
        behind = bisect.bisect_right(self.ranges, slot, key=operator.itemgetter(0))
        return behind > 0 and slot <= self.ranges[behind - 1][1]

    def __str__(self) -> str:
        return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in self.ranges)


def parse_slots(text: str) -> Slots:
    """`0-100,200`: slots and ranges of them, in any order. Raises UsageError."""
    return Slots(tuple(_merged(sorted(_parse_range(text, part.strip()) for part in text.split(",")))))


def _parse_range(text: str, part: str) -> tuple[int, int]:
    first, _, last = part.partition("-")
    numbers = [first, last] if "-" in part else [first, first]
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise UsageError(f"malformed slots {text!r}: write slots and ranges of them, for example 0-100,200")
    low, high = (_parse_slot(text, number) for number in numbers)
    if low > high:
        raise UsageError(f"malformed slots {text!r}: {part} ends before it begins")
    return low, high


def _parse_slot(text: str, number: str) -> int:
    # Not by int() first: it takes as many digits as it is given.
    digits = number.lstrip("0") or "0"
    if len(digits) > 5 or int(digits) >= SLOTS:
        raise UsageError(f"malformed slots {text!r}: slots are 0 to {SLOTS - 1}")
    return int(digits)


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in ranges:
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged
