"""docs/events.md is the schema of the events: its tables are read here, and real lines held against them."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import BaseModel, ConfigDict, StrictBool, StrictFloat, StrictInt, StrictStr, create_model

import kvbatch
from kvbatch.events import Event, EventKind, Progress, StreamProgress, Summary
from kvbatch.flow.throttle import ThrottleReason
from support.forked import Forked
from support.link import Hold, Link, data_frame
from support.stores import kvbatch as run_kvbatch
from support.stores import numbered, write_store

PAGE = (Path(__file__).parents[2] / "docs/events.md").read_text()
WAIT_SECONDS = 60

TYPES: dict[str, Any] = {
    "string": StrictStr,
    "integer": StrictInt,
    "number": StrictInt | StrictFloat,
    "boolean": StrictBool,
    "object": dict[str, StrictInt | StrictFloat],
}


def section(heading: str) -> str:
    return re.split(r"^#", PAGE.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def table(heading: str) -> dict[str, str]:
    """The fields under a heading with their types."""
    return dict(re.findall(r"^\| `(\w+)` \| ([a-z ]+) \|", section(heading), flags=re.MULTILINE))


def type_of(text: str) -> Any:
    base = text.removesuffix(" or null")
    known = list[model("stream_progress", envelope=False)] if base == "list" else TYPES[base]  # type: ignore[misc]
    return known | None if base != text else known


def model(heading: str, *, envelope: bool = True, partial: bool = False) -> type[BaseModel]:
    """What a line must be: all the fields, each of its type, and no other."""
    fields: dict[str, Any] = {name: (type_of(text), None if partial else ...) for name, text in table(heading).items()}
    if envelope:
        fields |= {"event": (StrictStr, ...), "time": (StrictInt | StrictFloat, ...)}
    assert fields
    return create_model(heading, __config__=ConfigDict(extra="forbid"), **fields)


def model_of(line: dict[str, Any]) -> type[BaseModel]:
    kind = line["event"]
    if kind == "done":
        return model("done: finished" if line["state"] == "done" else "done: stopped or failed")
    return model(kind, partial=kind == "settings")


def check(lines: str) -> list[dict[str, Any]]:
    """Raises ValidationError for a line that is not as the page says."""
    events: list[dict[str, Any]] = [json.loads(line) for line in lines.splitlines()]
    for event in events:
        model_of(event).model_validate(event)
    return events


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_store(tmp_path / "source", {"default": numbered(20_000)})


def test_there_is_a_section_for_each_kind_and_no_other() -> None:
    assert tuple(re.findall(r"^## (\w+)$", PAGE, flags=re.MULTILINE)) == get_args(EventKind)
    assert {kind for kind in get_args(EventKind) if kind != "done" and not table(kind)} == set()


JSON_NAMES = {int: "integer", float: "number", str: "string", bool: "boolean", dict[str, float]: "object"}


@pytest.mark.parametrize(
    ("heading", "fields"), [("sample", Progress), ("stream_progress", StreamProgress), ("done: finished", Summary)]
)
def test_a_table_has_the_fields_of_its_class_with_their_types(heading: str, fields: type) -> None:
    def named(hint: Any) -> str:
        if hint in JSON_NAMES:
            return JSON_NAMES[hint]
        options = [each for each in get_args(hint) if each is not type(None)]
        return f"{JSON_NAMES[options[0]]} or null" if options[0] in JSON_NAMES else "list"

    assert table(heading) == {name: named(hint) for name, hint in get_type_hints(fields).items()}


def test_every_throttle_reason_is_named() -> None:
    named = re.findall(r"`([a-z-]+)`", section("throttle").partition("reasons:")[2].partition("\n\n")[0])
    assert named == [str(reason) for reason in ThrottleReason]


def test_the_settings_are_those_that_can_be_changed() -> None:
    settings = pytest.importorskip("kvbatch.flow.settings")
    assert list(table("settings")) == [field.name for field in dataclasses.fields(settings.JobSettings)]


def test_the_events_of_a_migration_are_as_documented(source: Path, receiver: kvbatch.Receiver, tmp_path: Path) -> None:
    hold = Hold(data_frame(3))
    with Link(receiver.port, hold) as link:
        command = ["migrate", source, f"kvbatch://127.0.0.1:{link.port}/copy", "--progress", "json"]
        options = ["--lane", "batch", "--batch-size", "16KiB"]
        with Forked(
            ["-m", "kvbatch", *command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as running:
            assert running.stderr is not None
            lines = ""
            for line in running.stderr:
                lines += line
                if '"event": "sample"' in line:
                    hold.release.set()
            assert running.wait(WAIT_SECONDS) == 0, lines
    events = check(lines)
    assert {"job", "range", "sample", "done"} <= set(kinds(events))
    assert kinds(events)[-1] == "done"


def test_the_events_of_a_job_that_was_finished_before_are_as_documented(source: Path, tmp_path: Path) -> None:
    command = ["migrate", source, tmp_path / "copy", "--progress", "json"]
    assert run_kvbatch(*command).returncode == 0
    events = check(run_kvbatch(*command).stderr)
    assert kinds(events) == ["warning", "done"]
    assert events[-1]["finished_before"] is True


def test_the_events_of_a_job_that_cannot_be_done_are_as_documented(source: Path, tmp_path: Path) -> None:
    with kvbatch.serve(tmp_path / "received") as receiver:
        port = receiver.port
    done = run_kvbatch("migrate", source, f"kvbatch://127.0.0.1:{port}/copy", "--retries", 2, "--progress", "json")
    events = check(done.stderr)
    assert done.returncode == 75
    assert kinds(events) == ["retry", "retry", "done", "error"]
    assert [event["attempt"] for event in events[:2]] == [1, 2]
    assert events[-1]["command"].startswith("kvbatch migrate ")


@pytest.mark.parametrize(
    "event",
    [
        Event("state", 1.0, {"state": "paused"}),
        Event("settings", 1.0, {"rate_limit": 0, "compression": "lz4"}),
        Event("throttle", 1.0, {"reason": None}),
        Event("throttle", 1.0, {"reason": ThrottleReason.TARGET_STALL}),
        Event("sample", 1.0, dataclasses.asdict(Progress(stream_progress=(StreamProgress(0, 3, 5, 9, "window"),)))),
    ],
    ids=lambda event: event.kind,
)
def test_events_of_the_other_kinds_fit(event: Event) -> None:
    check(json.dumps(event.to_json()))


@pytest.mark.parametrize(
    "line",
    [
        {"event": "range", "time": 1.0, "range": 3},
        {"event": "range", "time": 1.0, "range": "3", "state": "complete"},
        {"event": "range", "time": 1.0, "range": 3, "state": "complete", "stream": 1},
        {"event": "warning", "message": "no time"},
    ],
)
def test_the_check_finds_what_is_not_documented(line: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        check(json.dumps(line))
