"""What a running job tells: one event type, the same for Python, the terminal and `--progress json`."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["SAMPLE_SECONDS", "Event", "EventBus", "Progress", "RateMeter", "StreamProgress", "Summary", "run_rates"]

SAMPLE_SECONDS = 0.5
# The rate shown is the mean over so many samples.
_RATE_SAMPLES = 7
# What a late subscriber can still hear of; a job has some hundred such events, a week of retries more.
_KEPT_EVENTS = 4096

EventKind = Literal[
    "job", "range", "state", "settings", "sample", "throttle", "compression", "retry", "warning", "done", "error"
]


@dataclass(frozen=True, slots=True)
class Event:
    """`kind` says what `data` holds:

    job      job, lane, lane_reason, ranges, resumed, complete (the ranges that are durable already)
    range    range, state ("added" by splitting, "started", "complete")
    state    state ("running", "paused")
    settings what changed of the settings, and is valid from now on
    sample   the fields of Progress
    compression  codec, reason: what frames get from now on with `--compression auto`, and why
    throttle reason (of ThrottleReason; null: nothing holds the job back any more), when it changes
    retry    the fields of Retry, error
    warning  message
    done     state: "done" with the fields of Summary, or "stopped" (resumable) or "failed" with error
    error    message, advice, command; from the command line alone, as its last word
    """

    kind: EventKind
    time: float
    data: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"event": self.kind, "time": self.time, **self.data}


@dataclass(frozen=True, slots=True)
class StreamProgress:
    """Where one stream stands in its range. Bytes are keys and values, of a file its bytes; `throttle` is what it waits
    for at this moment."""

    stream: int
    range: int
    raw_bytes: int
    estimated_bytes: int
    throttle: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a job stands. Entries and bytes (keys and values) count what was read, earlier runs included.

    mean_…               what this run moved, each entry once however often it was sent, by its `seconds`; the rates
                         beside it are of late and count what is sent again. Behind the run they are means of it, too
    wire_bytes, batches  of this run; bytes both ways, 0 without a wire; pieces of files are batches, too
    batch_bytes, window  what streams use now: bytes of keys and values in a batch, frames in flight
    compression          what the newest frames got; compression_ratio is raw bytes over payload bytes of this run
    round_trip_seconds   from a frame's last byte to its ack, the smallest of late; None while unknown
    apply_seconds        what the target took to apply a frame, the mean of late; None while unknown
    throttle             what the streams waited for most since the last sample
    held_back            why every stream is held at this moment, in words: what the throttle check answered last
    throttled_seconds    by reason, the mean over the streams
    stage_seconds        what streams spent in `read` (and pack), `compress`, `network`, and the target in `apply`
    bottleneck           the stage that took most of late
    rate_limit           bytes a second on the wire, 0 for none
    """

    entries: int = 0
    raw_bytes: int = 0
    durable_entries: int = 0
    durable_bytes: int = 0
    estimated_entries: int = 0
    estimated_bytes: int = 0
    entries_per_second: float = 0.0
    bytes_per_second: float = 0.0
    mean_entries_per_second: float = 0.0
    mean_bytes_per_second: float = 0.0
    seconds: float = 0.0
    ranges_complete: int = 0
    ranges: int = 0
    state: str = "running"
    streams: int = 0
    batch_bytes: int = 0
    window: int = 0
    compression: str = "none"
    compression_ratio: float = 1.0
    wire_bytes: int = 0
    wire_bytes_per_second: float = 0.0
    batches: int = 0
    round_trip_seconds: float | None = None
    apply_seconds: float | None = None
    throttle: str | None = None
    held_back: str | None = None
    throttled_seconds: dict[str, float] = field(default_factory=dict)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    bottleneck: str | None = None
    rate_limit: int = 0
    rss_bytes: int = 0
    stream_progress: tuple[StreamProgress, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As dataclasses.asdict, which copies deeply and takes ten times as long, twice a second."""
        fields = {name: getattr(self, name) for name in _PROGRESS_FIELDS}
        fields["stream_progress"] = [
            {name: getattr(each, name) for name in _STREAM_FIELDS} for each in self.stream_progress
        ]
        return fields

    def in_state(self, state: str) -> Progress:
        """As of a moment at which the job is in this state, the last sample being older: what it waits for agrees."""
        if state == "paused":
            return dataclasses.replace(self, state=state, throttle="paused" if self.streams else self.throttle)
        streams = tuple(
            dataclasses.replace(each, throttle=None) if each.throttle == "paused" else each
            for each in self.stream_progress
        )
        throttle = None if self.throttle == "paused" else self.throttle
        return dataclasses.replace(self, state=state, throttle=throttle, stream_progress=streams)

    @property
    def remaining_seconds(self) -> float | None:
        """At the present rate; None while there is none."""
        if self.bytes_per_second <= 0:
            return None
        return max(0, self.estimated_bytes - self.raw_bytes) / self.bytes_per_second


_PROGRESS_FIELDS = tuple(each.name for each in dataclasses.fields(Progress))
_STREAM_FIELDS = tuple(each.name for each in dataclasses.fields(StreamProgress))


def run_rates(figure: Callable[[str], float]) -> dict[str, Any]:
    """The rates among the fields of a Progress, as means of its run: those of a job that does not run. `figure` gives
    its fields by their names."""
    return {
        "entries_per_second": figure("mean_entries_per_second"),
        "bytes_per_second": figure("mean_bytes_per_second"),
        "wire_bytes_per_second": figure("wire_bytes") / max(figure("seconds"), 1e-6),
    }


class RateMeter:
    """What is done a second, from totals that are looked at every SAMPLE_SECONDS."""

    def __init__(self) -> None:
        self._marks = deque([(time.monotonic(), 0, 0)], maxlen=_RATE_SAMPLES)

    def sample(self, entries: int, raw_bytes: int, *, held: bool = False) -> tuple[float, float]:
        """Entries and bytes a second, the mean over the last samples. While a job is `held` and nothing moves any more
        it is 0, and begins anew behind that."""
        now = time.monotonic()
        if held and self._marks[-1][1:] == (entries, raw_bytes):
            self._marks.clear()
        self._marks.append((now, entries, raw_bytes))
        then, entries_then, bytes_then = self._marks[0]
        elapsed = max(1e-6, now - then)
        return (entries - entries_then) / elapsed, (raw_bytes - bytes_then) / elapsed

    def restart(self, entries: int, raw_bytes: int) -> None:
        """Nothing moves any more: what was done before counts in no rate from now on."""
        self._marks.clear()
        self._marks.append((time.monotonic(), entries, raw_bytes))


@dataclass(frozen=True, slots=True)
class Summary:
    """What `--json` prints. Bytes are keys and values before compression unless they are wire bytes.

    `finished_before`: this run moved nothing; the other fields are those of the run that finished the job.
    """

    job: str
    state: str
    lane: str
    lane_reason: str
    entries: int
    raw_bytes: int
    wire_bytes: int
    seconds: float
    entries_per_second: float
    batches: int
    resumed: bool
    resent_bytes: int
    throttled_seconds: float
    peak_rss_bytes: int
    ranges: int
    finished_before: bool = False

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _SUMMARY_FIELDS}


_SUMMARY_FIELDS = tuple(each.name for each in dataclasses.fields(Summary))


@dataclass
class EventBus:
    """Hands every event to every subscriber. A job runs before anybody can subscribe, so whoever comes late gets what
    happened before, too, all but the samples."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _queues: list[queue.SimpleQueue[Event]] = field(default_factory=list)
    _listeners: list[Callable[[Event], None]] = field(default_factory=list)
    _kept: deque[Event] = field(default_factory=lambda: deque(maxlen=_KEPT_EVENTS))

    def publish(self, kind: EventKind, **data: Any) -> None:
        event = Event(kind, time.time(), data)
        with self._lock:
            if kind != "sample":
                self._kept.append(event)
            for subscriber in self._queues:
                subscriber.put(event)
            for listener in self._listeners:
                listener(event)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Calls `listener` with every event from now on, in the thread that publishes it: for what takes a moment,
        where a thread that waits for each event would cost more than what it does."""
        with self._lock:
            self._listeners.append(listener)

    def subscribe(self) -> Iterator[Event]:
        """Events until `done`, which is the last."""
        mine: queue.SimpleQueue[Event] = queue.SimpleQueue()
        with self._lock:
            for event in self._kept:
                mine.put(event)
            self._queues.append(mine)
        return self._follow(mine)

    def _follow(self, mine: queue.SimpleQueue[Event]) -> Iterator[Event]:
        try:
            while True:
                event = mine.get()
                yield event
                if event.kind == "done":
                    return
        finally:
            with self._lock:
                self._queues.remove(mine)
