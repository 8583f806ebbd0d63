"""Discarding a job: what it wrote at its target goes, and what is kept of it here."""

from __future__ import annotations

import contextlib
import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvbatch.endpoints import DirectoryEndpoint, Endpoint, KvrocksEndpoint, parse_endpoint
from kvbatch.errors import RefusedError
from kvbatch.job_status import command, find_record
from kvbatch.options import default_state_dir
from kvbatch.protocol import connect, malformed_is_protocol_error
from kvbatch.state import JobRecord, JobState, StateStore, control_path, job_lock, sent_path
from kvbatch.target_discard import DiscardOutcome, JobIdentity, discard_directory

__all__ = ["Discarded", "check_discardable", "discard", "discard_target"]


@dataclass(frozen=True, slots=True)
class Discarded:
    """What `discard` did. `outcome`:

    "removed"  what stood at the target was the job's alone, and is gone
    "cursors"  the target may have held other data before; the entries that the job had written stay among it
    "entries"  what the job had sent to a Kvrocks server stays there; where it stood is forgotten
    "nothing"  nothing of the job stood at the target
    "store"    a store with data stands there that no job is unfinished in, maybe because this one was finished by a
               sender with another state directory; it stays as it is
    """

    job: str
    target: str
    outcome: DiscardOutcome

    def __str__(self) -> str:
        what = {
            DiscardOutcome.REMOVED: f"what it had written at {self.target} was removed",
            DiscardOutcome.CURSORS: f"its cursors were removed from {self.target}. The entries that it had written "
            "there stay: with --allow-nonempty they may stand among other data",
            DiscardOutcome.ENTRIES: f"what it had sent stays at {self.target}; a migration with --overwrite deletes it "
            "first",
            DiscardOutcome.NOTHING: f"nothing of it stood at {self.target}",
            DiscardOutcome.STORE: f"the store at {self.target} has no records of an unfinished job, and stays as it is",
        }
        return f"job {self.job} was discarded: {what[self.outcome]}"

    def to_json(self) -> dict[str, Any]:
        return {"job": self.job, "target": self.target, "outcome": self.outcome.value, "message": str(self)}


def check_discardable(record: JobRecord, state_dir: Path) -> None:
    """Raises RefusedError for a finished job."""
    if record.state == JobState.DONE:
        raise RefusedError(
            f"job {record.job} is done, and its target {record.target} an ordinary store. Nothing was changed: only an "
            f"unfinished job is discarded; `{command('status', record.job, state_dir)}` shows what it did"
        )


def discard(job: str, state_dir: str | os.PathLike[str] | None = None) -> Discarded:
    """Removes what an unfinished job wrote at its target, and its record and sent log in the state directory. The
    source is not touched. May be repeated after an error.

    Raises UsageError for a job that is not known; RefusedError for one that runs or is done, and where the target is
    the unfinished one of another job or holds anything else besides; TransportError when the receiver does not
    answer; TargetError. The record stays then.
    """
    directory = default_state_dir() if state_dir is None else Path(state_dir)
    record = find_record(job, directory)
    if record.alive:
        raise RefusedError(
            f"job {job} is {record.shown_state} in process {record.pid}. Nothing was changed; stop it first with "
            f"`{command('cancel', job, directory)}`"
        )
    with job_lock(directory, job):
        record = find_record(job, directory)
        check_discardable(record, directory)
        outcome = discard_target(parse_endpoint(record.target), JobIdentity(job, record.fingerprint))
        for left in (sent_path(directory, job), control_path(directory, job)):
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)
        with closing(StateStore(directory)) as state:
            state.forget(job)
    return Discarded(job, record.target, outcome)


def discard_target(target: Endpoint, identity: JobIdentity) -> DiscardOutcome:
    """The half of `discard` that concerns the target."""
    if isinstance(target, DirectoryEndpoint):
        return discard_directory(target.path, identity)
    if isinstance(target, KvrocksEndpoint):
        return DiscardOutcome.ENTRIES
    peer, _ = connect(target.host, target.port, "control")
    try:
        answer = peer.request("discard", name=target.name, job=identity.job, fingerprint=identity.fingerprint)
        with malformed_is_protocol_error(peer.name, "answer to discard"):
            return DiscardOutcome(answer["outcome"])
    finally:
        peer.close()
