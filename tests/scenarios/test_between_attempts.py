"""What is said of a job that moves nothing, and how it obeys: while it waits for another attempt, and at its end."""

from __future__ import annotations

import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import kvbatch
from kvbatch._core.frame import FrameType
from kvbatch.job_status import list_status
from support.link import Hold, Link, Passing, ending, finish_answer, finish_request
from support.steered import SteeredJob, until
from support.stores import kvbatch as run_kvbatch
from support.stores import numbered, read_store, write_store

ENTRIES = {"default": numbered(100_000)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_store(tmp_path / "source", ENTRIES)


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


@pytest.mark.parametrize("discard", [False, True], ids=["cancel", "discard"])
def test_a_job_that_never_reached_its_receiver_is_cancelled(source: Path, tmp_path: Path, discard: bool) -> None:
    """Nothing is kept of it then, and nothing of it stands anywhere; its command is known all the same."""
    state_dir = tmp_path / "state"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = f"kvbatch://127.0.0.1:{listener.getsockname()[1]}/copy"
    with SteeredJob(source, target, state_dir=state_dir, retries=8) as job:
        until(lambda: job.told("retry"), "a retry")
        name = job.migration.job
        arguments = ("--discard", "--yes") if discard else ()
        done = run_kvbatch("cancel", name, *arguments, "--json", "--state-dir", state_dir)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        with pytest.raises(kvbatch.StoppedError):
            job.migration.wait(60)
    if discard:
        assert (answer["target"], answer["outcome"]) == (target, "nothing")
    else:
        assert (answer["state"], answer["error"], answer["progress"]) == ("stopped", None, {})
        assert answer["carry_on"].startswith(f"kvbatch migrate {source} {target} ")
    assert list_status(state_dir) == []


def test_retries_say_nothing_on_the_streams_of_a_program(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = f"kvbatch://127.0.0.1:{listener.getsockname()[1]}/copy"
    with pytest.raises(kvbatch.TransportError):
        kvbatch.migrate(source, target, state_dir=tmp_path / "state", retries=1).wait()
    assert capfd.readouterr() == ("", "")


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


@pytest.mark.parametrize("opened", [True, False], ids=["opened", "never-opened"])
def test_what_is_asked_between_two_attempts_holds_in_the_next(source: Path, tmp_path: Path, opened: bool) -> None:
    """From another shell, as that is the way to a job that nobody hears of otherwise."""
    state_dir = tmp_path / "state"
    receiver = kvbatch.serve(tmp_path / "received")
    port = receiver.port
    if not opened:
        receiver.stop()
    target = f"kvbatch://127.0.0.1:{port}/copy"
    with SteeredJob(source, target, state_dir=state_dir, rate_limit="512KiB", retries=100_000, lane="batch") as job:
        operator = kvbatch.control(job.migration.job, state_dir)
        if opened:
            job.until(lambda progress: progress.batches > 0)
            receiver.stop()
        until(lambda: job.told("retry"), "a retry")
        assert operator.pause().state == "paused"
        assert operator.resume().state == "running"
        assert operator.pause().state == "paused"
        settings = operator.set(window=7, streams=3, batch_bytes="8KiB", rate_limit=0).settings
        assert settings is not None
        with kvbatch.serve(tmp_path / "received", port=port):
            until(lambda: len(job.told("job")) >= (2 if opened else 1), "another session")
            held = job.until_held("paused")
            assert (held.streams, held.window, held.batch_bytes, held.rate_limit) == (3, 7, 8 << 10, 0)
            job.check_nothing_moves()
            assert operator.status().state == "paused"
            assert operator.resume().state == "running"
            summary = job.finish()
        # What carries it on had it been stopped.
        [listed] = list_status(state_dir)
    assert (summary.state, listed.state) == ("done", "done")
    assert [data["state"] for data in job.told("state")] == ["paused", "running"] * 2
    assert read_store(tmp_path / "received" / "copy") == ENTRIES


def test_a_job_that_is_finishing_cannot_be_steered_any_more(source: Path, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    hold = Hold(finish_answer)
    with (
        kvbatch.serve(tmp_path / "received") as receiver,
        Link(receiver.port, hold) as link,
        SteeredJob(source, f"kvbatch://127.0.0.1:{link.port}/copy", state_dir=state_dir) as job,
    ):
        assert hold.reached.wait(60)
        operator = kvbatch.control(job.migration.job, state_dir)
        assert operator.status().state == "finishing"
        assert [each.state for each in list_status(state_dir)] == ["finishing"]
        for ask in (operator.pause, operator.resume, lambda: operator.set(window=3)):
            with pytest.raises(kvbatch.RefusedError, match="is finishing: everything is at the target, and it is too"):
                ask()
        # In this process there is nobody to tell.
        job.migration.pause()
        job.migration.resume()
        # Too late to stop it, and it waits for the end.
        with ThreadPoolExecutor(1) as other:
            cancelled = other.submit(operator.cancel)
            until(lambda: job.migration._stop.made, "the request to stop")
            hold.release.set()
            assert cancelled.result(60).state == "done"
        assert job.finish().state == "done"
    assert job.told("state") == []
    assert read_store(tmp_path / "received" / "copy") == ENTRIES


@pytest.mark.parametrize("ends", ["resumed", "cancelled"])
def test_a_job_that_is_paused_behind_its_last_batch_does_not_finish_its_target(
    source: Path, tmp_path: Path, ends: str
) -> None:
    state_dir = tmp_path / "state"
    hold = Hold(ending(FrameType.DRAIN, 1))
    asked: list[bool] = []

    def hook(passing: Passing) -> bytes:
        asked.append(finish_request(passing))
        return hold(passing)

    options = {"lane": "batch", "streams": 1, "range_bytes": "64MiB", "state_dir": state_dir}
    with (
        kvbatch.serve(tmp_path / "received") as receiver,
        Link(receiver.port, hook) as link,
        SteeredJob(source, f"kvbatch://127.0.0.1:{link.port}/copy", **options) as job,
    ):
        assert hold.reached.wait(60)
        job.migration.pause()
        hold.release.set()
        until(lambda: job.migration._policy._group is None, "the end of the streams")
        operator = kvbatch.control(job.migration.job, state_dir)
        time.sleep(0.3)
        assert operator.status().state == "paused"
        assert not any(asked)
        if ends == "cancelled":
            assert operator.cancel().state == "stopped"
        else:
            assert operator.resume().state == "running"
            assert job.finish().state == "done"
    if ends == "cancelled":
        with (
            kvbatch.serve(tmp_path / "received") as receiver,
            SteeredJob(source, f"kvbatch://127.0.0.1:{receiver.port}/copy", job=job.migration.job, **options) as again,
        ):
            assert again.finish().resumed
    assert read_store(tmp_path / "received" / "copy") == ENTRIES
