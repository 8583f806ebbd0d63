"""The sender's own record of its jobs: what `kvbatch status` shows. Losing it costs history, never data."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from kvbatch.endpoints import os_reason, standing_part
from kvbatch.errors import KvbatchError, RefusedError, UsageError
from kvbatch.kept_options import selecting
from kvbatch.state_schema import upgrade

__all__ = [
    "JobRecord",
    "JobState",
    "StateStore",
    "check_not_run",
    "control_path",
    "existing_state",
    "find_job",
    "job_lock",
    "list_jobs",
    "sent_path",
    "state_after",
]

# Whoever only looks whether a job is held, holds it for that moment.
_LOOKED_AT_SECONDS = 0.5
_DATABASE = "kvbatch.sqlite3"
_URL = "file://"
_ENDPOINTS = ("source", "target")
_SELECT = "SELECT jobs.*, options, verification FROM jobs LEFT JOIN job_details USING (job)"


class JobState:
    """`finishing`: every range is durable and the target was told to drop its records; only the answer may be
    missing."""

    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    FINISHING = "finishing"
    DONE = "done"


_MAY_RUN = (JobState.RUNNING, JobState.FINISHING)


def state_after(error: BaseException) -> str:
    return JobState.STOPPED if isinstance(error, KvbatchError) and error.resumable else JobState.FAILED


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What is kept of a job besides its history (kvbatch.samples). Times are seconds since the epoch.

    `options` are those that the newest run was started with; `verification` is what the newest `verify` of this source
    and target found, with `time` and the options that say what was compared."""

    job: str
    source: str
    target: str
    fingerprint: str
    identity: str
    state: str
    created: float
    updated: float
    pid: int
    progress: dict[str, Any]
    summary: dict[str, Any] | None
    error: str | None
    # Whether a process runs it, which holds the job's lock: a pid may be another process's by now.
    alive: bool
    options: dict[str, Any] | None = None
    verification: dict[str, Any] | None = None

    @property
    def may_run(self) -> bool:
        """Whether nobody recorded its end."""
        return self.state in _MAY_RUN

    @property
    def shown_state(self) -> str:
        """A running job whose process is gone was killed: the same command carries on."""
        if not self.may_run:
            return self.state
        if not self.alive:
            return "interrupted"
        return "paused" if self.state == JobState.RUNNING and self.progress.get("state") == "paused" else self.state


def _keep_options(database: sqlite3.Connection, job: str, options: dict[str, Any]) -> None:
    database.execute(
        "INSERT INTO job_details (job, options) SELECT job, ? FROM jobs WHERE job = ? "
        "ON CONFLICT (job) DO UPDATE SET options = excluded.options",
        (json.dumps(options), job),
    )


class StateStore:
    """One SQLite database (WAL mode) in the state directory. Safe to use from several processes and threads. Every
    method raises UsageError when the directory cannot be used, its cause being what SQLite or the disk said."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        with _usable(directory):
            _check_directory(directory)
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._database = sqlite3.connect(directory / _DATABASE, timeout=10, check_same_thread=False)
            self._database.row_factory = sqlite3.Row
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            upgrade(self._database)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """What is done to the database inside is done whole or not at all."""
        with _usable(self._directory), self._lock, self._database:
            yield self._database

    def close(self) -> None:
        # SQLite frees what another thread may be using.
        with self._lock:
            self._database.close()

    def start(self, job: str, source: str, target: str, fingerprint: str) -> None:
        """Records that this process takes up the job.

        Identity, fingerprint and summary stay as they are until the target is opened anew: they say that a finished job
        is finished, whatever befalls the runs that ask for it again."""
        now = time.time()
        with self.transaction() as database:
            database.execute(
                "INSERT INTO jobs VALUES (?, ?, ?, ?, '', ?, ?, ?, ?, '{}', NULL, NULL) "
                "ON CONFLICT (job) DO UPDATE SET "
                "source = excluded.source, target = excluded.target, "
                "state = excluded.state, updated = excluded.updated, pid = excluded.pid, error = NULL",
                (job, _text(source), _text(target), fingerprint, JobState.RUNNING, now, now, os.getpid()),
            )

    def update(self, job: str, **columns: Any) -> None:
        """Sets columns by name, `updated` to now unless it is given; `progress` and `summary` are given as
        dictionaries."""
        encoded = {name: _encoded(name, value) for name, value in {"updated": time.time(), **columns}.items()}
        assignments = ", ".join(f"{name} = :{name}" for name in encoded)
        with self.transaction() as database:
            database.execute(f"UPDATE jobs SET {assignments} WHERE job = :job", {**encoded, "job": job})

    def put_back(self, record: JobRecord) -> None:
        """Undoes what `start` and a run that never opened its target changed of this record."""
        kept = ("source", "target", "state", "updated", "pid", "progress", "error")
        self.update(record.job, **{name: getattr(record, name) for name in kept})

    def note_opened(self, job: str, options: dict[str, Any], *, identity: str, fingerprint: str) -> None:
        """The job's target is open, with these options: what an earlier run finished does not count any more."""
        with self.transaction() as database:
            database.execute(
                "UPDATE jobs SET identity = ?, fingerprint = ?, summary = NULL, error = NULL, updated = ? "
                "WHERE job = ?",
                (identity, fingerprint, time.time(), job),
            )
            _keep_options(database, job, options)

    def note_options(self, job: str, options: dict[str, Any]) -> None:
        """Those that the job is carried on with."""
        with self.transaction() as database:
            _keep_options(database, job, options)

    def forget(self, job: str) -> None:
        """Removes the job's record and its history."""
        with self.transaction() as database:
            database.execute("DELETE FROM jobs WHERE job = ?", (job,))

    def find(self, job: str) -> JobRecord | None:
        before = None
        while True:
            with self.transaction() as database:
                row = database.execute(f"{_SELECT} WHERE job = ?", (job,)).fetchone()
            if row is None:
                return None
            record = self._record(row)
            # A job that nobody holds may have ended after its row was read.
            if not record.may_run or record.alive or record == before:
                return record
            before = record

    def jobs(self) -> list[JobRecord]:
        """The newest first."""
        with self.transaction() as database:
            rows = database.execute(f"{_SELECT} ORDER BY updated DESC").fetchall()
        records = [self._record(row) for row in rows]
        looked_at = [self.find(each.job) if each.may_run and not each.alive else each for each in records]
        return [record for record in looked_at if record is not None]

    def _record(self, row: sqlite3.Row) -> JobRecord:
        columns = dict(row)
        for name in ("progress", "summary", "options", "verification"):
            columns[name] = json.loads(columns[name]) if columns[name] else None
        for name in _ENDPOINTS:
            columns[name] = _endpoint(columns[name])
        may_run = columns["state"] in _MAY_RUN
        with _usable(self._directory):
            alive = may_run and _is_held(_lock_path(self._directory, columns["job"]))
        return JobRecord(**columns, alive=alive)

    def keep_verification(self, source: str, target: str, verification: dict[str, Any]) -> str | None:
        """Keeps what a `verify` found for the job of this source and target: the newest one that moved the same
        selection, else the newest. Returns its id; None, and nothing is kept, when there is no such job."""
        jobs = [each for each in self.jobs() if (each.source, each.target) == (source, target)]
        if not jobs:
            return None
        wanted = selecting(verification)
        same = [each.job for each in jobs if each.options and selecting(each.options) == wanted]
        found = (same or [jobs[0].job])[0]
        with self.transaction() as database:
            database.execute(
                "INSERT INTO job_details (job, verification) SELECT job, ? FROM jobs WHERE job = ? "
                "ON CONFLICT (job) DO UPDATE SET verification = excluded.verification",
                (json.dumps(verification), found),
            )
        return found


