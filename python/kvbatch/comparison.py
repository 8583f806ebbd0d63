"""One comparison of two stores: range by range, and key by key where they differ. docs/verify.md has the page."""

from __future__ import annotations

import contextlib
import heapq
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from kvbatch._core.base import sum_digests
from kvbatch._core.store import SourceStore
from kvbatch.endpoints import DirectoryEndpoint, StoreEndpoint
from kvbatch.errors import RefusedError, SourceError, TargetError, UsageError
from kvbatch.events import SAMPLE_SECONDS, Progress, RateMeter
from kvbatch.options import MIB, default_streams
from kvbatch.planner import RangeSizes, plan_ranges
from kvbatch.process import rss_bytes
from kvbatch.ranges import Range, Selection
from kvbatch.stopping import StopRequest
from kvbatch.store_reader import EMPTY_DIGEST, DirectoryReader, Run, StoreReader, open_reader

__all__ = ["Difference", "Meter", "Readers", "VerifyReport", "compare"]

_RANGE_BYTES = 32 * MIB
_MAX_RANGES = 256
# A range that differs is looked at again in runs of so many entries, and a run that differs key by key.
_RUN_ENTRIES = 4096
_LIST_BYTES = MIB
# A repair keeps so many bytes of differing keys at once, each counted with what Python adds to it.
_KEPT_BYTES = 64 * MIB
_KEY_OVERHEAD_BYTES = 64
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
    families_missing: list[str] = field(default_factory=list)
    families_extra: list[str] = field(default_factory=list)
    unfinished: bool = False

    @property
    def keys_differing(self) -> int:
        return self.keys_missing + self.keys_extra + self.keys_different

    def to_json(self) -> dict[str, Any]:
        return {
            "equal": self.equal,
            "unfinished": self.unfinished,
            "entries_source": self.entries_source,
            "entries_target": self.entries_target,
            "ranges_differing": self.ranges_differing,
            "keys_missing": self.keys_missing,
            "keys_extra": self.keys_extra,
            "keys_different": self.keys_different,
            "keys_repaired": self.keys_repaired,
            "families_missing": self.families_missing,
            "families_extra": self.families_extra,
            "digests": self.digests,
            "samples": [
                {"column_family": found.column_family, "key": found.key.hex(), "kind": found.kind}
                for found in self.samples
            ],
        }


