"""How `kvbatch status` shows jobs: rows of a table, a line, or a table that is refreshed in place."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kvbatch.cli_output import print_table
from kvbatch.flow.settings import ADAPTING, show_setting
from kvbatch.job_status import JobStatus
from kvbatch.shell_words import show_text
from kvbatch.units import format_bytes, format_count, format_seconds

__all__ = ["fit", "job_line", "job_rows", "list_rows", "setting_rows", "show_job", "show_jobs", "watch"]

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_HEADER = ("job", "state", "done", "durable", "entries", "rate", "left", "throttle", "source", "target", "last error")
# What is cut in a list that is too wide for a terminal, to no less than this.
_MAY_BE_LONG = ("source", "target", "last error")
_LEAST_CUT = 8
_LEFT_OUT_FIRST = ("source", "target", "throttle", "left", "durable", "rate")
# What the list says itself, or what is of no use to people.
_SAID_ALREADY = ("state", "estimated_entries", "estimated_bytes", "ranges", "stream_progress", "throttle")
# What a run read and sent, of a job that nobody runs: it will be carried on from what is durable.
_OF_A_RUN = ("entries", "raw_bytes")
_STYLES = {"running": "green", "done": "green", "finishing": "green", "failed": "red", "interrupted": "red"}


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0f} %"


def _durable(status: JobStatus) -> str:
    """Where that is not what is done."""
    return _percent(status.durable_percent) if status.runs else ""


def _rate(status: JobStatus) -> str:
    if not status.entries_per_second:
        return ""
    entries = f"{format_count(status.entries_per_second)}/s"
    return f"{entries}, {format_bytes(status.bytes_per_second)}/s" if status.bytes_per_second else entries


def _left(status: JobStatus) -> str:
    if status.state == "done" or status.remaining_seconds is None:
        return ""
    return format_seconds(status.remaining_seconds)


def _one_line(text: str | None) -> str:
    return show_text(" ".join((text or "").split()))


def list_rows(jobs: Sequence[JobStatus]) -> list[tuple[str, ...]]:
    """A header and a row for each job."""
    rows: list[tuple[str, ...]] = [_HEADER]
    for status in jobs:
        rows.append(
            (
                status.job,
                status.state,
                _percent(status.percent),
                _durable(status),
                format_count(status.entries),
                _rate(status),
                _left(status),
                status.throttle or "",
                show_text(status.source),
                show_text(status.target),
                _one_line(status.error),
            )
        )
    return rows


def fit(rows: Sequence[tuple[str, ...]], width: int, gap: int = 2) -> list[tuple[str, ...]]:
    """The rows of a list in lines of so many cells, `gap` of them between two columns: without columns that are empty;
    where that is not enough without some that `kvbatch status JOB` has, and what may be long is cut. The job ids are
    whole: they are what one types next."""
    header, *jobs = rows
    widths = {
        name: max(cell_len(row[column]) for row in rows)
        for column, name in enumerate(header)
        if any(row[column] for row in jobs)
    }
    for name in _LEFT_OUT_FIRST:
        least = [min(each, _LEAST_CUT) if column in _MAY_BE_LONG else each for column, each in widths.items()]
        if sum(least) + gap * (len(widths) - 1) > width:
            widths.pop(name, None)
    long = [name for name in _MAY_BE_LONG if name in widths]
    for _ in range(sum(widths.values()) + gap * (len(widths) - 1) - width):
        widest = max(long, key=lambda name: widths[name], default=None)
        if widest is None or widths[widest] <= _LEAST_CUT:
            break
        widths[widest] -= 1
    columns = [(header.index(name), most) for name, most in widths.items()]
    return [tuple(_cut(row[column], most) for column, most in columns) for row in rows]


def _cut(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return text
    mark = _cut_mark()
    return set_cell_size(text, width - len(mark)).rstrip() + mark


def _cut_mark() -> str:
    try:
        "…".encode(sys.stdout.encoding or "utf-8")  # rich says none in a picture that it refreshes
        return "…"
    except UnicodeEncodeError:
        return "..."


def show_jobs(jobs: Sequence[JobStatus], state_dir: Path) -> None:
    if jobs:
        rows = list_rows(jobs)
        # In a pipe nothing is cut.
        print_table(fit(rows, shutil.get_terminal_size().columns) if sys.stdout.isatty() else rows)
    else:
        missing = "" if state_dir.exists() else ", which does not exist"
        print(f"no jobs in the state directory {state_dir}{missing}")


def job_line(status: JobStatus) -> str:
    """One job in one line, for who reads a log."""
    parts = [
        _percent(status.percent),
        f"{format_count(status.entries)} entries",
        f"{_durable(status)} durable" if _durable(status) else "",
        _rate(status),
        f"{_left(status)} left" if _left(status) else "",
        f"held back by {status.throttle}" if status.throttle else "",
        _one_line(status.error),
    ]
    time_now = datetime.now().astimezone().isoformat(timespec="seconds")
    return f"{time_now} job {status.job}: {status.state}, " + ", ".join(part for part in parts if part)


# -- one job ----------------------------------------------------------------------------------------------------------


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shown(name: str, value: Any) -> str:
    """A field of a progress, a summary or the settings, by its name, which says the unit."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(name, each)}" for key, each in value.items() if each)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if name == "rate_limit":
        return show_setting(name, value)
    if name.endswith("_bytes_per_second") or name == "bytes_per_second":
        return f"{format_bytes(value)}/s"
    if name.endswith("_bytes"):
        return format_bytes(value)
    if name.endswith("_per_second"):
        return f"{format_count(value)}/s"
    if name.endswith("seconds"):
        return f"{1000 * value:.3g} ms" if 0 < value < 1 else format_seconds(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def setting_rows(settings: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (f"setting {_words(name)}", value if isinstance(value, str) else show_setting(name, value))
        for name, value in settings.items()
    ]


def _stream_rows(streams: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    rows = []
    for each in streams:
        waits = f", waits for {each['throttle']}" if each.get("throttle") else ""
        moved = f"{format_bytes(each['raw_bytes'])} of about {format_bytes(each['estimated_bytes'])}"
        rows.append((f"stream {each['stream']}", f"range {each['range']}, {moved}{waits}"))
    return rows


def job_rows(status: JobStatus) -> list[tuple[str, str]]:
    """All there is of a job: name and value."""
    progress = status.progress
    of_ranges = f"{progress.get('ranges_complete', 0)} of {progress['ranges']} complete" if "ranges" in progress else ""
    estimated = f"{format_count(progress.get('estimated_entries') or 0)} entries, " + format_bytes(
        progress.get("estimated_bytes") or 0
    )
    rows = [
        ("job", status.job),
        ("state", status.state),
        ("process", "" if status.pid is None else str(status.pid)),
        ("source", status.source),
        ("target", status.target),
        ("begun", _time(status.created)),
        ("last word", _time(status.updated)),
        ("done", _percent(status.percent)),
        ("durable", _durable(status)),
        ("left", _left(status)),
        ("throttle", status.throttle or ""),
        ("whole, estimated", estimated if progress else ""),
        ("ranges", of_ranges),
    ]
    rows += [
        (_words(name), _shown(name, value))
        for name, value in progress.items()
        # What a setting of 0 leaves to kvbatch is 0 among the figures when no stream is at work.
        if value is not None
        and name not in (*_SAID_ALREADY, "ranges_complete")
        and (value or name not in ADAPTING)
        # It may have changed during the run: the ratio says what came of it.
        and (status.runs or name not in ("compression", *_OF_A_RUN))
        # Nothing is compressed: what was read is ahead of what was sent.
        and (name != "compression_ratio" or progress.get("compression") != "none")
    ]
    rows += _stream_rows(progress.get("stream_progress") or ())
    rows += setting_rows(status.settings or {})
    rows += [
        (f"summary {_words(name)}", _shown(name, value))
        for name, value in (status.summary or {}).items()
        if status.state == "done" and name not in ("job", "state")
    ]
    rows += [("last error", _one_line(status.error)), ("carry on with", status.carry_on_line)]
    return [(name, show_text(value)) for name, value in rows if value != ""]


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")


def show_job(status: JobStatus) -> None:
    print_table(job_rows(status))


# -- watching ---------------------------------------------------------------------------------------------------------


def _list_table(jobs: Sequence[JobStatus], width: int) -> Table:
    # The box takes three cells between two columns, and two at each end.
    header, *rows = fit(list_rows(jobs), width - 4, 3)
    table = Table(box=box.SIMPLE_HEAD)
    for column, title in enumerate(header):
        # The ids are whole on the narrowest of terminals, too.
        ids_width = max(cell_len(row[0]) for row in (header, *rows)) if column == 0 else None
        table.add_column(title, no_wrap=True, width=ids_width)
    for row in rows:
        name, state, *rest = (Text(text) for text in row)
        state.stylize(_STYLES.get(state.plain, "yellow"))
        table.add_row(name, state, *rest)
    return table


def _job_table(status: JobStatus) -> Table:
    table = Table(box=None, show_header=False)
    for name, value in job_rows(status):
        table.add_row(Text(name, style="bold"), Text(value))
    return table


def watch(read: Callable[[], list[JobStatus]], interval: float, *, one: bool) -> None:
    """Shows what `read` finds every `interval` seconds, in place on a terminal, else in lines, of several jobs those
    that run. One job is watched until no process runs it, several until a signal comes, which ends the process then."""
    # Taken between two looks, so that the terminal is left as it was found.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    number = _watch_in_place(read, interval, one) if sys.stdout.isatty() else _watch_in_lines(read, interval, one)
    if number is not None:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


def _wait(deadline: float) -> int | None:
    """The signal that came before it."""
    found = signal.sigtimedwait(_STOP_SIGNALS, max(0.0, deadline - time.monotonic()))
    return None if found is None else found.si_signo


def _watch_in_place(read: Callable[[], list[JobStatus]], interval: float, one: bool) -> int | None:
    console = Console()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            due = time.monotonic() + interval
            jobs = read()
            live.update(_job_table(jobs[0]) if one else _list_table(jobs, console.width), refresh=True)
            if one and not jobs[0].runs:
                return None
            if (number := _wait(due)) is not None:
                return number


def _watch_in_lines(read: Callable[[], list[JobStatus]], interval: float, one: bool) -> int | None:
    silent = False
    while True:
        due = time.monotonic() + interval
        jobs = read()
        was_silent, silent = silent, not one and not any(status.runs for status in jobs)
        if silent and not was_silent:
            print("no job runs; a job that does has a line here", file=sys.stderr, flush=True)
        for status in jobs:
            if one or status.runs:
                print(job_line(status), flush=True)
        if one and not jobs[0].runs:
            return None
        if (number := _wait(due)) is not None:
            return number
