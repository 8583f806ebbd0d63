"""Control of a job in every state, by one operator and by several at once."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import kvbatch
from kvbatch import control_client
from kvbatch.control_protocol import short_address
from kvbatch.errors import KvbatchError, RefusedError, TransportError, UsageError
from kvbatch.state import JobState, control_path, job_lock
from kvbatch.status_view import job_rows
from support.fake_job import ERROR, OPTION_WORDS, FakeJob, record_job

VERBS: dict[str, Callable[[kvbatch.JobControl], kvbatch.JobStatus]] = {
    "pause": lambda job: job.pause(),
    "resume": lambda job: job.resume(),
    "set": lambda job: job.set(window=4),
    "cancel": lambda job: job.cancel(),
}
CARRY_ON = f"Carry it on with: kvbatch migrate /data/source /data/copy {OPTION_WORDS} --job nightly --state-dir "


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


def refusal(state_dir: Path, verb: str, kind: type[KvbatchError]) -> str:
    with pytest.raises(kind) as raised:
        VERBS[verb](kvbatch.control("nightly", state_dir))
    return str(raised.value)


@pytest.mark.parametrize("verb", [*VERBS, "status"])
def test_a_job_that_nobody_knows(state_dir: Path, verb: str) -> None:
    with pytest.raises(UsageError, match=r"no job 'nightly' in the state directory .*`kvbatch status --state-dir "):
        {**VERBS, "status": lambda job: job.status()}[verb](kvbatch.control("nightly", state_dir))
    assert not state_dir.exists()


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("state", [JobState.STOPPED, JobState.FAILED, "interrupted"])
def test_a_job_that_no_process_runs_is_carried_on_by_migrate(state_dir: Path, verb: str, state: str) -> None:
    record_job(state_dir, "nightly", state)
    message = refusal(state_dir, verb, RefusedError)
    assert f"job nightly is {state}" in message
    assert f"nothing to {verb}" in message
    assert CARRY_ON in message
    assert ("`kvbatch cancel --discard nightly --state-dir " in message) == (verb == "cancel")
    assert (ERROR in message) == (state == JobState.FAILED)


@pytest.mark.parametrize("verb", VERBS)
def test_a_job_that_is_done(state_dir: Path, verb: str) -> None:
    record_job(state_dir, "nightly", JobState.DONE)
    message = refusal(state_dir, verb, RefusedError)
    assert f"job nightly is done, there is nothing left to {verb}" in message
    assert "`kvbatch status nightly --state-dir " in message
    assert "migrate" not in message


@pytest.mark.parametrize("verb", VERBS)
def test_a_job_whose_process_was_killed_leaves_a_socket_that_deceives_nobody(state_dir: Path, verb: str) -> None:
    record_job(state_dir, "nightly", "interrupted")
    path = control_path(state_dir, "nightly")
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_behind, short_address(path) as address:
        left_behind.bind(address)
    assert "job nightly is interrupted" in refusal(state_dir, verb, RefusedError)


def test_a_running_job_does_as_it_is_told(state_dir: Path) -> None:
    with FakeJob(state_dir) as migration:
        job = kvbatch.control("nightly", state_dir)
        assert job.pause().state == "paused"
        assert (job.status().state, job.status().throttle, job.status().pid) == ("paused", "paused", os.getpid())
        assert job.resume().state == "running"
        changed = job.set(window=4, rate_limit="20MiB/s", compression="none")
        assert changed.settings is not None
        assert (changed.settings["window"], changed.settings["compression"]) == (4, "none")
        with pytest.raises(UsageError, match="cannot set streams to 0"):
            job.set(streams=0)
        with pytest.raises(UsageError, match="nothing to set"):
            job.set()
        assert job.status().settings == changed.settings
        stopped = job.cancel()
        assert (stopped.state, stopped.pid, stopped.settings) == ("stopped", None, None)
        assert migration.calls == ["pause", "resume", "set", "set", "cancel"]
    assert "job nightly is stopped" in refusal(state_dir, "resume", RefusedError)


def test_a_job_that_is_finishing_says_so_and_heeds_nothing_but_cancel(state_dir: Path) -> None:
    running = FakeJob(state_dir)
    running.end = JobState.DONE
    with running as migration:
        migration.finishing = True
        job = kvbatch.control("nightly", state_dir)
        assert job.status().state == "finishing"
        for verb in ("pause", "resume", "set"):
            message = refusal(state_dir, verb, RefusedError)
            assert f"job nightly is finishing: everything is at the target, and it is too late to {verb} it" in message
            assert "`kvbatch status nightly` says when it is done" in message
        assert migration.calls == []
        assert job.cancel().state == "done"


def test_what_the_last_sample_before_a_pause_waited_for_holds_nobody_back(state_dir: Path) -> None:
    with FakeJob(state_dir):
        status = kvbatch.control("nightly", state_dir).pause()
    sampled = dataclasses.replace(status, progress=status.progress | {"throttle": "rate-limit"})
    assert (sampled.state, sampled.throttle) == ("paused", "paused")


def test_a_paused_job_is_ended_by_cancel(state_dir: Path) -> None:
    with FakeJob(state_dir):
        job = kvbatch.control("nightly", state_dir)
        job.pause()
        assert job.cancel().state == "stopped"


def test_a_job_that_ends_by_itself_while_it_is_cancelled(state_dir: Path) -> None:
    running = FakeJob(state_dir)
    running.end = JobState.DONE
    with running:
        assert kvbatch.control("nightly", state_dir).cancel().state == "done"


def test_cancel_does_not_wait_for_ever(state_dir: Path) -> None:
    with FakeJob(state_dir, ends=False):
        job = kvbatch.control("nightly", state_dir)
        with pytest.raises(TransportError, match=r"has not come to its end.*`kvbatch status nightly"):
            job.cancel(timeout=0)
        assert job.status().state == "stopping"
        with pytest.raises(RefusedError, match="too late to pause"):
            job.pause()


@pytest.mark.parametrize("verb", VERBS)
def test_a_running_job_without_a_socket(state_dir: Path, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_client, "_BETWEEN_SECONDS", 0.0)
    with FakeJob(state_dir, answers=False):
        message = refusal(state_dir, verb, TransportError)
        assert f"job nightly is running in process {os.getpid()}, which has no control socket" in message
        assert f"kill -INT {os.getpid()}" in message
        status = kvbatch.control("nightly", state_dir).status()
        assert (status.state, status.percent, status.settings) == ("running", 30.0, None)


def test_a_job_that_is_just_starting_is_waited_for(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds its lock and has no socket yet."""
    record_job(state_dir, "nightly", "interrupted")
    running = FakeJob(state_dir)
    lock = job_lock(state_dir, "nightly")
    lock.__enter__()

    def start_it(seconds: float) -> None:
        monkeypatch.undo()
        lock.__exit__(None, None, None)
        running.__enter__()

    monkeypatch.setattr("kvbatch.control_client.time.sleep", start_it)
    assert kvbatch.control("nightly", state_dir).pause().state == "paused"
    running.__exit__(None, None, None)


