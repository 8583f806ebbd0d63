"""A job that moves nothing: a test says what it tells, and sees what was asked of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from kvbatch.errors import UsageError
from kvbatch.events import Event, EventBus, Progress, StreamProgress

__all__ = ["RUNNING", "ControlledFake", "FakeJob"]

MIB = 1 << 20

RUNNING = Progress(
    entries=1_250_000,
    raw_bytes=100 * MIB,
    durable_entries=1_000_000,
    durable_bytes=80 * MIB,
    estimated_entries=2_500_000,
    estimated_bytes=200 * MIB,
    entries_per_second=500_000.0,
    bytes_per_second=50.0 * MIB,
    seconds=2.0,
    ranges_complete=2,
    ranges=7,
    streams=2,
    batch_bytes=2 * MIB,
    window=16,
    compression="lz4",
    compression_ratio=2.5,
    wire_bytes=40 * MIB,
    wire_bytes_per_second=20.0 * MIB,
    batches=50,
    round_trip_seconds=0.0012,
    apply_seconds=0.004,
    throttle="rate-limit",
    throttled_seconds={"rate-limit": 1.2, "window": 0.1},
    stage_seconds={"read": 0.5, "compress": 0.4, "network": 0.8, "apply": 0.3},
    bottleneck="network",
    rate_limit=20 * MIB,
    rss_bytes=90 * MIB,
    stream_progress=(
        StreamProgress(0, 3, 10 * MIB, 28 * MIB, "rate-limit"),
        StreamProgress(1, 4, 21 * MIB, 28 * MIB),
    ),
)


class FakeJob:
    """What metrics and page ask of a job."""

    def __init__(self, progress: Progress = RUNNING) -> None:
        self.job = "nightly"
        self.bus = EventBus()
        self._progress = progress

    def events(self) -> Iterator[Event]:
        return self.bus.subscribe()

    def progress(self) -> Progress:
        return self._progress

    def begin(self, *, ranges: int = 7, complete: tuple[int, ...] = (0, 1), lane: str = "batch") -> None:
        self.bus.publish(
            "job",
            job=self.job,
            lane=lane,
            lane_reason="the source is not compacted",
            ranges=ranges,
            resumed=bool(complete),
            complete=list(complete),
        )

    def sample(self, **changes: Any) -> None:
        self._progress = dataclasses.replace(self._progress, **changes)
        self.bus.publish("sample", **dataclasses.asdict(self._progress))

    def end(self, state: str = "done", **data: Any) -> None:
        self.bus.publish("done", state=state, **data)


class ControlledFake(FakeJob):
    """Does what it is told, and keeps it in `asked`."""

    def __init__(self, progress: Progress = RUNNING) -> None:
        super().__init__(progress)
        self.asked: list[Any] = []

    def pause(self) -> None:
        self._enter("paused")

    def resume(self) -> None:
        self._enter("running")

    def _enter(self, state: str) -> None:
        self.asked.append(state)
        self._progress = dataclasses.replace(self._progress, state=state)
        self.bus.publish("state", state=state)

    def set(self, **changes: Any) -> None:
        if changes["rate_limit"] == "nonsense":
            raise UsageError("--rate-limit 'nonsense': give a size like 20MiB")
        self.asked.append(changes)
