"""Prometheus metrics of a receiver. docs/metrics.md has the table."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from kvbatch.errors import ERROR_KINDS
from kvbatch.metrics import labelled, new_registry
from kvbatch.server import Receiver
from kvbatch.version import __version__

__all__ = ["receiver_registry"]

# Exponents of the buckets that are shown: what is smaller is in the first of them.
_BATCH_POWERS = range(12, 31)
_MICROSECOND_POWERS = range(6, 25)


def _histogram(name: str, text: str, counts: Sequence[int], powers: range, total: int, parts: int) -> Metric:
    """Of `counts` by powers of two; `parts` of what was counted are one unit of the metric."""
    bounds = [floatToGoString((1 << power) / parts) for power in powers]  # type: ignore[no-untyped-call]
    buckets = [(bound, float(sum(counts[: power + 1]))) for bound, power in zip(bounds, powers, strict=True)]
    buckets.append(("+Inf", float(sum(counts))))
    return HistogramMetricFamily(f"kvbatch_receiver_{name}", text, buckets=buckets, sum_value=total / parts)


class _ReceiverCollector(Collector):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def collect(self) -> list[Metric]:
        receiver, counters = self._receiver, self._receiver.counters
        streams = counters.streams()

        def counter(name: str, text: str, value: float) -> Metric:
            return CounterMetricFamily(f"kvbatch_receiver_{name}", text, value=value)

        def gauge(name: str, text: str, value: float) -> Metric:
            return GaugeMetricFamily(f"kvbatch_receiver_{name}", text, value=value)

        return [
            InfoMetricFamily("kvbatch_receiver", "The receiver.", {"version": __version__}),
            gauge("connections", "Connections that are open.", receiver.connections),
            counter("accepted_connections", "Connections that were accepted.", counters.connections),
            gauge("jobs", "Jobs that are open.", receiver.jobs),
            counter("wire_bytes", "Bytes received on stream connections.", streams.wire_bytes),
            counter("frames", "Frames with data, or pieces of files, that were received.", streams.frames),
            counter("entries", "Entries applied.", streams.entries),
            counter("ranges_completed", "Ranges that became durable as a whole.", streams.ranges_completed),
            labelled(
                CounterMetricFamily("kvbatch_receiver_errors", "Connections ended by an error.", labels=["kind"]),
                {**dict.fromkeys(ERROR_KINDS, 0.0), **counters.errors()},
            ),
            gauge("buffer_leased_bytes", "Memory for frames that is in use.", receiver.pool.leased_bytes),
            gauge("buffer_limit_bytes", "Memory for frames that may be used.", receiver.pool.max_bytes),
            gauge("buffer_waiting_streams", "Streams that wait for memory.", receiver.pool.waiting),
            _histogram(
                "batch_bytes", "Bytes in a batch.",
                streams.batch_bytes, _BATCH_POWERS, streams.batch_bytes_sum, 1,
            ),
            _histogram(
                "apply_seconds", "What a batch took to apply.",
                streams.apply_microseconds, _MICROSECOND_POWERS, streams.apply_microseconds_sum, 1_000_000,
            ),
        ]  # fmt: skip


def receiver_registry(receiver: Receiver) -> CollectorRegistry:
    registry = new_registry()
    registry.register(_ReceiverCollector(receiver))
    return registry
