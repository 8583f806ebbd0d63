"""What is said of a job whose receiver is gone, while it waits for another attempt."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import kvbatch
from kvbatch.job_status import list_status
from support.steered import SteeredJob, until
from support.stores import numbered, write_store


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_store(tmp_path / "source", {"default": numbered(100_000)})


def test_status_says_that_nothing_moves_and_why(source: Path, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    receiver = kvbatch.serve(tmp_path / "received")
    target = f"kvbatch://127.0.0.1:{receiver.port}/copy"
    with SteeredJob(source, target, state_dir=state_dir, rate_limit="512KiB", retries=8) as job:
        job.until(lambda progress: progress.bytes_per_second and progress.throttle)
        receiver.stop()
        until(lambda: len(job.told("retry")) >= 2, "a second retry")
        job.migration.pause()
        status = kvbatch.control(job.migration.job, state_dir).status()
        assert (status.entries_per_second, status.bytes_per_second, status.throttle) == (0.0, 0.0, None)
        assert status.remaining_seconds is None
        assert status.state == "paused"
        assert re.match(r"retry \d of 8: .*", status.error or "")
        assert job.told("throttle")[-1] == {"reason": None}
        last = job.told("sample")[-1]
        assert (last["entries_per_second"], last["wire_bytes_per_second"], last["streams"]) == (0.0, 0.0, 0)
        # The list goes by the record.
        until(lambda: [each.state for each in list_status(state_dir)] == ["paused"], "the state in the record")
        [listed] = list_status(state_dir)
        assert (listed.bytes_per_second, listed.throttle) == (0.0, None)
        assert re.match(r"retry \d of 8: .*", listed.error or "")


def test_what_was_read_does_not_fall_back_while_the_receiver_is_down(source: Path, tmp_path: Path) -> None:
    receiver = kvbatch.serve(tmp_path / "received")
    target = f"kvbatch://127.0.0.1:{receiver.port}/copy"
    with SteeredJob(source, target, state_dir=tmp_path / "state", rate_limit="512KiB", retries=8) as job:
        before = job.until(lambda progress: progress.entries > 2000)
        receiver.stop()
        until(lambda: len(job.told("retry")) >= 2, "a second retry")
        down = [sample for sample in job.told("sample") if sample["streams"] == 0]
        assert down
        assert min(sample["entries"] for sample in down) >= before.entries
        assert min(sample["raw_bytes"] for sample in down) >= before.raw_bytes


def test_the_reason_goes_once_the_target_is_open_again(source: Path, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    receiver = kvbatch.serve(tmp_path / "received")
    target = f"kvbatch://127.0.0.1:{receiver.port}/copy"
    with SteeredJob(source, target, state_dir=state_dir, rate_limit="512KiB", retries=8) as job:
        job.until(lambda progress: progress.bytes_per_second > 0)
        receiver.stop()
        until(lambda: job.told("retry"), "a retry")
        with kvbatch.serve(tmp_path / "received", port=receiver.port):
            until(lambda: len(job.told("job")) >= 2, "another session")
            assert kvbatch.control(job.migration.job, state_dir).status().error is None
            job.migration.set(rate_limit=0)
            job.migration.wait(60)


def test_a_stop_ends_the_pause_between_two_attempts(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvbatch.retries._WAIT_SECONDS", 600.0)
    monkeypatch.setattr("kvbatch.retries._WAIT_MAX_SECONDS", 600.0)
    receiver = kvbatch.serve(tmp_path / "received")
    target = f"kvbatch://127.0.0.1:{receiver.port}/copy"
    with SteeredJob(source, target, state_dir=tmp_path / "state", rate_limit="512KiB", retries=8) as job:
        job.until(lambda progress: progress.bytes_per_second > 0)
        receiver.stop()
        until(lambda: job.told("retry"), "a retry")
        job.migration.cancel()
        with pytest.raises(kvbatch.StoppedError):
            job.migration.wait(30)
