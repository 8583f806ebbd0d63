"""A directory on this machine as target: the receiver's own job code, called without a wire."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kvbatch._core.base import file_crc32c, write_back
from kvbatch._core.codec import Codec
from kvbatch._core.frame import Frame
from kvbatch._core.store import BatchRun, BuiltPiece, Cursor, RangeReader, SstBuilder
from kvbatch.errors import CorruptionError, KvbatchError, NoSpaceError, ProtocolError, SourceError, TargetError
from kvbatch.flow.stream_meter import HEALTH_SECONDS, StreamMeter
from kvbatch.manifest import Manifest
from kvbatch.ranges import Range
from kvbatch.target import FileSums
from kvbatch.target_files import FileApplier, open_job
from kvbatch.target_job import Applier, FileTotals, Job, OpenReply

__all__ = ["AppliedRanges", "LocalSession", "copy_piece"]

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# Between two file systems of different kinds, and where a file system has no such thing.
_NO_COPY_FILE_RANGE = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
_COPY_BYTES = 1 << 20


class AppliedRanges:
    """The ranges of one stream at its target: the one that is open, and those whose last files are under way."""

    def __init__(self, job: Job) -> None:
        self._job = job
        # A file and what is filled behind it while it is made durable are together no more than one full file.
        self._overlap_bytes = job.manifest.sst_file_bytes // 4
        self._open: Applier | None = None
        self._finishing: list[Applier] = []
        self._left_over: list[Cursor] = []

    def begin(self, range_id: int, offset: int = 0) -> None:
        if self._open is not None:
            raise ProtocolError(f"range {self._open.applied.range} is still open in this stream")
        self._open = self._job.open_range(range_id, offset)

    def current(self) -> Applier:
        if self._open is None:
            raise ProtocolError("no range is open in this stream")
        if self._finishing and self._open.unfinished_bytes > self._overlap_bytes:
            self._drain_finishing()
        return self._open

    def take_piece(self, take: Callable[[int, int], int], length: int) -> bytes:
        """The next piece of a file of the open range, which `take` puts into a file at an offset, returning its
        crc32c; the running digest behind it."""
        applier = self.current()
        crc32c = take(applier.open_file(), applier.file_bytes)
        applier.add_piece(length, crc32c)
        return applier.applied.digest

    def end_file(self, totals: FileTotals) -> None:
        self.current().end_file(totals.entries, totals.raw_bytes, totals.last_key, totals.graft)

    def link_file(self, path: str) -> None:
        applier = self.current()
        assert isinstance(applier, FileApplier), "hard links are made in the lane `files` only"
        applier.link(path)

    def finish(self, entries: int, raw_bytes: int, digest: bytes) -> None:
        applier = self.current()
        self._drain_finishing()
        applier.finish(entries, raw_bytes, digest)
        self._finishing.append(applier)
        self._open = None

    def health(self) -> dict[str, int] | None:
        return self._job.health()

    def take_durable(self) -> list[Cursor]:
        left_over, self._left_over = self._left_over, []
        cursors = left_over + self._take_finished()
        if self._open is not None and (cursor := self._open.take_durable()) is not None:
            cursors.append(cursor)
        return cursors

    def _take_finished(self) -> list[Cursor]:
        cursors = []
        for applier in list(self._finishing):
            cursor = applier.take_durable()
            if cursor is not None:
                cursors.append(cursor)
                if cursor.complete:
                    self._finishing.remove(applier)
                    self._job.release_range(cursor.range)
        return cursors

    def drain(self) -> None:
        """Waits until everything that was finished is durable."""
        for applier in self._finishing:
            applier.drain()

    def _drain_finishing(self) -> None:
        """At most one file of a stream's earlier ranges is under way beside the one that is being filled."""
        if self._finishing:
            self.drain()
            self._left_over += self._take_finished()

    def close(self) -> None:
        """Makes durable what was applied, as far as it still can be."""
        appliers = [*self._finishing, *([self._open] if self._open is not None else [])]
        for applier in appliers:
            with contextlib.suppress(KvbatchError):
                applier.flush()
                applier.drain()
            # Not when it is collected, which an exception may put off until others write to the same files.
            applier.close()
            self._job.release_range(applier.applied.range)
        self._left_over = self.take_durable()
        self._finishing.clear()
        self._open = None


def _copy_some(source: int, source_offset: int, target: int, target_offset: int, length: int) -> int:
    try:
        return os.copy_file_range(source, target, length, source_offset, target_offset)
    except OSError as error:
        if error.errno not in _NO_COPY_FILE_RANGE:
            raise
    return os.pwrite(target, os.pread(source, min(length, _COPY_BYTES), source_offset), target_offset)


