"""The figures of a running job: what its streams count, put together."""

from __future__ import annotations

import copy
import dataclasses
import threading
import time
from collections.abc import Mapping, Sequence

from kvbatch._core.store import Cursor
from kvbatch.events import Progress, RateMeter, StreamProgress, Summary, run_rates
from kvbatch.flow.job_flow import JobFlow
from kvbatch.flow.throttle import ThrottleReason
from kvbatch.job_stream import JobStream
from kvbatch.manifest import Manifest
from kvbatch.migration_plan import Plan
from kvbatch.process import peak_rss_bytes, rss_bytes
from kvbatch.state import JobState
from kvbatch.stream_counters import StreamCounters

__all__ = ["JobFigures", "Observation"]

_STAGES = ("read", "compress", "network", "apply")
# A stage that took less than this share of its streams' time is no bottleneck.
_BOTTLENECK_SHARE = 0.2


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """What was measured between two samples, all streams together: `seconds` that passed and `streams` that ran; bytes
    of keys and values that went out, payload bytes they became, seconds by stage and by throttle reason; of the target:
    frames that it applied and what that took, what acks spoke for and what is in flight (raw bytes), the least seconds
    from a frame to its ack (0 without one) and that a round trip ever took, seconds since the last ack, the least bytes
    that waited there, what its store says of its health."""

    seconds: float
    streams: int
    raw_bytes: int
    payload_bytes: int
    stage_seconds: dict[str, float]
    waited_seconds: dict[ThrottleReason, float]
    applied_frames: int
    apply_seconds: float
    acknowledged_bytes: int
    in_flight_bytes: int
    round_trip_seconds: float
    link_seconds: float
    since_ack_seconds: float
    queued_bytes: int
    health: dict[str, int] | None


