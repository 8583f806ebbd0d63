"""--slots and --namespace move what belongs to them, by an entry-by-entry filter, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import rocksdict
from hypothesis import given
from hypothesis import strategies as st

import kvbatch
from kvbatch._core.store import SourceStore, TargetStore
from kvbatch.kvrocks.keys import (
    DEFAULT_NAMESPACE,
    FAMILIES,
    KEYED_FAMILIES,
    METADATA,
    metadata_key,
    namespace_prefix,
    subkey_prefix,
)
from kvbatch.kvrocks.selection import find_namespaces, find_selection
from kvbatch.kvrocks.slots import SLOTS, Slots, parse_slots, slot_of
from kvbatch.options import MigrationOptions
from kvbatch.ranges import Selection
from support.kvrocks_store import ALL_SLOTS, bytes_read_of, filtered, write_kvrocks_store
from support.places import Place
from support.processes import Child, interrupt
from support.stores import numbered, raw_options, read_store, tree, write_store


@pytest.fixture(params=["directory", "receiver"])
def place(request: pytest.FixtureRequest, tmp_path: Path, receiver: kvbatch.Receiver) -> Place:
    return Place(receiver.root, receiver if request.param == "receiver" else None)


def check_starts(target: Path) -> None:
    """Column families with the ids that a Kvrocks server takes for granted, and nothing that is not its own."""
    store = TargetStore(str(target), create=False)
    assert {family.name: store.family_id(family.name) for family in store.column_families} == FAMILIES
    store.close()
    assert not [entry.name for entry in target.iterdir() if "kvbatch" in entry.name]


def change(path: Path, family: str, *, put: Iterable[bytes] = (), delete: Iterable[bytes] = ()) -> None:
    names = rocksdict.Rdict.list_cf(str(path), raw_options())
    store = rocksdict.Rdict(str(path), raw_options(), column_families={name: raw_options() for name in names})
    opened = store.get_column_family(family)
    for key in put:
        opened[key] = b"value"
    for key in delete:
        del opened[key]
    opened.flush()
    del opened
    store.close()
    (path / "rocksdict-config.json").unlink()  # which RocksDB knows nothing of


SELECTIONS = {
    "standalone": [{"namespace": "__namespace"}, {"namespace": "tenant_a"}],
    "cluster": [
        {"slots": ALL_SLOTS},
        {"slots": "0-8191"},
        {"slots": "12000,500-700,16383,0,600-900"},
        {"slots": "0-99", "namespace": "__namespace"},
    ],
}


@pytest.mark.parametrize(
    ("fixture", "selected"),
    [(fixture, selected) for fixture, each in SELECTIONS.items() for selected in each],
    ids=lambda value: value if isinstance(value, str) else "-".join(value.values()),
)
@pytest.mark.parametrize("lane", ["batch", "sst"])
def test_a_part_of_a_real_directory_is_what_a_filter_leaves(
    source: Path, fixture: str, place: Place, selected: dict[str, str], lane: str
) -> None:
    before = tree(source)
    summary = kvbatch.migrate(source, place.endpoint(), lane=lane, **selected).wait()
    assert tree(source) == before
    expected = filtered(read_store(source), fixture == "cluster", **selected)
    assert read_store(place.path()) == expected
    assert summary.entries == sum(map(len, expected.values())) > 0
    check_starts(place.path())
    report = kvbatch.verify(source, place.endpoint(), **selected)
    assert report.equal
    assert report.entries_source == report.entries_target == summary.entries


@pytest.mark.parametrize("fixture", ["cluster"])
def test_parts_of_a_directory_make_up_the_whole(source: Path, fixture: str, tmp_path: Path) -> None:
    for slots in ("0-5000", "5001", "5002-16383"):
        kvbatch.migrate(source, tmp_path / "target", slots=slots, allow_nonempty=True).wait()
    kept = (*KEYED_FAMILIES, "search")
    assert read_store(tmp_path / "target") == {
        name: entries if name in kept else {} for name, entries in read_store(source).items()
    }


@pytest.fixture(scope="module")
def slotted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compacted, in many files. In cluster mode Kvrocks has one namespace only, but nothing in its keys says so."""
    return write_kvrocks_store(
        tmp_path_factory.mktemp("slotted") / "source",
        20_000,
        namespaces=(DEFAULT_NAMESPACE, b"b", b"\xff\xff"),
        file_bytes=128 << 10,
    )


