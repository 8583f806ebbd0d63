"""What a migration will do: lane, ranges and estimates."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

from kvbatch._core.store import RESERVED_COLUMN_FAMILY, ColumnFamilyDescription, SourceStore
from kvbatch.endpoints import DirectoryEndpoint, Endpoint, KvrocksEndpoint
from kvbatch.errors import UsageError
from kvbatch.files_planner import check_link
from kvbatch.fingerprint import fingerprint_directory
from kvbatch.kvrocks.selection import families_of_copy, find_selection
from kvbatch.kvrocks.server_way import server_options, server_way
from kvbatch.kvrocks.source import KvrocksSource, read_source
from kvbatch.lane_choice import Way, bytes_read, choose_way, grafted_bytes, way_of
from kvbatch.manifest import Manifest
from kvbatch.options import PLAIN_SOURCE, MigrationOptions, SourceMemory
from kvbatch.ranges import Range
from kvbatch.store_reader import unfinished_source
from kvbatch.target_state import TargetState, recorded_end, takes_whole_store

__all__ = ["LANE_CARRIED_ON", "Plan", "found_at", "make_plan", "open_source", "options_for"]

LANE_CARRIED_ON = "the lane of the unfinished job that is carried on"
LANE_OF_THE_FINISHED = "the lane of the job that was finished"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a migration would do. `estimated_*` come from table properties; bytes are keys and values, uncompressed.
    `target_state` and `estimated_seconds` are None in `Migration.plan`: a migration opens its target instead of looking
    at it, and begins instead of measuring. The seconds are for what is left to do."""

    job: str
    source: str
    target: str
    lane: str
    lane_reason: str
    streams: int
    estimated_entries: int
    estimated_bytes: int
    # Files of the source that are moved as they are, and how much of `estimated_bytes` they hold. The rest is read, and
    # so is what stands over these files.
    files_grafted: int
    bytes_grafted: int
    bytes_read: int
    column_families: tuple[str, ...]
    ranges: tuple[Range, ...]
    manifest: Manifest
    # Of the run that finished the job, where a record says so and the target is still the store that it made.
    recorded_end: dict[str, Any] | None = None
    source_memory: SourceMemory = PLAIN_SOURCE
    # Of a job to a Kvrocks server, what it is sent.
    server_source: KvrocksSource | None = None
    target_state: TargetState | None = None
    estimated_seconds: float | None = None

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
            "bytes_read": self.bytes_read,
            "estimated_seconds": self.estimated_seconds,
            "column_families": list(self.column_families),
            "ranges": [part.to_json() for part in self.ranges],
        }


def open_source(endpoint: Endpoint, options: MigrationOptions) -> SourceStore:
    if not isinstance(endpoint, DirectoryEndpoint):
        raise UsageError(f"{endpoint} cannot be a source: a source is a RocksDB directory on this machine")
    # Its WAL goes into memory as it is opened.
    store = SourceStore(
        str(endpoint.path),
        options.families_to_open,
        max_memory=options.max_memory,
        reserved_bytes=options.least_memory,
    )
    if any(family.name == RESERVED_COLUMN_FAMILY for family in store.column_families):
        raise unfinished_source(endpoint)
    return store


def options_for(target: Endpoint, options: MigrationOptions) -> MigrationOptions:
    """With what the target leaves no choice of. Raises RefusedError for a lane that cannot serve there, UsageError for
    an option that makes no sense there."""
    if isinstance(target, KvrocksEndpoint):
        return server_options(options)
    if options.overwrite:
        raise UsageError(
            "--overwrite is for kvrocks:// targets; into a directory that holds other data --allow-nonempty writes"
        )
    return options


def _job_id(fingerprint: str, target: Endpoint, options: MigrationOptions) -> str:
    """The same source, target and selection give the same job, so that the same command carries on."""
    if options.job is not None:
        return options.job
    selected = [str(options.key_range), *sorted(options.column_families)]
    # Nothing of those that are not given: the jobs of before go on.
    selected += [f"{name} {value}" for name in ("slots", "namespace") if (value := getattr(options, name)) is not None]
    identity = "\0".join([fingerprint, str(target), *selected])
    return hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:12]


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


