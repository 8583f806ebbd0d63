"""What a store holds: `kvbatch inspect`. docs/kvrocks.md says what is counted of a Kvrocks directory."""

from __future__ import annotations

import dataclasses
import os
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvbatch._core.store import ColumnFamilyDescription, SourceStore, family_shape, wal_directory
from kvbatch.endpoints import DirectoryEndpoint, parse_endpoint
from kvbatch.errors import SourceError, UsageError
from kvbatch.kvrocks.census import Census, take_census
from kvbatch.kvrocks.layout import find_layout
from kvbatch.store_reader import DirectoryReader

__all__ = ["FamilyInspection", "Inspection", "LevelInspection", "inspect"]

# What an SST file ends with: the version of its format, and a number that all of them have.
_FOOTER = struct.Struct("<IQ")
_BLOCK_BASED_TABLE = 0x88E241B785F4CFF7


@dataclass(frozen=True, slots=True)
class LevelInspection:
    """The SST files of a level, in bytes as they are on the disk."""

    level: int
    files: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class FamilyInspection:
    """A column family. `entries` and `raw_bytes`, keys and values uncompressed, are exact of a Kvrocks directory, else
    estimates from table properties and memtables. `broken` are entries that Kvrocks could not read; None elsewhere.
    `table_formats`: the versions of its SST files' format. Names of options are RocksDB's own."""

    name: str
    id: int
    entries: int
    raw_bytes: int
    broken: int | None
    memtable_entries: int
    levels: tuple[LevelInspection, ...]
    blob_files: int
    blob_bytes: int
    comparator: str
    merge_operator: str
    compression: str
    filter_policy: str
    block_size: int
    num_levels: int
    table_formats: tuple[int, ...]

    @property
    def files(self) -> int:
        return sum(level.files for level in self.levels)

    @property
    def file_bytes(self) -> int:
        """Of its SST and blob files."""
        return sum(level.file_bytes for level in self.levels) + self.blob_bytes


@dataclass(frozen=True, slots=True)
class Inspection:
    """`kvrocks`: what a Kvrocks directory holds; None of any other store. `wal_bytes`: of its WAL's files, flushed or
    not."""

    path: str
    identity: str
    latest_sequence: int
    wal_bytes: int
    column_families: tuple[FamilyInspection, ...]
    kvrocks: Census | None

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "kind": "rocksdb" if self.kvrocks is None else "kvrocks",
            "identity": self.identity,
            "latest_sequence": self.latest_sequence,
            "wal_bytes": self.wal_bytes,
            "exact": self.kvrocks is not None,
            "column_families": [dataclasses.asdict(family) for family in self.column_families],
            "kvrocks": None if self.kvrocks is None else self.kvrocks.to_json(),
        }


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """What the store at `path`, a path or `rocksdb:PATH`, holds. Opened read-only, nothing in it changes.

    Of a Kvrocks directory every entry is read once and counted by namespace, type and slot; what is past its time now
    counts as expired. Of any other store nothing is read but what its files say of themselves. Raises UsageError: no
    such directory; RefusedError: somebody has it open, or it cannot be read by this build; SourceError.
    """
    endpoint = parse_endpoint(path)
    if not isinstance(endpoint, DirectoryEndpoint):
        raise UsageError(f"{endpoint}: inspect reads a directory on this machine")
    with closing(DirectoryReader(endpoint.path)) as reader:
        store = reader.store
        layout = find_layout(store)
        census = None if layout is None else take_census(store, layout, time.time_ns() // 1_000_000)
        return Inspection(
            path=str(endpoint.path),
            identity=store.identity,
            latest_sequence=store.latest_sequence,
            wal_bytes=_wal_bytes(endpoint.path),
            column_families=tuple(_inspect_family(store, family, census) for family in store.column_families),
            kvrocks=census,
        )


def _inspect_family(store: SourceStore, family: ColumnFamilyDescription, census: Census | None) -> FamilyInspection:
    shape = family_shape(store, family.name)
    figures = store.figures(family.name)
    counted = None if census is None else census.families[family.name]
    return FamilyInspection(
        name=family.name,
        id=shape.id,
        entries=figures.entries if counted is None else counted.entries,
        raw_bytes=figures.raw_bytes if counted is None else counted.bytes,
        broken=None if counted is None else counted.broken,
        memtable_entries=figures.memtable_entries,
        levels=tuple(LevelInspection(each.level, each.files, each.bytes) for each in shape.levels),
        blob_files=shape.blob_files,
        blob_bytes=shape.blob_bytes,
        comparator=family.comparator,
        merge_operator=family.merge_operator,
        compression=family.compression,
        filter_policy=family.filter_policy,
        block_size=family.block_size,
        num_levels=family.num_levels,
        table_formats=tuple(sorted(set(_table_formats(store, family.name)))),
    )


def _table_formats(store: SourceStore, family: str) -> Iterator[int]:
    for table in store.tables(family):
        if not table.name:
            continue  # it lies in another directory
        path = Path(store.path) / table.name
        try:
            with path.open("rb") as file:
                file.seek(-_FOOTER.size, os.SEEK_END)
                version, kind = _FOOTER.unpack(file.read(_FOOTER.size))
        except OSError as error:
            raise SourceError(f"read {path}: {error.strerror}") from error
        if kind == _BLOCK_BASED_TABLE:
            yield version


def _wal_bytes(path: Path) -> int:
    directory = Path(wal_directory(str(path)))
    try:
        return sum(file.stat().st_size for file in directory.glob("*.log"))
    except OSError as error:
        raise SourceError(f"list {directory}: {error.strerror}") from error
