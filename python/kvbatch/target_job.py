"""TargetJob: a job as its target sees it. In-process targets and the receiver both run this code."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kvbatch._core.frame import Frame
from kvbatch._core.store import (
    CAN_GRAFT,
    RESERVED_COLUMN_FAMILY,
    ROCKSDB_VERSION,
    ApplyMode,
    Cursor,
    PartialFile,
    RangeApplier,
    SourceStore,
    TargetStore,
    describe_store,
)
from kvbatch.endpoints import standing_part
from kvbatch.errors import KvbatchError, ProtocolError, RefusedError, TargetError
from kvbatch.manifest import JOB_RECORD, Manifest
from kvbatch.ranges import REVERSE_COMPARATOR
from kvbatch.target_staging import staged_manifest, translate_os_errors

__all__ = [
    "Applier",
    "FileTotals",
    "Job",
    "OpenReply",
    "TargetJob",
    "check_takes_tables",
    "check_writable",
    "discarded_name",
    "family_with_data",
    "find_discarded",
    "is_unfinished",
]

# What RocksDB leaves when it dies before a new store has its CURRENT file.
_BIRTH_FILE = re.compile(r"LOCK|LOG(\.old\.\d+)?|IDENTITY|(MANIFEST|OPTIONS)-\d+|\d+\.(log|dbtmp)|\.kvbatch")
# What the state of a job may grow to by splitting.
MAX_RANGES = 20_000
_HEALTH_FIELDS = (
    "l0_files",
    "immutable_memtables",
    "pending_compaction_bytes",
    "delayed_write_rate",
    "write_stopped",
    "l0_slowdown_trigger",
    "l0_stop_trigger",
    "soft_pending_compaction_bytes",
    "hard_pending_compaction_bytes",
)
# What CURRENT of a store becomes when its job is discarded, until the rest is gone: see kvbatch.target_discard.
_DISCARDED = "kvbatch-discarded."


@dataclass(frozen=True, slots=True)
class OpenReply:
    """What a target answers to `open`: the plan that counts and how far it is."""

    identity: str
    resumed: bool
    family_ids: dict[str, int]
    manifest: Manifest
    cursors: tuple[Cursor, ...]
    max_frame_bytes: int
    # What an earlier session left of files that are grafted or were built by the sender; where ranges stand whose
    # grafted file is in the store: `complete` is whether `last_key` is of what stands over it.
    partial_files: tuple[PartialFile, ...] = ()
    grafts: tuple[Cursor, ...] = ()
    # What bounds `max_frame_bytes` where it is no receiver's --max-memory.
    frame_limit: str = ""

    def partial_file(self, range_id: int) -> PartialFile | None:
        return next((file for file in self.partial_files if file.range == range_id), None)

    def begun(self) -> dict[int, tuple[int, int]]:
        """Of those ranges, entries and bytes of keys and values that no cursor has yet, by estimate."""
        begun = {cursor.range: (cursor.entries, cursor.raw_bytes) for cursor in self.grafts}
        for file in self.partial_files:
            part = self.manifest.ranges[file.range]
            if part.file_bytes:
                share = min(1.0, file.length / part.file_bytes)
                begun[part.id] = (int(part.estimated_entries * share), int(part.estimated_bytes * share))
            else:
                # Of a file that is built nobody knows what it will hold.
                begun[part.id] = (0, file.length)
        return begun

    def graft(self, range_id: int) -> Cursor | None:
        return next((cursor for cursor in self.grafts if cursor.range == range_id), None)


@dataclass(frozen=True, slots=True)
class FileTotals:
    """What a sender says of a whole SST file: what it holds, and whether it is a file of the source's own (a graft)
    rather than one that the sender built."""

    entries: int
    raw_bytes: int
    last_key: bytes
    graft: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "entries": self.entries,
            "raw_bytes": self.raw_bytes,
            "last_key": self.last_key.hex(),
            "graft": self.graft,
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> FileTotals:
        return FileTotals(
            int(value["entries"]), int(value["raw_bytes"]), bytes.fromhex(value["last_key"]), bool(value["graft"])
        )


class Applier(Protocol):
    """What a target does with one range; see _core.store.RangeApplier, which does it for SST files and entries."""

    @property
    def applied(self) -> Cursor: ...
    @property
    def unfinished_bytes(self) -> int: ...
    @property
    def file_bytes(self) -> int:
        """How much of the present file has come."""

    def apply(self, frame: Frame) -> None: ...
    def open_file(self) -> int:
        """The file that pieces go into, open for writing; the applier owns it."""

    def add_piece(self, length: int, crc32c: int) -> None:
        """The next piece stands in the file."""

    def end_file(self, entries: int, raw_bytes: int, last_key: bytes, graft: bool) -> None: ...
    def finish(self, entries: int, raw_bytes: int, digest: bytes) -> None: ...
    def flush(self) -> None: ...
    def drain(self) -> None: ...
    def close(self) -> None:
        """The range is somebody else's from here on. Idempotent."""

    def take_durable(self) -> Cursor | None: ...


