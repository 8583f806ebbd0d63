from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

import kvbatch
from kvbatch.errors import ERROR_KINDS
from kvbatch.events import Progress
from kvbatch.flow.throttle import ThrottleReason
from kvbatch.job_monitor import JobMonitor
from kvbatch.metrics import sender_registry
from kvbatch.metrics_receiver import receiver_registry
from kvbatch.receiver_counters import ReceiverCounters, StreamCounters, power_of_two
from support.watched_job import MIB, RUNNING, FakeJob

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 30.0

Scrape = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(registry: CollectorRegistry) -> Scrape:
    """Every sample, by its name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def of(values: Scrape, name: str, **labels: str) -> float:
    return values[name, tuple(sorted(labels.items()))]


def by_label(values: Scrape, name: str) -> dict[str, float]:
    return {labels[0][1]: value for (each, labels), value in values.items() if each == name}


@pytest.fixture
def receiver(tmp_path: Path) -> kvbatch.Receiver:
    return kvbatch.Receiver(tmp_path / "root")


@pytest.fixture
def registries(receiver: kvbatch.Receiver) -> list[CollectorRegistry]:
    return [sender_registry(JobMonitor(FakeJob())), receiver_registry(receiver)]


# -- of a sender ------------------------------------------------------------------------------------------------------


def test_what_a_job_tells_is_what_is_scraped() -> None:
    job = FakeJob()
    job.begin(ranges=7, complete=(0, 1))
    job.bus.publish("range", range=3, state="started")
    job.bus.publish("retry", attempt=1, wait_seconds=0.2, error="the cable fell out")
    monitor = JobMonitor(job)
    registry = sender_registry(monitor)
    job.end()
    assert monitor.wait(WAIT_SECONDS)
    values = scrape(registry)
    assert of(values, "kvbatch_sender_info", job_id="nightly", lane="batch", version=kvbatch.__version__) == 1
    assert of(values, "kvbatch_sender_entries_total") == RUNNING.entries
    assert of(values, "kvbatch_sender_raw_bytes_total") == RUNNING.raw_bytes
    assert of(values, "kvbatch_sender_durable_bytes_total") == RUNNING.durable_bytes
    assert of(values, "kvbatch_sender_wire_bytes_total") == RUNNING.wire_bytes
    assert of(values, "kvbatch_sender_batches_total") == RUNNING.batches
    assert of(values, "kvbatch_sender_retries_total") == 1
    assert of(values, "kvbatch_sender_estimated_bytes") == RUNNING.estimated_bytes
    assert of(values, "kvbatch_sender_current_batch_bytes") == RUNNING.batch_bytes
    assert of(values, "kvbatch_sender_window_frames") == RUNNING.window
    assert of(values, "kvbatch_sender_compression_ratio") == RUNNING.compression_ratio
    assert of(values, "kvbatch_sender_rate_limit_bytes_per_second") == RUNNING.rate_limit
    assert by_label(values, "kvbatch_sender_ranges") == {"waiting": 4, "started": 1, "complete": 2}
    assert by_label(values, "kvbatch_sender_stage_seconds_total") == RUNNING.stage_seconds
    assert of(values, "process_resident_memory_bytes") > MIB
    ones = {"state": "done", "throttled": "rate-limit", "bottleneck": "network", "compression": "lz4"}
    for name, expected in ones.items():
        series = by_label(values, f"kvbatch_sender_{name}")
        assert [label for label, value in series.items() if value] == [expected], name
        assert len(series) > 2, name


def test_every_throttle_reason_is_there_from_the_start() -> None:
    values = scrape(sender_registry(JobMonitor(FakeJob(Progress()))))
    nothing = {str(reason): 0.0 for reason in ThrottleReason}
    assert by_label(values, "kvbatch_sender_throttled_seconds_total") == nothing
    assert by_label(values, "kvbatch_sender_throttled") == nothing


def test_a_counter_never_falls() -> None:
    """A job whose connection broke goes back to what its target has."""
    job = FakeJob()
    registry = sender_registry(JobMonitor(job))
    before = scrape(registry)
    job.sample(
        entries=1_000_000, raw_bytes=80 * MIB, throttled_seconds={"rate-limit": 0.6, "window": 0.4}, ranges_complete=1
    )
    after = scrape(registry)
    falling = [key for key, value in after.items() if value < before[key] and key[0].startswith("kvbatch")]
    assert falling == []
    assert of(after, "kvbatch_sender_throttled_seconds_total", reason="rate-limit") == 1.2
    assert of(after, "kvbatch_sender_throttled_seconds_total", reason="window") == 0.4


def test_histograms_observe_what_samples_carry_and_nothing_else() -> None:
    job = FakeJob()
    monitor = JobMonitor(job)
    registry = sender_registry(monitor)
    for batch in (64 << 10, MIB, MIB, 8 * MIB):
        job.sample(batch_bytes=batch, apply_seconds=None)
    job.sample(batch_bytes=0, round_trip_seconds=3.0, apply_seconds=None)
    job.end()
    assert monitor.wait(WAIT_SECONDS)
    values = scrape(registry)
    assert of(values, "kvbatch_sender_batch_bytes_count") == 4
    assert of(values, "kvbatch_sender_batch_bytes_sum") == (64 << 10) + 10 * MIB
    assert of(values, "kvbatch_sender_batch_bytes_bucket", le="1.048576e+06") == 3
    assert of(values, "kvbatch_sender_round_trip_seconds_count") == 5
    assert of(values, "kvbatch_sender_round_trip_seconds_bucket", le="0.0025") == 4
    assert of(values, "kvbatch_sender_apply_seconds_count") == 0


# -- of a receiver ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "exponent"), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (1 << 20, 20), ((1 << 20) + 1, 21)]
)
def test_a_bucket_holds_what_is_no_more_than_its_bound(value: int, exponent: int) -> None:
    assert power_of_two(value) == exponent
    assert value <= 1 << exponent


def test_what_is_beyond_all_buckets_is_in_the_last() -> None:
    assert power_of_two(1 << 60) == len(StreamCounters().batch_bytes) - 1


def test_streams_are_added_up_while_they_last_and_after() -> None:
    counters = ReceiverCounters()
    with counters.stream() as first, counters.stream() as second:
        assert first == second, "streams that counted the same are told apart all the same"
        first.count_batch(10, 1 << 20, 3_000_000)
        assert counters.streams().entries == 10
        second.count_batch(5, 1 << 10, 2_000)
    total = counters.streams()
    assert (total.frames, total.entries, total.batch_bytes_sum) == (2, 15, (1 << 20) + (1 << 10))
    assert total.apply_microseconds_sum == 3002
    assert (total.batch_bytes[20], total.batch_bytes[10], sum(total.batch_bytes)) == (1, 1, 2)


def test_what_a_receiver_counts_is_what_is_scraped(receiver: kvbatch.Receiver) -> None:
    with receiver.counters.stream() as stream:
        stream.count_batch(10, 1 << 20, 3_000_000)
        stream.count_batch(20, 100, 50)
        stream.ranges_completed, stream.wire_bytes = 2, 5000
    receiver.counters.count_connection()
    receiver.counters.count_error(kvbatch.CorruptionError("a bit fell over"))
    values = scrape(receiver_registry(receiver))
    assert of(values, "kvbatch_receiver_entries_total") == 30
    assert of(values, "kvbatch_receiver_frames_total") == 2
    assert of(values, "kvbatch_receiver_ranges_completed_total") == 2
    assert of(values, "kvbatch_receiver_wire_bytes_total") == 5000
    assert of(values, "kvbatch_receiver_accepted_connections_total") == 1
    assert of(values, "kvbatch_receiver_connections") == 0
    assert of(values, "kvbatch_receiver_buffer_limit_bytes") == 256 * MIB
    assert of(values, "kvbatch_receiver_batch_bytes_bucket", le="4096.0") == 1
    assert of(values, "kvbatch_receiver_batch_bytes_bucket", le="1.048576e+06") == 2
    assert of(values, "kvbatch_receiver_apply_seconds_bucket", le="0.002048") == 1
    assert of(values, "kvbatch_receiver_apply_seconds_bucket", le="0.004096") == 2
    assert of(values, "kvbatch_receiver_apply_seconds_sum") == 0.003
    errors = by_label(values, "kvbatch_receiver_errors_total")
    assert errors == {**dict.fromkeys(ERROR_KINDS, 0.0), "CorruptionError": 1.0}


# -- of both ----------------------------------------------------------------------------------------------------------


def test_names_are_by_the_conventions(registries: list[CollectorRegistry]) -> None:
    for registry in registries:
        families = list(parse_openmetrics(generate_openmetrics(registry).decode()))
        names = [family.name for family in families]
        assert len(names) == len(set(names))
        for family in families:
            assert family.documentation
            assert re.fullmatch(r"(process|kvbatch_(sender|receiver))(_[a-z]+)*", family.name)
            assert not re.search(r"_(ms|milliseconds|microseconds|kib|mib|kilobytes|percent)\b", family.name)
            if family.type == "counter":
                assert all(sample.name.endswith(("_total", "_created")) for sample in family.samples)


def test_what_a_scrape_gives_is_described_and_nothing_else(registries: list[CollectorRegistry]) -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(kvbatch_\w+)` \| (\w+) \|([^|]*)\|", page, re.MULTILINE)
    described = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    scraped = {}
    for registry in registries:
        for family in text_string_to_metric_families(generate_latest(registry).decode()):
            if not family.name.startswith("kvbatch") or family.name.endswith("_created"):
                continue
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            scraped[name] = (family.type, labels)
    assert described == scraped


def queries(dashboard: object) -> list[str]:
    if isinstance(dashboard, dict):
        own = [dashboard["expr"]] if "expr" in dashboard else []
        return own + [query for value in dashboard.values() for query in queries(value)]
    if isinstance(dashboard, list):
        return [query for value in dashboard for query in queries(value)]
    return []


def test_the_dashboard_asks_for_what_there_is(registries: list[CollectorRegistry]) -> None:
    dashboard = json.loads((ROOT / "docs/grafana-dashboard.json").read_text())
    samples: dict[str, set[str]] = {}
    for registry in registries:
        for name, labels in scrape(registry):
            samples.setdefault(name, set()).update(label for label, _ in labels)
    asked = set()
    for query in queries(dashboard):
        names = set(re.findall(r"\b(?:kvbatch|process)_\w+", query))
        assert names, query
        asked |= names
        assert names <= set(samples), query
        # Every series has these two once it was scraped.
        labels = {"instance", "job"}.union(*(samples[name] for name in names))
        grouped = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", query) for label in group.split(",")}
        selected = set(re.findall(r"[{,]\s*(\w+)\s*(?:=~|!~|!=|=)\s*\"", query))
        assert grouped | selected <= labels, query
    ours = {name for name in samples if name.startswith("kvbatch")}
    for needed in ("throttled_seconds_total", "stage_seconds_total", "batch_bytes_bucket", "round_trip_seconds_bucket"):
        assert f"kvbatch_sender_{needed}" in asked & ours


def test_nothing_of_this_is_imported_before_it_is_asked_for() -> None:
    modules = "('prometheus_client', 'starlette', 'uvicorn')"
    script = f"import sys, kvbatch.cli; print([name for name in {modules} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
