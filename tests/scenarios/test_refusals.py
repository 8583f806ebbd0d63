"""Calls that make no sense or would do harm: the exit code, a message with the way out, and nothing written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import rocksdict

import kvbatch
from support.capi_store import REVERSE_BYTEWISE, run_store_script
from support.mounts import Capabilities, read_only_disk, read_only_tree, small_disk, unreadable_tree
from support.places import Place
from support.stores import kvbatch as run_kvbatch
from support.stores import numbered, raw_options, read_store, tree, write_store
from support.targets import settle

HOLD_OPEN = """
import sys
import rocksdict
store = rocksdict.Rdict(sys.argv[1], rocksdict.Options(raw_mode=True))
print("open", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_open(path: Path) -> Iterator[int]:
    """Another process, whose id this is, has the store at `path` open for writing."""
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD_OPEN, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "open\n"
        yield owner.pid
    finally:
        owner.communicate()


Prepare = Callable[[Path], tuple[Path, Path]]


def _source(folder: Path) -> Path:
    return write_store(folder / "source", {"default": numbered(20)})


def _missing(folder: Path) -> tuple[Path, Path]:
    return folder / "nowhere", folder / "target"


def _file_as_source(folder: Path) -> tuple[Path, Path]:
    (folder / "source").write_text("not a store")
    return folder / "source", folder / "target"


def _no_store(folder: Path) -> tuple[Path, Path]:
    (folder / "source").mkdir()
    (folder / "source" / "notes.txt").write_text("not a store")
    return folder / "source", folder / "target"


def _same(folder: Path) -> tuple[Path, Path]:
    return _source(folder), folder / "source"


def _same_written_differently(folder: Path) -> tuple[Path, Path]:
    return _source(folder), folder / "source" / ".." / "source" / "."


def _target_inside(folder: Path) -> tuple[Path, Path]:
    return _source(folder), folder / "source" / "deep" / "target"


def _source_inside(folder: Path) -> tuple[Path, Path]:
    (folder / "outer").mkdir()
    return _source(folder / "outer"), folder / "outer"


def _link_to_source(folder: Path) -> tuple[Path, Path]:
    source = _source(folder)
    (folder / "link").symlink_to(source)
    return source, folder / "link"


def _links_to_one(folder: Path) -> tuple[Path, Path]:
    source = _source(folder)
    (folder / "one").symlink_to(source)
    (folder / "two").symlink_to(folder / "one")
    return folder / "one", folder / "two"


def _below_a_link(folder: Path) -> tuple[Path, Path]:
    source = _source(folder)
    (folder / "link").symlink_to(source)
    return source, folder / "link" / "target"


def _target_inside_another(folder: Path) -> tuple[Path, Path]:
    return _source(folder), write_store(folder / "other", {"default": numbered(20)}) / "deep" / "target"


def _below_a_link_to_another(folder: Path) -> tuple[Path, Path]:
    (folder / "link").symlink_to(write_store(folder / "other", {"default": {}}))
    return _source(folder), folder / "link" / "target"


def _target_with_data(folder: Path) -> tuple[Path, Path]:
    return _source(folder), write_store(folder / "target", {"default": {b"mine": b"1"}})


def _target_with_data_in_the_wal(folder: Path) -> tuple[Path, Path]:
    return _source(folder), write_store(folder / "target", {"default": {}, "other": {b"mine": b"1"}}, flush=False)


def _target_with_foreign_files(folder: Path) -> tuple[Path, Path]:
    (folder / "target").mkdir()
    (folder / "target" / "photos.zip").write_text("precious")
    return _source(folder), folder / "target"


def _target_is_a_file(folder: Path) -> tuple[Path, Path]:
    (folder / "target").write_text("precious")
    return _source(folder), folder / "target"


def _link_to_nothing(folder: Path) -> tuple[Path, Path]:
    (folder / "target").symlink_to(folder / "disk")
    return _source(folder), folder / "target"


# What is safe, and the way out.
NO_STORE = ["Nothing was written", "give the directory that holds the store's CURRENT file"]
APART = ["Nothing was written", "choose"]
IN_USE = r"is in use: process {} .*It was left as it is; stop that process, then run the same command again"


REFUSALS: dict[str, tuple[Prepare, int, list[str]]] = {
    "missing path": (_missing, 2, ["nowhere does not exist", *NO_STORE]),
    "a file as source": (_file_as_source, 2, ["source is not a directory", *NO_STORE]),
    "not a RocksDB directory": (_no_store, 2, ["source is not a RocksDB directory", *NO_STORE]),
    "source is target": (_same, 4, ["same directory", *APART]),
    "source is target in other words": (_same_written_differently, 4, ["same directory", *APART]),
    "target inside source": (_target_inside, 4, ["lies inside", *APART]),
    "source inside target": (_source_inside, 4, ["lies inside", *APART]),
    "a link to the source": (_link_to_source, 4, ["same directory", *APART]),
    "links to one store": (_links_to_one, 4, ["same directory", *APART]),
    "target below a link into the source": (_below_a_link, 4, ["lies inside", *APART]),
    "target with data": (_target_with_data, 4, ["already holds data", '"default"', "--allow-nonempty"]),
    "target with data in its WAL": (_target_with_data_in_the_wal, 4, ["already holds data", '"other"']),
    "target with foreign files": (_target_with_foreign_files, 4, ["photos.zip", "choose another"]),
    "target is a file": (_target_is_a_file, 4, ["is a file", "choose another"]),
    "target is a link to nothing": (
        _link_to_nothing,
        4,
        ["symbolic link to", "where nothing stands"],
    ),
    "target inside another store": (_target_inside_another, 4, ["lies inside the store", "choose a path outside"]),
    "target below a link into another store": (_below_a_link_to_another, 4, ["lies inside the store"]),
}


@pytest.mark.parametrize(
    ("command", "name"),
    [*(("migrate", name) for name in REFUSALS), *(("verify", name) for name in list(REFUSALS)[:10])],
)
def test_refused_with_nothing_written(tmp_path: Path, name: str, command: str) -> None:
    prepare, code, words = REFUSALS[name]
    folder = tmp_path / "stores"
    folder.mkdir()
    source, target = prepare(folder)
    before = tree(folder)
    done = run_kvbatch(command, source, target, "--json")
    if command == "migrate":
        assert done.returncode == code, done.stderr
        for word in words:
            assert word in done.stderr
    else:
        assert done.returncode in (2, 4), done.stderr
        assert "Nothing was written" in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert tree(folder) == before


MALFORMED: dict[str, tuple[list[str], list[str]]] = {
    "unknown family": (["--cf", "nope"], ['"nope"', '"default"', '"other"']),
    "one known and one unknown family": (["--cf", "other", "--cf", "nope"], ['"nope"']),
    "range without dots": (["--range", "6162"], ["6162", "HEX..HEX"]),
    "range that is not hex": (["--range", "zz..ff"], ["zz..ff"]),
    "range of half a byte": (["--range", "6..7"], ["6..7"]),
    "range with three dots": (["--range", "61...62"], ["61...62"]),
    "range that ends before it starts": (["--range", "62..61"], ["62..61"]),
    "batch size in words": (["--batch-size", "big"], ["--batch-size", "'big'", "64MiB"]),
    "batch size with an unknown unit": (["--batch-size", "1XB"], ["'1XB'"]),
    "negative batch size": (["--batch-size", "-1"], ["-1"]),
    "batch size of nothing": (["--batch-size", "0"], ["batch", "0"]),
    "batch size too large": (["--batch-size", "1GiB"], ["64MiB"]),
    "memory too small": (["--max-memory", "1KiB"], ["--max-memory", "at least"]),
    "memory in words": (["--max-memory", "much"], ["'much'"]),
    "no stream": (["--streams", "0"], ["streams"]),
    "a stream and a half": (["--streams", "1.5"], ["streams"]),
    "unknown compression": (["--compression", "brotli"], ["brotli"]),
    "unknown compression of the target": (["--target-compression", "brotli"], ["brotli"]),
    "unknown lane": (["--lane", "teleport"], ["teleport"]),
    "job id that is a path": (["--job", "../x"], ["job"]),
    "unknown option": (["--faster"], ["--faster"]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_option_is_wrong_usage(tmp_path: Path, name: str) -> None:
    arguments, words = MALFORMED[name]
    source = write_store(tmp_path / "source", {"default": numbered(5), "other": numbered(5)})
    before = tree(source)
    done = run_kvbatch("migrate", source, tmp_path / "target", *arguments)
    assert done.returncode == 2, done.stderr
    for word in words:
        assert word in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "target").exists()
    assert tree(source) == before


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("kvbatch://127.0.0.1:1", ["kvbatch://host:port/NAME"]),
        ("kvbatch://127.0.0.1:x/n", ["malformed endpoint"]),
        ("kvbatch://127.0.0.1:0/n", ["malformed endpoint", "no receiver has port 0", "from 1 to 65535"]),
        ("s3://bucket/x", ["unknown endpoint", "kvbatch://host:port/NAME"]),
        ("", ["empty path"]),
        ("rocksdb:", ["empty path"]),
    ],
)
def test_malformed_target_is_wrong_usage(tmp_path: Path, target: str, words: list[str]) -> None:
    with pytest.raises(kvbatch.UsageError) as refused:
        kvbatch.migrate(_source(tmp_path), target)
    assert all(word in str(refused.value) for word in words)


