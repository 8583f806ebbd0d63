from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pty
import re
import threading
from collections.abc import Iterator

import pytest

from kvbatch.events import Event, Progress, Summary
from kvbatch.progress_view import ProgressMode, follow

SAMPLE = dataclasses.asdict(
    Progress(
        entries=1_250_000, raw_bytes=100 << 20, estimated_bytes=200 << 20, entries_per_second=500_000,
        bytes_per_second=50 << 20, seconds=2.0, ranges=7,
    )
)  # fmt: skip
SUMMARY = dataclasses.asdict(
    Summary("nightly", "done", "batch", "why", 2_500_000, 200 << 20, 0, 4.0, 625_000.0, 9, False, 0, 0.0, 1 << 20, 7)
)
JOB = {"job": "nightly", "lane": "batch", "lane_reason": "why", "ranges": 7, "resumed": False}
EVENTS = [
    Event("job", 1.0, JOB),
    Event("range", 1.1, {"range": 0, "state": "started"}),
    Event("sample", 2.0, SAMPLE),
    Event("retry", 2.5, {"attempt": 1, "wait_seconds": 0.2, "error": "the cable fell out"}),
    Event("warning", 3.0, {"message": "mind the gap"}),
    Event("done", 4.0, SUMMARY),
]
VERIFIED = [EVENTS[2], Event("done", 4.0, {"state": "done", "equal": True, "entries_source": 2_500_000})]
FAILED = [*EVENTS[:4], Event("done", 4.0, {"state": "stopped", "error": "told to"})]
FIGURES = "1.25 M entries, 100 MiB of about 200 MiB, 500 k/s, 50 MiB/s, 2.0 s left"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(mode: ProgressMode, events: list[Event], stream: io.StringIO | None = None) -> str:
    stream = stream or io.StringIO()
    follow(events, mode, stream)
    return stream.getvalue()


def test_json_is_one_event_a_line() -> None:
    lines = shown("json", EVENTS).splitlines()
    assert [json.loads(line) for line in lines] == json.loads(json.dumps([event.to_json() for event in EVENTS]))


@pytest.mark.parametrize("mode", ["plain", "auto"])
def test_plain_lines_tell_of_what_is_not_routine(mode: ProgressMode) -> None:
    text = shown(mode, EVENTS)
    assert text.splitlines()[0] == "job nightly: starting, 7 ranges in the batch lane"
    assert "attempt 1 failed" in text
    assert "the cable fell out" in text
    assert "mind the gap" in text
    assert "\x1b" not in text


def test_plain_lines_show_figures_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvbatch.progress_view._PLAIN_LINE_SECONDS", 0.0)
    assert FIGURES in shown("plain", EVENTS).splitlines()
    monkeypatch.setattr("kvbatch.progress_view._PLAIN_LINE_SECONDS", 1000.0)
    assert FIGURES not in shown("plain", EVENTS)


def test_a_resumed_job_says_so() -> None:
    assert "nightly: carrying on, 7 ranges" in shown("plain", [Event("job", 1.0, {**JOB, "resumed": True}), EVENTS[-1]])


def test_none_is_silent() -> None:
    assert shown("none", EVENTS) == ""


@pytest.mark.parametrize("events", [EVENTS, FAILED, VERIFIED, EVENTS[-1:], FAILED[-1:], VERIFIED[-1:]])
@pytest.mark.parametrize("mode", ["bar", "plain", "json", "none"])
def test_every_view_ends_with_the_last_event(mode: ProgressMode, events: list[Event]) -> None:
    def endless() -> Iterator[Event]:
        yield from events

    stream = io.StringIO()
    follow(endless(), mode, stream)


def test_before_anything_is_known_there_is_no_division_by_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvbatch.progress_view._PLAIN_LINE_SECONDS", 0.0)
    first = Event("sample", 1.0, dataclasses.asdict(Progress()))
    assert "0 entries, 0 B of about 0 B" in shown("plain", [first, EVENTS[-1]])
    assert "%" in shown("bar", [first, EVENTS[-1]], Terminal())


@pytest.mark.parametrize(
    ("mode", "events"), [("bar", EVENTS), ("auto", EVENTS), ("bar", VERIFIED)], ids=["bar", "auto", "verify"]
)
def test_on_a_terminal_there_is_a_bar_with_percentage_and_figures(
    mode: ProgressMode, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    ours, theirs = pty.openpty()
    written = b""
    grown = threading.Condition()

    def text() -> str:
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.decode(errors="replace"))

    def read() -> None:
        nonlocal written
        # The end of a terminal is an error, not an empty read.
        with contextlib.suppress(OSError):
            while True:
                more = os.read(ours, 1 << 16)
                with grown:
                    written += more
                    grown.notify()

    def watched() -> Iterator[Event]:
        """As slow as whoever watches: the figures are drawn a few times a second."""
        for event in events:
            yield event
            if event.kind == "sample":
                with grown:
                    assert grown.wait_for(lambda: FIGURES in text(), timeout=20), text()

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(theirs, "w") as stream:
        follow(watched(), mode, stream)
    reader.join(20)
    os.close(ours)
    assert re.search(rf" 50 % ━+.*{re.escape(FIGURES)}", text())
    assert re.search(r"100 % ━+ 2\.5 M entries", text())
    assert ("nightly: starting" in text()) == (events is EVENTS)
