"""What one stream measures of its target."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from kvbatch._core.base import RateLimiter
from kvbatch.flow.throttle import ThrottleLedger

__all__ = ["StreamMeter"]

_KEPT_ROUND_TRIPS = 256


@dataclass(slots=True)
class StreamMeter:
    """Written by its stream, read by the job's thread.

    `limiter` is what the stream's bytes on the wire wait for; without a wire those of its frames. `window`: frames that
    may be unacknowledged. The target's time is what it took to apply frames, `queued_bytes` what had reached it and
    waited when it last said so, `health` what its store says of itself: the fields of _core.store.TargetHealth.
    """

    stream: int = 0
    limiter: RateLimiter = field(default_factory=RateLimiter)
    ledger: ThrottleLedger = field(default_factory=ThrottleLedger)
    window: int = 16
    apply_seconds: float = 0.0
    applied_frames: int = 0
    queued_bytes: int = 0
    health: dict[str, int] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _round_trips: list[float] = field(default_factory=list)

    def applied(self, seconds: float, frames: int = 1) -> None:
        self.apply_seconds += seconds
        self.applied_frames += frames

    def acknowledged(self, round_trip: float, ack: dict[str, Any]) -> None:
        """Takes notice of an ack, `round_trip` seconds after the last of its frames had been sent. Raises what taking
        JSON apart raises (kvbatch.protocol.MALFORMED)."""
        self.applied(float(ack.get("apply_seconds", 0.0)), int(ack["frames"]))
        self.queued_bytes = int(ack.get("queued", 0))
        if "health" in ack:
            self.note_health(ack["health"])
        with self._lock:
            if len(self._round_trips) < _KEPT_ROUND_TRIPS:
                self._round_trips.append(round_trip)

    def note_health(self, health: dict[str, Any]) -> None:
        self.health = {str(name): int(value) for name, value in health.items()}

    def take_round_trips(self) -> list[float]:
        """Seconds from a frame to its ack since this was last asked; the first 256 of them."""
        with self._lock:
            taken, self._round_trips = self._round_trips, []
        return taken
