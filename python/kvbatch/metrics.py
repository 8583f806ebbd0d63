"""Prometheus metrics of a sender. docs/metrics.md has the table."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from kvbatch.events import Event, Progress
from kvbatch.flow.throttle import ThrottleReason
from kvbatch.job_monitor import JobMonitor
from kvbatch.version import __version__

__all__ = ["labelled", "new_registry", "sender_registry"]

# What may become of a job, and what becomes of its bytes; a series is there before it has anything to tell.
_STATES = ("running", "paused", "done", "stopped", "failed")
_STAGES = ("read", "compress", "network", "apply")
_CODECS = ("none", "lz4", "zstd")

_BATCH_BUCKETS = tuple(float(1 << power) for power in range(12, 27))
_SECONDS_BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip

_COUNTERS: tuple[tuple[str, str, Callable[[Progress], float]], ...] = (
    ("entries", "Entries read, earlier runs of the job included.", lambda now: now.entries),
    ("raw_bytes", "Bytes of keys and values read, earlier runs included.", lambda now: now.raw_bytes),
    ("durable_entries", "Entries that the target has made durable.", lambda now: now.durable_entries),
    ("durable_bytes", "Bytes of keys and values that the target has made durable.", lambda now: now.durable_bytes),
    ("wire_bytes", "Bytes sent and received on stream connections by this run.", lambda now: now.wire_bytes),
    ("batches", "Batches, or pieces of files, that this run moved.", lambda now: now.batches),
)
_GAUGES: tuple[tuple[str, str, Callable[[Progress], float]], ...] = (
    ("estimated_entries", "Entries of the whole job, by RocksDB's estimates.", lambda now: now.estimated_entries),
    ("estimated_bytes", "Bytes of the whole job, by RocksDB's estimates.", lambda now: now.estimated_bytes),
    ("streams", "Streams that run.", lambda now: now.streams),
    ("current_batch_bytes", "Bytes of keys and values that a batch is filled to now.", lambda now: now.batch_bytes),
    ("window_frames", "Frames that a stream may have in flight now.", lambda now: now.window),
    ("compression_ratio", "Raw bytes over payload bytes of this run.", lambda now: now.compression_ratio),
    ("rate_limit_bytes_per_second", "Limit of bytes on the wire; 0 for none.", lambda now: now.rate_limit),
)


def new_registry() -> CollectorRegistry:
    """A registry of its own, with the usual metrics of the process, its memory among them."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


def labelled(family: Metric, values: Mapping[str, float]) -> Metric:
    """`family`, which has one label, with a value for each of that label's values."""
    assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
    for label, value in values.items():
        family.add_metric([label], value)
    return family


def _one_of(name: str, text: str, label: str, known: Iterable[str], now: str | None) -> Metric:
    values = dict.fromkeys(known, 0.0)
    if now is not None:
        values[now] = 1.0
    return labelled(GaugeMetricFamily(name, text, labels=[label]), values)


class _SenderCollector(Collector):
    """Reads the job when it is asked, so that nothing is paid while nobody asks."""

    def __init__(self, monitor: JobMonitor) -> None:
        self._monitor = monitor
        self._lock = threading.Lock()
        self._highest: dict[tuple[str, str], float] = {}

    def collect(self) -> list[Metric]:
        now = self._monitor.progress()
        with self._lock:
            return [
                InfoMetricFamily(
                    "kvbatch_sender",
                    "The job.",
                    {"job_id": self._monitor.job, "lane": self._monitor.lane, "version": __version__},
                ),
                *(self._counter(name, text, of(now)) for name, text, of in _COUNTERS),
                self._counter("retries", "Attempts that failed and were followed by another.", self._count("retry")),
                self._counter("warnings", "Warnings that the job gave.", self._count("warning")),
                self._counters(
                    "throttled_seconds",
                    "Seconds that streams waited, the mean over the streams.",
                    "reason",
                    {**dict.fromkeys(ThrottleReason, 0.0), **now.throttled_seconds},
                ),
                self._counters(
                    "stage_seconds",
                    "Seconds that streams, or the target for them, spent in a stage.",
                    "stage",
                    {**dict.fromkeys(_STAGES, 0.0), **now.stage_seconds},
                ),
                *(GaugeMetricFamily(f"kvbatch_sender_{name}", text, value=of(now)) for name, text, of in _GAUGES),
                labelled(
                    GaugeMetricFamily("kvbatch_sender_ranges", "Ranges by state.", labels=["state"]),
                    {str(state): float(count) for state, count in self._monitor.ranges_by_state().items()},
                ),
                _one_of("kvbatch_sender_state", "1 for the state of the job.", "state", _STATES, self._monitor.state),
                _one_of(
                    "kvbatch_sender_throttled",
                    "1 for what the streams waited for most of late; 0 everywhere while nothing holds the job back.",
                    "reason",
                    ThrottleReason,
                    now.throttle,
                ),
                _one_of(
                    "kvbatch_sender_bottleneck", "1 for the stage that took most of late.", "stage", _STAGES,
                    now.bottleneck,
                ),
                _one_of("kvbatch_sender_compression", "1 for what frames get now.", "codec", _CODECS, now.compression),
            ]  # fmt: skip

    def _count(self, kind: Any) -> int:
        return self._monitor.count(kind)

    def _counter(self, name: str, text: str, value: float) -> Metric:
        return CounterMetricFamily(f"kvbatch_sender_{name}", text, value=self._never_falling(name, "", value))

    def _counters(self, name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
        family = CounterMetricFamily(f"kvbatch_sender_{name}", text, labels=[label])
        return labelled(family, {key: self._never_falling(name, key, value) for key, value in values.items()})

    def _never_falling(self, name: str, label: str, value: float) -> float:
        # After a broken connection a job stands where its target stands, and a mean over more streams is smaller.
        # Prometheus would take that for a counter that began anew, and all of it for an increase.
        highest = max(self._highest.get((name, label), 0.0), float(value))
        self._highest[name, label] = highest
        return highest


def _observe_samples(monitor: JobMonitor, registry: CollectorRegistry) -> None:
    def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"kvbatch_sender_{name}", text, buckets=buckets, registry=registry)

    batch = histogram("batch_bytes", "Bytes in a batch, looked at twice a second.", _BATCH_BUCKETS)
    round_trip = histogram(
        "round_trip_seconds", "From a frame's last byte to its ack, looked at twice a second.", _SECONDS_BUCKETS
    )
    apply = histogram("apply_seconds", "What the target takes for a frame, looked at twice a second.", _SECONDS_BUCKETS)

    def observe(event: Event | None) -> None:
        if event is None or event.kind != "sample":
            return
        if event.data["batch_bytes"]:
            batch.observe(event.data["batch_bytes"])
        if event.data["round_trip_seconds"] is not None:
            round_trip.observe(event.data["round_trip_seconds"])
        if event.data["apply_seconds"] is not None:
            apply.observe(event.data["apply_seconds"])

    monitor.subscribe(observe)


def sender_registry(monitor: JobMonitor) -> CollectorRegistry:
    registry = new_registry()
    registry.register(_SenderCollector(monitor))
    _observe_samples(monitor, registry)
    return registry
