"""What one stream measures of its target."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from kvbatch._core.base import RateLimiter
from kvbatch.flow.throttle import ThrottleLedger

__all__ = ["HEALTH_SECONDS", "StreamMeter", "StreamReading"]

# How the target's store is costs some properties of each of its column families, and an ack some of its length.
HEALTH_SECONDS = 1.0
# What a target says of itself is within these, or nonsense that would spoil all figures after it.
_MOST = 1 << 63
_MOST_SECONDS = 1e9


@dataclass(frozen=True, slots=True)
class StreamReading:
    """Since the reading before: raw bytes that were acknowledged, the least seconds from a frame to its ack (0 without
    one), the least bytes that waited at the target when it said so. Of this moment: raw bytes in flight, seconds since
    the last ack. Of all the time: the least that a round trip took, 0 while unknown."""

    acknowledged_bytes: int
    round_trip_seconds: float
    queued_bytes: int
    in_flight_bytes: int
    since_ack_seconds: float
    link_seconds: float


@dataclass(slots=True)
class StreamMeter:
    """Written by its stream, read by the job's thread.

    `limiter` is what the stream's bytes on the wire wait for; without a wire those of its frames. `window`: frames that
    may be unacknowledged. The target's time is what it took to apply frames, `health` what its store said of itself at
    `health_at` (monotonic): the fields of _core.store.TargetHealth.
    """

    stream: int = 0
    limiter: RateLimiter = field(default_factory=RateLimiter)
    ledger: ThrottleLedger = field(default_factory=ThrottleLedger)
    window: int = 16
    apply_seconds: float = 0.0
    applied_frames: int = 0
    health: dict[str, int] | None = None
    health_at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _acknowledged: int = 0
    _in_flight: int = 0
    _round_trip: float = 0.0
    _link: float = 0.0
    _queued: int | None = None
    _ack_at: float = field(default_factory=time.monotonic)

    def applied(self, seconds: float, raw_bytes: int) -> None:
        """A frame of a target that needs no ack."""
        self.apply_seconds += seconds
        self.applied_frames += 1
        with self._lock:
            self._acknowledged += raw_bytes
            self._ack_at = time.monotonic()

    def note_link(self, round_trip: float) -> None:
        """What a round trip took."""
        if round_trip > 0:
            self._link = min(self._link or round_trip, round_trip)

    def sent(self, raw_bytes: int) -> None:
        with self._lock:
            self._in_flight += raw_bytes

    def acknowledged(self, round_trip: float, raw_bytes: int, ack: dict[str, Any]) -> None:
        """Takes notice of an ack for frames of `raw_bytes`, `round_trip` seconds after the last of them had been sent.
        Raises what taking JSON apart raises (kvbatch.protocol.MALFORMED)."""
        apply_seconds = float(ack.get("apply_seconds", 0.0))
        if not 0 <= apply_seconds <= _MOST_SECONDS:
            raise ValueError(f"{apply_seconds} seconds")
        self.apply_seconds += apply_seconds
        self.applied_frames += int(ack["frames"])
        queued = _whole(ack.get("queued", 0), 0)
        if "health" in ack:
            self.note_health(ack["health"])
        with self._lock:
            self._acknowledged += raw_bytes
            self._in_flight -= raw_bytes
            self._ack_at = time.monotonic()
            self._round_trip = min(self._round_trip or round_trip, round_trip)
            self.note_link(round_trip)
            self._queued = queued if self._queued is None else min(self._queued, queued)

    def note_health(self, health: dict[str, Any]) -> None:
        """Raises as `acknowledged`."""
        self.health = {name: _whole(value, -_MOST) for name, value in health.items()}
        self.health_at = time.monotonic()

    def read(self) -> StreamReading:
        with self._lock:
            reading = StreamReading(
                self._acknowledged,
                self._round_trip,
                self._queued or 0,
                self._in_flight,
                time.monotonic() - self._ack_at,
                self._link,
            )
            self._acknowledged, self._round_trip, self._queued = 0, 0.0, None
        return reading


def _whole(value: Any, least: int) -> int:
    if type(value) is not int or not least <= value < _MOST:
        raise ValueError(f"{repr(value)[:40]} is no whole number from {least} on")
    return value
