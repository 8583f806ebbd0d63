"""What a running job keeps in the state directory."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from kvbatch.errors import UsageError
from kvbatch.events import EventBus
from kvbatch.kept_options import options_to_json
from kvbatch.logs import Logger
from kvbatch.options import MigrationOptions
from kvbatch.samples import HistoryWriter
from kvbatch.sent_log import SentLog
from kvbatch.state import JobRecord, StateStore, sent_path

__all__ = ["JobRecorder"]

log = Logger("kvbatch.state")

T = TypeVar("T")

_FLUSH_SECONDS = 2.0
# A locked database is waited for each time, and a full disk needs somebody to come.
_FLUSH_AFTER_FAILURE_SECONDS = 30.0
# Longer than a locked database is waited for.
_LAST_FLUSH_SECONDS = 15.0


class JobRecorder:
    """Keeps a job's record and its history. Where that fails the job goes on: it costs history, not data, and is told
    once."""

    def __init__(self, directory: Path, job: str, on_lost: Callable[[str], None]) -> None:
        """Raises UsageError when the directory cannot be used from the start. `on_lost` gets the message that tells of
        a later failure, in whatever thread met it."""
        self._directory = directory
        self._job = job
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._lost = False
        self._state = StateStore(directory)
        self._history = HistoryWriter(self._state, job)
        self._keeper: threading.Thread | None = None
        self._ended = threading.Event()

    def _lose(self, error: BaseException | None) -> None:
        with self._lock:
            already, self._lost = self._lost, True
        if already:
            return
        message = (
            f"the state directory {self._directory} cannot be used any more: {error}. The job goes on; what `kvbatch "
            "status` and `kvbatch report` say of it and resent_bytes may be wrong from now on, no data is lost"
        )
        log.warning("state directory lost", job=self._job, message=message)
        self._on_lost(message)

    def start(self, source: str, target: str, fingerprint: str, bus: EventBus) -> None:
        """The events of `bus` from now on, which end with the job, become its history."""
        self._keep(lambda: self._state.start(self._job, source, target, fingerprint))
        bus.listen(self._history.note)
        # A slow disk holds up nothing but this.
        self._keeper = threading.Thread(target=self._keep_history, name=f"kvbatch-history-{self._job}", daemon=True)
        self._keeper.start()

    def _keep_history(self) -> None:
        kept: bool | None = True
        while not self._ended.wait(_FLUSH_SECONDS if kept else _FLUSH_AFTER_FAILURE_SECONDS):
            kept = self._keep(self._flush)
        self._keep(self._flush)

    def _flush(self) -> bool:
        self._history.flush()
        return True

    def find(self) -> JobRecord | None:
        return self._keep(lambda: self._state.find(self._job))

    def update(self, **columns: Any) -> None:
        """Tried after a failure too: what the job came to counts most, and its disk may have room again."""
        if "progress" in columns:
            self._history.end(time.time(), columns["progress"])
        self._keep(lambda: self._state.update(self._job, **columns))

    def note_opened(self, options: MigrationOptions, *, identity: str, fingerprint: str) -> None:
        """The target is open. Options are kept from then on, and at once, since whoever carries the job on needs them
        however soon it ends; a run that finds its job finished leaves those that it was done with."""
        kept = options_to_json(options)
        self._keep(lambda: self._state.note_opened(self._job, kept, identity=identity, fingerprint=fingerprint))

    def note_options(self, options: MigrationOptions) -> None:
        """The target is open, and some of them are others now."""
        kept = options_to_json(options)
        self._keep(lambda: self._state.note_options(self._job, kept))

    def undo_start(self, before: JobRecord | None) -> None:
        """The target was never opened: nothing became of the run, and the record is as it was `before` it. A new job
        leaves none."""
        if before is not None:
            self._keep(lambda: self._state.put_back(before))
        # After a failure nobody knows whether the record is older than this run.
        elif not self._lost:
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
        """Once the job's last event is out."""
        self._ended.set()
        if self._keeper is not None:
            self._keeper.join(_LAST_FLUSH_SECONDS)
        self._state.close()