def test_a_process_that_does_not_answer(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that was stopped by SIGSTOP: the kernel takes the connection for it."""
    monkeypatch.setattr(control_client, "_ANSWER_SECONDS", 0.05)
    with FakeJob(state_dir, answers=False):
        path = control_path(state_dir, "nightly")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf:
            with short_address(path) as address:
                deaf.bind(address)
            deaf.listen()
            message = refusal(state_dir, "pause", TransportError)
            assert "job nightly does not answer" in message
            assert "`kvbatch status nightly" in message
            assert kvbatch.control("nightly", state_dir).status().state == "running"


@pytest.mark.parametrize("answer", [b"", b"{}\n", b"nonsense\n", b'{"ok":true}\n', b"x" * 300_000], ids=repr)
def test_an_answer_that_is_none(state_dir: Path, answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_client, "_BETWEEN_SECONDS", 0.0)
    with FakeJob(state_dir, answers=False):
        path = control_path(state_dir, "nightly")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as strange, ThreadPoolExecutor(1) as other:
            with short_address(path) as address:
                strange.bind(address)
            strange.listen()

            def say_it() -> None:
                client, _ = strange.accept()
                with client:
                    client.recv(1 << 16)
                    client.settimeout(1)
                    try:
                        client.sendall(answer)
                    except OSError:
                        return

            said = other.submit(say_it)
            with pytest.raises(KvbatchError):
                kvbatch.control("nightly", state_dir).pause()
            said.result(30)


def test_several_operators_at_once_each_hear_what_is_valid_behind_their_own_request(state_dir: Path) -> None:
    with FakeJob(state_dir) as migration, ThreadPoolExecutor(8) as operators:

        def change(number: int) -> bool:
            job = kvbatch.control("nightly", state_dir)
            if number % 3 == 0:
                return job.pause().state == "paused"
            if number % 3 == 1:
                return job.resume().state == "running"
            settings = job.set(window=number, batch_bytes=4096 * number).settings
            return settings is not None and settings["batch_bytes"] == 4096 * settings["window"] == 4096 * number

        assert all(operators.map(change, range(60)))
        assert len(migration.calls) == 60
        stops = [operators.submit(kvbatch.control("nightly", state_dir).cancel) for _ in range(4)]
        errors = [str(error) for stop in stops if (error := stop.exception(60)) is not None]
        # Who asked when it had stopped already.
        assert all("job nightly is stopped" in error for error in errors)
        assert {stop.result().state for stop in stops if stop.exception() is None} == {"stopped"}


def test_jobs_are_told_by_name(state_dir: Path) -> None:
    with FakeJob(state_dir, "nightly") as first, FakeJob(state_dir, "weekly") as second:
        kvbatch.control("weekly", state_dir).pause()
        assert (first.calls, second.calls) == ([], ["pause"])
        assert (kvbatch.control("nightly", state_dir).status().state, first.warnings) == ("running", [])


@pytest.mark.parametrize("state", ["running", JobState.STOPPED, "interrupted", JobState.FAILED])
def test_progress_and_the_time_left_are_known_from_the_record(state_dir: Path, state: str) -> None:
    if state == "running":
        with FakeJob(state_dir, answers=False):
            status = kvbatch.control("nightly", state_dir).status()
            assert (status.state, status.bytes_per_second, status.throttle) == ("running", 10_000.0, "window")
    else:
        record_job(state_dir, "nightly", state)
        status = kvbatch.control("nightly", state_dir).status()
        assert (status.state, status.bytes_per_second, status.throttle) == (state, 0.0, None)
    # Of a job that does not run, at the mean of its run.
    # Of a job that runs what was sent, of another what is durable, where it will be carried on.
    done, left = (30.0, 14.0) if state == "running" else (25.0, 30.0)
    assert (status.percent, status.durable_percent, status.remaining_seconds) == (done, 25.0, left)


@pytest.mark.parametrize("state", [JobState.DONE, JobState.STOPPED, "interrupted", JobState.FAILED])
def test_rates_of_a_job_that_does_not_run_are_means_of_its_run(state_dir: Path, state: str) -> None:
    record_job(state_dir, "nightly", state)
    status = kvbatch.control("nightly", state_dir).status()
    rates = ("entries_per_second", "bytes_per_second", "wire_bytes_per_second")
    assert [status.progress[rate] for rate in rates] == [50.0, 5_000.0, 2_000.0]
    shown = dict(job_rows(status))
    assert shown["bytes per second"] == shown["mean bytes per second"]
    assert shown["compression ratio"] == "1"
    assert "compression" not in shown


def test_compression_is_shown_while_the_job_runs(state_dir: Path) -> None:
    with FakeJob(state_dir):
        assert dict(job_rows(kvbatch.control("nightly", state_dir).status()))["compression"] == "lz4"


def test_discard_wants_a_job_that_does_not_run(state_dir: Path) -> None:
    with FakeJob(state_dir), pytest.raises(RefusedError, match=r"is running in process .*`kvbatch cancel nightly"):
        kvbatch.discard("nightly", state_dir)
    with pytest.raises(UsageError, match="no job"):
        kvbatch.discard("nobody", state_dir)
    record_job(state_dir, "weekly", JobState.DONE)
    with pytest.raises(RefusedError, match="job weekly is done"):
        kvbatch.discard("weekly", state_dir)
