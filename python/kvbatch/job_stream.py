"""One stream of a job at its sender: a thread that takes ranges from the queue and moves them, a frame a turn."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kvbatch._core.frame import BufferPool, Frame
from kvbatch._core.store import BuiltFile, Cursor, RangeReader, SourceStore, SstBuilder, StopReason, record_sent
from kvbatch.compression import CodecChooser
from kvbatch.errors import KvbatchError, SourceError, StoppedError
from kvbatch.ranges import Range
from kvbatch.sent_log import SentLog
from kvbatch.target import FILE_PIECE_BYTES, TargetSession, TargetStream
from kvbatch.target_job import FileTotals
from kvbatch.units import format_bytes

__all__ = ["JobStream", "RangeQueue", "StreamCounters"]

# Asking what became durable costs little, but not nothing.
_FRAMES_PER_LOOK = 16
# So many frames take one call of the core, if the window has room and the link takes them in a moment.
_FRAMES_PER_RUN = 8
# Keys and values that one call of the core puts into an SST file: between two of them a stop is heeded.
_BUILD_STEP_BYTES = 8 << 20


@contextlib.contextmanager
def open_source_file(path: Path) -> Iterator[int]:
    """Raises SourceError when it cannot be opened."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SourceError(f"open {path}: {error.strerror}") from error
    try:
        yield fd
    finally:
        os.close(fd)


class RangeQueue:
    """Ranges that are not complete yet, the largest first."""

    def __init__(self, ranges: list[Range]) -> None:
        self._lock = threading.Lock()
        self._ranges = sorted(ranges, key=lambda part: part.estimated_bytes)

    def take(self) -> Range | None:
        with self._lock:
            return self._ranges.pop() if self._ranges else None


@dataclass(slots=True)
class StreamCounters:
    """Written by one stream, read by the monitor."""

    entries: int = 0
    raw_bytes: int = 0
    batches: int = 0
    wire_bytes: int = 0

    def add(self, entries: int, raw_bytes: int, batches: int = 1) -> None:
        self.entries += entries
        self.raw_bytes += raw_bytes
        self.batches += batches


