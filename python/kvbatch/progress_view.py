"""How a running migration or verification looks on stderr: a bar, plain lines, or JSON events."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from typing import Any, Literal, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn
from rich.text import Text

from kvbatch.events import Event
from kvbatch.units import format_bytes, format_count, format_seconds

__all__ = ["ProgressMode", "follow", "print_event"]

ProgressMode = Literal["auto", "bar", "plain", "json", "none"]

_PLAIN_LINE_SECONDS = 5.0


def _figures(sample: dict[str, Any]) -> str:
    rate = f"{format_count(sample['entries_per_second'])}/s, {format_bytes(sample['bytes_per_second'])}/s"
    remaining = sample["estimated_bytes"] - sample["raw_bytes"]
    eta = f", {format_seconds(remaining / sample['bytes_per_second'])} left" if sample["bytes_per_second"] > 0 else ""
    return (
        f"{format_count(sample['entries'])} entries, {format_bytes(sample['raw_bytes'])} of about "
        f"{format_bytes(sample['estimated_bytes'])}, {rate}{eta}"
    )


class _Figures(ProgressColumn):
    def render(self, task: Any) -> Text:
        return Text(str(task.fields.get("figures", "")))


def _message(event: Event) -> str | None:
    """The line that an event other than a sample deserves."""
    data = event.data
    if event.kind == "job":
        what = "carrying on" if data["resumed"] else "starting"
        return f"job {data['job']}: {what}, {data['ranges']} ranges in the {data['lane']} lane"
    if event.kind == "retry":
        return f"attempt {data['attempt']} failed, the next in {data['wait_seconds']:.1f} s: {data['error']}"
    if event.kind == "warning":
        return str(data["message"])
    return None


def print_event(event: Event, stream: TextIO | None = None) -> None:
    print(json.dumps(event.to_json()), file=stream or sys.stderr, flush=True)


def _follow_json(events: Iterable[Event], stream: TextIO) -> None:
    for event in events:
        print_event(event, stream)


def _follow_plain(events: Iterable[Event], stream: TextIO) -> None:
    due = time.monotonic() + _PLAIN_LINE_SECONDS
    for event in events:
        line = _message(event)
        if event.kind == "sample" and time.monotonic() >= due:
            due = time.monotonic() + _PLAIN_LINE_SECONDS
            line = _figures(event.data)
        if line is not None:
            print(line, file=stream, flush=True)


def _follow_bar(events: Iterable[Event], stream: TextIO) -> None:
    console = Console(file=stream)
    with Progress(
        TextColumn("{task.percentage:>3.0f} %"), BarColumn(), _Figures(), console=console, transient=False
    ) as progress:
        task: TaskID | None = None
        for event in events:
            if (line := _message(event)) is not None:
                progress.console.print(line, highlight=False)
            if event.kind == "sample":
                if task is None:
                    task = progress.add_task("")
                progress.update(
                    task,
                    total=event.data["estimated_bytes"],
                    completed=event.data["raw_bytes"],
                    figures=_figures(event.data),
                )
        if task is not None and event.data.get("state") == "done":
            entries = event.data["entries" if "entries" in event.data else "entries_source"]
            progress.update(task, total=1, completed=1, figures=f"{format_count(entries)} entries")


def follow(events: Iterable[Event], mode: ProgressMode, stream: TextIO | None = None) -> None:
    """Shows events until `done`. `auto`: a bar where stderr is a terminal, else a line every few seconds."""
    stream = stream or sys.stderr
    if mode == "auto":
        mode = "bar" if stream.isatty() else "plain"
    if mode == "json":
        _follow_json(events, stream)
    elif mode == "plain":
        _follow_plain(events, stream)
    elif mode == "bar":
        _follow_bar(events, stream)
    else:
        for _ in events:
            pass
