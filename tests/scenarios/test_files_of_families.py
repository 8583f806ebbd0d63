"""Chosen column families as their files: what each level, sequence number and range deletion says stays as it was."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import rocksdict

import kvbatch
from kvbatch import lane_choice, target_files
from kvbatch._core.store import (
    RESERVED_COLUMN_FAMILY,
    ColumnFamilyDescription,
    SourceStore,
    TablePlace,
    TargetStore,
    check_table_file,
)
from kvbatch.manifest import Manifest
from kvbatch.ranges import Range
from kvbatch.target_discard import DiscardOutcome, JobIdentity, discard_directory
from kvbatch.target_files import FilesJob
from kvbatch.target_staging import CheckedFiles
from support.places import Place
from support.processes import Processes
from support.stores import kvbatch as run_kvbatch
from support.stores import (
    need_rocksdb,
    numbered,
    raw_options,
    read_store,
    tree,
    write_store,
)
from support.targets import settle

CHOSEN = ("levels", "tombstones", "void")


@pytest.fixture(autouse=True)
def _new_enough() -> None:
    need_rocksdb((9, 10), "take files that a database wrote")


def many_levels() -> rocksdict.Options:
    """Small files, so that a few thousand entries stand in several levels."""
    options = raw_options()
    options.set_write_buffer_size(64 << 10)
    options.set_target_file_size_base(64 << 10)
    options.set_max_bytes_for_level_base(128 << 10)
    options.set_level_compaction_dynamic_level_bytes(False)
    options.set_compression_type(rocksdict.DBCompressionType.none())
    return options


def ingested(store: Any, folder: Path, entries: dict[bytes, bytes]) -> None:
    """A file from outside over what is there: its sequence number stands in the MANIFEST alone."""
    folder.mkdir()
    writer = rocksdict.SstFileWriter(options=raw_options())
    writer.open(str(folder / "outside.sst"))
    for key, value in sorted(entries.items()):
        writer[key] = value
    writer.finish()
    store.ingest_external_file([str(folder / "outside.sst")])


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    store = rocksdict.Rdict(str(folder / "source"), raw_options())
    store[b"of the default family"] = b"1"
    levels = store.create_column_family("levels", many_levels())
    for number in range(4000):
        levels[b"key-%06d" % (number * 7919 % 4000)] = b"first-%d" % number * 20
    levels.flush()
    levels.compact_range(b"key-000000", b"key-002000")
    for number in range(0, 4000, 3):
        levels[b"key-%06d" % number] = b"second-%d" % number
    levels.flush()
    for number in range(0, 4000, 5):
        del levels[b"key-%06d" % number]
    levels.flush()
    ingested(levels, folder / "outside", {b"key-%06d" % number: b"ingested" for number in range(0, 4000, 9)})
    levels[b"key-000009"] = b"behind what was ingested"
    levels.flush()
    tombstones = store.create_column_family("tombstones", raw_options())
    for key, value in numbered(3000).items():
        tombstones[key] = value
    tombstones.flush()
    tombstones.delete_range(b"key-00000100", b"key-00002000")
    tombstones.flush()
    tombstones[b"key-00000150"] = b"over a range deletion"
    tombstones.flush()
    # Nothing else in that file.
    tombstones.delete_range(b"key-00002500", b"key-00002600")
    tombstones.flush()
    store.create_column_family("void", raw_options())
    store.create_column_family("other", raw_options())[b"left"] = b"out"
    del levels, tombstones
    store.close()
    return folder / "source"


def placed(path: Path, family: str) -> list[tuple[Any, ...]]:
    tables = SourceStore(str(path), [family]).tables(family)
    return [
        (table.place.level, table.place.smallest_sequence, table.place.largest_sequence, table.smallest, table.largest)
        for table in sorted(tables, key=lambda table: (table.place.level, -table.place.largest_sequence))
    ]


def check_copy(source: Path, copy: Path) -> None:
    theirs, ours = read_store(source), read_store(copy)
    assert set(ours) == {"default", *CHOSEN}
    assert ours["default"] == {}
    for family in CHOSEN:
        assert ours[family] == theirs[family], family
        assert placed(copy, family) == placed(source, family)
    assert len(theirs["levels"]) > 3000
    assert len({place[0] for place in placed(source, "levels")}) > 2


def migrate(source: Path, place: Place, **options: Any) -> kvbatch.Summary:
    return kvbatch.migrate(source, place.endpoint(), lane="files", column_families=CHOSEN, **options).wait()


def leave_before_the_end(source: Path, place: Place) -> Path:
    """Every file has come; the directory in which they stand."""
    with (
        patch.object(kvbatch.Migration, "_check_source_unchanged", side_effect=kvbatch.SourceError("enough")),
        pytest.raises(kvbatch.SourceError, match="enough"),
    ):
        migrate(source, place)
    settle()
    return place.root / ".target.kvbatch"


def test_families_arrive_with_their_levels_and_sequence_numbers(source: Path, place: Place) -> None:
    before = tree(source)
    plan = kvbatch.plan(source, place.endpoint(), lane="files", column_families=CHOSEN)
    assert {part.column_family for part in plan.ranges} == {"levels", "tombstones"}
    summary = migrate(source, place)
    assert (summary.lane, summary.resent_bytes) == ("files", 0)
    assert summary.raw_bytes == sum(file.stat().st_size for file in place.path().glob("*.sst")) == plan.estimated_bytes
    assert kvbatch.verify(source, place.endpoint(), column_families=CHOSEN).equal
    assert tree(source) == before
    check_copy(source, place.path())
    assert [entry.name for entry in place.root.iterdir()] == ["target"]
    assert not list(place.path().glob("*kvbatch*"))
    again = migrate(source, place)
    assert again.finished_before


def test_the_copy_is_compacted_and_written_to_like_any_other(source: Path, place: Place) -> None:
    migrate(source, place)
    entries = {name: family for name, family in read_store(source).items() if name in CHOSEN}
    names = ["default", *CHOSEN]
    store = rocksdict.Rdict(str(place.path()), raw_options(), {name: raw_options() for name in names})
    for name in CHOSEN:
        family = store.get_column_family(name)
        family[b"more"] = b"1"
        # Behind the sequence numbers that came along, or it would stand beneath what is there.
        family[b"key-000009"] = b"newest"
        assert family[b"key-000009"] == b"newest"
        family.compact_range(None, None)
        del family
    store.close()
    newer = {b"more": b"1", b"key-000009": b"newest"}
    assert read_store(place.path()) == {
        "default": {},
        **{name: {**family, **newer} for name, family in entries.items()},
    }


def test_families_of_no_entry_at_all(source: Path, place: Place) -> None:
    summary = kvbatch.migrate(source, place.endpoint(), lane="files", column_families=["void"]).wait()
    assert (summary.entries, summary.raw_bytes) == (0, 0)
    assert read_store(place.path()) == {"default": {}, "void": {}}
    assert kvbatch.migrate(source, place.endpoint(), lane="files", column_families=["void"]).wait().finished_before


def test_files_are_linked_where_that_is_asked_for(source: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(source, tmp_path / "source")
    place = Place(tmp_path / "root")
    migrate(copy, place, link=True)
    check_copy(copy, place.path())
    inodes = {file.stat().st_ino for file in copy.glob("*.sst")}
    linked = [file.stat().st_ino in inodes for file in place.path().glob("*.sst")]
    assert linked
    assert all(linked)


def test_a_file_system_without_links_gets_copies(source: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    migrate(source, place)
    check_copy(source, place.path())
    assert [entry.name for entry in place.root.iterdir()] == ["target"]


# -- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["links", "family", "name", "record"])
@pytest.mark.parametrize("victim", ["directory", "receiver"])
def test_killed_at_the_end(source: Path, tmp_path: Path, step: str, victim: str) -> None:
    """Until the store has its name all that was received stands beside it, and the end is gone through again; from then
    on the job is finished, and what is left beside it goes with the next run."""
    root = tmp_path / "root"
    processes = Processes(tmp_path, {"DIES_AT": step})
    try:
        options = ("--lane=files", "--json", "--retries=0", *(f"--cf={name}" for name in CHOSEN))
        if victim == "directory":
            command: tuple[object, ...] = ("migrate", source, root / "target", *options)
            assert processes.dying_at_the_end(*command).wait() == -signal.SIGKILL
        else:
            receiver, port = processes.serve(root, dying_at_the_end=True)
            command = ("migrate", source, f"kvbatch://127.0.0.1:{port}/target", *options)
            assert processes.kvbatch(*command).wait() == 75
            assert receiver.wait() == -signal.SIGKILL
            processes.serve(root, port)
        assert (root / "target").exists() is (step == "record")
        assert (root / ".target.kvbatch" / "kvbatch.json").exists()
        summary = processes.kvbatch(*command).result()
    finally:
        processes.close()
    assert summary["finished_before"] is (step == "record")
    assert (summary["batches"], summary["resent_bytes"]) == (0, 0) or summary["finished_before"]
    assert [entry.name for entry in root.iterdir()] == ["target"]
    assert not list((root / "target").glob("*kvbatch*"))
    check_copy(source, root / "target")


def test_an_end_that_fails_is_tried_again(source: Path, place: Place) -> None:
    """Within the same run, by the same receiver: what was made of it gives way."""
    imported = TargetStore.import_family
    calls = 0

    class Failing(TargetStore):
        def import_family(self, *arguments: Any, **options: Any) -> None:
            nonlocal calls
            calls += 1
            imported(self, *arguments, **options)
            if calls == 2:
                raise kvbatch.TargetError("struck")

    with (
        patch.object(target_files, "TargetStore", Failing),
        patch.object(target_files, "check_table_file", side_effect=check_table_file) as check,
    ):
        with pytest.raises(kvbatch.TargetError, match="struck"):
            migrate(source, place)
        settle()
        assert not place.path().exists()
        before = check.call_count
        summary = migrate(source, place)
    # A receiver knows what it received itself.
    assert place.receiver is None or check.call_count == before
    assert (summary.resumed, summary.batches) == (True, 0)
    check_copy(source, place.path())


def test_who_opens_the_job_next_waits_for_an_end_that_is_under_way(source: Path, tmp_path: Path) -> None:
    """Else it would begin the store anew beneath it."""
    imported = TargetStore.import_family
    under_way, go_on = threading.Event(), threading.Event()

    class Slow(TargetStore):
        def import_family(self, *arguments: Any, **options: Any) -> None:
            under_way.set()
            go_on.wait(30)
            imported(self, *arguments, **options)

    target = tmp_path / "target"
    manifest = kvbatch.plan(source, target, lane="files", column_families=CHOSEN).manifest
    place = Place(tmp_path)
    leave_before_the_end(source, place)
    job = FilesJob(target, manifest, CheckedFiles())
    with patch.object(target_files, "TargetStore", Slow), ThreadPoolExecutor(2) as threads:
        finishing = threads.submit(job.finish)
        assert under_way.wait(30)
        closing = threads.submit(job.close)
        with pytest.raises(kvbatch.RefusedError, match="in use by another process"):
            FilesJob(target, manifest, CheckedFiles())
        assert not closing.done()
        go_on.set()
        finishing.result()
        closing.result()
    check_copy(source, target)
    with pytest.raises(kvbatch.TargetError, match="closed meanwhile"):
        job.finish()


def test_what_came_to_the_target_meanwhile_stays(source: Path, place: Place) -> None:
    imported = TargetStore.import_family

    class Beside(TargetStore):
        def import_family(self, *arguments: Any, **options: Any) -> None:
            imported(self, *arguments, **options)
            place.path().mkdir(exist_ok=True)
            (place.path() / "notes.txt").write_text("mine")

    with patch.object(target_files, "TargetStore", Beside), pytest.raises(kvbatch.RefusedError, match="is not empty"):
        migrate(source, place)
    assert (place.path() / "notes.txt").read_text() == "mine"


def test_discarding_what_has_its_name_already_leaves_the_store(source: Path, tmp_path: Path) -> None:
    """It is finished but for what is left beside it."""
    target = tmp_path / "root" / "target"
    state = ("--state-dir", tmp_path / "state")
    command = ("migrate", source, target, "--lane=files", *state, *(f"--cf={name}" for name in CHOSEN))
    processes = Processes(tmp_path, {"DIES_AT": "record"})
    try:
        assert processes.dying_at_the_end(*command).wait() == -signal.SIGKILL
    finally:
        processes.close()
    manifest = Manifest.decode((target / "kvbatch.json").read_bytes())
    assert discard_directory(target, JobIdentity(manifest.job, manifest.fingerprint)) is DiscardOutcome.STORE
    assert [entry.name for entry in target.parent.iterdir()] == ["target"]
    check_copy(source, target)


def test_foreign_files_beside_the_target_stay(source: Path, place: Place) -> None:
    staging = leave_before_the_end(source, place)
    (staging / "notes.txt").write_text("mine")
    migrate(source, place)
    assert [entry.name for entry in staging.iterdir()] == ["notes.txt"]
    check_copy(source, place.path())


def test_discarding_takes_all_of_it_back(source: Path, place: Place) -> None:
    staging = leave_before_the_end(source, place)
    assert (staging / "store").is_dir()
    job = kvbatch.plan(source, place.endpoint(), lane="files", column_families=CHOSEN).job
    done = run_kvbatch("cancel", job, "--discard", "--yes")
    assert done.returncode == 0, done.stderr
    assert list(place.root.iterdir()) == []


def test_a_file_that_was_damaged_between_two_runs_is_received_again(source: Path, place: Place) -> None:
    staging = leave_before_the_end(source, place)
    damaged = max(staging.glob("*.sst"), key=lambda file: file.stat().st_size)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0x55
    damaged.write_bytes(content)
    summary = migrate(source, place)
    assert (summary.resumed, summary.batches) == (True, 1)
    check_copy(source, place.path())


# -- where it cannot serve --------------------------------------------------------------------------------------------


def _default(source: Path, path: Path) -> list[str]:
    shutil.copytree(source, path)
    return ["default", "levels"]


def _in_the_wal(_: Path, path: Path) -> list[str]:
    write_store(path, {"default": {}, "users": {b"key": b"value"}}, flush=False)
    return ["users"]


def _blobs(_: Path, path: Path) -> list[str]:
    options = raw_options()
    options.set_enable_blob_files(True)
    options.set_min_blob_size(10)
    write_store(path, {"default": {}, "users": {b"key": b"x" * 100}}, options=options)
    return ["users"]


@pytest.mark.parametrize(
    ("options", "condition"),
    [
        ({"key_range": "00..ff"}, "--range was given"),
        ({"allow_nonempty": True}, "--allow-nonempty was given"),
        ({"target_compression": "zstd"}, "--target-compression zstd was given"),
    ],
    ids=["range", "allow nonempty", "target compression"],
)
def test_what_the_lane_cannot_do_it_cannot_do_for_families(
    source: Path, place: Place, options: dict[str, Any], condition: str
) -> None:
    with pytest.raises(kvbatch.RefusedError, match=condition):
        migrate(source, place, **options)


def test_a_target_that_is_a_store_already_is_refused(source: Path, place: Place) -> None:
    write_store(place.path(), {"default": {}})
    before = tree(place.path())
    with pytest.raises(kvbatch.RefusedError, match="is a store already, without data"):
        migrate(source, place)
    assert tree(place.path()) == before


CONDITIONS: list[tuple[Callable[[Path, Path], list[str]], str]] = [
    (_default, '"default" is one of them: every store has that one already'),
    (_in_the_wal, 'entries of "users" are in the store\'s WAL only'),
    (_blobs, '"users" has values in blob files'),
]


@pytest.mark.parametrize(("make", "condition"), CONDITIONS, ids=[case[0].__name__.strip("_") for case in CONDITIONS])
def test_a_condition_is_named_and_another_lane_serves(
    source: Path, place: Place, tmp_path: Path, make: Callable[[Path, Path], list[str]], condition: str
) -> None:
    path = tmp_path / "conditional"
    families = make(source, path)
    with pytest.raises(kvbatch.RefusedError) as refused:
        kvbatch.migrate(path, place.endpoint(), lane="files", column_families=families)
    assert condition in str(refused.value)
    assert "--lane sst or --lane batch" in str(refused.value)
    plan = kvbatch.plan(path, place.endpoint(), column_families=families)
    assert plan.lane != "files"
    assert "not `files`" in plan.lane_reason
    kvbatch.migrate(path, place.endpoint(), column_families=families).wait()
    assert kvbatch.verify(path, place.endpoint(), column_families=families).equal


def test_auto_takes_files_for_chosen_families(source: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_choice, "_WORTHWHILE_FILES", 1)
    plan = kvbatch.plan(source, place.endpoint(), column_families=CHOSEN)
    assert plan.lane == "files", plan.lane_reason
    assert "whole column families into an empty target" in plan.lane_reason
    kvbatch.migrate(source, place.endpoint(), column_families=CHOSEN).wait()
    check_copy(source, place.path())


# -- manifests that are none ------------------------------------------------------------------------------------------


def manifest_of(source: Path, target: str) -> Manifest:
    return kvbatch.plan(source, target, lane="files", column_families=CHOSEN).manifest


def _name(part: dict[str, Any]) -> None:
    part["file"] = "../000008.sst"


def _kind(part: dict[str, Any]) -> None:
    part["file"] = "MANIFEST-000008"


def _family(part: dict[str, Any]) -> None:
    part["column_family"] = "default"


def _no_place(part: dict[str, Any]) -> None:
    del part["place"]


def _odd_place(part: dict[str, Any]) -> None:
    part["place"]["sequences"] = [1]


def _start(part: dict[str, Any]) -> None:
    part["start"] = "00"


HOSTILE = [_name, _kind, _family, _no_place, _odd_place, _start]


@pytest.mark.parametrize("change", HOSTILE, ids=lambda change: change.__name__.strip("_"))
def test_a_manifest_of_other_things_is_malformed(source: Path, place: Place, change: Callable[[Any], None]) -> None:
    value = manifest_of(source, place.endpoint()).to_json()
    assert Manifest.from_json(value).to_json() == value
    change(value["ranges"][0])
    with pytest.raises(kvbatch.CorruptionError, match="malformed manifest"):
        Manifest.from_json(value)


def _level(_: TablePlace) -> TablePlace:
    return TablePlace(99, 0, 1, 1, b"a" + bytes(8), b"z" + bytes(8))


def _below(_: TablePlace) -> TablePlace:
    return TablePlace(-1, 0, 1, 1, b"a" + bytes(8), b"z" + bytes(8))


def _no_key(_: TablePlace) -> TablePlace:
    return TablePlace(6, 0, 1, 1, b"a", b"")


def _all_of_one_level(place: TablePlace) -> TablePlace:
    return TablePlace(6, place.smallest_sequence, place.largest_sequence, place.epoch, place.smallest, place.largest)


def _sequences_mixed_up(place: TablePlace) -> TablePlace:
    return TablePlace(place.level, 9, 8, place.epoch, place.smallest, place.largest)


def _behind_the_last_sequence_of_all(place: TablePlace) -> TablePlace:
    return TablePlace(place.level, 0, 1 << 56, place.epoch, place.smallest, place.largest)


BENT = [_level, _below, _no_key, _all_of_one_level, _sequences_mixed_up, _behind_the_last_sequence_of_all]


@pytest.mark.parametrize("change", BENT, ids=lambda change: change.__name__.strip("_"))
def test_places_that_make_no_family_are_refused_at_the_end(
    source: Path, place: Place, change: Callable[[TablePlace], TablePlace]
) -> None:
    """And the target is no store, let alone a wrong one."""

    def bent(part: Range) -> TablePlace | None:
        return None if part.place is None else change(part.place)

    with (
        patch("kvbatch.source_image.Range", side_effect=lambda **fields: Range(**_with_place(fields, bent))),
        pytest.raises(kvbatch.CorruptionError, match="remove that directory and migrate again"),
    ):
        migrate(source, place)
    assert not place.path().exists()


@pytest.mark.parametrize("name", ["default", RESERVED_COLUMN_FAMILY])
def test_families_that_nobody_imports(tmp_path: Path, name: str) -> None:
    store = TargetStore(str(tmp_path / "target"))
    with pytest.raises(kvbatch.RefusedError, match=name):
        store.import_family(ColumnFamilyDescription(name), str(tmp_path), [], move=True)
    store.close()


def _with_place(fields: dict[str, Any], bent: Callable[[Range], TablePlace | None]) -> dict[str, Any]:
    return {**fields, "place": bent(Range(**fields))}
