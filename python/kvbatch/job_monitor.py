"""What the events of a running job add up to: what the metrics and the live page show of it."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol, runtime_checkable

from kvbatch.events import Event, Progress
from kvbatch.version import __version__

__all__ = ["HISTORY_FIELDS", "JobMonitor", "Listener", "RangeState", "WatchedJob"]

RangeState = Literal["waiting", "started", "complete"]
# Called with each event in the monitor's thread, and with None when no more will come; must not block.
Listener = Callable[[Event | None], None]

# Fields of Progress that the history keeps.
HISTORY_FIELDS = ("seconds", "bytes_per_second", "wire_bytes_per_second", "batch_bytes")
_HISTORY_POINTS = 1200
_MESSAGES = 20


@runtime_checkable
class WatchedJob(Protocol):
    """What is asked of a job; `Migration` has it."""

    @property
    def job(self) -> str: ...

    def events(self) -> Iterator[Event]: ...

    def progress(self) -> Progress: ...


class _History:
    """Points in time from the beginning until now: once there are too many, every second one goes."""

    def __init__(self) -> None:
        self.points: list[list[float]] = []
        self._offered = 0
        self._stride = 1

    def offer(self, point: list[float]) -> None:
        if self._offered % self._stride == 0:
            self.points.append(point)
        self._offered += 1
        if len(self.points) > _HISTORY_POINTS:
            self.points = self.points[::2]
            self._stride *= 2


class JobMonitor:
    """Follows a job in a thread of its own, until the job is done. Thread-safe."""

    def __init__(self, job: WatchedJob) -> None:
        self._job = job
        self._lock = threading.Lock()
        self._listeners: list[Listener] = []
        self._closed = False
        self._finished = threading.Event()
        self._ranges: list[RangeState] = ["waiting"] * job.progress().ranges
        self._session: dict[str, Any] = {"lane": "", "lane_reason": "", "resumed": False}
        self._state = job.progress().state
        self._throttle: str | None = None
        self._messages: deque[dict[str, Any]] = deque(maxlen=_MESSAGES)
        self._counts = {"retry": 0, "warning": 0}
        self._history = _History()
        # Asked for here, so that no sample from now on is missed.
        events = job.events()
        threading.Thread(target=self._follow, args=(events,), name=f"kvbatch-watch-{job.job}", daemon=True).start()

    # -- what is seen -------------------------------------------------------------------------------------------------

    @property
    def job(self) -> str:
        return self._job.job

    @property
    def lane(self) -> str:
        """Empty until the session with the target begins."""
        with self._lock:
            return str(self._session["lane"])

    @property
    def state(self) -> str:
        """`running` or `paused`; at the end `done`, `stopped` or `failed`."""
        with self._lock:
            return self._state

    def progress(self) -> Progress:
        return self._job.progress()

    def count(self, kind: Literal["retry", "warning"]) -> int:
        with self._lock:
            return self._counts[kind]

    def ranges_by_state(self) -> dict[RangeState, int]:
        with self._lock:
            return {state: self._ranges.count(state) for state in ("waiting", "started", "complete")}

    def snapshot(self) -> dict[str, Any]:
        """All of it, for JSON."""
        with self._lock:
            return self._snapshot()

    def _snapshot(self) -> dict[str, Any]:
        progress = self._job.progress()
        return {
            "event": "snapshot",
            "version": __version__,
            "job": self.job,
            **self._session,
            "state": self._state,
            "finished": self._finished.is_set(),
            "throttle": self._throttle,
            "retries": self._counts["retry"],
            "ranges": list(self._ranges),
            "messages": list(self._messages),
            "history": {"fields": HISTORY_FIELDS, "points": list(self._history.points)},
            "progress": dataclasses.asdict(progress),
            "remaining_seconds": progress.remaining_seconds,
        }

    # -- who listens --------------------------------------------------------------------------------------------------

    def subscribe(self, listener: Listener) -> dict[str, Any]:
        """The snapshot after which `listener` hears every event. One that is `finished` is followed by nothing."""
        with self._lock:
            if not self._finished.is_set() and not self._closed:
                self._listeners.append(listener)
            return self._snapshot()

    def unsubscribe(self, listener: Listener) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._listeners.remove(listener)

    def wait(self, timeout: float) -> bool:
        """Whether the job's last event was seen within so many seconds."""
        return self._finished.wait(timeout)

    def close(self) -> None:
        """Lets the listeners go; they hear None. Idempotent."""
        with self._lock:
            self._closed = True
            self._release_listeners()

    def _release_listeners(self) -> None:
        for listener in self._listeners:
            listener(None)
        self._listeners.clear()

    # -- what is heard ------------------------------------------------------------------------------------------------

    def _follow(self, events: Iterator[Event]) -> None:
        for event in events:
            with self._lock:
                self._take(event)
                for listener in self._listeners:
                    listener(event)
                if event.kind == "done":
                    self._finished.set()
                    self._release_listeners()

    def _take(self, event: Event) -> None:
        data = event.data
        if event.kind == "job":
            self._begin_session(data)
        elif event.kind == "range":
            self._set_range(data["range"], "waiting" if data["state"] == "added" else data["state"])
        elif event.kind == "sample":
            self._state = data["state"]
            self._history.offer([data[field] for field in HISTORY_FIELDS])
        elif event.kind == "throttle":
            self._throttle = data["reason"]
        elif event.kind == "state":
            self._state = data["state"]
        elif event.kind == "done":
            self._state = data["state"]
            self._throttle = None
            if "error" in data:
                self._messages.append(event.to_json())
        elif event.kind in ("retry", "warning"):
            self._counts[event.kind] += 1
            self._messages.append(event.to_json())

    def _begin_session(self, data: dict[str, Any]) -> None:
        self._session = {name: data[name] for name in self._session}
        # What an earlier session had begun is to be begun again.
        self._ranges = ["waiting"] * data["ranges"]
        for number in data["complete"]:
            self._set_range(number, "complete")

    def _set_range(self, number: int, state: RangeState) -> None:
        if number >= len(self._ranges):
            # A range that was made out of a part of another one.
            self._ranges += ["waiting"] * (number + 1 - len(self._ranges))
        self._ranges[number] = state
