from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from kvbatch._core.store import SourceStore, write_sample_store
from kvbatch.errors import UsageError
from kvbatch.planner import RangeSizes, middle_key, plan_ranges
from kvbatch.ranges import KeyRange, Range, Selection
from support.stores import numbered, read_store, write_store

ENTRIES = 60_000
ENTRY_BYTES = 116


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> SourceStore:
    path = tmp_path_factory.mktemp("planner") / "store"
    write_sample_store(str(path), entries=ENTRIES)
    return SourceStore(str(path))


@pytest.fixture(scope="module")
def keys(large: SourceStore) -> list[bytes]:
    return sorted(read_store(Path(large.path))["default"])


def plan(
    store: SourceStore, key_range: KeyRange | None = None, range_bytes: int = 1 << 26, max_ranges: int = 64
) -> list[Range]:
    return plan_ranges(store, selection=Selection(key_range or KeyRange()), sizes=RangeSizes(range_bytes, max_ranges))


def entries_of(store: SourceStore, part: Range) -> int:
    return sum(run.entries for run in store.digest_range(part.column_family, part.start, part.end))


def test_a_range_is_shared_at_a_key_within_what_it_has_left(tmp_path: Path) -> None:
    """However little that is: sizes are known by blocks, so the search may end at the end of the range, or behind it
    where that is no key of the store."""
    keys = sorted(numbered(ENTRIES))
    store = SourceStore(str(write_store(tmp_path / "store", {"default": numbered(ENTRIES)})))
    for last in (15_000, 30_020):
        for end in (keys[last], keys[last] + b"x"):
            part = Range(0, "default", None, end)
            for left in [*range(1, 100), 1000, 10_000]:
                middle = middle_key(store, part, keys[last - left])
                assert middle is None or keys[last - left] < middle < end, left
            assert middle_key(store, part, keys[5000]) is not None


def test_a_small_store_is_one_range_a_family(tmp_path: Path) -> None:
    families = {"default": numbered(100), "ü x": numbered(10), "empty": {}}
    store = SourceStore(str(write_store(tmp_path / "store", families)))
    ranges = plan(store)
    assert [(part.id, part.column_family, part.start, part.end) for part in ranges] == [
        (number, name, None, None) for number, name in enumerate(["default", "ü x", "empty"])
    ]
    assert [entries_of(store, part) for part in ranges] == [100, 10, 0]
    assert ranges[0].estimated_entries == 100
    assert ranges[2].estimated_entries == ranges[2].estimated_bytes == 0


