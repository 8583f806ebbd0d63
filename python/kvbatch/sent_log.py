"""How much of each range was sent, and how much of it again, in a file that outlives a killed sender.

The file holds 16 bytes a range, little-endian: how far the range was sent, and what was sent again, both in bytes of
keys and values.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

__all__ = ["SentLog"]

_RANGE = struct.Struct("<QQ")


def _open_or_make(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o600)


class SentLog:
    """Each range is recorded by one thread at a time. What the file cannot keep is counted in memory alone."""

    def __init__(self, path: Path, ranges: int, *, anew: bool, on_lost: Callable[[OSError], None]) -> None:
        """Goes on with what an earlier run recorded at `path`, unless the job begins `anew` or had other ranges.
        `on_lost` is called, from any thread, when the file cannot be read or written."""
        self._on_lost = on_lost
        self._sent = [(0, 0)] * ranges
        self._file: io.FileIO | None = None
        size = _RANGE.size * ranges
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not mapped: a frame may well cost a system call, and a full disk is an error then, not a SIGBUS.
            self._file = open(path, "r+b", buffering=0, opener=_open_or_make)  # noqa: SIM115 - see close
            recorded = os.pread(self._file.fileno(), size + 1, 0)
            if len(recorded) == size and not anew:
                self._sent = list(_RANGE.iter_unpack(recorded))
            else:
                self._file.truncate(0)
                self._file.truncate(size)
        except OSError as error:
            self._on_lost(error)

    @property
    def resent_bytes(self) -> int:
        """Of the whole job, earlier runs included."""
        return sum(again for _, again in self._sent)

    def record(self, range_id: int, start: int, end: int) -> None:
        """The bytes of the range from `start` to `end` are about to be sent."""
        furthest, again = self._sent[range_id]
        again += max(0, min(end, furthest) - start)
        self._sent[range_id] = furthest, again = max(furthest, end), again
        if self._file is not None:
            try:
                os.pwrite(self._file.fileno(), _RANGE.pack(furthest, again), _RANGE.size * range_id)
            except OSError as error:
                self._on_lost(error)

    def close(self) -> None:
        """What was counted can still be asked for."""
        if self._file is not None:
            self._file.close()
            self._file = None