@pytest.mark.parametrize("name", ["..", "../outside", "a/../../outside", ".hidden", "a//b", "%2e%2e/outside", "a%00b"])
def test_name_that_leads_out_of_the_receivers_root_is_refused(
    tmp_path: Path, receiver: kvbatch.Receiver, name: str
) -> None:
    source = _source(tmp_path)
    before = {entry.name for entry in tmp_path.iterdir()}
    with pytest.raises(kvbatch.UsageError):
        kvbatch.migrate(source, f"kvbatch://127.0.0.1:{receiver.port}/{name}")
    assert {entry.name for entry in tmp_path.iterdir()} - before <= {"xdg-state"}
    assert not list(receiver.root.iterdir())


def test_link_below_the_root_that_leads_out_of_it_is_refused(tmp_path: Path, receiver: kvbatch.Receiver) -> None:
    (tmp_path / "outside").mkdir()
    (receiver.root / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(kvbatch.RefusedError, match="leads out of"):
        kvbatch.migrate(_source(tmp_path), f"kvbatch://127.0.0.1:{receiver.port}/link/target").wait()
    assert not list((tmp_path / "outside").iterdir())


def test_source_in_use_by_another_process_is_refused(tmp_path: Path, place: Place) -> None:
    source = _source(tmp_path)
    with held_open(source) as owner:
        before = tree(source)
        with pytest.raises(kvbatch.RefusedError, match=IN_USE.format(owner)) as refused:
            kvbatch.migrate(source, place.endpoint()).wait()
        assert str(source) in str(refused.value)
        assert tree(source) == before
        assert not place.path().exists()
        done = run_kvbatch("migrate", source, tmp_path / "by-command")
        assert done.returncode == 4
    kvbatch.migrate(source, place.endpoint()).wait()
    assert read_store(place.path()) == {"default": numbered(20)}


def test_lock_of_the_same_number_on_another_file_system_is_no_obstacle(tmp_path: Path) -> None:
    """Fresh file systems number their files alike; the lock that another process holds there is not ours."""
    with small_disk(tmp_path / "one", "16m") as one, small_disk(tmp_path / "two", "16m") as two:
        for disk in (one, two):
            write_store(disk / "store", {"default": numbered(20)})
        assert (one / "store" / "LOCK").stat().st_ino == (two / "store" / "LOCK").stat().st_ino
        with held_open(one / "store"):
            kvbatch.migrate(_source(tmp_path), two / "store", allow_nonempty=True).wait()
            kvbatch.migrate(two / "store", tmp_path / "target").wait()
        assert read_store(tmp_path / "target") == read_store(two / "store") == {"default": numbered(20)}


@pytest.mark.parametrize("families", [{"default": {}}, {"default": {b"k": b"v"}}], ids=["empty", "with data"])
@pytest.mark.parametrize("options", [{}, {"allow_nonempty": True}], ids=["plain", "allow nonempty"])
def test_target_in_use_by_another_process_is_refused(
    tmp_path: Path, place: Place, families: dict[str, dict[bytes, bytes]], options: dict[str, bool]
) -> None:
    source = _source(tmp_path)
    place.root.mkdir(exist_ok=True)
    write_store(place.path(), families)
    with held_open(place.path()) as owner:
        before = tree(place.path())
        with pytest.raises(kvbatch.RefusedError, match=IN_USE.format(owner)):
            kvbatch.migrate(source, place.endpoint(), **options).wait()
        assert tree(place.path()) == before
    assert read_store(place.path()) == families


def test_target_that_holds_data_stays_as_it_was(tmp_path: Path, place: Place) -> None:
    place.root.mkdir(exist_ok=True)
    write_store(place.path(), {"default": {b"mine": b"1"}})
    before = tree(place.path())
    with pytest.raises(kvbatch.RefusedError, match=r"already holds data.*--allow-nonempty"):
        kvbatch.migrate(_source(tmp_path), place.endpoint()).wait()
    assert tree(place.path()) == before


@pytest.mark.parametrize("unflushed", [True, False])
def test_allow_nonempty_overwrites_and_keeps_the_rest(tmp_path: Path, place: Place, unflushed: bool) -> None:
    theirs = {
        "default": {b"key-00000003": b"theirs", b"mine": b"1", b"": b"empty key"},
        "only theirs": {b"x": b"y"},
        "empty here": {},
    }
    ours = {"default": numbered(2000), "empty here": numbered(50), "new": numbered(60)}
    place.root.mkdir(exist_ok=True)
    write_store(place.path(), theirs, flush=not unflushed)
    source = write_store(tmp_path / "source", ours)
    options = {"range_bytes": "4KiB", "batch_bytes": "4KiB", "sst_file_bytes": "8KiB"}
    summary = kvbatch.migrate(source, place.endpoint(), allow_nonempty=True, **options).wait()
    assert summary.entries == 2110
    assert read_store(place.path()) == {
        "default": {**theirs["default"], **ours["default"]},
        "only theirs": theirs["only theirs"],
        "empty here": ours["empty here"],
        "new": ours["new"],
    }


def test_empty_store_and_empty_directory_are_fine_as_targets(tmp_path: Path, place: Place) -> None:
    source = _source(tmp_path)
    place.root.mkdir(exist_ok=True)
    write_store(place.path("empty-store"), {"default": {}, "old family": {}})
    place.path("empty-directory").mkdir()
    for name, expected in (
        ("empty-store", {"default": numbered(20), "old family": {}}),
        ("empty-directory", {"default": numbered(20)}),
    ):
        kvbatch.migrate(source, place.endpoint(name)).wait()
        assert read_store(place.path(name)) == expected


def test_target_of_another_unfinished_job_is_refused(tmp_path: Path, place: Place) -> None:
    first = write_store(tmp_path / "first", {"default": {b"large": bytes(20 << 20)}})
    with pytest.raises(kvbatch.SourceError):
        kvbatch.migrate(first, place.endpoint(), max_memory="16MiB").wait()
    settle()
    with pytest.raises(kvbatch.RefusedError, match=r"unfinished job.*theirs.*ours.*another target"):
        kvbatch.migrate(_source(tmp_path), place.endpoint()).wait()
    kvbatch.migrate(first, place.endpoint()).wait()
    assert read_store(place.path()) == {"default": {b"large": bytes(20 << 20)}}


def test_unfinished_target_as_source_is_refused(tmp_path: Path) -> None:
    first = write_store(tmp_path / "first", {"default": {b"large": bytes(20 << 20)}})
    with pytest.raises(kvbatch.SourceError):
        kvbatch.migrate(first, tmp_path / "half", max_memory="16MiB").wait()
    for command in (kvbatch.migrate, kvbatch.verify):
        with pytest.raises(kvbatch.RefusedError, match="unfinished target"):
            command(tmp_path / "half", first if command is kvbatch.verify else tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_target_of_another_order_is_refused(tmp_path: Path) -> None:
    run_store_script(tmp_path / "target", [("put", b"k", b"v"), ("delete", b"k", b"")], comparator=REVERSE_BYTEWISE)
    with pytest.raises(kvbatch.RefusedError, match=r'"default".*comparator'):
        kvbatch.migrate(_source(tmp_path), tmp_path / "target").wait()
    assert run_store_script(tmp_path / "target", comparator=REVERSE_BYTEWISE) == []


@pytest.mark.parametrize(
    ("read_only", "said"), [(read_only_disk, "Read-only file system"), (read_only_tree, "Permission denied")]
)
def test_target_parent_that_cannot_be_written_is_named(
    tmp_path: Path, read_only: Callable[[Path], AbstractContextManager[Capabilities]], said: str
) -> None:
    source = _source(tmp_path)
    (tmp_path / "parent").mkdir()
    with read_only(tmp_path / "parent") as capabilities:
        for target in (tmp_path / "parent" / "target", tmp_path / "parent" / "deep" / "target"):
            for command in (["migrate"], ["migrate", "--lane", "batch"], ["plan"]):
                done = run_kvbatch(*command, source, target, without=capabilities)
                assert done.returncode == 4, done.stderr
                assert str(target.parent) in done.stderr
                assert said in done.stderr
                assert "Nothing was written" in done.stderr
                assert "Traceback" not in done.stderr
    assert not list((tmp_path / "parent").iterdir())


def test_parent_of_the_target_that_is_a_file_is_named(tmp_path: Path) -> None:
    source = _source(tmp_path)
    (tmp_path / "parent").write_text("precious")
    for target in (tmp_path / "parent" / "target", tmp_path / "parent" / "deep" / "target"):
        done = run_kvbatch("migrate", source, target)
        assert done.returncode == 4, done.stderr
        assert f"{tmp_path / 'parent'} is a file; choose another path" in done.stderr
    assert (tmp_path / "parent").read_text() == "precious"


def test_a_directory_that_may_not_be_looked_into_is_named(tmp_path: Path) -> None:
    source, closed = _source(tmp_path), write_store(tmp_path / "closed", {"default": numbered(3)})
    commands: list[list[object]] = [
        ["migrate", closed, tmp_path / "target"],
        ["migrate", source, closed],
        ["plan", closed, tmp_path / "target"],
        ["verify", source, closed],
        ["verify", closed, source],
        ["serve", "--root", closed / "root"],
    ]
    with unreadable_tree(closed) as capabilities:
        for command in commands:
            done = run_kvbatch(*command, without=capabilities)
            assert done.returncode in (1, 2), done.stderr
            assert str(closed) in done.stderr
            assert "Permission denied" in done.stderr
            assert "bug" not in done.stderr
    assert read_store(closed) == {"default": numbered(3)}


def test_what_is_set_once_a_job_has_ended_is_refused(tmp_path: Path) -> None:
    job = kvbatch.migrate(_source(tmp_path), tmp_path / "target")
    job.wait()
    with pytest.raises(kvbatch.RefusedError, match=f"job {job.job} has ended"):
        job.set(streams=2)
    assert job.changed_options == {}


def test_wrong_types_are_wrong_usage_before_anything_is_done(tmp_path: Path) -> None:
    source = _source(tmp_path)
    with pytest.raises(kvbatch.UsageError, match="on_progress 5: give a function"):
        kvbatch.verify(source, source.parent / "none", on_progress=5)  # type: ignore[arg-type]
    with pytest.raises(kvbatch.UsageError, match="5 is no path"):
        kvbatch.report("nightly", 5)  # type: ignore[arg-type]


def test_receiver_cannot_be_a_source(tmp_path: Path, receiver: kvbatch.Receiver) -> None:
    with pytest.raises(kvbatch.UsageError, match="source is a RocksDB directory"):
        kvbatch.migrate(f"kvbatch://127.0.0.1:{receiver.port}/x", tmp_path / "target")


def test_a_finished_target_of_a_lost_state_directory_is_refused_not_overwritten(tmp_path: Path, place: Place) -> None:
    source = _source(tmp_path)
    kvbatch.migrate(source, place.endpoint(), state_dir=tmp_path / "one").wait()
    again = kvbatch.migrate(source, place.endpoint(), state_dir=tmp_path / "one").wait()
    assert again.entries == 20, "the same command again is done already"
    before = tree(place.path())
    with pytest.raises(kvbatch.RefusedError, match=r"already holds data.*kvbatch verify"):
        kvbatch.migrate(source, place.endpoint(), state_dir=tmp_path / "two").wait()
    assert tree(place.path()) == before


def test_owner_opens_a_finished_target_for_writing_without_special_options(tmp_path: Path) -> None:
    kvbatch.migrate(_source(tmp_path), tmp_path / "target").wait()
    store = rocksdict.Rdict(str(tmp_path / "target"), raw_options())
    store[b"new"] = b"1"
    store.close()
    assert read_store(tmp_path / "target") == {"default": {**numbered(20), b"new": b"1"}}


def test_what_a_receiver_refuses_is_said_to_stand_there(tmp_path: Path, receiver: kvbatch.Receiver) -> None:
    """Its paths look like those of this machine."""
    source = _source(tmp_path)
    there = f"at the receiver 127.0.0.1:{receiver.port}: "
    with pytest.raises(kvbatch.UsageError) as missing:
        kvbatch.verify(source, f"kvbatch://127.0.0.1:{receiver.port}/nope")
    assert str(missing.value).startswith(f"{there}{receiver.root / 'nope'} does not exist")
    write_store(receiver.root / "copy", {"default": {b"theirs": b"1"}})
    with pytest.raises(kvbatch.RefusedError) as taken:
        kvbatch.plan(source, f"kvbatch://127.0.0.1:{receiver.port}/copy")
    assert str(taken.value).startswith(f"{there}the target {receiver.root / 'copy'} already holds data")
