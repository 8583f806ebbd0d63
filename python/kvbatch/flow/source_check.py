"""`--throttle-check`: asks somebody who knows whether the source can bear the job at the moment."""

from __future__ import annotations

import base64
import contextlib
import os
import select
import signal
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable
from typing import NamedTuple

from kvbatch.errors import UsageError

__all__ = ["Check", "SourceCheck"]

# A shell command (exit 0 is ok), an http:// or https:// URL (2xx is ok), or a callable (truth is ok).
Check = str | Callable[[], object]

CHECK_SECONDS = 1.0
TIMEOUT_SECONDS = 5.0
# Of what a check answers, the end is shown.
_SHOWN_BYTES = 200
_LOOK_SECONDS = 0.05
# How long the end of the job waits for a callable that does not return.
_STOP_SECONDS = 1.0


_COMMAND_NOT_FOUND = 127
_UNKNOWN = "has not answered yet"


class _TimedOutError(Exception):
    pass


class _Complaint(NamedTuple):
    """How a check ended that is not well, and behind it what it said, which may differ each time."""

    outcome: str
    said: str = ""


class SourceCheck:
    """Asks `check` every `interval` seconds in a thread of its own. An answer that is not ok, an error, or no answer
    within `timeout` seconds hold the job back until an answer is ok again; so does the first answer until it is there.
    """

    def __init__(self, check: Check, *, interval: float = CHECK_SECONDS, timeout: float = TIMEOUT_SECONDS) -> None:
        """Raises UsageError for what is no check."""
        self._name, self._ask = self._way(check)
        self._interval = interval
        self._timeout = timeout
        self._lock = threading.Lock()
        self._complaint: _Complaint | None = _Complaint(_UNKNOWN)
        self._asked_at: float | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kvbatch-source-check", daemon=True)

    def _way(self, check: Check) -> tuple[str, Callable[[], _Complaint | None]]:
        if callable(check):
            return f"throttle check {getattr(check, '__qualname__', repr(check))}", lambda: _ask_callable(check)
        if not isinstance(check, str) or not check.strip():
            raise UsageError(
                f"throttle check {check!r}: give a shell command, an http:// or https:// URL or a callable"
            )
        if not check.lower().startswith(("http://", "https://")):
            return f"throttle check {check!r}", lambda: self._ask_command(check)
        url = urllib.parse.urlsplit(check)
        if not url.hostname:
            raise UsageError(f"throttle check {check!r}: the URL names no host")
        # What stands before the host or behind the path may be secret.
        plain = url._replace(netloc=url.netloc.rpartition("@")[2])
        shown = plain._replace(query="", fragment="").geturl()
        return f"throttle check {shown}", lambda: self._ask_url(plain.geturl(), _credentials(url))

    def start(self) -> SourceCheck:
        self._thread.start()
        return self

    @property
    def reason(self) -> str | None:
        """Why the job has to wait, with what the check answered; None while the source is fine. From any thread."""
        complaint = self._current()
        return complaint and f"{self._name} {complaint.outcome}{complaint.said}"

    @property
    def outcome(self) -> str | None:
        """Of the reason what stays the same while a check only says something else, such as another figure; None while
        the source is fine or nothing is known yet. From any thread."""
        complaint = self._current()
        return complaint.outcome if complaint is not None and complaint.outcome != _UNKNOWN else None

    def _current(self) -> _Complaint | None:
        with self._lock:
            # No thread can be made to give up a callable.
            if self._asked_at is not None and time.monotonic() - self._asked_at > self._timeout:
                return self._silence
            return self._complaint

    @property
    def _silence(self) -> _Complaint:
        return _Complaint(f"gave no answer within {self._timeout:g} s")

    def close(self) -> None:
        """Ends the thread, and a command that runs."""
        self._stopping.set()
        self._thread.join(_STOP_SECONDS)

    def __enter__(self) -> SourceCheck:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            asked_at = time.monotonic()
            with self._lock:
                self._asked_at = asked_at
            try:
                complaint = self._ask()
                if time.monotonic() - asked_at > self._timeout:
                    complaint = self._silence
            except _TimedOutError:
                complaint = self._silence
            except (Exception, SystemExit) as error:  # whatever goes wrong in somebody else's check is an answer
                complaint = _Complaint("failed", f": {type(error).__name__}: {error}")
            with self._lock:
                self._complaint, self._asked_at = complaint, None
            self._stopping.wait(self._interval)

    def _ask_command(self, command: str) -> _Complaint | None:
        # In a process group of its own, so that what the shell started can be ended with it.
        with subprocess.Popen(
            command,
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            try:
                said = self._follow(process, process.stdout.fileno())
            finally:
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
        if process.returncode == 0:
            return None
        ended = f"exited with {process.returncode}" if process.returncode > 0 else f"died of {-process.returncode}"
        if process.returncode == _COMMAND_NOT_FOUND:
            ended += ", command not found"
        return _Complaint(ended, _shown(said))

    def _follow(self, process: subprocess.Popen[bytes], output: int) -> bytes:
        """The end of what the process says until it exits; what it left running may say what it likes."""
        said = b""
        deadline = time.monotonic() + self._timeout
        while True:
            exited = process.poll() is not None
            readable = bool(select.select([output], [], [], 0 if exited else _LOOK_SECONDS)[0])
            piece = os.read(output, 1 << 16) if readable else b""
            said = (said + piece)[-_SHOWN_BYTES:]
            if exited and not piece:
                return said
            if time.monotonic() > deadline or self._stopping.is_set():
                if exited:
                    return said
                raise _TimedOutError
            if readable and not piece:  # it closed its output and goes on
                self._stopping.wait(_LOOK_SECONDS)

    def _ask_url(self, url: str, credentials: str | None) -> _Complaint | None:
        # Its import takes as long as a dozen others, and hardly a job needs it.
        import urllib.error
        import urllib.request

        request = urllib.request.Request(url)
        if credentials is not None:
            # Where the answer leads elsewhere they do not go along.
            request.add_unredirected_header("Authorization", credentials)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as answer:
                # Redirections were followed, and all but 2xx raised.
                answer.read(_SHOWN_BYTES)
                return None
        except urllib.error.HTTPError as error:
            with error:
                return _Complaint(f"answered {error.code}", _shown(error.read(_SHOWN_BYTES)))
        except TimeoutError as error:
            raise _TimedOutError from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise _TimedOutError from error
            return _Complaint(f"failed: {error.reason}")


def _credentials(url: urllib.parse.SplitResult) -> str | None:
    """The user and password of a URL as RFC 7617 sends them."""
    if url.username is None:
        return None
    both = f"{urllib.parse.unquote(url.username)}:{urllib.parse.unquote(url.password or '')}"
    return "Basic " + base64.b64encode(both.encode()).decode()


def _ask_callable(check: Callable[[], object]) -> _Complaint | None:
    answer = check()
    return None if answer else _Complaint("answered", f" {answer!r}"[:_SHOWN_BYTES])


def _shown(said: bytes) -> str:
    text = " ".join(said.decode(errors="replace").split())
    return f": {text}" if text else ""
