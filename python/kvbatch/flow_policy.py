"""How a job's streams are steered: what was measured goes to the controllers, what they say to the streams."""

from __future__ import annotations

import datetime
from typing import Any

from kvbatch._core.frame import BufferPool
from kvbatch.compression import CodecChooser
from kvbatch.endpoints import Endpoint
from kvbatch.events import EventBus, Progress
from kvbatch.flow import stream_controller, target_health
from kvbatch.flow.job_flow import JobFlow
from kvbatch.flow.source_check import SourceCheck
from kvbatch.flow.stream_controller import StreamObservation, StreamState
from kvbatch.flow.target_health import HealthDecision, TargetHealth
from kvbatch.flow.throttle import ThrottleReason
from kvbatch.job_figures import Observation
from kvbatch.options import AUTO_BATCH_BYTES, AUTO_WINDOW, MIB, STREAM_BYTES, MigrationOptions
from kvbatch.stream_group import StreamGroup

__all__ = ["FlowPolicy"]

# Reasons that say nothing of how fast the job could be.
_HELD_BACK = (
    ThrottleReason.PAUSED,
    ThrottleReason.RATE_LIMIT,
    ThrottleReason.SOURCE_READ_RATE,
    ThrottleReason.SOURCE_CHECK,
    ThrottleReason.TARGET_STALL,
)


class FlowPolicy:
    """Belongs to the job's thread, but for `close`."""

    def __init__(self, options: MigrationOptions, flow: JobFlow, target: Endpoint, bus: EventBus) -> None:
        self._options = options
        self._flow = flow
        self._target = target
        self._bus = bus
        self._check = SourceCheck(options.throttle_check).start() if options.throttle_check is not None else None
        self._streams = StreamState()
        self._health = HealthDecision()
        self._shown_throttle: str | None = None
        self._group: StreamGroup | None = None
        self._pool: BufferPool | None = None
        self._compression = flow.settings.compression
        self._follow_schedule()

    def close(self) -> None:
        if self._check is not None:
            self._check.close()

    def begin_session(self, group: StreamGroup, pool: BufferPool) -> None:
        self._group = group
        self._pool = pool
        self._flow.use_pool(pool)
        self._hold_for_check()

    # -- what holds now -----------------------------------------------------------------------------------------------

    @property
    def streams(self) -> int:
        return self._flow.settings.streams or self._streams.streams

    @property
    def batch_bytes(self) -> int:
        wanted = self._flow.settings.batch_bytes or min(AUTO_BATCH_BYTES, self._options.most_batch_bytes(self.streams))
        return self._flow.frame_bytes(wanted, self.streams)

    @property
    def pool_bytes(self) -> int:
        """What is left of the memory for frames and large entries."""
        return self._flow.settings.max_memory - STREAM_BYTES * self.streams

    @property
    def window(self) -> int:
        return self._flow.settings.window or AUTO_WINDOW

    @property
    def silence_seconds(self) -> float:
        """How long a target may say nothing: longer for larger frames."""
        return self._options.peer_timeout + self.batch_bytes / MIB

    # -- every sample -------------------------------------------------------------------------------------------------

    def look(self, progress: Progress, observed: Observation | None) -> None:
        """Takes notice of what was measured since the last sample."""
        self._follow_schedule()
        self._hold_for_check()
        if observed is not None:
            self._heed_target(observed)
            if self._flow.settings.streams == 0:
                self._streams = stream_controller.decide(
                    self._streams,
                    StreamObservation(
                        observed.seconds,
                        observed.raw_bytes / observed.seconds,
                        progress.streams,
                        held_back=progress.throttle in _HELD_BACK,
                    ),
                    self._options.max_streams,
                )
        if progress.throttle != self._shown_throttle:
            self._shown_throttle = progress.throttle
            self._bus.publish("throttle", reason=progress.throttle)

    def apply(self) -> None:
        """Tells the streams what holds now."""
        if self._group is None or self._pool is None:
            return
        pool_bytes = self.pool_bytes
        if self._pool.max_bytes != pool_bytes:
            self._pool.max_bytes = pool_bytes
        batch_bytes, window = self.batch_bytes, self.window
        compression = self._flow.settings.compression
        for stream in self._group.streams:
            stream.batch_bytes = batch_bytes
            stream.meter.window = window
            if compression != self._compression:
                stream.codecs = CodecChooser(compression, self._target)
        self._compression = compression
        self._group.adjust(self.streams)

    def _follow_schedule(self) -> None:
        schedule = self._options.rate_schedule
        if schedule is not None and self._flow.limit_wire(limit := schedule.limit_at(datetime.datetime.now())):
            self._bus.publish("settings", rate_limit=limit)

    def _hold_for_check(self) -> None:
        if self._check is not None:
            self._flow.hold(ThrottleReason.SOURCE_CHECK, self._check.reason)

    def _heed_target(self, observed: Observation) -> None:
        measured: dict[str, Any] = dict(observed.health or {})
        known = {name: measured[name] for name in TargetHealth.__dataclass_fields__ if name in measured}
        apply_seconds = observed.apply_seconds / observed.applied_frames if observed.applied_frames else 0.0
        self._health = target_health.decide(self._health, TargetHealth(**known, apply_seconds=apply_seconds))
        self._flow.slow_down(self._health.share)
