"""A real `kvbatch migrate` that is steered from other shells."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvbatch.cli import _SAME_REQUEST_SECONDS
from kvbatch.migration import _STOP_GRACE_SECONDS
from support.processes import Child, Processes
from support.steered import until
from support.stores import kvbatch as command_line
from support.stores import read_store, write_store

Entries = dict[str, dict[bytes, bytes]]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Entries]:
    noise = random.Random(9)
    entries = {"default": {b"key-%06d" % number: noise.randbytes(1000) for number in range(2000)}}
    return write_store(tmp_path_factory.mktemp("flow") / "source", entries), entries


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    running = Processes(tmp_path, {"KVBATCH_TEST_PIECE_BYTES": "16384"})
    yield running
    running.close()


class Operator:
    def __init__(self, state: Path) -> None:
        self._state = state

    def ask(self, verb: str, *more: object) -> dict[str, Any]:
        done = command_line(verb, "nightly", "--state-dir", self._state, "--json", *more)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


def begin(processes: Processes, source: Path, target: object, *more: object) -> tuple[Child, Operator]:
    """A job that would take half a minute, and moves."""
    limits = ("--rate-limit", "64KiB/s", "--batch-size", "16KiB", "--streams", 2, "--window", 4)
    job = processes.migrate(source, target, "--job", "nightly", *limits, *more)
    job.expect('"sample"')
    return job, Operator(processes.directory / "state")


def target_of(processes: Processes, tmp_path: Path, way: str) -> str:
    if way == "directory":
        return str(tmp_path / "received" / "copy")
    return f"kvbatch://127.0.0.1:{processes.serve(tmp_path / 'received')[1]}/copy"


@pytest.mark.parametrize(("way", "lane"), [("receiver", "batch"), ("directory", "sst"), ("directory", "files")])
def test_a_job_is_steered_from_another_shell(
    processes: Processes, tmp_path: Path, stored: tuple[Path, Entries], way: str, lane: str
) -> None:
    source, entries = stored
    job, operator = begin(processes, source, target_of(processes, tmp_path, way), "--lane", lane)
    assert operator.ask("pause")["state"] == "paused"
    job.expect('"throttle": "paused"')
    paused = operator.ask("status")
    assert (paused["state"], paused["progress"]["state"]) == ("paused", "paused")
    changed = operator.ask("set", "--window", 8, "--compression", "none", "--max-memory", "64MiB", "--streams", 3)
    assert (changed["state"], changed["settings"]["window"], changed["settings"]["streams"]) == ("paused", 8, 3)
    assert operator.ask("resume")["state"] == "running"
    operator.ask("set", "--rate-limit", 0, "--batch-size", "auto")
    summary = job.result()
    assert summary["resent_bytes"] == 0
    assert summary["throttled_seconds"] > 0
    events = [json.loads(line) for line in job.lines]
    assert [event["state"] for event in events if event["event"] == "state"] == ["paused", "running"]
    assert read_store(tmp_path / "received" / "copy") == entries


def test_a_paused_job_ends_cleanly_when_it_is_interrupted(
    processes: Processes, tmp_path: Path, stored: tuple[Path, Entries]
) -> None:
    source, entries = stored
    target = target_of(processes, tmp_path, "receiver")
    job, operator = begin(processes, source, target, "--lane", "batch")
    operator.ask("pause")
    job.expect('"throttle": "paused"')
    job.signal(signal.SIGINT)
    assert job.wait() == 75
    assert "Traceback" not in job.errors
    assert operator.ask("status")["state"] == "stopped"
    # Whoever carries it on does not find it paused.
    again = processes.migrate(source, target, "--job", "nightly", "--lane", "batch").result()
    assert again["resumed"]
    assert read_store(tmp_path / "received" / "copy") == entries


def test_a_job_that_cannot_stop_cleanly_ends_at_once_at_the_second_interrupt(
    processes: Processes, tmp_path: Path, stored: tuple[Path, Entries]
) -> None:
    """Its receiver stands still: by itself it would wait as long for its streams, and then for what became durable."""
    source, entries = stored
    receiver, port = processes.serve(tmp_path / "received")
    target = f"kvbatch://127.0.0.1:{port}/copy"
    job, _ = begin(processes, source, target, "--lane", "batch", "--window", 1)
    receiver.signal(signal.SIGSTOP)
    until(lambda: '"throttle": "window"' in job.errors, "a full window")
    job.signal(signal.SIGINT)
    job.expect("once more: at once")
    # Signals close together are taken for one request.
    time.sleep(_SAME_REQUEST_SECONDS + 0.1)
    asked = time.monotonic()
    job.signal(signal.SIGINT)
    assert job.wait() == -signal.SIGINT
    assert time.monotonic() - asked < _STOP_GRACE_SECONDS
    receiver.signal(signal.SIGCONT)
    again = processes.migrate(source, target, "--job", "nightly", "--lane", "batch").result()
    assert again["state"] == "done"
    assert read_store(tmp_path / "received" / "copy") == entries


def test_two_senders_with_state_directories_of_their_own(
    stored: tuple[Path, Entries], processes: Processes, tmp_path: Path
) -> None:
    source, entries = stored
    target = target_of(processes, tmp_path, "receiver")
    job, operator = begin(processes, source, target)
    other = ["--state-dir", tmp_path / "other"]
    for words, said in ((["--job", "nightly"], "written by another sender of job 'nightly'"), ([], "in use by job")):
        done = command_line("migrate", source, target, *words, *other)
        assert done.returncode == 4, done.stderr
        assert said in done.stderr
    operator.ask("set", "--rate-limit", 0)
    summary = job.result()
    assert (summary["state"], summary["resumed"]) == ("done", False)
    assert job.errors.count('"retry"') == 0, "it was not disturbed"
    assert read_store(tmp_path / "received" / "copy") == entries


def test_who_was_killed_does_not_discard_what_another_sender_carries_on(
    stored: tuple[Path, Entries], processes: Processes, tmp_path: Path
) -> None:
    source, entries = stored
    target = target_of(processes, tmp_path, "receiver")
    killed, first = begin(processes, source, target)
    killed.kill()
    killed.wait()
    again = processes.migrate(source, target, "--job", "nightly", "--rate-limit", "64KiB/s", state="other")
    again.expect('"sample"')
    done = command_line("cancel", "--discard", "--yes", "nightly", "--state-dir", tmp_path / "state")
    assert done.returncode == 4, done.stderr
    assert "by another sender of job 'nightly'" in done.stderr
    assert first.ask("status")["state"] == "interrupted"
    Operator(tmp_path / "other").ask("set", "--rate-limit", 0)
    assert again.result()["resumed"]
    assert again.errors.count('"retry"') == 0, "it was not disturbed"
    assert read_store(tmp_path / "received" / "copy") == entries
