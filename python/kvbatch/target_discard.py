"""Taking back what an unfinished job wrote at its target. In-process targets and the receiver both run this code.

What is removed is known to be the job's: the files that a staging directory's manifest names, or a store whose records
are this job's and that holds nothing else. A store that held data before the job loses its cursors alone.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from kvbatch._core.store import RESERVED_COLUMN_FAMILY, SourceStore, TargetStore, wal_directory
from kvbatch.errors import RefusedError, SourceError, TargetError
from kvbatch.manifest import JOB_RECORD, Manifest
from kvbatch.ranges import KeyRange
from kvbatch.target_job import discarded_name, family_with_data, find_discarded, is_unfinished
from kvbatch.target_records import read_records
from kvbatch.target_staging import Staging, remove_left_record, staged_manifest, translate_os_errors

__all__ = ["DiscardOutcome", "JobIdentity", "discard_directory"]

_STORE_FILE = re.compile(
    r"CURRENT|LOCK|LOG(\.old\.\d+)?|IDENTITY|(MANIFEST|OPTIONS)-\d+(\.dbtmp)?|\d+\.(sst|ldb|blob|log|dbtmp)|\.kvbatch"
)


class DiscardOutcome(StrEnum):
    """What stood at the target."""

    REMOVED = "removed"  # nothing but the job's, and nothing stands there now
    CURSORS = "cursors"  # other data, too: entries that the job wrote stay among it
    NOTHING = "nothing"  # nothing of the job
    ENTRIES = "entries"  # nobody but the sender knew of the job, and what it sent stays among other data
    STORE = "store"  # a store with data and no records of any job, which stays as it is


@dataclass(frozen=True, slots=True)
class JobIdentity:
    """Which job is meant. The same id may have been given to jobs of several sources."""

    job: str
    fingerprint: str

    def check(self, found: Manifest, where: Path) -> None:
        """Raises RefusedError when another job is found."""
        if (found.job, found.fingerprint) == (self.job, self.fingerprint):
            return
        what = f"job {found.job!r}" if found.job != self.job else f"a job {self.job!r} of another state of its source,"
        raise RefusedError(
            f"{where} holds the unfinished {what} of {found.source}, and not what job {self.job!r} wrote. Nothing was "
            "changed; remove it yourself if nobody wants it"
        )


def discard_directory(path: Path, identity: JobIdentity) -> DiscardOutcome:
    """Removes what the job wrote at `path`, which nobody may have open. Repeatable: what a kill leaves is removed by
    the next call. Raises RefusedError, having changed nothing, for another job's target, and whatever holds something
    that is not the job's; TargetError, NoSpaceError."""
    try:
        return _discard(path, identity)
    except SourceError as error:
        raise TargetError(
            f"the target {path} cannot be read, so that nobody can say whose it is: {error}. Nothing was changed; "
            "remove it yourself if nobody wants it"
        ) from error


def _discard(path: Path, identity: JobIdentity) -> DiscardOutcome:
    staged = staged_manifest(path)
    if staged is not None:
        identity.check(staged, path)
    # Where the store has its name already, it is finished but for what is left beside it.
    if staged is not None and not remove_left_record(path, staged):
        _remove_staging(path)
        return DiscardOutcome.REMOVED
    with translate_os_errors(f"look at the target {path}"):
        if not path.is_dir():
            return DiscardOutcome.NOTHING
        names = [entry.name for entry in path.iterdir()]
    if (left := find_discarded(names)) is not None:
        if left != discarded_name(identity.job, identity.fingerprint):
            raise RefusedError(f"{path} holds what is left of another discarded job. Nothing was changed")
        _check_files(path, [name for name in names if name != left])
        _remove_files(path, [name for name in names if name != left], left)
        return DiscardOutcome.REMOVED
    if "CURRENT" not in names:
        return DiscardOutcome.NOTHING
    manifest = _recorded_manifest(path) if is_unfinished(path) else None
    if manifest is None:
        # One without data was made for the job, or before it.
        return DiscardOutcome.NOTHING if family_with_data(path) is None else DiscardOutcome.STORE
    identity.check(manifest, path)
    if manifest.allow_nonempty:
        _drop_cursors(path, identity)
        return DiscardOutcome.CURSORS
    _remove_store(path, identity)
    return DiscardOutcome.REMOVED


