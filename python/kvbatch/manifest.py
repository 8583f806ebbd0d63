"""The manifest: what a sender tells a target about a job, and what the target keeps of it.

It travels in the `open` request and stands as the record `job` in the target's reserved column family until the job is
finished. It fixes everything a resume must agree on.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from kvbatch._core.store import RESERVED_COLUMN_FAMILY, ColumnFamilyDescription
from kvbatch.errors import CorruptionError, ProtocolError, RefusedError
from kvbatch.ranges import BYTEWISE_COMPARATOR, Range, Selection
from kvbatch.source_image import check_image_names, is_table

__all__ = ["JOB_RECORD", "Manifest"]

JOB_RECORD = b"job"
_VERSION = 1
# What a file offset can be.
_MAX_FILE_BYTES = (1 << 63) - 1


def _family_to_json(family: ColumnFamilyDescription) -> dict[str, Any]:
    return {
        "name": family.name,
        "comparator": family.comparator,
        "merge_operator": family.merge_operator,
        "compression": family.compression,
        "filter_policy": family.filter_policy,
        "block_size": family.block_size,
        "num_levels": family.num_levels,
    }


def _family_from_json(value: dict[str, Any]) -> ColumnFamilyDescription:
    return ColumnFamilyDescription(
        value["name"],
        comparator=value["comparator"],
        merge_operator=value["merge_operator"],
        compression=value["compression"],
        filter_policy=value["filter_policy"],
        block_size=value["block_size"],
        num_levels=value["num_levels"],
    )


def _way_out(stored: Manifest, field: str, *, changed: bool) -> str:
    """For who meets an unfinished job at the target that differs in `field`."""
    if changed:
        return (
            "the source was changed since that job began, so that nobody can finish it: discard it with `kvbatch "
            f"cancel --discard {stored.job}` and migrate again. Where its state directory is lost, remove what stands "
            "at the target (in the lane `files` its files stand beside it, in .NAME.kvbatch)"
        )
    if field == "lane":
        return "finish that job without --lane, or choose another target"
    if field == "allow_nonempty":
        option = "with" if stored.allow_nonempty else "without"
        return f"finish that job {option} --allow-nonempty, as it was begun, or choose another target"
    return (
        f"finish that job with its own command (with `--job {stored.job}` where only the target's address is another "
        "one now), or choose another target"
    )


@dataclass(frozen=True, slots=True)
class Manifest:
    job: str
    source: str
    fingerprint: str
    lane: str
    selection: Selection
    families: tuple[ColumnFamilyDescription, ...]
    ranges: tuple[Range, ...]
    # Whether this lane was asked for by name. Else an unfinished job of another lane goes on in that one.
    lane_forced: bool = True
    allow_nonempty: bool = False
    sst_file_bytes: int = 64 << 20
    # Ids of the ranges where the target held data when the job began: written, not ingested.
    written_ranges: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "version": _VERSION,
            "job": self.job,
            "source": self.source,
            "fingerprint": self.fingerprint,
            "lane": self.lane,
            "lane_forced": self.lane_forced,
            **self.selection.to_json(),
            "families": [_family_to_json(family) for family in self.families],
            "ranges": [part.to_json() for part in self.ranges],
            "allow_nonempty": self.allow_nonempty,
            "sst_file_bytes": self.sst_file_bytes,
            "written_ranges": list(self.written_ranges),
        }

    @staticmethod
    def from_json(value: Any) -> Manifest:
        """Raises CorruptionError when `value` is not a manifest of this version."""
        try:
            if value["version"] != _VERSION:
                raise CorruptionError(f"manifest version: theirs {value['version']}, ours {_VERSION}", retryable=False)
            manifest = Manifest(
                job=str(value["job"]),
                source=str(value["source"]),
                fingerprint=str(value["fingerprint"]),
                lane=str(value["lane"]),
                # Before there was a choice between jobs' lanes every lane was binding.
                lane_forced=bool(value.get("lane_forced", True)),
                selection=Selection.from_json(value),
                families=tuple(_family_from_json(family) for family in value["families"]),
                ranges=tuple(Range.from_json(part) for part in value["ranges"]),
                allow_nonempty=bool(value["allow_nonempty"]),
                sst_file_bytes=int(value["sst_file_bytes"]),
                written_ranges=tuple(int(number) for number in value["written_ranges"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CorruptionError(f"malformed manifest: {error!r}", retryable=False) from error
        manifest._check_ranges()
        return manifest

    def _check_ranges(self) -> None:
        """Raises CorruptionError unless the ranges of each family make up what is selected of it, in whatever order:
        what was split off stands behind the others."""
        if self.lane == "files":
            self._check_files()
            return
        expected = [family.name for family in self.families]
        if RESERVED_COLUMN_FAMILY in expected:
            raise CorruptionError(f"malformed manifest: {RESERVED_COLUMN_FAMILY} is nobody's family", retryable=False)
        families: dict[str, list[Range]] = {name: [] for name in expected}
        whole = [part.id for part in self.ranges] == list(range(len(self.ranges)))
        for part in self.ranges:
            families.setdefault(part.column_family, []).append(part)
        for name, parts in families.items():
            whole = whole and name in expected and self._are_whole(name, parts)
        if not whole or not self._selects_bytewise():
            raise CorruptionError("malformed manifest: its ranges do not make up its column families", retryable=False)

    def _are_whole(self, family: str, parts: list[Range]) -> bool:
        """Whether these ranges of one family lead from one to the next through all that is selected of it."""
        behind = {part.start: part for part in parts}
        if len(behind) != len(parts):
            return False
        for selected in self.selection.of(family):
            part = behind.pop(selected.start, None)
            # The last key of all is no start.
            while part is not None and part.end != selected.end and part.end is not None:
                part = behind.pop(part.end, None)
            if part is None or part.end != selected.end:
                return False
        return not behind

    def _selects_bytewise(self) -> bool:
        """Whether ranges that are selected of single families are of families that the job has, in their order, and
        none of the job's own leads out of them and back."""
        selected = {name for name, _ in self.selection.of_families}
        ordered = {family.name for family in self.families if family.comparator == BYTEWISE_COMPARATOR}
        forward = all(part.start is None or part.end is None or part.start < part.end for part in self.ranges)
        return self.selection.key_range is not None or (selected <= ordered and forward)

    def split(self, range_id: int, key: bytes) -> Manifest:
        """With what stands from `key` on in a range as a range of its own, the last one. The caller has checked that
        `key` lies in it. Raises ProtocolError for a range that cannot be split."""
        if not 0 <= range_id < len(self.ranges) or self.lane == "files" or self.ranges[range_id].file:
            raise ProtocolError(f"the job has no range {range_id} that could be split")
        part = self.ranges[range_id]
        half = dataclasses.replace(
            part,
            id=len(self.ranges),
            start=key,
            estimated_bytes=part.estimated_bytes // 2,
            estimated_entries=part.estimated_entries // 2,
        )
        rest = dataclasses.replace(
            part,
            end=key,
            estimated_bytes=part.estimated_bytes - half.estimated_bytes,
            estimated_entries=part.estimated_entries - half.estimated_entries,
        )
        ranges = (*self.ranges[:range_id], rest, *self.ranges[range_id + 1 :], half)
        written = (*self.written_ranges, half.id) if range_id in self.written_ranges else self.written_ranges
        return dataclasses.replace(self, ranges=ranges, written_ranges=written)

    @property
    def imports(self) -> bool:
        """Whether files are moved that become the column families of a new store, rather than a store's own."""
        return self.lane == "files" and not any(part.file == "CURRENT" for part in self.ranges)

    def _check_files(self) -> None:
        """Raises CorruptionError unless the ranges are the files of a store, or of its chosen families: the names
        become names at the target."""
        whole = not self.imports
        if whole:
            check_image_names(part.file for part in self.ranges)
        as_planned = [
            Range(
                id=i,
                column_family="" if whole else part.column_family,
                start=None,
                end=None,
                estimated_bytes=part.estimated_bytes,
                estimated_entries=part.estimated_entries,
                file=part.file,
                file_bytes=part.file_bytes,
                place=None if whole else part.place,
            )
            for i, part in enumerate(self.ranges)
        ]
        fits = all(0 <= part.file_bytes <= _MAX_FILE_BYTES for part in self.ranges) and (whole or self._can_import())
        if list(self.ranges) != as_planned or not fits or self.selection != Selection() or self.allow_nonempty:
            raise CorruptionError("malformed manifest: its ranges are no files of a store", retryable=False)

    def _can_import(self) -> bool:
        names = {family.name for family in self.families} - {"default", RESERVED_COLUMN_FAMILY}
        return (
            len(names) == len(self.families)
            and len({part.file for part in self.ranges}) == len(self.ranges)
            and all(part.column_family in names and part.place and is_table(part.file) for part in self.ranges)
        )

    def encode(self) -> bytes:
        return json.dumps(self.to_json(), separators=(",", ":")).encode()

    @staticmethod
    def decode(record: bytes) -> Manifest:
        try:
            value = json.loads(record)
        except (ValueError, RecursionError) as error:
            raise CorruptionError(f"malformed manifest: {error}", retryable=False) from error
        return Manifest.from_json(value)

    def check_resumes(self, stored: Manifest) -> None:
        """Raises RefusedError, naming the first field that differs, unless this job is the one that `stored` is of."""

        def families(manifest: Manifest) -> str:
            """What is to be the same of them."""
            return ", ".join(
                f"{family.name} ({' and '.join(filter(None, (family.comparator, family.merge_operator)))})"
                for family in manifest.families
            )

        # The job's id follows from the fingerprint: of the same source it is the change that counts.
        changed = self.source == stored.source and self.fingerprint != stored.fingerprint
        job = ("job", stored.job, stored.job if changed else self.job)
        # Of the same source it follows from what of it is selected.
        same = self.fingerprint == stored.fingerprint
        for field, theirs, ours in (
            *(() if same else (job,)),
            ("source fingerprint", stored.fingerprint, self.fingerprint),
            ("lane", stored.lane, self.lane if self.lane_forced else stored.lane),
            ("range", str(stored.selection), str(self.selection)),
            ("column families", families(stored), families(self)),
            ("allow_nonempty", stored.allow_nonempty, self.allow_nonempty),
            job,
        ):
            if theirs != ours:
                raise RefusedError(
                    f"the target holds the unfinished job {stored.job!r} of {stored.source}, which this one does not "
                    f"continue: {field}: theirs {theirs!r}, ours {ours!r}. No entry was changed; "
                    + _way_out(stored, field, changed=changed)
                )
