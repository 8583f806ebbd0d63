"""The record of a job: kept by a run that never opened the target, and of one mind about how fast the job went."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import rocksdict

import kvbatch
from kvbatch.samples import read_history
from kvbatch.state import JobRecord, JobState, StateStore, find_job
from support.steered import SteeredJob
from support.stores import numbered, raw_options, write_store

ENTRIES = {"default": numbered(2000)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_store(tmp_path / "source", ENTRIES)


@contextmanager
def in_use(store: Path) -> Iterator[None]:
    with closing(rocksdict.Rdict(str(store), raw_options())):
        yield


def record(state_dir: Path, job: str) -> JobRecord:
    found = find_job(state_dir, job)
    assert found is not None
    return found


@pytest.mark.parametrize("lane", ["batch", "files"])
def test_a_finished_job_stays_finished_where_its_target_is_in_use(source: Path, tmp_path: Path, lane: str) -> None:
    state_dir, copy = tmp_path / "state", tmp_path / "copy"
    migration = kvbatch.migrate(source, copy, state_dir=state_dir, lane=lane)
    migration.wait(60)
    before = record(state_dir, migration.job)
    with in_use(copy), pytest.raises(kvbatch.RefusedError, match="in use"):
        kvbatch.migrate(source, copy, state_dir=state_dir, lane=lane).wait(60)
    assert record(state_dir, migration.job) == before
    assert before.progress["entries"] == 2000


def test_a_finished_job_that_is_run_again_keeps_its_figures(source: Path, tmp_path: Path) -> None:
    state_dir, copy = tmp_path / "state", tmp_path / "copy"
    migration = kvbatch.migrate(source, copy, state_dir=state_dir)
    migration.wait(60)
    before = record(state_dir, migration.job)
    assert kvbatch.migrate(source, copy, state_dir=state_dir).wait(60).finished_before
    assert record(state_dir, migration.job) == before


def test_a_finished_job_whose_answer_was_lost_is_recorded_as_done(source: Path, tmp_path: Path) -> None:
    state_dir, copy = tmp_path / "state", tmp_path / "copy"
    migration = kvbatch.migrate(source, copy, state_dir=state_dir)
    migration.wait(60)
    with closing(StateStore(state_dir)) as state:
        state.update(migration.job, state=JobState.FAILED, error="the answer was lost")
    assert kvbatch.migrate(source, copy, state_dir=state_dir).wait(60).finished_before
    after = record(state_dir, migration.job)
    assert (after.state, after.error, after.progress["entries"]) == ("done", None, 2000)


@pytest.mark.parametrize("state", [JobState.STOPPED, JobState.FAILED, JobState.RUNNING])
def test_an_unfinished_job_stays_as_it_was_where_nobody_answers(source: Path, tmp_path: Path, state: str) -> None:
    state_dir = tmp_path / "state"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = f"kvbatch://127.0.0.1:{listener.getsockname()[1]}/copy"
    with closing(StateStore(state_dir)) as store:
        store.start("nightly", str(source), target, "f" * 32)
        store.update("nightly", state=state, progress={"entries": 7}, error="why it ended", pid=1)
    before = record(state_dir, "nightly")
    with pytest.raises(kvbatch.TransportError):
        kvbatch.migrate(source, target, state_dir=state_dir, job="nightly", retries=1).wait(60)
    assert record(state_dir, "nightly") == before


def test_every_word_about_a_finished_job_has_the_same_rates(source: Path, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    migration = kvbatch.migrate(source, tmp_path / "copy", state_dir=state_dir, lane="batch")
    summary = migration.wait(60)
    status = kvbatch.control(migration.job, state_dir).status()
    entries_per_second, bytes_per_second = 2000 / summary.seconds, summary.raw_bytes / summary.seconds
    assert summary.entries_per_second == pytest.approx(entries_per_second)
    assert (status.entries_per_second, status.bytes_per_second) == pytest.approx((entries_per_second, bytes_per_second))
    assert status.progress["bytes_per_second"] == status.bytes_per_second
    assert status.progress["state"] == "done"
    # What a report divides by.
    with closing(StateStore(state_dir)) as state:
        assert read_history(state, migration.job).samples[-1].running == pytest.approx(summary.seconds, abs=1e-3)


SELECTIONS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"column_families": ["a"]}, {"column_families": ["b"]}, "finished with --cf a, and is to move --cf b now"),
    ({"column_families": ["a"]}, {}, "finished with --cf a, and is to move all of it now"),
    ({}, {"column_families": ["a"]}, "finished with all of the source, and is to move --cf a now"),
    (
        {"key_range": "..6b65792d3030303030313030"},
        {"key_range": "..6b65792d3030303030313031"},
        r"with --range ..6b65792d3030303030313030, and is to move --range ..6b65792d3030303030313031 now",
    ),
]


@pytest.mark.parametrize("behind_a_receiver", [False, True])
@pytest.mark.parametrize(("first", "second", "says"), SELECTIONS)
def test_a_finished_job_of_another_selection_is_refused(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], says: str, behind_a_receiver: bool
) -> None:
    """Of the same name: done, as the first was, would be a lie."""
    source = write_store(tmp_path / "source", {"a": numbered(200), "b": numbered(300)})
    with kvbatch.serve(tmp_path / "received") as receiver:
        target = f"kvbatch://127.0.0.1:{receiver.port}/copy" if behind_a_receiver else str(tmp_path / "copy")
        options: dict[str, Any] = {"job": "nightly", "state_dir": tmp_path / "state"}
        moved = kvbatch.migrate(source, target, **first, **options).wait(60)
        for act in (kvbatch.plan, lambda *given, **more: kvbatch.migrate(*given, **more).wait(60)):
            with pytest.raises(kvbatch.RefusedError, match=says):
                act(source, target, **second, **options)
        again = kvbatch.migrate(source, target, **first, **options).wait(60)
        assert (again.finished_before, again.entries) == (True, moved.entries)


def test_one_name_for_two_targets_is_told(source: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"job": "two", "state_dir": tmp_path / "state", "lane": "batch"}
    with SteeredJob(source, tmp_path / "first", rate_limit="64KiB", **options) as job:
        job.until(lambda progress: progress.entries > 0)
        job.migration.cancel()
        with pytest.raises(kvbatch.StoppedError):
            job.migration.wait(60)
    with SteeredJob(source, tmp_path / "second", **options) as job:
        job.finish()
        [warning] = [each["message"] for each in job.told("warning")]
    assert f"job two stands unfinished at {tmp_path / 'first'}, too" in warning
    with SteeredJob(source, tmp_path / "first", **options) as job:
        assert job.finish().resumed
        assert not job.told("warning")


@pytest.mark.parametrize(
    ("asked", "told"), [("none", ["job late goes on as it began, with lz4"]), ("lz4", []), ("auto", [])]
)
def test_a_compression_that_comes_too_late_is_told(source: Path, tmp_path: Path, asked: str, told: list[str]) -> None:
    options: dict[str, Any] = {"job": "late", "state_dir": tmp_path / "state", "lane": "batch"}
    with SteeredJob(source, tmp_path / "copy", rate_limit="64KiB", target_compression="lz4", **options) as job:
        job.until(lambda progress: progress.entries > 0)
        job.migration.cancel()
        with pytest.raises(kvbatch.StoppedError):
            job.migration.wait(60)
    with SteeredJob(source, tmp_path / "copy", target_compression=asked, **options) as job:
        assert job.finish().resumed
    warnings = [each["message"] for each in job.told("warning")]
    assert [each in warning for each, warning in zip(told, warnings, strict=True)] == [True] * len(told)
