"""What a job needs of a target: the interface that in-process directories and receivers fulfil alike.

Calls are not repeated by themselves: after any error the session is closed and opened anew, and the cursors in the new
OpenReply say from where each range goes on. `open` is idempotent, `finish` too as long as the job's records exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from kvbatch._core.base import chain_file_piece, combine_crc32c
from kvbatch._core.codec import Codec
from kvbatch._core.frame import Frame
from kvbatch._core.store import BatchRun, BuiltPiece, Cursor, RangeReader, SstBuilder
from kvbatch.flow.stream_meter import StreamMeter
from kvbatch.ranges import Range
from kvbatch.target_job import FileTotals, OpenReply

__all__ = ["FILE_PIECE_BYTES", "FileSums", "TargetSession", "TargetStream"]

# What one call of the core moves of a file; it takes no memory.
FILE_PIECE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class FileSums:
    """Of the pieces of a file so far: the running digest that the target must reach too, and the crc32c of all their
    bytes."""

    digest: bytes = bytes(16)
    crc32c: int = 0

    def behind(self, offset: int, length: int, crc32c: int) -> FileSums:
        """With the next piece."""
        return FileSums(
            chain_file_piece(self.digest, offset, length, crc32c), combine_crc32c(self.crc32c, crc32c, length)
        )


class TargetStream(Protocol):
    """Carries one range after the other. Used by one thread, but for what it counts, which any may look at."""

    @property
    def wire_bytes(self) -> int:
        """Bytes that went over the wire both ways, 0 where there is none."""

    @property
    def sent_bytes(self) -> int:
        """Bytes that were handed over: over the wire, or payloads where there is none."""

    @property
    def network_seconds(self) -> float:
        """Spent in sending, which is waiting for the link; 0 where there is none."""

    def begin(self, part: Range, offset: int = 0) -> None:
        """Starts a range behind its cursor. A file of the store, or the next one of the range, starts at `offset`: what
        the target has of it, or 0 where that is not what the source has."""

    def put(self, frame: Frame, digest: bytes) -> None:
        """Hands over the next batch of the range; `digest` is the running digest behind it, which the target must
        reach too (CorruptionError). Waits while a full window is unacknowledged."""

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
        """As `put`; then has `reader` pack the next batch into the frame, puts that too, and so on while whole batches
        come, `frames` at most or fewer. What stands in the frame at last is not put. `mark` is the range's in the sent
        log, which has the first batch, ending at `sent_bytes`; the others are recorded in it."""

    def put_file(self, fd: int, offset: int, length: int, name: str, sums: FileSums) -> FileSums:
        """Hands over the next piece of a file of the range, `length` bytes of `fd` from `offset` on; the sums behind
        it, from those before it. SourceError, naming `name`, when it cannot be read."""

    def put_piece(self, builder: SstBuilder, piece: BuiltPiece, digest: bytes, skip: int = 0) -> bytes:
        """Hands over the piece that `builder` has just built, but for its first `skip` bytes; the running digest behind
        it, from the one before it."""

    def end_file(self, totals: FileTotals) -> None:
        """The file is whole: it is checked, and becomes the target's."""

    def link_file(self, path: str) -> None:
        """Instead of putting it: the range's file is another name for the source's. Only where source and target are
        directories of one file system; RefusedError elsewhere."""

    def end(self, entries: int, raw_bytes: int, digest: bytes) -> None:
        """Ends the range with its totals, what an earlier attempt moved included."""

    def heartbeat(self) -> None:
        """For a stream that puts nothing for a while: the target hears that it is alive, and answers."""

    def take_durable(self) -> list[Cursor]:
        """Cursors that became durable since the last call, in their order."""

    def drain(self) -> None:
        """Waits until everything that was ended is durable."""

    def interrupt(self) -> None:
        """Makes a call that waits for the target fail. For other threads."""

    def close(self) -> None:
        """Ends the stream; what was put is made durable if the target still can. Never raises."""


class TargetSession(Protocol):
    """A job opened at a target."""

    @property
    def reply(self) -> OpenReply: ...

    def stream(self, index: int, meter: StreamMeter | None = None) -> TargetStream:
        """`meter` gets what is measured, and says the window and what to wait for."""

    def split(self, range_id: int, key: bytes) -> Range:
        """What stands from `key` on in a range that is open, behind all that was put of it, becomes a range of its own,
        which is returned; `reply` has the manifest that then counts. From any thread."""

    def settle(self, seconds: float) -> OpenReply:
        """Once its streams are closed, which get no successors: where the job stands with all that was made durable of
        what they had put, and with what is left of files. Raises TransportError when the target does not answer within
        `seconds`, ProtocolError when it does not know this."""

    def finish(self) -> None:
        """Every range is complete: makes the target an ordinary store."""

    def close(self) -> None:
        """Ends the session, resumable. Never raises."""