@pytest.mark.parametrize("slots", ["4000-12000", "7,9,100-3000,16000-16383"])
def test_files_that_lie_within_a_part_are_grafted(slotted: Path, tmp_path: Path, slots: str) -> None:
    options: dict[str, Any] = {"slots": slots, "lane": "sst", "graft_bytes": 1}
    migration = kvbatch.migrate(slotted, tmp_path / "target", **options)
    migration.wait()
    assert 0 < migration.plan.files_grafted < len(migration.plan.ranges)
    assert read_store(tmp_path / "target") == filtered(read_store(slotted), True, slots)
    assert kvbatch.verify(slotted, tmp_path / "target", slots=slots).equal
    check_starts(tmp_path / "target")


@given(
    ranges=st.lists(st.tuples(st.integers(0, SLOTS - 1), st.integers(0, 300)), min_size=1, max_size=6),
    user_keys=st.lists(st.binary(max_size=12), min_size=1, max_size=20),
    namespace=st.sampled_from([None, b"b", DEFAULT_NAMESPACE]),
)
def test_ranges_hold_the_keys_of_their_slots_and_no_others(
    slotted: Path, ranges: list[tuple[int, int]], user_keys: list[bytes], namespace: bytes | None
) -> None:
    text = ",".join(f"{first}-{min(SLOTS - 1, first + more)}" for first, more in ranges)
    options = MigrationOptions.checked(slots=text, namespace=namespace and namespace.decode())
    selection = find_selection(SourceStore(str(slotted)), options)
    assert Selection.from_json(json.loads(json.dumps(selection.to_json()))) == selection

    def selects(family: str, key: bytes) -> bool:
        inside = [each.start <= key < each.end for each in selection.of(family) if each.start and each.end]
        outside = [gap for gap in selection.outside(family) if (gap.start or b"") <= key < (gap.end or b"\xff" * 99)]
        assert len(outside) == (not any(inside))
        return any(inside)

    for user_key in user_keys:
        for of in (DEFAULT_NAMESPACE, b"b", b"\xff\xff"):
            wanted = slot_of(user_key) in parse_slots(text) and namespace in (None, of)
            assert selects(METADATA, metadata_key(of, user_key, slot_encoded=True)) == wanted
            for version in (0, (1 << 64) - 1):
                key = subkey_prefix(of, user_key, version, slot_encoded=True) + b"\xff"
                assert selects("stream", key) == wanted


def test_slots_are_those_of_every_namespace(slotted: Path) -> None:
    store = SourceStore(str(slotted))
    assert find_namespaces(store) == [b"b", b"\xff\xff", DEFAULT_NAMESPACE]
    selection = find_selection(store, MigrationOptions.checked(slots=Slots(((5, 6), (9, 9)))))
    assert [each.start for each in selection.of("default")] == [
        namespace_prefix(namespace) + slot for namespace in find_namespaces(store) for slot in (b"\0\5", b"\0\11")
    ]


def test_a_small_part_is_found_by_reading_little(tmp_path: Path) -> None:
    """Besides the part itself some MB, however large the store is."""
    source = write_kvrocks_store(tmp_path / "source", 300_000)
    file_bytes = sum(file.stat().st_size for file in source.glob("*.sst"))
    slots = "5000-6637"  # a tenth
    read = bytes_read_of(source, tmp_path / "target", slots=slots)
    assert file_bytes / 10 < read < file_bytes / 10 + (3 << 20)


# -- what is selected besides ------------------------------------------------------------------------------------------


def with_others(path: Path) -> Path:
    """With entries in the families whose keys have no user key."""
    write_kvrocks_store(path, 100, slot_encoded=False, namespaces=(b"a", b"b"))
    change(path, "pubsub", put=[b"channel"])
    change(path, "propagate", put=[b"__namespace_keys__", b"lua_f_1", b"replication_id_", b"script"])
    change(path, "search", put=[b"\1a\0index", b"\1b\0index"])
    return path


