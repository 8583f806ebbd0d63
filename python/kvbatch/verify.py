"""Comparing two stores by range digests, and repairing the keys that differ. docs/verify.md has the page."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from kvbatch._core.base import sum_digests
from kvbatch._core.codec import Codec
from kvbatch._core.frame import BufferPool, Frame, FrameType
from kvbatch._core.store import SourceStore, TargetStore
from kvbatch.endpoints import DirectoryEndpoint, Endpoint, ReceiverEndpoint, check_apart, parse_endpoint
from kvbatch.errors import RefusedError, UsageError
from kvbatch.options import MIB, default_streams
from kvbatch.planner import plan_ranges
from kvbatch.protocol import Peer, connect
from kvbatch.ranges import KeyRange, Range, parse_key_range
from kvbatch.store_reader import EMPTY_DIGEST, DirectoryReader, Run, StoreReader, open_reader

__all__ = ["Difference", "VerifyReport", "verify"]

_RANGE_BYTES = 32 * MIB
_MAX_RANGES = 256
# A range that differs is looked at again in runs of so many entries, and a run that differs key by key.
_RUN_ENTRIES = 4096
_LIST_BYTES = MIB
_REPAIR_BATCH_BYTES = MIB
# How many differing keys a report names.
_SAMPLE_KEYS = 20

DifferenceKind = Literal["missing", "extra", "different"]


@dataclass(frozen=True, slots=True)
class Difference:
    """A key that the target lacks (`missing`), that only it has (`extra`), or whose values differ."""

    column_family: str
    key: bytes
    kind: DifferenceKind


@dataclass(slots=True)
class VerifyReport:
    """`digests` are those of the source, one a column family: the sum of the digests of its entries."""

    equal: bool = True
    entries_source: int = 0
    entries_target: int = 0
    ranges: int = 0
    ranges_differing: int = 0
    keys_missing: int = 0
    keys_extra: int = 0
    keys_different: int = 0
    keys_repaired: int = 0
    digests: dict[str, str] = field(default_factory=dict)
    samples: list[Difference] = field(default_factory=list)
    unfinished: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "equal": self.equal,
            "entries_source": self.entries_source,
            "entries_target": self.entries_target,
            "ranges_differing": self.ranges_differing,
            "keys_missing": self.keys_missing,
            "keys_extra": self.keys_extra,
            "keys_different": self.keys_different,
            "keys_repaired": self.keys_repaired,
            "digests": self.digests,
            "samples": [
                {"column_family": found.column_family, "key": found.key.hex(), "kind": found.kind}
                for found in self.samples
            ],
        }


class _Readers:
    """Readers of one endpoint for several threads: a directory's is shared, a receiver's is one a thread."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._local = threading.local()
        self.first = open_reader(endpoint)
        self._all = [self.first]

    def get(self) -> StoreReader:
        if isinstance(self._endpoint, DirectoryEndpoint):
            return self.first
        reader: StoreReader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = open_reader(self._endpoint)
            with self._lock:
                self._all.append(reader)
        return reader

    def close(self) -> None:
        for reader in self._all:
            reader.close()


def _total(runs: list[Run]) -> tuple[int, bytes]:
    return sum(run.entries for run in runs), sum_digests([run.digest for run in runs]) if runs else EMPTY_DIGEST


