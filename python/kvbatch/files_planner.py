"""What the lane `files` moves, and where it cannot serve."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from kvbatch._core.store import SourceStore
from kvbatch.endpoints import DirectoryEndpoint, Endpoint, standing_part
from kvbatch.errors import RefusedError, UsageError
from kvbatch.options import MigrationOptions
from kvbatch.ranges import KeyRange, Range
from kvbatch.source_image import image_ranges, wal_elsewhere

__all__ = ["Obstacle", "check_link", "find_obstacle", "plan_files"]


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Where the lane `files` cannot serve: what it does, and what was found that stands against it and why."""

    what: str
    found: str
    why: str = ""
    other_lanes: str = "--lane sst or --lane batch"


def plan_files(source: DirectoryEndpoint, store: SourceStore, options: MigrationOptions) -> tuple[Range, ...]:
    """A range for each file of the store. Raises RefusedError, naming the condition, where the lane cannot serve."""
    if (obstacle := find_obstacle(source, options)) is not None:
        why = f": {obstacle.why}" if obstacle.why else ""
        raise RefusedError(
            f"the lane `files` {obstacle.what}, and {obstacle.found}{why}. Nothing was changed; use "
            f"{obstacle.other_lanes}"
        )
    return tuple(image_ranges(store))


def find_obstacle(source: DirectoryEndpoint, options: MigrationOptions) -> Obstacle | None:
    if options.column_families:
        return Obstacle(
            "moves whole stores",
            "--cf was given",
            "a store's MANIFEST speaks of the files of all column families, so those of one cannot be taken out of it",
        )
    if options.key_range != KeyRange():
        return Obstacle("moves whole stores", "--range was given", "a file holds what it holds")
    if options.allow_nonempty:
        return Obstacle(
            "makes the target's files its own",
            "--allow-nonempty was given",
            "no file of a store can be put into another one",
            "--lane batch",
        )
    if options.target_compression != "auto":
        return Obstacle("moves files as they are", f"--target-compression {options.target_compression} was given")
    if (wal := wal_elsewhere(source.path)) is not None:
        return Obstacle("moves one directory", f"the store {source} keeps its WAL in {wal}", other_lanes="--lane batch")
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
