"""A job as one self-contained HTML page. docs/report.md has the page."""

from __future__ import annotations

import dataclasses
import os
import re
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

from kvbatch.errors import UsageError
from kvbatch.events import Progress
from kvbatch.flow.settings import SETTING_NAMES, show_setting
from kvbatch.job_status import unknown_job
from kvbatch.lane_choice import bytes_name
from kvbatch.options import default_state_dir
from kvbatch.samples import JobHistory, TimelineEvent, read_history
from kvbatch.state import JobRecord, existing_state
from kvbatch.units import format_bytes, format_count, format_seconds
from kvbatch.version import __version__

__all__ = ["render_report", "write_report"]

# Events are shown from both ends.
_FIRST_ROWS = 20
_NEWEST_ROWS = 60
_STATE_CLASSES = {"done": "good", "failed": "bad", "stopped": "mid", "interrupted": "mid"}
_BYTES_OPTIONS = ("sst_file_bytes", "range_bytes", "graft_bytes")
_PASSWORD = re.compile(r"(://[^\s/:@]*:)[^\s/@]+@")


def render_report(job: str, state_dir: Path | None = None) -> str:
    """The page. Raises UsageError: an unknown job, a state directory that cannot be used, or the extra `report` is not
    installed."""
    record, history = _read(job, state_dir or default_state_dir())
    try:
        import jinja2

        from kvbatch.report_plots import draw_plots
    except ImportError as error:
        raise UsageError(
            f"a report needs the extra `report` ({error}). Nothing was written; install it with "
            "`pip install jinja2 matplotlib` and try again"
        ) from error
    max_memory = (record.options or {}).get("max_memory")
    # Whatever stands in the page is text, unless it was made here.
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, finalize=_without_password, trim_blocks=True
    )
    environment.filters["moment"] = _moment
    text = (resources.files("kvbatch") / "templates" / "report.html").read_text(encoding="utf-8")
    return environment.from_string(text).render(
        record=record,
        state=record.shown_state,
        state_class=_STATE_CLASSES.get(record.shown_state, ""),
        error=None if record.shown_state == "done" else record.error,
        cards=_cards(record, history),
        verification=record.verification,
        verified=_verified(record.verification) if record.verification else [],
        verified_what=_verified_what(record.verification) if record.verification else "",
        plots=draw_plots(
            history, max_memory if isinstance(max_memory, int) else None, bytes_name(_lane(record, history))
        ),
        figures=_figures(record, history),
        settings=[(name, _setting(name, value)) for name, value in (record.options or {}).items()],
        events=_event_rows(history),
        event_counts=_event_counts(history),
        now=time.time(),
        version=__version__,
    )


def write_report(job: str, path: str | os.PathLike[str], state_dir: str | os.PathLike[str] | None = None) -> Path:
    """Writes the page to `path`, whole or not at all, over a file that is there. Returns the path. Raises UsageError as
    `render_report`, and where the file cannot be written."""
    try:
        if not os.fspath(path):
            raise ValueError
        target = Path(os.path.realpath(path))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path!r} is no path; name a file, such as report.html") from error
    if target.exists() and not target.is_file():
        what = "a directory" if target.is_dir() else "no regular file"
        raise UsageError(f"{path} is {what}. Nothing was written; name a file, such as report.html")
    page = render_report(job, None if state_dir is None else Path(state_dir))
    try:
        _replace(target, page.encode(errors="backslashreplace"))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}. Nothing was changed; name another file"
        ) from error
    return Path(path)


def _replace(target: Path, content: bytes) -> None:
    unfinished = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}")
    try:
        with unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def _read(job: str, directory: Path) -> tuple[JobRecord, JobHistory]:
    with existing_state(directory) as state:
        record = None if state is None else state.find(job)
        if state is None or record is None:
            raise unknown_job(job, directory)
        return record, read_history(state, job)


def _without_password(value: Any) -> Any:
    return _PASSWORD.sub(r"\1…@", value) if type(value) is str else value


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