class Readers:
    """Readers of one endpoint for several threads: a directory's is shared, a receiver's is one a thread. A family that
    is not there reads as an empty one."""

    def __init__(
        self,
        endpoint: StoreEndpoint,
        stop: StopRequest,
        column_families: Sequence[str] = (),
        *,
        of_target: bool = False,
    ) -> None:
        """`of_target`: what cannot be read is a TargetError, no SourceError."""
        self._endpoint = endpoint
        self._stop = stop
        self._of_target = of_target
        self._local = threading.local()
        with self._blamed():
            self.first = open_reader(endpoint, column_families, stop.watch)
        self._families = set(self.first.column_families())
        self._all = [self.first]

    @contextlib.contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            yield
        except SourceError as error:
            if not self._of_target:
                raise SourceError(
                    f"the source {self._endpoint} cannot be read: {error}. The target is not at fault; verify again "
                    "once this is mended"
                ) from error
            raise TargetError(
                f"the target {self._endpoint} cannot be read: {error}. Nothing was changed, and the source is not at "
                "fault. Restore what is missing or damaged there, or let this user read it; a copy that is damaged "
                "beyond that, remove and migrate again"
            ) from error
        except UsageError as error:
            if not isinstance(self._endpoint, DirectoryEndpoint):
                raise  # it names the receiver
            raise UsageError(f"the {'target' if self._of_target else 'source'} {error}") from error

    @property
    def store(self) -> SourceStore:
        """Of a directory."""
        assert isinstance(self.first, DirectoryReader)
        return self.first.store

    def _own(self) -> StoreReader:
        """The reader of this thread."""
        reader: StoreReader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = open_reader(self._endpoint, on_connected=self._stop.watch)
            self._all.append(reader)
        return reader

    def _get(self) -> StoreReader:
        self._stop.check()
        return self.first if isinstance(self._endpoint, DirectoryEndpoint) else self._own()

    def runs(self, family: str, start: bytes | None, end: bytes | None, run_entries: int) -> list[Run]:
        if family not in self._families:
            return []
        with self._blamed():
            return self._get().digest(family, start, end, run_entries)

    def total(self, family: str, start: bytes | None, end: bytes | None) -> Run:
        """All entries of [start, end) as one run."""
        runs = self.runs(family, start, end, 0)
        digest = sum_digests([run.digest for run in runs]) if runs else EMPTY_DIGEST
        return Run(sum(run.entries for run in runs), sum(run.raw_bytes for run in runs), digest, b"")

    def entries(self, family: str, start: bytes | None, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """All (key, digest) of [start, end), a page at a time."""
        after: bytes | None = None
        complete = family not in self._families
        while not complete:
            with self._blamed():
                entries, complete = self._get().list_entries(family, start, end, _LIST_BYTES, after)
            yield from entries
            after = entries[-1][0] if entries else after

    def close(self) -> None:
        for reader in self._all:
            reader.close()


class Meter:
    """How much of the source was compared, over all passes of a verification. Ranges that are gone through a second
    time, to find their keys, count twice."""

    def __init__(self, tell: Callable[[Progress], None]) -> None:
        self._tell = tell
        self._rates = RateMeter()
        self._started = time.monotonic()
        self._due = self._started + SAMPLE_SECONDS
        self._entries = 0
        self._raw_bytes = 0
        self._expected_entries = 0
        self._expected_bytes = 0
        self._ranges_complete = 0
        self._ranges = 0

    def expect(self, parts: Sequence[Range]) -> None:
        self._ranges += len(parts)
        self._expected_entries += sum(part.estimated_entries for part in parts)
        self._expected_bytes += sum(part.estimated_bytes for part in parts)

    def add_range(self, entries: int, raw_bytes: int) -> None:
        """Tells of it when that is due."""
        self._ranges_complete += 1
        self._entries += entries
        self._raw_bytes += raw_bytes
        if time.monotonic() >= self._due:
            self.tell()

    def tell(self) -> None:
        now = time.monotonic()
        self._due = now + SAMPLE_SECONDS
        seconds = max(now - self._started, 1e-6)
        entries_per_second, bytes_per_second = self._rates.sample(self._entries, self._raw_bytes)
        self._tell(
            Progress(
                entries=self._entries,
                raw_bytes=self._raw_bytes,
                estimated_entries=max(self._expected_entries, self._entries),
                estimated_bytes=max(self._expected_bytes, self._raw_bytes),
                entries_per_second=entries_per_second,
                bytes_per_second=bytes_per_second,
                mean_entries_per_second=self._entries / seconds,
                mean_bytes_per_second=self._raw_bytes / seconds,
                seconds=seconds,
                ranges_complete=self._ranges_complete,
                ranges=self._ranges,
                rss_bytes=rss_bytes(),
            )
        )


class _Comparison:
    def __init__(self, source: Readers, target: Readers, report: VerifyReport, reverse: dict[str, bool]) -> None:
        self._source = source
        self._target = target
        self._report = report
        self._reverse = reverse
        self._lock = threading.Lock()
        self.differences: dict[str, list[bytes]] = {}
        self._keep_bytes = 0

    def keep(self, max_bytes: int) -> None:
        """Keeps differing keys, for a repair, up to so many bytes."""
        self._keep_bytes = max_bytes

    def compare_runs(self, part: Range) -> None:
        """Goes through a range that differs: runs of the source against the same bounds of the target."""
        runs = self._source.runs(part.column_family, part.start, part.end, _RUN_ENTRIES)
        start = part.start
        for i, run in enumerate(runs):
            last = i == len(runs) - 1
            # The run ends with its last key; the next one starts at the first key behind it.
            end = part.end if last else run.last_key + b"\0"
            if not last and self._reverse[part.column_family]:
                # In descending order nothing general lies just behind a key: the rest goes key by key.
                self._compare_keys(part.column_family, start, part.end)
                return
            theirs = self._target.total(part.column_family, start, end)
            if (theirs.entries, theirs.digest) != (run.entries, run.digest):
                self._compare_keys(part.column_family, start, end)
            start = end
        if not runs:
            self._compare_keys(part.column_family, part.start, part.end)

    def _compare_keys(self, family: str, start: bytes | None, end: bytes | None) -> None:
        ours = self._source.entries(family, start, end)
        theirs = self._target.entries(family, start, end)
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
            if self._keep_bytes > 0:
                self._keep_bytes -= len(key) + _KEY_OVERHEAD_BYTES
                self.differences.setdefault(family, []).append(key)


def _check_same_order(source: StoreReader, target: StoreReader) -> None:
    theirs = target.comparators()
    for family, ours in source.comparators().items():
        if theirs.get(family, ours) != ours:
            raise RefusedError(
                f'column family "{family}" has the comparator {ours} in the source and {theirs[family]} in the target: '
                "the stores cannot be equal, whatever their entries"
            )


def compare(
    source: Readers,
    target: Readers,
    selection: Selection,
    meter: Meter,
    *,
    all_families: bool,
    threads: int | None,
    keep: bool,
) -> tuple[VerifyReport, dict[str, list[bytes]]]:
    """One pass over what is selected, of both. With `keep` the differing keys come back too, by family, as many as
    memory is for."""
    report = VerifyReport()
    store = source.store
    _check_same_order(source.first, target.first)
    report.unfinished = target.first.unfinished()
    parts = plan_ranges(store, selection=selection, sizes=RangeSizes(_RANGE_BYTES, _MAX_RANGES))
    families = [family.name for family in store.column_families if selection.of(family.name)]
    theirs_named = target.first.column_families()
    report.families_missing = [name for name in families if name not in theirs_named]
    if all_families:
        report.families_extra = [name for name in theirs_named if name not in families and selection.of(name)]
    # Their entries are extra keys.
    extra = [(name, keys) for name in report.families_extra for keys in selection.of(name)]
    parts += [Range(len(parts) + i, name, keys.start, keys.end) for i, (name, keys) in enumerate(extra)]
    meter.expect(parts)
    reverse = {family.name: "Reverse" in family.comparator for family in store.column_families}
    comparison = _Comparison(source, target, report, {**{part.column_family: False for part in parts}, **reverse})
    if keep:
        comparison.keep(_KEPT_BYTES)
    workers = threads or default_streams()
    digests: dict[str, list[bytes]] = {family: [] for family in families}
    differing: list[Range] = []
    with ThreadPoolExecutor(workers) as ours, ThreadPoolExecutor(workers) as theirs:
        try:
            pairs = [
                (
                    part,
                    ours.submit(source.total, part.column_family, part.start, part.end),
                    theirs.submit(target.total, part.column_family, part.start, part.end),
                )
                for part in parts
            ]
            for part, *sides in pairs:
                mine, other = (side.result() for side in sides)
                report.entries_source += mine.entries
                report.entries_target += other.entries
                if part.column_family in digests:
                    digests[part.column_family].append(mine.digest)
                if (mine.entries, mine.digest) != (other.entries, other.digest):
                    differing.append(part)
                meter.add_range(mine.entries, mine.raw_bytes)
            meter.expect(differing)
            for part, _ in zip(differing, ours.map(comparison.compare_runs, differing), strict=True):
                meter.add_range(part.estimated_entries, part.estimated_bytes)
        except BaseException:
            # Nobody waits for the ranges that were not begun.
            for executor in (ours, theirs):
                executor.shutdown(wait=False, cancel_futures=True)
            raise
    meter.tell()
    report.ranges = len(parts)
    report.ranges_differing = len(differing)
    report.digests = {family: sum_digests(all_).hex() for family, all_ in digests.items()}
    report.equal = not differing and not report.families_missing and not report.families_extra
    report.samples.sort(key=lambda found: (found.column_family, found.key))
    return report, comparison.differences
