"""What a receiver counts: integers that the streams add to, and that whoever asks adds up."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from kvbatch.errors import KvbatchError

__all__ = ["ReceiverCounters", "StreamCounters", "power_of_two"]

# A bucket for each power of two, up to a tebibyte or, in microseconds, twelve days.
_BUCKETS = 41


def power_of_two(value: int) -> int:
    """The smallest power of two that is no less than `value`, as its exponent: the bucket that counts it."""
    return min(max(0, value - 1).bit_length(), _BUCKETS - 1)


@dataclass(slots=True)
class StreamCounters:
    """Written by the one thread of a stream, read by any.

    `batch_bytes` and `apply_microseconds` count, by `power_of_two`, the batches of that size and those that took so
    long to apply; the sums are beside them.
    """

    frames: int = 0
    wire_bytes: int = 0
    entries: int = 0
    ranges_completed: int = 0
    batch_bytes: list[int] = field(default_factory=lambda: [0] * _BUCKETS)
    batch_bytes_sum: int = 0
    apply_microseconds: list[int] = field(default_factory=lambda: [0] * _BUCKETS)
    apply_microseconds_sum: int = 0

    def count_batch(self, entries: int, raw_bytes: int, apply_nanoseconds: int) -> None:
        self.frames += 1
        self.entries += entries
        self.batch_bytes[power_of_two(raw_bytes)] += 1
        self.batch_bytes_sum += raw_bytes
        microseconds = apply_nanoseconds // 1000
        self.apply_microseconds[power_of_two(microseconds)] += 1
        self.apply_microseconds_sum += microseconds

    def add(self, other: StreamCounters) -> None:
        for each in fields(StreamCounters):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            total = [a + b for a, b in zip(mine, theirs, strict=True)] if isinstance(mine, list) else mine + theirs
            setattr(self, each.name, total)


class ReceiverCounters:
    """Of all streams, those that ended included, and of all connections. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = StreamCounters()
        self._open: list[StreamCounters] = []
        self._connections = 0
        self._errors: Counter[str] = Counter()

    @contextlib.contextmanager
    def stream(self) -> Iterator[StreamCounters]:
        """The counters of a stream, as long as it lasts."""
        mine = StreamCounters()
        with self._lock:
            self._open.append(mine)
        try:
            yield mine
        finally:
            with self._lock:
                # By identity: two streams that counted the same are equal.
                self._open = [each for each in self._open if each is not mine]
                self._ended.add(mine)

    def count_connection(self) -> None:
        with self._lock:
            self._connections += 1

    def count_error(self, error: KvbatchError) -> None:
        with self._lock:
            self._errors[type(error).__name__] += 1

    def streams(self) -> StreamCounters:
        """All streams together."""
        total = StreamCounters()
        with self._lock:
            for each in (self._ended, *self._open):
                total.add(each)
        return total

    @property
    def connections(self) -> int:
        """Accepted so far."""
        with self._lock:
            return self._connections

    def errors(self) -> dict[str, int]:
        """Connections that ended with an error, by the name of its class."""
        with self._lock:
            return dict(self._errors)
