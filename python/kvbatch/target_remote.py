"""A directory behind a receiver as target."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from kvbatch._core.base import chain_file_piece, xxh3_64
from kvbatch._core.codec import Codec
from kvbatch._core.frame import Frame, FrameType
from kvbatch._core.store import BatchRun, BuiltPiece, Cursor, RangeReader, SstBuilder
from kvbatch._core.wire import FramesInFlight
from kvbatch.endpoints import ReceiverEndpoint
from kvbatch.errors import CorruptionError, ProtocolError, RefusedError, TransportError
from kvbatch.flow.batch_state import MAX_IN_FLIGHT_BYTES
from kvbatch.flow.stream_meter import StreamMeter
from kvbatch.flow.throttle import ThrottleReason
from kvbatch.manifest import Manifest
from kvbatch.protocol import (
    MALFORMED,
    SILENCE_SECONDS,
    Peer,
    connect,
    cursor_from_json,
    ignore_peer,
    malformed_is_protocol_error,
    partial_file_from_json,
)
from kvbatch.ranges import Range
from kvbatch.target import FileSums
from kvbatch.target_job import FileTotals, OpenReply

__all__ = ["RemoteSession"]

# A receiver may be silent for a second more for each of these that the largest frame under way has, also begun.
_BYTES_PER_SECOND = 1 << 20
# However large frames are, one is on its way while another is applied.
_LEAST_WINDOW = 2


class RemoteStream:
    """Keeps as many frames unacknowledged as the meter's window says, fewer where they are so large that this would be
    more than MAX_IN_FLIGHT_BYTES; every ack must name the digest that was sent. A receiver may be silent for
    `silence_seconds`, and longer for larger frames."""

    def __init__(self, peer: Peer, index: int, job_hash: int, meter: StreamMeter, silence_seconds: float) -> None:
        self._peer = peer
        self._index = index
        self._job_hash = job_hash
        self._meter = meter
        self._use_window(meter.window)
        self._range = 0
        self._begun: set[int] = set()
        self._in_flight = FramesInFlight()
        self._silence_seconds = silence_seconds
        self._patience = 0  # seconds on top of that
        self._frames_sent = 0
        # Of what is in flight each frame that is larger than all behind it: its number from 1 on, its bytes.
        self._largest: deque[tuple[int, int]] = deque()
        self._largest_bytes = 0
        self._durable: list[Cursor] = []
        meter.note_link(peer.greeting_seconds)
        peer.connection.set_rate_limiter(meter.limiter)

    def _use_window(self, window: int) -> None:
        self._window = window
        # A receiver acknowledges three quarters of a window at once; looking earlier is in vain.
        self._look_from = max(1, 3 * window // 4)

    @property
    def wire_bytes(self) -> int:
        return self._peer.connection.bytes_sent + self._peer.connection.bytes_received

    @property
    def sent_bytes(self) -> int:
        return self._peer.connection.bytes_sent

    @property
    def network_seconds(self) -> float:
        return self._peer.connection.send_seconds

    def _send(self, type_: FrameType, value: dict[str, object] | None = None) -> None:
        try:
            self._peer.send(type_, value, stream=self._index, range_=self._range)
        except TransportError as error:
            self._peer.raise_reported(error)

    def begin(self, part: Range, offset: int = 0) -> None:
        self._range = part.id
        self._begun.add(part.id)
        self._peer.connection.set_route(self._job_hash, self._index, part.id)
        self._send(FrameType.RANGE_BEGIN, {"offset": offset} if offset else None)

    def _expect(self, frame_bytes: int) -> None:
        """Before a frame that is no larger than this: the window has room for it."""
        while self._largest and self._largest[-1][1] <= frame_bytes:
            self._largest.pop()
        self._largest.append((self._frames_sent + 1, frame_bytes))
        if self._largest[0][1] != self._largest_bytes:
            self._take_acks()

    def _follow_sizes(self) -> None:
        """Brings the deadline and the window to what the frames in flight and the meter want."""
        acknowledged = self._frames_sent - self._in_flight.frames
        while self._largest and self._largest[0][0] <= acknowledged:
            self._largest.popleft()
        # Where nothing is in flight the next frame is likely as large as the last.
        if self._largest and self._largest[0][1] != self._largest_bytes:
            self._largest_bytes = self._largest[0][1]
            patience = -(-self._largest_bytes // _BYTES_PER_SECOND)
            if patience != self._patience:
                self._patience = patience
                self._peer.connection.set_timeout(round(1000 * (self._silence_seconds + patience)))
        fitting = max(_LEAST_WINDOW, MAX_IN_FLIGHT_BYTES // max(1, self._largest_bytes))
        window = min(self._meter.window, fitting)
        if window != self._window:
            self._use_window(window)
            self.heartbeat()

    def put(self, frame: Frame, digest: bytes) -> None:
        self._expect(frame.raw_length)
        self._peer.send_frame(frame)
        self._sent(digest, frame.raw_length)

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
        # Between two calls of the core all that Python needs has left the caches, so that a call does what it can.
        frame_bytes = max(batch_bytes, frame.raw_length)
        self._expect(frame_bytes)
        in_flight, before, frames_before = self._in_flight, self._in_flight.raw_bytes, self._in_flight.frames
        frames = min(frames, self._window - frames_before)
        try:
            run = reader.send_run(self._peer.connection, in_flight, frame, batch_bytes, codec, frames, mark, sent_bytes)
        except TransportError as error:
            self._peer.raise_reported(error)
        self._meter.sent(in_flight.raw_bytes - before)
        self._frames_sent += in_flight.frames - frames_before
        self._largest[-1] = (self._frames_sent, frame_bytes)
        self._take_acks()
        return run

    def put_file(self, fd: int, offset: int, length: int, name: str, sums: FileSums) -> FileSums:
        self._expect(length)
        try:
            crc32c = self._peer.connection.send_file(fd, offset, length, name)
        except TransportError as error:
            self._peer.raise_reported(error)
        behind = sums.behind(offset, length, crc32c)
        self._sent(behind.digest, length)
        return behind

    def put_piece(self, builder: SstBuilder, piece: BuiltPiece, digest: bytes, skip: int = 0) -> bytes:
        self._expect(piece.length - skip)
        try:
            crc32c = builder.send(self._peer.connection, skip)
        except TransportError as error:
            self._peer.raise_reported(error)
        behind = chain_file_piece(digest, piece.offset + skip, piece.length - skip, crc32c)
        self._sent(behind, piece.length - skip)
        return behind

    def _sent(self, digest: bytes, raw_bytes: int) -> None:
        self._in_flight.add(digest, raw_bytes)
        self._frames_sent += 1
        self._meter.sent(raw_bytes)
        self._take_acks()

    def end_file(self, totals: FileTotals) -> None:
        self._send(FrameType.FILE_END, totals.to_json())

    def link_file(self, path: str) -> None:
        raise RefusedError(f"{path} cannot be linked to what stands behind a receiver; migrate without --link")

    def _take_acks(self) -> None:
        """Those that are there; waits for one while the window is full."""
        self._follow_sizes()
        while self._in_flight.frames >= self._look_from and self._peer.connection.wait_readable(0):
            self._take_ack()
        if self._in_flight.frames >= self._window:
            with self._meter.ledger.waiting(self._index, ThrottleReason.WINDOW):
                while self._in_flight.frames >= self._window:
                    self._take_ack()

    def heartbeat(self) -> None:
        self._send(FrameType.HEARTBEAT, {"window": self._window})
        # Its answer comes when it comes; those to earlier ones have come.
        while self._peer.connection.wait_readable(0):
            self._take_ack()

    def _take_ack(self) -> bool:
        """Takes one frame; whether it was the answer to DRAIN."""
        # Behind a heartbeat of the receiver nothing need come, so that who only looked whether something is there must
        # not wait for more.
        type_, ack = self._peer.receive(FrameType.ACK, FrameType.HEARTBEAT)
        if type_ is FrameType.HEARTBEAT:
            return False
        # As malformed_is_protocol_error, whose generator would be a good part of what an ack costs.
        try:
            if frames := int(ack["frames"]):
                digest, raw_bytes, age = self._in_flight.take(frames)
                self._meter.acknowledged(age, raw_bytes, ack)
                if digest.hex() != ack["digest"]:
                    raise CorruptionError(f"range {self._range}: the receiver's running digest is not the sender's")
            elif "health" in ack:
                self._meter.note_health(ack["health"])
            for value in ack["durable"]:
                cursor = cursor_from_json(value)
                if cursor.range not in self._begun:
                    raise ValueError(f"a cursor of range {cursor.range}, which this stream did not send")
                self._durable.append(cursor)
            return bool(ack["drained"])
        except MALFORMED as error:
            raise ProtocolError(f"{self._peer.name} sent a malformed ack: {error!r}") from error

    def end(self, entries: int, raw_bytes: int, digest: bytes) -> None:
        self._send(FrameType.RANGE_END, {"entries": entries, "raw_bytes": raw_bytes, "digest": digest.hex()})

    def take_durable(self) -> list[Cursor]:
        durable, self._durable = self._durable, []
        return durable

    def drain(self) -> None:
        self._send(FrameType.DRAIN)
        while not self._take_ack():
            pass

    def interrupt(self) -> None:
        self._peer.close()

    def close(self) -> None:
        self._peer.close()


def _with_standing(reply: OpenReply, answer: dict[str, Any]) -> OpenReply:
    """With where the ranges stand, as the answer says."""
    told = dataclasses.replace(
        reply,
        cursors=tuple(cursor_from_json(cursor) for cursor in answer["cursors"]),
        partial_files=tuple(partial_file_from_json(file) for file in answer["partial_files"]),
        grafts=tuple(cursor_from_json(cursor) for cursor in answer["grafts"]),
    )
    ranges = {each.range for those in (told.cursors, told.partial_files, told.grafts) for each in those}
    if not all(range_ < len(reply.manifest.ranges) for range_ in ranges):
        raise ValueError("a range that the job does not have")
    return told


class RemoteSession:
    def __init__(
        self,
        endpoint: ReceiverEndpoint,
        manifest: Manifest,
        window: int,
        silence_seconds: float | None = None,
        on_connected: Callable[[Peer], None] = ignore_peer,
        sender: str = "",
    ) -> None:
        """`window`: of streams that no meter gives one. `sender`: who asks; a session that it had open already gives
        way, one of another sender does not. The rest: see kvbatch.protocol.connect, and RemoteStream of how
        long a stream is given."""
        self._endpoint = endpoint
        self._window = window
        self._silence_seconds = silence_seconds or SILENCE_SECONDS
        # Streams ask on the control connection too.
        self._lock = threading.Lock()
        self._job_hash = xxh3_64(manifest.job.encode())
        self._control, welcome = connect(
            endpoint.host, endpoint.port, "control", on_connected=on_connected, silence_seconds=silence_seconds
        )
        try:
            answer = self._control.request("open", name=endpoint.name, manifest=manifest.to_json(), sender=sender)
            with malformed_is_protocol_error(self._control.name, "answer to open"):
                self._session = str(answer["session"])
                self._reply = OpenReply(
                    identity=str(answer["identity"]),
                    resumed=bool(answer["resumed"]),
                    family_ids={str(name): int(id_) for name, id_ in answer["family_ids"].items()},
                    manifest=Manifest.from_json(answer["manifest"]),
                    cursors=(),
                    max_frame_bytes=int(welcome["max_frame_bytes"]),
                )
                manifest.check_resumes(self._reply.manifest)
                missing = {part.column_family for part in self._reply.manifest.ranges} - self._reply.family_ids.keys()
                if missing and self._reply.manifest.lane != "files":
                    raise ValueError(f"no id for the column families {sorted(missing)}")
                if not all(0 <= id_ < 1 << 32 for id_ in self._reply.family_ids.values()):
                    raise ValueError("a column family id that is none")
                self._reply = _with_standing(self._reply, answer)
        except BaseException:
            self._control.close()
            raise

    @property
    def reply(self) -> OpenReply:
        return self._reply

    def stream(self, index: int, meter: StreamMeter | None = None) -> RemoteStream:
        meter = meter or StreamMeter(index, window=self._window)
        peer, _ = connect(
            self._endpoint.host,
            self._endpoint.port,
            "stream",
            silence_seconds=self._silence_seconds,
            session=self._session,
            stream=index,
            window=meter.window,
        )
        return RemoteStream(peer, index, self._job_hash, meter, self._silence_seconds)

    def split(self, range_id: int, key: bytes) -> Range:
        with self._lock:
            self._control.request("split", range=range_id, key=key.hex())
            manifest = self._reply.manifest.split(range_id, key)
            self._reply = dataclasses.replace(self._reply, manifest=manifest)
            return manifest.ranges[-1]

    def settle(self, seconds: float) -> OpenReply:
        deadline = time.monotonic() + seconds
        control, connection = self._control, self._control.connection
        connection.set_timeout(round(1000 * seconds))
        with self._lock:
            control.send(FrameType.REQUEST, {"operation": "settle"})
            type_ = FrameType.HEARTBEAT
            # However often it says that it is alive.
            while type_ is not FrameType.REPLY:
                if not connection.wait_readable(max(0, round(1000 * (deadline - time.monotonic())))):
                    raise TransportError(f"{control.name} did not say within {seconds:g} s what is durable")
                type_, answer = control.receive(FrameType.REPLY, FrameType.HEARTBEAT)
        with malformed_is_protocol_error(control.name, "answer to settle"):
            return _with_standing(self._reply, answer)

    def finish(self) -> None:
        with self._lock:
            self._control.request("finish")

    def close(self) -> None:
        self._control.close()
