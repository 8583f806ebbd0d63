"""What a job would find at its target, told without touching anything there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from kvbatch.endpoints import DirectoryEndpoint, Endpoint, KvrocksEndpoint, StoreEndpoint
from kvbatch.errors import (
    CorruptionError,
    KvbatchError,
    ProtocolError,
    RefusedError,
    TargetError,
    TransportError,
    UsageError,
)
from kvbatch.findings import Finding
from kvbatch.kept_options import options_to_json, selection_words
from kvbatch.kvrocks.kept_cursors import find_kept
from kvbatch.manifest import JOB_RECORD, Manifest
from kvbatch.options import MigrationOptions
from kvbatch.protocol import connect, malformed_is_protocol_error
from kvbatch.state import JobRecord, JobState, find_job
from kvbatch.store_reader import StoreReader, open_reader
from kvbatch.target_files import examine_files, goes_by_files
from kvbatch.target_job import check_writable, family_with_data, is_unfinished
from kvbatch.target_records import read_records

__all__ = [
    "FINISHED_BEFORE",
    "TargetState",
    "examine_directory",
    "examine_target",
    "recorded_end",
    "summary_of_finished",
    "takes_whole_store",
]

# Of a job to a server.
FINISHED_BEFORE = "that the server still holds all of it was not looked at; with --overwrite it is sent anew"
TargetKind = Literal["empty", "resumable", "nonempty", "overwritten", "finished", "unknown"]
_COMPARED = "compared by its identity, not by its entries, as `kvbatch verify` does"
# Layout of the records: docs/resume.md.
_CURSOR_PREFIX = b"cursor/"
_COMPLETE = slice(1, 2)


@dataclass(frozen=True, slots=True)
class TargetState:
    """`kind` says what stands there:

    empty        nothing, or a store without entries
    resumable    this job, `ranges_complete` of its `ranges` done
    nonempty     other data, which the job may be written beside (`allow_nonempty`)
    overwritten  what is to be deleted first (`overwrite`); `reason` says where
    finished     what this job made of it: it is done
    unknown      nobody answered; `reason` says why

    `findings`: what was found out about a server, and what it means.
    """

    kind: TargetKind
    ranges_complete: int = 0
    ranges: int = 0
    reason: str = ""
    lane: str = ""  # of the job that is resumed, or was finished
    findings: tuple[Finding, ...] = ()

    def __str__(self) -> str:
        return {
            "empty": "nothing that could be overwritten",
            "resumable": f"resumes, {self.ranges_complete} of {self.ranges} ranges complete",
            "nonempty": "holds other data; its other keys stay (--allow-nonempty)",
            "overwritten": f"what it holds in {self.reason} is deleted first (--overwrite)",
            "finished": f"finished before: nothing will be moved; {self.reason or _COMPARED}",
            "unknown": f"unknown: {self.reason}",
        }[self.kind]

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "ranges_complete": self.ranges_complete,
            "ranges": self.ranges,
            "lane": self.lane,
            "message": str(self),
            **({"findings": [finding.to_json() for finding in self.findings]} if self.findings else {}),
        }

    @staticmethod
    def finished(summary: dict[str, Any]) -> TargetState:
        return TargetState("finished", lane=summary["lane"])

    @staticmethod
    def resumable(manifest: Manifest, complete: Iterable[bool]) -> TargetState:
        return TargetState("resumable", sum(complete), len(manifest.ranges), lane=manifest.lane)


def examine_directory(path: Path, manifest: Manifest) -> TargetState:
    """Raises what opening the job there would raise: RefusedError, TargetError."""
    if goes_by_files(path, manifest):
        staged = examine_files(path, manifest)
        return TargetState("empty") if staged is None else TargetState.resumable(*staged)
    check_writable(path, manifest)
    if not (path / "CURRENT").exists():
        return TargetState("empty")
    if not is_unfinished(path):
        return TargetState("nonempty" if manifest.allow_nonempty and family_with_data(path) else "empty")
    records = read_records(path)
    if JOB_RECORD not in records:
        return TargetState("empty")
    stored = Manifest.decode(records[JOB_RECORD])
    manifest.check_resumes(stored)
    cursors = [value for key, value in records.items() if key.startswith(_CURSOR_PREFIX)]
    return TargetState.resumable(stored, (value[_COMPLETE] == b"\1" for value in cursors))


def _ask_receiver(host: str, port: int, name: str, manifest: Manifest) -> TargetState:
    try:
        peer, _ = connect(host, port, "control")
        try:
            answer = peer.request("examine", name=name, manifest=manifest.to_json())
        finally:
            peer.close()
    except TransportError as error:
        return TargetState("unknown", reason=str(error))
    with malformed_is_protocol_error(peer.name, "answer to examine"):
        if answer["kind"] not in get_args(TargetKind):
            raise ValueError(f"unknown kind {answer['kind']!r}")
        complete, ranges = int(answer["ranges_complete"]), int(answer["ranges"])
        return TargetState(answer["kind"], complete, ranges, lane=str(answer["lane"]))


def _look(target: StoreEndpoint, manifest: Manifest) -> TargetState:
    if isinstance(target, DirectoryEndpoint):
        return examine_directory(target.path, manifest)
    return _ask_receiver(target.host, target.port, target.name, manifest)


def takes_whole_store(target: StoreEndpoint, manifest: Manifest) -> bool:
    """Whether the files of a whole store can be put there: nothing stands at the target, or that job's first files do.
    What else may be wrong with it is for the job itself to say. Raises UsageError for a host that does not exist."""
    try:
        state = _look(target, manifest)
    except (RefusedError, TargetError, ProtocolError, CorruptionError):
        return False
    return state.kind == "empty" or (state.kind == "resumable" and state.lane == "files")


def examine_target(target: StoreEndpoint, manifest: Manifest, options: MigrationOptions) -> TargetState:
    """What a run of the job would find. Raises RefusedError where it would be refused, TargetError, ProtocolError,
    UsageError for a host that does not exist."""
    try:
        return _look(target, manifest)
    except RefusedError:
        record = find_job(options.state_dir, manifest.job)
        summary = summary_of_finished(record, target, manifest.fingerprint, options)
        if summary is None:
            raise
        return TargetState.finished(summary)


def recorded_end(job: str, fingerprint: str, target: Endpoint, options: MigrationOptions) -> dict[str, Any] | None:
    """The summary of a job that is recorded as done, if the target still is the store that it finished, with entries
    and nobody's job in it. What a receiver would call a refusal need not be asked for then. None as well where the
    target cannot be looked at, or holds something else: what is wrong is for the job itself to say."""
    record = find_job(options.state_dir, job)
    if record is None or record.state != JobState.DONE:
        return None
    try:
        return summary_of_finished(record, target, fingerprint, options, settled=True)
    except KvbatchError:
        return None


def summary_of_finished(
    job: JobRecord | None, target: Endpoint, fingerprint: str, options: MigrationOptions, *, settled: bool = False
) -> dict[str, Any] | None:
    """What the recorded run of this job did, if the target still is the store that it finished, by RocksDB's identity
    of it; at a server, by what is kept of the job. `settled`: and if that has entries and no unfinished job, which of a
    server nobody says. Raises RefusedError where a store is what that run made of something else that it selected."""
    if job is None or job.fingerprint != fingerprint or job.summary is None:
        return None
    now = selection_words(options_to_json(options))
    # A record of an early kvbatch has no options.
    before = now if job.options is None else selection_words(job.options)
    if isinstance(target, KvrocksEndpoint):
        kept = find_kept(options.state_dir, job.job)
        # It is to be looked at anew each time whether the server holds anything.
        anew = options.overwrite and job.state == JobState.DONE
        if settled or anew or kept is None or not kept.finished or kept.target != str(target) or before != now:
            return None
        return job.summary
    if not _is_store(target, job.identity, settled=settled):
        return None
    # By its id alone a job of another selection would seem to be done.
    if before != now:
        raise RefusedError(
            f"job {job.job} was finished with {before or 'all of the source'}, and is to move {now or 'all of it'} "
            f"now. Nothing was changed; repeat the first command, or give this one another --job and another target "
            f"than {target}, or --allow-nonempty to write into that store too"
        )
    return job.summary


def _is_store(endpoint: StoreEndpoint, identity: str, *, settled: bool) -> bool:
    try:
        reader = open_reader(endpoint)
    except (UsageError, RefusedError):  # no store is there
        return False
    try:
        if reader.identity() != identity:
            return False
        return not settled or (not reader.unfinished() and _has_entries(reader))
    finally:
        reader.close()


def _has_entries(reader: StoreReader) -> bool:
    return any(reader.list_entries(family, None, None, 1)[0] for family in reader.column_families())
