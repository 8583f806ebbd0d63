"""The ranges of a job that nobody has taken."""

from __future__ import annotations

import bisect
import threading

from kvbatch.ranges import Range

__all__ = ["RangeQueue"]


class RangeQueue:
    """Ranges that are not complete yet, the largest first."""

    def __init__(self, ranges: list[Range]) -> None:
        self._lock = threading.Lock()
        self._ranges = sorted(ranges, key=lambda part: part.estimated_bytes)

    def take(self) -> Range | None:
        with self._lock:
            return self._ranges.pop() if self._ranges else None

    def add(self, part: Range) -> None:
        with self._lock:
            bisect.insort(self._ranges, part, key=lambda each: each.estimated_bytes)

    @property
    def waiting(self) -> int:
        """Ranges that nobody has taken."""
        with self._lock:
            return len(self._ranges)
