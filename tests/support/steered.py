"""A running migration that a test steers: what it said, and waiting until it stands where it should."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

import kvbatch

__all__ = ["LANES", "WAIT_SECONDS", "SteeredJob", "small_pieces", "until"]

WAIT_SECONDS = 60.0
LANES = ("batch", "sst", "files")
KIB = 1 << 10


def until(condition: Callable[[], object], what: str = "what was waited for") -> None:
    give_up = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < give_up, f"{what} did not come"
        time.sleep(0.01)


def small_pieces(monkeypatch: pytest.MonkeyPatch, piece_bytes: int = 16 * KIB) -> None:
    """Files travel in pieces of so many bytes, as both sides must agree: a job in the lane `files` heeds what it is
    told between two of them."""
    monkeypatch.setattr("kvbatch.job_stream.FILE_PIECE_BYTES", piece_bytes)
    monkeypatch.setattr("kvbatch.target_files._PIECE", piece_bytes)


class SteeredJob(AbstractContextManager["SteeredJob"]):
    """Small batches and ranges unless said otherwise; cancelled where a test leaves it running."""

    def __init__(self, source: Path, target: object, **options: Any) -> None:
        sizes = {"batch_bytes": 16 * KIB, "window": 4, "streams": 2, "range_bytes": 256 * KIB}
        self.migration = kvbatch.migrate(source, str(target), **{**sizes, **options})
        self.events: list[kvbatch.Event] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for event in self.migration.events():
            self.events.append(event)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.migration.cancel()
        with suppress(kvbatch.KvbatchError):
            self.migration.wait(WAIT_SECONDS)
        self._reader.join(WAIT_SECONDS)

    @property
    def progress(self) -> kvbatch.Progress:
        return self.migration.progress()

    def told(self, kind: str) -> list[dict[str, Any]]:
        """The data of its events of this kind so far."""
        return [event.data for event in list(self.events) if event.kind == kind]

    def until(self, condition: Callable[[kvbatch.Progress], object]) -> kvbatch.Progress:
        """Waits for progress that meets the condition. A job that ends before raises what ended it."""
        met: list[kvbatch.Progress] = []

        def look() -> bool:
            progress = self.progress
            if condition(progress):
                met.append(progress)
            elif self.told("done"):
                self.migration.wait(WAIT_SECONDS)
                raise AssertionError(f"the job was done before that: {progress}")
            return bool(met)

        until(look, "that progress")
        return met[0]

    def until_held(self, reason: str) -> kvbatch.Progress:
        """Until every stream waits for this reason."""
        return self.until(
            lambda progress: (
                progress.streams > 0
                and [stream.throttle for stream in progress.stream_progress] == [reason] * progress.streams
            )
        )

    def check_nothing_moves(self) -> None:
        """Over two more samples."""
        before, seen = self.progress, len(self.told("sample"))
        until(lambda: len(self.told("sample")) >= seen + 2)
        now = self.progress
        moved = (now.batches - before.batches, now.raw_bytes - before.raw_bytes)
        assert moved == (0, 0), f"batches and raw bytes of a job that was held: {moved}"
        # Heartbeats, and connections that come and go.
        assert now.wire_bytes - before.wire_bytes < 4 * KIB

    def finish(self, **changes: Any) -> kvbatch.Summary:
        """To the end, with other settings where they are given."""
        # It may have come there by itself.
        with suppress(kvbatch.RefusedError):
            if changes:
                self.migration.set(**changes)
        summary = self.migration.wait(WAIT_SECONDS)
        self._reader.join(WAIT_SECONDS)
        return summary
