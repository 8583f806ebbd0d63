"""Flow control over links that are slow, with peers that are slow, silent or dead."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kvbatch
from kvbatch._core.frame import FrameType
from kvbatch.target_local import AppliedRanges
from support.link import Hold, Link, data_frame
from support.processes import Processes
from support.shaped_link import ShapedLink
from support.steered import LANES, SteeredJob, small_pieces, until
from support.stores import read_store, write_store

KIB = 1 << 10
MIB = 1 << 20

Entries = dict[str, dict[bytes, bytes]]


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvbatch.migration.SAMPLE_SECONDS", 0.05)


@pytest.fixture(scope="module")
def small() -> Entries:
    noise = random.Random(5)
    return {"default": {b"key-%06d" % number: noise.randbytes(500) for number in range(2000)}}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, small: Entries) -> Path:
    return write_store(tmp_path_factory.mktemp("flow") / "small", small)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    running = Processes(tmp_path)
    yield running
    running.close()


# -- slow is not dead -------------------------------------------------------------------------------------------------


def apply_slowly(monkeypatch: pytest.MonkeyPatch, pause: Callable[[], object]) -> None:
    """Has the target `pause` before its third frame."""
    honest, frames = AppliedRanges.current, 0

    def current(ranges: AppliedRanges) -> Any:
        nonlocal frames
        frames += 1
        if frames == 3:
            pause()
        return honest(ranges)

    monkeypatch.setattr(AppliedRanges, "current", current)


def test_a_frame_that_takes_longer_than_a_silence_may_last_breaks_nothing(
    receiver: kvbatch.Receiver, source: Path, small: Entries, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.stop()
    monkeypatch.setattr("kvbatch.server.HEARTBEAT_SECONDS", 0.05)
    apply_slowly(monkeypatch, lambda: threading.Event().wait(3))
    with (
        kvbatch.serve(receiver.root) as beating,
        SteeredJob(source, f"kvbatch://127.0.0.1:{beating.port}/copy", lane="batch", streams=1, peer_timeout=2) as job,
    ):
        summary = job.finish()
    assert summary.seconds > 3
    assert not job.told("retry")
    assert read_store(receiver.root / "copy") == small


def test_a_receiver_may_be_silent_longer_over_a_large_frame(receiver: kvbatch.Receiver, tmp_path: Path) -> None:
    """Six seconds longer than over the 16 KiB of the batches around it."""
    entries = {"default": {b"key-%06d" % number: bytes(500) for number in range(200)}}
    entries["default"][b"key-000100+"] = random.Random(10).randbytes(6 * MIB - KIB)
    source = write_store(tmp_path / "source", entries)
    held: list[int] = []

    def hold(passing: Any) -> bytes:
        if passing.frame.header.raw_length > MIB and passing.frame.type == FrameType.DATA:
            held.append(passing.number)
            threading.Event().wait(4)
        return bytes(passing.data)

    options = {"lane": "batch", "streams": 1, "peer_timeout": 2, "compression": "none"}
    with (
        Link(receiver.port, hold) as link,
        SteeredJob(source, f"kvbatch://127.0.0.1:{link.port}/copy", **options) as job,
    ):
        job.finish()
    assert len(held) == 1
    assert not job.told("retry")
    assert read_store(receiver.root / "copy") == entries


def test_a_target_that_says_nothing_in_the_middle_is_given_up(receiver: kvbatch.Receiver, source: Path) -> None:
    options = {"lane": "batch", "streams": 1, "retries": 0, "peer_timeout": 2}
    with (
        Link(receiver.port, Hold(data_frame(4))) as link,
        SteeredJob(source, f"kvbatch://127.0.0.1:{link.port}/copy", **options) as job,
        pytest.raises(kvbatch.TransportError, match="time-out"),
    ):
        job.finish()


def test_a_receiver_that_dies_while_the_job_is_paused_is_noticed_and_found_again(
    processes: Processes, tmp_path: Path, source: Path, small: Entries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvbatch.flow.job_flow.HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr("kvbatch.retries._WAIT_MAX_SECONDS", 0.2)
    receiver, port = processes.serve(tmp_path / "received")
    target = f"kvbatch://127.0.0.1:{port}/copy"
    with SteeredJob(source, target, lane="batch", rate_limit="64KiB/s", retries=100_000) as job:
        job.until(lambda progress: progress.batches > 0)
        job.migration.pause()
        job.until_held("paused")
        receiver.kill()
        until(lambda: job.told("retry"), "a retry")
        processes.serve(tmp_path / "received", port)
        # Still paused, over another connection.
        until(lambda: len(job.told("job")) >= 2, "another session")
        job.until_held("paused")
        job.check_nothing_moves()
        assert job.progress.state == "paused"
        job.migration.resume()
        job.finish(rate_limit=0)
    assert read_store(tmp_path / "received" / "copy") == small


def test_a_paused_job_hears_every_answer_and_every_heartbeat(
    receiver: kvbatch.Receiver, source: Path, small: Entries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sides beat as fast as they can: no stream may wait for an ack behind a heartbeat that promises none."""
    receiver.stop()
    for module in ("kvbatch.server", "kvbatch.flow.job_flow"):
        monkeypatch.setattr(f"{module}.HEARTBEAT_SECONDS", 0.0005)
    beats = 0

    def count(passing: Any) -> bytes:
        nonlocal beats
        beats += passing.frame.type == FrameType.HEARTBEAT
        return bytes(passing.data)

    with (
        kvbatch.serve(receiver.root) as beating,
        Link(beating.port, count) as link,
        SteeredJob(source, f"kvbatch://127.0.0.1:{link.port}/copy", lane="batch", rate_limit="64KiB/s") as job,
    ):
        for _ in range(3):
            job.migration.pause()
            job.until(lambda progress: progress.throttle == "paused")
            seen = beats
            until(lambda seen=seen: beats > seen + 30, "heartbeats")
            job.migration.resume()
        job.finish(rate_limit=0)
    assert read_store(receiver.root / "copy") == small