class Job(Protocol):
    """One job writing into one target. Thread-safe; each range is given to one applier at a time."""

    manifest: Manifest
    resumed: bool

    def reply(self, max_frame_bytes: int) -> OpenReply: ...
    def open_range(self, range_id: int, offset: int = 0) -> Applier:
        """Going on from its cursor. A range that is a file of the store, or whose next file was begun, goes on from
        `offset` in it, what the target has of it or 0. Raises ProtocolError when it is taken or done."""

    def release_range(self, range_id: int) -> None: ...
    def split(self, range_id: int, key: bytes) -> None:
        """What stands from `key` on in a range becomes a range of its own: see Manifest.split. Synced when it returns.
        Raises ProtocolError when the key does not lie in the range, behind its cursor."""

    def health(self) -> dict[str, int] | None:
        """How near the store is to making its writers wait: the fields of _core.store.TargetHealth. None where no store
        is open."""

    def finish(self) -> None:
        """Ends the job. Raises ProtocolError unless every range is complete."""

    def close(self) -> None:
        """Leaves the job as it stands, resumable."""


def is_unfinished(path: Path) -> bool:
    """Whether the store at `path` is the target of a job."""
    return any(family.name == RESERVED_COLUMN_FAMILY for family in describe_store(str(path)))


def family_with_data(path: Path) -> str | None:
    """The first column family of the store at `path` that is not empty."""
    store = SourceStore(str(path))
    names = [family.name for family in store.column_families]
    return next((name for name in names if store.first_and_last_key(name) is not None), None)


def discarded_name(job: str, fingerprint: str) -> str:
    """Whose remains they are, in a name that is a file's whatever a sender calls its job."""
    return _DISCARDED + hashlib.sha256(f"{job}\0{fingerprint}".encode(errors="surrogatepass")).hexdigest()[:32]


def find_discarded(names: Iterable[str]) -> str | None:
    """The name of that kind among these, if there is one."""
    return next((name for name in names if name.startswith(_DISCARDED)), None)


def _store_around(path: Path) -> Path | None:
    """The store whose directory a target lies in that is none itself: RocksDB knows nothing of it there, and what
    copies or removes the one takes the other along."""
    if (path / "CURRENT").exists():
        return None
    around = (parent for parent in path.resolve().parents if (parent / "CURRENT").exists())
    return next((parent for parent in around if any(parent.glob("MANIFEST-*"))), None)


def check_takes_tables(path: Path) -> None:
    """Raises RefusedError where this build's RocksDB takes no SST files that a database wrote."""
    if not CAN_GRAFT:
        raise RefusedError(
            f"the target {path}: RocksDB {ROCKSDB_VERSION}, which this build has, does not take files that a database "
            "wrote; 9.10 does. Nothing was changed; use --lane batch"
        )