@dataclass(slots=True)
class JobStream:
    """What one stream needs; `run` is its thread."""

    index: int
    source: SourceStore
    session: TargetSession
    queue: RangeQueue
    cursors: dict[int, Cursor]
    sent: SentLog
    pool: BufferPool
    batch_bytes: int
    # What an SST file that is built here may take of memory.
    file_bytes: int
    codecs: CodecChooser
    counters: StreamCounters
    stopping: threading.Event
    on_started: Callable[[Range], None]
    on_durable: Callable[[Cursor], None]
    on_ended: Callable[[], None]
    error: KvbatchError | Exception | None = None
    ended: bool = False
    _stream: TargetStream | None = field(default=None, init=False)

    def run(self) -> None:
        try:
            self._run()
        except Exception as error:
            self.error = error
        finally:
            self.ended = True
            self.on_ended()

    def interrupt(self) -> None:
        """Makes a call that waits for the target fail. From any thread."""
        if self._stream is not None:
            self._stream.interrupt()

    def _run(self) -> None:
        if self.stopping.is_set():
            return
        stream = self._stream = self.session.stream(self.index)
        frame = Frame(self.pool)
        try:
            while (part := self.queue.take()) is not None:
                self.on_started(part)
                manifest = self.session.reply.manifest
                if part.id in manifest.written_ranges:
                    self._copy(stream, frame, part)
                elif part.file:
                    self._graft(stream, part)
                elif manifest.lane == "sst":
                    self._build(stream, part)
                else:
                    self._copy(stream, frame, part)
            frame.release()
            stream.drain()
        finally:
            stream.close()
            self._take_durable(stream)
            self.counters.wire_bytes += stream.wire_bytes

    def _copy(self, stream: TargetStream, frame: Frame, part: Range) -> None:
        cursor = self.cursors.get(part.id, Cursor(part.id))
        reader = RangeReader(
            self.source,
            part.column_family,
            part.start,
            part.end,
            after=cursor.last_key if cursor.entries else None,
            target_family=self.session.reply.family_ids[part.column_family],
            digest=cursor.digest,
        )
        stream.begin(part)
        with self.sent.mark(part.id) as mark:
            entries, raw_bytes = self._put_batches(stream, frame, part, reader, cursor, mark)
        stream.end(entries, raw_bytes, reader.digest)
        self._take_durable(stream)

    def _graft(self, stream: TargetStream, part: Range) -> None:
        """Moves the source's own file for a range, from its first byte."""
        stream.begin(part)
        table = self.source.table(part.column_family, part.file)
        digest = self._put_file(stream, part, Path(self.source.path) / part.file, table.entries)
        stream.end_file(FileTotals(table.entries, table.raw_bytes, table.largest, graft=True))
        stream.end(table.entries, table.raw_bytes, digest)
        self._take_durable(stream)

    def _put_file(self, stream: TargetStream, part: Range, path: Path, entries: int) -> bytes:
        """The running digest behind it; what the file holds is counted as its bytes go."""
        digest, counted = bytes(16), 0
        with open_source_file(path) as fd:
            for offset in range(0, part.file_bytes, FILE_PIECE_BYTES):
                if self.stopping.is_set():
                    raise StoppedError("stopped on request")
                length = min(FILE_PIECE_BYTES, part.file_bytes - offset)
                self.sent.record(part.id, offset, offset + length)
                digest = stream.put_file(fd, offset, length, str(path), digest)
                due = entries * (offset + length) // part.file_bytes
                self.counters.add(due - counted, length)
                counted = due
        return digest

    def _build(self, stream: TargetStream, part: Range) -> None:
        """Moves a range as SST files that are built here, one behind the other."""
        cursor = self.cursors.get(part.id, Cursor(part.id))
        families = {family.name: family for family in self.session.reply.manifest.families}
        builder = SstBuilder(
            self.source,
            part.column_family,
            part.start,
            part.end,
            after=cursor.last_key if cursor.entries else None,
            target=families[part.column_family],
            file_bytes=self.file_bytes,
        )
        stream.begin(part)
        entries, raw_bytes, digest = cursor.entries, cursor.raw_bytes, cursor.digest
        ended = False
        while not ended:
            file = self._build_file(builder)
            ended = file.ends_range
            if file.entries:
                digest = self._put_built(stream, part, builder.fd, file, raw_bytes, digest)
                entries += file.entries
                raw_bytes += file.raw_bytes
            self._take_durable(stream)
        stream.end(entries, raw_bytes, digest)
        self._take_durable(stream)

    def _build_file(self, builder: SstBuilder) -> BuiltFile:
        while True:
            if self.stopping.is_set():
                raise StoppedError("stopped on request")
            file = builder.build(_BUILD_STEP_BYTES)
            if file.whole:
                return file

    def _put_built(
        self, stream: TargetStream, part: Range, fd: int, file: BuiltFile, before: int, digest: bytes
    ) -> bytes:
        """The running digest behind the file, before which stand `before` bytes of its range. What it holds is counted
        as its bytes go."""
        entries, raw_bytes = 0, before
        for offset in range(0, file.file_bytes, FILE_PIECE_BYTES):
            if self.stopping.is_set():
                raise StoppedError("stopped on request")
            end = min(offset + FILE_PIECE_BYTES, file.file_bytes)
            due_entries = file.entries * end // file.file_bytes
            due_bytes = before + file.raw_bytes * end // file.file_bytes
            self.sent.record(part.id, raw_bytes, due_bytes)
            digest = stream.put_file(fd, offset, end - offset, f"an SST file of {part}", digest)
            self.counters.add(due_entries - entries, due_bytes - raw_bytes)
            entries, raw_bytes = due_entries, due_bytes
        stream.end_file(FileTotals(file.entries, file.raw_bytes, file.last_key, graft=False))
        return digest

    def _put_batches(
        self, stream: TargetStream, frame: Frame, part: Range, reader: RangeReader, cursor: Cursor, mark: memoryview
    ) -> tuple[int, int]:
        """Everything behind `cursor`; entries and bytes of the whole range."""
        entries, raw_bytes = cursor.entries, cursor.raw_bytes
        looked_at = self.counters.batches
        codec = self.codecs.codec()
        filled = reader.fill(frame, self.batch_bytes, codec)
        while True:
            if self.stopping.is_set():
                raise StoppedError("stopped on request")
            large = filled.stop is StopReason.LARGE_ENTRY
            if large:
                self._check_large(part, reader, filled.needed_bytes)
                frame.release()
                filled = reader.fill(frame, filled.needed_bytes, codec)
            if not filled.entries:
                break
            ended = filled.stop is StopReason.END
            record_sent(mark, raw_bytes, raw_bytes + filled.raw_bytes)
            entries += filled.entries
            raw_bytes += filled.raw_bytes
            self.counters.add(filled.entries, filled.raw_bytes)
            codec = self.codecs.learn(frame)
            if ended or large:
                stream.put(frame, reader.digest)
                if ended:
                    break
                frame.release()
                filled = reader.fill(frame, self.batch_bytes, codec)
            else:
                run = stream.put_run(
                    frame,
                    reader,
                    batch_bytes=self.batch_bytes,
                    codec=codec,
                    frames=_FRAMES_PER_RUN if self.codecs.settled else 1,
                    mark=mark,
                    sent_bytes=raw_bytes,
                )
                entries += run.entries
                raw_bytes += run.raw_bytes
                self.counters.add(run.entries, run.raw_bytes, run.frames - 1)
                filled = run.next
            if self.counters.batches >= looked_at + _FRAMES_PER_LOOK:
                looked_at = self.counters.batches
                self._take_durable(stream)
        return entries, raw_bytes

    def _take_durable(self, stream: TargetStream) -> None:
        for cursor in stream.take_durable():
            self.on_durable(cursor)

    def _check_large(self, part: Range, reader: RangeReader, needed: int) -> None:
        limit = min(self.session.reply.max_frame_bytes, self.pool.max_bytes // 2)
        if needed > limit:
            raise SourceError(
                f"{part}: the entry behind key {reader.last_key.hex() or '(the first)'} takes {format_bytes(needed)}, "
                f"more than the {format_bytes(limit)} that both sides' --max-memory allows in one frame. "
                "Nothing is lost; raise --max-memory to more than twice the entry on both sides and run it again"
            )
