from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from kvbatch._core.store import RESERVED_COLUMN_FAMILY, ColumnFamilyDescription
from kvbatch.errors import CorruptionError, RefusedError
from kvbatch.manifest import Manifest
from kvbatch.ranges import KeyRange, Range, Selection

MANIFEST = Manifest(
    job="nightly",
    source="/data/source",
    fingerprint="f" * 32,
    lane="batch",
    selection=Selection(KeyRange(b"a", None)),
    families=(
        ColumnFamilyDescription("default"),
        ColumnFamilyDescription(
            "ü x", comparator="rocksdb.ReverseBytewiseComparator", merge_operator="uint64add", compression="zstd",
            filter_policy="bloom", block_size=4096, num_levels=3,
        ),
    ),
    ranges=(Range(0, "default", b"a", b"m", 5, 6), Range(1, "default", b"m", None), Range(2, "ü x", b"a", None)),
    allow_nonempty=True,
    sst_file_bytes=1 << 20,
    written_ranges=(1,),
)  # fmt: skip


def test_a_manifest_survives_its_record() -> None:
    again = Manifest.decode(MANIFEST.encode())
    assert again.to_json() == MANIFEST.to_json()
    assert (again.selection, again.ranges, again.written_ranges) == (MANIFEST.selection, MANIFEST.ranges, (1,))
    family = again.families[1]
    assert (family.name, family.comparator, family.num_levels) == ("ü x", "rocksdb.ReverseBytewiseComparator", 3)


def test_a_family_name_of_arbitrary_bytes_survives() -> None:
    name = b"\xff\xfe".decode(errors="surrogateescape")
    manifest = dataclasses.replace(
        MANIFEST, families=(ColumnFamilyDescription(name),), ranges=(Range(0, name, b"a", None),)
    )
    assert Manifest.decode(manifest.encode()).families[0].name == name


def changed(**changes: Any) -> bytes:
    return json.dumps({**MANIFEST.to_json(), **changes}).encode()


def without(key: str) -> bytes:
    value = MANIFEST.to_json()
    del value[key]
    return json.dumps(value).encode()


RANGES = MANIFEST.to_json()["ranges"]
RANGE = {"id": 0, "column_family": "default", "start": None, "end": None, "estimated_bytes": 0, "estimated_entries": 0}


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"5",
        b'"manifest"',
        b"{}",
        b"[" * 50_000,
        b'{"version":' * 20_000,
        changed(version=2),
        changed(version=None),
        *(without(key) for key in MANIFEST.to_json() if key != "lane_forced"),
        changed(families={}),
        changed(families=[None]),
        changed(families=[{**MANIFEST.to_json()["families"][0], "block_size": -1}]),
        changed(families=[{**MANIFEST.to_json()["families"][0], "name": 5}]),
        changed(ranges=5),
        changed(ranges=[{**RANGE, "id": 1}]),
        changed(ranges=[{**RANGE, "column_family": "other"}]),
        changed(ranges=[{**RANGE, "start": "0"}]),
        changed(ranges=[{**RANGE, "start": 7}]),
        changed(ranges=[RANGE, RANGE]),
        changed(ranges=RANGES[:2]),
        changed(ranges=[{**RANGES[0], "start": "60"}, *RANGES[1:]]),
        changed(ranges=[{**RANGES[0], "end": "6c"}, *RANGES[1:]]),
        changed(ranges=[{**RANGES[0], "end": "6e"}, *RANGES[1:]]),
        changed(ranges=[RANGES[0], {**RANGES[1], "end": "7a"}, RANGES[2]]),
        changed(ranges=[]),
        changed(key_range=[]),
        changed(key_range=None),
        changed(sst_file_bytes="much"),
        changed(sst_file_bytes=float("inf")),
        changed(sst_file_bytes=float("nan")),
        changed(written_ranges=[[]]),
    ],
    ids=lambda record: record[:40].decode(errors="replace"),
)
def test_a_hostile_record_is_corruption(record: bytes) -> None:
    with pytest.raises(CorruptionError, match="manifest") as raised:
        Manifest.decode(record)
    assert not raised.value.retryable


ONE, TWO = KeyRange(b"a", b"c"), KeyRange(b"m", None)
SELECTING = dataclasses.replace(
    MANIFEST,
    selection=Selection(None, (("default", (ONE, TWO)),)),
    ranges=(Range(0, "default", b"a", b"b"), Range(1, "default", b"m", None), Range(2, "default", b"b", b"c")),
)


def test_ranges_of_a_selection_make_up_each_part_of_it() -> None:
    again = Manifest.decode(SELECTING.encode())
    assert (again.selection, again.ranges) == (SELECTING.selection, SELECTING.ranges)
    assert "key_range" not in SELECTING.to_json()
    split = SELECTING.split(1, b"x")
    assert Manifest.decode(split.encode()).ranges == split.ranges