def check_writable(path: Path, manifest: Manifest) -> None:
    """Raises RefusedError when a job must not write to `path`; changes nothing there."""
    if manifest.lane != "files" and (staged := staged_manifest(path)) is not None:
        manifest.check_resumes(staged)
    with translate_os_errors(f"look at the target {path}"):
        if (store := _store_around(path)) is not None:
            raise RefusedError(f"the target {path} lies inside the store {store}; choose a path outside of it")
        if path.is_symlink() and not path.exists():
            raise RefusedError(
                f"the target {path} is a symbolic link to {path.readlink()}, where nothing stands. Nothing was "
                "written; make a directory there, or name the target by its own path"
            )
        standing = standing_part(path)
        if not standing.is_dir():
            what = "is a file" if standing == path else f"cannot be made: {standing} is a file"
            raise RefusedError(f"the target {path} {what}; choose another path")
        names = [entry.name for entry in path.iterdir()] if standing == path else None
        if not os.access(standing, os.W_OK | os.X_OK):
            why = errno.EROFS if os.statvfs(standing).f_flag & os.ST_RDONLY else errno.EACCES
            raise RefusedError(
                f"the target {path} cannot be written: {standing}: {os.strerror(why)}. Nothing was written; "
                "change that, or choose another path"
            )
    if names is None:
        return
    if "CURRENT" not in names:
        foreign = [name for name in names if not _BIRTH_FILE.fullmatch(name)]
        if find_discarded(foreign) is not None:
            raise RefusedError(
                f"the target {path} holds what is left of a job that was being discarded; that job's `kvbatch cancel "
                "--discard JOB`, run again, removes the rest"
            )
        if foreign:
            raise RefusedError(
                f"the target {path} is not empty and no RocksDB directory "
                f"(it holds {foreign[0]!r}); choose another path"
            )
        return
    if is_unfinished(path) or manifest.allow_nonempty:
        return
    family = family_with_data(path)
    if family is not None:
        lane = " and --lane batch" if manifest.lane == "files" else ""
        raise RefusedError(
            f'the target {path} already holds data (column family "{family}"). Nothing was changed. If it is this '
            "source's copy, a sender with another --state-dir finished it, or one of the two was opened for writing "
            "since. Compare them with `kvbatch verify SOURCE TARGET`, choose another target, or pass "
            f"--allow-nonempty{lane} to write over it"
        )


