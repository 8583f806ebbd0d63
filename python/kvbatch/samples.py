"""A job's history in the state directory: a sample a second, thinned with age, and when what happened.

A sample's totals are those of the job, of all its runs, so the mean rate between any two samples is exact whichever
were left out between them. Age is counted in time that the job ran: nothing becomes older while a job is stopped.

Bounds: a job that runs for a week keeps some 14,000 samples of about 150 bytes; of each kind of event the first and the
newest, _FIRST_EVENTS + _NEWEST_EVENTS at most; of the ranges the times of the first _MAX_RANGES.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

from kvbatch.events import Event
from kvbatch.state import JobState, StateStore

__all__ = ["HistoryWriter", "JobHistory", "RangeTimes", "Sample", "TimelineEvent", "read_history"]

# Samples come twice a second, one a second is kept.
_LEAST_SECONDS_APART = 0.75
# (age, step), both in seconds: of what is older than `age`, the last of each `step` is kept.
_THINNING = ((15 * 60, 10), (6 * 3600, 60), (8 * 86400, 600))
_THIN_EVERY_SECONDS = 60
_MAX_RANGES = 20_000
_FIRST_EVENTS = 100
_NEWEST_EVENTS = 400
_TEXT_CHARACTERS = 500
# What is kept of the kinds of events that stand in the timeline; None: all fields.
_TIMELINE: dict[str, tuple[str, ...] | None] = {
    "job": None,
    "state": ("state",),
    "settings": None,
    "throttle": ("reason",),
    "retry": ("attempt", "wait_seconds", "error"),
    "warning": ("message",),
    "done": ("state", "error"),
}

_INSERT_SAMPLE = f"INSERT OR REPLACE INTO samples VALUES ({', '.join('?' * 18)})"
_INSERT_RANGE = """
INSERT INTO range_times VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
started_ms = coalesce(started_ms, excluded.started_ms), completed_ms = coalesce(excluded.completed_ms, completed_ms),
starts = starts + excluded.starts
"""
_THIN = """
DELETE FROM samples WHERE job = :job AND running_ms IN (
    SELECT running_ms FROM (
        SELECT running_ms, lead(running_ms) OVER (ORDER BY running_ms) AS next FROM samples
        WHERE job = :job AND running_ms >= :thinned AND running_ms < :horizon
    ) WHERE next / :step = running_ms / :step
)
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """Where a job stood. `running` is how many seconds it ran so far, in all runs together, of which `run` is the one,
    counted from 1; `time` is since the epoch. Entries and bytes are totals; an interrupted run's may go back a little,
    to what was durable."""

    running: float
    time: float
    run: int
    entries: int
    raw_bytes: int
    wire_bytes: int
    entries_per_second: int
    bytes_per_second: int
    batch_bytes: int
    window: int
    round_trip_seconds: float | None
    apply_seconds: float | None
    rss_bytes: int
    streams: int
    state: str
    throttle: str | None
    throttled_seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class RangeTimes:
    """Seconds since the epoch: when a range was begun first, and durable. `starts`: how often it was begun."""

    range: int
    started: float | None
    completed: float | None
    starts: int


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """`number` counts the events of a kind from 1; those missing between two numbers were too many to keep."""

    kind: str
    number: int
    time: float
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class JobHistory:
    """What is left of a job's history, in the order of time."""

    samples: list[Sample] = field(default_factory=list)
    ranges: list[RangeTimes] = field(default_factory=list)
    timeline: list[TimelineEvent] = field(default_factory=list)

    def running_at(self, moment: float) -> float:
        """How many seconds the job had run at this moment (since the epoch); while it was stopped, until then."""
        after = bisect_right(self.samples, moment, key=lambda sample: sample.time)
        if after == len(self.samples):
            return self.samples[-1].running if self.samples else 0.0
        until = self.samples[after]
        since = self.samples[after - 1].running if after else 0.0
        return max(since, until.running - (until.time - moment))


@dataclass(slots=True)
class _Totals:
    """What earlier runs of the job came to."""

    running: float = 0.0
    run: int = 1
    wire_bytes: int = 0
    throttled_seconds: dict[str, float] = field(default_factory=dict)