@pytest.mark.parametrize("wanted", [2, 7, 32])
def test_a_large_store_is_cut_at_real_keys_into_parts_of_about_equal_size(
    large: SourceStore, keys: list[bytes], wanted: int
) -> None:
    ranges = plan(large, range_bytes=ENTRIES * ENTRY_BYTES // wanted)
    assert len(ranges) == pytest.approx(wanted, rel=0.1, abs=1)
    assert {part.start for part in ranges[1:]} <= set(keys)
    sizes = [entries_of(large, part) for part in ranges]
    mean = ENTRIES / len(ranges)
    # Sizes are known to RocksDB by the block only.
    assert all(0.5 * mean <= size <= 1.7 * mean for size in sizes), sizes


@pytest.mark.parametrize("range_bytes", [1 << 14, 1 << 18, 1 << 22, 1 << 26])
@pytest.mark.parametrize(("start", "end"), [(None, None), (0.25, 0.75), (0.5, None), (None, 0.001)])
def test_every_entry_lies_in_exactly_one_range(
    large: SourceStore, keys: list[bytes], range_bytes: int, start: float | None, end: float | None
) -> None:
    def bound(share: float | None) -> bytes | None:
        return None if share is None else keys[int(share * ENTRIES)]

    wanted = KeyRange(bound(start), bound(end))
    ranges = plan(large, wanted, range_bytes)
    assert (ranges[0].start, ranges[-1].end) == (wanted.start, wanted.end)
    assert all(before.end == after.start for before, after in itertools.pairwise(ranges))
    # Bounds ascend, so no key is in two; together they hold as many entries as the whole.
    inner = [part.start for part in ranges[1:] if part.start is not None]
    assert inner == sorted(set(inner))
    inside = sum((wanted.start or b"") <= key < (wanted.end or b"\xff" * 99) for key in keys)
    assert sum(entries_of(large, part) for part in ranges) == inside
    assert [part.id for part in ranges] == list(range(len(ranges)))


def test_there_are_never_more_ranges_than_allowed(large: SourceStore) -> None:
    assert len(plan(large, range_bytes=1, max_ranges=5)) == 5


def test_a_key_range_takes_its_share_of_the_estimates(large: SourceStore, keys: list[bytes]) -> None:
    half = plan(large, KeyRange(keys[ENTRIES // 4], keys[3 * ENTRIES // 4]))
    assert sum(part.estimated_entries for part in half) == pytest.approx(ENTRIES / 2, rel=0.1)
    assert sum(part.estimated_bytes for part in half) == pytest.approx(ENTRIES * ENTRY_BYTES / 2, rel=0.1)


@pytest.mark.parametrize("key_range", [KeyRange(b"\xff" * 40, None), KeyRange(None, b"")])
def test_a_key_range_without_entries_is_one_empty_range(large: SourceStore, key_range: KeyRange) -> None:
    [part] = plan(large, key_range, range_bytes=1 << 14)
    assert (part.start, part.end) == (key_range.start, key_range.end)
    assert (entries_of(large, part), part.estimated_entries) == (0, 0)


@pytest.mark.parametrize("key_range", [KeyRange(b"b", b"a"), KeyRange(b"a", b"a"), KeyRange(b"", b"")])
def test_a_key_range_that_ends_before_it_starts_is_wrong_usage(large: SourceStore, key_range: KeyRange) -> None:
    with pytest.raises(UsageError, match="is empty"):
        plan(large, key_range)


def test_keys_that_share_a_long_prefix_are_told_apart(tmp_path: Path) -> None:
    prefix = b"p" * 100
    entries = {prefix + number.to_bytes(4, "big"): b"v" * 500 for number in range(2000)}
    store = SourceStore(str(write_store(tmp_path / "store", {"default": entries})))
    ranges = plan(store, range_bytes=100_000)
    assert len(ranges) >= 5
    assert {part.start for part in ranges[1:]} <= entries.keys()
    assert sum(entries_of(store, part) for part in ranges) == 2000


def test_a_store_whose_entries_stand_in_the_wal_alone_is_planned_whole(tmp_path: Path) -> None:
    store = SourceStore(str(write_store(tmp_path / "store", {"default": numbered(500)}, flush=False)))
    ranges = plan(store, range_bytes=1000)
    assert sum(entries_of(store, part) for part in ranges) == 500


def test_each_part_of_a_selection_is_cut_by_itself(large: SourceStore, keys: list[bytes]) -> None:
    parts = (
        KeyRange(keys[100], keys[1000]),
        KeyRange(keys[1000] + b"\0", keys[1001]),  # nothing
        KeyRange(keys[20_000], keys[50_000]),
    )
    selection = Selection(None, (("default", parts),))
    ranges = plan_ranges(large, selection=selection, sizes=RangeSizes(30_000 * ENTRY_BYTES // 8, 64))
    assert len(ranges) == pytest.approx(10, abs=2)
    assert [part.id for part in ranges] == list(range(len(ranges)))
    bounds = {bound for part in ranges for bound in (part.start, part.end)}
    assert {bound for part in parts for bound in (part.start, part.end)} <= bounds
    assert sum(entries_of(large, part) for part in ranges) == 900 + 30_000
    assert sum(part.estimated_entries for part in ranges) == pytest.approx(30_900, rel=0.1)
    assert plan_ranges(large, selection=Selection(None), sizes=RangeSizes(1, 64)) == []
    assert len(plan_ranges(large, selection=selection, sizes=RangeSizes(1, 6))) <= 6
