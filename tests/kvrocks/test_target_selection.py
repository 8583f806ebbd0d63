"""--slots and --namespace into a running server: exactly what they select arrives, is refused and is overwritten."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kvbatch
from kvbatch._core.batch import RecordKind, encode_batch
from kvbatch._core.store import SourceStore
from kvbatch.errors import RefusedError, UsageError
from kvbatch.kvrocks.keys import (
    DEFAULT_NAMESPACE,
    FAMILIES,
    KEYED_FAMILIES,
    METADATA,
    metadata_key,
    namespace_prefix,
    parse_subkey,
)
from kvbatch.kvrocks.slots import SLOTS, Slots, parse_slots, slot_of
from kvbatch.kvrocks.source import read_source
from kvbatch.options import MigrationOptions
from support.kvrocks_standin import SMALL, StandIn, check_copied
from support.kvrocks_store import ALL_SLOTS, filtered, write_kvrocks_store
from support.processes import Child, interrupt
from support.stores import kvbatch as run
from support.stores import read_store

Start = Callable[..., StandIn]

NOBODY = "kvrocks://127.0.0.1:1"
HEAD = namespace_prefix(DEFAULT_NAMESPACE)
STRING = b"\x81" + bytes(8) + b"theirs"


def put(server: StandIn, *entries: tuple[str, bytes, bytes]) -> None:
    batch = encode_batch([(RecordKind.PUT, FAMILIES[family], key, value) for family, key, value in entries])
    assert server.ask("APPLYBATCH", batch) == b":%d\r\n" % len(batch)


def string(key: bytes) -> tuple[str, bytes, bytes]:
    return METADATA, metadata_key(DEFAULT_NAMESPACE, key, slot_encoded=True), STRING


def string_in(slot: int) -> tuple[str, bytes, bytes]:
    """A string whose key has that slot."""
    return string(next(key for key in map(b"key-%d".__mod__, itertools.count()) if slot_of(key) == slot))


# -- what arrives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fixture", "selected"),
    [
        ("cluster", {"slots": "12000,500-700,16383,0,600-900"}),
        ("cluster", {"slots": "0-9000", "namespace": "__namespace"}),
        ("standalone", {"namespace": "tenant_a"}),
    ],
    ids=str,
)
def test_a_part_is_what_a_filter_leaves(source: Path, server: StandIn, fixture: str, selected: dict[str, str]) -> None:
    migration = kvbatch.migrate(source, server.endpoint, **SMALL, **selected)
    summary = migration.wait()
    expected = filtered(read_store(source), fixture == "cluster", **selected)
    assert summary.entries == sum(len(expected[name]) for name in KEYED_FAMILIES) > 0
    order = [part.column_family for part in migration.plan.ranges]
    assert order == sorted(order, key=KEYED_FAMILIES.index)
    check_copied(source, server, selected=expected)
    # As with a backup of the server's.
    assert kvbatch.verify(source, server.directory, column_families=KEYED_FAMILIES, **selected).equal


@pytest.mark.parametrize(
    ("fixture", "option", "parts"),
    [
        ("cluster", "slots", ["0-5000", "5001", "5002-16383"]),
        ("standalone", "namespace", ["__namespace", "tenant_a"]),
    ],
)
def test_parts_make_up_the_whole(source: Path, server: StandIn, option: str, parts: list[str]) -> None:
    """What the server holds of other parts is no reason to refuse."""
    for part in parts:
        kvbatch.migrate(source, server.endpoint, **{option: part}).wait()
    check_copied(source, server)


@pytest.mark.parametrize("fixture", ["cluster"])
def test_a_killed_job_is_carried_on(source: Path, server: StandIn) -> None:
    slots = "0-1000,9000-10000"
    command = interrupt(source, server.endpoint, "--slots", slots)
    found = kvbatch.plan(source, server.endpoint, slots=slots).target_state
    assert found is not None
    assert found.kind == "resumable"
    assert 0 < found.ranges_complete < found.ranges
    assert Child("again", command, {}).result()["resumed"]
    check_copied(source, server, selected=filtered(read_store(source), True, slots))


# -- plan -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fixture", ["cluster"])
def test_plan_tells_what_is_selected(source: Path, server: StandIn) -> None:
    put(server, string_in(9))
    command = ("plan", source, server.endpoint, "--slots", "10,7-9", "--overwrite")
    done = run(*command, "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    bounds = [(HEAD + slot.to_bytes(2, "big")).hex() for slot in (7, 11)]
    assert [(part["column_family"], [part["start"], part["end"]]) for part in plan["ranges"]] == [
        (name, bounds) for name in KEYED_FAMILIES
    ]
    assert plan["target_state"]["kind"] == "overwritten"
    where = "slots 7-10 of namespace '__namespace'"
    assert plan["target_state"]["message"] == f"what it holds in {where} is deleted first (--overwrite)"
    assert re.search(f"\nselected +{where}\n", run(*command).stdout)


def test_a_source_is_told_by_what_it_has(tmp_path: Path) -> None:
    path = write_kvrocks_store(tmp_path / "source", 8, namespaces=(b"a", b"b"))
    store = SourceStore(str(path))

    def told(**options: str) -> str:
        return str(read_source(store, MigrationOptions.checked(**options)))

    assert told() == "namespaces 'a', 'b'"
    assert told(slots="1,2") == "slots 1-2 of namespaces 'a', 'b'"
    assert told(namespace="b") == "namespace 'b'"


@pytest.mark.parametrize(
    ("fixture", "options", "error", "said"),
    [
        ("standalone", {"slots": "1"}, RefusedError, "is not slot-encoded"),
        ("standalone", {"namespace": "b"}, UsageError, "has no namespace 'b'"),
        ("cluster", {"slots": "1", "column_families": ("metadata",)}, UsageError, "choose with --slots or --namespace"),
    ],
)
def test_what_cannot_be_selected_is_refused_before_the_server_is_asked(
    source: Path, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    for act in (kvbatch.plan, kvbatch.migrate):
        with pytest.raises(error, match=said):
            act(source, NOBODY, **options)


def test_what_verify_would_compare_is_named(tmp_path: Path) -> None:
    words = r"kvbatch verify --cf metadata .*--cf stream --slots 1-5 SOURCE BACKUP"
    with pytest.raises(UsageError, match=words):
        kvbatch.verify(tmp_path, NOBODY, slots="1-5")


# -- what stands there ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fixture", ["cluster"])
def test_keys_in_selected_slots_are_refused_wherever_they_are_listed(source: Path, server: StandIn) -> None:
    """A server with many keys lists them in many pages."""
    keys = sorted(b"key-%d" % number for number in range(2500))
    put(server, *map(string, keys))
    held = [slot_of(key) for key in keys]
    free = Slots(tuple((slot, slot) for slot in sorted(set(range(0, SLOTS, 20)) - set(held))))
    kvbatch.plan(source, server.endpoint, slots=free)
    for slot in (held[0], held[1500], held[-1]):
        refused = rf"already holds keys in slot {slot} of __namespace\. .*--overwrite"
        with pytest.raises(RefusedError, match=refused):
            kvbatch.plan(source, server.endpoint, slots=f"{slot}")
    with pytest.raises(RefusedError, match="already holds keys in __namespace"):
        kvbatch.plan(source, server.endpoint)


def stale(source: Path, slots: Slots) -> Iterator[tuple[str, bytes, bytes]]:
    """Subkeys that the source has no more, of keys that it has, by the versions that they have: those that would come
    back to life."""
    for family in KEYED_FAMILIES[1:]:
        for key in read_store(source)[family]:
            subkey = parse_subkey(key, slot_encoded=True)
            if slot_of(subkey.user_key) in slots:
                yield family, key[: len(key) - len(subkey.rest)] + b"\xffgone", b"1"


@pytest.mark.parametrize("fixture", ["cluster"])
def test_overwrite_takes_what_is_selected_and_nothing_else(source: Path, server: StandIn) -> None:
    slots = parse_slots("3000-8000,8002,9000-16383")
    inside = [*stale(source, slots), *map(string_in, (3000, 8000, 8002, 9000, 16383))]
    assert {family for family, _, _ in inside} == set(KEYED_FAMILIES)
    outside = [*stale(source, parse_slots("0-2999,8001,8003-8999")), *map(string_in, (0, 2999, 8001, 8003, 8999))]
    other = b"\x0b__namespacf" + (5000).to_bytes(2, "big")
    outside += [(family, other + family.encode(), STRING) for family in KEYED_FAMILIES]
    put(server, *inside, *outside)
    kvbatch.migrate(source, server.endpoint, slots=slots, overwrite=True).wait()
    expected = filtered(read_store(source), True, str(slots))
    for family, key, value in outside:
        expected[family][key] = value
    check_copied(source, server, selected=expected)


@pytest.mark.parametrize("fixture", ["standalone"])
def test_overwrite_of_a_namespace_leaves_the_others(source: Path, server: StandIn) -> None:
    kvbatch.migrate(source, server.endpoint).wait()
    theirs = [namespace_prefix(namespace) + b"theirs" for namespace in (b"__namespace", b"tenant_a")]
    put(server, *((family, key, STRING) for family in KEYED_FAMILIES for key in theirs))
    with pytest.raises(RefusedError, match=r"already holds keys in tenant_a\. .*holds in namespace 'tenant_a' deleted"):
        kvbatch.plan(source, server.endpoint, namespace="tenant_a")
    kvbatch.migrate(source, server.endpoint, namespace="tenant_a", overwrite=True).wait()
    expected = read_store(source)
    for family in KEYED_FAMILIES:
        expected[family][theirs[0]] = STRING
    check_copied(source, server, selected=expected)


@pytest.mark.parametrize("options", [{}, {"slots": ALL_SLOTS}], ids=str)
def test_a_source_without_keys_takes_none_away(tmp_path: Path, start: Start, options: dict[str, str]) -> None:
    server = start(cluster=True)
    put(server, string_in(7))
    source = write_kvrocks_store(tmp_path / "source", 0)
    assert kvbatch.migrate(source, server.endpoint, overwrite=True, **options).wait().entries == 0
    server.stop()
    assert len(read_store(server.directory)[METADATA]) == 1


# -- names of jobs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fixture", ["cluster"])
def test_a_name_is_free_for_other_slots_once_its_job_is_done(source: Path, server: StandIn) -> None:
    first = kvbatch.migrate(source, server.endpoint, slots="0-5000", job="one").wait()
    put(server, string_in(5001))
    with pytest.raises(RefusedError, match="already holds keys in slot 5001"):
        kvbatch.migrate(source, server.endpoint, slots="5001-9000", job="one").wait()
    assert kvbatch.migrate(source, server.endpoint, slots="0-5000", job="one").wait().finished_before
    second = kvbatch.migrate(source, server.endpoint, slots="5001-9000", job="one", overwrite=True).wait()
    assert not second.finished_before
    assert first.entries + second.entries == sum(
        len(entries) for entries in filtered(read_store(source), True, "0-9000").values()
    )


@pytest.mark.parametrize("fixture", ["cluster"])
def test_a_job_that_is_done_at_one_server_is_not_done_at_another(source: Path, server: StandIn, start: Start) -> None:
    kvbatch.migrate(source, server.endpoint, slots="7", job="one").wait()
    other = start("other", cluster=True)
    put(other, string_in(7))
    with pytest.raises(RefusedError, match="already holds keys in slot 7"):
        kvbatch.migrate(source, other.endpoint, slots="7", job="one").wait()


@pytest.mark.parametrize("fixture", ["cluster"])
def test_a_killed_job_is_not_carried_on_with_other_slots(source: Path, server: StandIn) -> None:
    interrupt(source, server.endpoint, "--slots", "0-1000", "--job", "one")
    with pytest.raises(RefusedError, match=r"unfinished job 'one' .*range: theirs '.*No entry was changed"):
        kvbatch.migrate(source, server.endpoint, slots="0-1001", job="one").wait()
