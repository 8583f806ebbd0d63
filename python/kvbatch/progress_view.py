"""How a running migration or verification looks on stderr: bars, plain lines, or JSON events."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kvbatch.events import Event
from kvbatch.flow.settings import show_setting
from kvbatch.shell_words import show_text
from kvbatch.units import format_bytes, format_count, format_seconds

__all__ = ["ProgressMode", "follow", "print_event"]

ProgressMode = Literal["auto", "bar", "plain", "json", "none"]

_PLAIN_LINE_SECONDS = 5.0
# Wider bars tell nothing more.
_MAX_WIDTH = 110
# Lines of the terminal that are left to the total, the figures and what was said before.
_LINES_BESIDE_STREAMS = 8
# What was waited for less is not worth a word.
_SHARE_SHOWN = 0.01


# -- what is said of a sample; fields that a verification does not have are left out -----------------------------------


def _moved(sample: dict[str, Any]) -> list[str]:
    return [
        f"{format_count(sample['entries'])} entries",
        f"{format_bytes(sample['raw_bytes'])} of about {format_bytes(sample['estimated_bytes'])}",
    ]


def _speed(sample: dict[str, Any]) -> list[str]:
    parts = [f"{format_count(sample['entries_per_second'])}/s", f"{format_bytes(sample['bytes_per_second'])}/s"]
    if mean := sample["mean_bytes_per_second"]:
        parts.append(f"{format_bytes(mean)}/s mean")
    return parts


def _left(sample: dict[str, Any]) -> str:
    if sample["bytes_per_second"] <= 0:
        return ""
    remaining = max(0, sample["estimated_bytes"] - sample["raw_bytes"])
    return f"{format_seconds(remaining / sample['bytes_per_second'])} left"


def _wire(sample: dict[str, Any]) -> list[str]:
    parts = []
    if sample["batch_bytes"]:
        parts.append(f"batch {format_bytes(sample['batch_bytes'])}")
    if sample["window"]:
        parts.append(f"window {sample['window']}")
    if sample["round_trip_seconds"] is not None:
        parts.append(f"round trip {_latency(sample['round_trip_seconds'])}")
    if sample["apply_seconds"] is not None:
        parts.append(f"apply {_latency(sample['apply_seconds'])}")
    if sample["compression"] != "none":
        parts.append(f"{sample['compression']} {sample['compression_ratio']:.2f}")
    if sample["wire_bytes"]:
        limit = f" (limit {format_bytes(sample['rate_limit'])}/s)" if sample["rate_limit"] else ""
        parts.append(f"wire {format_bytes(sample['wire_bytes_per_second'])}/s{limit}")
    return parts


def _limits(sample: dict[str, Any]) -> list[str]:
    parts = [f"held back by {sample['throttle']}"] if sample["throttle"] else []
    seconds = max(sample["seconds"], 1e-6)
    waited = sorted(sample["throttled_seconds"].items(), key=lambda each: -each[1])
    noticed = [(reason, spent / seconds) for reason, spent in waited if spent > _SHARE_SHOWN * seconds]
    shares = [f"{reason} {100 * share:.0f} %" for reason, share in noticed]
    if shares:
        parts += [f"waited: {shares[0]}", *shares[1:]]
    if sample["bottleneck"]:
        parts.append(f"bottleneck {sample['bottleneck']}")
    return parts


def _line(sample: dict[str, Any]) -> str:
    held = [f"held back by {sample['throttle']}"] if sample["throttle"] else []
    parts = [*_moved(sample), *_speed(sample), _left(sample), *held]
    return ", ".join(part for part in parts if part)


def _latency(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else format_seconds(seconds)


def _packed(parts: Iterable[str], width: int) -> Iterator[Text]:
    """`parts` in as few lines as they take, none broken but where it is wider than a line by itself."""
    line = ""
    for part in parts:
        if line and len(line) + 2 + len(part) > width:
            yield Text(line, no_wrap=True, overflow="ellipsis")
            line = ""
        line = f"{line}, {part}" if line else part
    if line:
        yield Text(line, no_wrap=True, overflow="ellipsis")


def _message(event: Event) -> str | None:
    """The line that an event other than a sample deserves. What a check or a peer said in it moves no cursor."""
    line = _told(event)
    return None if line is None else show_text(line)


def _told(event: Event) -> str | None:
    data = event.data
    if event.kind == "job":
        what = "carrying on" if data["resumed"] else "starting"
        ranges = "1 range" if data["ranges"] == 1 else f"{data['ranges']} ranges"
        return f"job {data['job']}: {what}, {ranges} in the {data['lane']} lane"
    if event.kind == "state":
        return "paused" if data["state"] == "paused" else f"goes on: {data['state']}"
    if event.kind == "settings":
        return "set " + ", ".join(
            f"{name.replace('_', ' ')} to {show_setting(name, value)}" for name, value in data.items()
        )
    if event.kind == "retry":
        which = f"retry {data['retry']} of {data['retries']}"
        return f"attempt {data['attempt']} failed, {which} in {data['wait_seconds']:.1f} s: {data['error']}"
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
            line = _line(event.data)
        if line is not None:
            print(line, file=stream, flush=True)


class _Bars:
    """One bar for each stream and one for the total, with the figures below."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def _grid(self) -> Table:
        grid = Table.grid(padding=(0, 1), expand=True)
        for column in ("label", "percent", "bar", "amount", "note"):
            grid.add_column(column, no_wrap=True, ratio=1 if column == "bar" else None)
        return grid

    def _add(self, grid: Table, label: str, done: float, total: float, amount: str, note: str) -> None:
        share = min(1.0, done / total) if total > 0 else 0.0
        grid.add_row(label, f"{100 * share:>3.0f} %", ProgressBar(total=1.0, completed=share), Text(amount), Text(note))

    def of(self, sample: dict[str, Any]) -> RenderableType:
        width = min(_MAX_WIDTH, self._console.width)
        grid = self._grid()
        grid.width = width
        streams = sample["stream_progress"]
        shown = streams[: max(1, self._console.height - _LINES_BESIDE_STREAMS)]
        for stream in shown:
            moved, whole = stream["raw_bytes"], stream["estimated_bytes"]
            amount = f"{format_bytes(moved)} of {format_bytes(whole)}"
            note = stream["throttle"] or f"range {stream['range']}"
            self._add(grid, f"stream {stream['stream']}", moved, whole, amount, note)
        if len(shown) < len(streams):
            grid.add_row(f"{len(streams) - len(shown)} more", "", "", "", "")
        moved, whole = sample["raw_bytes"], sample["estimated_bytes"]
        amount = f"{format_bytes(moved)} of {format_bytes(whole)}"
        self._add(grid, "total", moved, whole, amount, _left(sample))
        entries = _moved(sample)[0]
        return Group(
            grid,
            *_packed([entries, *_speed(sample)], width),
            *_packed(_wire(sample), width),
            *_packed(_limits(sample), width),
        )

    def of_the_whole(self, entries: int) -> RenderableType:
        grid = self._grid()
        grid.width = min(_MAX_WIDTH, self._console.width)
        self._add(grid, "total", 1, 1, f"{format_count(entries)} entries", "")
        return grid


def _follow_bar(events: Iterable[Event], stream: TextIO) -> None:
    console = Console(file=stream)
    bars = _Bars(console)
    sampled = False
    # Drawn when there is something new, and not in between.
    with Live(console=console, auto_refresh=False) as live:
        for event in events:
            if (line := _message(event)) is not None:
                console.print(line, highlight=False, markup=False)
            if event.kind == "sample":
                sampled = True
                live.update(bars.of(event.data), refresh=True)
            elif event.kind == "done" and event.data["state"] == "done" and sampled:
                entries = event.data["entries" if "entries" in event.data else "entries_source"]
                live.update(bars.of_the_whole(entries), refresh=True)
    if sampled and not console.is_terminal:
        # What is said next begins a line.
        console.print()


def follow(events: Iterable[Event], mode: ProgressMode, stream: TextIO | None = None) -> None:
    """Shows events until `done`. `auto`: bars where stderr is a terminal, else a line every few seconds."""
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
