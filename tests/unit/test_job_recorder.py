"""A record that cannot be kept costs history, not data."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

import kvbatch
from kvbatch.events import EventBus
from kvbatch.job_recorder import JobRecorder
from kvbatch.samples import read_history
from kvbatch.state import JobState, StateStore
from support.steered import until
from support.stores import numbered, read_store, write_store


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def recorder(tmp_path: Path, told: list[str]) -> JobRecorder:
    return JobRecorder(tmp_path / "state", "nightly", told.append)


def start(recorder: JobRecorder) -> EventBus:
    bus = EventBus()
    recorder.start("/source", "/target", "f" * 32, bus)
    return bus


def break_database(recorder: JobRecorder) -> None:
    recorder._state._database.execute("ALTER TABLE jobs RENAME TO elsewhere")


def mend_database(recorder: JobRecorder) -> None:
    recorder._state._database.execute("ALTER TABLE elsewhere RENAME TO jobs")


def test_a_directory_that_is_none_is_wrong_usage_at_the_start(tmp_path: Path, told: list[str]) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(kvbatch.UsageError, match="--state-dir"):
        JobRecorder(tmp_path / "state", "nightly", told.append)
    assert told == []


def test_a_database_that_breaks_is_told_once_in_an_event_and_in_the_log(
    recorder: JobRecorder, told: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    break_database(recorder)
    with caplog.at_level(logging.WARNING):
        start(recorder)
        assert recorder.find() is None
        recorder.update(progress={"entries": 5})
        recorder.update(state=JobState.DONE)
        recorder.undo_start(None)
    [message] = told
    for words in (str(tmp_path / "state"), "no such table", "goes on", "no data is lost"):
        assert words in message
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert message in caplog.text


def test_what_the_job_came_to_is_kept_once_that_works_again(recorder: JobRecorder, told: list[str]) -> None:
    start(recorder)
    break_database(recorder)
    recorder.update(progress={"entries": 5})
    mend_database(recorder)
    recorder.undo_start(None)
    record = recorder.find()
    assert record is not None, "the record may be older than this run"
    assert record.progress == {}
    recorder.update(state=JobState.DONE)
    record = recorder.find()
    assert record is not None
    assert (record.state, len(told)) == ("done", 1)


def test_an_unusable_sent_log_is_told_as_well(recorder: JobRecorder, told: list[str], tmp_path: Path) -> None:
    (tmp_path / "state/jobs").write_text("")
    sent = recorder.sent_log(1, anew=False)
    sent.record(0, 0, 5)
    sent.record(0, 0, 5)
    recorder.remove_sent_log()
    assert sent.resent_bytes == 5
    assert len(told) == 1


@pytest.mark.parametrize("loss", ["broken database", "lost directory"])
def test_a_migration_goes_on_to_its_end(tmp_path: Path, loss: str) -> None:
    entries = {"default": numbered(2000)}
    source = write_store(tmp_path / "source", entries)
    options = kvbatch.MigrationOptions.checked(state_dir=tmp_path / "state")
    migration = kvbatch.Migration(str(source), str(tmp_path / "copy"), options)
    events = migration.events()
    if loss == "broken database":
        break_database(migration._recorder)
    else:
        shutil.rmtree(tmp_path / "state")
    assert migration.start().wait(60).entries == 2000
    warnings = [event.data["message"] for event in events if event.kind == "warning"]
    # SQLite goes on writing to files that are gone.
    assert [str(tmp_path / "state") in message for message in warnings] == [True] * (loss == "broken database")
    assert read_store(tmp_path / "copy") == entries


def test_the_record_is_that_of_its_job(recorder: JobRecorder, tmp_path: Path) -> None:
    start(recorder)
    recorder.update(progress={"entries": 5})
    assert [(record.job, record.progress) for record in StateStore(tmp_path / "state").jobs()] == [
        ("nightly", {"entries": 5})
    ]
    recorder.undo_start(None)
    assert recorder.find() is None


def test_the_events_of_a_job_become_its_history(recorder: JobRecorder, told: list[str], tmp_path: Path) -> None:
    bus = start(recorder)
    bus.publish("job", job="nightly", lane="batch", resumed=False)
    bus.publish("range", range=0, state="started")
    bus.publish("sample", entries=3, seconds=0.5)
    bus.publish("sample", entries=4, seconds=1.0)
    bus.publish("sample", entries=5, seconds=1.5)
    bus.publish("warning", message="mind the gap")
    recorder.update(state=JobState.DONE, progress={"entries": 6, "seconds": 1.6})
    bus.publish("done", state="done", entries=6)
    recorder.close()
    with_state = StateStore(tmp_path / "state")
    history = read_history(with_state, "nightly")
    assert [(sample.entries, sample.running) for sample in history.samples] == [(3, 0.5), (5, 1.5), (6, 1.6)]
    assert {event.kind for event in history.timeline} == {"job", "warning", "done"}
    assert history.ranges[0].completed is None
    record = with_state.find("nightly")
    assert record is not None
    assert record.progress["entries"] == 6, "an older sample never takes the place of the last figures"
    assert told == []


def test_options_are_there_as_soon_as_the_target_is_open(recorder: JobRecorder) -> None:
    start(recorder)
    record = recorder.find()
    assert record is not None
    assert record.options is None
    options = kvbatch.MigrationOptions.checked(key_range="61..62")
    recorder.note_opened(options, identity="theirs", fingerprint="f" * 32)
    record = recorder.find()
    assert record is not None
    assert record.options is not None
    assert (record.identity, record.options["key_range"], record.options["window"]) == ("theirs", "61..62", 0)


def test_a_history_that_cannot_be_kept_is_told_once_and_goes_on_later(
    recorder: JobRecorder, told: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("kvbatch.job_recorder._FLUSH_SECONDS", 0.01)
    monkeypatch.setattr("kvbatch.job_recorder._FLUSH_AFTER_FAILURE_SECONDS", 0.01)
    state = StateStore(tmp_path / "state")
    flush, failures = recorder._flush, 0

    def counted() -> bool:
        nonlocal failures
        try:
            return flush()
        except kvbatch.UsageError:
            failures += 1
            raise

    monkeypatch.setattr(recorder, "_flush", counted)
    bus = start(recorder)
    bus.publish("job", job="nightly")
    until(lambda: len(read_history(state, "nightly").timeline) == 1)
    break_database(recorder)
    for message in ("lost", "lost too"):
        bus.publish("warning", message=message)
        until(lambda: recorder._history._events == [])
        # Taken is not lost yet: whoever took it has failed once another failure was counted.
        before = failures
        until(lambda before=before: failures > before)
    mend_database(recorder)
    bus.publish("warning", message="kept")
    bus.publish("done", state="done")
    recorder.close()
    timeline = read_history(StateStore(tmp_path / "state"), "nightly").timeline
    assert {event.kind: event.data for event in timeline} == {
        "job": {"job": "nightly"},
        "warning": {"message": "kept"},
        "done": {"state": "done"},
    }
    assert len(timeline) == 3
    assert len(told) == 1


def test_a_migration_leaves_samples_ranges_and_options(tmp_path: Path) -> None:
    source = write_store(tmp_path / "source", {"default": numbered(2000)})
    migration = kvbatch.migrate(source, tmp_path / "copy", state_dir=tmp_path / "state", lane="batch", window=5)
    migration.wait(60)
    state = StateStore(tmp_path / "state")
    history = read_history(state, migration.job)
    assert history.samples[-1].entries == 2000
    assert [bool(times.started and times.completed) for times in history.ranges] == [True] * len(migration.plan.ranges)
    assert [event.kind for event in history.timeline] == ["job", "done"]
    # Asked for again it moves nothing, and the options stay those that it was done with.
    kvbatch.migrate(source, tmp_path / "copy", state_dir=tmp_path / "state", lane="batch", window=6).wait(60)
    record = state.find(migration.job)
    assert record is not None
    assert record.options is not None
    assert (record.options["window"], record.options["lane"]) == (5, "batch")
    assert read_history(state, migration.job).samples == history.samples
