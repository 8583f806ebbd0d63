"""What holds a job back, and for how long: the one place where waiting is counted."""

from __future__ import annotations

import threading
import time
from enum import StrEnum

__all__ = ["ThrottleLedger", "ThrottleReason"]

# Of the time that the streams had: what waited less is not what limits the job.
_NOTICEABLE_SHARE = 0.05


class ThrottleReason(StrEnum):
    """Why a stream waits. docs/throttle.md says of each what to do about it."""

    PAUSED = "paused"
    RATE_LIMIT = "rate-limit"
    SOURCE_READ_RATE = "source-read-rate"
    SOURCE_CHECK = "source-check"
    TARGET_STALL = "target-stall"
    WINDOW = "window"
    MEMORY = "memory"


class _Wait:
    """A generator's context would cost a stream more than the wait is worth, for every window that is full."""

    __slots__ = ("_ledger", "_reason", "_stream")

    def __init__(self, ledger: ThrottleLedger, stream: int, reason: ThrottleReason) -> None:
        self._ledger = ledger
        self._stream = stream
        self._reason = reason

    def __enter__(self) -> None:
        self._ledger.begin(self._stream, self._reason)

    def __exit__(self, *_: object) -> None:
        self._ledger.end(self._stream)


class ThrottleLedger:
    """Seconds that streams waited, by reason. Waits that still last count as far as they got. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(ThrottleReason, 0.0)
        self._waiting: dict[int, tuple[ThrottleReason, float]] = {}
        self._looked_at = time.monotonic()
        self._seconds_then = dict(self._seconds)

    def add(self, reason: ThrottleReason, seconds: float) -> None:
        """A wait that somebody else measured."""
        if seconds > 0:
            with self._lock:
                self._seconds[reason] += seconds

    def waiting(self, stream: int, reason: ThrottleReason) -> _Wait:
        """Around a wait of a stream, which has one at a time."""
        return _Wait(self, stream, reason)

    def begin(self, stream: int, reason: ThrottleReason) -> None:
        with self._lock:
            self._waiting[stream] = (reason, time.monotonic())

    def end(self, stream: int) -> None:
        with self._lock:
            reason, since = self._waiting.pop(stream)
            self._seconds[reason] += time.monotonic() - since

    def reason_of(self, stream: int) -> ThrottleReason | None:
        """What the stream waits for at this moment."""
        with self._lock:
            waits = self._waiting.get(stream)
        return waits[0] if waits else None

    def seconds(self) -> dict[ThrottleReason, float]:
        """Of all streams together, by reason."""
        with self._lock:
            return self._seconds_at(time.monotonic())

    def _seconds_at(self, now: float) -> dict[ThrottleReason, float]:
        seconds = dict(self._seconds)
        for reason, since in self._waiting.values():
            seconds[reason] += now - since
        return seconds

    def main_reason(self, streams: int) -> ThrottleReason | None:
        """What so many streams waited for most since this was last asked; None if they hardly waited or have ended."""
        with self._lock:
            now = time.monotonic()
            seconds = self._seconds_at(now)
            elapsed, self._looked_at = now - self._looked_at, now
            waited = {reason: seconds[reason] - self._seconds_then[reason] for reason in seconds}
            self._seconds_then = seconds
        reason = max(waited, key=lambda each: waited[each])
        return reason if streams and waited[reason] > _NOTICEABLE_SHARE * elapsed * streams else None