class HistoryWriter:
    """Collects what a running job tells and writes it in batches. Thread-safe."""

    def __init__(self, state: StateStore, job: str) -> None:
        self._state = state
        self._job = job
        self._lock = threading.Lock()
        self._progress: dict[str, Any] = {}
        # Since the last sample: none comes while the job waits for another attempt.
        self._told_state: str | None = None
        self._samples: list[tuple[float, dict[str, Any]]] = []
        self._ending: list[tuple[float, dict[str, Any]]] = []
        self._events: list[Event] = []
        self._last_seconds = -_LEAST_SECONDS_APART
        # Of what the database held before this run; read when this run writes first.
        self._earlier: _Totals | None = None
        self._numbers: dict[str, int] = {}
        self._thinned_ms = [0] * len(_THINNING)
        self._thin_due_ms = 0

    def note(self, event: Event) -> None:
        if event.kind == "sample":
            self.sample(event.time, event.data)
        elif event.kind == "range" or event.kind in _TIMELINE:
            with self._lock:
                self._events.append(event)
                if event.kind == "state":
                    self._told_state = event.data["state"]

    def sample(self, moment: float, progress: dict[str, Any]) -> None:
        """`progress` has the fields of Progress; `moment` is seconds since the epoch."""
        with self._lock:
            self._progress, self._told_state = progress, None
            seconds = progress.get("seconds", 0.0)
            if seconds - self._last_seconds >= _LEAST_SECONDS_APART:
                self._last_seconds = seconds
                self._samples.append((moment, progress))

    def end(self, moment: float, progress: dict[str, Any]) -> None:
        """Where the run ended, which is kept in any case. Samples from before may still come."""
        with self._lock:
            self._ending = [(moment, progress)]

    def flush(self) -> None:
        """Writes what was collected; what cannot be written is dropped. Raises UsageError."""
        with self._lock:
            samples = self._samples + self._ending
            self._samples, self._ending = [], []
            events, self._events = self._events, []
            progress, told_state = self._progress, self._told_state
        with self._state.transaction() as database:
            # Somebody may have forgotten the job meanwhile.
            if database.execute("SELECT 1 FROM jobs WHERE job = ?", (self._job,)).fetchone() is None:
                return
            if progress:
                # Where it is not running any more, its own thread has written where it ended.
                database.execute(
                    "UPDATE jobs SET progress = ?, updated = ? WHERE job = ? AND state = ?",
                    (json.dumps(progress), time.time(), self._job, JobState.RUNNING),
                )
            if told_state is not None:
                database.execute(
                    "UPDATE jobs SET progress = json_set(progress, '$.state', ?) WHERE job = ? AND state = ?",
                    (told_state, self._job, JobState.RUNNING),
                )
            self._write_events(database, events)
            self._write_samples(database, samples)

    def _write_samples(self, database: sqlite3.Connection, samples: list[tuple[float, dict[str, Any]]]) -> None:
        if not samples:
            return
        if self._earlier is None:
            self._earlier = self._read_totals(database)
        rows = [self._row(self._earlier, moment, progress) for moment, progress in samples]
        database.executemany(_INSERT_SAMPLE, rows)
        newest_ms: int = rows[-1][1]
        if newest_ms >= self._thin_due_ms:
            self._thin_due_ms = newest_ms + _THIN_EVERY_SECONDS * 1000
            self._thin(database, newest_ms)

    def _row(self, earlier: _Totals, moment: float, progress: dict[str, Any]) -> tuple[Any, ...]:
        throttled = dict(earlier.throttled_seconds)
        for reason, seconds in progress.get("throttled_seconds", {}).items():
            throttled[str(reason)] = throttled.get(str(reason), 0.0) + seconds
        return (
            self._job,
            round(1e3 * (earlier.running + progress.get("seconds", 0.0))),
            round(1e3 * moment),
            earlier.run,
            progress.get("entries", 0),
            progress.get("raw_bytes", 0),
            earlier.wire_bytes + progress.get("wire_bytes", 0),
            round(progress.get("entries_per_second", 0.0)),
            round(progress.get("bytes_per_second", 0.0)),
            progress.get("batch_bytes", 0),
            progress.get("window", 0),
            _scaled(progress.get("round_trip_seconds"), 1e6),
            _scaled(progress.get("apply_seconds"), 1e6),
            progress.get("rss_bytes", 0),
            progress.get("streams", 0),
            progress.get("state", JobState.RUNNING),
            progress.get("throttle"),
            _json({reason: round(1e3 * seconds) for reason, seconds in throttled.items() if seconds >= 5e-4}),
        )

    def _read_totals(self, database: sqlite3.Connection) -> _Totals:
        row = database.execute(
            "SELECT running_ms, run, wire_bytes, throttled_ms FROM samples WHERE job = ? ORDER BY running_ms DESC",
            (self._job,),
        ).fetchone()
        if row is None:
            return _Totals()
        throttled = {reason: ms / 1e3 for reason, ms in json.loads(row["throttled_ms"]).items()}
        return _Totals(row["running_ms"] / 1e3, row["run"] + 1, row["wire_bytes"], throttled)

    def _thin(self, database: sqlite3.Connection, newest_ms: int) -> None:
        for tier, (age, step) in enumerate(_THINNING):
            step_ms = 1000 * step
            # Whole steps only, so that each keeps its last sample.
            horizon_ms = (newest_ms - 1000 * age) // step_ms * step_ms
            if horizon_ms > self._thinned_ms[tier]:
                database.execute(
                    _THIN,
                    {
                        "job": self._job,
                        "thinned": self._thinned_ms[tier],
                        "horizon": horizon_ms,
                        "step": step_ms,
                    },
                )
                self._thinned_ms[tier] = horizon_ms

    def _write_events(self, database: sqlite3.Connection, events: list[Event]) -> None:
        ranges = [
            event
            for event in events
            if event.kind == "range" and event.data["state"] != "added" and event.data["range"] < _MAX_RANGES
        ]
        database.executemany(_INSERT_RANGE, [self._range_row(event) for event in ranges])
        for kind, fields in _TIMELINE.items():
            coming = [event for event in events if event.kind == kind]
            if not coming:
                continue
            if kind not in self._numbers:
                self._numbers[kind] = self._last_number(database, kind)
            first = self._numbers[kind] + 1
            rows = [
                (self._job, kind, number, round(1e3 * event.time), _json(_shortened(event.data, fields)))
                for number, event in enumerate(coming, start=first)
            ]
            database.executemany("INSERT OR REPLACE INTO timeline VALUES (?, ?, ?, ?, ?)", rows)
            self._numbers[kind] += len(rows)
            database.execute(
                "DELETE FROM timeline WHERE job = ? AND kind = ? AND number > ? AND number <= ?",
                (self._job, kind, _FIRST_EVENTS, self._numbers[kind] - _NEWEST_EVENTS),
            )

    def _range_row(self, event: Event) -> tuple[Any, ...]:
        time_ms = round(1e3 * event.time)
        if event.data["state"] == "started":
            return self._job, event.data["range"], time_ms, None, 1
        return self._job, event.data["range"], None, time_ms, 0

    def _last_number(self, database: sqlite3.Connection, kind: str) -> int:
        query = "SELECT max(number) FROM timeline WHERE job = ? AND kind = ?"
        return int(database.execute(query, (self._job, kind)).fetchone()[0] or 0)