class TargetJob:
    """One job writing into one directory. Thread-safe; each range is given to one applier at a time."""

    def __init__(self, path: Path, manifest: Manifest, max_memory: int = 0) -> None:
        """Opens or makes the store and takes up the job. `max_memory`: of this process, 0 for no bound. Raises
        RefusedError, TargetError."""
        check_writable(path, manifest)
        if manifest.lane == "sst" and any(part.file for part in manifest.ranges):
            check_takes_tables(path)
        with translate_os_errors(f"make {path.parent}"):
            path.parent.mkdir(parents=True, exist_ok=True)
        # The store must not be closed while another thread, a second sender's say, still asks it something.
        self._lock = threading.Lock()
        self._active: set[int] = set()
        default_family = next((family for family in manifest.families if family.name == "default"), None)
        self._store = TargetStore(
            str(path),
            sst_file_bytes=manifest.sst_file_bytes,
            default_family=default_family,
            max_memory=max_memory,
        )
        try:
            self._take_up(manifest)
        except BaseException:
            self._store.close()
            raise

    def _take_up(self, manifest: Manifest) -> None:
        record = self._store.get_record(JOB_RECORD)
        self.resumed = record is not None
        if record is not None:
            stored = Manifest.decode(record)
            manifest.check_resumes(stored)
            manifest = stored
        self._family_ids = {family.name: self._store.ensure_family(family) for family in manifest.families}
        if record is None:
            written = [
                part.id
                for part in manifest.ranges
                if manifest.allow_nonempty and self._store.has_data(part.column_family, part.start, part.end)
            ]
            manifest = dataclasses.replace(manifest, written_ranges=tuple(written))
            self._store.put_record(JOB_RECORD, manifest.encode())
        self.manifest = manifest

    def reply(self, max_frame_bytes: int) -> OpenReply:
        with self._lock:
            cursors = tuple(self._store.cursors())
            complete = {cursor.range for cursor in cursors if cursor.complete}
            grafts = tuple(cursor for cursor in self._store.grafts() if cursor.range not in complete)
            open_ranges = {part.id for part in self.manifest.ranges} - complete - {cursor.range for cursor in grafts}
            built = {part.id for part in self.manifest.ranges if not part.file}
            return OpenReply(
                identity=self._store.identity,
                resumed=self.resumed,
                family_ids=dict(self._family_ids),
                manifest=self.manifest,
                cursors=cursors,
                max_frame_bytes=max_frame_bytes,
                partial_files=tuple(file for file in self._store.partial_files(built) if file.range in open_ranges),
                grafts=grafts,
            )

    def open_range(self, range_id: int, offset: int = 0) -> RangeApplier:
        """The applier of a range, going on from its cursor, with `offset` bytes of its next file; behind its file where
        that is grafted and these are all of it. Raises ProtocolError when it is taken or done, or less is there."""
        if not 0 <= range_id < len(self.manifest.ranges):
            raise ProtocolError(f"the job has no range {range_id}")
        part = self.manifest.ranges[range_id]
        with self._lock:
            if range_id in self._active:
                raise ProtocolError(f"{part} is open in another stream")
            cursor = next((cursor for cursor in self._store.cursors() if cursor.range == range_id), Cursor(range_id))
            if cursor.complete:
                raise ProtocolError(f"{part} is complete already")
            mode = ApplyMode.WRITE if range_id in self.manifest.written_ranges else ApplyMode.INGEST
            family = self._family_ids[part.column_family]
            graft = next((cursor for cursor in self._store.grafts() if cursor.range == range_id), None)
            if graft is not None and offset == part.file_bytes:
                cursor, offset, grafted = graft, 0, True
            else:
                grafted = False
            applier = RangeApplier(
                self._store,
                family,
                part.start,
                part.end,
                mode,
                cursor,
                part.file,
                offset=offset,
                grafted=grafted,
            )
            self._active.add(range_id)
            return applier

    def release_range(self, range_id: int) -> None:
        with self._lock:
            self._active.discard(range_id)

    def split(self, range_id: int, key: bytes) -> None:
        with self._lock:
            manifest = self.manifest.split(range_id, key)
            if len(manifest.ranges) > MAX_RANGES:
                raise ProtocolError(f"the job has {len(self.manifest.ranges)} ranges and takes no more")
            part = self.manifest.ranges[range_id]
            reverse = any(
                family.name == part.column_family and family.comparator == REVERSE_COMPARATOR
                for family in manifest.families
            )
            cursor = next((cursor for cursor in self._store.cursors() if cursor.range == range_id), Cursor(range_id))
            before = max if not reverse else min
            first = [bound for bound in (part.start, cursor.last_key if cursor.entries else None) if bound is not None]
            inside = all(bound != key and before(bound, key) == key for bound in first)
            inside = inside and (part.end is None or (part.end != key and before(part.end, key) == part.end))
            if cursor.complete or not inside:
                raise ProtocolError(f"{part} cannot be split at {key.hex()}: it does not lie in what is still to come")
            self._store.put_record(JOB_RECORD, manifest.encode())
            self.manifest = manifest

    def health(self) -> dict[str, int]:
        with self._lock:
            health = self._store.health()
        return {name: int(getattr(health, name)) for name in _HEALTH_FIELDS}

    def finish(self) -> None:
        """Ends the job: every range complete, memtables in files, records dropped. Raises ProtocolError otherwise."""
        with self._lock:
            complete = {cursor.range for cursor in self._store.cursors() if cursor.complete}
            missing = [part for part in self.manifest.ranges if part.id not in complete]
            if missing:
                raise ProtocolError(f"the job cannot be finished: {missing[0]} is not complete")
            self._store.flush()
            self._store.drop_records()
            self._store.close()

    def close(self) -> None:
        """Leaves the job as it stands, resumable."""
        try:
            with self._lock:
                self._store.close()
        except KvbatchError as error:
            raise TargetError(f"close the target: {error}") from error
