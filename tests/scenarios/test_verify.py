"""verify finds exactly what differs, and --repair mends exactly that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import kvbatch
from support.capi_store import REVERSE_BYTEWISE, run_store_script
from support.places import Place
from support.stores import Families, numbered, read_store, tree, write_store
from support.stores import kvbatch as run_kvbatch

# More than one run of the drill-down, in more than one family.
BASE = {"default": numbered(9000), "other ключ": numbered(300), "empty": {}}


def _with(family: str, change: Callable[[dict[bytes, bytes]], None], base: Families = BASE) -> Families:
    copied = {name: dict(entries) for name, entries in base.items()}
    change(copied[family])
    return copied


def _key(number: int) -> bytes:
    return f"key-{number:08}".encode()


def _remove(*numbers: int) -> Callable[[dict[bytes, bytes]], None]:
    def change(entries: dict[bytes, bytes]) -> None:
        for number in numbers:
            del entries[_key(number)]

    return change


def _overwrite(*numbers: int) -> Callable[[dict[bytes, bytes]], None]:
    return lambda entries: entries.update({_key(number): b"else" for number in numbers})


def _add(*keys: bytes) -> Callable[[dict[bytes, bytes]], None]:
    return lambda entries: entries.update(dict.fromkeys(keys, b"extra"))


Counts = tuple[int, int, int]

# The target, then missing, extra and different keys.
DIFFERENCES: dict[str, tuple[Families, Counts]] = {
    "first key missing": (_with("default", _remove(0)), (1, 0, 0)),
    "last key missing": (_with("default", _remove(8999)), (1, 0, 0)),
    "keys missing here and there": (_with("default", _remove(1, 4095, 4096, 4097, 8191, 8192)), (6, 0, 0)),
    "a long stretch missing": (_with("default", _remove(*range(3000, 8000))), (5000, 0, 0)),
    "everything missing": ({**BASE, "default": {}}, (9000, 0, 0)),
    "extra key before the first": (_with("default", _add(b"", b"a")), (0, 2, 0)),
    "extra key behind the last": (_with("default", _add(b"\xff\xff", b"z")), (0, 2, 0)),
    "extra keys just behind others": (_with("default", _add(_key(4095) + b"\0", _key(17) + b"\0\0")), (0, 2, 0)),
    "value different": (_with("default", _overwrite(5000)), (0, 0, 1)),
    "value empty": (_with("default", lambda entries: entries.update({_key(5): b""})), (0, 0, 1)),
    "in another family": (_with("other ключ", _overwrite(5)), (0, 0, 1)),
    "in an empty family": (_with("empty", _add(b"x", b"")), (0, 2, 0)),
    "values of two keys swapped": (
        _with("default", lambda entries: entries.update({_key(1): b"value-2", _key(2): b"value-1"})),
        (0, 0, 2),
    ),
    "all kinds at once": (
        _with("default", _add(b"new"), _with("default", _remove(7, 8), _with("default", _overwrite(10, 20, 30)))),
        (2, 1, 3),
    ),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("verify") / "source", BASE)


@pytest.mark.parametrize("name", DIFFERENCES)
def test_difference_is_counted_named_and_repaired(source: Path, place: Place, name: str) -> None:
    families, (missing, extra, different) = DIFFERENCES[name]
    place.root.mkdir(exist_ok=True)
    target = write_store(place.path(), families)
    before = tree(target)
    report = kvbatch.verify(str(source), place.endpoint())
    assert not report.equal
    assert (report.keys_missing, report.keys_extra, report.keys_different) == (missing, extra, different)
    assert report.entries_source == sum(len(entries) for entries in BASE.values())
    assert report.entries_target == sum(len(entries) for entries in families.values())
    assert report.keys_repaired == 0
    truth = {
        (family, key, "missing" if key not in theirs else "extra" if key not in ours else "different")
        for family, theirs in families.items()
        for ours in [BASE[family]]
        for key in ours.keys() | theirs.keys()
        if ours.get(key) != theirs.get(key)
    }
    samples = {(found.column_family, found.key, found.kind) for found in report.samples}
    assert samples <= truth
    assert len(samples) == min(20, len(truth))
    assert tree(target) == before, "comparing changes nothing"

    repaired = kvbatch.verify(str(source), place.endpoint(), repair=True)
    assert repaired.equal
    assert repaired.keys_repaired == len(truth)
    assert read_store(target) == BASE


def test_equal_stores_of_different_making_are_equal(source: Path, place: Place) -> None:
    place.root.mkdir(exist_ok=True)
    write_store(place.path(), dict(reversed(BASE.items())), flush=False)
    report = kvbatch.verify(str(source), place.endpoint())
    assert report.equal
    assert (report.ranges_differing, report.samples) == (0, [])
    assert report.digests.keys() == BASE.keys()
    again = kvbatch.verify(str(place.path()), str(source))
    assert again.digests == report.digests


def test_progress_ends_with_everything_compared(source: Path, place: Place) -> None:
    place.root.mkdir(exist_ok=True)
    write_store(place.path(), _with("default", _remove(7)))
    seen: list[kvbatch.Progress] = []
    kvbatch.verify(source, place.endpoint(), on_progress=seen.append)
    last = seen[-1]
    # The range that differs is gone through twice.
    assert (last.ranges_complete, last.ranges) == (len(BASE) + 1, len(BASE) + 1)
    assert last.entries >= sum(len(entries) for entries in BASE.values())
    assert last.estimated_entries >= last.entries
    assert last.entries_per_second > 0


def test_family_missing_in_the_target(source: Path, place: Place) -> None:
    place.root.mkdir(exist_ok=True)
    write_store(place.path(), {"default": BASE["default"]})
    report = kvbatch.verify(str(source), place.endpoint())
    assert not report.equal, "an empty family that is missing counts as well"
    assert (report.keys_missing, report.keys_extra) == (300, 0)
    assert report.families_missing == ["other ключ", "empty"]
    before = tree(place.path())
    with pytest.raises(kvbatch.RefusedError, match=r"lacks whole column families.*--cf 'other ключ' --cf empty"):
        kvbatch.verify(str(source), place.endpoint(), repair=True)
    with pytest.raises(kvbatch.RefusedError, match=r"--cf empty --range 61\.\. --allow-nonempty"):
        kvbatch.verify(str(source), place.endpoint(), repair=True, key_range="61..")
    assert tree(place.path()) == before
    # The way out that it names.
    kvbatch.migrate(source, place.endpoint(), column_families=("other ключ", "empty"), allow_nonempty=True).wait()
    assert kvbatch.verify(str(source), place.endpoint()).equal
    assert read_store(place.path()) == BASE


@pytest.mark.parametrize("theirs", [{b"x": b"1", b"y": b"2"}, {}], ids=["with keys", "empty"])
def test_family_that_only_the_target_has(source: Path, place: Place, theirs: dict[bytes, bytes]) -> None:
    place.root.mkdir(exist_ok=True)
    write_store(place.path(), {**BASE, "theirs": theirs})
    report = kvbatch.verify(str(source), place.endpoint())
    assert not report.equal
    assert report.families_extra == ["theirs"]
    assert (report.keys_missing, report.keys_extra, report.keys_different) == (0, len(theirs), 0)
    with pytest.raises(kvbatch.RefusedError, match="theirs"):
        kvbatch.verify(str(source), place.endpoint(), repair=True)
    assert read_store(place.path())["theirs"] == theirs


@pytest.mark.parametrize("count", [50, 9000])
def test_target_of_another_order_is_not_equal(tmp_path: Path, place: Place, count: int) -> None:
    """The same entries in another order are another store to whoever opens it."""
    source = write_store(tmp_path / "source", {"default": numbered(count)})
    place.root.mkdir(exist_ok=True)
    run_store_script(
        place.path(),
        [("put", key, value) for key, value in numbered(count).items()],
        comparator=REVERSE_BYTEWISE,
    )
    with pytest.raises(kvbatch.RefusedError, match=r"leveldb\.BytewiseComparator.*rocksdb\.ReverseBytewiseComparator"):
        kvbatch.verify(str(source), place.endpoint())


def test_reversed_stores_are_compared_and_repaired(tmp_path: Path, place: Place) -> None:
    entries = numbered(9000)
    changed = {**entries, _key(4500): b"else", b"new": b"1", b"": b"2"}
    del changed[_key(1)], changed[_key(8000)]
    place.root.mkdir(exist_ok=True)
    for path, content in ((tmp_path / "source", entries), (place.path(), changed)):
        run_store_script(path, [("put", key, value) for key, value in content.items()], comparator=REVERSE_BYTEWISE)
    report = kvbatch.verify(str(tmp_path / "source"), place.endpoint())
    assert (report.keys_missing, report.keys_extra, report.keys_different) == (2, 2, 1)
    assert kvbatch.verify(str(tmp_path / "source"), place.endpoint(), repair=True).equal
    assert run_store_script(place.path(), comparator=REVERSE_BYTEWISE) == sorted(entries.items(), reverse=True)


@pytest.mark.parametrize(
    ("key_range", "equal"),
    [
        (f"{_key(0).hex()}..{_key(100).hex()}", True),
        (f"{_key(100).hex()}..{_key(101).hex()}", False),
        (f"..{_key(100).hex()}", True),
        (f"{_key(101).hex()}..", True),
        (f"{_key(101).hex()}..{_key(6000).hex()}", True),
        ("..", False),
    ],
)
def test_only_the_range_asked_for_is_compared(source: Path, place: Place, key_range: str, equal: bool) -> None:
    place.root.mkdir(exist_ok=True)
    write_store(place.path(), _with("default", _overwrite(100)))
    report = kvbatch.verify(str(source), place.endpoint(), key_range=key_range)
    assert report.equal == equal
    assert report.keys_different == (not equal)


def test_repair_stays_inside_the_range_asked_for(source: Path, place: Place) -> None:
    place.root.mkdir(exist_ok=True)
    write_store(place.path(), _with("default", _overwrite(100, 200, 300)))
    report = kvbatch.verify(
        str(source), place.endpoint(), key_range=f"{_key(150).hex()}..{_key(250).hex()}", repair=True
    )
    assert report.equal
    assert report.keys_repaired == 1
    assert read_store(place.path()) == _with("default", _overwrite(100, 300))


def test_only_the_families_asked_for_are_compared(source: Path, place: Place) -> None:
    place.root.mkdir(exist_ok=True)
    write_store(place.path(), {"default": {b"mine": b"1"}, "other ключ": BASE["other ключ"]})
    report = kvbatch.verify(str(source), place.endpoint(), column_families=("other ключ",))
    assert report.equal
    assert list(report.digests) == ["other ключ"]


def test_a_family_name_that_is_no_sequence_of_names_is_wrong_usage(source: Path, place: Place) -> None:
    """Its letters would be taken for names."""
    with pytest.raises(kvbatch.UsageError, match=r"\('default',\)"):
        kvbatch.verify(source, place.endpoint(), column_families="default")


@pytest.mark.parametrize("size", [65536, 2 << 20, 6 << 20], ids=["64 KiB", "2 MiB", "6 MiB"])
def test_differences_between_long_keys(tmp_path: Path, place: Place, size: int) -> None:
    """A page of keys that a receiver answers holds fewer bytes than some keys have."""
    entries = {bytes([letter]) * size: b"1" for letter in b"abcdef"}
    source = write_store(tmp_path / "source", {"default": entries})
    place.root.mkdir(exist_ok=True)
    write_store(place.path(), {"default": {**entries, b"c" * size: b"2"}})
    report = kvbatch.verify(str(source), place.endpoint())
    assert (report.keys_missing, report.keys_extra, report.keys_different) == (0, 0, 1)


def test_unfinished_target_is_said_and_not_repaired(tmp_path: Path) -> None:
    source = write_store(tmp_path / "source", {"default": {b"a": b"1", b"large": bytes(20 << 20)}})
    with pytest.raises(kvbatch.SourceError):
        kvbatch.migrate(source, tmp_path / "target", max_memory="16MiB").wait()
    done = run_kvbatch("verify", source, tmp_path / "target", "--json")
    assert done.returncode == 3
    assert "unfinished" in done.stderr
    report = json.loads(done.stdout)
    assert (report["equal"], report["unfinished"]) == (False, True)
    done = run_kvbatch("verify", source, tmp_path / "target", "--json", "--progress", "json")
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()][-1] == "done", "nothing but events"
    done = run_kvbatch("verify", source, tmp_path / "target", "--repair")
    assert done.returncode == 4
    assert "kvbatch migrate" in done.stderr
    kvbatch.migrate(source, tmp_path / "target").wait()
    done = run_kvbatch("verify", source, tmp_path / "target", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["equal"], report["unfinished"]) == (0, True, False)


def test_command_exits_with_3_then_repairs_then_0(tmp_path: Path, source: Path, receiver: kvbatch.Receiver) -> None:
    write_store(receiver.root / "target", _with("default", _remove(5)))
    target = f"kvbatch://127.0.0.1:{receiver.port}/target"
    for arguments, code, words in (
        ([], 3, ["NO", "missing", _key(5).hex()]),
        (["--repair"], 0, ["keys repaired", "1"]),
        ([], 0, ["yes"]),
    ):
        done = run_kvbatch("verify", source, target, *arguments)
        assert done.returncode == code, done.stderr
        for word in words:
            assert word in done.stdout


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_target_that_is_no_store_is_wrong_usage(source: Path, place: Place, name: str) -> None:
    place.path("empty").mkdir(parents=True)
    with pytest.raises(kvbatch.UsageError, match=name):
        kvbatch.verify(str(source), place.endpoint(name))
