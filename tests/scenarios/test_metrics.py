"""The metrics of real migrations say what was moved, on both sides."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import kvbatch
from support.link import Hold, Link, data_frame
from support.processes import Processes
from support.stores import numbered, write_store

ENTRIES = 3000
WAIT_SECONDS = 60.0


def scrape(url: str) -> dict[str, float]:
    """Samples by name, those with labels with `name{value}`."""
    with urllib.request.urlopen(url, timeout=WAIT_SECONDS) as response:
        text = response.read().decode()
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_store(tmp_path / "source", {"default": numbered(ENTRIES, value=b"v" * 200)})


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("lane", ["batch", "sst", "files"])
def test_both_sides_count_what_a_migration_moved(lane: str, source: Path, tmp_path: Path) -> None:
    with (
        kvbatch.serve(tmp_path / "root") as receiver,
        kvbatch.serve_metrics(receiver, "127.0.0.1:0") as receiving,
    ):
        target = f"kvbatch://127.0.0.1:{receiver.port}/copy"
        migration = kvbatch.migrate(
            source, target, lane=lane, state_dir=tmp_path / "state", range_bytes="64KiB", batch_bytes="16KiB"
        )
        with kvbatch.serve_metrics(migration, "127.0.0.1:0") as sending:
            summary = migration.wait(WAIT_SECONDS)
            sent = scrape(f"{sending.url}metrics")
            received = scrape(receiving.url)
    assert sent["kvbatch_sender_entries_total"] == summary.entries
    assert sent["kvbatch_sender_durable_bytes_total"] == summary.raw_bytes
    assert sent["kvbatch_sender_batches_total"] == summary.batches
    assert sent["kvbatch_sender_ranges{complete}"] == summary.ranges
    assert sent["kvbatch_sender_state{done}"] == 1
    assert received["kvbatch_receiver_frames_total"] == summary.batches
    assert received["kvbatch_receiver_ranges_completed_total"] == summary.ranges
    assert 0 < received["kvbatch_receiver_wire_bytes_total"] <= summary.wire_bytes
    assert received["kvbatch_receiver_accepted_connections_total"] >= 2
    assert received["kvbatch_receiver_jobs"] == 0
    assert sum(value for name, value in received.items() if name.startswith("kvbatch_receiver_errors_total")) == 0
    if lane != "files":
        assert received["kvbatch_receiver_entries_total"] == ENTRIES
    if lane == "batch":
        assert received["kvbatch_receiver_batch_bytes_count"] == summary.batches
        assert received["kvbatch_receiver_apply_seconds_count"] == summary.batches


def test_a_receiver_counts_its_errors_by_kind(source: Path, tmp_path: Path) -> None:
    (tmp_path / "root/copy").mkdir(parents=True)
    write_store(tmp_path / "root/copy/store", {"default": numbered(1)})
    with (
        kvbatch.serve(tmp_path / "root") as receiver,
        kvbatch.serve_metrics(receiver, "127.0.0.1:0") as listener,
    ):
        target = f"kvbatch://127.0.0.1:{receiver.port}/copy/store"
        with pytest.raises(kvbatch.RefusedError):
            kvbatch.migrate(source, target, state_dir=tmp_path / "state").wait(WAIT_SECONDS)
        assert scrape(listener.url)["kvbatch_receiver_errors_total{RefusedError}"] >= 1


def test_the_command_line_serves_metrics_while_it_runs(source: Path, tmp_path: Path, processes: Processes) -> None:
    serving = processes.kvbatch(
        "serve", "--root", tmp_path / "root", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"
    )
    port = int(serving.first_line().split(",")[0].rpartition(":")[2])
    serving.expect("metrics at ")
    receiver_url = serving.lines[-1].split()[-1]
    hold = Hold(data_frame(2))
    with Link(port, hold) as link:
        sending = processes.kvbatch(
            "migrate", source, f"kvbatch://127.0.0.1:{link.port}/copy", "--state-dir", tmp_path / "state",
            "--lane", "batch", "--batch-size", "4KiB", "--progress", "plain", "--metrics-listen", "127.0.0.1:0",
        )  # fmt: skip
        sending.expect("live page at ")
        url = next(line for line in sending.lines if "live page" in line).split()[-1]
        sending.until(hold.reached)
        assert scrape(f"{url}metrics")["kvbatch_sender_state{running}"] == 1
        # What the job tells is taken notice of by a thread of its own.
        deadline = time.monotonic() + WAIT_SECONDS
        while scrape(f"{url}metrics")["kvbatch_sender_ranges{started}"] != 1:
            assert time.monotonic() < deadline
        received = scrape(receiver_url)
        assert received["kvbatch_receiver_jobs"] == 1
        assert received["kvbatch_receiver_connections"] >= 2
        hold.release.set()
        assert sending.wait() == 0
    assert scrape(receiver_url)["kvbatch_receiver_entries_total"] == ENTRIES


def test_a_receiver_without_connections_holds_no_memory(source: Path, tmp_path: Path) -> None:
    with kvbatch.serve(tmp_path / "root") as receiver:
        target = f"kvbatch://127.0.0.1:{receiver.port}/copy"
        kvbatch.migrate(source, target, state_dir=tmp_path / "state", range_bytes="64KiB").wait(WAIT_SECONDS)
        assert kvbatch.verify(source, target).equal
        deadline = time.monotonic() + WAIT_SECONDS
        while receiver.connections:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert receiver.pool.leased_bytes == 0
