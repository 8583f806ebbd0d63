"""What a migration will do: lane, ranges and estimates."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from kvbatch._core.store import RESERVED_COLUMN_FAMILY, ColumnFamilyDescription, SourceStore
from kvbatch.endpoints import DirectoryEndpoint, Endpoint
from kvbatch.errors import RefusedError, UsageError
from kvbatch.files_planner import check_link, plan_files
from kvbatch.fingerprint import fingerprint_directory
from kvbatch.manifest import Manifest
from kvbatch.options import MigrationOptions
from kvbatch.planner import RangeSizes, plan_ranges
from kvbatch.ranges import Range
from kvbatch.target_state import TargetState

__all__ = ["Plan", "make_plan", "open_source"]

# From this share of the bytes on, moving files decides how long a job takes.
_WORTHWHILE_GRAFT = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """What a migration would do. `estimated_*` come from table properties; bytes are keys and values, uncompressed.
    `target_state` is None in `Migration.plan`: a migration opens its target instead of looking at it."""

    job: str
    source: str
    target: str
    lane: str
    lane_reason: str
    streams: int
    estimated_entries: int
    estimated_bytes: int
    # Files of the source that are moved as they are, and how much of `estimated_bytes` they hold; the rest is read.
    files_grafted: int
    bytes_grafted: int
    column_families: tuple[str, ...]
    ranges: tuple[Range, ...]
    manifest: Manifest
    target_state: TargetState | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "job": self.job,
            "source": self.source,
            "target": self.target,
            "target_state": None if self.target_state is None else self.target_state.to_json(),
            "lane": self.lane,
            "lane_reason": self.lane_reason,
            "streams": self.streams,
            "estimated_entries": self.estimated_entries,
            "estimated_bytes": self.estimated_bytes,
            "files_grafted": self.files_grafted,
            "bytes_grafted": self.bytes_grafted,
            "bytes_read": self.estimated_bytes - self.bytes_grafted,
            "column_families": list(self.column_families),
            "ranges": [part.to_json() for part in self.ranges],
        }


def open_source(endpoint: Endpoint, options: MigrationOptions) -> SourceStore:
    if not isinstance(endpoint, DirectoryEndpoint):
        raise UsageError(f"{endpoint} cannot be a source: a source is a RocksDB directory on this machine")
    store = SourceStore(str(endpoint.path), list(options.column_families))
    if any(family.name == RESERVED_COLUMN_FAMILY for family in store.column_families):
        raise RefusedError(
            f"the source {endpoint} is the unfinished target of another migration; finish that one with its own command"
        )
    return store


def _job_id(fingerprint: str, target: Endpoint, options: MigrationOptions) -> str:
    """The same source, target and selection give the same job, so that the same command carries on."""
    if options.job is not None:
        return options.job
    selection = "\0".join([fingerprint, str(target), str(options.key_range), *sorted(options.column_families)])
    return hashlib.sha256(selection.encode(errors="surrogateescape")).hexdigest()[:12]


def _target_family(family: ColumnFamilyDescription, options: MigrationOptions) -> ColumnFamilyDescription:
    if options.target_compression == "auto":
        return family
    return ColumnFamilyDescription(
        family.name,
        comparator=family.comparator,
        merge_operator=family.merge_operator,
        compression=options.target_compression,
        filter_policy=family.filter_policy,
        block_size=family.block_size,
        num_levels=family.num_levels,
    )


def _plan_ranges(store: SourceStore, options: MigrationOptions, *, graft: bool) -> tuple[Range, ...]:
    sizes = RangeSizes(
        range_bytes=options.range_bytes,
        max_ranges=options.max_ranges,
        streams=options.streams,
        graft_bytes=options.graft_bytes if graft else None,
    )
    return tuple(plan_ranges(store, key_range=options.key_range, sizes=sizes))


def _grafted_bytes(ranges: tuple[Range, ...]) -> int:
    return sum(part.estimated_bytes for part in ranges if part.file)


@dataclass(frozen=True, slots=True)
class _Way:
    """A lane, why it is that one, and the ranges it makes."""

    lane: str
    reason: str
    ranges: tuple[Range, ...]


def _choose(source: DirectoryEndpoint, store: SourceStore, options: MigrationOptions) -> _Way:
    """Raises RefusedError when the lane that is asked for cannot serve."""
    if options.lane == "files":
        return _Way("files", "asked for with --lane", plan_files(source, store, options))
    if options.lane == "batch":
        return _Way("batch", "asked for with --lane", _plan_ranges(store, options, graft=False))
    # Files keep the compression they have.
    ranges = _plan_ranges(store, options, graft=options.target_compression == "auto")
    if options.lane == "sst":
        return _Way("sst", "asked for with --lane", ranges)
    files = sum(bool(part.file) for part in ranges)
    grafted, total = _grafted_bytes(ranges), sum(part.estimated_bytes for part in ranges)
    if grafted >= _WORTHWHILE_GRAFT * total and grafted > 0:
        reason = f"{files} files of the source, {100 * grafted // total} % of its bytes, can be moved as they are"
        return _Way("sst", reason, ranges)
    if files:
        ranges = _plan_ranges(store, options, graft=False)
    return _Way("batch", "the lane that serves any range into any store", ranges)


def make_plan(source: Endpoint, target: Endpoint, store: SourceStore, options: MigrationOptions) -> Plan:
    """Looks at the source only. Raises RefusedError when the lane that is asked for cannot serve."""
    assert isinstance(source, DirectoryEndpoint)
    fingerprint = fingerprint_directory(source.path)
    way = _choose(source, store, options)
    ranges = way.ranges
    check_link(source, target, options)
    manifest = Manifest(
        job=_job_id(fingerprint, target, options),
        source=str(source),
        fingerprint=fingerprint,
        lane=way.lane,
        key_range=options.key_range,
        families=tuple(_target_family(family, options) for family in store.column_families),
        ranges=ranges,
        allow_nonempty=options.allow_nonempty,
        sst_file_bytes=options.sst_file_bytes,
    )
    return Plan(
        job=manifest.job,
        source=str(source),
        target=str(target),
        lane=way.lane,
        lane_reason=way.reason,
        streams=min(options.streams, max(1, len(ranges))),
        estimated_entries=sum(part.estimated_entries for part in ranges),
        estimated_bytes=sum(part.estimated_bytes for part in ranges),
        files_grafted=sum(bool(part.file) for part in ranges),
        bytes_grafted=_grafted_bytes(ranges),
        column_families=tuple(family.name for family in store.column_families),
        ranges=ranges,
        manifest=manifest,
    )
