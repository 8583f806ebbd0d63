"""What splitting a range makes of a job's ranges."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvbatch._core.store import ColumnFamilyDescription
from kvbatch.errors import CorruptionError, ProtocolError
from kvbatch.manifest import Manifest
from kvbatch.ranges import KeyRange, Range, Selection


def manifest(*bounds: bytes, limited: bool = False) -> Manifest:
    whole = KeyRange(b"\x00", b"\xff" * 4) if limited else KeyRange()
    starts, ends = (whole.start, *bounds), (*bounds, whole.end)
    return Manifest(
        job="job",
        source="/source",
        fingerprint="f",
        lane="batch",
        selection=Selection(whole),
        families=(ColumnFamilyDescription("default"),),
        ranges=tuple(
            Range(i, "default", start, end, 1000, 11) for i, (start, end) in enumerate(zip(starts, ends, strict=True))
        ),
        written_ranges=(1,),
    )


def test_what_is_split_off_is_the_last_range_and_nothing_is_lost() -> None:
    split = manifest(b"g", b"p").split(1, b"k")
    assert [(part.id, part.start, part.end) for part in split.ranges] == [
        (0, None, b"g"), (1, b"g", b"k"), (2, b"p", None), (3, b"k", b"p"),
    ]  # fmt: skip
    assert sum(part.estimated_bytes for part in split.ranges) == 3000
    assert sum(part.estimated_entries for part in split.ranges) == 33
    # Where the target held data, both halves are written.
    assert split.written_ranges == (1, 3)
    assert split.split(0, b"b").written_ranges == (1, 3)


@given(st.lists(st.binary(min_size=1, max_size=3), max_size=12), st.booleans())
def test_the_ranges_stay_whole_in_whatever_order(keys: list[bytes], limited: bool) -> None:
    job = manifest(limited=limited)
    for key in keys:
        for part in job.ranges:
            if (part.start is None or part.start < key) and (part.end is None or key < part.end):
                job = job.split(part.id, key)
                break
    assert Manifest.decode(job.encode()).encode() == job.encode()


@pytest.mark.parametrize(
    "bounds",
    [
        [(None, b"g"), (b"g", b"p")],  # does not reach the end
        [(None, b"g"), (b"h", None)],  # a hole
        [(None, b"g"), (b"f", None)],  # an overlap
        [(None, b"g"), (b"g", None), (b"g", None)],  # twice
        [(None, b"g"), (b"g", b"g"), (b"g", None)],  # a circle
        [(None, None), (b"g", b"p")],  # one beside the whole
        [(b"a", None)],
    ],
)
def test_ranges_that_are_not_whole_are_refused(bounds: list[tuple[bytes | None, bytes | None]]) -> None:
    ranges = tuple(Range(i, "default", start, end) for i, (start, end) in enumerate(bounds))
    broken = dataclasses.replace(manifest(), ranges=ranges)
    with pytest.raises(CorruptionError, match="do not make up"):
        Manifest.decode(broken.encode())


def test_what_cannot_be_split() -> None:
    job = manifest(b"g")
    grafted = dataclasses.replace(job, ranges=(dataclasses.replace(job.ranges[0], file="000009.sst"), job.ranges[1]))
    for each, number in ((job, 2), (job, -1), (grafted, 0), (dataclasses.replace(job, lane="files"), 0)):
        with pytest.raises(ProtocolError, match="could be split"):
            each.split(number, b"c")