def _recorded_manifest(path: Path) -> Manifest | None:
    record = read_records(path).get(JOB_RECORD)
    return None if record is None else Manifest.decode(record)


# What was found is looked at again under the lock that keeps others out: the job may have been finished meanwhile.


def _remove_staging(target: Path) -> None:
    staging = Staging(target)
    try:
        manifest = staged_manifest(target)
        if manifest is not None:
            staging.remove(manifest)
    finally:
        staging.close()
    if manifest is None:
        raise _just_finished(target)


def _drop_cursors(path: Path, identity: JobIdentity) -> None:
    store = TargetStore(str(path), create=False)
    try:
        record = store.get_record(JOB_RECORD)
        if record is None:
            raise _just_finished(path)
        identity.check(Manifest.decode(record), path)
        store.flush()
        store.drop_records()
    finally:
        store.close()


def _remove_store(path: Path, identity: JobIdentity) -> None:
    store = SourceStore(str(path))  # nobody can open it for writing as long as this is held
    if RESERVED_COLUMN_FAMILY not in [family.name for family in store.column_families]:
        raise _just_finished(path)
    manifest = _recorded_manifest(path)
    if manifest is None:
        raise _just_finished(path)
    identity.check(manifest, path)
    names = [entry.name for entry in path.iterdir()]
    _check_files(path, names)
    _check_entries(path, store, manifest)
    left = discarded_name(identity.job, identity.fingerprint)
    with translate_os_errors(f"remove {path}"):
        # From here on it is no store, and its name says whose remains these are. A full disk has room for a rename.
        (path / "CURRENT").rename(path / left)
    _remove_files(path, [name for name in names if name != "CURRENT"], left)


def _just_finished(path: Path) -> RefusedError:
    return RefusedError(f"the target {path} was just finished by another process. Nothing was changed")


def _check_entries(path: Path, store: SourceStore, manifest: Manifest) -> None:
    """Raises RefusedError when something stands in the store that the job cannot have written, or where it cannot have
    put it."""
    wal = Path(wal_directory(str(path)))
    if wal != path:
        raise RefusedError(f"the store {path} was there before the job: it keeps its WAL in {wal}. Nothing was changed")
    moved = {family.name for family in manifest.families}
    for name in (family.name for family in store.column_families):
        outside: list[KeyRange] = []
        if name in moved:
            outside = manifest.selection.outside(name)
        elif name == "default":  # every store has it
            outside = [KeyRange()]
        known = name in moved or name in ("default", RESERVED_COLUMN_FAMILY)
        if not known or any(store.list_entries(name, gap.start, gap.end, 1)[0] for gap in outside):
            raise RefusedError(
                f'{path} holds what job {manifest.job!r} did not write, the column family "{name}" or entries in it. '
                "Nothing was changed; remove the directory yourself if nobody wants it"
            )


def _check_files(path: Path, names: Iterable[str]) -> None:
    """Raises RefusedError when there is a file that neither RocksDB nor a job makes."""
    foreign = sorted(name for name in names if not _STORE_FILE.fullmatch(name))
    if foreign:
        raise RefusedError(
            f"{path} holds {foreign[0]!r}, which is not the job's. Nothing was changed; move it away and run the same "
            "command again, or remove the directory yourself"
        )


def _remove_files(path: Path, names: Iterable[str], last: str) -> None:
    """These and then `last`, and the directory itself where it is one and no link or mount point."""
    with translate_os_errors(f"remove {path}"):
        for name in names:
            entry = path / name
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
        (path / last).unlink(missing_ok=True)
        if not path.is_symlink() and not path.is_mount():
            path.rmdir()