# -- what stands in the page ------------------------------------------------------------------------------------------

Rows = list[tuple[str, str]]


def _totals(record: JobRecord) -> dict[str, Any]:
    """The summary of a finished job, where another stands otherwise."""
    return record.summary if record.shown_state == "done" and record.summary else record.progress


def _running(record: JobRecord, history: JobHistory) -> float:
    return history.samples[-1].running if history.samples else float(_totals(record).get("seconds", 0.0))


def _cards(record: JobRecord, history: JobHistory) -> Rows:
    totals, running = _totals(record), _running(record, history)
    entries, raw_bytes = totals.get("entries", 0), totals.get("raw_bytes", 0)
    cards = [
        ("entries", format_count(entries)),
        (bytes_name(_lane(record, history)), format_bytes(raw_bytes)),
        ("running time", format_seconds(running)),
    ]
    if running > 0:
        cards.append(("a second", format_bytes(raw_bytes / running)))
        cards.append(("entries a second", format_count(entries / running)))
    return cards


def _figures(record: JobRecord, history: JobHistory) -> Rows:
    # An older kvbatch knew fewer fields.
    progress = {**dataclasses.asdict(Progress()), **record.progress}
    summary, totals = record.summary or {}, _totals(record)
    rows: Rows = []
    lane = _lane(record, history)
    if lane:
        reason = summary.get("lane_reason") or _newest(history, "job").get("lane_reason")
        rows.append(("lane", f"{lane}: {reason}"))
    rows.append(("entries", f"{totals.get('entries', 0):,}"))
    rows.append((bytes_name(lane), _exact_bytes(totals.get("raw_bytes", 0))))
    if record.shown_state != "done":
        rows.append(("durable entries", f"{progress['durable_entries']:,}"))
        rows.append((f"durable {bytes_name(lane)}", _exact_bytes(progress["durable_bytes"])))
        rows.append((f"expected {bytes_name(lane)}", f"about {format_bytes(progress['estimated_bytes'])}"))
    rows.append(("ranges complete", f"{progress['ranges_complete']:,} of {progress['ranges']:,}"))
    rows.append(("running time", format_seconds(_running(record, history))))
    if history.samples:
        rows.append(("runs", str(history.samples[-1].run)))
        rows.append(("on the wire", _exact_bytes(history.samples[-1].wire_bytes)))
    if progress["wire_bytes"]:
        rows.append(("compression ratio", f"{progress['compression_ratio']:.2f} to 1"))
    if "batches" in summary:
        rows.append(("batches of the last run", f"{summary['batches']:,}"))
        rows.append(("sent again", _exact_bytes(summary["resent_bytes"])))
        rows.append(("peak memory of the last run", _exact_bytes(summary["peak_rss_bytes"])))
    if history.samples:
        throttled = sum(history.samples[-1].throttled_seconds.values())
        rows.append(("throttled, the mean over the streams", format_seconds(throttled)))
    if progress["stage_seconds"]:
        stages = ", ".join(f"{stage} {format_seconds(spent)}" for stage, spent in progress["stage_seconds"].items())
        rows.append(("time by stage of the last run", stages))
    if progress["bottleneck"]:
        rows.append(("slowest stage at the end", str(progress["bottleneck"])))
    rows.append(("fingerprint of the source", record.fingerprint))
    return rows


def _lane(record: JobRecord, history: JobHistory) -> str:
    """Empty where no session began."""
    return str((record.summary or {}).get("lane") or _newest(history, "job").get("lane") or "")


def _newest(history: JobHistory, kind: str) -> dict[str, Any]:
    return next((event.data for event in reversed(history.timeline) if event.kind == kind), {})


def _exact_bytes(count: int) -> str:
    return f"{format_bytes(count)} ({count:,} bytes)" if count >= 1024 else f"{count} bytes"


