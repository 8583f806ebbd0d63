"""How much of each range was sent, and how much of it again, in a file that outlives a killed sender.

The file holds 16 bytes a range, little-endian: how far the range was sent, and what was sent again, both in bytes of
keys and values.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path

from kvbatch._core.store import record_sent

__all__ = ["SentLog"]

_NUMBER_BYTES = 8
_NUMBERS_PER_RANGE = 2
# There is room for one more such step of ranges at least.
_CAPACITY_STEP = 64


class SentLog:
    """Each range is recorded by one thread at a time. What the file cannot keep is counted in memory alone."""

    def __init__(self, path: Path, ranges: int, *, anew: bool, on_lost: Callable[[OSError], None]) -> None:
        """Goes on with what an earlier run recorded at `path`, unless the job begins `anew`. There is room for `ranges`
        and some more that may be split off. `on_lost` is called when the file cannot be read or written."""
        self.capacity = _CAPACITY_STEP * (ranges // _CAPACITY_STEP + 2)
        size = _NUMBER_BYTES * _NUMBERS_PER_RANGE * self.capacity
        self._file: mmap.mmap | None = None
        self._sent = memoryview(bytearray(size)).cast("Q")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if anew or os.fstat(file).st_size % (_NUMBER_BYTES * _NUMBERS_PER_RANGE):
                    os.ftruncate(file, 0)
                # All of its blocks, so that a full disk is an error here and no SIGBUS at a write to the mapping, which
                # costs a frame next to nothing.
                os.posix_fallocate(file, 0, size)
                self._file = mmap.mmap(file, size)
                self._sent = memoryview(self._file).cast("Q")
            finally:
                os.close(file)
        except OSError as error:
            on_lost(error)

    @property
    def resent_bytes(self) -> int:
        """Of the whole job, earlier runs included."""
        return sum(self._sent[1::_NUMBERS_PER_RANGE])

    def mark(self, range_id: int) -> memoryview:
        """The two numbers of a range, for the core to record in. To be let go of before `close`."""
        at = _NUMBERS_PER_RANGE * range_id
        return self._sent[at : at + _NUMBERS_PER_RANGE]

    def record(self, range_id: int, start: int, end: int) -> None:
        """The bytes of the range from `start` to `end` are about to be sent."""
        record_sent(self.mark(range_id), start, end)

    def close(self) -> None:
        """What was counted can still be asked for."""
        if self._file is not None:
            mapped, self._sent = self._sent, memoryview(bytearray(self._sent)).cast("Q")
            mapped.release()
            self._file.close()
            self._file = None
