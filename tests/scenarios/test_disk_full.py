"""A full disk at the target stops the job resumable, and it goes on once there is room."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rocksdict

import kvbatch
from support.mounts import resize_disk, small_disk
from support.places import Place
from support.stores import copy_open_store, need_rocksdb, read_store, write_store
from support.stores import kvbatch as run_kvbatch
from support.tables import table_options_of

_random = random.Random(3)
# Does not compress: 12 MiB need 12 MiB.
ENTRIES = {f"key-{number:05}".encode(): _random.randbytes(4096) for number in range(3000)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_store(tmp_path / "source", {"default": ENTRIES})


@pytest.fixture(params=["directory", "receiver"])
def small_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    # The disk is mounted before the receiver starts: its threads see the mounts of the thread that started them.
    with small_disk(tmp_path / "disk", "7m") as root:
        if request.param == "directory":
            yield Place(root)
        else:
            with kvbatch.serve(root) as receiver:
                yield Place(root, receiver)


@pytest.fixture
def grafted_source(tmp_path: Path) -> Path:
    """The same entries in files that can be moved as they are, a few of them in the WAL alone."""
    written, path = tmp_path / "open", tmp_path / "source"
    store = rocksdict.Rdict(str(written), table_options_of(128 << 10))
    keys = list(ENTRIES)
    for part in (keys[::2], keys[1::2]):
        for key in part:
            store[key] = ENTRIES[key] if int(key[4:]) % 10 else b"older" * 800
        store.flush()
    store.compact_range(None, None)
    for key in keys[::10]:
        store[key] = ENTRIES[key]
        store[key + b"-gone"] = b""
        del store[key + b"-gone"]
    copy_open_store(store, written, path)
    store.close()
    return path


def _fill_disk_and_go_on(source: Path, place: Place, **options: Any) -> kvbatch.Summary:
    options |= {"batch_bytes": "64KiB", "retries": 1}
    with pytest.raises(kvbatch.NoSpaceError, match="No space left") as full:
        kvbatch.migrate(source, place.endpoint(), **options).wait()
    assert full.value.exit_code == 75
    assert full.value.resumable
    place.check_full_disk(str(full.value))
    # Still full: the same answer, and nothing is lost by asking.
    with pytest.raises(kvbatch.NoSpaceError):
        kvbatch.migrate(source, place.endpoint(), **options).wait()
    resize_disk(place.root, "64m")
    summary = kvbatch.migrate(source, place.endpoint(), **options).wait()
    assert summary.resumed
    assert summary.entries == len(ENTRIES)
    assert read_store(place.path()) == {"default": ENTRIES}
    return summary


@pytest.mark.parametrize("kib", range(4, 70, 12))
def test_disk_that_fills_while_the_target_is_opened(tmp_path: Path, kib: int) -> None:
    """RocksDB wraps what it hears of its OPTIONS file."""
    source = write_store(tmp_path / "source", {"default": {b"a": b"1"}, "other": {b"b": b"2"}})
    with small_disk(tmp_path / "disk", f"{kib}k") as root:
        done = run_kvbatch("migrate", source, root / "target", "--lane", "batch", "--retries", 0)
        assert done.returncode == 75, done.stderr
        resize_disk(root, "64m")
        kvbatch.migrate(source, root / "target", lane="batch").wait()
        assert read_store(root / "target") == {"default": {b"a": b"1"}, "other": {b"b": b"2"}}


@pytest.mark.parametrize("lane", ["batch", "sst"])
@pytest.mark.parametrize("sst_file_bytes", ["512KiB", "64MiB"], ids=["in the fifth file", "in the first file"])
def test_full_disk_is_resumable_and_the_job_goes_on_after_space_is_made(
    source: Path, small_place: Place, sst_file_bytes: str, lane: str
) -> None:
    """In the lane `sst` the sender builds all of it: no file of this source can be moved as it is."""
    assert kvbatch.plan(source, small_place.endpoint(), lane=lane).files_grafted == 0
    summary = _fill_disk_and_go_on(source, small_place, sst_file_bytes=sst_file_bytes, lane=lane)
    if sst_file_bytes == "512KiB":
        assert summary.batches < len(ENTRIES) * 4096 // 65536, "what had become durable was moved again"


def test_full_disk_while_files_of_the_source_are_moved(grafted_source: Path, small_place: Place) -> None:
    """What was ingested counts, the file that the disk was full in is moved again."""
    need_rocksdb((9, 10), "ingest files that a database wrote")
    options: dict[str, Any] = {"lane": "sst", "graft_bytes": 1}
    plan = kvbatch.plan(grafted_source, small_place.endpoint(), **options)
    assert plan.files_grafted >= 60
    most = max(part.file_bytes + part.estimated_bytes // 3 for part in plan.ranges)
    summary = _fill_disk_and_go_on(grafted_source, small_place, streams=2, window=1, **options)
    # Of each run that met the full disk and each of its streams: the range under way, the one before it, the window.
    assert summary.resent_bytes <= 2 * 2 * 3 * most


def test_command_ends_with_75_and_the_command_to_go_on(source: Path, small_place: Place) -> None:
    command = ["migrate", source, small_place.endpoint(), "--json", "--progress", "none"]
    done = run_kvbatch(*command)
    assert done.returncode == 75, done.stderr
    assert done.stdout == ""
    assert "No space left" in done.stderr
    assert f"carry on with: kvbatch migrate {source} {small_place.endpoint()}" in done.stderr
    assert "Traceback" not in done.stderr
    resize_disk(small_place.root, "64m")
    done = run_kvbatch(*command)
    assert done.returncode == 0, done.stderr
    assert read_store(small_place.path()) == {"default": ENTRIES}


def test_full_disk_while_overwriting_a_target_with_data(source: Path, small_place: Place) -> None:
    """This way goes through the WAL, not through files of its own."""
    need_rocksdb((9, 0), "outlive a full disk under its WAL where assertions are on")
    theirs = {b"key-00000": b"theirs", b"key-02999": b"theirs", b"mine": b"1"}
    write_store(small_place.path(), {"default": theirs})
    options = {"allow_nonempty": True, "batch_bytes": "64KiB", "sst_file_bytes": "512KiB", "retries": 1}
    with pytest.raises(kvbatch.NoSpaceError):
        kvbatch.migrate(source, small_place.endpoint(), **options).wait()
    resize_disk(small_place.root, "64m")
    summary = kvbatch.migrate(source, small_place.endpoint(), **options).wait()
    assert summary.resumed
    assert read_store(small_place.path()) == {"default": {**theirs, **ENTRIES}}


def test_disk_that_is_full_from_the_start(source: Path, small_place: Place) -> None:
    resize_disk(small_place.root, "8k")
    (small_place.root / "filler").write_bytes(bytes(4096))
    with pytest.raises(kvbatch.NoSpaceError):
        kvbatch.migrate(source, small_place.endpoint(), retries=1).wait()
    (small_place.root / "filler").unlink()
    resize_disk(small_place.root, "64m")
    kvbatch.migrate(source, small_place.endpoint()).wait()
    assert read_store(small_place.path()) == {"default": ENTRIES}


def test_other_jobs_of_the_receiver_go_on(tmp_path: Path, source: Path) -> None:
    small = write_store(tmp_path / "small", {"default": {b"k": b"v"}})
    with small_disk(tmp_path / "disk", "7m") as root, kvbatch.serve(root) as receiver:
        place = Place(root, receiver)
        with pytest.raises(kvbatch.NoSpaceError):
            kvbatch.migrate(source, place.endpoint("large"), retries=1).wait()
        resize_disk(root, "64m")
        kvbatch.migrate(small, place.endpoint("small")).wait()
        assert read_store(place.path("small")) == {"default": {b"k": b"v"}}
