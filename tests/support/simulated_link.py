"""A job as a discrete model, for trying controllers: streams that pack and send, a link, a target that applies frames
and acknowledges three quarters of a window at once, or what it has after 50 ms without more."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from kvbatch.flow.batch_controller import decide
from kvbatch.flow.batch_state import BatchObservation, BatchState, Settings

__all__ = ["Machine", "Simulation"]

MIB = 1 << 20
_IDLE_ACK_SECONDS = 0.05
_MAX_FRAMES_PER_ACK = 64


@dataclass(frozen=True)
class Machine:
    """What a job runs on. The defaults are about what was measured over loopback on two cores: 256 KiB batches lose a
    third against 1 to 2 MiB, and 4 MiB, which no cache holds, a tenth."""

    round_trip: float = 0.0
    bandwidth: float = math.inf  # bytes a second, shared by all streams
    streams: int = 1
    frame_seconds: float = 40e-6
    pack_seconds_per_byte: float = 0.8e-9
    apply_frame_seconds: float = 0.2e-3
    apply_seconds_per_byte: float = 1.25e-9
    cache_bytes: int = 2 * MIB
    cache_penalty: float = 1.15
    socket_bytes: int = 4 * MIB

    def pack_seconds(self, length: int) -> float:
        return self.frame_seconds + length * self.pack_seconds_per_byte * self._penalty(length)

    def apply_seconds(self, length: int) -> float:
        return self.apply_frame_seconds + length * self.apply_seconds_per_byte * self._penalty(length)

    def _penalty(self, length: int) -> float:
        return self.cache_penalty if length > self.cache_bytes else 1.0


@dataclass
class _Frame:
    length: int
    sent_at: float
    first_byte_at: float
    arrives_at: float


@dataclass
class _Stream:
    sending: bool = True
    waits_since: float | None = None
    unacknowledged: deque[_Frame] = field(default_factory=deque)
    # On the way to the target or in its socket, and applied but not yet acknowledged.
    coming: deque[_Frame] = field(default_factory=deque)
    applying: bool = False
    applied: int = 0
    applied_at: float = 0.0


class Simulation:
    """Runs by `run`; with `fixed` settings, or with the controller, which looks every `interval` seconds.

    `machine_at` is asked for what there is at a time, so that links and targets may change."""

    def __init__(
        self,
        machine: Machine | Callable[[float], Machine],
        *,
        fixed: Settings | None = None,
        interval: float = 0.25,
    ) -> None:
        self._machine_at = machine if callable(machine) else lambda now: machine
        self._fixed = fixed
        self._interval = interval
        self.state = BatchState()
        self.history: list[tuple[float, BatchState]] = []
        # From when to when a frame was received and applied, and its bytes.
        self.applied: list[tuple[float, float, int]] = []
        self.observations: list[BatchObservation] = []
        self._now = 0.0
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._streams = [_Stream() for _ in range(self._machine.streams)]
        self._link_free_at = 0.0
        self._begin_interval()
        for stream in self._streams:
            self._at(0.0, self._pack, stream)
        self._at(interval, self._observe)

    @property
    def _machine(self) -> Machine:
        return self._machine_at(self._now)

    @property
    def settings(self) -> Settings:
        return self._fixed or self.state.settings

    def run(self, until: float) -> Simulation:
        while self._events[0][0] <= until:
            self._now, _, act, arguments = heapq.heappop(self._events)
            act(*arguments)
        return self

    def goodput(self, begin: float, end: float) -> float:
        """Bytes a second that were received and applied between two times, parts of frames included."""
        parts = (
            length * (min(end, until) - max(begin, since)) / (until - since)
            for since, until, length in self.applied
            if since < end and until > begin
        )
        return sum(parts) / (end - begin)

    def _at(self, moment: float, act: Callable[..., None], *arguments: object) -> None:
        heapq.heappush(self._events, (moment, next(self._order), act, arguments))

    # -- the sender ----------------------------------------------------------------------------------------------------

    def _pack(self, stream: _Stream) -> None:
        if len(stream.unacknowledged) >= self.settings.window:
            stream.sending, stream.waits_since = False, self._now
            return
        length = self.settings.batch_bytes
        self._at(self._now + self._machine.pack_seconds(length), self._send, stream, length)

    def _send(self, stream: _Stream, length: int) -> None:
        machine = self._machine
        begins_at = max(self._now, self._link_free_at)
        self._link_free_at = begins_at + length / machine.bandwidth
        # All but what the socket holds has to have left.
        sent_at = max(self._now, self._link_free_at - machine.socket_bytes / machine.bandwidth)
        half = machine.round_trip / 2
        frame = _Frame(length, sent_at, begins_at + half, self._link_free_at + half)
        stream.unacknowledged.append(frame)
        stream.coming.append(frame)
        self._at(frame.arrives_at, self._apply, stream)
        self._at(sent_at, self._pack, stream)

    def _take_ack(self, stream: _Stream, frames: int) -> None:
        self._last_ack_at = self._now
        for _ in range(frames):
            frame = stream.unacknowledged.popleft()
            self._acknowledged_bytes += frame.length
            self._latencies.append(self._now - frame.sent_at)
        if not stream.sending:
            assert stream.waits_since is not None
            self._window_seconds += self._now - max(stream.waits_since, self._interval_began)
            stream.sending, stream.waits_since = True, None
            self._pack(stream)

    # -- the target ----------------------------------------------------------------------------------------------------

    def _apply(self, stream: _Stream) -> None:
        if not stream.applying and stream.coming and stream.coming[0].arrives_at <= self._now:
            stream.applying = True
            took = self._machine.apply_seconds(stream.coming[0].length)
            self._at(self._now + took, self._applied, stream, took)

    def _applied(self, stream: _Stream, took: float) -> None:
        frame = stream.coming.popleft()
        stream.applying = False
        stream.applied += 1
        self._apply_seconds.append(took)
        self.applied.append((max(stream.applied_at, frame.first_byte_at), self._now, frame.length))
        stream.applied_at = self._now
        if stream.applied >= max(1, min(3 * self.settings.window // 4, _MAX_FRAMES_PER_ACK)):
            self._acknowledge(stream)
        else:
            self._at(self._now + _IDLE_ACK_SECONDS, self._acknowledge_if_idle, stream, frame)
        self._apply(stream)

    def _acknowledge_if_idle(self, stream: _Stream, last: _Frame) -> None:
        began_to_come = bool(stream.coming) and stream.coming[0].first_byte_at <= self._now
        if stream.applied and not stream.applying and not began_to_come:
            self._acknowledge(stream)

    def _acknowledge(self, stream: _Stream) -> None:
        queued = sum(frame.length for frame in stream.coming if frame.arrives_at <= self._now)
        least = self._queued.get(id(stream), self._machine.socket_bytes)
        self._queued[id(stream)] = min(queued, least)
        self._at(self._now + self._machine.round_trip / 2, self._take_ack, stream, stream.applied)
        stream.applied = 0

    # -- the controller ------------------------------------------------------------------------------------------------

    def _begin_interval(self) -> None:
        self._interval_began = self._now
        self._acknowledged_bytes = 0
        self._last_ack_at = self._now
        self._latencies: list[float] = []
        self._apply_seconds: list[float] = []
        self._queued: dict[int, int] = {}
        self._window_seconds = 0.0

    def _observe(self) -> None:
        for stream in self._streams:
            if stream.waits_since is not None:
                self._window_seconds += self._now - max(stream.waits_since, self._interval_began)
        observed = BatchObservation(
            seconds=self._interval,
            streams=len(self._streams),
            acknowledged_bytes=self._acknowledged_bytes,
            in_flight_bytes=sum(frame.length for stream in self._streams for frame in stream.unacknowledged),
            latency_seconds=min(self._latencies, default=0.0),
            link_seconds=self._machine.round_trip,
            since_ack_seconds=self._now - self._last_ack_at if self._latencies else 0.0,
            # The target tells it with its acks.
            apply_seconds=sum(self._apply_seconds) / len(self._apply_seconds)
            if self._apply_seconds and self._latencies
            else 0.0,
            target_queued_bytes=sum(self._queued.values()),
            window_seconds=self._window_seconds,
        )
        self.observations.append(observed)
        self._begin_interval()
        if self._fixed is None:
            self.state = decide(self.state, observed)
            self.history.append((self._now, self.state))
        self._at(self._now + self._interval, self._observe)
