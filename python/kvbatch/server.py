"""The receiver: `kvbatch serve`. One thread a connection; each job in a directory of its own below the root."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from kvbatch._core.frame import BufferPool, FrameLimits, FrameType, largest_entry
from kvbatch.at_exit import AT_EXIT_SECONDS, stop_at_exit
from kvbatch.endpoints import format_address, is_loopback, os_reason, standing_part
from kvbatch.errors import (
    ClosedError,
    KvbatchError,
    ProtocolError,
    RefusedError,
    TransportError,
    UsageError,
)
from kvbatch.flow.job_flow import HEARTBEAT_SECONDS
from kvbatch.logs import Logger
from kvbatch.manifest import Manifest
from kvbatch.options import ReceiverOptions
from kvbatch.protocol import (
    SENDER_SILENCE_MILLISECONDS,
    Peer,
    hello,
)
from kvbatch.receiver_control import CONTROL_LIMITS, ReceiverControl
from kvbatch.receiver_counters import ReceiverCounters
from kvbatch.receiver_session import Session, resolve_name
from kvbatch.receiver_stream import ReceiverStream
from kvbatch.receiver_visitors import LEAVING_SECONDS, Visitors
from kvbatch.target import FILE_PIECE_BYTES
from kvbatch.target_discard import DiscardOutcome, JobIdentity, discard_directory
from kvbatch.target_files import open_job
from kvbatch.target_local import AppliedRanges
from kvbatch.target_staging import CheckedFiles
from kvbatch.target_state import TargetState, examine_directory

__all__ = ["Receiver"]

log = Logger("kvbatch.receiver")

_FIRST_FRAME_MILLISECONDS = 30_000
# Whether a session of another sender has ended by itself is looked at so often.
_LOOK_SECONDS = 0.02
# A machine that acknowledges no heartbeat for so long is gone, or a network lies between that is: nobody there can
# write here.
_GONE_SECONDS = 4 * HEARTBEAT_SECONDS
# What a connection may send before it has said what it is.
_GREETING_LIMITS = FrameLimits(max_data_bytes=0, max_control_bytes=64 << 10)


def _make_root(root: Path) -> None:
    """Raises UsageError."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or str(error)
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            why = f"{standing_part(root)} is a file"
        raise UsageError(
            f"the root {root} cannot be a directory for targets: {why}. Nothing was changed; give a directory with "
            "--root"
        ) from error


