"""What is kept of a job: all of it at first, less of what is old, never much."""

from __future__ import annotations

import dataclasses
import itertools
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from kvbatch.errors import UsageError
from kvbatch.events import Event, Progress
from kvbatch.samples import HistoryWriter, Sample, read_history
from kvbatch.state import JobState, StateStore

WEEK = 7 * 86400
START = 1_700_000_000.0
JOB = "nightly-0123456789ab"


@pytest.fixture
def state(tmp_path: Path) -> StateStore:
    store = StateStore(tmp_path / "state")
    store.start(JOB, "/source", "/target", "f" * 32)
    return store


def progress(seconds: float, **more: Any) -> dict[str, Any]:
    """Of a job that moves a million entries of 100 bytes a second and waits for its window a third of the time."""
    return {
        "seconds": seconds,
        "entries": int(1_000_000 * seconds),
        "raw_bytes": int(100_000_000 * seconds),
        "wire_bytes": int(60_000_000 * seconds),
        "entries_per_second": 1e6,
        "bytes_per_second": 1e8,
        "batch_bytes": 2 << 20,
        "window": 16,
        "round_trip_seconds": 0.0123456,
        "apply_seconds": 0.0023456,
        "rss_bytes": 200 << 20,
        "streams": 4,
        "state": "running",
        "throttle": "window",
        "throttled_seconds": {"window": seconds / 3, "rate-limit": seconds / 10, "memory": 0.0},
        **more,
    }


def database_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.glob("kvbatch.sqlite3*"))


def test_a_sample_keeps_what_the_progress_said(state: StateStore) -> None:
    writer = HistoryWriter(state, JOB)
    writer.sample(START, progress(10.0))
    writer.sample(START + 1, dataclasses.asdict(Progress(seconds=11.0, state="paused")))
    writer.flush()
    first, second = read_history(state, JOB).samples
    assert first == Sample(
        running=10.0,
        time=START,
        run=1,
        entries=10_000_000,
        raw_bytes=1_000_000_000,
        wire_bytes=600_000_000,
        entries_per_second=1_000_000,
        bytes_per_second=100_000_000,
        batch_bytes=2 << 20,
        window=16,
        round_trip_seconds=0.012346,
        apply_seconds=0.002346,
        rss_bytes=200 << 20,
        streams=4,
        state="running",
        throttle="window",
        throttled_seconds={"window": 3.333, "rate-limit": 1.0},
    )
    assert (second.round_trip_seconds, second.throttle, second.throttled_seconds, second.state) == (
        None,
        None,
        {},
        "paused",
    )


def test_one_sample_a_second_is_kept_and_the_last_in_any_case(state: StateStore) -> None:
    writer = HistoryWriter(state, JOB)
    for half in range(20):
        writer.note(Event("sample", START + half / 2, progress(half / 2)))
    writer.end(START + 9.6, progress(9.6))
    writer.flush()
    assert [sample.running for sample in read_history(state, JOB).samples] == [*range(10), 9.6]


def test_totals_go_on_over_the_runs_of_a_job(state: StateStore) -> None:
    for run in range(3):
        writer = HistoryWriter(state, JOB)
        for second in range(1, 4):
            writer.sample(START + 1000 * run + second, progress(second))
        writer.flush()
    history = read_history(state, JOB)
    assert [(sample.run, sample.running) for sample in history.samples] == [
        (run, 3 * (run - 1) + second) for run in (1, 2, 3) for second in (1, 2, 3)
    ]
    assert history.samples[-1].wire_bytes == 9 * 60_000_000
    assert history.samples[-1].throttled_seconds["window"] == pytest.approx(3.0)
    # Within a run, between two runs, before the first sample and behind the last one.
    for moment, running in ((1.5, 1.5), (500, 3.0), (1000.25, 3.25), (0, 0.0), (-7, 0.0), (99_999, 9.0)):
        assert history.running_at(START + moment) == pytest.approx(running)


def test_a_week_stays_small_covers_the_week_and_keeps_the_newest_minutes(state: StateStore, tmp_path: Path) -> None:
    writer = HistoryWriter(state, JOB)
    for flushed in range(0, WEEK, 240):
        # One of twenty for as long as all but one of sixty are thinned away in the end, since that is most of the time.
        step = 1 if flushed >= WEEK - 10 * 3600 else 20
        for second in range(flushed + step - 1, flushed + 240, step):
            # What never is the same takes most room.
            writer.sample(START + second, progress(second, round_trip_seconds=second % 977 / 1e5))
        writer.note(Event("retry", START + flushed, {"attempt": 1, "wait_seconds": 5.0, "error": "x" * 2000}))
        writer.note(Event("throttle", START + flushed, {"reason": "window"}))
        writer.flush()
    samples = read_history(state, JOB).samples
    assert database_bytes(tmp_path / "state") < 10e6
    running = [sample.running for sample in samples]
    assert (running[0], running[-1]) == (59, WEEK - 1)
    ages = [WEEK - 1 - when for when in running]
    apart = [later - earlier for earlier, later in itertools.pairwise(running)]
    assert [step for step, age in zip(apart, ages, strict=False) if age <= 15 * 60] == [1] * 900
    assert max(step for step, age in zip(apart, ages, strict=False) if age <= 6 * 3600) <= 10
    assert max(apart) <= 60, "no hole anywhere in the week"
    assert min(step for step, age in zip(apart, ages, strict=False) if age > 7 * 3600) >= 60


