"""FilesJob: a job of the lane `files` as its target sees it. Each range is a file of the store that is made."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from kvbatch._core.base import chain_file_piece, file_crc32c
from kvbatch._core.frame import Frame
from kvbatch._core.store import (
    Cursor,
    ImportedFile,
    SourceStore,
    TargetStore,
    check_table_file,
)
from kvbatch.errors import CorruptionError, ProtocolError, RefusedError, SourceError, TargetError, UsageError
from kvbatch.manifest import JOB_RECORD, Manifest
from kvbatch.options import MAX_STREAMS, default_streams
from kvbatch.ranges import Range
from kvbatch.source_image import is_table
from kvbatch.target import FILE_PIECE_BYTES
from kvbatch.target_job import Job, OpenReply, TargetJob, check_takes_tables, check_writable, is_unfinished
from kvbatch.target_records import read_records
from kvbatch.target_staging import (
    CheckedFiles,
    Staging,
    check_unclaimed,
    remove_left_record,
    staged_manifest,
    staging_path,
    translate_os_errors,
)

__all__ = ["FileApplier", "FilesJob", "examine_files", "goes_by_files", "open_job"]

_PIECE = FILE_PIECE_BYTES


def goes_by_files(path: Path, manifest: Manifest) -> bool:
    """Whether the job at `path` is, or will be, one of files: a lane that nobody asked for by name gives way to that of
    the unfinished job which stands there."""
    if manifest.lane_forced:
        return manifest.lane == "files"
    if staged_manifest(path) is not None:
        return True
    return manifest.lane == "files" and not ((path / "CURRENT").exists() and is_unfinished(path))


def open_job(path: Path, manifest: Manifest, checked: CheckedFiles | None = None, *, max_memory: int = 0) -> Job:
    """Takes up or resumes a job at `path`. `checked`: what this process knows of files that it received before.
    `max_memory`: what it may take, 0 for no bound. Raises RefusedError, TargetError."""
    # A job of files that is finished already will be refused, maybe in another lane, and leaves nothing behind.
    remove_left_record(path, manifest)
    if goes_by_files(path, manifest):
        return FilesJob(path, manifest, checked or CheckedFiles(), max_memory)
    return TargetJob(path, manifest, max_memory)


def _check_place(path: Path, manifest: Manifest) -> None:
    """Raises RefusedError unless a directory can be renamed to `path`; changes nothing."""
    if manifest.imports:
        check_takes_tables(path)
    check_writable(path, manifest)
    if (path / "CURRENT").exists():
        if is_unfinished(path) and (record := read_records(path).get(JOB_RECORD)) is not None:
            manifest.check_resumes(Manifest.decode(record))
        raise RefusedError(
            f"the target {path} is a store already, without data, and the lane `files` makes the store itself. Nothing "
            "was changed; remove it, choose another target, or use --lane sst or --lane batch"
        )
    if path.is_mount():
        raise RefusedError(
            f"the target {path} is a mount point, which no directory can be renamed to as the lane `files` does in the "
            f"end. Nothing was changed; choose a directory below it, such as {path / 'store'}, or use --lane batch"
        )


def examine_files(path: Path, manifest: Manifest) -> tuple[Manifest, list[bool]] | None:
    """The job that opening would resume, and which of its ranges are complete; None where it would begin. Raises what
    opening would raise; changes nothing."""
    _check_place(path, manifest)
    stored = staged_manifest(path)
    if stored is None:
        check_unclaimed(path)
        return None
    manifest.check_resumes(stored)
    staging = staging_path(path)
    with translate_os_errors(f"look at {staging}"):
        sizes = {entry.name: entry.stat(follow_symlinks=False).st_size for entry in os.scandir(staging)}
    return stored, [sizes.get(part.file) == part.file_bytes for part in stored.ranges]


class FilesJob:
    """One store whose files are received into a directory beside the target, which becomes the target when all are
    there; or chosen families of one, whose files become those of a new store there. Thread-safe; each range is given to
    one applier at a time."""

    def __init__(self, path: Path, manifest: Manifest, checked: CheckedFiles, max_memory: int = 0) -> None:
        """`max_memory`: of this process, 0 for no bound. Raises RefusedError, TargetError, NoSpaceError."""
        _check_place(path, manifest)
        self._path = path
        self._max_memory = max_memory
        self._checked = checked
        self._lock = threading.Lock()
        self._active: set[int] = set()
        self._staging = Staging(path)
        try:
            stored = staged_manifest(path)
            self.resumed = stored is not None
            if stored is None:
                check_unclaimed(path)
                self._staging.put_manifest(manifest)
            else:
                manifest.check_resumes(stored)
            self.manifest = stored or manifest
            with ThreadPoolExecutor(default_streams(), thread_name_prefix="kvbatch-check") as checking:
                found = list(checking.map(self._found, self.manifest.ranges))
            self._cursors = {cursor.range: cursor for cursor in found if cursor is not None}
            self._identity = self._begin_store() if self.manifest.imports else ""
        except BaseException:
            self._staging.close()
            raise
        # Files are synced here while the streams receive the next ones. Threads come as they are needed.
        self._syncing = ThreadPoolExecutor(MAX_STREAMS, thread_name_prefix="kvbatch-sync")

    def _begin_store(self) -> str:
        """Of a store of its own the target knows the identity before it is finished."""
        self._staging.begin_store()
        store = self._open_store()
        try:
            return store.identity
        finally:
            store.close()

    def _open_store(self) -> TargetStore:
        return TargetStore(str(self._staging.store), max_memory=self._max_memory)

    def _found(self, part: Range) -> Cursor | None:
        """What an earlier session left of a file. Of a partial one only the sender can say whether it is right: the
        cursor holds the digest of what stands on the disk."""
        with translate_os_errors(f"look at {part} in {self._staging.path}"):
            if self._staging.is_whole(part.file, part.file_bytes) and self._is_sound(part):
                self._checked.note(self._staging.path / part.file)
                return Cursor(part.id, complete=True, raw_bytes=part.file_bytes)
            if not self._staging.partial(part.file).exists():
                return None
            size = self._staging.partial(part.file).stat().st_size
        kept = size if size == part.file_bytes else min(size, part.file_bytes) // _PIECE * _PIECE
        fd = self._staging.open_partial(part.file, kept)
        try:
            digest = bytes(16)
            for offset in range(0, kept, _PIECE):
                length = min(_PIECE, kept - offset)
                crc32c = file_crc32c(fd, offset, length, str(self._staging.partial(part.file)))
                digest = chain_file_piece(digest, offset, length, crc32c)
            return Cursor(part.id, raw_bytes=kept, digest=digest)
        except SourceError:
            return None  # what cannot be read is received again
        finally:
            os.close(fd)

    def _is_sound(self, part: Range) -> bool:
        """Whether a file that came to its end in an earlier session is still what it was: its disk may have been at
        fault, or somebody have written to it. Behind a no it stands there no more, or as a partial one."""
        path = self._staging.path / part.file
        if part.file_bytes == 0 or self._checked.knows(path):
            return True
        if not is_table(part.file):
            self._staging.doubt(part.file)
            return False
        try:
            check_table_file(str(path), part.file)
        except (SourceError, TargetError):
            self._staging.drop(part.file)
            return False
        return True

    def reply(self, max_frame_bytes: int) -> OpenReply:
        with self._lock:
            return OpenReply(
                # That of a store which is moved as it is stands in its file IDENTITY, and is the source's.
                identity=self._identity,
                resumed=self.resumed,
                family_ids={},
                manifest=self.manifest,
                cursors=tuple(self._cursors.values()),
                max_frame_bytes=max_frame_bytes,
            )

    def open_range(self, range_id: int, offset: int = 0) -> FileApplier:
        if not 0 <= range_id < len(self.manifest.ranges):
            raise ProtocolError(f"the job has no range {range_id}")
        part = self.manifest.ranges[range_id]
        with self._lock:
            if range_id in self._active:
                raise ProtocolError(f"{part} is open in another stream")
            cursor = self._cursors.get(range_id, Cursor(range_id))
            if cursor.complete:
                raise ProtocolError(f"{part} is complete already")
            if offset not in (0, cursor.raw_bytes):
                raise ProtocolError(f"{part} cannot begin at byte {offset}: {cursor.raw_bytes} are there")
            applier = FileApplier(self, part, cursor if offset else Cursor(range_id))
            self._active.add(range_id)
            return applier

    def release_range(self, range_id: int) -> None:
        with self._lock:
            self._active.discard(range_id)

    def split(self, range_id: int, key: bytes) -> None:
        del range_id, key
        raise ProtocolError("a file of a store is not split")

    def health(self) -> None:
        """There is no store before the job's end."""

    @property
    def staging(self) -> Staging:
        return self._staging

    def complete(self, fd: int, part: Range, *, linked: bool) -> Future[None]:
        """Makes a file durable that is whole and sound, in another thread, closes it and gives it its name."""

        def act() -> None:
            try:
                if not linked and is_table(part.file):
                    check_table_file(str(self._staging.partial(part.file)), part.file)
                with translate_os_errors(f"sync {part} in {self._staging.path}"):
                    os.fsync(fd)
            finally:
                os.close(fd)
            if not linked:
                self._staging.complete(part.file)
            self._checked.note(self._staging.path / part.file)
            self.note(Cursor(part.id, complete=True, raw_bytes=part.file_bytes))

        return self._syncing.submit(act)

    def note(self, cursor: Cursor) -> None:
        """What stands in the staging directory of a range."""
        with self._lock:
            self._cursors[cursor.range] = cursor

    def finish(self) -> None:
        with self._lock:
            for part in self.manifest.ranges:
                if part.id not in self._cursors or not self._cursors[part.id].complete:
                    raise ProtocolError(f"the job cannot be finished: {part} is not complete")
            if self._staging.closed:
                raise TargetError(f"the job at {self._path} was closed meanwhile")
            if self.manifest.imports:
                self._import_families()
            else:
                self._check_image()
            # Whatever came there while the files did.
            _check_place(self._path, self.manifest)
            self._staging.move_into_place(self.manifest)
            self._checked.forget(self._staging.path)
            self._staging.close()

    def _import_families(self) -> None:
        """Raises CorruptionError for files that do not make up the families."""
        parts = self.manifest.ranges
        # Another name changes what tells whether somebody wrote to a file.
        paths = [self._staging.path / part.file for part in parts]
        known = [path for path in paths if self._checked.knows(path)]
        links = self._staging.link_all([part.file for part in parts])
        directory, move = (self._staging.path, False) if links is None else (links, True)
        store = self._open_store()
        try:
            for family in self.manifest.families:
                files = [
                    ImportedFile(part.file, part.file_bytes, part.place)
                    for part in parts
                    if part.column_family == family.name and part.place is not None
                ]
                store.import_family(family, str(directory), files, move=move)
        except CorruptionError as error:
            raise self._not_as_announced(str(error)) from error
        finally:
            store.close()
            for path in known:
                self._checked.note(path)

    def _check_image(self) -> None:
        """Raises CorruptionError unless the files make up the store that the sender announced."""
        try:
            store = SourceStore(str(self._staging.path))
            found = [(family.name, family.comparator) for family in store.column_families]
        except (SourceError, UsageError, CorruptionError) as error:
            found, why = [], str(error)
        else:
            why = f"its column families are {found}"
        if found != [(family.name, family.comparator) for family in self.manifest.families]:
            raise self._not_as_announced(why)

    def _not_as_announced(self, why: str) -> CorruptionError:
        return CorruptionError(
            f"the files in {self._staging.path} are not the store that was announced: {why}. The target was not "
            "touched; remove that directory and migrate again",
            retryable=False,
        )

    def close(self) -> None:
        self._syncing.shutdown()
        # Not while another thread makes the store: who opens the job next begins another one.
        with self._lock:
            self._staging.close()


