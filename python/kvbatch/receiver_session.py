"""A job that is open at a receiver."""

from __future__ import annotations

import secrets
import threading
from pathlib import Path

from kvbatch.endpoints import is_receiver_name
from kvbatch.errors import RefusedError, TransportError
from kvbatch.protocol import Peer
from kvbatch.target_job import Job

__all__ = ["Session", "resolve_name"]


def resolve_name(root: Path, name: str) -> Path:
    """The directory below `root` that `name` stands for. Raises RefusedError for anything that leads elsewhere."""
    if not is_receiver_name(name):
        raise RefusedError(f"{name!r} names no directory below the receiver's root")
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise RefusedError(f"{name!r} leads out of the receiver's root")
    for parent in path.parents:
        if parent == root:
            break
        if (parent / "CURRENT").exists():
            raise RefusedError(f"{name!r} lies inside the store {str(parent.relative_to(root))!r}; choose another name")
    return path


class Session:
    """A job that is open, and the connections that belong to it."""

    def __init__(self, path: Path, job: Job, control: Peer, sender: str) -> None:
        self.id = secrets.token_hex(8)
        self.path = path
        self.job = job
        self.sender = sender
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._streams: set[Peer] = set()
        self._control = control
        self._ending = False
        self._closing = False
        self._closed = threading.Event()

    @property
    def ends(self) -> bool:
        """Whether its sender is gone, or done with it."""
        return self._closing

    @property
    def unheard_seconds(self) -> float:
        """Since the sender's machine was last heard of, on any connection."""
        with self._lock:
            return min(peer.connection.unheard_seconds for peer in (self._control, *self._streams))

    @property
    def peer_name(self) -> str:
        return self._control.name

    def join(self, stream: Peer) -> None:
        with self._lock:
            if self._ending:
                raise TransportError("the session is closing")
            self._streams.add(stream)

    def leave(self, stream: Peer) -> None:
        with self._idle:
            self._streams.discard(stream)
            self._idle.notify_all()

    def end_streams(self) -> None:
        """Makes durable what the streams applied; no other joins. Idempotent."""
        with self._idle:
            self._ending = True
            for stream in self._streams:
                stream.close()
            self._idle.wait_for(lambda: not self._streams)

    def close(self) -> None:
        """Ends the streams, then the job. Idempotent; the store is free when it returns, whoever closed it."""
        with self._lock:
            already, self._closing = self._closing, True
        self.end_streams()
        if already:
            self._closed.wait()
            return
        try:
            self._control.close()
            self.job.close()
        finally:
            self._closed.set()
