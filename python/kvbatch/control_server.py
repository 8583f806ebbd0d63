"""The control socket of a running job: one thread, which nobody who connects can hold up for long."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import selectors
import socket
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kvbatch.control_protocol import (
    MAX_REQUEST_BYTES,
    ControlRequest,
    decode_request,
    encode_error,
    encode_line,
    peer_uid,
    short_address,
)
from kvbatch.errors import KvbatchError, ProtocolError, RefusedError
from kvbatch.events import Progress
from kvbatch.logs import Logger
from kvbatch.state import JobState

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import DataclassInstance

__all__ = ["ControlServer", "Controllable", "controlled"]

log = Logger("kvbatch.control")

# Whoever has not said by then what he wants is not waited for any longer.
_CLIENT_SECONDS = 5.0
_MAX_CLIENTS = 32
# A request that is being fulfilled when the job ends gets this long.
_CLOSE_SECONDS = 5.0
# Between two tries when the process has no file descriptor left for another client.
_NO_DESCRIPTOR_SECONDS = 0.2


class Controllable(Protocol):
    """What the server needs of a migration. Every method returns soon and may be called from any thread."""

    @property
    def job(self) -> str: ...
    @property
    def settings(self) -> DataclassInstance:
        """Those that are valid now."""

    def progress(self) -> Progress:
        """Its `state` is that of this moment: "paused" as soon as `pause` has returned."""

    @property
    def finishing(self) -> bool:
        """Whether everything is at the target: too late for anything but `cancel`."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def set(self, **changes: Any) -> object:
        """Raises UsageError for what makes no sense, and changes nothing then."""

    def cancel(self) -> None: ...


@dataclass
class _Client:
    deadline: float
    request: bytearray = field(default_factory=bytearray)


class ControlServer:
    """Answers requests one after the other. Whoever makes it holds the job's lock: what stands at `path` then is what
    another process left that was killed."""

    def __init__(self, migration: Controllable, path: Path) -> None:
        self._migration = migration
        self._path = path
        self._cancelled = False
        self._selector = selectors.DefaultSelector()
        self._clients: dict[socket.socket, _Client] = {}
        self._listener: socket.socket | None = None
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name=f"kvbatch-control-{migration.job}", daemon=True)

    def start(self) -> None:
        """Raises OSError where no socket can be made. The job can do without one."""
        try:
            self._listen()
            self._thread.start()
        except BaseException:
            self._release()
            raise

    def _listen(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._path.parent.stat().st_uid == os.geteuid():
            self._path.parent.chmod(0o700)
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(self._path.lstat().st_mode):
                raise FileExistsError(f"{self._path} is no socket")
            self._path.unlink()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        with short_address(self._path) as address:
            self._listener.bind(address)
        # Nobody else gets to it until then: the directory is the owner's, and the kernel says who connects.
        self._path.chmod(0o600)
        self._listener.listen(_MAX_CLIENTS)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)

    def close(self) -> None:
        """No request is begun any more; one that is being fulfilled is waited for. Idempotent."""
        if self._thread.is_alive():
            self._wake.send(b"\0")
            self._thread.join(_CLOSE_SECONDS)
        if not self._thread.is_alive():
            self._release()

    def _release(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
        for client in list(self._clients):
            self._drop(client)
        self._selector.close()
        self._wake.close()
        self._woken.close()

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            now = time.monotonic()
            for sock in [sock for sock, client in self._clients.items() if client.deadline <= now]:
                self._drop(sock)
            due = min((client.deadline - now for client in self._clients.values()), default=None)
            for key, _ in self._selector.select(due):
                if key.fileobj is self._woken:
                    return
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._clients:
                    self._read(key.fileobj)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return  # gone again
        except OSError:
            time.sleep(_NO_DESCRIPTOR_SECONDS)
            return
        # Modes of files can be changed by mistake.
        if (uid := peer_uid(sock)) not in (0, os.geteuid()):
            log.warning("control refused", job=self._migration.job, uid=uid)
            sock.close()
            return
        if len(self._clients) >= _MAX_CLIENTS:
            self._drop(next(iter(self._clients)))  # which has taken longest
        sock.setblocking(False)
        self._clients[sock] = _Client(time.monotonic() + _CLIENT_SECONDS)
        self._selector.register(sock, selectors.EVENT_READ)

    def _read(self, sock: socket.socket) -> None:
        request = self._clients[sock].request
        try:
            data = sock.recv(MAX_REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        request += data
        line, end, _ = request.partition(b"\n")
        if end:
            self._send(sock, self._answer(bytes(line)))
        elif len(request) > MAX_REQUEST_BYTES:
            error = ProtocolError(f"the request is longer than {MAX_REQUEST_BYTES} bytes")
            self._send(sock, encode_error(error))
        elif not data:
            self._drop(sock)

    def _send(self, sock: socket.socket, answer: bytes) -> None:
        # The socket's buffer, empty until now, takes it whole, whether anybody reads it or not.
        with contextlib.suppress(OSError):
            sock.send(answer, socket.MSG_NOSIGNAL)
        self._drop(sock)

    def _drop(self, sock: socket.socket) -> None:
        del self._clients[sock]
        self._selector.unregister(sock)
        sock.close()

    # -- requests -----------------------------------------------------------------------------------------------------

    def _answer(self, line: bytes) -> bytes:
        try:
            self._fulfil(decode_request(line))
            progress = self._migration.progress()
            return encode_line(
                {
                    "ok": True,
                    "state": self._state_now(progress),
                    "settings": dataclasses.asdict(self._migration.settings),
                    "progress": dataclasses.asdict(progress),
                }
            )
        except KvbatchError as error:
            return encode_error(error)
        except Exception as error:  # nothing that is asked here may end the job, or the answers to others
            log.exception("control failed", job=self._migration.job)
            return encode_error(KvbatchError(f"job {self._migration.job} could not do that: {error!r}"))

    def _state_now(self, progress: Progress) -> str:
        if self._migration.finishing:
            return JobState.FINISHING
        return "stopping" if self._cancelled else progress.state

    def _fulfil(self, request: ControlRequest) -> None:
        migration = self._migration
        if request.verb == "cancel":
            self._cancelled = True
            migration.cancel()
            return
        if migration.finishing and request.verb != "status":
            raise RefusedError(
                f"job {migration.job} is finishing: everything is at the target, and it is too late to {request.verb} "
                f"it. `kvbatch status {migration.job}` says when it is done"
            )
        if self._cancelled and request.verb != "status":
            raise RefusedError(
                f"job {migration.job} is being stopped: it is too late to {request.verb} it. "
                f"`kvbatch status {migration.job}` says when it has stopped and what carries it on"
            )
        if request.verb == "pause":
            migration.pause()
        elif request.verb == "resume":
            migration.resume()
        elif request.verb == "set":
            migration.set(**request.changes)


@contextlib.contextmanager
def controlled(migration: Controllable, path: Path, on_unavailable: Callable[[str], None]) -> Iterator[None]:
    """A job that answers at `path` while the context lasts, within that of its lock. Where no socket can be made the
    job goes on without, and `on_unavailable` gets the message that says so."""
    server = ControlServer(migration, path)
    try:
        server.start()
    except OSError as error:
        on_unavailable(
            f"job {migration.job} cannot be controlled from another shell: no socket can be made at {path}: "
            f"{error.strerror or error}. The job goes on; a signal stops it"
        )
    try:
        yield
    finally:
        server.close()
