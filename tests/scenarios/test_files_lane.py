"""The lane `files`: whatever a store consists of arrives as it is; where the lane cannot serve it says why."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import rocksdict

import kvbatch
from kvbatch import target_local
from kvbatch._core.frame import BufferPool, Frame
from kvbatch._core.store import write_sample_store
from kvbatch.target import FILE_PIECE_BYTES
from kvbatch.target_local import LocalSession
from support.mounts import resize_disk, small_disk
from support.places import Place
from support.sender import put_pieces
from support.stores import copy_open_store, numbered, raw_options, read_store, tree, write_store
from support.stores import kvbatch as run_kvbatch
from support.targets import settle

# -- whole stores -----------------------------------------------------------------------------------------------------


def _plain(path: Path) -> None:
    write_store(path, {"default": numbered(500), "users": numbered(100, value=b"user-")})


def _wal_only(path: Path) -> None:
    write_store(path, {"default": numbered(500), "users": numbered(100, value=b"user-")}, flush=False)


def _blobs(path: Path) -> None:
    options = raw_options()
    options.set_enable_blob_files(True)
    options.set_min_blob_size(100)
    write_store(path, {"default": {b"key-%d" % number: b"%d" % number * 200 for number in range(300)}}, options=options)
    assert list(path.glob("*.blob"))


def _forty_families(path: Path) -> None:
    write_store(path, {"default": {}, **{f"family-{number}": numbered(20, start=number) for number in range(40)}})


def _range_tombstones(path: Path) -> None:
    written = path.with_name("written")
    store = rocksdict.Rdict(str(written), raw_options())
    for key, value in numbered(500).items():
        store[key] = value
    store.flush()
    store.delete_range(b"key-00000100", b"key-00000200")
    store.flush()
    store.delete_range(b"key-00000300", b"key-00000310")
    copy_open_store(store, written, path)
    store.close()


def _empty(path: Path) -> None:
    write_store(path, {"default": {}})


STORES = (_plain, _wal_only, _blobs, _forty_families, _range_tombstones, _empty)


@pytest.mark.parametrize("make", STORES, ids=lambda make: make.__name__.strip("_"))
def test_a_whole_store_arrives_as_it_is(tmp_path: Path, place: Place, make: Callable[[Path], None]) -> None:
    source = tmp_path / "source"
    make(source)
    before = tree(source)
    summary = kvbatch.migrate(source, place.endpoint(), lane="files").wait()
    assert (summary.lane, summary.resent_bytes) == ("files", 0)
    assert summary.raw_bytes == sum(file.stat().st_size for file in place.path().iterdir())
    assert kvbatch.verify(source, place.endpoint()).equal
    again = kvbatch.migrate(source, place.endpoint(), lane="files").wait()
    assert again.finished_before
    assert tree(source) == before
    assert read_store(place.path()) == read_store(source)
    assert [entry.name for entry in place.root.iterdir()] == ["target"]


def test_the_copy_can_be_written_to_and_the_source_is_none_the_wiser(tmp_path: Path, place: Place) -> None:
    source = tmp_path / "source"
    _plain(source)
    kvbatch.migrate(source, place.endpoint(), lane="files").wait()
    before = tree(source)
    _write_one_more(place.path())
    assert tree(source) == before
    assert read_store(place.path())["default"] == {**numbered(500), b"more": b"1"}


def _write_one_more(path: Path) -> None:
    store = rocksdict.Rdict(str(path), raw_options(), {"default": raw_options(), "users": raw_options()})
    store[b"more"] = b"1"
    store.compact_range(None, None)
    store.close()


def test_files_that_are_no_part_of_the_store_stay_where_they_are(tmp_path: Path, place: Place) -> None:
    source = tmp_path / "source"
    _plain(source)
    (source / "notes.txt").write_text("mine")
    (source / "MANIFEST-999999").write_text("left over")
    (source / "archive").mkdir()
    kvbatch.migrate(source, place.endpoint(), lane="files").wait()
    kinds = {file.name.split("-")[0] for file in place.path().iterdir() if not file.suffix}
    assert kinds == {"CURRENT", "IDENTITY", "MANIFEST", "OPTIONS"}
    assert not (place.path() / "MANIFEST-999999").exists()
    assert not (place.path() / "notes.txt").exists()


def test_what_rocksdb_left_of_a_birth_gives_way(tmp_path: Path, place: Place) -> None:
    source = tmp_path / "source"
    _plain(source)
    (place.path() / ".kvbatch").mkdir(parents=True)
    for name in ("LOG", "LOCK", "MANIFEST-000001"):
        (place.path() / name).write_bytes(b"x")
    kvbatch.migrate(source, place.endpoint(), lane="files").wait()
    assert kvbatch.verify(source, place.endpoint()).equal
    assert not (place.path() / ".kvbatch").exists()


def test_a_link_to_an_empty_directory_is_followed(tmp_path: Path, place: Place) -> None:
    source = tmp_path / "source"
    _plain(source)
    (place.root / "real").mkdir(parents=True)
    place.path().symlink_to(place.root / "real")
    kvbatch.migrate(source, place.endpoint(), lane="files").wait()
    assert place.path().is_symlink()
    assert read_store(place.root / "real") == read_store(source)


# -- resume -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "source"
    write_sample_store(str(path), entries=200_000)
    return path


def _nothing(partial: Path) -> None:
    assert partial.stat().st_size == 2 * FILE_PIECE_BYTES


def _half_a_piece_more(partial: Path) -> None:
    with partial.open("ab") as file:
        file.write(b"x" * 1000)


def _other_bytes(partial: Path) -> None:
    with partial.open("r+b") as file:
        file.seek(FILE_PIECE_BYTES + 17)
        file.write(b"bent")


def _longer_than_the_file(partial: Path) -> None:
    """Holes behind the pieces that came, which end with the last whole piece of the file."""
    os.truncate(partial, 100 * FILE_PIECE_BYTES)


def _gone(partial: Path) -> None:
    partial.unlink()


@pytest.mark.parametrize(
    "damage",
    [_nothing, _half_a_piece_more, _other_bytes, _longer_than_the_file, _gone],
    ids=lambda damage: damage.__name__.strip("_"),
)
def test_what_is_there_is_checked_before_it_is_trusted(
    large: Path, place: Place, damage: Callable[[Path], None]
) -> None:
    damage(put_pieces(large, place, 2))
    assert kvbatch.plan(large, place.endpoint(), lane="files").target_state.kind == "resumable"
    migration = kvbatch.migrate(large, place.endpoint(), lane="files")
    summary = migration.wait()
    assert summary.resumed
    moved = sum(file.stat().st_size for file in large.iterdir() if file.suffix == ".sst")
    trusted = damage in (_nothing, _half_a_piece_more, _longer_than_the_file)
    # A batch is a piece here.
    pieces = -(-moved // FILE_PIECE_BYTES) + len(list(place.path().iterdir())) - 1
    assert summary.batches <= pieces - 2 if trusted else summary.batches >= pieces - 2
    assert kvbatch.verify(large, place.endpoint()).equal


@pytest.fixture(scope="module")
def of_every_kind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with tables, a blob file and a WAL that is not empty."""
    path = tmp_path_factory.mktemp("kinds") / "source"
    options = raw_options()
    options.set_enable_blob_files(True)
    options.set_min_blob_size(100)
    written = path.with_name("written")
    store = rocksdict.Rdict(str(written), options)
    for number in range(3000):
        store[b"key-%05d" % number] = b"%d" % number * (30 if number % 3 else 1)
    store.flush()
    for number in range(300):
        store[b"later-%05d" % number] = b"%d" % number
    copy_open_store(store, written, path)
    store.close()
    return path


