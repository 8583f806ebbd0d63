"""One stream of a job at its sender: a thread that takes ranges from the queue and moves them, a frame a turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from kvbatch._core.base import chain_file_piece, read_ahead
from kvbatch._core.frame import BufferPool, Frame, largest_entry, memory_for_entry
from kvbatch._core.store import (
    READ_BESIDE_BYTES,
    BuiltPiece,
    Cursor,
    OverlayReader,
    RangeReader,
    SourceStore,
    SstBuilder,
    StopReason,
    record_sent,
)
from kvbatch.compression import CodecChooser
from kvbatch.errors import KvbatchError, SourceError, StoppedError
from kvbatch.flow.job_flow import JobFlow
from kvbatch.flow.stream_meter import StreamMeter
from kvbatch.kept_files import agreed_start, begun_file, kept_start
from kvbatch.options import MIB
from kvbatch.planner import middle_key
from kvbatch.process import ThreadPriority
from kvbatch.range_queue import RangeQueue
from kvbatch.ranges import Range
from kvbatch.sent_log import SentLog
from kvbatch.source_image import is_never_rewritten, open_source_file
from kvbatch.stream_counters import StreamCounters
from kvbatch.target import FILE_PIECE_BYTES, FileSums, TargetSession, TargetStream
from kvbatch.target_job import FileTotals
from kvbatch.units import format_bytes

__all__ = ["JobStream"]

# Asking what became durable costs little, but not nothing.
_FRAMES_PER_LOOK = 16
# So many frames take one call of the core, if the window has room and the link takes them in a moment.
_FRAMES_PER_RUN = 32


@dataclass(slots=True)
class JobStream:
    """What one stream needs; `run` is its thread. The job's thread may change `batch_bytes`, `piece_bytes`, `codecs`,
    `retiring` and the window of `meter` meanwhile: they hold from the next frame on."""

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
    # Of a file of the source that is grafted.
    piece_bytes: int
    codecs: CodecChooser
    link: bool
    counters: StreamCounters
    stopping: threading.Event
    on_started: Callable[[Range], None]
    on_split: Callable[[Range], None]
    on_durable: Callable[[Cursor], None]
    on_ended: Callable[[], None]
    error: KvbatchError | Exception | None = None
    ended: bool = False
    # Ends behind the range that it has.
    retiring: bool = False
    # Gives half of what its range has left to the queue, where that can be done.
    split_wanted: bool = False
    part: Range | None = field(default=None, init=False)
    range_bytes: int = field(default=0, init=False)  # of `part`, what an earlier session moved included
    _stream: TargetStream | None = field(default=None, init=False)
    _priority: ThreadPriority = field(init=False)  # from the beginning of `run` on
    # Of the newest piece of a file: raw bytes counted and bytes sent before it, its raw bytes and its length. Replaced
    # whole, since other threads look at it.
    _piece: tuple[int, int, int, int] = field(default=(0, 0, 0, 1), init=False)

    @property
    def left_bytes(self) -> int:
        """What `part` has left, by estimate; 0 where it cannot be split."""
        part = self.part
        return 0 if part is None or part.file else max(0, part.estimated_bytes - self.range_bytes)

    @property
    def compression(self) -> str:
        """What the next frame gets."""
        return self.codecs.chosen

    def add_to(self, total: StreamCounters) -> int:
        """Adds what was counted, and what went over the wire until this moment; how many raw bytes more have left of a
        piece of a file that is under way. From any thread."""
        stream, before = self._stream, total.raw_bytes
        total.include(self.counters)
        if stream is None:
            return 0
        total.wire_bytes += stream.wire_bytes
        counted = total.raw_bytes - before
        raw_before, sent_before, raw_bytes, length = self._piece
        left = min(length, stream.sent_bytes - sent_before)
        return max(0, raw_before + raw_bytes * left // length - counted)

    def run(self) -> None:
        try:
            self._priority = ThreadPriority()
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
            return
        self._give_way()
        if part.file and not written and not begun:
            self._graft(stream, frame, part)
        elif manifest.lane == "sst" and not written:
            self._build(stream, part)
        else:
            self._copy(stream, frame, part)

    def _copy(self, stream: TargetStream, frame: Frame, part: Range) -> None:
        cursor = self.cursors.get(part.id, Cursor(part.id))
        self.range_bytes = cursor.raw_bytes
        stream.begin(part)
        with self.sent.mark(part.id) as mark:
            cursor = self._put_batches(stream, frame, part, cursor, mark)
        stream.end(cursor.entries, cursor.raw_bytes, cursor.digest)
        self._take_durable(stream)

    def _reader(self, part: Range, after: bytes | None, digest: bytes) -> RangeReader:
        return RangeReader(
            self.source,
            part.column_family,
            part.start,
            part.end,
            after=after,
            target_family=self.session.reply.family_ids[part.column_family],
            digest=digest,
        )

    def _split(self, part: Range, after: bytes) -> Range:
        """Gives about half of what the range has left behind the key `after` to the queue; what remains of it."""
        self.split_wanted = False
        key = middle_key(self.source, part, after)
        if key is None or len(self.session.reply.manifest.ranges) >= self.sent.capacity:
            return part
        half = self.session.split(part.id, key)
        self.part = part = self.session.reply.manifest.ranges[part.id]
        self.queue.add(half)
        self.on_split(half)
        return part

    def _graft(self, stream: TargetStream, frame: Frame, part: Range) -> None:
        """Moves the source's own file for a range, as far as the target has it not, then what stands over it."""
        after = None
        if (grafted := self.session.reply.graft(part.id)) is not None:
            stream.begin(part, part.file_bytes)
            self.range_bytes = grafted.raw_bytes
            digest = grafted.digest
            after = grafted.last_key if grafted.complete else None
        else:
            digest = self._graft_file(stream, part)
        overlay = OverlayReader(
            self.source,
            part.column_family,
            part.file,
            part.start,
            part.end,
            self.session.reply.family_ids[part.column_family],
            digest,
            after=after,
        )
        self._put_overlay(stream, frame, part, overlay)
        stream.end(overlay.entries, overlay.raw_bytes, overlay.digest)
        self._take_durable(stream)

    def _graft_file(self, stream: TargetStream, part: Range) -> bytes:
        """The running digest behind it."""
        path = Path(self.source.path) / part.file
        table = self.source.table(part.column_family, part.file)
        kept = self.session.reply.partial_file(part.id)
        start, sums = kept_start(kept, part, path, lambda *piece: self._look(stream, *piece))
        stream.begin(part, start)
        self.range_bytes = table.raw_bytes * start // max(1, part.file_bytes)
        digest = self._put_file(stream, part, path, table.entries, table.raw_bytes, start, sums)
        stream.end_file(FileTotals(table.entries, table.raw_bytes, table.largest, graft=True))
        return digest

    def _put_overlay(self, stream: TargetStream, frame: Frame, part: Range, overlay: OverlayReader) -> None:
        """No trials of codecs here: what stands over a file is no sample of the rest."""
        filled = overlay.fill(frame, self._frame_bytes, self.codecs.usual)
        sent = part.file_bytes + overlay.skipped_bytes
        while True:
            self._turn_to_read(stream)
            while filled.stop is StopReason.LARGE_ENTRY:
                self._check_large(part, overlay.last_key, filled.needed_bytes)
                frame.release()
                filled = overlay.fill_large(frame, filled.needed_bytes, self.codecs.usual)
            if not filled.entries:
                break
            self.sent.record(part.id, sent, sent + filled.raw_bytes)
            sent += filled.raw_bytes
            self._count(filled.entries, filled.raw_bytes)
            stream.put(frame, overlay.digest)
            self._take_figures(stream)
            if filled.stop is StopReason.END:
                break
            if self.pool.waiting:
                frame.release()
            filled = overlay.fill(frame, self._frame_bytes, self.codecs.usual)

    def _move_file(self, stream: TargetStream, part: Range) -> None:
        """Moves a file of the store, going on where the target has what the source has."""
        path = Path(self.source.path) / part.file
        digest = bytes(16)
        if self.link and is_never_rewritten(part.file):
            stream.begin(part)
            stream.link_file(str(path))
            self._count(part.estimated_entries, part.file_bytes)
        else:
            found = self.cursors.get(part.id)
            start, sums = agreed_start(found, part, path, lambda *piece: self._look(stream, *piece))
            stream.begin(part, start)
            self.range_bytes = start
            digest = self._put_file(stream, part, path, part.estimated_entries, part.file_bytes, start, sums)
        stream.end(0, part.file_bytes, digest)
        self._take_durable(stream)

    def _look(self, stream: TargetStream, fd: int, offset: int, length: int) -> None:
        """Before a piece of a file is read."""
        self._turn(stream)
        read_ahead(fd, offset, length, self.flow.read_limiter)

    def _turn(self, stream: TargetStream) -> None:
        """Before each frame: waits while something holds the job. StoppedError when it is to stop."""
        self.flow.wait_while_held(self.index, self.stopping, stream.heartbeat)
        if self.stopping.is_set():
            raise StoppedError("stopped on request")

    def _turn_to_read(self, stream: TargetStream) -> None:
        """As `_turn`, before a frame whose entries are read one by one."""
        self._give_way()
        self._turn(stream)

    def _give_way(self) -> None:
        """Who limits what is read has a server of this store beside it, which is to wait for no core either."""
        self._priority.set_low(self.flow.settings.source_read_rate > 0)

    def _put_file(
        self, stream: TargetStream, part: Range, path: Path, entries: int, raw_bytes: int, start: int, sums: FileSums
    ) -> bytes:
        """Puts a file from `start` on, where its sums are `sums`; the running digest behind it. What the file holds is
        counted as its bytes go. SourceError, before the target is told of the end, for a file that was damaged."""

        def due(total: int, offset: int) -> int:
            return total * offset // part.file_bytes

        # Both sides go over the same pieces again where a file of this lane is gone on with.
        whole_pieces = self.session.reply.manifest.lane == "files"
        with open_source_file(path) as fd:
            offset = start
            while offset < part.file_bytes:
                piece_bytes = FILE_PIECE_BYTES if whole_pieces else min(FILE_PIECE_BYTES, self.piece_bytes)
                length = min(piece_bytes, part.file_bytes - offset)
                self._look(stream, fd, offset, length)
                self.sent.record(part.id, offset, offset + length)
                raw = due(raw_bytes, offset + length) - due(raw_bytes, offset)
                self._piece = (self.counters.raw_bytes, stream.sent_bytes, raw, length)
                sums = stream.put_file(fd, offset, length, str(path), sums)
                self._count(due(entries, offset + length) - due(entries, offset), raw)
                self._take_figures(stream)
                offset += length
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
        with self.sent.mark(part.id) as mark:
            cursor = self._put_built(stream, part, cursor, mark)
        stream.end(cursor.entries, cursor.raw_bytes, cursor.digest)
        self._take_durable(stream)

    def _builder(self, part: Range, after: bytes | None) -> SstBuilder:
        manifest = self.session.reply.manifest
        return SstBuilder(
            self.source,
            part.column_family,
            part.start,
            part.end,
            after=after,
            target=next(family for family in manifest.families if family.name == part.column_family),
            # As large as those that the target builds of batches.
            file_bytes=manifest.sst_file_bytes * 3 // 4,
        )

    def _build_next(
        self, stream: TargetStream, part: Range, builder: SstBuilder, before: BuiltPiece | None
    ) -> BuiltPiece:
        """The piece behind `before`, if there is one."""
        if before is not None and before.needed_bytes:
            self._check_large(part, builder.last_key, before.needed_bytes)
            builder.make_room(self.pool, before.needed_bytes)
        self._turn_to_read(stream)
        began = time.monotonic()
        piece = builder.build(min(self.batch_bytes, FILE_PIECE_BYTES))
        self.counters.read_seconds += time.monotonic() - began
        return piece

    def _put_built(self, stream: TargetStream, part: Range, cursor: Cursor, mark: memoryview) -> Cursor:
        """Everything behind `cursor`; where the whole range then stands."""
        after = cursor.last_key if cursor.entries else None
        builder = self._builder(part, after)
        # Before the present file, and of it.
        entries, raw_bytes, digest = cursor.entries, cursor.raw_bytes, cursor.digest
        file_entries = file_bytes = skip = 0
        piece: BuiltPiece | None = None
        kept_bytes = 0
        begun = None
        if (kept := self.session.reply.partial_file(part.id)) is not None:
            begun = begun_file(kept, builder, partial(self._build_next, stream, part, builder))
            if begun is None:
                builder = self._builder(part, after)
            else:
                file_entries, file_bytes = begun.entries, begun.raw_bytes
                self.range_bytes += file_bytes
                kept_bytes = kept.length
                skip = kept_bytes - begun.piece.offset
                digest = chain_file_piece(digest, 0, kept_bytes, kept.crc32c)
        stream.begin(part, kept_bytes)
        while True:
            if begun is not None:
                piece, begun = begun.piece, None
            else:
                piece = self._build_next(stream, part, builder, piece)
            record_sent(mark, raw_bytes + file_bytes, raw_bytes + piece.raw_bytes)
            self._count(piece.entries - file_entries, piece.raw_bytes - file_bytes)
            file_entries, file_bytes = piece.entries, piece.raw_bytes
            if piece.length > skip:
                digest = stream.put_piece(builder, piece, digest, skip)
                self._take_figures(stream)
            skip = 0
            if piece.ends_file:
                stream.end_file(FileTotals(file_entries, file_bytes, piece.last_key, graft=False))
                entries += file_entries
                raw_bytes += file_bytes
                file_entries = file_bytes = 0
                self._take_durable(stream)
            if piece.ends_range:
                return Cursor(part.id, entries=entries, raw_bytes=raw_bytes, digest=digest)
            if self.split_wanted and piece.ends_file:
                part = self._split(part, piece.last_key)
                builder = self._builder(part, piece.last_key)
                piece = None

    def _put_batches(self, stream: TargetStream, frame: Frame, part: Range, cursor: Cursor, mark: memoryview) -> Cursor:
        """Everything behind `cursor`; where the whole range then stands."""
        after = cursor.last_key if cursor.entries else None
        reader = self._reader(part, after, cursor.digest)
        entries, raw_bytes = cursor.entries, cursor.raw_bytes
        looked_at = self.counters.batches
        read_before, compress_before = self.counters.read_seconds, self.counters.compress_seconds
        compressed = 0.0
        codec = self.codecs.codec()
        filled = reader.fill(frame, self._frame_bytes, codec)
        while True:
            self._turn_to_read(stream)
            large = filled.stop is StopReason.LARGE_ENTRY
            while filled.stop is StopReason.LARGE_ENTRY:
                self._check_large(part, reader.last_key or after or b"", filled.needed_bytes)
                frame.release()
                filled = reader.fill_large(frame, filled.needed_bytes, codec)
            if not filled.entries:
                break
            ended, slow = filled.stop is StopReason.END, False
            record_sent(mark, raw_bytes, raw_bytes + filled.raw_bytes)
            entries += filled.entries
            raw_bytes += filled.raw_bytes
            self._count(filled.entries, filled.raw_bytes)
            if not self.codecs.settled:
                self.codecs.learn(frame, codec, reader.compress_seconds - compressed)
            compressed = reader.compress_seconds
            codec = self.codecs.codec()
            if ended or large or self.pool.waiting:
                stream.put(frame, reader.digest)
                if ended:
                    break
                # Who waits for memory is served before this stream takes some again.
                frame.release()
                filled = reader.fill(frame, self._frame_bytes, codec)
            else:
                run = stream.put_run(
                    frame,
                    reader,
                    batch_bytes=self._frame_bytes,
                    codec=codec,
                    frames=_FRAMES_PER_RUN if self.codecs.settled else 1,
                    mark=mark,
                    sent_bytes=raw_bytes,
                )
                entries += run.entries
                raw_bytes += run.raw_bytes
                self._count(run.entries, run.raw_bytes, run.frames - 1)
                filled = run.next
                slow = run.frames == 1
            if slow or self.counters.batches >= looked_at + _FRAMES_PER_LOOK:
                looked_at = self.counters.batches
                self._take_durable(stream)
                self.counters.read_seconds = read_before + reader.read_seconds
                self.counters.compress_seconds = compress_before + reader.compress_seconds
            if self.split_wanted and filled.stop is StopReason.FULL:
                # The batch that stands in the frame is still to be sent; the new reader goes on behind it.
                after = reader.last_key
                part = self._split(part, after)
                read_before += reader.read_seconds
                compress_before += reader.compress_seconds
                compressed = 0.0
                reader = self._reader(part, after, reader.digest)
        self.counters.read_seconds = read_before + reader.read_seconds
        self.counters.compress_seconds = compress_before + reader.compress_seconds
        return Cursor(part.id, entries=entries, raw_bytes=raw_bytes, digest=reader.digest)

    def _count(self, entries: int, raw_bytes: int, batches: int = 1) -> None:
        self.counters.add(entries, raw_bytes, batches)
        self.range_bytes += raw_bytes

    def _take_figures(self, stream: TargetStream) -> None:
        """What stream and meter counted so far; both live as long as these counters."""
        counters, meter = self.counters, self.meter
        # Nothing that was counted is still to be sent where this is called.
        counters.payload_bytes, counters.sent_raw_bytes = stream.sent_bytes, counters.raw_bytes
        counters.network_seconds = stream.network_seconds
        counters.apply_seconds = meter.apply_seconds
        counters.applied_frames = meter.applied_frames

    def _take_durable(self, stream: TargetStream) -> None:
        for cursor in stream.take_durable():
            self.on_durable(cursor)
        self._take_figures(stream)

    @property
    def _frame_bytes(self) -> int:
        """The next batch: no larger than the target takes."""
        return min(self.batch_bytes, self.session.reply.max_frame_bytes)

    def _check_large(self, part: Range, last_key: bytes, needed: int) -> None:
        """Raises SourceError for an entry that takes more memory than a side has."""
        ours, theirs = largest_entry(self.pool.max_bytes), self.session.reply.max_frame_bytes
        if needed <= min(ours, theirs):
            return
        behind = (last_key or part.start or b"").hex() or "(the first)"
        what = f"{part}: an entry behind key {behind} takes {format_bytes(needed)}, more than "
        if needed <= ours and self.session.reply.frame_limit:
            raise SourceError(
                f"{what}{self.session.reply.frame_limit} takes. Nothing is lost; raise that to {2 * needed} there and "
                "run the same command again"
            )
        whose = "this side's" if ours < needed else "the receiver's"
        # What the pool is not given belongs to the streams.
        apart = max(0, self.flow.settings.max_memory - self.pool.max_bytes) if ours < needed else 0
        # Where the entry is not read yet, it may take more by what is read of its file at once.
        enough = -(-(memory_for_entry(needed + READ_BESIDE_BYTES) + apart) // MIB)
        raise SourceError(
            f"{what}the {format_bytes(min(ours, theirs))} that {whose} --max-memory allows one entry. "
            f"Nothing is lost; raise --max-memory to {enough}MiB there and run the same command again",
            changes={"max_memory": enough * MIB} if ours < needed else {},
        )
