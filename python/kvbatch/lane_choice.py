"""Which lane moves a job, and why it is that one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvbatch._core.store import SourceStore
from kvbatch.endpoints import DirectoryEndpoint, StoreEndpoint, is_elsewhere
from kvbatch.files_planner import file_ranges, find_obstacle, plan_files
from kvbatch.options import MIB, MigrationOptions
from kvbatch.planner import RangeSizes, plan_ranges
from kvbatch.ranges import Range, Selection
from kvbatch.units import format_bytes

__all__ = ["Way", "bytes_name", "bytes_read", "choose_way", "grafted_bytes", "plan_read", "way_of"]

# From this share of the bytes on, grafting decides how long a job takes.
_WORTHWHILE_GRAFT = 0.5
# A smaller store is moved in a moment by any lane.
_WORTHWHILE_FILES = 64 * MIB
# The lane `files` takes garbage and levels along and counts no entries: it must be well ahead of the others.
_FILES_AHEAD = 1.5
# The work of both sides for a byte, in that for a byte of a file that is moved as it is; docs/lanes.md has the figures.
_READ_COST = 4
# What stands over a file that is moved; the file is gone through beneath it.
_OVERLAY_COST = 8


@dataclass(frozen=True, slots=True)
class Way:
    """A lane, why it is that one, and the ranges it makes."""

    lane: str
    reason: str
    ranges: tuple[Range, ...]


def bytes_name(lane: str) -> str:
    """What people read beside the bytes of a job: the lane `files` looks at no entries."""
    return "bytes of files" if lane == "files" else "keys and values"


def grafted_bytes(ranges: Sequence[Range]) -> int:
    """Keys and values in files of the source that are moved as they are."""
    return sum(part.estimated_bytes for part in ranges if part.file)


def bytes_read(ranges: Sequence[Range]) -> int:
    """Keys and values that are read entry by entry: in no such file, or over one."""
    return sum(part.overlay_bytes if part.file else part.estimated_bytes for part in ranges)


def choose_way(
    source: DirectoryEndpoint,
    target: StoreEndpoint,
    store: SourceStore,
    selection: Selection,
    options: MigrationOptions,
    takes_files: Callable[[tuple[Range, ...]], bool],
) -> Way:
    """`takes_files` looks at the target: whether a whole store, whose files these are, can be put there. It is asked
    where that matters only. Raises RefusedError when the lane that is asked for cannot serve."""
    asked = "asked for with --lane"
    if options.lane == "files":
        return Way("files", asked, plan_files(source, store, options))
    if options.lane == "batch":
        return Way("batch", asked, plan_read(store, selection, options))
    # Files keep the compression they have.
    ranges = _plan_ranges(store, selection, options, graft=options.target_compression == "auto")
    if options.lane == "sst":
        return Way("sst", asked, ranges)
    way = _by_files(source, store, options, ranges, takes_files)
    if isinstance(way, Way):
        return way
    files = sum(bool(part.file) for part in ranges)
    grafted, total = grafted_bytes(ranges), sum(part.estimated_bytes for part in ranges)
    if grafted >= _WORTHWHILE_GRAFT * total and grafted > 0:
        counted = "1 file" if files == 1 else f"{files} files"
        reason = f"{counted} of the source, {100 * grafted // total} % of its bytes, can be moved as they are"
        return Way("sst", f"{reason}; {way}", ranges)
    if _spares_the_target(target, options):
        reason = "the target is on another machine: files that are built here spare it the work"
        return Way("sst", f"{reason}; {way}", ranges)
    if files:
        ranges = plan_read(store, selection, options)
    return Way("batch", f"the lane that serves any range into any store; {way}", ranges)


def way_of(lane: str, reason: str, store: SourceStore, selection: Selection, options: MigrationOptions) -> Way:
    """For a job whose lane is settled: its own plan counts, and this is what comes near to it."""
    if lane == "files":
        return Way(lane, reason, file_ranges(store, options))
    return Way(lane, reason, _plan_ranges(store, selection, options, graft=lane == "sst"))


def plan_read(store: SourceStore, selection: Selection, options: MigrationOptions) -> tuple[Range, ...]:
    """The ranges of a job that reads every entry."""
    return _plan_ranges(store, selection, options, graft=False)


def _plan_ranges(
    store: SourceStore, selection: Selection, options: MigrationOptions, *, graft: bool
) -> tuple[Range, ...]:
    sizes = RangeSizes(
        range_bytes=options.range_bytes,
        max_ranges=options.max_ranges,
        streams=options.expected_streams,
        graft_bytes=options.graft_bytes if graft else None,
    )
    return tuple(plan_ranges(store, selection=selection, sizes=sizes))


def _by_files(
    source: DirectoryEndpoint,
    store: SourceStore,
    options: MigrationOptions,
    ranges: tuple[Range, ...],
    takes_files: Callable[[tuple[Range, ...]], bool],
) -> Way | str:
    """The lane `files`, where it can serve and is well ahead of one that moves entries; else why it is not taken."""
    if (obstacle := find_obstacle(source, store, options)) is not None:
        return f"not `files`, which {obstacle.what}: {obstacle.found}"
    files = file_ranges(store, options)
    file_bytes = sum(part.file_bytes for part in files)
    ahead = _cost(ranges) / max(1, file_bytes)
    if file_bytes < _WORTHWHILE_FILES:
        return f"not `files`: {format_bytes(file_bytes)} are moved in a moment by any lane"
    if ahead < _FILES_AHEAD:
        return f"not `files`: moving {format_bytes(file_bytes)} of them is hardly less work"
    if not takes_files(files):
        return "not `files`, which makes the store itself: the target is one already, another job's, or takes none"
    what = "whole column families" if options.column_families else "a whole store"
    reason = (
        f"{what} into an empty target: the files of {format_bytes(file_bytes)} are moved with about {ahead:.1f} times "
        "less work than the entries"
    )
    return Way("files", reason, files)


def _cost(ranges: tuple[Range, ...]) -> int:
    """Of moving a whole store by these ranges, those with a file grafted."""
    read = sum(part.estimated_bytes for part in ranges if not part.file)
    overlay = sum(part.overlay_bytes for part in ranges)
    return sum(part.file_bytes for part in ranges) + _READ_COST * read + _OVERLAY_COST * overlay


def _spares_the_target(target: StoreEndpoint, options: MigrationOptions) -> bool:
    """Whether the machine that builds SST files had better be this one: it does nothing else, the other may serve."""
    spare = options.expected_streams > 1 and len(os.sched_getaffinity(0)) > 1
    return is_elsewhere(target) and spare and not options.allow_nonempty
