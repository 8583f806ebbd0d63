"""What a verify found stays with the job, where there is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import kvbatch
from kvbatch.state import StateStore, find_job
from support.stores import kvbatch as run_kvbatch
from support.stores import numbered, write_store


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_store(tmp_path / "source", {"default": numbered(500), "meta": numbered(50)})


def kept(state: Path, job: str) -> dict[str, Any] | None:
    record = find_job(state, job)
    assert record is not None
    return record.verification


def migrate(source: Path, target: Path, state: Path, **options: Any) -> str:
    return kvbatch.migrate(source, target, state_dir=state, **options).wait(60).job


def test_a_verify_is_kept_for_the_job_of_its_source_and_target(source: Path, tmp_path: Path) -> None:
    state, copy = tmp_path / "state", tmp_path / "copy"
    job = migrate(source, copy, state)
    other = migrate(source, tmp_path / "other", state)
    report = kvbatch.verify(source, copy, state_dir=state)
    verification = kept(state, job)
    assert verification is not None
    assert {name: verification[name] for name in report.to_json()} == report.to_json()
    assert (verification["column_families"], verification["key_range"]) == ([], "..")
    assert verification["time"] > 0
    assert kept(state, other) is None


def test_the_newest_verify_counts_and_differing_keys_are_cut(source: Path, tmp_path: Path) -> None:
    state, copy = tmp_path / "state", tmp_path / "copy"
    job = migrate(source, copy, state)
    changed = write_store(
        tmp_path / "changed", {"default": {**numbered(500), b"k" * 5000: b"more"}, "meta": numbered(50)}
    )
    changed.rename(tmp_path / "moved")
    (tmp_path / "copy").rename(tmp_path / "good")
    (tmp_path / "moved").rename(copy)
    done = run_kvbatch("verify", source, copy, "--state-dir", state, "--json")
    assert done.returncode == 3, done.stderr
    assert len(json.loads(done.stdout)["samples"][0]["key"]) == 10_000
    verification = kept(state, job)
    assert verification is not None
    assert (verification["equal"], verification["keys_extra"]) == (False, 1)
    assert verification["samples"][0]["key"] == "6b" * 128


def test_of_several_jobs_that_of_the_same_selection_gets_it(source: Path, tmp_path: Path) -> None:
    state, copy = tmp_path / "state", tmp_path / "copy"
    first = migrate(source, copy, state, column_families=("default",))
    second = migrate(source, copy, state, column_families=("meta",), allow_nonempty=True)
    kvbatch.verify(source, copy, state_dir=state, column_families=("default",))
    assert (kept(state, first) is not None, kept(state, second)) == (True, None)
    kvbatch.verify(source, copy, state_dir=state)
    verification = kept(state, second)
    assert verification is not None
    assert verification["column_families"] == [], "of no job's selection: the newest one's"


def test_without_a_job_nothing_is_kept_and_no_directory_is_made(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    job = migrate(source, copy, tmp_path / "state")
    kvbatch.verify(source, copy, state_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    StateStore(tmp_path / "empty").close()
    kvbatch.verify(source, copy, state_dir=tmp_path / "empty")
    assert find_job(tmp_path / "empty", job) is None


@pytest.mark.parametrize("progress", ["json", "plain", "none"])
def test_a_broken_state_directory_is_told_and_changes_no_result(source: Path, tmp_path: Path, progress: str) -> None:
    copy = tmp_path / "copy"
    migrate(source, copy, tmp_path / "state")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "kvbatch.sqlite3").write_bytes(b"this is no database" * 100)
    done = run_kvbatch("verify", source, copy, "--state-dir", broken, "--json", "--progress", progress)
    assert (done.returncode, json.loads(done.stdout)["equal"]) == (0, True)
    assert done.stderr.count("will not show this verify") == 1
    if progress == "json":
        assert [json.loads(line)["event"] for line in done.stderr.splitlines()][-2:] == ["warning", "done"]