def test_ten_thousand_ranges_and_as_many_retries_stay_small(state: StateStore, tmp_path: Path) -> None:
    writer = HistoryWriter(state, JOB)
    for number in range(10_000):
        writer.note(Event("range", START + number, {"range": number, "state": "started"}))
        writer.note(Event("retry", START + number, {"attempt": 1, "wait_seconds": 5.0, "error": "x" * 5000}))
        writer.note(Event("warning", START + number, {"message": str(number)}))
        writer.note(Event("range", START + number + 0.5, {"range": number, "state": "complete"}))
        if number % 100 == 99:
            writer.flush()
    assert database_bytes(tmp_path / "state") < 6e6
    history = read_history(state, JOB)
    assert len(history.ranges) == 10_000
    assert {(times.completed or 0) - (times.started or 0) for times in history.ranges} == {0.5}
    for kind in ("retry", "warning"):
        numbers = [event.number for event in history.timeline if event.kind == kind]
        assert numbers == [*range(1, 101), *range(9601, 10_001)], (
            "the first and the newest are told, and how many there were"
        )
    assert len(history.timeline[0].data["error"]) == 500


def test_a_range_that_is_begun_again_keeps_its_first_start(state: StateStore) -> None:
    for run in range(2):
        writer = HistoryWriter(state, JOB)
        writer.note(Event("range", START + 100 * run, {"range": 7, "state": "started"}))
        if run:
            writer.note(Event("range", START + 150, {"range": 7, "state": "complete"}))
        writer.flush()
    [times] = read_history(state, JOB).ranges
    assert (times.range, times.started, times.completed, times.starts) == (7, START, START + 150, 2)


def test_a_forgotten_job_leaves_nothing_and_gets_no_history_any_more(state: StateStore) -> None:
    writer = HistoryWriter(state, JOB)

    def happen(second: int) -> None:
        writer.note(Event("job", START + second, {"job": JOB}))
        writer.note(Event("range", START + second, {"range": 0, "state": "started"}))
        writer.sample(START + second, progress(second))
        writer.flush()

    happen(1)
    assert read_history(state, JOB).samples
    state.forget(JOB)
    happen(2)
    state.note_opened(JOB, {"window": 16}, identity="", fingerprint="f" * 32)
    with state.transaction() as database:
        for table in ("jobs", "job_details", "samples", "range_times", "timeline"):
            assert database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == 0, table


def test_progress_is_written_while_the_job_runs_only(state: StateStore) -> None:
    writer = HistoryWriter(state, JOB)
    writer.sample(START, progress(1.0))
    writer.flush()
    record = state.find(JOB)
    assert record is not None
    assert record.progress["seconds"] == 1.0
    state.update(JOB, state=JobState.DONE, progress={"seconds": 2.5})
    writer.sample(START, progress(2.0))
    writer.flush()
    record = state.find(JOB)
    assert record is not None
    assert record.progress == {"seconds": 2.5}


# -- the schema -------------------------------------------------------------------------------------------------------

RELEASED = """
CREATE TABLE jobs (
    job TEXT PRIMARY KEY, source TEXT NOT NULL, target TEXT NOT NULL, fingerprint TEXT NOT NULL,
    identity TEXT NOT NULL, state TEXT NOT NULL, created REAL NOT NULL, updated REAL NOT NULL, pid INTEGER NOT NULL,
    progress TEXT NOT NULL, summary TEXT, error TEXT
) STRICT
"""
RELEASED_INSERT = "INSERT INTO jobs VALUES (?, '/source', '/target', 'f', '', 'done', 1.0, 2.0, 1, '{}', NULL, NULL)"


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A state directory of the first release."""
    directory = tmp_path / "released"
    directory.mkdir()
    with sqlite3.connect(directory / "kvbatch.sqlite3") as database:
        database.execute(RELEASED)
        database.execute(RELEASED_INSERT, ("old",))
    database.close()
    return directory


def test_a_database_of_the_first_release_opens_and_gets_what_it_lacks(released: Path) -> None:
    state = StateStore(released)
    record = state.find("old")
    assert record is not None
    assert (record.source, record.options, record.verification) == ("/source", None, None)
    assert read_history(state, "old").samples == []
    HistoryWriter(state, "old").flush()
    assert [each.job for each in StateStore(released).jobs()] == ["old"]


def test_the_first_release_works_on_a_database_of_this_one(released: Path) -> None:
    state = StateStore(released)
    writer = HistoryWriter(state, "old")
    writer.sample(START, progress(1.0))
    writer.flush()
    with sqlite3.connect(released / "kvbatch.sqlite3") as database:
        database.execute(RELEASED_INSERT, ("older",))
        [columns] = {len(row) for row in database.execute("SELECT * FROM jobs")}
        database.execute("DELETE FROM jobs WHERE job = 'old'")
    database.close()
    assert columns == 12
    assert read_history(state, "old").samples == [], "forgotten with its job"


def test_a_database_of_a_later_release_is_refused(released: Path) -> None:
    StateStore(released).close()
    with sqlite3.connect(released / "kvbatch.sqlite3") as database:
        database.execute("PRAGMA user_version = 9")
    database.close()
    with pytest.raises(UsageError, match=r"version 9 .* a later one made it; give another one with --state-dir"):
        StateStore(released)
