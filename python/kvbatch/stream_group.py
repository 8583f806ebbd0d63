"""The streams of a session and their threads: as many as are wanted, as long as there are ranges."""

from __future__ import annotations

import threading
from collections.abc import Callable

from kvbatch.job_stream import JobStream
from kvbatch.range_queue import RangeQueue

__all__ = ["LEAST_SHARED_BYTES", "StreamGroup"]

# Of keys and values that a range has left: less is done before it is worth another connection and another file.
LEAST_SHARED_BYTES = 64 << 20


class StreamGroup:
    """Used by the job's thread. `streams` are all that were started, ended ones too, and grows only."""

    def __init__(self, make: Callable[[int], JobStream], queue: RangeQueue, halt: threading.Event) -> None:
        """`make` makes the stream of an index; `halt` makes every stream stop."""
        self._make = make
        self._queue = queue
        self._halt = halt
        self._threads: list[threading.Thread] = []
        self.streams: list[JobStream] = []

    def adjust(self, wanted: int) -> None:
        """Starts streams until `wanted` are at work, while there are ranges to take, or has the surplus end behind the
        ranges that they have."""
        if self._halt.is_set():
            return
        working = [stream for stream in self.streams if not stream.ended and not stream.retiring]
        for stream in working[wanted:]:
            stream.retiring = True
        waiting = self._queue.waiting
        if len(working) < wanted and waiting == 0:
            self._have_shared(working)
        for _ in range(min(wanted - len(working), waiting)):
            stream = self._make(len(self.streams))
            thread = threading.Thread(target=stream.run, name=f"kvbatch-stream-{stream.index}", daemon=True)
            self.streams.append(stream)
            self._threads.append(thread)
            thread.start()

    def _have_shared(self, working: list[JobStream]) -> None:
        """Somebody has nothing to do: whoever has most left to do gives half of it away."""
        if any(stream.split_wanted for stream in working):
            return
        most = max(working, key=lambda stream: stream.left_bytes, default=None)
        if most is not None and most.left_bytes >= LEAST_SHARED_BYTES:
            most.split_wanted = True

    @property
    def working(self) -> int:
        return sum(not stream.ended and not stream.retiring for stream in self.streams)

    @property
    def ended(self) -> bool:
        return all(stream.ended for stream in self.streams)

    @property
    def errors(self) -> list[Exception]:
        return [stream.error for stream in self.streams if stream.error is not None]

    def interrupt(self) -> None:
        """Makes streams that wait for the target fail."""
        for stream in self.streams:
            stream.interrupt()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()
