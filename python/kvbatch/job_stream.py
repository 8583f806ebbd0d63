"""One stream of a job at its sender: a thread that takes ranges from the queue and moves them, a frame a turn."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kvbatch._core.base import file_crc32c
from kvbatch._core.frame import BufferPool, Frame
from kvbatch._core.store import Cursor, OverlayReader, RangeReader, SourceStore, SstBuilder, StopReason, record_sent
from kvbatch.compression import CodecChooser
from kvbatch.errors import KvbatchError, SourceError, StoppedError
from kvbatch.flow.job_flow import JobFlow
from kvbatch.flow.stream_meter import StreamMeter
from kvbatch.ranges import Range
from kvbatch.sent_log import SentLog
from kvbatch.source_image import is_never_rewritten
from kvbatch.target import FILE_PIECE_BYTES, FileSums, TargetSession, TargetStream
from kvbatch.target_job import FileTotals
from kvbatch.units import format_bytes

__all__ = ["JobStream", "RangeQueue", "StreamCounters"]

# Asking what became durable costs little, but not nothing.
_FRAMES_PER_LOOK = 16
# So many frames take one call of the core, if the window has room and the link takes them in a moment.
_FRAMES_PER_RUN = 8


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

    @property
    def waiting(self) -> int:
        """Ranges that nobody has taken."""
        with self._lock:
            return len(self._ranges)


@dataclass(slots=True)
class StreamCounters:
    """Written by one stream, read by the monitor."""

    entries: int = 0
    raw_bytes: int = 0
    batches: int = 0
    wire_bytes: int = 0
    payload_bytes: int = 0
    read_seconds: float = 0.0
    compress_seconds: float = 0.0
    network_seconds: float = 0.0
    apply_seconds: float = 0.0
    applied_frames: int = 0

    def add(self, entries: int, raw_bytes: int, batches: int = 1) -> None:
        self.entries += entries
        self.raw_bytes += raw_bytes
        self.batches += batches

    def include(self, other: StreamCounters) -> None:
        for each in dataclasses.fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(frozen=True, slots=True)
class _Figures:
    """What a stream and its meter had counted when they were last looked at."""

    wire_bytes: int = 0
    sent_bytes: int = 0
    network_seconds: float = 0.0
    apply_seconds: float = 0.0
    applied_frames: int = 0

    @staticmethod
    def of(stream: TargetStream, meter: StreamMeter) -> _Figures:
        return _Figures(
            stream.wire_bytes, stream.sent_bytes, stream.network_seconds, meter.apply_seconds, meter.applied_frames
        )


@dataclass(slots=True)
class JobStream:
    """What one stream needs; `run` is its thread. The job's thread may change `batch_bytes`, `codecs`, `retiring` and
    the window of `meter` meanwhile: they hold from the next frame on."""

    index: int
    source: SourceStore
    session: TargetSession
    queue: RangeQueue
    cursors: dict[int, Cursor]
    sent: SentLog
    pool: BufferPool
    flow: JobFlow
    meter: StreamMeter
    batch_bytes: int
    codecs: CodecChooser
    link: bool
    counters: StreamCounters
    stopping: threading.Event
    on_started: Callable[[Range], None]
    on_durable: Callable[[Cursor], None]
    on_ended: Callable[[], None]
    error: KvbatchError | Exception | None = None
    ended: bool = False
    # Ends behind the range that it has.
    retiring: bool = False
    part: Range | None = field(default=None, init=False)
    range_bytes: int = field(default=0, init=False)  # of `part`, what an earlier session moved included
    _stream: TargetStream | None = field(default=None, init=False)
    _figures: _Figures = field(default_factory=_Figures, init=False)

    @property
    def compression(self) -> str:
        """What the next frame gets."""
        return self.codecs.chosen

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
        stream = self._stream = self.session.stream(self.index, self.meter)
        frame = Frame(self.pool)
        try:
            while not self.retiring and (part := self.queue.take()) is not None:
                self.part, self.range_bytes = part, 0
                self.on_started(part)
                self._move(stream, frame, part)
            self.part = None
            frame.release()
            stream.drain()
        finally:
            stream.close()
            self._take_durable(stream)

    def _move(self, stream: TargetStream, frame: Frame, part: Range) -> None:
        manifest = self.session.reply.manifest
        written = part.id in manifest.written_ranges
        # Where entries stand already, from a sender that did without the file, the rest follows them.
        begun = part.id in self.cursors and self.cursors[part.id].entries > 0
        if manifest.lane == "files":
            self._move_file(stream, part)
        elif part.file and not written and not begun:
            self._graft(stream, frame, part)
        elif manifest.lane == "sst" and not written:
            self._build(stream, part)
        else:
            self._copy(stream, frame, part)

    def _copy(self, stream: TargetStream, frame: Frame, part: Range) -> None:
        cursor = self.cursors.get(part.id, Cursor(part.id))
        self.range_bytes = cursor.raw_bytes
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

    def _graft(self, stream: TargetStream, frame: Frame, part: Range) -> None:
        """Moves the source's own file for a range, from its first byte, then what stands over it."""
        stream.begin(part)
        table = self.source.table(part.column_family, part.file)
        digest = self._put_file(stream, part, Path(self.source.path) / part.file, table.entries, 0, FileSums())
        stream.end_file(FileTotals(table.entries, table.raw_bytes, table.largest, graft=True))
        overlay = OverlayReader(
            self.source,
            part.column_family,
            part.file,
            part.start,
            part.end,
            self.session.reply.family_ids[part.column_family],
            digest,
        )
        self._put_overlay(stream, frame, part, overlay)
        stream.end(overlay.entries, overlay.raw_bytes, overlay.digest)
        self._take_durable(stream)

    def _put_overlay(self, stream: TargetStream, frame: Frame, part: Range, overlay: OverlayReader) -> None:
        """No trials of codecs here: what stands over a file is no sample of the rest."""
        sent = part.file_bytes
        filled = overlay.fill(frame, self.batch_bytes, self.codecs.usual)
        while True:
            self._turn(stream)
            if filled.stop is StopReason.LARGE_ENTRY:
                self._check_large(part, overlay, filled.needed_bytes)
                frame.release()
                filled = overlay.fill(frame, filled.needed_bytes, self.codecs.usual)
            if not filled.entries:
                break
            self.sent.record(part.id, sent, sent + filled.raw_bytes)
            sent += filled.raw_bytes
            self._count(filled.entries, filled.raw_bytes)
            stream.put(frame, overlay.digest)
            self._take_figures(stream)
            if filled.stop is StopReason.END:
                break
            filled = overlay.fill(frame, self.batch_bytes, self.codecs.usual)

    def _move_file(self, stream: TargetStream, part: Range) -> None:
        """Moves a file of the store, going on where the target has what the source has."""
        path = Path(self.source.path) / part.file
        digest = bytes(16)
        if self.link and is_never_rewritten(part.file):
            stream.begin(part)
            stream.link_file(str(path))
            self._count(part.estimated_entries, part.file_bytes)
        else:
            start, sums = self._agreed_start(stream, part, path)
            stream.begin(part, start)
            self.range_bytes = start
            digest = self._put_file(stream, part, path, part.estimated_entries, start, sums)
        stream.end(0, part.file_bytes, digest)
        self._take_durable(stream)

    def _agreed_start(self, stream: TargetStream, part: Range, path: Path) -> tuple[int, FileSums]:
        """How far the target's part of a file is the source's, and the sums there: all of it or nothing."""
        cursor = self.cursors.get(part.id, Cursor(part.id))
        sums = FileSums()
        if not 0 < cursor.raw_bytes <= part.file_bytes:
            return 0, sums
        with open_source_file(path) as fd:
            for offset in range(0, cursor.raw_bytes, FILE_PIECE_BYTES):
                self._turn(stream)
                length = min(FILE_PIECE_BYTES, cursor.raw_bytes - offset)
                self.flow.read_limiter.charge(length)
                sums = sums.behind(offset, length, file_crc32c(fd, offset, length, str(path)))
        return (cursor.raw_bytes, sums) if sums.digest == cursor.digest else (0, FileSums())

    def _turn(self, stream: TargetStream) -> None:
        """Before each frame: waits while something holds the job. StoppedError when it is to stop."""
        self.flow.wait_while_held(self.index, self.stopping, stream.heartbeat)
        if self.stopping.is_set():
            raise StoppedError("stopped on request")

    def _put_file(
        self, stream: TargetStream, part: Range, path: Path, entries: int, start: int, sums: FileSums
    ) -> bytes:
        """Puts a file from `start` on, where its sums are `sums`; the running digest behind it. What the file holds is
        counted as its bytes go. SourceError, before the target is told of the end, for a file that was damaged."""
        counted = entries * start // max(1, part.file_bytes)
        with open_source_file(path) as fd:
            for offset in range(start, part.file_bytes, FILE_PIECE_BYTES):
                self._turn(stream)
                length = min(FILE_PIECE_BYTES, part.file_bytes - offset)
                self.flow.read_limiter.charge(length)
                self.sent.record(part.id, offset, offset + length)
                sums = stream.put_file(fd, offset, length, str(path), sums)
                due = entries * (offset + length) // part.file_bytes
                self._count(due - counted, length)
                self._take_figures(stream)
                counted = due
        self._check_recorded(path, sums.crc32c)
        return sums.digest

    def _check_recorded(self, path: Path, crc32c: int) -> None:
        """Raises SourceError where the file is not what RocksDB wrote, as far as it recorded that."""
        recorded = self.source.recorded_crc32c(path.name)
        if recorded is not None and crc32c != recorded:
            raise SourceError(
                f"{path} is damaged: the crc32c of its bytes is {crc32c:08x}, and RocksDB recorded {recorded:08x} when "
                "it wrote the file. It did not become part of the target, and what was moved before is safe; restore "
                "that file in place, or use --lane batch and another target, which verifies each block that it reads"
            )

    def _build(self, stream: TargetStream, part: Range) -> None:
        """Moves a range as SST files, each sent while it is built."""
        cursor = self.cursors.get(part.id, Cursor(part.id))
        self.range_bytes = cursor.raw_bytes
        manifest = self.session.reply.manifest
        builder = SstBuilder(
            self.source,
            part.column_family,
            part.start,
            part.end,
            after=cursor.last_key if cursor.entries else None,
            target=next(family for family in manifest.families if family.name == part.column_family),
            # As large as those that the target builds of batches.
            file_bytes=manifest.sst_file_bytes * 3 // 4,
        )
        stream.begin(part)
        with self.sent.mark(part.id) as mark:
            entries, raw_bytes, digest = self._put_built(stream, builder, cursor, mark)
        stream.end(entries, raw_bytes, digest)
        self._take_durable(stream)

    def _put_built(
        self, stream: TargetStream, builder: SstBuilder, cursor: Cursor, mark: memoryview
    ) -> tuple[int, int, bytes]:
        """Everything behind `cursor`; entries and bytes of the whole range, and the running digest behind it."""
        # Before the present file, and of it.
        entries, raw_bytes, digest = cursor.entries, cursor.raw_bytes, cursor.digest
        file_entries = file_bytes = 0
        while True:
            self._turn(stream)
            began = time.monotonic()
            piece = builder.build(min(self.batch_bytes, FILE_PIECE_BYTES))
            self.counters.read_seconds += time.monotonic() - began
            record_sent(mark, raw_bytes + file_bytes, raw_bytes + piece.raw_bytes)
            self._count(piece.entries - file_entries, piece.raw_bytes - file_bytes)
            file_entries, file_bytes = piece.entries, piece.raw_bytes
            if piece.length:
                digest = stream.put_piece(builder, piece, digest)
                self._take_figures(stream)
            if piece.ends_file:
                stream.end_file(FileTotals(file_entries, file_bytes, piece.last_key, graft=False))
                entries += file_entries
                raw_bytes += file_bytes
                file_entries = file_bytes = 0
                self._take_durable(stream)
            if piece.ends_range:
                return entries, raw_bytes, digest

    def _put_batches(
        self, stream: TargetStream, frame: Frame, part: Range, reader: RangeReader, cursor: Cursor, mark: memoryview
    ) -> tuple[int, int]:
        """Everything behind `cursor`; entries and bytes of the whole range."""
        entries, raw_bytes = cursor.entries, cursor.raw_bytes
        looked_at = self.counters.batches
        read_before, compress_before = self.counters.read_seconds, self.counters.compress_seconds
        compressed = 0.0
        codec = self.codecs.codec()
        filled = reader.fill(frame, self.batch_bytes, codec)
        while True:
            self._turn(stream)
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
            self._count(filled.entries, filled.raw_bytes)
            if not self.codecs.settled:
                self.codecs.learn(frame, codec, reader.compress_seconds - compressed)
            compressed = reader.compress_seconds
            codec = self.codecs.codec()
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
                self._count(run.entries, run.raw_bytes, run.frames - 1)
                filled = run.next
            if self.counters.batches >= looked_at + _FRAMES_PER_LOOK:
                looked_at = self.counters.batches
                self._take_durable(stream)
            self.counters.read_seconds = read_before + reader.read_seconds
            self.counters.compress_seconds = compress_before + reader.compress_seconds
            self._take_figures(stream)
        return entries, raw_bytes

    def _count(self, entries: int, raw_bytes: int, batches: int = 1) -> None:
        self.counters.add(entries, raw_bytes, batches)
        self.range_bytes += raw_bytes

    def _take_figures(self, stream: TargetStream) -> None:
        """Adds to the counters what stream and meter counted since the last time."""
        before, now = self._figures, _Figures.of(stream, self.meter)
        counters = self.counters
        counters.wire_bytes += now.wire_bytes - before.wire_bytes
        counters.payload_bytes += now.sent_bytes - before.sent_bytes
        counters.network_seconds += now.network_seconds - before.network_seconds
        counters.apply_seconds += now.apply_seconds - before.apply_seconds
        counters.applied_frames += now.applied_frames - before.applied_frames
        self._figures = now

    def _take_durable(self, stream: TargetStream) -> None:
        for cursor in stream.take_durable():
            self.on_durable(cursor)
        self._take_figures(stream)

    def _check_large(self, part: Range, reader: RangeReader | OverlayReader, needed: int) -> None:
        limit = min(self.session.reply.max_frame_bytes, self.pool.max_bytes // 2)
        if needed > limit:
            raise SourceError(
                f"{part}: the entry behind key {reader.last_key.hex() or '(the first)'} takes {format_bytes(needed)}, "
                f"more than the {format_bytes(limit)} that both sides' --max-memory allows in one frame. "
                "Nothing is lost; raise --max-memory to more than twice the entry on both sides and run it again"
            )
