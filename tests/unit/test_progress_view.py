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

from kvbatch.events import Event, Progress, StreamProgress, Summary
from kvbatch.flow.throttle import ThrottleReason
from kvbatch.progress_view import ProgressMode, follow
from support.watched_job import RUNNING

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
    Event("retry", 2.5, {"attempt": 3, "retry": 1, "retries": 8, "wait_seconds": 0.2, "error": "the cable fell out"}),
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
    assert "attempt 3 failed, retry 1 of 8 in 0.2 s: the cable fell out" in text
    assert "the cable fell out" in text
    assert "mind the gap" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("mode", ["plain", "bar"])
def test_what_others_say_moves_no_cursor(mode: ProgressMode) -> None:
    warning = Event("warning", 3.0, {"message": "check failed: \x1b[31m\x1b]0;own\x07\nnext"})
    assert r"check failed: \x1b[31m\x1b]0;own\x07\x0anext" in shown(mode, [warning, EVENTS[-1]])


def test_bars_in_a_pipe_end_their_line() -> None:
    assert shown("bar", FAILED).endswith("\n")


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


def drawn(events: list[Event], monkeypatch: pytest.MonkeyPatch, width: int = 80, height: int = 24) -> str:
    """Everything that a terminal of this size was sent."""
    for name, value in {"TERM": "xterm-256color", "COLUMNS": str(width), "LINES": str(height)}.items():
        monkeypatch.setenv(name, value)
    return shown("bar", events, Terminal())


def without_escapes(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def rows(text: str) -> list[str]:
    return re.split(r"[\r\n]+", without_escapes(text))


@pytest.mark.parametrize(
    ("mode", "events"), [("bar", EVENTS), ("auto", EVENTS), ("bar", VERIFIED)], ids=["bar", "auto", "verify"]
)
def test_on_a_terminal_there_is_a_bar_with_percentage_and_figures(
    mode: ProgressMode, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    ours, theirs = pty.openpty()
    written = b""

    def read() -> None:
        nonlocal written
        # The end of a terminal is an error, not an empty read.
        with contextlib.suppress(OSError):
            while True:
                written += os.read(ours, 1 << 16)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(theirs, "w") as stream:
        follow(events, mode, stream)
    reader.join(20)
    os.close(ours)
    text = without_escapes(written.decode())
    assert re.search(r"total +50 % ━+[^\n]* 100 MiB of 200 MiB 2\.0 s left", text)
    assert "1.25 M entries, 500 k/s, 50 MiB/s" in text
    assert re.search(r"total +100 % ━+ 2\.5 M entries", text)
    assert ("nightly: starting" in text) == (events is EVENTS)
    assert "window" not in text, "nothing is said of what is not known"


def test_a_bar_for_each_stream_and_what_limits_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = Event("sample", 1.0, dataclasses.asdict(dataclasses.replace(RUNNING, mean_bytes_per_second=40 << 20)))
    lines = [line.strip() for line in rows(drawn([sample, FAILED[-1]], monkeypatch))]
    assert any(re.fullmatch(r"stream 0 +36 % ━+.* 10 MiB of 28 MiB +rate-limit", line) for line in lines)
    assert any(re.fullmatch(r"stream 1 +75 % ━+.* 21 MiB of 28 MiB +range 4", line) for line in lines)
    assert "1.25 M entries, 500 k/s, 50 MiB/s, 40 MiB/s mean" in lines
    assert "batch 2 MiB, window 16, round trip 1.2 ms, apply 4 ms, lz4 2.50" in lines
    assert "wire 20 MiB/s (limit 20 MiB/s)" in lines
    assert "held back by rate-limit, waited: rate-limit 60 %, window 5 %, bottleneck network" in lines


WORST = dataclasses.replace(
    RUNNING,
    raw_bytes=1000 << 30,
    estimated_bytes=1023 << 40,
    wire_bytes_per_second=1023.4 * (1 << 20),
    rate_limit=1023 << 20,
    seconds=20.0,
    throttle="source-read-rate",
    throttled_seconds={str(reason): 2.5 for reason in ThrottleReason},
    stream_progress=tuple(
        StreamProgress(stream, 9000 + stream, (900 + stream) << 20, 1023 << 20, "source-read-rate")
        for stream in range(64)
    ),
)


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("progress", [RUNNING, WORST, Progress()], ids=["usual", "worst", "nothing known"])
def test_nothing_is_wider_or_higher_than_the_terminal(
    width: int, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = drawn([Event("sample", 1.0, dataclasses.asdict(progress)), FAILED[-1]], monkeypatch, width)
    assert max(map(len, rows(text))) <= width
    assert "…" not in text
    # What is drawn first; every further drawing goes up by as many lines.
    assert text.partition("\r")[0].count("\n") < 24


def test_streams_that_do_not_fit_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = rows(drawn([Event("sample", 1.0, dataclasses.asdict(WORST)), FAILED[-1]], monkeypatch))
    bars = {line.split()[1] for line in lines if line.startswith("stream ")}
    assert f"{64 - len(bars)} more" in [line.strip() for line in lines]


def test_colours_only_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    colour = re.compile(r"\x1b\[(3[0-9]|38;|9[0-9])[0-9;]*m")
    assert colour.search(drawn(EVENTS, monkeypatch))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colour.search(drawn(EVENTS, monkeypatch))


def test_messages_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    warning = Event("warning", 1.0, {"message": "file [bold]000012.sst[/bold]"})
    assert "file [bold]000012.sst[/bold]" in drawn([warning, FAILED[-1]], monkeypatch)


def test_plain_lines_name_what_holds_the_job_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvbatch.progress_view._PLAIN_LINE_SECONDS", 0.0)
    sample = Event("sample", 2.0, dataclasses.asdict(RUNNING))
    assert f"{FIGURES}, held back by rate-limit" in shown("plain", [sample, FAILED[-1]]).splitlines()


def test_what_an_operator_changed_is_told() -> None:
    changes = [
        Event("state", 1.0, {"state": "paused"}),
        Event("settings", 1.5, {"rate_limit": 20 << 20, "streams": 2}),
        Event("settings", 1.6, {"rate_limit": 0, "batch_bytes": 0}),
        Event("state", 2.0, {"state": "running"}),
    ]
    told = [
        "paused",
        "set rate limit to 20 MiB/s, streams to 2",
        "set rate limit to none, batch bytes to auto",
        "goes on: running",
    ]
    assert shown("plain", [*changes, FAILED[-1]]).splitlines() == told
