"""What the record of a job says once it was stopped, of a target that makes durable what it had applied."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvbatch
from kvbatch.endpoints import ReceiverEndpoint, parse_endpoint
from kvbatch.receiver_control import _OPERATIONS
from kvbatch.target_remote import RemoteSession
from support.link import Hold, Link
from support.places import Place
from support.steered import SteeredJob, small_pieces, until
from support.stores import kvbatch as command_line
from support.stores import numbered, write_store

ENTRIES = 100_000


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("stop") / "source", {"default": numbered(ENTRIES)})


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[kvbatch.Receiver]:
    with kvbatch.serve(tmp_path / "received") as receiver:
        yield receiver


def stop(source: Path, target: str, state_dir: Path, *, behind: int, **options: object) -> SteeredJob:
    """The job as it was stopped once it had read so many more entries than were durable."""
    with SteeredJob(source, target, state_dir=state_dir, rate_limit="1MiB", job="nightly", **options) as job:
        job.until(lambda progress: progress.streams and progress.entries > behind)
        job.migration.cancel()
        with pytest.raises(kvbatch.StoppedError):
            job.migration.wait(15)
    return job


def held(job: SteeredJob, target: str) -> tuple[int, int]:
    """Entries and bytes that the target has."""
    endpoint = parse_endpoint(target)
    assert isinstance(endpoint, ReceiverEndpoint)
    session = RemoteSession(endpoint, job.migration.plan.manifest, 1)
    cursors = session.reply.cursors
    session.close()
    return sum(cursor.entries for cursor in cursors), sum(cursor.raw_bytes for cursor in cursors)


def test_what_a_stop_makes_durable_is_in_the_record(source: Path, receiver: kvbatch.Receiver, tmp_path: Path) -> None:
    """Of the first run and of one that carried on; so small a store has no file at the target before the stop."""
    target, state_dir = f"kvbatch://127.0.0.1:{receiver.port}/copy", tmp_path / "state"
    before = 0
    for _ in range(2):
        job = stop(source, target, state_dir, behind=before + 5000, range_bytes="64MiB", streams=1)
        entries, raw_bytes = held(job, target)
        assert entries > before
        shown = json.loads(command_line("status", "nightly", "--json", "--state-dir", state_dir).stdout)
        progress = shown["progress"]
        assert shown["state"] == "stopped"
        assert (progress["durable_entries"], progress["durable_bytes"]) == (entries, raw_bytes)
        assert progress["entries"] >= entries
        assert progress["entries"] >= max(sample["entries"] for sample in job.told("sample"))
        assert shown["percent"] == pytest.approx(100 * raw_bytes / progress["estimated_bytes"])
        before = entries
    with SteeredJob(source, target, state_dir=state_dir, job="nightly") as job:
        assert job.finish().resent_bytes == 0


@pytest.mark.parametrize("lane", ["sst", "files"])
def test_so_it_is_in_the_other_lanes(
    source: Path, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lane: str
) -> None:
    small_pieces(monkeypatch)
    job = stop(source, place.endpoint(), tmp_path / "state", behind=5000, lane=lane, sst_file_bytes="256KiB")
    progress = job.progress
    assert progress.durable_bytes > 0
    resumed = SteeredJob(source, place.endpoint(), state_dir=tmp_path / "state", job="nightly", lane=lane)
    with resumed as again:
        assert again.until(lambda found: found.durable_bytes).durable_bytes >= progress.durable_bytes


def test_a_receiver_that_says_nothing_any_more_does_not_hold_up_a_stop(
    source: Path, receiver: kvbatch.Receiver, tmp_path: Path
) -> None:
    hold = Hold(lambda passing: passing.operation == "settle")
    with Link(receiver.port, hold) as link:
        job = stop(source, f"kvbatch://127.0.0.1:{link.port}/copy", tmp_path / "state", behind=5000)
        assert hold.reached.is_set()
        # Those that were read are not lost with the answer.
        assert job.progress.entries > 5000
        stopped = job.told("done")[0]
        hold.release.set()
    assert stopped["state"] == "stopped"


def test_an_older_receiver_is_left_as_before(
    source: Path, receiver: kvbatch.Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(_OPERATIONS, "settle")
    target = f"kvbatch://127.0.0.1:{receiver.port}/copy"
    job = stop(source, target, tmp_path / "state", behind=5000)
    assert job.told("done")[0]["state"] == "stopped"
    with SteeredJob(source, target, state_dir=tmp_path / "state", job="nightly") as job:
        summary = job.finish()
    assert (summary.entries, summary.resent_bytes) == (ENTRIES, 0)


def test_a_run_that_fails_for_good_says_what_is_durable(
    source: Path, receiver: kvbatch.Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = f"kvbatch://127.0.0.1:{receiver.port}/copy"
    options = {"range_bytes": "64MiB", "streams": 1, "rate_limit": "1MiB", "job": "nightly"}
    with SteeredJob(source, target, state_dir=tmp_path / "state", **options) as job:
        job.until(lambda progress: progress.entries > 5000)

        def damaged(*arguments: object) -> None:
            raise kvbatch.SourceError("a damaged block")

        monkeypatch.setattr("kvbatch.job_stream.JobStream._turn", damaged)
        with pytest.raises(kvbatch.SourceError):
            job.migration.wait(60)
        assert job.progress.durable_entries == held(job, target)[0] > 0


def test_the_answer_to_resume_is_of_a_job_that_runs(source: Path, receiver: kvbatch.Receiver, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    target = f"kvbatch://127.0.0.1:{receiver.port}/copy"
    with SteeredJob(source, target, state_dir=state_dir, rate_limit="512KiB", job="nightly") as job:
        job.until(lambda progress: progress.entries > 0)
        control = kvbatch.control("nightly", state_dir)
        paused = control.pause()
        assert (paused.state, paused.throttle) == ("paused", "paused")
        job.until_held("paused")
        until(lambda: control.status().bytes_per_second == 0, "no rate")
        resumed = control.resume()
        assert (resumed.state, resumed.throttle, resumed.progress["throttle"]) == ("running", None, None)
        assert "paused" not in [each["throttle"] for each in resumed.progress["stream_progress"]]
        job.until(lambda progress: progress.bytes_per_second > 0)