def _listed(reader: StoreReader, family: str, start: bytes | None, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    """All (key, digest) of [start, end), a page at a time."""
    after: bytes | None = None
    while True:
        entries, complete = reader.list_entries(family, start, end, _LIST_BYTES)
        for key, digest in entries:
            # Pages overlap by one key, since a range starts at a key and not behind one.
            if key != after:
                yield key, digest
        if complete:
            return
        start = after = entries[-1][0]


class _Comparison:
    def __init__(self, source: _Readers, target: _Readers, report: VerifyReport, reverse: dict[str, bool]) -> None:
        self._source = source
        self._target = target
        self._report = report
        self._reverse = reverse
        self._lock = threading.Lock()
        self.differences: dict[str, list[bytes]] = {}
        self._keep_all = False

    def keep_all(self) -> None:
        """Keeps every differing key, for a repair."""
        self._keep_all = True

    def compare_runs(self, part: Range) -> None:
        """Goes through a range that differs: runs of the source against the same bounds of the target."""
        runs = self._source.get().digest(part.column_family, part.start, part.end, _RUN_ENTRIES)
        start = part.start
        for i, run in enumerate(runs):
            last = i == len(runs) - 1
            # The run ends with its last key; the next one starts at the first key behind it.
            end = part.end if last else run.last_key + b"\0"
            if not last and self._reverse[part.column_family]:
                # In descending order nothing general lies just behind a key: the rest goes key by key.
                self._compare_keys(part.column_family, start, part.end)
                return
            entries, digest = _total(self._target.get().digest(part.column_family, start, end))
            if (entries, digest) != (run.entries, run.digest):
                self._compare_keys(part.column_family, start, end)
            start = end
        if not runs:
            self._compare_keys(part.column_family, part.start, part.end)

    def _compare_keys(self, family: str, start: bytes | None, end: bytes | None) -> None:
        ours = _listed(self._source.get(), family, start, end)
        theirs = _listed(self._target.get(), family, start, end)
        sides = [((key, 0, digest) for key, digest in ours), ((key, 1, digest) for key, digest in theirs)]
        merged = heapq.merge(*sides, key=lambda entry: entry[0], reverse=self._reverse[family])
        pending: tuple[bytes, int, bytes] | None = None
        for entry in merged:
            if pending is not None and pending[0] == entry[0]:
                if pending[2] != entry[2]:
                    self._note(family, entry[0], "different")
                pending = None
                continue
            if pending is not None:
                self._note(family, pending[0], "extra" if pending[1] else "missing")
            pending = entry
        if pending is not None:
            self._note(family, pending[0], "extra" if pending[1] else "missing")

    def _note(self, family: str, key: bytes, kind: DifferenceKind) -> None:
        report = self._report
        with self._lock:
            if kind == "missing":
                report.keys_missing += 1
            elif kind == "extra":
                report.keys_extra += 1
            else:
                report.keys_different += 1
            if len(report.samples) < _SAMPLE_KEYS:
                report.samples.append(Difference(family, key, kind))
            if self._keep_all:
                self.differences.setdefault(family, []).append(key)


def _plan(store: SourceStore, key_range: KeyRange) -> list[Range]:
    return plan_ranges(store, key_range=key_range, range_bytes=_RANGE_BYTES, max_ranges=_MAX_RANGES)


def _extra_families(source: StoreReader, target: StoreReader, first_id: int) -> list[Range]:
    """Whole families that only the target has: their entries are extra keys."""
    ours = set(source.column_families())
    return [
        Range(first_id + i, family, None, None)
        for i, family in enumerate(name for name in target.column_families() if name not in ours)
    ]


class _Missing:
    """Stands for a family that a store does not have."""

    def __init__(self, reader: StoreReader) -> None:
        self._reader = reader
        self._names = set(reader.column_families())

    def column_families(self) -> list[str]:
        return self._reader.column_families()

    def identity(self) -> str:
        return self._reader.identity()

    def unfinished(self) -> bool:
        return self._reader.unfinished()

    def digest(self, family: str, start: bytes | None, end: bytes | None, run_entries: int = 0) -> list[Run]:
        return self._reader.digest(family, start, end, run_entries) if family in self._names else []

    def list_entries(
        self, family: str, start: bytes | None, end: bytes | None, max_key_bytes: int
    ) -> tuple[list[tuple[bytes, bytes]], bool]:
        if family not in self._names:
            return [], True
        return self._reader.list_entries(family, start, end, max_key_bytes)

    def close(self) -> None:
        self._reader.close()


class _TolerantReaders(_Readers):
    """As _Readers, but a family that is not there reads as an empty one."""

    def get(self) -> StoreReader:
        return _Missing(super().get())


class _Repairer(Protocol):
    def family_id(self, name: str) -> int: ...
    def write(self, frame: Frame) -> None: ...
    def close(self) -> None: ...


class _DirectoryRepairer:
    def __init__(self, endpoint: DirectoryEndpoint) -> None:
        self._store = TargetStore(str(endpoint.path), create=False)

    def family_id(self, name: str) -> int:
        return self._store.family_id(name)

    def write(self, frame: Frame) -> None:
        self._store.write(frame)

    def close(self) -> None:
        self._store.flush()
        self._store.close()


class _ReceiverRepairer:
    def __init__(self, endpoint: ReceiverEndpoint) -> None:
        self._peer: Peer
        self._peer, _ = connect(endpoint.host, endpoint.port, "control")
        self._ids: dict[str, int] = self._peer.request("repair", name=endpoint.name)["family_ids"]

    def family_id(self, name: str) -> int:
        return self._ids[name]

    def write(self, frame: Frame) -> None:
        self._peer.connection.send(frame)
        self._peer.receive(FrameType.REPLY)

    def close(self) -> None:
        end = Frame(BufferPool(MIB))
        self._peer.connection.send(end)
        self._peer.receive(FrameType.REPLY)
        self._peer.close()


def _repair(source: SourceStore, target: Endpoint, differences: dict[str, list[bytes]]) -> int:
    """Sends what the source holds for the differing keys, deletes what only the target has; how many keys."""
    repairer: _Repairer = (
        _DirectoryRepairer(target) if isinstance(target, DirectoryEndpoint) else _ReceiverRepairer(target)
    )
    frame = Frame(BufferPool(1 << 30))
    repaired = 0
    for family, keys in differences.items():
        family_id = repairer.family_id(family)
        at = 0
        while at < len(keys):
            at += source.pack_repair(family, keys, at, family_id, frame, _REPAIR_BATCH_BYTES, Codec.NONE)
            repairer.write(frame)
        repaired += len(keys)
    repairer.close()
    return repaired


def verify(
    source: str,
    target: str,
    *,
    repair: bool = False,
    key_range: KeyRange | str | None = None,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Compares every entry of `source` with `target`, both directions, by digests of ranges.

    Both are read as they stand at rest. With `repair` the differing keys, and only those, are written to the target,
    and everything is compared again. `on_progress` gets entries compared and expected. Raises UsageError, RefusedError,
    SourceError, TransportError.
    """
    source_endpoint, target_endpoint = parse_endpoint(source), parse_endpoint(target)
    check_apart(source_endpoint, target_endpoint)
    if not isinstance(source_endpoint, DirectoryEndpoint):
        raise UsageError(f"{source_endpoint}: verify reads the source as a directory on this machine")
    wanted = KeyRange() if key_range is None else parse_key_range(key_range)
    report, differences = _compare(source_endpoint, target_endpoint, wanted, threads, repair, on_progress)
    if report.equal or not repair:
        return report
    if report.unfinished:
        raise RefusedError(
            f"{target_endpoint} is the target of an unfinished migration; run its `kvbatch migrate` again instead"
        )
    missing = [family for family in differences if family not in report.digests]
    store = SourceStore(str(source_endpoint.path))
    if missing:
        raise RefusedError(
            f"the target has column families that the source lacks ({', '.join(missing)}); drop them with the program "
            "they belong to"
        )
    repaired = _repair(store, target_endpoint, differences)
    again, _ = _compare(source_endpoint, target_endpoint, wanted, threads, False, on_progress)
    report.equal = again.equal
    report.entries_target = again.entries_target
    report.keys_repaired = repaired
    return report


def _compare(
    source_endpoint: DirectoryEndpoint,
    target_endpoint: Endpoint,
    key_range: KeyRange,
    threads: int | None,
    keep_all: bool,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[VerifyReport, dict[str, list[bytes]]]:
    report = VerifyReport()
    source = _TolerantReaders(source_endpoint)
    target = _TolerantReaders(target_endpoint)
    try:
        assert isinstance(source.first, DirectoryReader)
        store = source.first.store
        report.unfinished = target.first.unfinished()
        parts = _plan(store, key_range)
        families = [family.name for family in store.column_families]
        parts += _extra_families(source.first, target.first, len(parts))
        expected = sum(part.estimated_entries for part in parts)
        reverse = {family.name: "Reverse" in family.comparator for family in store.column_families}
        comparison = _Comparison(source, target, report, {**{part.column_family: False for part in parts}, **reverse})
        if keep_all:
            comparison.keep_all()
        workers = threads or default_streams()
        digests: dict[str, list[bytes]] = {family: [] for family in families}
        with ThreadPoolExecutor(workers) as ours, ThreadPoolExecutor(workers) as theirs:
            pairs = [
                (
                    part,
                    ours.submit(lambda p: _total(source.get().digest(p.column_family, p.start, p.end)), part),
                    theirs.submit(lambda p: _total(target.get().digest(p.column_family, p.start, p.end)), part),
                )
                for part in parts
            ]
            differing = []
            for part, mine, other in pairs:
                (entries_source, digest), (entries_target, digest_target) = mine.result(), other.result()
                report.entries_source += entries_source
                report.entries_target += entries_target
                if part.column_family in digests:
                    digests[part.column_family].append(digest)
                if (entries_source, digest) != (entries_target, digest_target):
                    differing.append(part)
                if on_progress is not None:
                    on_progress(report.entries_source, expected)
            list(ours.map(comparison.compare_runs, differing))
        report.ranges = len(parts)
        report.ranges_differing = len(differing)
        report.digests = {family: sum_digests(all_).hex() for family, all_ in digests.items()}
        missing_families = set(families) - set(target.first.column_families())
        report.equal = not differing and not missing_families
        report.samples.sort(key=lambda found: (found.column_family, found.key))
        return report, comparison.differences
    finally:
        source.close()
        target.close()