def test_a_job_too_short_for_a_sample_says_where_it_ended(
    receiver: kvbatch.Receiver, source: Path, small: Entries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvbatch.migration.SAMPLE_SECONDS", 3600)
    with SteeredJob(source, f"kvbatch://127.0.0.1:{receiver.port}/copy", window=1) as job:
        summary = job.finish()
    [sample] = job.told("sample")
    assert (sample["entries"], sample["durable_entries"]) == (summary.entries, len(small["default"]))
    assert (sample["streams"], sample["ranges_complete"]) == (0, summary.ranges)
    assert sample["entries_per_second"] == summary.entries_per_second > 0
    assert job.events[-2].kind == "sample"


# -- what adapts ------------------------------------------------------------------------------------------------------


def test_batches_shrink_on_a_slow_link_and_windows_change_under_way(receiver: kvbatch.Receiver, tmp_path: Path) -> None:
    noise = random.Random(6)
    entries = {"default": {b"key-%06d" % number: noise.randbytes(4000) for number in range(4000)}}
    source = write_store(tmp_path / "source", entries)
    options = {"batch_bytes": "auto", "window": "auto", "streams": 1, "lane": "batch", "range_bytes": "64MiB"}
    with (
        ShapedLink(receiver.port, rate=2 * MIB) as link,
        SteeredJob(source, f"kvbatch://127.0.0.1:{link.port}/copy", **options) as job,
    ):
        first = job.until(lambda progress: progress.batch_bytes > 0)
        small = job.until(lambda progress: 0 < progress.batch_bytes <= first.batch_bytes // 4)
        assert small.batch_bytes >= 64 * KIB
        link.shape(rate=0)
        for window in (1, 9, 2, 64, 3, 1000):
            job.migration.set(window=window)
        job.finish()
    assert not job.told("retry")
    assert read_store(receiver.root / "copy") == entries


@pytest.mark.parametrize("lane", LANES)
def test_windows_change_in_every_lane(
    receiver: kvbatch.Receiver, source: Path, small: Entries, lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch, 4 * KIB)
    told: list[int] = []

    def listen(passing: Any) -> bytes:
        if passing.direction == "up" and passing.frame.type == FrameType.HEARTBEAT:
            told.append(passing.frame.json["window"])
        return bytes(passing.data)

    options = {"lane": lane, "streams": 1, "window": 1, "batch_bytes": 4 * KIB, "rate_limit": "512KiB/s"}
    with (
        Link(receiver.port, listen) as link,
        SteeredJob(source, f"kvbatch://127.0.0.1:{link.port}/copy", **options) as job,
    ):
        job.until(lambda progress: progress.batches > 0)
        for window in (8, 1, 32, 2):
            job.migration.set(window=window)
            until(lambda window=window: window in told[-1:], f"window {window}")
        job.finish(rate_limit=0)
    assert told == [8, 1, 32, 2]
    assert read_store(receiver.root / "copy") == small


def test_data_that_do_not_compress_are_sent_as_they_are(receiver: kvbatch.Receiver, tmp_path: Path) -> None:
    noise = random.Random(7)
    entries = {"default": {b"key-%06d" % number: noise.randbytes(4000) for number in range(1500)}}
    source = write_store(tmp_path / "source", entries)
    options = {"compression": "auto", "batch_bytes": 64 * KIB, "streams": 1, "lane": "batch"}
    with (
        ShapedLink(receiver.port, rate=4 * MIB) as link,
        SteeredJob(source, f"kvbatch://127.0.0.1:{link.port}/copy", **options) as job,
    ):
        job.finish()
    assert len(job.told("sample")) > 10
    assert {sample["compression"] for sample in job.told("sample") if sample["streams"]} == {"none"}
    assert not job.told("compression")
    assert read_store(receiver.root / "copy") == entries


def test_data_that_compress_are_compressed_on_a_slow_link(receiver: kvbatch.Receiver, tmp_path: Path) -> None:
    entries = {"default": {b"key-%06d" % number: b"%06d of many alike; " % number * 200 for number in range(2000)}}
    source = write_store(tmp_path / "source", entries)
    options = {"compression": "auto", "batch_bytes": 64 * KIB, "streams": 1, "lane": "batch"}
    with (
        ShapedLink(receiver.port, rate=2 * MIB) as link,
        SteeredJob(source, f"kvbatch://127.0.0.1:{link.port}/copy", **options) as job,
    ):
        job.until(lambda progress: progress.compression != "none")
        summary = job.finish()
    [choice, *_] = job.told("compression")
    assert choice["codec"] in ("lz4", "zstd")
    assert choice["reason"]
    assert summary.wire_bytes < summary.raw_bytes / 2
    assert read_store(receiver.root / "copy") == entries


@pytest.fixture(scope="module")
def half_noise() -> Entries:
    """8 MB, of which lz4 leaves about half."""
    noise = random.Random(8)
    return {"default": {b"key-%06d" % number: noise.randbytes(2000) + bytes(2000) for number in range(2000)}}


@pytest.mark.parametrize("first", ["lz4", "none"])
def test_data_that_compress_are_compressed_under_a_rate_limit(
    receiver: kvbatch.Receiver, tmp_path: Path, half_noise: Entries, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link could take all of it: `auto` begins as for a receiver on another machine, and as for one here."""
    monkeypatch.setattr("kvbatch.compression.is_elsewhere", lambda endpoint: first == "lz4")
    source = write_store(tmp_path / "source", half_noise)
    options = {"batch_bytes": 64 * KIB, "streams": 2, "lane": "batch", "range_bytes": "1MiB"}
    target = f"kvbatch://127.0.0.1:{receiver.port}"
    with SteeredJob(source, f"{target}/fixed", compression="lz4", **options) as job:
        fixed = job.finish()
    with SteeredJob(source, f"{target}/copy", compression="auto", rate_limit="1MiB/s", **options) as job:
        summary = job.finish()
    used = [sample["compression"] for sample in job.told("sample") if sample["streams"]]
    choices = job.told("compression")
    assert used[0] == first
    assert used[-1] in ("lz4", "zstd")
    assert "none" not in [choice["codec"] for choice in choices]
    assert all(choice["reason"].startswith("the rate limit of 1 MiB/s is the limit; ") for choice in choices)
    # What it takes to decide is sent in full.
    assert summary.wire_bytes <= (1.1 if first == "lz4" else 1.5) * fixed.wire_bytes
    assert read_store(receiver.root / "copy") == half_noise