def _source_memory(store: SourceStore, lane: str) -> SourceMemory:
    if lane == "files":
        return SourceMemory(store.memtable_bytes)
    files = store.memory_for_files()
    return SourceMemory(store.memtable_bytes + files.shared_bytes, files.reader_bytes, files.merged)


def make_plan(source: Endpoint, target: Endpoint, store: SourceStore, options: MigrationOptions) -> Plan:
    """Looks at the source, and where it matters for the lane, whether anything stands at the target. Raises UsageError
    or RefusedError where the source has not what is selected, RefusedError when the lane that is asked for cannot
    serve."""
    assert isinstance(source, DirectoryEndpoint)
    fingerprint = fingerprint_directory(source.path)
    job = _job_id(fingerprint, target, options)
    if isinstance(target, KvrocksEndpoint):
        server_source = read_source(store, options)
        selection = server_source.selection
        families = [each for each in store.column_families if each.name in server_source.families]
    else:
        server_source = None
        selection = find_selection(store, options)
        families = families_of_copy(store, options)

    def manifest_of(lane: str, ranges: tuple[Range, ...]) -> Manifest:
        return Manifest(
            job=job,
            source=str(source),
            fingerprint=fingerprint,
            lane=lane,
            lane_forced=options.lane != "auto",
            selection=selection,
            families=tuple(_target_family(family, options) for family in families),
            ranges=ranges,
            allow_nonempty=options.allow_nonempty,
            sst_file_bytes=options.sst_file_bytes,
        )

    # Into a target that holds other data a job may be run as often as somebody likes.
    end = None if options.allow_nonempty else recorded_end(job, fingerprint, target, options)
    if server_source is not None:
        way = server_way(store, options, server_source)
    elif end is None:
        assert not isinstance(target, KvrocksEndpoint)
        looked_at = target
        way = choose_way(
            source,
            target,
            store,
            selection,
            options,
            lambda files: takes_whole_store(looked_at, manifest_of("files", files)),
        )
    else:
        way = way_of(end["lane"], end["lane_reason"], store, selection, options)
    check_link(source, target, options)
    memory = _source_memory(store, way.lane)
    options.check_memory(memory)
    return Plan(
        job=job,
        source=str(source),
        target=str(target),
        column_families=tuple(family.name for family in families),
        manifest=manifest_of(way.lane, way.ranges),
        recorded_end=end,
        source_memory=memory,
        server_source=server_source,
        **_figures_of(way, options),
    )


def found_at(plan: Plan, state: TargetState, store: SourceStore, options: MigrationOptions) -> Plan:
    """The plan with what was found at the target; a job that stands there, unfinished or finished, keeps its lane."""
    plan = dataclasses.replace(plan, target_state=state)
    if state.lane in ("", plan.lane):
        return plan
    reason = LANE_CARRIED_ON if state.kind == "resumable" else LANE_OF_THE_FINISHED
    way = way_of(state.lane, reason, store, plan.manifest.selection, options)
    return dataclasses.replace(plan, **_figures_of(way, options))


def _figures_of(way: Way, options: MigrationOptions) -> dict[str, Any]:
    """The fields of a plan that follow from the way."""
    return {
        "lane": way.lane,
        "lane_reason": way.reason,
        "streams": min(options.expected_streams, max(1, len(way.ranges))),
        "estimated_entries": sum(part.estimated_entries for part in way.ranges),
        "estimated_bytes": sum(part.estimated_bytes for part in way.ranges),
        "files_grafted": sum(bool(part.file) for part in way.ranges),
        "bytes_grafted": grafted_bytes(way.ranges),
        "bytes_read": bytes_read(way.ranges),
        "ranges": way.ranges,
    }
