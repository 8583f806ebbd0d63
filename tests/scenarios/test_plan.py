"""A plan says what the same migrate would find, ends as it would end, and touches nothing."""

from __future__ import annotations

import json
import logging
import socket
from pathlib import Path
from typing import Any

import pytest

import kvbatch
from kvbatch.state import job_lock
from support.places import Place
from support.stores import kvbatch as run_kvbatch
from support.stores import numbered, read_store, tree, write_store
from support.targets import settle

ENTRIES = {"default": numbered(200), "large": {b"large": bytes(20 << 20)}, "other": numbered(50)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_store(tmp_path / "source", ENTRIES)


def planned(*arguments: object) -> dict[str, Any]:
    """`kvbatch plan` and `migrate --dry-run` say the same; what of the target."""
    plans = [
        run_kvbatch(*command, *arguments, "--json", "--state-dir", "state")
        for command in (["plan"], ["migrate", "--dry-run"])
    ]
    assert [plan.returncode for plan in plans] == [0, 0], plans
    said: list[dict[str, Any]] = [json.loads(plan.stdout) for plan in plans]
    measured = [each.pop("estimated_seconds") for each in said]
    assert said[0] == said[1]
    state: dict[str, Any] = said[0]["target_state"]
    assert all((seconds == 0) == (state["kind"] == "finished") for seconds in measured)
    return state


def test_from_nothing_to_the_finished_copy(
    source: Path, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    assert planned(source, place.endpoint()) == {
        "kind": "empty", "ranges_complete": 0, "ranges": 0, "lane": "", "message": "nothing that could be overwritten",
    }  # fmt: skip
    assert tree(tmp_path) == before, "no state directory either"

    migration = kvbatch.migrate(source, place.endpoint(), state_dir="state", max_memory="16MiB", streams=1)
    complete = [event for event in migration.events() if event.data.get("state") == "complete"]
    with pytest.raises(kvbatch.SourceError):
        migration.wait()
    settle()
    before = tree(place.root)
    assert planned(source, place.endpoint()) == {
        "kind": "resumable", "ranges_complete": len(complete), "ranges": 3, "lane": "batch",
        "message": f"resumes, {len(complete)} of 3 ranges complete",
    }  # fmt: skip
    assert tree(place.root) == before

    kvbatch.migrate(source, place.endpoint(), state_dir="state").wait()
    before = tree(place.root)
    state = planned(source, place.endpoint())
    assert (state["kind"], state["lane"]) == ("finished", "batch")
    assert state["message"].startswith("finished before: nothing will be moved; compared by its identity")
    stranger = run_kvbatch("plan", source, place.endpoint(), "--state-dir", "elsewhere")
    assert (stranger.returncode, stranger.stdout) == (4, "")
    assert tree(place.root) == before
    assert read_store(place.path()) == ENTRIES


@pytest.mark.parametrize("lane", ["auto", "files", "sst", "batch"])
def test_a_finished_job_that_is_run_again_is_trouble_for_nobody(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture, lane: str
) -> None:
    """Nothing is wrong then: the receiver has nothing to warn of."""
    source = write_store(tmp_path / "source", {"default": numbered(5000)})
    options: dict[str, Any] = {"lane": lane, "state_dir": tmp_path / "state"}
    kvbatch.migrate(source, place.endpoint(), **options).wait()
    kvbatch.plan(source, place.endpoint(), **options)
    assert kvbatch.migrate(source, place.endpoint(), **options).wait().finished_before
    settle()
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_target_with_other_data_is_refused_as_migrate_would_be(source: Path, place: Place) -> None:
    place.root.mkdir(exist_ok=True)
    write_store(place.path(), {"default": {b"mine": b"1"}})
    before = tree(place.root)
    outcomes = [
        run_kvbatch(*command, source, place.endpoint()) for command in (["plan"], ["migrate", "--dry-run"], ["migrate"])
    ]
    assert [(done.returncode, done.stdout) for done in outcomes] == [(4, "")] * 3
    assert outcomes[0].stderr == outcomes[1].stderr == outcomes[2].stderr
    assert "--allow-nonempty" in outcomes[0].stderr
    state = planned(source, place.endpoint(), "--allow-nonempty")
    assert (state["kind"], state["message"]) == ("nonempty", "holds other data; its other keys stay (--allow-nonempty)")
    assert tree(place.root) == before


def test_a_refusal_keeps_no_store_open(source: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "target", {"default": {b"mine": b"1"}})
    with pytest.raises(kvbatch.RefusedError) as refused:
        kvbatch.plan(source, tmp_path / "target")
    kvbatch.migrate(source, tmp_path / "target", allow_nonempty=True).wait()
    assert "already holds data" in str(refused.value)


def test_without_an_answer_from_a_receiver_there_is_a_plan_too(source: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    state = planned(source, f"kvbatch://127.0.0.1:{port}/copy")
    refused = f"connect to 127.0.0.1:{port}: Connection refused. Start the receiver there, or correct host and port"
    assert (state["kind"], state["message"]) == ("unknown", f"unknown: {refused}")
    shown = run_kvbatch("plan", source, f"kvbatch://127.0.0.1:{port}/copy").stdout
    assert f"found there      unknown: {refused}\n" in shown


def test_a_migration_has_a_plan_without_a_look_at_its_target(source: Path, tmp_path: Path) -> None:
    migration = kvbatch.migrate(source, tmp_path / "target")
    migration.wait()
    assert migration.plan.target_state is None
    assert migration.plan.to_json()["target_state"] is None


def test_streams_that_are_not_known_yet(place: Place, tmp_path: Path) -> None:
    entries = {"default": numbered(5000)}
    source = write_store(tmp_path / "source", entries)
    options: dict[str, Any] = {
        "lane": "batch", "streams": "auto", "range_bytes": "16KiB", "state_dir": tmp_path / "state",
    }  # fmt: skip
    plan = kvbatch.plan(source, place.endpoint(), **options)
    assert len(plan.ranges) > 1
    assert plan.streams >= 1
    assert plan.estimated_seconds is not None
    assert plan.estimated_seconds > 0

    assert kvbatch.migrate(source, place.endpoint(), **options).wait().entries == len(entries["default"])
    settle()
    assert read_store(place.path()) == entries


def test_a_job_that_another_process_runs_is_refused_as_migrate_is(source: Path, place: Place, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    options: dict[str, Any] = {"state_dir": state_dir, "job": "nightly"}
    with job_lock(state_dir, "nightly"):
        with pytest.raises(kvbatch.RefusedError) as planned:
            kvbatch.plan(source, place.endpoint(), **options)
        with pytest.raises(kvbatch.RefusedError) as migrated:
            kvbatch.migrate(source, place.endpoint(), **options).wait(60)
    assert str(planned.value) == str(migrated.value)
    assert "job nightly is being run by another process" in str(planned.value)
    assert kvbatch.plan(source, place.endpoint(), **options).target_state is not None


def test_names_that_a_terminal_would_obey_are_shown_on_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    entries = numbered(3)
    write_store(tmp_path / "odd", {"default": {}, "a\x1b[31mRED": entries, "new\nline": entries, "": entries})
    plan = run_kvbatch("plan", "odd", "copy")
    assert r'"default", "a\x1b[31mRED", "new\x0aline", ""' in plan.stdout
    refused = run_kvbatch("plan", "odd", "copy", "--cf", "\x1b[2J")
    assert refused.returncode == 2
    assert r"\x1b[2J" in refused.stderr
    assert "\x1b" not in plan.stdout + refused.stderr