def _scaled(value: float | None, scale: float) -> int | None:
    return None if value is None else round(scale * value)


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _shortened(data: dict[str, Any], fields: tuple[str, ...] | None) -> dict[str, Any]:
    kept = data if fields is None else {name: data[name] for name in fields if name in data}
    return {name: value[:_TEXT_CHARACTERS] if isinstance(value, str) else value for name, value in kept.items()}


def read_history(state: StateStore, job: str) -> JobHistory:
    """Raises UsageError."""
    with state.transaction() as database:
        samples = database.execute("SELECT * FROM samples WHERE job = ? ORDER BY running_ms", (job,)).fetchall()
        ranges = database.execute("SELECT * FROM range_times WHERE job = ? ORDER BY range", (job,)).fetchall()
        timeline = database.execute(
            "SELECT * FROM timeline WHERE job = ? ORDER BY time_ms, kind, number", (job,)
        ).fetchall()
    return JobHistory(
        [_sample(row) for row in samples],
        [
            RangeTimes(
                row["range"],
                _scaled_back(row["started_ms"], 1e3),
                _scaled_back(row["completed_ms"], 1e3),
                row["starts"],
            )
            for row in ranges
        ],
        [TimelineEvent(row["kind"], row["number"], row["time_ms"] / 1e3, json.loads(row["data"])) for row in timeline],
    )


def _scaled_back(value: int | None, scale: float) -> float | None:
    return None if value is None else value / scale


def _sample(row: sqlite3.Row) -> Sample:
    return Sample(
        running=row["running_ms"] / 1e3,
        time=row["time_ms"] / 1e3,
        run=row["run"],
        entries=row["entries"],
        raw_bytes=row["raw_bytes"],
        wire_bytes=row["wire_bytes"],
        entries_per_second=row["entries_per_second"],
        bytes_per_second=row["bytes_per_second"],
        batch_bytes=row["batch_bytes"],
        window=row["window"],
        round_trip_seconds=_scaled_back(row["round_trip_us"], 1e6),
        apply_seconds=_scaled_back(row["apply_us"], 1e6),
        rss_bytes=row["rss_bytes"],
        streams=row["streams"],
        state=row["state"],
        throttle=row["throttle"],
        throttled_seconds={reason: ms / 1e3 for reason, ms in json.loads(row["throttled_ms"]).items()},
    )
