"""Flow control of one job: what its streams ask before each frame, and what an operator can change meanwhile."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

from kvbatch._core.base import RateLimiter
from kvbatch._core.frame import BufferPool
from kvbatch.flow.settings import JobSettings
from kvbatch.flow.throttle import ThrottleLedger, ThrottleReason

__all__ = ["HEARTBEAT_SECONDS", "JobFlow"]

# A stream that is held says so often that it is alive, and hears whether its target is.
HEARTBEAT_SECONDS = 5.0
_RECHECK_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 1.0
# Under a limit no frame takes longer than this, as long as it stays this large.
_LIMITED_FRAME_SECONDS = 0.25
_LEAST_LIMITED_BYTES = 64 << 10


class JobFlow:
    """Thread-safe. Lives as long as its job; sessions come and go."""

    def __init__(self, settings: JobSettings, read_limiter: RateLimiter, ledger: ThrottleLedger) -> None:
        self._condition = threading.Condition()
        self._settings = settings
        self._paused = False
        self._holds: dict[ThrottleReason, str] = {}
        self._first_hold: ThrottleReason | None = None
        self._share = 1.0
        # When the last frame of a stream began.
        self._began: dict[int, float] = {}
        self._counted = {ThrottleReason.RATE_LIMIT: 0.0, ThrottleReason.SOURCE_READ_RATE: read_limiter.waited_seconds}
        self._pool: BufferPool | None = None
        self._memory_counted = 0.0
        self.ledger = ledger
        self.wire_limiter = RateLimiter(settings.rate_limit)
        self.read_limiter = read_limiter
        read_limiter.bytes_per_second = settings.source_read_rate

    @property
    def settings(self) -> JobSettings:
        return self._settings

    @property
    def state(self) -> str:
        """`running` or `paused`."""
        return "paused" if self._paused else "running"

    @property
    def held(self) -> bool:
        """Whether streams wait behind their next frame, for whatever reason."""
        return self._first_hold is not None

    @property
    def held_back(self) -> str | None:
        """Why every stream is held, in words; None when none is, or somebody paused the job."""
        with self._condition:
            return None if self._first_hold is None else self._holds.get(self._first_hold)

    def change(self, **changes: Any) -> JobSettings:
        """Settings that hold from now on; the caller has checked them."""
        with self._condition:
            self._settings = dataclasses.replace(self._settings, **changes)
            self.wire_limiter.bytes_per_second = self._settings.rate_limit
            self.read_limiter.bytes_per_second = self._settings.source_read_rate
            return self._settings

    def count_waits(self) -> None:
        """Brings what streams waited for limits and for memory, which the core measures, into the ledger."""
        for reason, limiter in (
            (ThrottleReason.RATE_LIMIT, self.wire_limiter),
            (ThrottleReason.SOURCE_READ_RATE, self.read_limiter),
        ):
            waited = limiter.waited_seconds
            self.ledger.add(reason, waited - self._counted[reason])
            self._counted[reason] = waited
        if self._pool is not None:
            waited = self._pool.waited_seconds
            self.ledger.add(ThrottleReason.MEMORY, waited - self._memory_counted)
            self._memory_counted = waited

    def use_pool(self, pool: BufferPool) -> None:
        """What streams wait for in `pool` counts from now on; each session has one of its own."""
        self.count_waits()
        self._pool, self._memory_counted = pool, pool.waited_seconds

    def limit_wire(self, bytes_per_second: int) -> bool:
        """As `change` of the rate limit; whether that made a difference."""
        if bytes_per_second == self._settings.rate_limit:
            return False
        self.change(rate_limit=bytes_per_second)
        return True

    # -- holding streams back -----------------------------------------------------------------------------------------

    def pause(self) -> bool:
        """Whether it was running."""
        with self._condition:
            was, self._paused = self._paused, True
            self._note_holds()
        return not was

    def resume(self) -> bool:
        """Whether it was paused."""
        with self._condition:
            was, self._paused = self._paused, False
            self._note_holds()
        return was

    def hold(self, reason: ThrottleReason, why: str | None) -> None:
        """Holds every stream for this reason as long as there is a `why`; None lets them go."""
        with self._condition:
            if why is None:
                self._holds.pop(reason, None)
            else:
                self._holds[reason] = why
            self._note_holds()

    def slow_down(self, share: float) -> None:
        """Streams go at this share of their full speed, for the sake of the target; at 0 they ask for its health and
        wait."""
        self._share = share
        self.hold(ThrottleReason.TARGET_STALL, None if share > 0 else "the target must catch up")

    def _note_holds(self) -> None:
        self._first_hold = ThrottleReason.PAUSED if self._paused else next(iter(self._holds), None)
        self._condition.notify_all()

    def wake(self) -> None:
        """For streams that are to stop: whoever is held looks at `stopping` again."""
        with self._condition:
            self._condition.notify_all()

    def let_go(self) -> None:
        """Nobody waits for a limit any more, for streams that were told to stop and did not. `take_hold` ends that."""
        self.wire_limiter.bytes_per_second = 0
        self.read_limiter.bytes_per_second = 0

    def take_hold(self) -> None:
        self.change()

    def wait_while_held(self, stream: int, stopping: threading.Event, heartbeat: Callable[[], None]) -> None:
        """Returns at once unless something holds the job or slows it down. Calls `heartbeat` every HEARTBEAT_SECONDS,
        and more often when the target is asked whether it has caught up."""
        if self._share < 1:
            self._go_slowly(stream, stopping)
        while (reason := self._first_hold) is not None and not stopping.is_set():
            seconds = _RECHECK_SECONDS if reason is ThrottleReason.TARGET_STALL else HEARTBEAT_SECONDS
            with self.ledger.waiting(stream, reason), self._condition:
                if self._first_hold is reason and not stopping.is_set():
                    self._condition.wait(seconds)
            if not stopping.is_set():
                heartbeat()

    def _go_slowly(self, stream: int, stopping: threading.Event) -> None:
        now = time.monotonic()
        took = now - self._began.get(stream, now)
        share = self._share
        if 0 < share < 1 and took > 0:
            pause = min(_LONGEST_PAUSE_SECONDS, took * (1 - share) / share)
            with self.ledger.waiting(stream, ThrottleReason.TARGET_STALL):
                stopping.wait(pause)
        self._began[stream] = time.monotonic()

    # -- sizes --------------------------------------------------------------------------------------------------------

    def frame_bytes(self, wanted: int, streams: int) -> int:
        """The batch size that a stream uses where it wants `wanted` bytes: less under a limit, so that a change of it,
        a pause or a stop is heeded soon."""
        limit = self._settings.rate_limit
        if limit == 0:
            return wanted
        return min(wanted, max(_LEAST_LIMITED_BYTES, int(limit * _LIMITED_FRAME_SECONDS / max(1, streams))))
