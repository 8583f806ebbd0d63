"""What a running job keeps in the state directory."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from kvbatch.errors import UsageError
from kvbatch.logs import get_logger
from kvbatch.sent_log import SentLog
from kvbatch.state import JobRecord, StateStore, sent_path

__all__ = ["JobRecorder"]

log = get_logger("kvbatch.state")

T = TypeVar("T")


class JobRecorder:
    """Keeps a job's record. Where that fails the job goes on: it costs history, not data, and is told once."""

    def __init__(self, directory: Path, job: str, on_lost: Callable[[str], None]) -> None:
        """Raises UsageError when the directory cannot be used from the start. `on_lost` gets the message that tells of
        a later failure, in whatever thread met it."""
        self._directory = directory
        self._job = job
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._lost = False
        self._state = StateStore(directory)

    def _lose(self, error: BaseException | None) -> None:
        with self._lock:
            already, self._lost = self._lost, True
        if already:
            return
        message = (
            f"the state directory {self._directory} cannot be used any more: {error}. The job goes on; what `kvbatch "
            "status` says of it and resent_bytes may be wrong from now on, no data is lost"
        )
        log.warning("state directory lost", job=self._job, message=message)
        self._on_lost(message)

    def start(self, source: str, target: str, fingerprint: str) -> None:
        self._keep(lambda: self._state.start(self._job, source, target, fingerprint))

    def find(self) -> JobRecord | None:
        return self._keep(lambda: self._state.find(self._job))

    def update(self, **columns: Any) -> None:
        """Tried after a failure too: what the job came to counts most, and its disk may have room again."""
        self._keep(lambda: self._state.update(self._job, **columns))

    def sample(self, progress: dict[str, Any]) -> None:
        if not self._lost:
            self.update(progress=progress)

    def forget(self) -> None:
        # After a failure nobody knows whether the record is older than this run.
        if not self._lost:
            self._keep(lambda: self._state.forget(self._job))

    def _keep(self, act: Callable[[], T]) -> T | None:
        try:
            return act()
        except UsageError as error:
            self._lose(error.__cause__)
            return None

    @property
    def _sent_path(self) -> Path:
        return sent_path(self._directory, self._job)

    def sent_log(self, ranges: int, *, anew: bool) -> SentLog:
        return SentLog(self._sent_path, ranges, anew=anew, on_lost=self._lose)

    def remove_sent_log(self) -> None:
        with contextlib.suppress(OSError):
            self._sent_path.unlink(missing_ok=True)

    def close(self) -> None:
        self._state.close()
