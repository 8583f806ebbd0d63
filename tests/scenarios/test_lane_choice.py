"""What `--lane auto` takes, and that a job goes on in the lane in which it began."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import rocksdict

import kvbatch
from kvbatch import lane_choice
from kvbatch._core.frame import Frame
from kvbatch.endpoints import DirectoryEndpoint, parse_endpoint
from kvbatch.job_stream import JobStream
from kvbatch.lane_choice import choose_way
from kvbatch.migration_plan import open_source
from kvbatch.options import MigrationOptions
from kvbatch.ranges import Range, Selection
from kvbatch.target import TargetStream
from support.places import Place
from support.stores import need_rocksdb, numbered, read_store, write_store
from support.tables import compacted, key_of, table_options_of
from support.targets import settle


@pytest.fixture(autouse=True)
def _small_stores_count(monkeypatch: pytest.MonkeyPatch) -> None:
    need_rocksdb((9, 10), "ingest files that a database wrote")
    monkeypatch.setattr(lane_choice, "_WORTHWHILE_FILES", 1)


@pytest.fixture
def overlapping(tmp_path: Path) -> Path:
    """Several files that each span all keys: none can be moved by itself."""
    store = rocksdict.Rdict(str(tmp_path / "source"), table_options_of())
    for first in range(4):
        for number in range(first, 1000, 4):
            store[key_of(number)] = b"%d" % number * 50
        store.flush()
    store.close()
    return tmp_path / "source"


def planned(source: Path, target: object, **options: Any) -> str:
    return kvbatch.plan(source, str(target), **options).lane


def test_a_store_that_cannot_be_grafted_goes_by_its_files(overlapping: Path, place: Place) -> None:
    plan = kvbatch.plan(overlapping, place.endpoint())
    assert plan.lane == "files"
    assert "empty target" in plan.lane_reason
    summary = kvbatch.migrate(overlapping, place.endpoint()).wait()
    assert (summary.lane, summary.lane_reason) == ("files", plan.lane_reason)
    assert read_store(place.path()) == read_store(overlapping)
    again = kvbatch.migrate(overlapping, place.endpoint()).wait()
    assert (again.finished_before, again.lane) == (True, "files")


@pytest.mark.parametrize("lane", ["auto", "files", "sst", "batch"])
@pytest.mark.parametrize("asked", ["auto", "batch"])
def test_the_plan_of_a_finished_job_has_the_lane_that_it_took(
    overlapping: Path, place: Place, lane: str, asked: str
) -> None:
    summary = kvbatch.migrate(overlapping, place.endpoint(), lane=lane).wait()
    plan = kvbatch.plan(overlapping, place.endpoint(), lane=asked)
    assert plan.target_state is not None
    assert (plan.target_state.kind, plan.target_state.lane) == ("finished", summary.lane)
    assert (plan.lane, plan.lane_reason) == (summary.lane, summary.lane_reason)
    assert {part.column_family for part in plan.ranges} == {"" if summary.lane == "files" else "default"}


def test_a_finished_target_that_was_emptied_is_written_again(overlapping: Path, place: Place) -> None:
    """By its identity it still is the store that the job made, but nothing of the job is left."""
    kvbatch.migrate(overlapping, place.endpoint(), lane="batch").wait()
    store = rocksdict.Rdict(str(place.path()), table_options_of())
    for number in range(1000):
        del store[key_of(number)]
    store.flush()
    store.compact_range(None, None)
    store.close()
    assert not kvbatch.migrate(overlapping, place.endpoint(), lane="batch").wait().finished_before
    assert read_store(place.path()) == read_store(overlapping)


def test_a_small_one_is_read(overlapping: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert planned(overlapping, tmp_path / "copy") == "batch"


def test_a_compacted_store_is_grafted(tmp_path: Path, place: Place) -> None:
    compacted(tmp_path / "source").close()
    assert planned(tmp_path / "source", place.endpoint(), graft_bytes=1) == "sst"


def test_a_compacted_store_of_small_entries_has_nothing_over_its_files(tmp_path: Path, place: Place) -> None:
    store = rocksdict.Rdict(str(tmp_path / "source"), table_options_of())
    for first in (0, 1):
        for number in range(first, 20_000, 2):
            store[key_of(number)] = b"small"
        store.flush()
    store.compact_range(None, None)
    store.close()
    plan = kvbatch.plan(tmp_path / "source", place.endpoint(), graft_bytes=1)
    assert (plan.lane, plan.bytes_grafted) == ("sst", plan.estimated_bytes)


def test_much_over_the_files_of_a_compacted_store_tips_the_scales(tmp_path: Path, place: Place) -> None:
    store = compacted(tmp_path / "source")
    for number in range(0, 4000, 5):
        store[key_of(number)] = bytes(500)
    store.flush()
    store.close()
    assert planned(tmp_path / "source", place.endpoint(), graft_bytes=1) == "files"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"column_families": ("default",)}, '"default" is one of them'),
        ({"key_range": kvbatch.KeyRange(b"key-", None)}, "--range was given"),
        ({"target_compression": "lz4"}, "--target-compression lz4 was given"),
        ({"allow_nonempty": True}, "--allow-nonempty was given"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_where_files_cannot_serve_entries_are_moved(
    overlapping: Path, place: Place, options: dict[str, Any], why: str
) -> None:
    plan = kvbatch.plan(overlapping, place.endpoint(), **options)
    assert plan.lane == "batch"
    assert re.search(f"; not `files`, which .*: {why}$", plan.lane_reason)


def test_a_store_whose_files_are_soon_moved_by_any_lane_is_not_moved_by_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    source = write_store(tmp_path / "source", {"default": {b"key": b"value"}})
    assert re.search(r"; not `files`: .* in a moment by any lane$", kvbatch.plan(source, tmp_path / "t").lane_reason)


def test_what_stands_over_a_file_counts_as_read(tmp_path: Path, place: Place) -> None:
    """It is iterated, whatever becomes of the file beneath it."""
    compacted(tmp_path / "source").close()
    plain = kvbatch.plan(tmp_path / "source", place.endpoint(), lane="sst", graft_bytes=1)
    assert (plain.bytes_grafted, plain.bytes_read) == (plain.estimated_bytes, 0)
    store = rocksdict.Rdict(str(tmp_path / "source"), table_options_of())
    for number in range(0, 4000, 20):
        store[key_of(number)] = bytes(500)
    store.flush()
    store.close()
    plan = kvbatch.plan(tmp_path / "source", place.endpoint(), lane="sst", graft_bytes=1)
    assert plan.bytes_grafted == plain.bytes_grafted
    assert plan.bytes_read == plan.to_json()["bytes_read"] == sum(part.overlay_bytes for part in plan.ranges)
    assert 0.5 < plan.bytes_read / (200 * 510) < 2


def test_into_a_store_that_is_there_already_entries_are_moved(overlapping: Path, place: Place) -> None:
    place.root.mkdir(exist_ok=True)
    write_store(place.path(), {"default": {}})
    plan = kvbatch.plan(overlapping, place.endpoint())
    assert plan.lane == "batch"
    assert plan.lane_reason.endswith(
        "not `files`, which makes the store itself: the target is one already, another job's, or takes none"
    )
    assert kvbatch.migrate(overlapping, place.endpoint()).wait().lane == "batch"
    assert read_store(place.path()) == read_store(overlapping)
    write_store(place.path("other"), {"default": {b"mine": b"1"}})
    with pytest.raises(kvbatch.RefusedError, match="already holds data"):
        kvbatch.migrate(overlapping, place.endpoint("other")).wait()


def _begin(source: Path, place: Place, **options: Any) -> None:
    """Moves its first range, no more."""
    moved = []
    move = JobStream._move

    def move_one(stream: JobStream, target: TargetStream, frame: Frame, part: Range) -> None:
        if moved:
            raise kvbatch.SourceError("one is enough")
        moved.append(part)
        move(stream, target, frame, part)

    with patch.object(JobStream, "_move", move_one), pytest.raises(kvbatch.SourceError, match="enough"):
        kvbatch.migrate(source, place.endpoint(), streams=1, **options).wait()
    settle()


def test_a_job_of_files_goes_on_as_one(overlapping: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    _begin(overlapping, place)
    monkeypatch.undo()
    plan = kvbatch.plan(overlapping, place.endpoint())
    assert plan.target_state is not None
    assert (plan.target_state.kind, plan.lane) == ("resumable", "files")
    assert plan.lane_reason == "the lane of the unfinished job that is carried on"
    summary = kvbatch.migrate(overlapping, place.endpoint()).wait()
    assert (summary.lane, summary.resumed) == ("files", True)
    assert summary.lane_reason == "the lane of the unfinished job that is carried on"
    assert read_store(place.path()) == read_store(overlapping)


def test_what_is_being_received_as_files_cannot_be_verified_yet(overlapping: Path, place: Place) -> None:
    _begin(overlapping, place)
    with pytest.raises(kvbatch.RefusedError, match=r"unfinished job '\w+' stand in .*\.target\.kvbatch"):
        kvbatch.verify(overlapping, place.endpoint())


def test_a_job_whose_source_was_changed_says_so(overlapping: Path, place: Place) -> None:
    _begin(overlapping, place)
    store = rocksdict.Rdict(str(overlapping), table_options_of())
    store[key_of(1)] = b"changed"
    store.close()
    said = r"source fingerprint: theirs .* the source was changed since .*`kvbatch cancel --discard (\w+)`"
    with pytest.raises(kvbatch.RefusedError, match=said) as refused:
        kvbatch.migrate(overlapping, place.endpoint(), lane="files").wait()
    [job] = re.findall(said, str(refused.value))
    kvbatch.discard(job)
    kvbatch.migrate(overlapping, place.endpoint(), lane="files").wait()
    assert read_store(place.path()) == read_store(overlapping)


@pytest.mark.parametrize("lane", ["batch", "sst"])
def test_a_job_of_entries_goes_on_as_one(tmp_path: Path, place: Place, lane: str) -> None:
    source = write_store(tmp_path / "source", {name: numbered(3000) for name in ("default", "a", "b")})
    _begin(source, place, lane=lane)
    summary = kvbatch.migrate(source, place.endpoint()).wait()
    assert (summary.lane, summary.resumed) == (lane, True)
    assert read_store(place.path()) == read_store(source)


def test_a_lane_that_is_asked_for_does_not_carry_on_another_ones_job(overlapping: Path, place: Place) -> None:
    _begin(overlapping, place)
    with pytest.raises(kvbatch.RefusedError, match="lane: theirs 'files', ours 'batch'"):
        kvbatch.migrate(overlapping, place.endpoint(), lane="batch").wait()


@pytest.mark.parametrize(
    ("target", "streams", "lane"),
    [("10.1.2.3", 2, "sst"), ("10.1.2.3", 1, "batch"), ("127.0.0.1", 2, "batch"), ("localhost", 2, "batch")],
)
def test_another_machine_is_spared_the_building_of_files(
    overlapping: Path, monkeypatch: pytest.MonkeyPatch, target: str, streams: int, lane: str
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    source, options = DirectoryEndpoint(overlapping), MigrationOptions.checked(streams=streams)
    store = open_source(source, options)
    way = choose_way(source, parse_endpoint(f"kvbatch://{target}/copy"), store, Selection(), options, lambda _: False)
    assert way.lane == lane
