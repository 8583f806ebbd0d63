"""What the parts of bench/flow_control.py share."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path

import kvbatch
from kvbatch._core.store import write_sample_store
from kvbatch.demo import receiver_process
from kvbatch.migration import Migration

MIB = 1 << 20


class FlowBench:
    def __init__(self, folder: Path, memory: Path, entries: int, long_entries: int, rounds: int, pairs: int) -> None:
        self.folder, self.memory = folder, memory
        self.rounds, self.pairs = rounds, pairs
        self._sizes = {"source": entries, "long": long_entries}
        self._runs = 0

    def source(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            write_sample_store(str(path), entries=self._sizes[name])
            os.sync()
        return path

    def new(self, name: str, place: Path | None = None) -> Path:
        """A path that nobody has used."""
        self._runs += 1
        return (place or self.folder) / f"{name}-{self._runs}"

    @contextlib.contextmanager
    def receiver(self, place: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
        """A receiver on an empty directory, which goes with it."""
        root = self.new("target", place)
        with receiver_process(root, *arguments) as started:
            yield started
        shutil.rmtree(root)
        # What this measurement left to the disk is not the next one's to pay.
        os.sync()


def ended(migration: Migration, seconds: float) -> bool:
    """Within so many seconds from now."""
    with contextlib.suppress(TimeoutError):
        migration.wait(seconds)
        return True
    return False


def ending_early(migration: Migration) -> None:
    migration.cancel()
    with contextlib.suppress(kvbatch.StoppedError):
        migration.wait()


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