def copy_piece(source: int, source_offset: int, target: int, target_offset: int, length: int, name: str) -> None:
    """Copies within the kernel, and not at all where the file system shares blocks. Raises SourceError naming `name`,
    TargetError, NoSpaceError."""
    while length > 0:
        try:
            copied = _copy_some(source, source_offset, target, target_offset, length)
        except OSError as error:
            kind = NoSpaceError if error.errno in _NO_SPACE else TargetError
            raise kind(f"write the copy of {name}: {error.strerror}") from error
        if copied == 0:
            raise SourceError(f"read {name}: the file was cut at byte {source_offset} while it was copied")
        source_offset += copied
        target_offset += copied
        length -= copied


class LocalStream:
    wire_bytes = 0
    network_seconds = 0.0

    def __init__(self, job: Job, meter: StreamMeter) -> None:
        self._job = job
        self._ranges = AppliedRanges(job)
        self._meter = meter
        self.sent_bytes = 0

    def _hand_over(self, length: int) -> None:
        """There is no wire, but a limit holds here too."""
        self._meter.limiter.charge(length)
        self.sent_bytes += length

    def _note_applied(self, seconds: float, raw_bytes: int) -> None:
        self._meter.applied(seconds, raw_bytes)
        if time.monotonic() >= self._meter.health_at + HEALTH_SECONDS:
            self.heartbeat()

    def begin(self, part: Range, offset: int = 0) -> None:
        self._ranges.begin(part.id, offset)

    def put(self, frame: Frame, digest: bytes) -> None:
        self._hand_over(frame.payload_length)
        applier = self._ranges.current()
        began = time.monotonic()
        applier.apply(frame)
        self._note_applied(time.monotonic() - began, frame.raw_length)
        if applier.applied.digest != digest:
            raise CorruptionError("the target's running digest is not the source's: memory changed on the way")

    def put_run(
        self,
        frame: Frame,
        reader: RangeReader,
        *,
        batch_bytes: int,
        codec: Codec,
        frames: int,
        mark: memoryview,
        sent_bytes: int,
    ) -> BatchRun:
        del frames, mark, sent_bytes
        self.put(frame, reader.digest)
        return BatchRun(reader.fill(frame, batch_bytes, codec))

    def put_file(self, fd: int, offset: int, length: int, name: str, sums: FileSums) -> FileSums:
        crc32c = 0
        seconds = 0.0

        def copy(target: int, target_offset: int) -> int:
            nonlocal crc32c, seconds
            # So much that a limit lets through at once, and that a sample finds counted.
            for done in range(0, length, _COPY_BYTES):
                part = min(_COPY_BYTES, length - done)
                self._hand_over(part)
                began = time.monotonic()
                copy_piece(fd, offset + done, target, target_offset + done, part, name)
                write_back(target, target_offset + done, part)
                seconds += time.monotonic() - began
            crc32c = file_crc32c(fd, offset, length, name)
            return crc32c

        self._ranges.take_piece(copy, length)
        self._note_applied(seconds, length)
        return sums.behind(offset, length, crc32c)

    def put_piece(self, builder: SstBuilder, piece: BuiltPiece, digest: bytes, skip: int = 0) -> bytes:
        del digest
        length = piece.length - skip
        self._hand_over(length)
        began = time.monotonic()
        behind = self._ranges.take_piece(lambda file, offset: builder.write(file, offset, skip), length)
        self._note_applied(time.monotonic() - began, length)
        return behind

    def end_file(self, totals: FileTotals) -> None:
        self._ranges.end_file(totals)

    def link_file(self, path: str) -> None:
        self._ranges.link_file(path)

    def end(self, entries: int, raw_bytes: int, digest: bytes) -> None:
        self._ranges.finish(entries, raw_bytes, digest)

    def heartbeat(self) -> None:
        if (health := self._job.health()) is not None:
            self._meter.note_health(health)

    def take_durable(self) -> list[Cursor]:
        return self._ranges.take_durable()

    def drain(self) -> None:
        self._ranges.drain()

    def interrupt(self) -> None:
        """Nothing here waits for anybody."""

    def close(self) -> None:
        self._ranges.close()


class LocalSession:
    def __init__(self, path: Path, manifest: Manifest, max_frame_bytes: int, max_memory: int = 0) -> None:
        """`max_memory`: of this process, 0 for no bound."""
        self._job = open_job(path, manifest, max_memory=max_memory)
        self._reply = self._job.reply(max_frame_bytes)
        self._lock = threading.Lock()

    @property
    def reply(self) -> OpenReply:
        return self._reply

    def stream(self, index: int, meter: StreamMeter | None = None) -> LocalStream:
        return LocalStream(self._job, meter or StreamMeter(index))

    def split(self, range_id: int, key: bytes) -> Range:
        with self._lock:
            self._job.split(range_id, key)
            self._reply = dataclasses.replace(self._reply, manifest=self._job.manifest)
            return self._job.manifest.ranges[-1]

    def settle(self, seconds: float) -> OpenReply:
        del seconds
        return self._job.reply(self._reply.max_frame_bytes)

    def finish(self) -> None:
        self._job.finish()

    def close(self) -> None:
        with contextlib.suppress(KvbatchError):
            self._job.close()
