"""Targets of every kind behind one face, and a small job to move there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kvbatch._core.frame import Frame
from kvbatch.endpoints import Endpoint
from kvbatch.manifest import Manifest
from kvbatch.target import TargetSession, TargetStream
from support.sender import SmallSource
from support.stores import Families, numbered

__all__ = ["BOUNDS", "ENTRIES", "TargetCase", "finish", "put_and_drain", "settle"]

ENTRIES: Families = {"default": numbered(600), "users": numbered(300, value=b"user-")}
BOUNDS = [("default", None, b"key-00000300"), ("default", b"key-00000300", None), ("users", None, None)]


def settle() -> None:
    """Waits until receivers of this process have let go of sessions that were closed: their threads are over."""
    for thread in threading.enumerate():
        if thread.name.startswith("kvbatch-127.0.0.1:"):
            thread.join(20)


@dataclass(frozen=True)
class TargetCase:
    """One kind of target: how a job is opened there, and the directory in which its data ends up."""

    kind: str
    endpoint: Endpoint
    path: Path
    open: Callable[[Manifest], TargetSession]

    def settle(self) -> None:
        settle()


def finish(target: TargetCase, source: SmallSource) -> None:
    """Opens the job, moves what is left of it and ends it."""
    target.settle()
    session = target.open(source.manifest)
    source.move(session)
    session.finish()
    session.close()


def put_and_drain(stream: TargetStream, frame: Frame, digest: bytes) -> None:
    """What a receiver has against a frame comes with one of the answers behind it."""
    stream.put(frame, digest)
    stream.drain()
