"""Control of a job that another process runs, or this one."""

from __future__ import annotations

import dataclasses
import os
import socket
import time
from pathlib import Path
from typing import Any

from kvbatch.control_protocol import (
    MAX_ANSWER_BYTES,
    ControlRequest,
    decode_answer,
    encode_line,
    peer_uid,
    short_address,
)
from kvbatch.errors import KvbatchError, RefusedError, TransportError, UsageError
from kvbatch.job_status import JobStatus, command, find_record
from kvbatch.options import default_state_dir
from kvbatch.state import JobRecord, JobState, control_path, find_job

__all__ = ["JobControl", "control"]

_ANSWER_SECONDS = 20.0
# A job that has its lock makes its socket next, and one that closes its socket ends next.
_BETWEEN_SECONDS = 5.0
_STOP_SECONDS = 120.0
_LOOK_SECONDS = 0.05


class _NobodyListensError(Exception):
    """There is no socket, or nobody behind it."""


class JobControl:
    """Control of one job through the state directory of its sender; made by `kvbatch.control`. Thread-safe.

    `pause`, `resume`, `set` and `cancel` need a process that runs the job. Where none does they raise RefusedError,
    which names the state and the command to type next; UsageError for a job that is not known; TransportError when the
    process does not answer. Each may be repeated.
    """

    def __init__(self, job: str, state_dir: Path) -> None:
        self.job = job
        self._state_dir = state_dir

    def __repr__(self) -> str:
        return f"JobControl({self.job!r}, {str(self._state_dir)!r})"

    def status(self) -> JobStatus:
        """In any state. What a running job does not answer, its record says, without the settings."""
        record = find_record(self.job, self._state_dir)
        if record.alive:
            try:
                return JobStatus.of(record, self._state_dir, self._exchange(ControlRequest("status")))
            except (_NobodyListensError, KvbatchError):
                record = find_record(self.job, self._state_dir)
        return JobStatus.of(record, self._state_dir)

    def pause(self) -> JobStatus:
        """Each stream waits behind the batch, or the piece of a file, that it is at, until `resume`; the job keeps its
        connections."""
        return self._ask(ControlRequest("pause"))

    def resume(self) -> JobStatus:
        """Ends a pause. A job that no process runs is carried on by `migrate` instead."""
        return self._ask(ControlRequest("resume"))

    def set(self, **changes: int | str) -> JobStatus:
        """Changes settings by their names: `rate_limit` and `source_read_rate` in bytes a second (0: none), `streams`,
        `batch_bytes`, `window`, `compression`, `max_memory`; sizes as bytes or text like `20MiB`. All of them or none:
        UsageError when one makes no sense."""
        if not changes:
            raise UsageError("nothing to set: name at least one setting and its new value")
        return self._ask(ControlRequest("set", changes))

    def cancel(self, timeout: float = _STOP_SECONDS) -> JobStatus:
        """Stops the job cleanly and waits until it has stopped; it stays resumable. Its state then is "stopped", or how
        else it ended meanwhile. Raises TransportError when it has not stopped `timeout` seconds later."""
        known = find_record(self.job, self._state_dir)
        self._ask(ControlRequest("cancel"))
        give_up = time.monotonic() + timeout
        while (record := find_job(self._state_dir, self.job)) is not None and record.alive:
            known = record
            if time.monotonic() >= give_up:
                raise TransportError(
                    f"job {self.job} was told to stop, and process {record.pid} has not come to its end within "
                    f"{timeout:.0f} s. Nothing is lost; `{self._command('status')}` says when it has"
                )
            time.sleep(_LOOK_SECONDS)
        if record is None:  # it had not come as far as its target, and nothing is kept of it
            record = dataclasses.replace(known, state=JobState.STOPPED, alive=False, error=None, progress={})
        return JobStatus.of(record, self._state_dir)

    def _ask(self, request: ControlRequest) -> JobStatus:
        give_up = time.monotonic() + _BETWEEN_SECONDS
        while (record := find_record(self.job, self._state_dir)).alive:
            try:
                return JobStatus.of(record, self._state_dir, self._exchange(request))
            except _NobodyListensError as error:
                if time.monotonic() >= give_up:
                    raise TransportError(
                        f"job {self.job} is {record.shown_state} in process {record.pid}, which has no control socket "
                        f"at {control_path(self._state_dir, self.job)} ({error}). Nothing was changed; `kill -INT "
                        f"{record.pid}` stops it, resumable"
                    ) from error
                time.sleep(_LOOK_SECONDS)
        raise self._not_running(request, record)

    def _not_running(self, request: ControlRequest, record: JobRecord) -> RefusedError:
        state = record.shown_state
        if state == JobState.DONE:
            return RefusedError(
                f"job {self.job} is done, there is nothing left to {request.verb}. "
                f"`{self._command('status')}` shows what it did"
            )
        why = f" ({record.error})" if state == JobState.FAILED and record.error else ""
        message = (
            f"job {self.job} is {state}{why}: no process runs it, so that there is nothing to {request.verb}. Nothing "
            "is lost"
        )
        if request.verb == "cancel":
            message += f"; `{self._command('cancel --discard')}` removes what it wrote"
        # Behind the last word, so that it can be taken as it stands.
        return RefusedError(f"{message}. Carry it on with: {JobStatus.of(record, self._state_dir).carry_on_line}")

    def _command(self, verb: str) -> str:
        return command(verb, self.job, self._state_dir)

    def _exchange(self, request: ControlRequest) -> dict[str, Any]:
        path = control_path(self._state_dir, self.job)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_ANSWER_SECONDS)
            try:
                with short_address(path) as address:
                    sock.connect(address)
            except (FileNotFoundError, ConnectionRefusedError) as error:
                raise _NobodyListensError(error.strerror) from error
            except PermissionError as error:
                raise self._not_ours() from error
            except OSError as error:
                raise self._unreachable(error) from error
            if os.geteuid() != 0 and peer_uid(sock) not in (0, os.geteuid()):
                raise self._not_ours()
            try:
                sock.sendall(encode_line(request.to_json()))
                line = _read_line(sock)
            except ConnectionError as error:
                raise _NobodyListensError(error.strerror or str(error)) from error
            except OSError as error:
                raise self._unreachable(error) from error
        return decode_answer(line)

    def _not_ours(self) -> RefusedError:
        return RefusedError(
            f"job {self.job} is run by another user, to whom {control_path(self._state_dir, self.job)} belongs. "
            "Nothing was changed; run the command as that user, or as root"
        )

    def _unreachable(self, error: OSError) -> TransportError:
        what = f"no answer within {_ANSWER_SECONDS:.0f} s" if isinstance(error, TimeoutError) else error.strerror
        return TransportError(
            f"job {self.job} does not answer at {control_path(self._state_dir, self.job)}: {what}. Its process may "
            f"hang or be stopped by SIGSTOP; nothing is lost, and `{self._command('status')}` shows what it recorded "
            "last"
        )


def _read_line(sock: socket.socket) -> bytes:
    """Raises ConnectionError when the other side closes before its end."""
    line = bytearray()
    while not line.endswith(b"\n"):
        data = sock.recv(MAX_ANSWER_BYTES)
        if not data or len(line) > MAX_ANSWER_BYTES:
            raise ConnectionError("the job ended the conversation")
        line += data
    return bytes(line)


def control(job: str, state_dir: str | os.PathLike[str] | None = None) -> JobControl:
    """Control of the job with this id that a process of this user runs on this machine. `state_dir` is that of its
    `migrate`, by default the XDG state directory."""
    return JobControl(job, default_state_dir() if state_dir is None else Path(state_dir))
