"""The streams of a session and their threads: as many as are wanted, as long as there are ranges."""

from __future__ import annotations

import threading
from collections.abc import Callable

from kvbatch.job_stream import JobStream, RangeQueue

__all__ = ["StreamGroup"]


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
        for _ in range(min(wanted - len(working), self._queue.waiting)):
            stream = self._make(len(self.streams))
            thread = threading.Thread(target=stream.run, name=f"kvbatch-stream-{stream.index}", daemon=True)
            self.streams.append(stream)
            self._threads.append(thread)
            thread.start()

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