class JobFigures:
    """`sample` and what begins and ends sessions are for the job's thread, the rest is for any."""

    def __init__(self, plan: Plan, flow: JobFlow) -> None:
        self._plan = plan
        self._flow = flow
        self._started = time.monotonic()
        self._rates = RateMeter()
        self._wire_rates = RateMeter()
        self._lock = threading.Lock()
        self._manifest = plan.manifest
        self._cursors: dict[int, Cursor] = {}
        # Of ranges whose files were begun, what is on no cursor.
        self._begun: dict[int, tuple[int, int]] = {}
        # What was durable when the present session began.
        self._base_entries = 0
        self._base_bytes = 0
        # Entries and bytes that were durable when the first one began: no work of this run.
        self._found: tuple[int, int] | None = None
        self._streams: Sequence[JobStream] = ()
        self._before = StreamCounters()  # of earlier sessions
        self._ended = StreamCounters()  # of streams of the present one, or of the last while there is none
        self._most_streams = 0
        self._compression = "none"  # of the newest frames
        self._last = StreamCounters()
        self._last_at = self._started
        self._waited = flow.ledger.seconds()
        self._round_trip: float | None = None
        self._apply: float | None = None
        self.observation: Observation | None = None
        self.progress = Progress(
            estimated_entries=plan.estimated_entries,
            estimated_bytes=plan.estimated_bytes,
            ranges=len(plan.ranges),
            rate_limit=flow.settings.rate_limit,
        )

    # -- sessions -----------------------------------------------------------------------------------------------------

    def begin_session(
        self, manifest: Manifest, cursors: Sequence[Cursor], begun: Mapping[int, tuple[int, int]] | None = None
    ) -> None:
        """`begun`: by range, entries and bytes that stand at the target on no cursor: see OpenReply.begun."""
        with self._lock:
            self._manifest = manifest
            self._before.include(self._ended)
            self._ended = StreamCounters()
            self._cursors = {cursor.range: cursor for cursor in cursors}
            self._begun = dict(begun or {})
            self._base_entries = sum(self._entries(cursor) for cursor in cursors)
            self._base_entries += sum(entries for entries, _ in self._begun.values())
            self._base_bytes = sum(cursor.raw_bytes for cursor in cursors)
            self._base_bytes += sum(raw_bytes for _, raw_bytes in self._begun.values())
            self._found = self._found or (self._base_entries, self._base_bytes)

    def note_split(self, manifest: Manifest) -> None:
        """A range was added."""
        with self._lock:
            self._manifest = manifest

    def begin_streams(self, streams: Sequence[JobStream]) -> None:
        """`streams` may grow while the session lasts."""
        with self._lock:
            self._streams = streams

    def end_streams(self) -> None:
        with self._lock:
            for stream in self._streams:
                stream.add_to(self._ended)
            self._most_streams = max(self._most_streams, len(self._streams))
            self._streams = ()

    def note_break(self) -> None:
        """A session broke, or could not be had: until the next one nothing moves."""
        counters = self._counted()
        self._rates.restart(counters.entries, counters.raw_bytes)
        self._wire_rates.restart(0, counters.wire_bytes)

    def _counted(self) -> StreamCounters:
        """By streams that have ended."""
        with self._lock:
            counters = copy.copy(self._before)
            counters.include(self._ended)
            return counters

    def note_durable(self, cursor: Cursor) -> None:
        with self._lock:
            self._cursors[cursor.range] = cursor
            self._begun.pop(cursor.range, None)

    def cursors(self) -> dict[int, Cursor]:
        with self._lock:
            return dict(self._cursors)

    def note_begun(self, begun: Mapping[int, tuple[int, int]]) -> None:
        """What stands at the target now that is on no cursor."""
        with self._lock:
            self._begun = dict(begun)

    def standing_bytes(self) -> int:
        """What is durable, and what stood at the target of begun files when the session began."""
        with self._lock:
            durable = sum(cursor.raw_bytes for cursor in self._cursors.values())
            return durable + sum(raw_bytes for _, raw_bytes in self._begun.values())

    def _entries(self, cursor: Cursor) -> int:
        """What a cursor covers. The lane `files` does not look at entries: of them it is the planner's estimate."""
        if self._manifest.lane != "files":
            return cursor.entries
        part = self._manifest.ranges[cursor.range]
        if cursor.complete:
            return part.estimated_entries
        return part.estimated_entries * cursor.raw_bytes // max(1, part.file_bytes)

    # -- figures ------------------------------------------------------------------------------------------------------

    def sample(self) -> Progress:
        """The newest figures; kept as `progress`, with what was observed since the last in `observation`."""
        with self._lock:
            streams = list(self._streams)
            session = copy.copy(self._ended)
            under_way = sum(stream.add_to(session) for stream in streams)
            counters = copy.copy(self._before)
            counters.include(session)
            cursors = list(self._cursors.values())
            begun = list(self._begun.values())
            found_entries, found_bytes = self._found or (0, 0)
        durable_entries = sum(self._entries(cursor) for cursor in cursors) + sum(entries for entries, _ in begun)
        durable_bytes = sum(cursor.raw_bytes for cursor in cursors) + sum(raw_bytes for _, raw_bytes in begun)
        entries = max(durable_entries, self._base_entries + session.entries)
        raw_bytes = max(durable_bytes, self._base_bytes + session.raw_bytes + under_way)
        seconds = time.monotonic() - self._started
        held = self._flow.held
        entries_per_second, bytes_per_second = self._rates.sample(
            counters.entries, counters.raw_bytes + under_way, held=held
        )
        _, wire_bytes_per_second = self._wire_rates.sample(0, counters.wire_bytes, held=held)
        alive = [stream for stream in streams if not stream.ended]
        self._flow.count_waits()
        observed = self._observe(counters, streams)
        settings = self._flow.settings
        self._compression = next((stream.compression for stream in alive), self._compression)
        reason = self._flow.ledger.main_reason(len(alive))
        self.progress = Progress(
            entries=entries,
            raw_bytes=raw_bytes,
            durable_entries=durable_entries,
            durable_bytes=durable_bytes,
            estimated_entries=max(self._plan.estimated_entries, durable_entries),
            estimated_bytes=max(self._plan.estimated_bytes, durable_bytes),
            entries_per_second=entries_per_second,
            bytes_per_second=bytes_per_second,
            # A target that lost what it had gets it again.
            mean_entries_per_second=max(0, entries - found_entries) / max(seconds, 1e-6),
            mean_bytes_per_second=max(0, raw_bytes - found_bytes) / max(seconds, 1e-6),
            seconds=seconds,
            ranges_complete=sum(cursor.complete for cursor in cursors),
            ranges=len(self._manifest.ranges),
            state=self._flow.state,
            streams=len(alive),
            batch_bytes=max((stream.batch_bytes for stream in alive), default=0),
            window=max((stream.meter.window for stream in alive), default=0),
            compression=self._compression,
            compression_ratio=counters.sent_raw_bytes / counters.payload_bytes if counters.payload_bytes else 1.0,
            wire_bytes=counters.wire_bytes,
            wire_bytes_per_second=wire_bytes_per_second,
            batches=counters.batches,
            round_trip_seconds=self._round_trip,
            apply_seconds=self._apply,
            throttle=reason.value if reason is not None else None,
            held_back=self._flow.held_back,
            throttled_seconds=self._throttled(max(len(streams), self._most_streams)),
            stage_seconds={stage: getattr(counters, f"{stage}_seconds") for stage in _STAGES},
            bottleneck=_bottleneck(observed, len(alive)),
            rate_limit=settings.rate_limit,
            rss_bytes=rss_bytes(),
            stream_progress=tuple(
                StreamProgress(stream.index, part.id, stream.range_bytes, part.estimated_bytes, self._reason(stream))
                for stream in alive
                if (part := stream.part) is not None
            ),
        )
        return self.progress

    def last_sample(self) -> Progress:
        """That of a run which ends: its rates are those of the run."""
        progress = self.sample()
        self.progress = dataclasses.replace(progress, **run_rates(lambda name: getattr(progress, name)))
        return self.progress

    def _reason(self, stream: JobStream) -> str | None:
        reason = self._flow.ledger.reason_of(stream.index)
        return reason.value if reason is not None else None

    def _throttled(self, streams: int) -> dict[str, float]:
        """The mean over the streams, so that a job that waited all the time waited as long as it took."""
        seconds = self._flow.ledger.seconds()
        return {reason.value: waited / max(1, streams) for reason, waited in seconds.items() if waited > 0}

    def _observe(self, counters: StreamCounters, streams: Sequence[JobStream]) -> Observation:
        now = time.monotonic()
        last, self._last = self._last, counters
        seconds, self._last_at = max(1e-6, now - self._last_at), now
        frames = counters.applied_frames - last.applied_frames
        apply_seconds = counters.apply_seconds - last.apply_seconds
        alive = [stream for stream in streams if not stream.ended]
        readings = [stream.meter.read() for stream in streams]
        round_trip = min((each.round_trip_seconds for each in readings if each.round_trip_seconds), default=0.0)
        self._round_trip = round_trip or self._round_trip
        if frames:
            self._apply = apply_seconds / frames
        waited_before, self._waited = self._waited, self._flow.ledger.seconds()
        self.observation = Observation(
            seconds=seconds,
            streams=len(alive),
            raw_bytes=counters.raw_bytes - last.raw_bytes,
            payload_bytes=counters.payload_bytes - last.payload_bytes,
            stage_seconds={
                stage: getattr(counters, f"{stage}_seconds") - getattr(last, f"{stage}_seconds") for stage in _STAGES
            },
            waited_seconds={reason: self._waited[reason] - waited_before[reason] for reason in self._waited},
            applied_frames=frames,
            apply_seconds=apply_seconds,
            acknowledged_bytes=sum(each.acknowledged_bytes for each in readings),
            in_flight_bytes=sum(each.in_flight_bytes for each in readings),
            round_trip_seconds=round_trip,
            link_seconds=min((each.link_seconds for each in readings if each.link_seconds), default=0.0),
            since_ack_seconds=min((each.since_ack_seconds for each in readings), default=0.0),
            queued_bytes=sum(each.queued_bytes for each in readings),
            health=max((stream.meter for stream in streams), key=lambda meter: meter.health_at).health
            if streams
            else None,
        )
        return self.observation

    def summary(self, job: str, lane_reason: str, *, resumed: bool, resent_bytes: int) -> Summary:
        """As of the last sample, so that what is kept of both agrees."""
        cursors = self.cursors().values()
        counters = self._counted()
        return Summary(
            job=job,
            state=JobState.DONE,
            lane=self._manifest.lane,
            lane_reason=lane_reason,
            entries=sum(self._entries(cursor) for cursor in cursors),
            raw_bytes=sum(cursor.raw_bytes for cursor in cursors),
            wire_bytes=counters.wire_bytes,
            seconds=self.progress.seconds,
            entries_per_second=self.progress.mean_entries_per_second,
            batches=counters.batches,
            resumed=resumed,
            resent_bytes=resent_bytes,
            throttled_seconds=sum(self._throttled(self._most_streams).values()),
            peak_rss_bytes=peak_rss_bytes(),
            ranges=len(self._manifest.ranges),
        )


def _bottleneck(observed: Observation, streams: int) -> str | None:
    stage = max(observed.stage_seconds, key=lambda name: observed.stage_seconds[name])
    enough = _BOTTLENECK_SHARE * observed.seconds * max(1, streams)
    return stage if observed.stage_seconds[stage] > enough else None