def _leave_before_the_end(source: Path, place: Place) -> Path:
    """Every file has come; the directory in which they stand."""
    with (
        patch.object(kvbatch.Migration, "_check_source_unchanged", side_effect=kvbatch.SourceError("enough")),
        pytest.raises(kvbatch.SourceError, match="enough"),
    ):
        kvbatch.migrate(source, place.endpoint(), lane="files").wait()
    settle()
    return place.root / ".target.kvbatch"


def _bend(file: Path) -> None:
    """One byte in the middle; size and time stay what they were."""
    content, before = bytearray(file.read_bytes()), file.stat()
    content[len(content) // 2] ^= 0x55
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("kind", ["*.sst", "*.blob", "*.log", "MANIFEST-*", "OPTIONS-*", "IDENTITY", "CURRENT"])
def test_a_whole_file_that_was_damaged_between_two_runs_is_received_again(
    of_every_kind: Path, place: Place, kind: str
) -> None:
    staging = _leave_before_the_end(of_every_kind, place)
    damaged = max(staging.glob(kind), key=lambda file: file.stat().st_size)
    _bend(damaged)
    summary = kvbatch.migrate(of_every_kind, place.endpoint(), lane="files").wait()
    assert (summary.resumed, summary.batches) == (True, 1)
    for file in place.path().iterdir():
        assert file.read_bytes() == (of_every_kind / file.name).read_bytes(), file.name
    assert kvbatch.verify(of_every_kind, place.endpoint()).equal


def test_whole_files_that_are_as_they_were_are_not_sent_again(of_every_kind: Path, place: Place) -> None:
    """A receiver knows those that it received itself, and another process goes through them once."""
    _leave_before_the_end(of_every_kind, place)
    with patch("kvbatch.target_files.check_table_file") as check:
        summary = kvbatch.migrate(of_every_kind, place.endpoint(), lane="files").wait()
    assert (summary.resumed, summary.batches, summary.resent_bytes) == (True, 0, 0)
    tables = len(list(of_every_kind.glob("*.sst")))
    assert check.call_count == (tables if place.receiver is None else 0)
    assert kvbatch.verify(of_every_kind, place.endpoint()).equal


def test_linked_files_are_never_cut(of_every_kind: Path, tmp_path: Path) -> None:
    source, place = tmp_path / "source", Place(tmp_path / "place")
    shutil.copytree(of_every_kind, source)
    before = tree(source)
    with (
        patch.object(kvbatch.Migration, "_check_source_unchanged", side_effect=kvbatch.SourceError("enough")),
        pytest.raises(kvbatch.SourceError, match="enough"),
    ):
        kvbatch.migrate(source, place.endpoint(), lane="files", link=True).wait()
    kvbatch.migrate(source, place.endpoint(), lane="files").wait()
    assert tree(source) == before
    assert kvbatch.verify(source, place.endpoint()).equal
    blob = next(source.glob("*.blob"))
    assert not blob.samefile(place.path() / blob.name)


def test_another_job_at_a_target_with_files_beside_it_is_refused(tmp_path: Path, large: Path, place: Place) -> None:
    put_pieces(large, place, 1)
    other = write_store(tmp_path / "other", {"default": numbered(5)})
    for source, options, field in (
        (other, {"lane": "files"}, "job"),
        (other, {"lane": "batch"}, "job"),
        (large, {"lane": "batch"}, "lane"),
    ):
        with pytest.raises(kvbatch.RefusedError, match=f"does not continue: {field}: theirs"):
            kvbatch.migrate(source, place.endpoint(), **options).wait()
        with pytest.raises(kvbatch.RefusedError, match="unfinished job"):
            kvbatch.plan(source, place.endpoint(), **options)
    kvbatch.migrate(large, place.endpoint(), lane="files").wait()
    assert kvbatch.verify(large, place.endpoint()).equal


def test_a_job_of_entries_is_not_taken_over(tmp_path: Path, place: Place) -> None:
    source = tmp_path / "source"
    _plain(source)
    plan = kvbatch.plan(source, place.endpoint())
    LocalSession(place.path(), plan.manifest, 1 << 20).close()
    with pytest.raises(kvbatch.RefusedError, match="does not continue: lane: theirs 'batch', ours 'files'"):
        kvbatch.migrate(source, place.endpoint(), lane="files").wait()
    kvbatch.migrate(source, place.endpoint()).wait()
    assert kvbatch.verify(source, place.endpoint()).equal


def test_two_processes_do_not_share_a_staging_directory(large: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    plan = kvbatch.plan(large, target, lane="files")
    session = LocalSession(target, plan.manifest, 1 << 20)
    try:
        done = run_kvbatch("migrate", large, target, "--lane=files")
        assert done.returncode == 4
        assert "in use by another process" in done.stderr
    finally:
        session.close()


# -- copies within the kernel -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [FILE_PIECE_BYTES, 100_000], ids=["whole", "less than asked for"])
def test_files_are_copied_within_the_kernel(
    of_every_kind: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    within_kernel = os.copy_file_range
    copied: list[int] = []

    def counted(source: int, target: int, length: int, source_offset: int, target_offset: int) -> int:
        copied.append(within_kernel(source, target, min(length, at_once), source_offset, target_offset))
        return copied[-1]

    monkeypatch.setattr(target_local.os, "copy_file_range", counted)
    # On the file system of the target.
    source = shutil.copytree(of_every_kind, tmp_path / "source")
    summary = kvbatch.migrate(source, tmp_path / "copy", lane="files").wait()
    assert sum(copied) == summary.raw_bytes > 0
    check_same_files(source, tmp_path / "copy")


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_the_kernel_does_not_copy_files_are_read_and_written(
    of_every_kind: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refused = 0

    def refuse(*_: int) -> int:
        nonlocal refused
        refused += 1
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(target_local.os, "copy_file_range", refuse)
    kvbatch.migrate(of_every_kind, tmp_path / "copy", lane="files").wait()
    assert refused > 0
    check_same_files(of_every_kind, tmp_path / "copy")


def check_same_files(source: Path, copy: Path) -> None:
    for file in copy.iterdir():
        assert file.read_bytes() == (source / file.name).read_bytes(), file.name
    assert read_store(copy) == read_store(source)


# -- full disk --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["directory", "receiver"])
def small_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with small_disk(tmp_path / "disk", "20m") as root:
        if request.param == "directory":
            yield Place(root)
        else:
            with kvbatch.serve(root) as receiver:
                yield Place(root, receiver)


def test_full_disk_is_resumable_and_goes_on_inside_the_file(tmp_path: Path, small_place: Place) -> None:
    draw = random.Random(7)
    source = write_store(
        tmp_path / "source", {"default": {b"key-%05d" % number: draw.randbytes(4096) for number in range(8000)}}
    )
    assert max(file.stat().st_size for file in source.iterdir()) > 3 * FILE_PIECE_BYTES
    command = ["migrate", source, small_place.endpoint(), "--lane=files", "--json", "--progress=none"]
    for _ in range(2):
        done = run_kvbatch(*command)
        assert done.returncode == 75, done.stderr
        assert "No space left" in done.stderr
        small_place.check_full_disk(done.stderr.removeprefix("kvbatch: "))
        assert "nothing is lost; carry on with" in done.stderr
    [staging] = small_place.root.iterdir()
    assert max(file.stat().st_size for file in staging.iterdir()) >= 2 * FILE_PIECE_BYTES
    resize_disk(small_place.root, "64m")
    summary = kvbatch.migrate(source, small_place.endpoint(), lane="files").wait()
    assert summary.resumed
    assert summary.batches < 8
    assert read_store(small_place.path()) == read_store(source)


# -- links ------------------------------------------------------------------------------------------------------------


def test_tables_and_blobs_are_linked_and_nothing_else(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    options = raw_options()
    options.set_enable_blob_files(True)
    options.set_min_blob_size(10)
    entries = {**numbered(500), b"large": b"x" * 500}
    write_store(source, {"default": entries, "users": numbered(100)}, options=options)
    content = {file.name: file.read_bytes() for file in source.iterdir()}
    summary = kvbatch.migrate(source, target, lane="files", link=True).wait()
    assert summary.entries >= 601
    shared = {file.name for file in target.iterdir() if file.samefile(source / file.name)}
    assert shared == {file.name for file in source.iterdir() if file.suffix in (".sst", ".blob")} != set()
    assert kvbatch.verify(source, target).equal
    _write_one_more(target)
    assert {name: (source / name).read_bytes() for name in content} == content
    assert read_store(source)["default"] == entries


def test_links_after_a_run_without_them(large: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(large, source)
    content = {file.name: file.read_bytes() for file in source.iterdir()}
    place = Place(tmp_path / "place")
    put_pieces(source, place, 2)
    summary = kvbatch.migrate(source, place.path(), lane="files", link=True).wait()
    assert summary.resumed
    [table] = source.glob("*.sst")
    assert table.samefile(place.path() / table.name)
    assert {name: (source / name).read_bytes() for name in content} == content


def test_a_run_without_links_after_one_with_them_leaves_the_source_alone(large: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(large, source)
    content = {file.name: file.read_bytes() for file in source.iterdir()}
    target = tmp_path / "target"
    plan = kvbatch.plan(source, target, lane="files", link=True)
    session = LocalSession(target, plan.manifest, 1 << 20)
    stream = session.stream(0)
    part = max(plan.ranges, key=lambda part: part.file_bytes)
    stream.begin(part)
    stream.link_file(str(source / part.file))
    stream.close()
    session.close()
    kvbatch.migrate(source, target, lane="files").wait()
    assert {name: (source / name).read_bytes() for name in content} == content
    assert kvbatch.verify(source, target).equal


def test_links_across_file_systems_are_refused(tmp_path: Path) -> None:
    source = write_store(tmp_path / "source", {"default": numbered(5)})
    with small_disk(tmp_path / "disk", "10m") as root:
        done = run_kvbatch("migrate", source, root / "target", "--lane=files", "--link")
    assert done.returncode == 4
    assert "--link" in done.stderr
    assert "different file systems" in done.stderr


# -- refusals ---------------------------------------------------------------------------------------------------------

REFUSALS: list[tuple[list[str], str, str]] = [
    (["--cf=default"], '"default" is one of them', "--lane sst or --lane batch"),
    (["--range=00..ff"], "--range was given", "--lane sst or --lane batch"),
    (["--allow-nonempty"], "--allow-nonempty was given", "--lane batch"),
    (["--target-compression=zstd"], "--target-compression zstd was given", "--lane sst or --lane batch"),
]


@pytest.mark.parametrize(("arguments", "condition", "other"), REFUSALS, ids=[case[0][0] for case in REFUSALS])
def test_a_condition_that_the_lane_cannot_meet_is_named(
    tmp_path: Path, arguments: list[str], condition: str, other: str
) -> None:
    source = write_store(tmp_path / "source", {"default": numbered(5)})
    done = run_kvbatch("migrate", source, tmp_path / "target", "--lane=files", *arguments)
    assert done.returncode == 4, done.stderr
    assert condition in done.stderr
    assert other in done.stderr
    assert not (tmp_path / "target").exists()


def test_a_wal_elsewhere_is_refused(tmp_path: Path) -> None:
    options = raw_options()
    options.set_wal_dir(str(tmp_path / "wal"))
    source = write_store(tmp_path / "source", {"default": numbered(5)}, options=options)
    with pytest.raises(kvbatch.RefusedError, match=r"keeps its WAL in .*/wal") as refused:
        kvbatch.plan(source, tmp_path / "target", lane="files")
    assert "--lane batch" in str(refused.value)


def test_links_without_the_lane_are_wrong_usage(tmp_path: Path) -> None:
    source = write_store(tmp_path / "source", {"default": numbered(5)})
    with pytest.raises(kvbatch.UsageError, match="--lane files only"):
        kvbatch.plan(source, tmp_path / "target", link=True)


def test_links_to_a_receiver_are_refused(tmp_path: Path, receiver: kvbatch.Receiver) -> None:
    source = write_store(tmp_path / "source", {"default": numbered(5)})
    with pytest.raises(kvbatch.RefusedError, match="behind a receiver"):
        kvbatch.migrate(source, f"kvbatch://127.0.0.1:{receiver.port}/x", lane="files", link=True)


def _with_data(path: Path) -> None:
    write_store(path, {"default": {b"theirs": b"1"}})


def _without_data(path: Path) -> None:
    write_store(path, {"default": {}})


def _foreign(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "notes.txt").write_text("mine")


TARGETS: list[tuple[Callable[[Path], Any], str]] = [
    (_with_data, "already holds data"),
    (_without_data, "is a store already, without data"),
    (_foreign, "no RocksDB directory"),
]


@pytest.mark.parametrize(("make", "words"), TARGETS, ids=[case[0].__name__ for case in TARGETS])
def test_a_target_with_something_in_it_is_refused_and_left_alone(
    tmp_path: Path, place: Place, make: Callable[[Path], Any], words: str
) -> None:
    source = write_store(tmp_path / "source", {"default": numbered(5)})
    place.root.mkdir(exist_ok=True)
    make(place.path())
    before = tree(place.root)
    with pytest.raises(kvbatch.RefusedError, match=words):
        kvbatch.migrate(source, place.endpoint(), lane="files").wait()
    with pytest.raises(kvbatch.RefusedError, match=words):
        kvbatch.plan(source, place.endpoint(), lane="files")
    assert tree(place.root) == before


def test_a_mount_point_is_refused(tmp_path: Path) -> None:
    source = write_store(tmp_path / "source", {"default": numbered(5)})
    with (
        small_disk(tmp_path / "disk", "10m") as root,
        pytest.raises(kvbatch.RefusedError, match=f"mount point.*{root / 'store'}"),
    ):
        kvbatch.plan(source, root, lane="files")


def test_a_directory_of_that_name_that_no_job_made_is_refused(tmp_path: Path, place: Place) -> None:
    source = write_store(tmp_path / "source", {"default": numbered(5)})
    (place.root / ".target.kvbatch").mkdir(parents=True)
    (place.root / ".target.kvbatch" / "precious").write_text("mine")
    with pytest.raises(kvbatch.RefusedError, match="holds 'precious'"):
        kvbatch.migrate(source, place.endpoint(), lane="files").wait()
    with pytest.raises(kvbatch.RefusedError, match="holds 'precious'"):
        kvbatch.plan(source, place.endpoint(), lane="files")
    assert (place.root / ".target.kvbatch" / "precious").read_text() == "mine"


def test_a_batch_for_a_file_is_refused(tmp_path: Path) -> None:
    source = write_store(tmp_path / "source", {"default": numbered(5)})
    plan = kvbatch.plan(source, tmp_path / "target", lane="files")
    session = LocalSession(tmp_path / "target", plan.manifest, 1 << 20)
    stream = session.stream(0)
    stream.begin(plan.ranges[0])
    with pytest.raises(kvbatch.ProtocolError, match="a batch for file"):
        stream.put(Frame(BufferPool(1 << 16)), bytes(16))
    stream.close()
    session.close()