def _setting(name: str, value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        if name in SETTING_NAMES:
            return show_setting(name, value)
        if name in _BYTES_OPTIONS:
            return format_bytes(value)
    if value is None or value in ([], "", ".."):
        return "–"
    if isinstance(value, list):
        return ", ".join(str(each) for each in value)
    if isinstance(value, dict):  # a function, by its name
        return ", ".join(str(each) for each in value.values())
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _verified_what(verification: dict[str, Any]) -> str:
    """What of them was compared, where it was not all."""
    parts = []
    if verification["column_families"]:
        parts.append("column families " + ", ".join(f'"{name}"' for name in verification["column_families"]))
    if verification["key_range"] != "..":
        parts.append(f"keys {verification['key_range']}")
    parts += [f"{name} {verification[name]}" for name in ("slots", "namespace") if verification.get(name) is not None]
    return f", {' and '.join(parts)} only" if parts else ""


def _verified(verification: dict[str, Any]) -> Rows:
    rows = [
        ("entries", f"source {verification['entries_source']:,}, target {verification['entries_target']:,}"),
        ("ranges differing", f"{verification['ranges_differing']:,}"),
        ("keys missing", f"{verification['keys_missing']:,}"),
        ("keys extra", f"{verification['keys_extra']:,}"),
        ("keys different", f"{verification['keys_different']:,}"),
    ]
    if verification["keys_repaired"]:
        rows.append(("keys repaired", f"{verification['keys_repaired']:,}"))
    if verification["unfinished"]:
        rows.append(("target", "belonged to an unfinished migration"))
    rows += [("column family missing", f'"{name}"') for name in verification["families_missing"]]
    rows += [("column family extra", f'"{name}"') for name in verification["families_extra"]]
    rows += [(f'digest of "{name}"', digest) for name, digest in verification["digests"].items()]
    rows += [
        (f"key {found['kind']}", f'"{found["column_family"]}" {found["key"]}') for found in verification["samples"]
    ]
    return rows


def _event_rows(history: JobHistory) -> list[dict[str, Any]]:
    # What held the job back when has a plot of its own.
    events = [event for event in history.timeline if event.kind != "throttle"]
    rows = [
        {
            "time": event.time,
            "after": format_seconds(history.running_at(event.time)),
            "kind": "end" if event.kind == "done" else event.kind,
            "text": _event_text(event),
        }
        for event in events
    ]
    left_out = len(rows) - _FIRST_ROWS - _NEWEST_ROWS
    if left_out > 0:
        rows[_FIRST_ROWS:-_NEWEST_ROWS] = [{"left_out": f"{left_out:,}"}]
    return rows


def _event_text(event: TimelineEvent) -> str:
    data = event.data
    if event.kind == "job":
        how = "carried on" if data.get("resumed") else "begun"
        return f"{how}, {data.get('ranges')} ranges in the lane {data.get('lane')}"
    if event.kind == "retry":
        wait = format_seconds(data.get("wait_seconds", 0.0))
        return f"attempt {data.get('attempt')} failed, the next after {wait}: {data.get('error')}"
    if event.kind == "settings":
        return ", ".join(f"{name} {_setting(name, value)}" for name, value in data.items())
    if event.kind == "warning":
        return str(data.get("message"))
    return f"{data.get('state')}: {data['error']}" if data.get("error") else str(data.get("state"))


def _event_counts(history: JobHistory) -> str:
    """By their numbers, since not all may have been kept."""
    counts: Counter[str] = Counter()
    for event in history.timeline:
        counts[event.kind] = max(counts[event.kind], event.number)
    names = {"retry": ("retry", "retries"), "warning": ("warning", "warnings"), "throttle": ("change", "changes")}

    def told(kind: str, behind: str = "") -> str:
        return f"{counts[kind]:,} {names[kind][counts[kind] != 1]}{behind}"

    parts: Sequence[str] = [told("retry"), told("warning"), told("throttle", " of the throttle reason")]
    return ", ".join(parts) + "."
