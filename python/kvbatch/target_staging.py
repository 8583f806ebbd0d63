"""The staging directory: where the files of a store stand, beside their target, until all of them are there.

.NAME.kvbatch/kvbatch.json       the manifest of the job
.NAME.kvbatch/000008.sst         a file that is whole and durable
.NAME.kvbatch/000009.sst.partial the first pieces of another one
.NAME.kvbatch/store              the store that chosen column families become, empty until the end
.NAME.kvbatch/links              second names of their files, which RocksDB takes for that store
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from kvbatch.errors import CorruptionError, NoSpaceError, RefusedError, TargetError
from kvbatch.manifest import Manifest

__all__ = [
    "CheckedFiles",
    "Staging",
    "check_unclaimed",
    "remove_left_record",
    "staged_manifest",
    "staging_path",
    "translate_os_errors",
]

_RECORD = "kvbatch.json"
_TEMPORARY_RECORD = _RECORD + ".tmp"
_STORE = "store"
_LINKS = "links"
_PARTIAL = ".partial"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# What a file system says that has no hard links, or no more for a file.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


@contextmanager
def translate_os_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = NoSpaceError if error.errno in _NO_SPACE else TargetError
        raise kind(f"{what}: {error.strerror or error}") from error


def staging_path(target: Path) -> Path:
    """Beside the directory itself where the target is a link to one."""
    real = Path(os.path.realpath(target))
    return real.parent / f".{real.name}.kvbatch"


def staged_manifest(target: Path) -> Manifest | None:
    """The manifest of the unfinished job whose files stand beside `target`."""
    return _read_manifest(staging_path(target) / _RECORD)


def _read_manifest(record: Path) -> Manifest | None:
    with translate_os_errors(f"read {record}"):
        try:
            return Manifest.decode(record.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None


def remove_left_record(target: Path, manifest: Manifest) -> bool:
    """Takes out of the finished store, and away from beside it, what a process left there that died at the end of
    `move_into_place`; whether that was so. What is not this job's is not touched. Raises RefusedError when another
    process is just about it."""
    record = target / _RECORD
    try:
        left, staged = _read_manifest(record), staged_manifest(target)
    except CorruptionError:
        return False
    if left is None or not _same_job(left, manifest):
        return False
    with translate_os_errors(f"remove {record}"):
        if staged is not None and _same_job(left, staged):
            with closing(Staging(target)) as staging:
                _remove_files(staging.path, left)
        record.unlink(missing_ok=True)
    return True


def check_unclaimed(target: Path) -> None:
    """For a target without an unfinished job of files: raises RefusedError when something stands where its files are to
    go."""
    staging = staging_path(target)
    with translate_os_errors(f"look at {staging}"):
        if not staging.exists():
            return
        found = [entry.name for entry in staging.iterdir()] if staging.is_dir() else [staging.name]
    foreign = [name for name in found if name != _TEMPORARY_RECORD]
    if foreign:
        raise RefusedError(
            f"{staging}, where the files for {target} are to be received, holds {foreign[0]!r} of no job that can be "
            "read. Nothing was changed; remove it or choose another target"
        )


def _names_of(manifest: Manifest) -> list[str]:
    """What a job may have in its staging directory but for its record."""
    files = [part.file for part in manifest.ranges]
    made = [_STORE, _LINKS] if manifest.imports else []
    return [*made, *files, *(name + _PARTIAL for name in files), _TEMPORARY_RECORD]


def _remove_files(staging: Path, manifest: Manifest) -> None:
    """Removes what is the job's, its record behind all else, so that who finds the rest knows whose it is, and the
    directory when nothing is left in it."""
    for name in (*_names_of(manifest), _RECORD):
        _remove_entry(staging / name)
    try:
        staging.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
            raise


def _remove_entry(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)


def _same_job(one: Manifest, other: Manifest) -> bool:
    return (one.job, one.fingerprint) == (other.job, other.fingerprint)


class CheckedFiles:
    """Files that this process has received or gone through itself, as they stood then: those are not gone through again
    each time a connection breaks. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[int, ...]] = {}

    def note(self, path: Path) -> None:
        as_it_stands = _signature(path)
        with self._lock:
            self._known[path] = as_it_stands

    def knows(self, path: Path) -> bool:
        """Whether nobody has written to it since."""
        as_it_stands = _signature(path)
        with self._lock:
            return self._known.get(path) == as_it_stands

    def forget(self, directory: Path) -> None:
        with self._lock:
            self._known = {path: known for path, known in self._known.items() if path.parent != directory}


