"""The receiver: `kvbatch serve`. One thread a connection; each job in a directory of its own below the root."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from kvbatch._core.frame import BufferPool, Frame, FrameLimits, FrameType
from kvbatch._core.store import TargetStore
from kvbatch.errors import (
    ClosedError,
    KvbatchError,
    ProtocolError,
    RefusedError,
    TransportError,
    UsageError,
)
from kvbatch.manifest import Manifest
from kvbatch.protocol import Peer, cursor_to_json, decode_payload, hello
from kvbatch.ranges import optional_bytes
from kvbatch.store_reader import DirectoryReader
from kvbatch.target_job import TargetJob
from kvbatch.target_local import AppliedRanges

__all__ = ["Receiver", "resolve_name"]

log = structlog.get_logger("kvbatch.receiver")

_FIRST_FRAME_MILLISECONDS = 30_000
# One ack speaks for up to this many frames, fewer when the sender has nothing more under way.
_FRAMES_PER_ACK = 4
# A buffer this large served one large value and goes back to the pool at once.
_LARGE_FRAME_BYTES = 8 << 20
_LOOPBACK = ("127.", "::1", "localhost")


def resolve_name(root: Path, name: str) -> Path:
    """The directory below `root` that `name` stands for. Raises RefusedError for anything that leads elsewhere."""
    parts = name.split("/")
    if not name or any(part in ("", ".", "..") or part.startswith(".") or "\0" in part for part in parts):
        raise RefusedError(f"{name!r} names no directory below the receiver's root")
    path = root.joinpath(*parts)
    if not path.resolve().is_relative_to(root.resolve()):
        raise RefusedError(f"{name!r} leads out of the receiver's root")
    return path


class _Session:
    """A job that is open, and the connections that belong to it."""

    def __init__(self, path: Path, job: TargetJob, control: Peer) -> None:
        self.id = secrets.token_hex(8)
        self.path = path
        self.job = job
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._streams: set[Peer] = set()
        self._control = control
        self._closing = False

    def join(self, stream: Peer) -> None:
        with self._lock:
            if self._closing:
                raise TransportError("the session is closing")
            self._streams.add(stream)

    def leave(self, stream: Peer) -> None:
        with self._idle:
            self._streams.discard(stream)
            self._idle.notify_all()

    def close(self) -> None:
        """Ends the streams, which makes durable what they applied, then the job. Idempotent."""
        with self._idle:
            already, self._closing = self._closing, True
            for stream in self._streams:
                stream.close()
            self._idle.wait_for(lambda: not self._streams)
        if not already:
            self._control.close()
            self.job.close()


class Receiver:
    """Listens, serves and stops. `serve_forever` blocks; `start` does not."""

    def __init__(
        self,
        root: str | Path,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        max_memory: int = 256 << 20,
        insecure: bool = False,
    ) -> None:
        """Raises RefusedError for an address other than loopback without `insecure`, UsageError when it cannot
        listen."""
        if not insecure and not host.startswith(_LOOPBACK):
            raise RefusedError(
                f"{host} can be reached from other machines and the connection is neither encrypted nor authenticated: "
                "pass --insecure if the network is trusted, or listen on 127.0.0.1"
            )
        self.root = Path(root).absolute()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._socket = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except OSError as error:
            raise UsageError(f"listen on {host}:{port} with root {self.root}: {error.strerror or error}") from error
        self.host, self.port = self._socket.getsockname()[:2]
        self.pool = BufferPool(max_memory)
        # A compressed frame takes memory for both its forms.
        self.limits = FrameLimits(max_data_bytes=max_memory // 2)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._peers: dict[Peer, threading.Thread] = {}
        self._sessions: dict[str, _Session] = {}
        self._opening: set[Path] = set()
        self._thread: threading.Thread | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Serves in a background thread until `stop`. Idempotent."""
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self.serve_forever, name="kvbatch-accept", daemon=True)
        self._thread.start()

    def serve_forever(self) -> None:
        """Accepts connections until `stop`."""
        while not self._stopping.is_set():
            try:
                sock, _ = self._socket.accept()
            except OSError:
                break
            try:
                peer = Peer(sock, self.limits, self.pool)
            except OSError:
                sock.close()
                continue
            thread = threading.Thread(target=self._serve, args=(peer,), name=f"kvbatch-{peer.name}", daemon=True)
            with self._lock:
                self._peers[peer] = thread
            thread.start()

    def stop(self) -> None:
        """Stops accepting, makes durable what was applied, closes every job. Idempotent."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with self._lock:
            sessions = list(self._sessions.values())
            peers = dict(self._peers)
        for session in sessions:
            session.close()
        for peer in peers:
            peer.close()
        for thread in peers.values():
            if thread is not threading.current_thread():
                thread.join()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Receiver:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # -- connections --------------------------------------------------------------------------------------------------

    def _serve(self, peer: Peer) -> None:
        try:
            self._converse(peer)
        except ClosedError:
            pass
        except KvbatchError as error:
            log.warning("connection ended", peer=peer.name, error=type(error).__name__, message=str(error))
            peer.send_error(error)
        except Exception as error:  # a peer's nonsense must not take the receiver down
            log.exception("connection failed", peer=peer.name)
            peer.send_error(KvbatchError(f"the receiver failed: {error!r}"))
        finally:
            peer.close()
            with self._lock:
                self._peers.pop(peer, None)

    def _converse(self, peer: Peer) -> None:
        peer.connection.set_timeout(_FIRST_FRAME_MILLISECONDS)
        _, greeting = peer.receive(FrameType.HELLO)
        peer.connection.set_timeout(0)
        role = greeting.get("role")
        if role == "control":
            peer.send(FrameType.WELCOME, hello("receiver", max_frame_bytes=self.limits.max_data_bytes))
            _Control(self, peer).run()
        elif role == "stream":
            with self._lock:
                session = self._sessions.get(str(greeting.get("session")))
            if session is None:
                raise TransportError("the session of this stream is over; open the job again")
            self._serve_stream(peer, session)
        else:
            raise ProtocolError(f"unknown role {role!r}")

    def _serve_stream(self, peer: Peer, session: _Session) -> None:
        session.join(peer)
        ranges = AppliedRanges(session.job)
        try:
            peer.send(FrameType.WELCOME, hello("receiver"))
            _Stream(peer, ranges, self.pool).run()
        except ClosedError:
            pass  # the sender is done, or gone; what it sent is kept below
        finally:
            ranges.close()
            session.leave(peer)

    # -- sessions -----------------------------------------------------------------------------------------------------

    def open_job(self, name: str, manifest: Manifest, control: Peer) -> _Session:
        """Opens the job's directory. An older session of the same job gives way: its sender is gone, or was told to
        start anew. Raises RefusedError when another job has the directory."""
        path = resolve_name(self.root, name)
        with self._lock:
            if self._stopping.is_set():
                raise TransportError("the receiver is shutting down")
            if path in self._opening:
                raise TransportError(f"{name} is being opened by another connection")
            self._opening.add(path)
            old = next((session for session in self._sessions.values() if session.path == path), None)
        try:
            if old is not None:
                if old.job.manifest.job != manifest.job:
                    raise RefusedError(
                        f"{name} is in use by job {old.job.manifest.job!r}; wait for it or choose another name"
                    )
                self.close_session(old)
            session = _Session(path, TargetJob(path, manifest), control)
            with self._lock:
                self._sessions[session.id] = session
        finally:
            with self._lock:
                self._opening.discard(path)
        log.info("job opened", job=manifest.job, name=name, resumed=session.job.resumed, peer=control.name)
        return session

    def close_session(self, session: _Session) -> None:
        session.close()
        with self._lock:
            self._sessions.pop(session.id, None)

    def check_idle(self, path: Path) -> None:
        """Raises RefusedError while a job writes to `path`."""
        with self._lock:
            busy = next((session for session in self._sessions.values() if session.path == path), None)
        if busy is not None:
            raise RefusedError(f"{path.name} is in use by job {busy.job.manifest.job!r}; wait until it is done")


class _Stream:
    """The receiving end of one stream."""

    def __init__(self, peer: Peer, ranges: AppliedRanges, pool: BufferPool) -> None:
        self._peer = peer
        self._ranges = ranges
        self._frame = Frame(pool)
        self._unacknowledged = 0
        self._digest = bytes(16)

    def run(self) -> None:
        """Serves frames until the sender closes (ClosedError) or something fails."""
        connection, frame = self._peer.connection, self._frame
        while True:
            connection.receive(frame)
            type_ = frame.type
            if type_ == FrameType.DATA:
                applier = self._ranges.current()
                if frame.range != applier.applied.range:
                    raise ProtocolError(f"data of range {frame.range} while range {applier.applied.range} is open")
                applier.apply(frame)
                self._digest = applier.applied.digest
                self._unacknowledged += 1
                if frame.raw_length >= _LARGE_FRAME_BYTES:
                    frame.release()
                if self._unacknowledged >= _FRAMES_PER_ACK or not connection.wait_readable(0):
                    self._acknowledge()
            elif type_ == FrameType.RANGE_BEGIN:
                self._ranges.begin(frame.range)
            elif type_ == FrameType.RANGE_END:
                totals = decode_payload(frame)
                self._acknowledge()
                self._ranges.finish(totals["entries"], totals["raw_bytes"], bytes.fromhex(totals["digest"]))
            elif type_ == FrameType.DRAIN:
                self._ranges.drain()
                self._acknowledge(drained=True)
            else:
                raise ProtocolError(f"{self._peer.name} sent {FrameType(type_).name} on a stream")

    def _acknowledge(self, *, drained: bool = False) -> None:
        durable = [cursor_to_json(cursor) for cursor in self._ranges.take_durable()]
        self._peer.send(
            FrameType.ACK,
            {"frames": self._unacknowledged, "digest": self._digest.hex(), "durable": durable, "drained": drained},
        )
        self._unacknowledged = 0


class _Control:
    """Answers the requests of one control connection."""

    def __init__(self, receiver: Receiver, peer: Peer) -> None:
        self._receiver = receiver
        self._peer = peer
        self._session: _Session | None = None
        self._reader: DirectoryReader | None = None
        self._operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "open": self._open,
            "finish": self._finish,
            "inspect": self._inspect,
            "digest": self._digest,
            "list": self._list,
            "repair": self._repair,
        }

    def run(self) -> None:
        try:
            while True:
                _, request = self._peer.receive(FrameType.REQUEST)
                operation = self._operations.get(str(request.get("operation")))
                if operation is None:
                    raise ProtocolError(f"unknown operation {request.get('operation')!r}")
                try:
                    answer = operation(request)
                except (KeyError, TypeError, ValueError) as error:
                    raise ProtocolError(f"malformed request {request.get('operation')!r}: {error!r}") from error
                self._peer.send(FrameType.REPLY, answer)
        finally:
            if self._session is not None:
                self._receiver.close_session(self._session)

    def _open(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._session is not None:
            raise ProtocolError("this connection has a job open already")
        self._session = self._receiver.open_job(request["name"], Manifest.from_json(request["manifest"]), self._peer)
        reply = self._session.job.reply(0)
        return {
            "session": self._session.id,
            "identity": reply.identity,
            "resumed": reply.resumed,
            "family_ids": reply.family_ids,
            "manifest": reply.manifest.to_json(),
            "cursors": [cursor_to_json(cursor) for cursor in reply.cursors],
        }

    def _finish(self, request: dict[str, Any]) -> dict[str, Any]:
        del request
        if self._session is None:
            raise ProtocolError("finish without an open job")
        self._session.job.finish()
        log.info("job finished", job=self._session.job.manifest.job)
        return {}

    def _inspect(self, request: dict[str, Any]) -> dict[str, Any]:
        path = resolve_name(self._receiver.root, request["name"])
        self._receiver.check_idle(path)
        self._reader = DirectoryReader(path)
        return {
            "column_families": self._reader.column_families(),
            "identity": self._reader.identity(),
            "unfinished": self._reader.unfinished(),
        }

    def _opened(self) -> DirectoryReader:
        if self._reader is None:
            raise ProtocolError("inspect a store first")
        return self._reader

    def _digest(self, request: dict[str, Any]) -> dict[str, Any]:
        start, end = optional_bytes(request["start"]), optional_bytes(request["end"])
        runs = self._opened().digest(request["column_family"], start, end, request["run_entries"])
        return {"runs": [(run.entries, run.raw_bytes, run.digest.hex(), run.last_key.hex()) for run in runs]}

    def _list(self, request: dict[str, Any]) -> dict[str, Any]:
        start, end = optional_bytes(request["start"]), optional_bytes(request["end"])
        limit = min(int(request["max_key_bytes"]), self._receiver.limits.max_control_bytes // 8)
        entries, complete = self._opened().list_entries(request["column_family"], start, end, limit)
        return {"entries": [(key.hex(), digest.hex()) for key, digest in entries], "complete": complete}

    def _repair(self, request: dict[str, Any]) -> dict[str, Any]:
        """Writes the DATA frames that follow, each answered, until one without entries."""
        path = resolve_name(self._receiver.root, request["name"])
        self._receiver.check_idle(path)
        self._reader = None
        store = TargetStore(str(path), create=False)
        try:
            self._peer.send(
                FrameType.REPLY, {"family_ids": {f.name: store.family_id(f.name) for f in store.column_families}}
            )
            frame = Frame(self._receiver.pool)
            while True:
                self._peer.connection.receive(frame)
                if frame.type != FrameType.DATA:
                    raise ProtocolError("a repair is made of data frames")
                if frame.entries == 0:
                    break
                store.write(frame)
                self._peer.send(FrameType.REPLY, {})
            store.flush()
        finally:
            store.close()
        return {}
