"""stdout and stderr of the command line: what cannot be written there is no bug of kvbatch."""

from __future__ import annotations

import errno
import io
import os
import sys
import threading
from typing import Any, TextIO

from kvbatch.errors import KvbatchError, NoSpaceError

__all__ = ["ReaderGoneError", "take_streams"]

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class ReaderGoneError(Exception):
    """Whoever read the output has read enough, as `head` does: the command ends without a word."""


class _Stream(io.FileIO):
    """A stream that says in the words of kvbatch why it cannot be written. Once it has, it drops what comes: what is
    left in the buffers above would be written again and again."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, "w", closefd=False)
        self._given_up = False

    def write(self, data: Any, /) -> int:
        size = memoryview(data).nbytes
        if self._given_up:
            return size
        try:
            return super().write(data)
        except OSError as error:
            self._give_up(error)
            return size

    def _give_up(self, error: OSError) -> None:
        self._given_up = True
        if isinstance(error, BrokenPipeError):
            raise ReaderGoneError from error
        kind = NoSpaceError if error.errno in _NO_SPACE else KvbatchError
        raise kind(
            f"stdout cannot be written: {error.strerror}. What was done is done; what there is to say of it is missing"
        ) from error


class _ErrorStream(_Stream):
    """Progress and logs that nobody can keep hold no work up, and no thread but the main one ends for want of a
    reader."""

    def _give_up(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError) and threading.current_thread() is threading.main_thread():
            super()._give_up(error)


def take_streams() -> None:
    """Puts them in the place of sys.stdout and sys.stderr: text as before; ReaderGoneError, NoSpaceError or
    KvbatchError where stdout cannot be written."""
    _open_missing()
    sys.stdout = _text_on(_Stream(1), sys.stdout)
    sys.stderr = _text_on(_ErrorStream(2), sys.stderr)


def _open_missing() -> None:
    """Gives the numbers of the three streams to /dev/null where the program was started without them, before a file
    of a store gets one and what is meant for people lands in it. A stdout that was closed cannot be written then
    either: whoever wants no result says so by /dev/null."""
    for fd, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)


def _text_on(stream: _Stream, before: TextIO | None) -> TextIO:
    if not isinstance(before, io.TextIOWrapper):  # it was closed when the program began
        return io.TextIOWrapper(io.BufferedWriter(stream), encoding="utf-8", errors="backslashreplace")
    return io.TextIOWrapper(
        io.BufferedWriter(stream),
        encoding=before.encoding,
        # A path that the terminal cannot show is shown all the same.
        errors="backslashreplace" if before.errors == "strict" else before.errors,
        line_buffering=before.line_buffering,
        write_through=before.write_through,
    )