def _text(endpoint: str) -> str:
    """A path may hold bytes that are no text, and the database takes text only: such a one is kept as a URL."""
    try:
        endpoint.encode()
        return endpoint
    except UnicodeEncodeError:
        return Path(endpoint).as_uri()


def _endpoint(text: str) -> str:
    """What `_text` made of it."""
    return os.fsdecode(unquote_to_bytes(text.removeprefix(_URL))) if text.startswith(_URL) else text


def _encoded(column: str, value: Any) -> Any:
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, str):
        # What is said of a path that is no text can be read at least.
        return _text(value) if column in _ENDPOINTS else value.encode(errors="backslashreplace").decode()
    return value


@contextmanager
def existing_state(directory: Path) -> Iterator[StateStore | None]:
    """The state store, closed at the end; None instead of making a state directory where there is none."""
    with _usable(directory):
        _check_directory(directory)
        exists = (directory / _DATABASE).exists()
    if not exists:
        yield None
        return
    with closing(StateStore(directory)) as state:
        yield state


def find_job(directory: Path, job: str) -> JobRecord | None:
    """As StateStore.find, but makes no state directory where there is none."""
    with existing_state(directory) as state:
        return None if state is None else state.find(job)


def list_jobs(directory: Path) -> list[JobRecord]:
    """As StateStore.jobs, but makes no state directory where there is none."""
    with existing_state(directory) as state:
        return [] if state is None else state.jobs()


def control_path(directory: Path, job: str) -> Path:
    """The socket at which a running job answers; see kvbatch.control_server."""
    return directory / "jobs" / f"{job}.sock"


def sent_path(directory: Path, job: str) -> Path:
    """See kvbatch.sent_log."""
    return directory / "jobs" / f"{job}.sent"


def _lock_path(directory: Path, job: str) -> Path:
    return directory / "jobs" / f"{job}.lock"


def _is_held(lock: Path) -> bool:
    """Whether a process runs the job of this lock file."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _check_directory(directory: Path) -> None:
    """Raises NotADirectoryError where it can be none."""
    standing = standing_part(directory)
    if standing.is_file():
        raise NotADirectoryError(f"{standing} is a file, and jobs are kept in a directory. Nothing was changed")


@contextmanager
def _usable(directory: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        why = os_reason(error) if isinstance(error, OSError) else str(error)
        raise UsageError(
            f"the state directory {directory} cannot be used: {why}; give another one with --state-dir"
        ) from error


def _run_by_another(job: str) -> RefusedError:
    return RefusedError(f"job {job} is being run by another process; see `kvbatch status {job}`")


def check_not_run(directory: Path, job: str) -> None:
    """Raises what `job_lock` would raise now; touches nothing."""
    with _usable(directory):
        held = _is_held(_lock_path(directory, job))
    if held:
        raise _run_by_another(job)


@contextmanager
def job_lock(directory: Path, job: str) -> Iterator[None]:
    """Holds the job for this process. Raises RefusedError when another one runs it."""
    path = _lock_path(directory, job)
    give_up = time.monotonic() + _LOOKED_AT_SECONDS
    while True:
        with _usable(directory):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = path.open("a+")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if time.monotonic() < give_up:
                    time.sleep(0.01)
                    continue
                raise _run_by_another(job) from error
            # Its last holder may have removed the file between our open and our lock.
            if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
                continue
            try:
                yield
            finally:
                # Its disk may be read-only by now; the lock ends with the file in any case.
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            return