class Receiver:
    """Listens, serves and stops. `serve_forever` blocks; `start` does not."""

    def __init__(
        self,
        root: str | os.PathLike[str],
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        max_memory: int | str = 256 << 20,
        insecure: bool = False,
    ) -> None:
        """Raises RefusedError for an address other than loopback without `insecure`, UsageError when it cannot
        listen."""
        options = ReceiverOptions.checked(root=root, host=host, port=port, max_memory=max_memory, insecure=insecure)
        if not insecure and not is_loopback(host):
            raise RefusedError(
                f"{host} can be reached from other machines and the connection is neither encrypted nor authenticated: "
                "pass --insecure if the network is trusted, or listen on 127.0.0.1"
            )
        self.root = options.root.absolute()
        try:
            self._socket = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except OSError as error:
            raise UsageError(
                f"listen on {format_address(host, port)}: {os_reason(error)}. Nothing was received; give "
                "another address with --listen, or stop what listens there"
            ) from error
        try:
            _make_root(self.root)
        except UsageError:
            self._socket.close()
            raise
        self.host, self.port = self._socket.getsockname()[:2]
        self._max_memory = options.max_memory
        self.pool = BufferPool(options.max_memory)
        self.limits = FrameLimits(max_data_bytes=largest_entry(options.max_memory), max_file_bytes=FILE_PIECE_BYTES)
        self.counters = ReceiverCounters()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._peers: dict[Peer, threading.Thread] = {}
        self._sessions: dict[str, Session] = {}
        self._opening: set[Path] = set()
        self.visitors = Visitors()
        self._checked = CheckedFiles()
        # Connections whose senders are to hear that this is alive, whatever it is at.
        self._greeted: set[Peer] = set()
        self._thread: threading.Thread | None = None
        stop_at_exit(self)

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Serves in a background thread until `stop`. Idempotent."""
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self.serve_forever, name="kvbatch-accept", daemon=True)
        self._thread.start()

    def serve_forever(self) -> None:
        """Accepts connections until `stop`."""
        threading.Thread(target=self._beat, name="kvbatch-heartbeat", daemon=True).start()
        while not self._stopping.is_set():
            try:
                sock, _ = self._socket.accept()
            except OSError:
                break
            try:
                peer = Peer(sock, _GREETING_LIMITS, self.pool)
            except OSError:
                sock.close()
                continue
            thread = threading.Thread(target=self._serve, args=(peer,), name=f"kvbatch-{peer.name}", daemon=True)
            with self._lock:
                # Behind the look that `stop` takes at the peers, nobody would end this one.
                stopping = self._stopping.is_set()
                if not stopping:
                    self._peers[peer] = thread
                    thread.start()
                    self.counters.count_connection()
            if stopping:
                peer.close()

    def _beat(self) -> None:
        """A thread that applies a frame, or waits for a stalled disk, says nothing; its sender would think it dead."""
        while not self._stopping.wait(HEARTBEAT_SECONDS):
            with self._lock:
                greeted = list(self._greeted)
            for peer in greeted:
                # Its own thread finds out what is wrong with it.
                with contextlib.suppress(KvbatchError):
                    peer.connection.try_send_control(FrameType.HEARTBEAT)

    def stop(self) -> None:
        """Stops accepting, makes durable what was applied, closes every job. Idempotent."""
        self._stop(threading.TIMEOUT_MAX)

    def stop_at_exit(self) -> None:
        self._stop(AT_EXIT_SECONDS)

    def _stop(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
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
                thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> Receiver:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def connections(self) -> int:
        """That are open."""
        with self._lock:
            return len(self._peers)

    @property
    def jobs(self) -> int:
        """That are open."""
        with self._lock:
            return len(self._sessions)

    # -- connections --------------------------------------------------------------------------------------------------

    def _serve(self, peer: Peer) -> None:
        try:
            self._converse(peer)
        except ClosedError:
            pass
        except KvbatchError as error:
            log.warning("connection ended", peer=peer.name, error=type(error).__name__, message=str(error))
            self.counters.count_error(error)
            peer.send_error(error)
            peer.linger()
        except Exception as error:  # a peer's nonsense must not take the receiver down
            log.exception("connection failed", peer=peer.name)
            failure = KvbatchError(f"the receiver failed: {error!r}")
            self.counters.count_error(failure)
            peer.send_error(failure)
            peer.linger()
        finally:
            peer.close()
            peer.release()
            with self._lock:
                self._peers.pop(peer, None)
                self._greeted.discard(peer)

    def _converse(self, peer: Peer) -> None:
        peer.connection.set_timeout(_FIRST_FRAME_MILLISECONDS)
        _, greeting = peer.receive(FrameType.HELLO)
        peer.connection.set_timeout(SENDER_SILENCE_MILLISECONDS)
        role = greeting.get("role")
        if role == "control":
            peer.connection.set_limits(CONTROL_LIMITS)
            peer.send(FrameType.WELCOME, hello("receiver", max_frame_bytes=self.limits.max_data_bytes))
            self._greet(peer)
            ReceiverControl(self, peer).run()
        elif role == "stream":
            with self._lock:
                session = self._sessions.get(str(greeting.get("session")))
            if session is None:
                raise TransportError("the session of this stream is over; open the job again")
            self._serve_stream(peer, session, greeting.get("window"))
        else:
            raise ProtocolError(f"unknown role {role!r}")

    def _greet(self, peer: Peer) -> None:
        with self._lock:
            self._greeted.add(peer)

    def _serve_stream(self, peer: Peer, session: Session, window: object) -> None:
        session.join(peer)
        peer.connection.set_limits(self.limits)
        ranges = AppliedRanges(session.job)
        try:
            with self.counters.stream() as counters:
                stream = ReceiverStream(peer, ranges, session.path, self.pool, window, counters)
                with contextlib.closing(stream):
                    peer.send(FrameType.WELCOME, hello("receiver"))
                    self._greet(peer)
                    stream.run()
        except ClosedError:
            pass  # the sender is done, or gone; what it sent is kept below
        finally:
            ranges.close()
            session.leave(peer)

    # -- sessions -----------------------------------------------------------------------------------------------------

    def open_job(self, name: str, manifest: Manifest, control: Peer, sender: str) -> Session:
        """Opens the job's directory. An older session of the same sender gives way: it was broken. Raises RefusedError
        while another job, or another sender of this one, has the directory."""
        path = resolve_name(self.root, name)
        with self._reserved(path):
            self._end_session(path, manifest.job, sender)
            self.visitors.wait(path, alone=True)
            job = open_job(path, manifest, self._checked, max_memory=self._max_memory)
            session = Session(path, job, control, sender)
            with self._lock:
                self._sessions[session.id] = session
        log.info("job opened", job=manifest.job, name=name, resumed=session.job.resumed, peer=control.name)
        return session

    def close_session(self, session: Session) -> None:
        session.close()
        self.forget_session(session)

    def forget_session(self, session: Session) -> None:
        """The session's directory is free for others."""
        with self._lock:
            self._sessions.pop(session.id, None)

    def examine(self, name: str, manifest: Manifest) -> TargetState:
        """What `open_job` would find; changes nothing. Raises what it would raise."""
        path = resolve_name(self.root, name)
        with self._reserved(path):
            session = self._session_of_job(path, manifest.job)
            if session is None:
                self.visitors.wait(path, alone=False)
                return examine_directory(path, manifest)
        manifest.check_resumes(session.job.manifest)
        return TargetState.resumable(session.job.manifest, (cursor.complete for cursor in session.job.reply(0).cursors))

    def discard(self, name: str, identity: JobIdentity) -> DiscardOutcome:
        """Removes what an unfinished job wrote. Raises RefusedError while it is being sent, and RefusedError and
        TargetError as `discard_directory` does."""
        path = resolve_name(self.root, name)
        with self._reserved(path):
            self._end_session(path, identity.job, None)
            self.visitors.wait(path, alone=True)
            outcome = discard_directory(path, identity)
        log.info("job discarded", job=identity.job, name=name, outcome=outcome.value)
        return outcome

    @contextlib.contextmanager
    def _reserved(self, path: Path) -> Iterator[None]:
        """Keeps other connections from opening `path`. Raises TransportError when one is at it: its turn comes."""
        with self._lock:
            if self._stopping.is_set():
                raise TransportError("the receiver is shutting down")
            if path in self._opening:
                raise TransportError(f"{path.relative_to(self.root)} is being opened by another connection")
            self._opening.add(path)
        try:
            yield
        finally:
            with self._lock:
                self._opening.discard(path)

    def _session_at(self, path: Path) -> Session | None:
        with self._lock:
            return next((session for session in self._sessions.values() if session.path == path), None)

    def _session_of_job(self, path: Path, job: str) -> Session | None:
        """The session that has `path`. Raises RefusedError when it is another job's."""
        session = self._session_at(path)
        if session is not None and session.job.manifest.job != job:
            raise RefusedError(
                f"{path.relative_to(self.root)} is in use by job {session.job.manifest.job!r}; wait for it or choose "
                "another name"
            )
        return session

    def _end_session(self, path: Path, job: str, sender: str | None) -> None:
        """Sees to it that no session has `path`: one of the same sender is closed, one of another may be about to end,
        as its sender was killed a moment ago, and one whose sender's machine is gone has ended. Raises RefusedError
        for what is left, and for another job's."""
        give_up = time.monotonic() + LEAVING_SECONDS
        while (session := self._session_of_job(path, job)) is not None:
            if session.ends or session.sender == sender or session.unheard_seconds > _GONE_SECONDS:
                self.close_session(session)
            elif time.monotonic() >= give_up:
                raise RefusedError(
                    f"{path.relative_to(self.root)} is being written by another sender of job {job!r}, connected from "
                    f"{session.peer_name}. Nothing was changed and that one goes on; wait for it, or stop it where it "
                    f"runs. If its machine is gone, try again in {_GONE_SECONDS:.0f} seconds"
                )
            else:
                time.sleep(_LOOK_SECONDS)

    def check_idle(self, path: Path) -> None:
        """Raises RefusedError while a job writes to `path`."""
        busy = self._session_at(path)
        if busy is not None:
            raise RefusedError(f"{path.name} is in use by job {busy.job.manifest.job!r}; wait until it is done")