def _signature(path: Path) -> tuple[int, ...]:
    found = path.lstat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Staging:
    """A staging directory that this process holds. Others find it in use."""

    def __init__(self, target: Path) -> None:
        """Makes it where there is none. Raises RefusedError, TargetError, NoSpaceError."""
        self.target = Path(os.path.realpath(target))
        self.path = staging_path(target)
        with translate_os_errors(f"make {self.path}"):
            self.path.mkdir(parents=True, exist_ok=True)
            self._directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | _FLAGS)
        try:
            self._lock()
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RefusedError(
                f"the target {self.target} is in use by another process; wait until it is done"
            ) from error
        except OSError:
            pass  # a file system without locks is taken as it is
        # Whoever held it before may have moved it into place meanwhile.
        with translate_os_errors(f"look at {self.path}"):
            if not os.path.samestat(os.fstat(self._directory), self.path.stat()):
                raise RefusedError(f"the target {self.target} was just finished by another process")

    def put_manifest(self, manifest: Manifest) -> None:
        """Durable when it returns."""
        with translate_os_errors(f"write {self.path / _RECORD}"):
            _write_record(self.path, manifest)
            _sync_directory(self.path)
            _sync_directory(self.path.parent)

    def is_whole(self, name: str, size: int) -> bool:
        """Whether the file came to its end. It was synced before it got its name."""
        try:
            found = (self.path / name).lstat()
        except FileNotFoundError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == size

    def doubt(self, name: str) -> None:
        """A file that came to its end counts as a partial one again, of which the sender says how much is right; one
        that has another name elsewhere, which must not be cut, is received again."""
        with translate_os_errors(f"rename {self.path / name}"):
            if (self.path / name).lstat().st_nlink > 1:
                self.drop(name)
            else:
                (self.path / name).rename(self.partial(name))

    def drop(self, name: str) -> None:
        with translate_os_errors(f"remove {self.path / name}"):
            (self.path / name).unlink()

    def partial(self, name: str) -> Path:
        return self.path / (name + _PARTIAL)

    def open_partial(self, name: str, length: int) -> int:
        """Open for writing, cut to `length`."""
        with translate_os_errors(f"open {self.partial(name)}"):
            fd = os.open(self.partial(name), os.O_RDWR | os.O_CREAT | _FLAGS, 0o644)
            try:
                os.ftruncate(fd, length)
            except BaseException:
                os.close(fd)
                raise
            return fd

    def link(self, name: str, source: str) -> int:
        """Gives the file `source`, which nobody changes, a second name here; open for reading. It never stands here as
        a partial file, which may be cut."""
        with translate_os_errors(f"link {source} to {self.path / name}"):
            self.partial(name).unlink(missing_ok=True)
            (self.path / name).unlink(missing_ok=True)
            try:
                os.link(source, self.path / name, follow_symlinks=True)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                raise RefusedError(
                    f"--link: {source} and {self.path} lie on different file systems. No file was changed; migrate "
                    "without --link"
                ) from error
            return os.open(self.path / name, os.O_RDONLY | _FLAGS)

    def complete(self, name: str) -> None:
        """The partial file is whole and synced: it gets its name. A rename that a crash undoes is done again."""
        with translate_os_errors(f"rename {self.partial(name)}"):
            self.partial(name).rename(self.path / name)

    @property
    def store(self) -> Path:
        """The store that is made of files which are no whole one."""
        return self.path / _STORE

    def begin_store(self) -> None:
        """What an earlier session made of it gives way."""
        with translate_os_errors(f"remove {self.store}"):
            _remove_entry(self.store)

    def link_all(self, names: Sequence[str]) -> Path | None:
        """A directory with a second name of each of these files, which came to their end and stay, for who takes them
        out of it. None where the file system has no such thing."""
        links = self.path / _LINKS
        with translate_os_errors(f"link the files in {self.path}"):
            _remove_entry(links)
            links.mkdir()
            for name in names:
                try:
                    os.link(self.path / name, links / name)
                except OSError as error:
                    if error.errno in _NO_LINKS:
                        return None
                    raise
        return links

    def move_into_place(self, manifest: Manifest) -> None:
        """All files are there, and the store is made where they are to become another one. What RocksDB left of an
        attempt to make a store at the target gives way."""
        directory = self.store if manifest.imports else self.path
        with translate_os_errors(f"rename {directory} to {self.target}"):
            if manifest.imports:
                _write_record(directory, manifest)
            _sync_directory(directory)
            if self.target.is_dir():
                for entry in list(self.target.iterdir()):
                    _remove_entry(entry)
            directory.rename(self.target)
            _sync_directory(self.target.parent)
            if manifest.imports:
                _remove_files(self.path, manifest)
            # Until now the record said whose files these are; a store does not mind it. Whoever finds it in the store
            # may have removed it already.
            (self.target / _RECORD).unlink(missing_ok=True)

    def remove(self, manifest: Manifest) -> None:
        """Takes back everything: the files of the manifest, whole or in part, what was made of them, and behind them
        the manifest. Raises RefusedError, before anything is removed, when there is another file."""
        with translate_os_errors(f"remove {self.path}"):
            foreign = sorted({entry.name for entry in self.path.iterdir()} - {*_names_of(manifest), _RECORD})
            if foreign:
                raise RefusedError(
                    f"{self.path} holds {foreign[0]!r}, which is not the job's. Nothing was changed; move it away and "
                    "run the same command again, or remove the directory yourself"
                )
            _remove_files(self.path, manifest)

    @property
    def closed(self) -> bool:
        return self._directory < 0

    def close(self) -> None:
        """Idempotent."""
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1


def _write_record(directory: Path, manifest: Manifest) -> None:
    """Durable but for its name."""
    temporary = directory / _TEMPORARY_RECORD
    with temporary.open("wb") as file:
        file.write(manifest.encode())
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(directory / _RECORD)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    except OSError as error:
        # Some network file systems have no such thing and need none.
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    finally:
        os.close(directory)
