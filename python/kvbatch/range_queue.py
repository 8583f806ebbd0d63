"""The ranges of a job that nobody has taken."""

from __future__ import annotations

import bisect
import threading

from kvbatch.ranges import Range

__all__ = ["RangeQueue"]


class RangeQueue:
    """Ranges that are not complete yet, the largest first; or, `in_order`, that of the least id first."""

    def __init__(self, ranges: list[Range], *, in_order: bool = False) -> None:
        self._lock = threading.Lock()
        self._key = _by_id if in_order else _by_size
        self._ranges = sorted(ranges, key=self._key)

    def take(self) -> Range | None:
        with self._lock:
            return self._ranges.pop() if self._ranges else None

    def add(self, part: Range) -> None:
        with self._lock:
            bisect.insort(self._ranges, part, key=self._key)

    @property
    def waiting(self) -> int:
        """Ranges that nobody has taken."""
        with self._lock:
            return len(self._ranges)


# The last is taken first.


def _by_size(part: Range) -> int:
    return part.estimated_bytes


def _by_id(part: Range) -> int:
    return -part.id
