"""How a job's streams are steered: what was measured goes to the controllers, what they say to the streams."""

from __future__ import annotations

import datetime
import math
from typing import Any

from kvbatch._core.frame import BufferPool
from kvbatch.compression import adapts, first_choice
from kvbatch.endpoints import Endpoint
from kvbatch.events import EventBus, Progress
from kvbatch.flow import batch_controller, compression_controller, stream_controller, target_health
from kvbatch.flow.batch_state import BatchObservation, BatchState, Settings
from kvbatch.flow.compression_controller import CodecName, CodecSample, CompressionObservation, CompressionState
from kvbatch.flow.job_flow import JobFlow
from kvbatch.flow.source_check import SourceCheck
from kvbatch.flow.stream_controller import StreamObservation, StreamState
from kvbatch.flow.target_health import HealthDecision, TargetHealth
from kvbatch.flow.throttle import ThrottleReason
from kvbatch.job_figures import Observation
from kvbatch.options import (
    AUTO_BATCH_BYTES,
    AUTO_WINDOW,
    FRAME_PARTS,
    MIN_BATCH_BYTES,
    PLAIN_SOURCE,
    STREAM_BYTES,
    MigrationOptions,
    SourceMemory,
)
from kvbatch.process import IdleCores
from kvbatch.stream_group import StreamGroup
from kvbatch.target import FILE_PIECE_BYTES

__all__ = ["FlowPolicy"]

# Of the streams' time: a target that applies for longer is what they wait for.
_BUSY_SHARE = 0.5
# Waits that say nothing of how fast the job could be.
_HELD_BACK = frozenset(ThrottleReason) - {ThrottleReason.WINDOW}