@pytest.mark.parametrize(
    ("families", "pubsub", "propagate", "search"),
    [
        ((), [], [], [b"\1a\0index"]),
        # Never what makes a server the one that it is.
        (("metadata", "propagate"), [], [b"lua_f_1", b"script"], []),
        (("pubsub", "search"), [b"channel"], [], [b"\1a\0index"]),
    ],
    ids=str,
)
def test_what_is_of_no_key_comes_along_where_it_is_asked_for(
    tmp_path: Path, families: tuple[str, ...], pubsub: list[bytes], propagate: list[bytes], search: list[bytes]
) -> None:
    source = with_others(tmp_path / "source")
    options: dict[str, Any] = {"namespace": "a", "column_families": families}
    kvbatch.migrate(source, tmp_path / "target", **options).wait()
    found = read_store(tmp_path / "target")
    assert [list(found[name]) for name in ("pubsub", "propagate", "search")] == [pubsub, propagate, search]
    expected = filtered(read_store(source), False, namespace="a")
    for name in KEYED_FAMILIES:
        assert found[name] == (expected[name] if not families or name in families else {})
    check_starts(tmp_path / "target")
    assert kvbatch.verify(source, tmp_path / "target", **options).equal


def test_families_of_later_releases_get_their_ids(tmp_path: Path) -> None:
    """The server that starts on it makes what is missing, and RocksDB gives no id twice, not even that of a family of
    ours that is gone."""
    source = write_kvrocks_store(tmp_path / "source", 100, families=list(FAMILIES)[:5])
    kvbatch.migrate(source, tmp_path / "target", slots=ALL_SLOTS).wait()
    check_starts(tmp_path / "target")
    assert kvbatch.verify(source, tmp_path / "target", slots=ALL_SLOTS).equal


def test_a_directory_without_keys_gives_one_without_keys(tmp_path: Path) -> None:
    source = write_kvrocks_store(tmp_path / "source", 0)
    assert kvbatch.migrate(source, tmp_path / "target", slots="1-2").wait().entries == 0
    check_starts(tmp_path / "target")


def test_a_namespace_may_be_any_bytes(slotted: Path, tmp_path: Path) -> None:
    kvbatch.migrate(slotted, tmp_path / "target", namespace=os.fsdecode(b"\xff\xff")).wait()
    found = read_store(tmp_path / "target")
    assert {key[:3] for family in (METADATA, "default") for key in found[family]} == {b"\2\xff\xff"}
    assert len(found[METADATA]) == 20_000


# -- verify, resume, discard -------------------------------------------------------------------------------------------


def test_verify_compares_what_is_selected_and_all_of_it(slotted: Path, place: Place) -> None:
    slots = "100-200,300"
    kvbatch.migrate(slotted, place.endpoint(), slots=slots).wait()
    inside, outside = (namespace_prefix(b"b") + slot.to_bytes(2, "big") + b"extra" for slot in (300, 299))
    change(place.path(), "stream", put=[outside])
    change(place.path(), "pubsub", put=[b"channel"])
    assert kvbatch.verify(slotted, place.endpoint(), slots=slots).equal
    change(place.path(), "stream", put=[inside])
    report = kvbatch.verify(slotted, place.endpoint(), slots=slots, repair=True)
    assert [(found.column_family, found.key, found.kind) for found in report.samples] == [("stream", inside, "extra")]
    assert report.equal
    assert list(read_store(place.path())["stream"]) == [outside]


@pytest.mark.parametrize("lane", ["batch", "sst"])
def test_a_killed_job_is_carried_on(slotted: Path, place: Place, lane: str) -> None:
    slots = "200-600,5000-5300"
    command = interrupt(slotted, place.endpoint(), "--slots", slots, "--lane", lane)
    summary = Child("again", command, {}).result()
    assert summary["resumed"]
    assert read_store(place.path()) == filtered(read_store(slotted), True, slots)
    check_starts(place.path())


def test_a_killed_job_is_not_carried_on_with_other_slots(slotted: Path, tmp_path: Path) -> None:
    interrupt(slotted, str(tmp_path / "target"), "--slots", "200-600")
    differ = r"range: theirs '.*\.\.01620259,.*', ours '.*\.\.0162025a,.*No entry was changed"
    with pytest.raises(kvbatch.RefusedError, match=differ):
        kvbatch.migrate(slotted, tmp_path / "target", slots="200-601").wait()


