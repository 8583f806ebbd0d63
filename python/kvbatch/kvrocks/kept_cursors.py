"""Where a job stands at a Kvrocks server, which keeps no records of it: in the sender's state directory.

A cursor is kept after the replies that speak for it, so that a resumed job goes on behind what the server has applied:
what was under way is sent again, which changes nothing there, as every batch puts what stands in the source.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvbatch._core.store import Cursor
from kvbatch.errors import TargetError, UsageError
from kvbatch.manifest import Manifest
from kvbatch.state import StateStore, existing_state

__all__ = ["KeptCursors", "KeptJob", "find_kept"]


@dataclass(frozen=True, slots=True)
class KeptJob:
    """`sequence`: the server's when the job began, to which each entry adds one at least. `broken`: what the server
    said when a batch of this job broke it, or nothing. `finished`: everything is there."""

    target: str
    manifest: Manifest
    sequence: int
    broken: str
    finished: bool
    cursors: tuple[Cursor, ...]

    def is_of(self, target: str, manifest: Manifest) -> bool:
        """Whether it is that of this source, of what of it is selected, and of this target."""
        return (
            self.target == target
            and self.manifest.fingerprint == manifest.fingerprint
            and self.manifest.selection == manifest.selection
        )

    @property
    def least_sequence(self) -> int:
        """Of a server that has all that it answered to."""
        return self.sequence + sum(cursor.entries for cursor in self.cursors)


class KeptCursors:
    """Of one job. Thread-safe. What is kept outlives kill -9; a machine that loses its power may lose the newest."""

    def __init__(self, directory: Path, job: str) -> None:
        """Raises UsageError when the state directory cannot be used."""
        self._job = job
        self._state = StateStore(directory)

    def find(self) -> KeptJob | None:
        return _find(self._state, self._job)

    def begin(self, target: str, manifest: Manifest, sequence: int) -> None:
        """The job begins; nothing is kept of an earlier one of this name."""
        with self._kept() as database:
            database.execute("DELETE FROM server_cursors WHERE job = ?", (self._job,))
            database.execute(
                "INSERT OR REPLACE INTO server_jobs VALUES (?, ?, ?, ?, '', FALSE)",
                (self._job, target, manifest.encode(), sequence),
            )

    def note(self, cursors: list[Cursor]) -> None:
        rows = [
            (self._job, each.range, each.complete, each.entries, each.raw_bytes, each.digest, each.last_key)
            for each in cursors
        ]
        with self._kept() as database:
            database.executemany("INSERT OR REPLACE INTO server_cursors VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def note_broken(self, said: str) -> None:
        """The job is never to send that server anything again."""
        with self._kept() as database:
            database.execute("UPDATE server_jobs SET broken = ? WHERE job = ?", (said, self._job))

    def note_finished(self) -> None:
        with self._kept() as database:
            database.execute("UPDATE server_jobs SET finished = TRUE WHERE job = ?", (self._job,))

    def close(self) -> None:
        self._state.close()

    @contextmanager
    def _kept(self) -> Iterator[Any]:
        """Raises TargetError: another state directory, which UsageError would ask for, knows nothing of this job."""
        try:
            with self._state.transaction() as database:
                yield database
        except UsageError as error:
            raise TargetError(
                f"where this job stands cannot be kept any more: {error.__cause__}. What the server has answered to is "
                "safe, and what was kept before is where it goes on"
            ) from error


def find_kept(directory: Path, job: str) -> KeptJob | None:
    """As KeptCursors.find, but makes no state directory where there is none."""
    with existing_state(directory) as state:
        return None if state is None else _find(state, job)


def _find(state: StateStore, job: str) -> KeptJob | None:
    with state.transaction() as database:
        row = database.execute("SELECT * FROM server_jobs WHERE job = ?", (job,)).fetchone()
        kept = database.execute("SELECT * FROM server_cursors WHERE job = ? ORDER BY range", (job,)).fetchall()
    if row is None:
        return None
    cursors = tuple(
        Cursor(
            each["range"],
            complete=bool(each["complete"]),
            entries=each["entries"],
            raw_bytes=each["raw_bytes"],
            digest=each["digest"],
            last_key=each["last_key"],
        )
        for each in kept
    )
    return KeptJob(
        row["target"],
        Manifest.decode(row["manifest"]),
        row["sequence"],
        row["broken"],
        bool(row["finished"]),
        cursors,
    )
