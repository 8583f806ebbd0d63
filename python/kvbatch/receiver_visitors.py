"""Who reads or repairs a store below a receiver's root, and how others wait for them to leave."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

__all__ = ["LEAVING_SECONDS", "Visitors"]

# How long whoever has a store is given to leave it by themselves: their peer may have been killed a moment ago, or have
# closed the connection behind which it now asks on another one.
LEAVING_SECONDS = 5.0


class Visitors:
    """Connections that have a store open without a job. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers: Counter[Path] = Counter()
        self._repairs: Counter[Path] = Counter()

    def wait(self, path: Path, *, alone: bool) -> None:
        """Until nobody repairs the store and, for who is to be `alone` with it, nobody reads it. For LEAVING_SECONDS at
        most: opening the store then tells who has it."""
        with self._changed:
            self._wait(path, alone=alone)

    def _wait(self, path: Path, *, alone: bool) -> None:
        self._changed.wait_for(
            lambda: not self._repairs[path] and not (alone and self._readers[path]), timeout=LEAVING_SECONDS
        )

    @contextlib.contextmanager
    def visit(self, path: Path, *, alone: bool) -> Iterator[None]:
        """Around what reads a store, or repairs it `alone`: waits as `wait`."""
        visits = self._repairs if alone else self._readers
        with self._changed:
            self._wait(path, alone=alone)
            visits[path] += 1
        try:
            yield
        finally:
            with self._changed:
                visits[path] -= 1
                self._changed.notify_all()
