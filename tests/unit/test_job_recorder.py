"""A record that cannot be kept costs history, not data."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

import kvbatch
from kvbatch.job_recorder import JobRecorder
from kvbatch.state import JobState, StateStore
from support.stores import numbered, read_store, write_store


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def recorder(tmp_path: Path, told: list[str]) -> JobRecorder:
    return JobRecorder(tmp_path / "state", "nightly", told.append)


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
        recorder.start("/source", "/target", "f" * 32)
        assert recorder.find() is None
        recorder.sample({"entries": 5})
        recorder.update(state=JobState.DONE)
        recorder.forget()
    [message] = told
    for words in (str(tmp_path / "state"), "no such table", "goes on", "no data is lost"):
        assert words in message
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert message in caplog.text


def test_what_the_job_came_to_is_kept_once_that_works_again(recorder: JobRecorder, told: list[str]) -> None:
    recorder.start("/source", "/target", "f" * 32)
    break_database(recorder)
    recorder.sample({"entries": 5})
    mend_database(recorder)
    recorder.sample({"entries": 6})
    recorder.forget()
    record = recorder.find()
    assert record is not None, "the record may be older than this run"
    assert record.progress == {}, "samples are not tried again, each may wait for a locked database"
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
    recorder.start("/source", "/target", "f" * 32)
    recorder.sample({"entries": 5})
    assert [(record.job, record.progress) for record in StateStore(tmp_path / "state").jobs()] == [
        ("nightly", {"entries": 5})
    ]
    recorder.forget()
    assert recorder.find() is None
