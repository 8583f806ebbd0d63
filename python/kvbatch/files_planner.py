"""What the lane `files` moves, and where it cannot serve."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from kvbatch._core.store import CAN_GRAFT, ROCKSDB_VERSION, SourceStore
from kvbatch.endpoints import DirectoryEndpoint, Endpoint, standing_part
from kvbatch.errors import RefusedError, UsageError
from kvbatch.options import MigrationOptions
from kvbatch.ranges import KeyRange, Range
from kvbatch.source_image import family_ranges, image_ranges, wal_elsewhere
from kvbatch.units import format_bytes

__all__ = ["Obstacle", "check_link", "file_ranges", "find_obstacle", "plan_files"]

# They stand in the manifest, a control frame of 64 MiB at most, in hex.
_MAX_KEYS_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Where the lane `files` cannot serve: what it does, and what was found that stands against it and why."""

    what: str
    found: str
    why: str = ""
    other_lanes: str = "--lane sst or --lane batch"


def plan_files(source: DirectoryEndpoint, store: SourceStore, options: MigrationOptions) -> tuple[Range, ...]:
    """A range for each file. Raises RefusedError, naming the condition, where the lane cannot serve."""
    if (obstacle := find_obstacle(source, store, options)) is not None:
        why = f": {obstacle.why}" if obstacle.why else ""
        raise RefusedError(
            f"the lane `files` {obstacle.what}, and {obstacle.found}{why}. Nothing was changed; use "
            f"{obstacle.other_lanes}"
        )
    return file_ranges(store, options)


def file_ranges(store: SourceStore, options: MigrationOptions) -> tuple[Range, ...]:
    """Those of the whole store, or of the families that were chosen."""
    return tuple(family_ranges(store) if options.column_families else image_ranges(store))


def find_obstacle(source: DirectoryEndpoint, store: SourceStore, options: MigrationOptions) -> Obstacle | None:
    given = (("--range", options.key_range), ("--slots", options.slots), ("--namespace", options.namespace))
    for option, value in given:
        if value not in (None, KeyRange()):
            return Obstacle("moves whole column families", f"{option} was given", "a file holds what it holds")
    if options.allow_nonempty:
        return Obstacle(
            "makes the target's files its own",
            "--allow-nonempty was given",
            "no file of a store can be put into another one",
            "--lane batch",
        )
    if options.target_compression != "auto":
        return Obstacle("moves files as they are", f"--target-compression {options.target_compression} was given")
    if options.column_families:
        return _find_import_obstacle(store)
    if (wal := wal_elsewhere(source.path)) is not None:
        return Obstacle("moves one directory", f"the store {source} keeps its WAL in {wal}", other_lanes="--lane batch")
    return None


def _find_import_obstacle(store: SourceStore) -> Obstacle | None:
    """What stands against making a column family of its SST files alone."""
    if not CAN_GRAFT:
        return Obstacle(
            "imports the files of column families that are chosen with --cf",
            f"this build's RocksDB {ROCKSDB_VERSION} cannot take files with their place; 9.10 does",
            other_lanes="--lane batch",
        )
    what, keys_bytes = "moves column families that are chosen with --cf as their SST files", 0
    for name in (family.name for family in store.column_families):
        if name == "default":
            return Obstacle(
                what,
                '"default" is one of them',
                "every store has that one already, and RocksDB makes a new family of files, none of its own. Without "
                "--cf the whole store is moved",
            )
        if store.figures(name).memtable_entries > 0:
            return Obstacle(what, f'entries of "{name}" are in the store\'s WAL only')
        tables = store.tables(name)
        if any(table.blobs for table in tables):
            return Obstacle(what, f'"{name}" has values in blob files')
        keys_bytes += sum(len(table.place.smallest) + len(table.place.largest) for table in tables)
    if keys_bytes > _MAX_KEYS_BYTES:
        return Obstacle(
            what,
            f"the first and last keys of their files, which go along, take {format_bytes(keys_bytes)}",
            f"a job's manifest has room for {format_bytes(_MAX_KEYS_BYTES)} of them",
        )
    return None


def check_link(source: DirectoryEndpoint, target: Endpoint, options: MigrationOptions) -> None:
    """Raises UsageError or RefusedError, naming the condition, where files cannot be linked."""
    if not options.link:
        return
    if options.lane != "files":
        raise UsageError("--link makes hard links of a store's files: it goes with --lane files only")
    if not isinstance(target, DirectoryEndpoint):
        raise RefusedError(
            f"--link: {target} stands behind a receiver, where files of this machine cannot be linked to. Nothing was "
            "changed; migrate without --link"
        )
    standing = standing_part(Path(os.path.realpath(target.path)).parent)
    if standing.stat().st_dev != source.path.stat().st_dev:
        raise RefusedError(
            f"--link: {source} and {target} lie on different file systems. Nothing was changed; migrate without --link"
        )
