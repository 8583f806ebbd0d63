"""Files of the source that are moved as they are: which, what else is done then, and what becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import rocksdict

import kvbatch
from kvbatch import target_job
from support.places import Place
from support.steered import SteeredJob
from support.stores import copy_open_store, need_rocksdb, read_store, write_store
from support.tables import KEYS, VALUE, compacted, key_of, table_options_of


@pytest.fixture(autouse=True, scope="module")
def _grafting() -> None:
    need_rocksdb((9, 10), "ingest files that a database wrote")


def migrate(source: Path, target: Path, tmp_path: Path, **more: Any) -> tuple[kvbatch.Plan, kvbatch.Summary]:
    migration = kvbatch.migrate(source, target, graft_bytes=1, state_dir=tmp_path / "state", **more)
    return migration.plan, migration.wait()


def sst_files(path: Path) -> set[int]:
    return {file.stat().st_size for file in path.glob("*.sst")}


def test_a_compacted_store_is_moved_by_its_files_alone(tmp_path: Path) -> None:
    compacted(tmp_path / "source").close()
    plan, summary = migrate(tmp_path / "source", tmp_path / "copy", tmp_path)
    assert plan.lane == "sst"
    assert plan.files_grafted == len(plan.ranges) >= 10
    assert plan.bytes_grafted == plan.estimated_bytes
    assert (summary.entries, summary.raw_bytes) == (plan.estimated_entries, plan.estimated_bytes)
    assert sst_files(tmp_path / "source") == sst_files(tmp_path / "copy")
    assert read_store(tmp_path / "copy") == read_store(tmp_path / "source")
    assert kvbatch.verify(tmp_path / "source", tmp_path / "copy").equal


@pytest.mark.parametrize("where", ["in files", "in the WAL"])
def test_what_stands_over_the_files_is_put_over_them(tmp_path: Path, where: str) -> None:
    store = compacted(tmp_path / "open")
    for number in range(0, KEYS, 40):
        store[key_of(number)] = b"overwritten"
        del store[key_of(number + 1)]
        store[key_of(number) + b"-new"] = b"new"
        del store[key_of(number) + b"-absent"]
    if where == "in files":
        store.flush()
    copy_open_store(store, tmp_path / "open", tmp_path / "source")
    store.close()
    plan, summary = migrate(tmp_path / "source", tmp_path / "copy", tmp_path)
    assert plan.files_grafted == len(plan.ranges) >= 10
    expected = read_store(tmp_path / "source")
    assert len(expected["default"]) == KEYS
    assert read_store(tmp_path / "copy") == expected
    assert summary.entries == KEYS
    assert summary.raw_bytes == sum(len(key) + len(value) for key, value in expected["default"].items())


def test_an_old_deletion_in_the_wal_does_not_hide_what_was_flushed_behind_it(tmp_path: Path) -> None:
    store = compacted(tmp_path / "open")
    # The WAL lives on for the other family's sake.
    other = store.create_column_family("other", table_options_of())
    other[b"unflushed"] = b"entry"
    del store[key_of(7)]
    store[key_of(7)] = b"again"
    del store[key_of(8)]
    store.flush()
    store[key_of(9)] = b"in the memtable"
    copy_open_store(store, tmp_path / "open", tmp_path / "source")
    del other
    store.close()
    plan, _ = migrate(tmp_path / "source", tmp_path / "copy", tmp_path)
    assert plan.files_grafted >= 10
    found = read_store(tmp_path / "copy")
    assert found == read_store(tmp_path / "source")
    assert found["default"][key_of(7)] == b"again"
    assert key_of(8) not in found["default"]


@pytest.mark.parametrize("where", ["in files", "in the WAL"])
def test_spans_with_range_deletions_are_read(tmp_path: Path, where: str) -> None:
    store = compacted(tmp_path / "open")
    store.delete_range(key_of(100), key_of(110))
    if where == "in files":
        store.flush()
    copy_open_store(store, tmp_path / "open", tmp_path / "source")
    store.close()
    plan, _ = migrate(tmp_path / "source", tmp_path / "copy", tmp_path, lane="sst")
    assert plan.files_grafted < len(list((tmp_path / "source").glob("*.sst")))
    assert (plan.files_grafted > 0) == (where == "in files"), "only RocksDB knows where one in a memtable ends"
    assert read_store(tmp_path / "copy") == read_store(tmp_path / "source")


def test_a_range_takes_the_files_that_lie_in_it_and_reads_its_edges(tmp_path: Path) -> None:
    compacted(tmp_path / "source").close()
    wanted = kvbatch.KeyRange(key_of(500), key_of(3333))
    plan, summary = migrate(tmp_path / "source", tmp_path / "copy", tmp_path, key_range=wanted)
    read = [part for part in plan.ranges if not part.file]
    assert read[0].start == key_of(500)
    assert read[-1].end == key_of(3333)
    assert plan.files_grafted >= 5
    assert summary.entries == 2833
    found = read_store(tmp_path / "copy")["default"]
    assert found == {
        k: v for k, v in read_store(tmp_path / "source")["default"].items() if key_of(500) <= k < key_of(3333)
    }


def test_other_compression_at_the_target_means_that_no_file_is_taken_as_it_is(tmp_path: Path) -> None:
    compacted(tmp_path / "source").close()
    plan, _ = migrate(tmp_path / "source", tmp_path / "copy", tmp_path, target_compression="lz4")
    assert plan.files_grafted == 0
    assert kvbatch.verify(tmp_path / "source", tmp_path / "copy").equal


def test_where_the_target_holds_data_a_range_is_written_instead(tmp_path: Path) -> None:
    compacted(tmp_path / "source").close()
    write_store(tmp_path / "copy", {"default": {key_of(10): b"older", b"other": b"stays"}})
    plan, summary = migrate(tmp_path / "source", tmp_path / "copy", tmp_path, allow_nonempty=True)
    assert plan.files_grafted >= 10
    assert summary.entries == KEYS
    assert read_store(tmp_path / "copy")["default"] == {
        **read_store(tmp_path / "source")["default"],
        b"other": b"stays",
    }


def test_a_target_that_cannot_take_such_files_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compacted(tmp_path / "source").close()
    monkeypatch.setattr(target_job, "CAN_GRAFT", False)
    with pytest.raises(kvbatch.RefusedError, match="use --lane batch"):
        migrate(tmp_path / "source", tmp_path / "copy", tmp_path)
    assert not (tmp_path / "copy").exists()


def test_under_a_limit_a_pause_is_heeded_inside_of_a_file(tmp_path: Path, place: Place) -> None:
    compacted(tmp_path / "source", file_bytes=64 << 20).close()
    [size] = sst_files(tmp_path / "source")
    limits: dict[str, Any] = {"rate_limit": "256KiB/s", "streams": 1, "graft_bytes": 1, "lane": "sst"}
    with SteeredJob(tmp_path / "source", place.endpoint(), state_dir=tmp_path / "state", **limits) as job:
        assert job.migration.plan.files_grafted == 1
        job.until(lambda progress: progress.raw_bytes > 0)
        job.migration.pause()
        assert job.until_held("paused").raw_bytes < size // 2
        job.check_nothing_moves()
        job.migration.resume()
        assert job.finish(rate_limit=0).resent_bytes == 0
    assert read_store(place.path()) == read_store(tmp_path / "source")


def test_a_job_that_was_stopped_inside_of_a_file_goes_on_there(tmp_path: Path, place: Place) -> None:
    compacted(tmp_path / "source", file_bytes=64 << 20).close()
    limits: dict[str, Any] = {"rate_limit": "256KiB/s", "streams": 1, "graft_bytes": 1, "lane": "sst"}
    with SteeredJob(tmp_path / "source", place.endpoint(), state_dir=tmp_path / "state", **limits) as job:
        job.until(lambda progress: progress.batches >= 2)
        job.migration.cancel()
        with pytest.raises(kvbatch.StoppedError, match="nothing is lost"):
            job.migration.wait()
        stopped = job.migration.progress()
        # Of the one range nothing is complete, and yet nothing is lost.
        assert stopped.ranges_complete == 0
        assert stopped.durable_bytes >= 0.9 * stopped.raw_bytes
        assert 0 < stopped.durable_entries < KEYS
    with SteeredJob(tmp_path / "source", place.endpoint(), state_dir=tmp_path / "state", **limits) as job:
        job.until(lambda progress: progress.raw_bytes > 0)
        assert job.migration.progress().raw_bytes >= stopped.raw_bytes > 0
        job.migration.set(rate_limit=0)
        summary = job.finish()
    assert (summary.resumed, summary.resent_bytes) == (True, 0)
    assert read_store(place.path()) == read_store(tmp_path / "source")


def test_verify_and_the_owner_may_write_on(tmp_path: Path) -> None:
    compacted(tmp_path / "source").close()
    migrate(tmp_path / "source", tmp_path / "copy", tmp_path)
    store = rocksdict.Rdict(str(tmp_path / "copy"), table_options_of())
    store[key_of(5)] = b"newer"
    del store[key_of(6)]
    store.flush()
    store.compact_range(None, None)
    assert store[key_of(5)] == b"newer"
    assert store.get(key_of(6)) is None
    assert store[key_of(7)] == b"7" + VALUE
    store.close()
    assert len(read_store(tmp_path / "copy")["default"]) == KEYS - 1