def test_a_killed_job_is_discarded_unless_something_else_stands_between_its_slots(
    slotted: Path, tmp_path: Path
) -> None:
    arguments = ("--slots", "200-600,5000-5300", "--job", "part")
    interrupt(slotted, str(tmp_path / "target"), *arguments)
    between = namespace_prefix(b"b") + (601).to_bytes(2, "big") + b"theirs"
    change(tmp_path / "target", METADATA, put=[between])
    with pytest.raises(kvbatch.RefusedError, match='the column family "metadata" or entries in it'):
        kvbatch.discard("part")
    change(tmp_path / "target", METADATA, delete=[between])
    assert kvbatch.discard("part").outcome == "removed"
    assert not (tmp_path / "target").exists()


def test_another_selection_is_another_job(slotted: Path, tmp_path: Path) -> None:
    selections: list[dict[str, str]] = [{}, {"slots": "1"}, {"slots": "2"}, {"namespace": "b"}]
    selections += [{"namespace": "b", "slots": "1"}]
    assert len({kvbatch.plan(slotted, tmp_path / "target", **each).job for each in selections}) == len(selections)
    assert len({kvbatch.plan(slotted, tmp_path / "t", slots=each).job for each in ("1,2,3", "1-3", "3,1-2")}) == 1


# -- refusals ----------------------------------------------------------------------------------------------------------


def plain_store(path: Path) -> Path:
    return write_store(path, {"default": numbered(10), "users": numbered(10)})


def slot_encoded(path: Path) -> Path:
    return write_kvrocks_store(path, 10)


def standalone(path: Path) -> Path:
    return write_kvrocks_store(path, 10, slot_encoded=False, namespaces=(DEFAULT_NAMESPACE, b"tenant_a"))


@pytest.mark.parametrize(
    ("write", "options", "error", "words"),
    [
        (plain_store, {"slots": "1"}, kvbatch.RefusedError, "is no Kvrocks directory: its column families"),
        (plain_store, {"namespace": "a"}, kvbatch.RefusedError, "is no Kvrocks directory"),
        (standalone, {"slots": "1"}, kvbatch.RefusedError, "is not slot-encoded: .* 'tenant_a', '__namespace'"),
        (standalone, {"namespace": "b"}, kvbatch.UsageError, "no namespace 'b'; it has 'tenant_a', '__namespace'"),
        (standalone, {"namespace": "tenant_a", "slots": "1"}, kvbatch.RefusedError, "is not slot-encoded"),
        (standalone, {"namespace": "tenant_a", "column_families": ("x",)}, kvbatch.UsageError, 'no column family "x"'),
        (
            slot_encoded,
            {"slots": ",".join(map(str, range(0, SLOTS, 10)))},
            kvbatch.UsageError,
            "1639 separate ranges of slots, .* 6556 ranges of keys; a job moves 4096 at most",
        ),
        (
            standalone,
            {"namespace": "tenant_a", "lane": "files"},
            kvbatch.RefusedError,
            "--namespace was given: .*--lane sst or --lane batch",
        ),
    ],
)
def test_what_the_directory_has_not_is_refused_by_what_it_has(
    tmp_path: Path, write: Callable[[Path], Path], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    source = write(tmp_path / "source")
    write_store(tmp_path / "other", {"default": {}})
    before = tree(tmp_path)
    actions: list[Callable[..., object]] = [kvbatch.plan, kvbatch.migrate]
    for action in actions if "lane" in options else [*actions, kvbatch.verify]:
        with pytest.raises(error, match=words):
            action(source, tmp_path / ("other" if action is kvbatch.verify else "target"), **options)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("option", [{"slots": "1"}, {"namespace": "a"}], ids=str)
def test_a_range_excludes_slots_and_namespaces(tmp_path: Path, option: dict[str, str]) -> None:
    for action in (kvbatch.plan, kvbatch.verify):
        with pytest.raises(kvbatch.UsageError, match=r"--range and --\w+ exclude each other"):
            action(tmp_path / "source", tmp_path / "target", key_range="61..", **option)
