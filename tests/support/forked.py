"""Processes of kvbatch that are forked from one that has imported it.

A test suite starts the command line hundreds of times, and the import takes most of a short command's time. What is
forked is a process of its own in every respect that a test asks about: its id, its streams, environment and directory,
its signals, its memory, its exit. What the start itself does with signals and streams is tested with processes that are
executed.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NoReturn

from coverage import Coverage

__all__ = ["Forked", "end_forking", "run_forked"]

_PR_SET_PDEATHSIG = 1
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_STATUS = struct.Struct("=i")
_REQUEST_BYTES = 1 << 20


class Forked:
    """`python ARGUMENTS…` (`-m kvbatch …` or a script with its arguments) with the methods of subprocess.Popen that
    tests use; stdout and stderr are text. It dies with the process that started it, and begins `without` the
    capabilities of those numbers."""

    def __init__(
        self,
        arguments: Iterable[object],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        without: Collection[int] = (),
    ) -> None:
        self.args = [str(argument) for argument in arguments]
        self.returncode: int | None = None
        self.stdout: IO[str] | None = None
        self.stderr: IO[str] | None = None
        self._ended = threading.Event()
        status, theirs = socket.socketpair()
        with contextlib.ExitStack() as cleanup:
            cleanup.enter_context(theirs)
            streams = []
            for number, given in enumerate((stdin, stdout, stderr)):
                if given == subprocess.PIPE:
                    reading, writing = os.pipe()
                    cleanup.callback(os.close, writing)
                    file = os.fdopen(reading, encoding="utf-8")
                    if number == 1:
                        self.stdout = file
                    else:
                        self.stderr = file
                    streams.append(writing)
                elif given == subprocess.DEVNULL:
                    streams.append(os.open(os.devnull, os.O_RDWR))
                    cleanup.callback(os.close, streams[-1])
                else:
                    streams.append(number if given is None else given)
            request = {
                "arguments": self.args,
                "environment": dict(env or os.environ),
                "cwd": str(cwd or Path.cwd()),
                "covered": Coverage.current() is not None,
                "without": list(without),
            }
            _template().send(json.dumps(request).encode(), [*streams, theirs.fileno()])
        self.pid: int = _STATUS.unpack(status.recv(_STATUS.size))[0]
        threading.Thread(target=self._await_end, args=[status], daemon=True).start()

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *exc: object) -> None:
        for pipe in (self.stdout, self.stderr):
            if pipe is not None:
                pipe.close()
        self.wait()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        assert self.returncode is not None, "the process that forks kvbatch is gone"
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it said on the two streams, once it has ended."""
        said: dict[IO[str], str] = {}
        threads = [
            threading.Thread(target=lambda pipe=pipe: said.update({pipe: pipe.read()}), daemon=True)
            for pipe in (self.stdout, self.stderr)
            if pipe is not None
        ]
        for thread in threads:
            thread.start()
        self.wait(timeout)
        for thread in threads:
            thread.join()
        return (said[self.stdout] if self.stdout else "", said[self.stderr] if self.stderr else "")

    def _await_end(self, status: socket.socket) -> None:
        with status:
            if answer := status.recv(_STATUS.size):
                self.returncode = _STATUS.unpack(answer)[0]
        self._ended.set()


def run_forked(
    arguments: Iterable[object],
    *,
    timeout: float,
    stdin: int | None = None,
    cwd: Path | None = None,
    without: Collection[int] = (),
) -> subprocess.CompletedProcess[str]:
    """subprocess.run with captured text."""
    pipe = subprocess.PIPE
    with Forked(arguments, stdin=stdin, stdout=pipe, stderr=pipe, cwd=cwd, without=without) as process:
        try:
            stdout, stderr = process.communicate(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode is not None
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


class _Template:
    """The process that forks, as its parent sees it."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._requests.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _REQUEST_BYTES)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "support.forked", str(theirs.fileno())],
                cwd=Path(__file__).parents[1],
                pass_fds=[theirs.fileno()],
            )

    def send(self, request: bytes, descriptors: list[int]) -> None:
        socket.send_fds(self._requests, [request], descriptors)

    def close(self) -> None:
        self._requests.close()
        self._process.wait()


_started: list[_Template] = []
_starting = threading.Lock()


def _template() -> _Template:
    with _starting:
        if not _started:
            _started.append(_Template())
        return _started[0]


def end_forking() -> None:
    """Before coverage adds up what each process saw."""
    with _starting:
        for template in _started:
            template.close()
        _started.clear()


# What follows runs in the process that forks.


@dataclass
class _Request:
    arguments: list[str]
    environment: dict[str, str]
    cwd: str
    covered: bool  # whether coverage counts the lines that the test runs
    without: list[int]
    descriptors: list[int] = field(default_factory=list)


def _serve(requests: socket.socket) -> _Request:
    """Forks for each request. It returns in the child, so that whatever runs there ends as a program does."""
    children: dict[int, tuple[int, socket.socket]] = {}
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor != requests.fileno():
                poll.unregister(descriptor)
                pid, status = children.pop(descriptor)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(BrokenPipeError):
                    status.send(_STATUS.pack(code))
                status.close()
                os.close(descriptor)
                continue
            message, descriptors, _, _ = socket.recv_fds(requests, _REQUEST_BYTES, 4)
            if not message:
                _end(pid for pid, _ in children.values())
            *streams, last = descriptors
            status = socket.socket(fileno=last)
            pid = os.fork()
            if pid == 0:
                requests.close()
                status.close()
                for other, (_, their_status) in children.items():
                    os.close(other)
                    their_status.close()
                return _Request(**json.loads(message), descriptors=streams)
            for stream in streams:
                os.close(stream)
            status.send(_STATUS.pack(pid))
            process = os.pidfd_open(pid)
            children[process] = pid, status
            poll.register(process, select.POLLIN)


def _end(children: Iterable[int]) -> NoReturn:
    """The tests have ended, perhaps killed."""
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    sys.exit()


def _become(request: _Request) -> None:
    """What the interpreter and the shell do before a program's first line."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if not request.covered and (coverage := Coverage.current()):
        coverage.stop()
    for number, stream in enumerate(request.descriptors):
        os.dup2(stream, number)
        os.close(stream)
    _lay_down(request.without)
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.cwd)
    sys.stdin = sys.__stdin__ = _stream(0, "r", "strict")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _stream(1, "w", "strict")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _stream(2, "w", "backslashreplace")  # type: ignore[misc]


def _lay_down(capabilities: Iterable[int]) -> None:
    """capset(2): none of these is effective or permitted any more."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    # Effective, permitted and inheritable ones below 32, then those above.
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    for number in capabilities:
        for kind in range(3):
            sets[number // 32 * 3 + kind] &= ~(1 << number % 32)
    if libc.capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _stream(number: int, mode: str, errors: str) -> io.TextIOWrapper:
    binary = open(number, mode + "b", closefd=False)  # noqa: SIM115 - open until the process ends
    return io.TextIOWrapper(binary, encoding="utf-8", errors=errors, line_buffering=number == 2 or os.isatty(number))


def main() -> None:
    """Everything that a migration imports, now; then a fork for each request."""
    import structlog

    from kvbatch import cli

    del structlog, cli
    gc.collect()
    gc.freeze()  # its pages stay shared
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    _become(request)
    match request.arguments:
        case "-m", module, *rest:
            sys.argv = [module, *rest]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case script, *rest:
            sys.argv = [script, *rest]
            sys.path.insert(0, str(Path(script).parent))
            runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
