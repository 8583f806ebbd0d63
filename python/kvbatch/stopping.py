"""A request to stop, made in one thread and met by others."""

from __future__ import annotations

import threading
from typing import Protocol

from kvbatch.errors import StoppedError

__all__ = ["StopRequest"]


class Closable(Protocol):
    """A peer that another thread waits for."""

    def close(self) -> None: ...


class StopRequest:
    """Whoever works asks for it between two steps; whoever waits for a peer that is watched loses the connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made = threading.Event()
        self._peers: list[Closable] = []

    @property
    def made(self) -> bool:
        return self._made.is_set()

    def wait(self, seconds: float) -> None:
        """A pause that it ends."""
        self._made.wait(seconds)

    def make(self) -> None:
        self._made.set()
        with self._lock:
            peers = list(self._peers)
        for peer in peers:
            peer.close()

    def check(self) -> None:
        """Raises StoppedError once it was made."""
        if self.made:
            raise StoppedError("stopped on request")

    def watch(self, peer: Closable) -> None:
        """Has `make` close this peer, if it was not made already, which raises StoppedError."""
        with self._lock:
            self._peers.append(peer)
        self.check()

    def let_go(self) -> None:
        """`make` closes no peer that was watched so far: whoever works with those ends in good order."""
        with self._lock:
            self._peers.clear()
