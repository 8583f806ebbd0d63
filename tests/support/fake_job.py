"""A job that moves nothing: it holds its lock, keeps its record and answers at its control socket."""

from __future__ import annotations

import dataclasses
import threading
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from kvbatch.control_server import controlled
from kvbatch.errors import UsageError
from kvbatch.events import Progress
from kvbatch.kept_options import options_to_json
from kvbatch.options import MigrationOptions
from kvbatch.state import JobState, StateStore, control_path, job_lock

__all__ = ["ERROR", "OPTION_WORDS", "FakeJob", "FakeMigration", "FakeSettings", "record_job"]

WAIT_SECONDS = 60.0
OPTIONS = MigrationOptions.checked(key_range="6d30..6d3030", rate_limit="64KiB/s", throttle_check="nproc > /dev/null")
OPTION_WORDS = "--range 6d30..6d3030 --rate-limit 64KiB/s --throttle-check 'nproc > /dev/null'"
ERROR = "connect to 10.0.0.1:7720: Connection refused"


@dataclass(frozen=True)
class FakeSettings:
    rate_limit: int = 0
    source_read_rate: int = 0
    streams: int = 2
    batch_bytes: int = 0
    window: int = 16
    compression: str = "auto"
    max_memory: int = 256 << 20


class FakeMigration:
    """Its methods must not be called by two threads at once. `ends` is whether it heeds `cancel`."""

    def __init__(self, job: str, *, ends: bool = True) -> None:
        self.job = job
        self.settings = FakeSettings()
        self.calls: list[str] = []
        self.cancelled = threading.Event()
        self.finishing = False
        self.warnings: list[str] = []
        self._ends = ends
        self._busy = threading.Lock()
        self._progress = Progress(
            entries=600, raw_bytes=60_000, durable_entries=500, durable_bytes=50_000, estimated_entries=2000,
            estimated_bytes=200_000, entries_per_second=100.0, bytes_per_second=10_000.0, seconds=6.0,
            mean_entries_per_second=50.0, mean_bytes_per_second=5_000.0, wire_bytes=12_000, compression="lz4",
            ranges_complete=1, ranges=4, streams=2, window=16, throttle="window",
        )  # fmt: skip

    def _note(self, call: str) -> None:
        assert self._busy.acquire(blocking=False), "two requests at once"
        try:
            self.calls.append(call)
        finally:
            self._busy.release()

    def progress(self) -> Progress:
        return self._progress

    def pause(self) -> None:
        self._note("pause")
        self._progress = dataclasses.replace(self._progress, state="paused", throttle="paused")

    def resume(self) -> None:
        self._note("resume")
        self._progress = dataclasses.replace(self._progress, state="running", throttle=None)

    def set(self, **changes: Any) -> None:
        self._note("set")
        if "explode" in changes:
            raise RuntimeError("a bug")
        unknown = changes.keys() - {field.name for field in dataclasses.fields(FakeSettings)}
        if unknown or changes.get("streams") == 0:
            raise UsageError(f"cannot set {sorted(unknown) or 'streams to 0'}")
        self.settings = dataclasses.replace(self.settings, **changes)

    def cancel(self) -> None:
        self._note("cancel")
        if self._ends:
            self.cancelled.set()


class FakeJob:
    """Runs a FakeMigration in a thread of its own, until it is cancelled or the `with` statement ends."""

    def __init__(self, state_dir: Path, job: str = "nightly", *, answers: bool = True, ends: bool = True) -> None:
        self.migration = FakeMigration(job, ends=ends)
        self._state_dir = state_dir
        self._answers = answers
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.end = JobState.STOPPED

    def _run(self) -> None:
        job, migration = self.migration.job, self.migration
        with closing(StateStore(self._state_dir)) as state, job_lock(self._state_dir, job):
            state.start(job, "/data/source", "/data/copy", "f" * 32)
            state.note_opened(job, options_to_json(OPTIONS), identity="", fingerprint="f" * 32)
            state.update(job, progress=dataclasses.asdict(migration.progress()))
            if self._answers:
                with controlled(migration, control_path(self._state_dir, job), migration.warnings.append):
                    self._wait()
            else:
                self._wait()
            self.record(state)

    def _wait(self) -> None:
        self._running.set()
        assert self.migration.cancelled.wait(WAIT_SECONDS)

    def record(self, state: StateStore) -> None:
        progress = dataclasses.asdict(self.migration.progress())
        error = None if self.end == JobState.DONE else "stopped on request; nothing is lost"
        state.update(self.migration.job, state=self.end, progress=progress, error=error)

    def __enter__(self) -> FakeMigration:
        self._thread.start()
        assert self._running.wait(WAIT_SECONDS)
        return self.migration

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.migration.cancelled.set()
        self._thread.join(WAIT_SECONDS)


def record_job(
    state_dir: Path, job: str, state: str, *, source: str = "/data/source", target: str = "/data/copy",
    fingerprint: str = "f" * 32,
) -> None:  # fmt: skip
    """The record of a job that no process runs, `interrupted` among its states."""
    with closing(StateStore(state_dir)) as store:
        store.start(job, source, target, fingerprint)
        store.note_opened(job, options_to_json(OPTIONS), identity="", fingerprint=fingerprint)
        stored = JobState.RUNNING if state == "interrupted" else state
        progress = dataclasses.asdict(FakeMigration(job).progress())
        error = ERROR if state in (JobState.STOPPED, JobState.FAILED) else None
        summary = {"job": job, "state": "done", "entries_per_second": 500.0} if state == JobState.DONE else None
        store.update(job, state=stored, progress=progress, error=error)
        if summary is not None:
            store.update(job, summary=summary)
