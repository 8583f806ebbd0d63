"""The image of a store at rest: the files that are the store, and nothing else that lies beside them."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from kvbatch._core.store import SourceStore, wal_directory
from kvbatch.errors import CorruptionError, SourceError
from kvbatch.ranges import Range

__all__ = [
    "check_image_names",
    "family_ranges",
    "image_ranges",
    "is_never_rewritten",
    "is_table",
    "open_source_file",
    "wal_elsewhere",
]

# The kinds of file that a RocksDB directory has. RocksDB numbers its files with 64 bits.
_IMAGE_FILE = re.compile(r"CURRENT|IDENTITY|(?:MANIFEST|OPTIONS)-[0-9]{1,20}|[0-9]{1,20}\.(?:sst|ldb|blob|log)")
_MANIFEST = re.compile(r"MANIFEST-[0-9]{1,20}")
_OPTIONS = re.compile(r"OPTIONS-([0-9]{1,20})")
_TABLE = re.compile(r"[0-9]{1,20}\.(?:sst|ldb)")
_BLOB = re.compile(r"[0-9]{1,20}\.blob")


def is_never_rewritten(name: str) -> bool:
    """Whether RocksDB leaves the file as it is until it removes it, so that two stores can share it."""
    return is_table(name) or _BLOB.fullmatch(name) is not None


def is_table(name: str) -> bool:
    """Whether it is an SST file."""
    return _TABLE.fullmatch(name) is not None


def check_image_names(names: Iterable[str]) -> None:
    """Raises CorruptionError unless these are files of a RocksDB directory, each once, with one CURRENT and one
    MANIFEST."""
    counted = Counter(names)
    for name, times in counted.items():
        if not _IMAGE_FILE.fullmatch(name):
            raise CorruptionError(f"malformed manifest: {name!r} is no file of a RocksDB directory", retryable=False)
        if times > 1:
            raise CorruptionError(f"malformed manifest: the file {name} stands in it twice", retryable=False)
    manifests = sum(_MANIFEST.fullmatch(name) is not None for name in counted)
    if "CURRENT" not in counted or manifests != 1:
        raise CorruptionError("malformed manifest: a store has one CURRENT and one MANIFEST file", retryable=False)


def wal_elsewhere(path: Path) -> Path | None:
    """The directory of the store's WAL, where it is not the store's own."""
    wal = Path(wal_directory(str(path)))
    return None if wal == path else wal


def _list_image(path: Path) -> dict[str, int]:
    """Names and sizes: CURRENT, the MANIFEST that it names, the newest OPTIONS, and all of the rest. Obsolete tables
    and WALs that RocksDB has not removed yet come along; it removes them where it opens the copy."""
    try:
        manifest = (path / "CURRENT").read_text(errors="replace").strip()
        found = {
            entry.name: entry.stat().st_size
            for entry in path.iterdir()
            if _IMAGE_FILE.fullmatch(entry.name) and entry.is_file()
        }
    except OSError as error:
        raise SourceError(f"list {path}: {error.strerror}") from error
    if manifest not in found or not _MANIFEST.fullmatch(manifest):
        raise SourceError(f"{path / 'CURRENT'} names {manifest!r}, which is no MANIFEST of the store")
    options = [name for name in found if _OPTIONS.fullmatch(name)]
    newest = max(options, key=lambda name: int(name.removeprefix("OPTIONS-")), default="")
    return {
        name: size
        for name, size in sorted(found.items())
        if name in (manifest, newest) or not (_MANIFEST.fullmatch(name) or name in options)
    }


def image_ranges(store: SourceStore) -> list[Range]:
    """One range a file. The lane does not look at entries: what the table properties say of them is spread over the
    files by size. Raises SourceError."""
    files = _list_image(Path(store.path))
    entries = sum(store.figures(family.name).entries for family in store.column_families)
    total = sum(files.values())
    ranges: list[Range] = []
    before = 0
    for name, size in files.items():
        ranges.append(
            Range(
                id=len(ranges),
                column_family="",
                start=None,
                end=None,
                estimated_bytes=size,
                estimated_entries=entries * (before + size) // total - entries * before // total,
                file=name,
                file_bytes=size,
            )
        )
        before += size
    return ranges


def family_ranges(store: SourceStore) -> list[Range]:
    """One range for each SST file of the families that `store` was opened with. Raises SourceError."""
    found = [(family.name, table) for family in store.column_families for table in store.tables(family.name)]
    return [
        Range(
            id=i,
            column_family=family,
            start=None,
            end=None,
            estimated_bytes=table.file_bytes,
            estimated_entries=table.entries,
            file=table.name,
            file_bytes=table.file_bytes,
            place=table.place,
        )
        for i, (family, table) in enumerate(found)
    ]


@contextlib.contextmanager
def open_source_file(path: Path) -> Iterator[int]:
    """Raises SourceError when it cannot be opened."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SourceError(f"open {path}: {error.strerror}") from error
    try:
        yield fd
    finally:
        os.close(fd)