def selecting(*parts: tuple[bytes | None, bytes | None], **changes: Any) -> bytes:
    """With these ranges, or these fields of its selection."""
    value = SELECTING.to_json()
    value["selection"][0].update(changes)
    if parts:
        value["ranges"] = [Range(i, "default", start, end).to_json() for i, (start, end) in enumerate(parts)]
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    "record",
    [
        # Less and more than what is selected.
        selecting((b"a", b"c")),
        selecting((b"a", b"b"), (b"m", None)),
        selecting((b"a", b"c"), (b"m", b"n")),
        selecting((b"a", b"c"), (b"c", b"m"), (b"m", None)),
        selecting((b"a", None)),
        # Out of it and back.
        selecting((b"a", b"z"), (b"z", b"c"), (b"m", None)),
        selecting(column_families=["default", "ü x"]),
        selecting(column_families=["default", "default"]),
        selecting(column_families=["other"]),
        selecting(column_families=5),
        selecting(column_families=[]),
        selecting(key_ranges=[]),
        selecting(key_ranges=[["6d", None], ["61", "63"]]),
        selecting(key_ranges=[["61", "63"], ["63", None]]),
        selecting(key_ranges=[["61", "63"], ["62", None]]),
        selecting(key_ranges=[["61", None], ["6d", None]]),
        selecting(key_ranges=[["61", "xx"], ["6d", None]]),
        selecting(key_ranges=[["61"], ["6d", None]]),
        selecting(key_ranges={"61": "63"}),
        json.dumps({**SELECTING.to_json(), "selection": None}).encode(),
        json.dumps({**SELECTING.to_json(), "selection": [5]}).encode(),
        json.dumps({**SELECTING.to_json(), "lane": "files"}).encode(),
    ],
)
def test_a_hostile_selection_is_corruption(record: bytes) -> None:
    with pytest.raises(CorruptionError, match="manifest"):
        Manifest.decode(record)


def test_ranges_of_a_family_in_another_order_are_no_selection() -> None:
    """A selection ascends bytewise."""
    hostile = dataclasses.replace(
        SELECTING, selection=Selection(None, (("ü x", (ONE,)),)), ranges=(Range(0, "ü x", b"a", b"c"),)
    )
    with pytest.raises(CorruptionError, match="manifest"):
        Manifest.decode(hostile.encode())


def test_the_family_that_marks_an_unfinished_target_is_refused() -> None:
    hostile = dataclasses.replace(
        MANIFEST,
        families=(*MANIFEST.families, ColumnFamilyDescription(RESERVED_COLUMN_FAMILY)),
        ranges=(*MANIFEST.ranges, Range(3, RESERVED_COLUMN_FAMILY, b"a", None)),
    )
    with pytest.raises(CorruptionError, match=RESERVED_COLUMN_FAMILY):
        Manifest.decode(hostile.encode())


@pytest.mark.parametrize(
    ("change", "field", "theirs", "ours"),
    [
        ({"job": "weekly"}, "job", "'nightly'", "'weekly'"),
        # Which is why its id is another one.
        ({"job": "weekly", "selection": Selection()}, "range", "'61..'", "'..'"),
        ({"fingerprint": "0" * 32}, "source fingerprint", "f" * 32, "0" * 32),
        ({"lane": "files"}, "lane", "'batch'", "'files'"),
        ({"selection": Selection()}, "range", "'61..'", "'..'"),
        (
            {"families": MANIFEST.families[:1]},
            "column families",
            "ü x (rocksdb.ReverseBytewiseComparator and uint64add)",
            "'default (",
        ),
        ({"allow_nonempty": False}, "allow_nonempty", "True", "False"),
    ],
)
def test_another_job_is_refused_by_field_theirs_and_ours(
    change: dict[str, Any], field: str, theirs: str, ours: str
) -> None:
    with pytest.raises(RefusedError) as raised:
        dataclasses.replace(MANIFEST, **change).check_resumes(MANIFEST)
    message = str(raised.value)
    assert "unfinished job 'nightly' of /data/source" in message
    found = message[message.index(f"{field}: theirs") :]
    assert theirs in found[: found.index("ours")]
    assert ours in found[found.index("ours") :]
    assert "No entry was changed" in message


@pytest.mark.parametrize(
    "change", [{}, {"source": "/moved/source"}, {"ranges": MANIFEST.ranges[:1]}, {"sst_file_bytes": 9}]
)
def test_what_a_resume_need_not_agree_on_is_let_pass(change: dict[str, Any]) -> None:
    dataclasses.replace(MANIFEST, **change).check_resumes(MANIFEST)
