from __future__ import annotations

import fcntl
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kvbatch.errors import RefusedError, UsageError
from kvbatch.state import JobState, StateStore, find_job, job_lock, list_jobs


@pytest.fixture
def state(tmp_path: Path) -> StateStore:
    return StateStore(tmp_path / "state")


def test_a_job_is_kept_from_its_start_to_its_end(state: StateStore, tmp_path: Path) -> None:
    with job_lock(tmp_path / "state", "nightly"):
        state.start("nightly", "/source", "/target", "f" * 32)
        record = state.find("nightly")
    assert record is not None
    assert (record.source, record.target, record.fingerprint) == ("/source", "/target", "f" * 32)
    assert (record.state, record.pid, record.alive) == (JobState.RUNNING, os.getpid(), True)
    assert (record.progress, record.summary, record.error) == ({}, None, None)
    state.update("nightly", state=JobState.DONE, progress={"entries": 5}, summary={"job": "nightly"})
    # Another process sees the same.
    record = StateStore(tmp_path / "state").find("nightly")
    assert record is not None
    assert (record.state, record.progress, record.summary) == ("done", {"entries": 5}, {"job": "nightly"})
    assert record.updated >= record.created


def test_a_job_that_is_taken_up_again_keeps_its_progress_and_birth(state: StateStore) -> None:
    state.start("nightly", "/source", "/target", "f" * 32)
    state.update("nightly", state=JobState.STOPPED, progress={"entries": 5}, error="stopped", identity="id")
    before = state.find("nightly")
    state.start("nightly", "/source", "/target", "f" * 32)
    after = state.find("nightly")
    assert before is not None
    assert after is not None
    assert (after.created, after.progress, after.identity) == (before.created, {"entries": 5}, "id")
    assert (after.state, after.error, after.summary) == (JobState.RUNNING, None, None)


def test_paths_that_are_no_text_come_back_as_they_were(state: StateStore) -> None:
    source, target = os.fsdecode(b"/s/\xff%41"), os.fsdecode(b"/t/\\xfe \xfe")
    state.start("nightly", source, target, "")
    state.update("nightly", state=JobState.FAILED, error=f"look at {target}: no")
    record = state.find("nightly")
    assert record is not None
    assert (record.source, record.target) == (source, target)
    assert record.error == r"look at /t/\xfe \udcfe: no"
    assert state.keep_verification(source, target, {"column_families": [], "key_range": ".."}) == "nightly"
    state.put_back(record)
    assert [(each.source, each.target) for each in state.jobs()] == [(source, target)]


def test_jobs_are_listed_the_newest_first_and_unknown_ones_are_none(state: StateStore) -> None:
    for job in ("a", "b", "c"):
        state.start(job, "/source", "/target", "")
    state.update("a", progress={})
    assert [record.job for record in state.jobs()] == ["a", "c", "b"]
    assert state.find("d") is None


def test_a_running_job_that_nobody_holds_is_shown_as_interrupted_whoever_has_its_pid_now(state: StateStore) -> None:
    state.start("nightly", "/source", "/target", "")
    for stored in (JobState.RUNNING, JobState.FINISHING):
        state.update("nightly", state=stored, pid=os.getpid())
        record = state.find("nightly")
        assert record is not None
        assert [record] == state.jobs()
        assert (record.alive, record.shown_state) == (False, "interrupted")


@pytest.mark.parametrize(
    ("stored", "progress", "shown"),
    [
        (JobState.RUNNING, {}, "running"),
        (JobState.RUNNING, {"state": "paused"}, "paused"),
        (JobState.FINISHING, {"state": "paused"}, "finishing"),
        (JobState.STOPPED, {"state": "paused"}, "stopped"),
    ],
)
def test_a_job_that_is_held_is_paused_when_it_says_so(
    state: StateStore, tmp_path: Path, stored: str, progress: dict[str, str], shown: str
) -> None:
    with job_lock(tmp_path / "state", "nightly"):
        state.start("nightly", "/source", "/target", "")
        state.update("nightly", state=stored, progress=progress)
        assert [record.shown_state for record in state.jobs()] == [shown]


def test_a_job_that_ends_while_it_is_looked_at_is_not_shown_as_interrupted(
    state: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.start("nightly", "/source", "/target", "")
    ended: list[str] = []

    def nobody_holds_it_any_more(lock: Path) -> bool:
        if not ended:
            ended.append("now")
            state.update("nightly", state=JobState.DONE)
        return False

    monkeypatch.setattr("kvbatch.state._is_held", nobody_holds_it_any_more)
    record = state.find("nightly")
    assert record is not None
    assert record.shown_state == "done"


def test_looking_at_a_job_makes_no_state_directory(tmp_path: Path) -> None:
    assert find_job(tmp_path / "nowhere", "nightly") is None
    assert list_jobs(tmp_path / "nowhere") == []
    assert not (tmp_path / "nowhere").exists()


def test_who_looks_at_a_job_does_not_keep_it_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look holds the lock for a moment."""
    (tmp_path / "jobs").mkdir()
    with (tmp_path / "jobs" / "nightly.lock").open("w") as looked_at:
        fcntl.flock(looked_at, fcntl.LOCK_SH)
        monkeypatch.setattr("time.sleep", lambda seconds: fcntl.flock(looked_at, fcntl.LOCK_UN))
        with job_lock(tmp_path, "nightly"):
            pass


def test_a_directory_that_cannot_be_used_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--state-dir"):
        StateStore(tmp_path / "file")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "kvbatch.sqlite3").write_bytes(b"this is no database" * 100)
    with pytest.raises(UsageError, match="--state-dir"):
        StateStore(broken)


def test_a_database_that_breaks_later_is_wrong_usage_and_says_what_sqlite_said(state: StateStore) -> None:
    state.start("nightly", "/source", "/target", "f" * 32)
    state._database.execute("DROP TABLE jobs")
    calls: list[Callable[[], object]] = [
        lambda: state.start("nightly", "/source", "/target", ""),
        lambda: state.update("nightly", state=JobState.DONE),
        lambda: state.forget("nightly"),
        lambda: state.find("nightly"),
        state.jobs,
    ]
    for call in calls:
        with pytest.raises(UsageError, match=r"cannot be used: no such table.*--state-dir") as caught:
            call()
        assert isinstance(caught.value.__cause__, sqlite3.Error)


def test_the_database_is_private_and_in_wal_mode(state: StateStore, tmp_path: Path) -> None:
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    database = sqlite3.connect(tmp_path / "state" / "kvbatch.sqlite3")
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


def test_a_job_runs_in_one_process_only(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from kvbatch.state import job_lock\n"
        "with job_lock(Path(sys.argv[1]), 'nightly'): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(RefusedError, match="nightly is being run"),
            job_lock(tmp_path, "nightly"),
        ):
            pass
        with job_lock(tmp_path, "weekly"):
            pass
        holder.kill()
        holder.wait()
        # A lock dies with its process.
        with job_lock(tmp_path, "nightly"):
            pass