class FileApplier:
    """Takes the pieces of one file in their order."""

    def __init__(self, job: FilesJob, part: Range, cursor: Cursor) -> None:
        """Goes on behind `cursor`; the file is cut to that length."""
        self._job = job
        self._part = part
        self._applied = cursor
        self._syncing: Future[None] | None = None
        self._linked = False
        self._fd = -1

    @property
    def applied(self) -> Cursor:
        return self._applied

    @property
    def unfinished_bytes(self) -> int:
        """None that would have to be held back: what was received stands in the file."""
        return 0

    @property
    def file_bytes(self) -> int:
        return self._applied.raw_bytes

    def apply(self, frame: Frame) -> None:
        del frame
        raise ProtocolError(f"a batch for {self._part}, which comes in pieces")

    def open_file(self) -> int:
        if self._fd < 0:
            self._fd = self._job.staging.open_partial(self._part.file, self._applied.raw_bytes)
        return self._fd

    def add_piece(self, length: int, crc32c: int) -> None:
        at = self._applied.raw_bytes
        due = min(_PIECE, self._part.file_bytes - at)
        if self._linked or length != due:
            raise ProtocolError(
                f"{self._part} has {self._part.file_bytes} bytes as announced: {length} at byte {at} where {due} were "
                "due"
            )
        digest = chain_file_piece(self._applied.digest, at, length, crc32c)
        self._applied = Cursor(self._part.id, raw_bytes=at + length, digest=digest)

    def link(self, source: str) -> None:
        """The whole file at once, as another name for `source`."""
        self._fd = self._job.staging.link(self._part.file, source)
        self._linked = True
        size = os.fstat(self._fd).st_size
        if size != self._part.file_bytes:
            raise SourceError(f"{source} has {size} bytes where {self._part.file_bytes} were planned")
        self._applied = Cursor(self._part.id, raw_bytes=size)

    def end_file(self, entries: int, raw_bytes: int, last_key: bytes, graft: bool) -> None:
        del entries, raw_bytes, last_key, graft
        raise ProtocolError(f"FILE_END for {self._part}, whose end is that of its range")

    def finish(self, entries: int, raw_bytes: int, digest: bytes) -> None:
        applied, size = self._applied, self._part.file_bytes
        if (entries, raw_bytes, digest) != (0, size, applied.digest) or applied.raw_bytes != size:
            raise CorruptionError(
                f"{self._part} ends at byte {applied.raw_bytes} of {size} with the digest {applied.digest.hex()}; the "
                f"sender says {raw_bytes} and {digest.hex()}"
            )
        fd, self._fd = self.open_file(), -1
        self._syncing = self._job.complete(fd, self._part, linked=self._linked)

    def flush(self) -> None:
        """Keeps the pieces that were whole and right."""
        if self._fd < 0:
            return
        try:
            if not self._linked:
                with translate_os_errors(f"cut {self._part} in {self._job.staging.path}"):
                    os.ftruncate(self._fd, self._applied.raw_bytes)
                self._job.note(self._applied)
        finally:
            self.close()

    def drain(self) -> None:
        if self._syncing is not None:
            self._syncing.result()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def take_durable(self) -> Cursor | None:
        if self._syncing is None or not self._syncing.done() or self._syncing.exception() is not None:
            return None
        self._syncing = None
        return Cursor(self._part.id, complete=True, raw_bytes=self._applied.raw_bytes, digest=self._applied.digest)
