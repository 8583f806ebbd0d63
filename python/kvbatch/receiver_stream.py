"""The receiving end of one stream."""

from __future__ import annotations

import time
from pathlib import Path

from kvbatch._core.frame import LARGE_ENTRY_BYTES, BufferPool, Frame, FrameType
from kvbatch.errors import ClosedError, ProtocolError, TransportError
from kvbatch.flow.stream_meter import HEALTH_SECONDS
from kvbatch.options import MAX_WINDOW
from kvbatch.protocol import Peer, cursor_to_json, decode_payload, malformed_is_protocol_error
from kvbatch.receiver_counters import StreamCounters
from kvbatch.target_job import FileTotals
from kvbatch.target_local import AppliedRanges

__all__ = ["ReceiverStream"]

# One ack speaks for three quarters of a window, so that the sender hardly waits for one and takes few apart; a sender
# that pauses gets one after this.
_IDLE_ACK_MILLISECONDS = 50
_MAX_FRAMES_PER_ACK = 64
# Of what makes no sense.
_SHOWN_CHARACTERS = 40


class ReceiverStream:
    """Applies the frames of one connection and acknowledges them."""

    def __init__(
        self,
        peer: Peer,
        ranges: AppliedRanges,
        path: Path,
        pool: BufferPool,
        window: object,
        counters: StreamCounters,
    ) -> None:
        """`path`: the target. `window`: how many frames the sender keeps unacknowledged, as it says. Raises
        ProtocolError for one that is none."""
        self._peer = peer
        self._path = path
        self._use_window(window, "HELLO")
        self._apply_nanoseconds = 0
        self._health_due = 0.0
        self._ranges = ranges
        self._frame = Frame(pool)
        self._counters = counters
        self._unacknowledged = 0
        self._digest = bytes(16)

    def close(self) -> None:
        """Gives back its memory."""
        self._frame.release()

    def _use_window(self, window: object, told_by: str) -> None:
        if type(window) is not int or not 1 <= window <= MAX_WINDOW:
            raise ProtocolError(
                f"{self._peer.name} sent a malformed {told_by}: a window is a whole number from 1 to {MAX_WINDOW}, not "
                f"{repr(window)[:_SHOWN_CHARACTERS]}"
            )
        self._frames_per_ack = max(1, min(3 * window // 4, _MAX_FRAMES_PER_ACK))

    def run(self) -> None:
        """Serves frames until the sender closes (ClosedError) or something fails."""
        connection, frame = self._peer.connection, self._frame
        # A sender may have nothing to send for as long as it likes, but a frame that has begun must go on.
        connection.wait_readable(-1)
        while True:
            connection.receive(frame)
            type_ = frame.type
            if type_ is FrameType.DATA:
                applier = self._ranges.current()
                if frame.range != applier.applied.range:
                    raise ProtocolError(f"data of range {frame.range} while range {applier.applied.range} is open")
                large = frame.raw_length >= LARGE_ENTRY_BYTES and frame.entries == 1
                began = time.perf_counter_ns()
                applier.apply(frame)
                took = time.perf_counter_ns() - began
                self._apply_nanoseconds += took
                self._counters.count_batch(frame.entries, frame.raw_length, took)
                self._digest = applier.applied.digest
                self._unacknowledged += 1
                if large:
                    frame.release()
            elif type_ is FrameType.FILE:
                if frame.range != (opened := self._ranges.current().applied.range):
                    raise ProtocolError(f"a piece of range {frame.range} while range {opened} is open")
                self._digest = self._ranges.take_piece(self._receive_piece, connection.pending_file_bytes)
                self._counters.frames += 1
                self._unacknowledged += 1
            elif type_ is FrameType.FILE_END:
                value = decode_payload(frame)
                with malformed_is_protocol_error(self._peer.name, "FILE_END"):
                    totals = FileTotals.from_json(value)
                    self._ranges.end_file(totals)
                self._counters.entries += totals.entries
            elif type_ is FrameType.RANGE_BEGIN:
                begin = decode_payload(frame)
                with malformed_is_protocol_error(self._peer.name, "RANGE_BEGIN"):
                    offset = int(begin.get("offset", 0))
                self._ranges.begin(frame.range, offset)
            elif type_ is FrameType.RANGE_END:
                end = decode_payload(frame)
                with malformed_is_protocol_error(self._peer.name, "RANGE_END"):
                    self._ranges.finish(end["entries"], end["raw_bytes"], bytes.fromhex(end["digest"]))
            elif type_ is FrameType.DRAIN:
                self._ranges.drain()
                self._acknowledge(drained=True)
            elif type_ is FrameType.HEARTBEAT:
                beat = decode_payload(frame)
                self._use_window(beat.get("window"), "HEARTBEAT")
                self._health_due = 0.0
                self._acknowledge()
            else:
                raise ProtocolError(f"{self._peer.name} sent {FrameType(type_).name} on a stream")
            # Whatever came last: a sender may pause behind any frame.
            if self._unacknowledged or type_ is FrameType.RANGE_END:
                self._acknowledge_when_due()
            if not self._unacknowledged and not connection.wait_readable(0):
                # For as long as nothing comes others may have the memory.
                frame.release()
                connection.wait_readable(-1)

    def _receive_piece(self, file: int, offset: int) -> int:
        return self._peer.connection.receive_file(file, offset, f"a file of the target {self._path}")

    def _acknowledge_when_due(self) -> None:
        full = self._unacknowledged >= self._frames_per_ack
        if full or not self._peer.connection.wait_readable(_IDLE_ACK_MILLISECONDS):
            self._acknowledge()

    def _acknowledge(self, *, drained: bool = False) -> None:
        cursors = self._ranges.take_durable()
        self._counters.ranges_completed += sum(cursor.complete for cursor in cursors)
        self._counters.wire_bytes = self._peer.connection.bytes_received
        durable = [cursor_to_json(cursor) for cursor in cursors]
        ack = {
            "frames": self._unacknowledged,
            "digest": self._digest.hex(),
            "durable": durable,
            "drained": drained,
            "apply_seconds": self._apply_nanoseconds / 1e9,
            "queued": self._peer.connection.unread_bytes,
        }
        self._apply_nanoseconds = 0
        if (now := time.monotonic()) >= self._health_due:
            self._health_due = now + HEALTH_SECONDS
            if (health := self._ranges.health()) is not None:
                ack["health"] = health
        try:
            self._peer.send(FrameType.ACK, ack)
        except TransportError as error:
            # A sender that was stopped or killed does not listen to the end; what it sent is kept all the same.
            raise ClosedError(str(error)) from error
        self._unacknowledged = 0
