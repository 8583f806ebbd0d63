"""A slow range is split and shared while it is moved."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import kvbatch
from kvbatch.errors import ProtocolError
from kvbatch.manifest import Manifest
from kvbatch.target_job import TargetJob
from support.capi_store import REVERSE_BYTEWISE, run_store_script
from support.places import Place
from support.stores import numbered, write_store

ENTRIES = 60_000


def one_range(lane: str) -> dict[str, Any]:
    """One range that is much larger than what is worth sharing, which nothing of the source is moved as it is for."""
    sizes = {"batch_bytes": "16KiB", "sst_file_bytes": "256KiB", "graft_bytes": 1 << 40, "max_ranges": 1}
    return {"lane": lane, "streams": 3, "window": 4, **sizes}


@pytest.fixture(autouse=True)
def _worth_sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvbatch.stream_group.LEAST_SHARED_BYTES", 64 << 10)


@pytest.fixture(scope="module", params=["bytewise", "reverse"])
def source(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    path = tmp_path_factory.mktemp("split") / "source"
    if request.param == "bytewise":
        return write_store(path, {"default": numbered(ENTRIES)})
    puts = [("put", key, value) for key, value in numbered(ENTRIES).items()]
    run_store_script(path, puts, comparator=REVERSE_BYTEWISE)
    return path


@pytest.mark.parametrize("lane", ["batch", "sst"])
def test_one_range_is_shared_by_all_streams(source: Path, place: Place, lane: str) -> None:
    migration = kvbatch.migrate(source, place.endpoint(), **one_range(lane))
    ranges = [event.data for event in migration.events() if event.kind == "range"]
    summary = migration.wait()
    assert len(migration.plan.ranges) == 1
    assert summary.ranges >= (3 if lane == "batch" else 2)
    assert summary.entries == ENTRIES
    added = {data["range"] for data in ranges if data["state"] == "added"}
    assert added == set(range(1, summary.ranges))
    assert {data["range"] for data in ranges if data["state"] == "complete"} == {0, *added}
    assert kvbatch.verify(source, place.endpoint()).equal


@pytest.mark.parametrize("lane", ["batch", "sst"])
def test_what_was_split_is_carried_on(source: Path, place: Place, lane: str) -> None:
    stopped = ranges = 0
    for _ in range(50):
        migration = kvbatch.migrate(source, place.endpoint(), **one_range(lane))
        for event in migration.events():
            if event.kind == "job":
                assert event.data["ranges"] >= ranges
                ranges = event.data["ranges"]
            if event.data.get("state") == "added":
                migration.cancel()
        try:
            summary = migration.wait()
            break
        except kvbatch.StoppedError:
            stopped += 1
    assert stopped >= 1
    assert summary.resumed
    assert summary.entries == ENTRIES
    assert kvbatch.verify(source, place.endpoint()).equal


def test_a_target_splits_only_what_is_still_to_come(tmp_path: Path) -> None:
    source = write_store(tmp_path / "source", {"default": numbered(100)})
    plan = kvbatch.plan(source, tmp_path / "copy", key_range=kvbatch.KeyRange(b"key-00000010", b"key-00000090"))
    job = TargetJob(tmp_path / "copy", plan.manifest)
    try:
        for key in (b"key-00000010", b"key-00000090", b"a", b"z", b""):
            with pytest.raises(ProtocolError, match="does not lie in what is still to come"):
                job.split(0, key)
        job.split(0, b"key-00000050")
        with pytest.raises(ProtocolError, match="does not lie"):
            job.split(0, b"key-00000060")
        assert [(part.start, part.end) for part in job.manifest.ranges] == [
            (b"key-00000010", b"key-00000050"), (b"key-00000050", b"key-00000090"),
        ]  # fmt: skip
        kept = job.manifest
    finally:
        job.close()
    again = TargetJob(tmp_path / "copy", plan.manifest)
    assert again.manifest.encode() == kept.encode()
    again.close()


def test_two_streams_that_split_at_once_keep_each_others_ranges(tmp_path: Path) -> None:
    source = write_store(tmp_path / "source", {"default": numbered(1000)})
    plan = kvbatch.plan(source, tmp_path / "copy", max_ranges=1)
    job = TargetJob(tmp_path / "copy", plan.manifest)
    job.split(0, b"key-00000500")

    def split(number: int, first: int) -> None:
        for key in range(first + 475, first, -25):
            job.split(number, f"key-{key:08}".encode())

    threads = [threading.Thread(target=split, args=(0, 0)), threading.Thread(target=split, args=(1, 500))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(job.manifest.ranges) == 2 + 2 * 19
    assert Manifest.decode(job.manifest.encode()).ranges == job.manifest.ranges
    job.close()