class FlowPolicy:
    """Belongs to the job's thread, but for `close`."""

    def __init__(
        self,
        options: MigrationOptions,
        flow: JobFlow,
        target: Endpoint,
        bus: EventBus,
        source_memory: SourceMemory = PLAIN_SOURCE,
    ) -> None:
        self._options = options
        self._source_memory = source_memory
        self._flow = flow
        self._target = target
        self._bus = bus
        self._check = SourceCheck(options.throttle_check).start() if options.throttle_check is not None else None
        # Where most jobs end; what gains nothing by it goes back by itself.
        start = Settings(AUTO_BATCH_BYTES, AUTO_WINDOW)
        self._batch = BatchState(settings=start, home=start)
        self._streams = StreamState()
        self._health = HealthDecision()
        self._idle = IdleCores()
        self._codec = CompressionState(codec=first_choice(flow.settings.compression, target))
        self._samples: dict[CodecName, CodecSample] = {}
        self._compression = flow.settings.compression
        # When the codec was last thought about.
        self._codec_limit = flow.settings.rate_limit
        self._shown_throttle: str | None = None
        self._told_outcome: str | None = None
        self._group: StreamGroup | None = None
        self._pool: BufferPool | None = None
        self._lane = ""
        # What the schedule said last: what was set since counts until it says something else.
        self._scheduled: int | None = None
        # What a job begins with was not changed; samples have it.
        self._schedule_changed_limit()

    def close(self) -> None:
        if self._check is not None:
            self._check.close()

    def begin_session(self, group: StreamGroup, pool: BufferPool, lane: str) -> None:
        self._group = group
        self._pool = pool
        self._lane = lane
        self._flow.use_pool(pool)
        self._hold_for_check()

    def end_session(self) -> None:
        """Lets go of the streams, and so of the source that they read."""
        self._group = None
        self._pool = None

    # -- what holds now -----------------------------------------------------------------------------------------------

    @property
    def streams(self) -> int:
        return self._flow.settings.streams or self._streams.streams

    @property
    def batch_bytes(self) -> int:
        wanted = self._flow.settings.batch_bytes or self._batch.batch_bytes
        most = max(MIN_BATCH_BYTES, self.pool_bytes // (FRAME_PARTS * self.streams))
        return self._flow.frame_bytes(min(wanted, most), self.streams)

    @property
    def piece_bytes(self) -> int:
        """Of a file that is grafted, which takes no memory."""
        return self._flow.frame_bytes(FILE_PIECE_BYTES, self.streams)

    @property
    def pool_bytes(self) -> int:
        """What is left of the memory for frames and large entries."""
        taken = STREAM_BYTES * self.streams + self._source_memory.bytes_of(self.streams)
        return max(0, self._flow.settings.max_memory - taken)

    @property
    def window(self) -> int:
        return self._flow.settings.window or self._batch.window

    @property
    def codec(self) -> CodecName:
        return self._codec.codec

    # -- every sample -------------------------------------------------------------------------------------------------

    def look(self, progress: Progress, observed: Observation | None) -> None:
        """Takes notice of what was measured since the last sample."""
        if self._schedule_changed_limit():
            self._bus.publish("settings", rate_limit=self._flow.settings.rate_limit)
        self._hold_for_check()
        if observed is not None and observed.streams > 0:
            held_back = sum(observed.waited_seconds[reason] for reason in _HELD_BACK)
            self._heed_target(observed)
            self._adapt_batch(observed, held_back)
            self._adapt_streams(progress, observed)
            self._adapt_codec(observed)
        self.tell_throttle(progress.throttle)

    def tell_throttle(self, reason: str | None) -> None:
        """Where it is another one than was told last."""
        if reason != self._shown_throttle:
            self._shown_throttle = reason
            self._bus.publish("throttle", reason=reason)

    def apply(self) -> None:
        """Tells the streams what holds now."""
        if self._group is None or self._pool is None:
            return
        pool_bytes = self.pool_bytes
        if self._pool.max_bytes != pool_bytes:
            self._pool.max_bytes = pool_bytes
        if self._flow.settings.compression != self._compression:
            self._compression = self._flow.settings.compression
            self._codec = CompressionState(codec=first_choice(self._compression, self._target))
        batch_bytes, piece_bytes, window, codec = self.batch_bytes, self.piece_bytes, self.window, self.codec
        for stream in self._group.streams:
            stream.batch_bytes = batch_bytes
            stream.piece_bytes = piece_bytes
            stream.meter.window = window
            stream.codecs.choose(codec)
        self._group.adjust(self.streams)

    def _schedule_changed_limit(self) -> bool:
        """Brings the limit to what the schedule says now, if that is new; whether the limit was another."""
        if self._options.rate_schedule is None:
            return False
        limit = self._options.rate_schedule.limit_at(datetime.datetime.now())
        before, self._scheduled = self._scheduled, limit
        return limit != before and self._flow.limit_wire(limit)

    def _hold_for_check(self) -> None:
        if self._check is None:
            return
        reason, outcome = self._check.reason, self._check.outcome
        self._flow.hold(ThrottleReason.SOURCE_CHECK, reason)
        # A check that is mistyped would hold the job for ever without a word.
        if reason is not None and outcome not in (None, self._told_outcome):
            self._bus.publish("warning", message=f"the job waits: {reason}")
        self._told_outcome = outcome

    def _heed_target(self, observed: Observation) -> None:
        measured: dict[str, Any] = dict(observed.health or {})
        known = {name: measured[name] for name in TargetHealth.__dataclass_fields__ if name in measured}
        apply_seconds = observed.apply_seconds / observed.applied_frames if observed.applied_frames else 0.0
        self._health = target_health.decide(self._health, TargetHealth(**known, apply_seconds=apply_seconds))
        self._flow.slow_down(self._health.share)

    def _adapt_batch(self, observed: Observation, held_back: float) -> None:
        """Files go out in pieces that nobody chooses."""
        if self._lane == "files":
            return
        self._batch = batch_controller.decide(
            self._batch,
            BatchObservation(
                seconds=observed.seconds,
                streams=observed.streams,
                acknowledged_bytes=observed.acknowledged_bytes,
                in_flight_bytes=observed.in_flight_bytes,
                latency_seconds=observed.round_trip_seconds,
                link_seconds=observed.link_seconds,
                since_ack_seconds=min(observed.since_ack_seconds, observed.seconds),
                apply_seconds=observed.apply_seconds / max(1, observed.applied_frames),
                target_queued_bytes=observed.queued_bytes,
                window_seconds=observed.waited_seconds[ThrottleReason.WINDOW],
                held_back_seconds=held_back,
            ),
        )

    def _adapt_streams(self, progress: Progress, observed: Observation) -> None:
        if self._flow.settings.streams == 0:
            held_back = progress.throttle is not None and progress.throttle != ThrottleReason.WINDOW
            observation = StreamObservation(
                observed.seconds, observed.acknowledged_bytes / observed.seconds, observed.streams, held_back
            )
            self._streams = stream_controller.decide(self._streams, observation, self._options.most_auto_streams)

    def _adapt_codec(self, observed: Observation) -> None:
        if not adapts(self._compression, self._target) or self._group is None:
            return
        alive = [stream for stream in self._group.streams if not stream.ended]
        for stream in alive:
            if (sample := stream.codecs.take_sample()) is not None:
                self._samples[sample[0]] = compression_controller.blend(self._samples.get(sample[0]), sample[1])
        if not observed.raw_bytes:
            return  # acks alone say nothing of what frames cost
        stream_seconds = observed.seconds * observed.streams
        # A full window waits for the target, or, where that has little to do, for the link.
        window_seconds = observed.waited_seconds[ThrottleReason.WINDOW]
        of_target = observed.stage_seconds["apply"] >= _BUSY_SHARE * stream_seconds
        idle_cores = self._idle.measure()
        rate_limit, limit_before = self._flow.settings.rate_limit, self._codec_limit
        self._codec_limit = rate_limit
        if rate_limit != limit_before:
            return  # an interval with two limits tells of neither
        before = self._codec
        self._codec = compression_controller.decide(
            before,
            CompressionObservation(
                seconds=observed.seconds,
                goodput=observed.acknowledged_bytes / observed.seconds,
                wire_rate=observed.payload_bytes / observed.seconds,
                blocked_share=(observed.stage_seconds["network"] + (0.0 if of_target else window_seconds))
                / stream_seconds,
                window_share=window_seconds / stream_seconds if of_target else 0.0,
                pack_seconds_per_byte=observed.stage_seconds["read"] / max(1, observed.raw_bytes),
                streams=observed.streams,
                idle_cores=idle_cores,
                samples=self._samples,
                rate_limit=rate_limit or math.inf,
                limited_share=observed.waited_seconds[ThrottleReason.RATE_LIMIT] / stream_seconds,
            ),
        )
        if self._codec.codec != before.codec:
            self._bus.publish("compression", codec=self._codec.codec, reason=self._codec.reason)
        if not alive:
            return
        if self._codec.sample is not None:
            alive[0].codecs.ask(self._codec.sample)
        elif self.codec != "none" and alive[0].codecs.settled:
            # The figures of an interval do not say it: a frame that is still being sent stands in some of them.
            alive[0].codecs.ask(self.codec)
