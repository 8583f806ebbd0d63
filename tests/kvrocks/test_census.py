"""Counting in bulk gives what counting entry by entry gives, whatever stands in the directory."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvbatch._core.store import EntryPages, SourceStore
from kvbatch.errors import SourceError
from kvbatch.kvrocks import census, liveness
from kvbatch.kvrocks.census import UNKNOWN_TYPE, Census, FamilyCount, Tally, take_census
from kvbatch.kvrocks.keys import (
    DEFAULT_NAMESPACE,
    FAMILIES,
    KEYED_FAMILIES,
    METADATA,
    metadata_key,
    namespace_prefix,
    parse_metadata_key,
    parse_subkey,
    subkey_prefix,
)
from kvbatch.kvrocks.layout import Layout, require_layout
from kvbatch.kvrocks.liveness import MetadataPage, Window, read_windows, subkey_ranges
from kvbatch.kvrocks.metadata import WITHOUT_SUBKEYS, Metadata, Type, parse_metadata
from kvbatch.kvrocks.slots import slot_of
from support.places import quick_folder
from support.stores import Families, read_store, write_store

NOW_MS = 1_700_000_000_000
EXPIRES_MS = [0, NOW_MS - 1, NOW_MS, NOW_MS + 1]
# What the server's TYPE says.
TYPES_SAID = {"MBbloom--": "bloom", "ReJSON-RL": "json"}


def metadata_value(kind: int, expire_ms: int = 0, version: int = 1, size: int = 1, *, is_64bit: bool = True) -> bytes:
    width, unit = (8, 1) if is_64bit else (4, 1000)
    header = bytes([kind | 0x80 * is_64bit]) + (expire_ms // unit).to_bytes(width, "big")
    if kind in {int(each) for each in WITHOUT_SUBKEYS}:
        return header
    return header + version.to_bytes(8, "big") + size.to_bytes(width, "big")


def counted_one_by_one(families: Families, slot_encoded: bool) -> Census:
    """The census as its definition says it, with a dictionary of all metadata."""
    namespaces: defaultdict[bytes, defaultdict[str, Tally]] = defaultdict(lambda: defaultdict(Tally))
    slots: defaultdict[int, Tally] = defaultdict(Tally)
    broken: Counter[str] = Counter()
    live: dict[tuple[bytes, int | None, bytes], Metadata | None] = {}  # None: it cannot be read

    def count(namespace: bytes, slot: int | None, kind: str, tally: Tally) -> None:
        namespaces[namespace][kind] += tally
        if slot is not None:
            slots[slot] += tally

    for key, value in families[METADATA].items():
        try:
            parsed = parse_metadata_key(key, slot_encoded)
        except ValueError:
            broken[METADATA] += 1
            continue
        owner = (parsed.namespace, parsed.slot, parsed.user_key)
        try:
            metadata = parse_metadata(value)
        except ValueError:
            broken[METADATA] += 1
            live[owner] = None
            continue
        size = len(key) + len(value)
        expired = metadata.is_expired(NOW_MS)
        empty = not expired and metadata.is_empty()
        if metadata.is_live(NOW_MS):
            live[owner] = metadata
        count(
            parsed.namespace,
            parsed.slot,
            metadata.type.name.lower(),
            Tally(1, expired, empty, 0, 0, size, size if expired or empty else 0),
        )
    for family in KEYED_FAMILIES[1:]:
        for key, value in families[family].items():
            try:
                subkey = parse_subkey(key, slot_encoded)
            except ValueError:
                broken[family] += 1
                continue
            size = len(key) + len(value)
            owner = (subkey.namespace, subkey.slot, subkey.user_key)
            found = live.get(owner)
            owned = found is not None and found.version == subkey.version and found.type not in WITHOUT_SUBKEYS
            kind = found.type.name.lower() if found is not None and owned else UNKNOWN_TYPE
            if owned or (owner in live and found is None):
                count(subkey.namespace, subkey.slot, kind, Tally(subkeys=1, bytes=size))
            else:
                count(subkey.namespace, subkey.slot, kind, Tally(garbage=1, bytes=size, dead_bytes=size))
    return Census(
        slot_encoded=slot_encoded,
        judged_ms=NOW_MS,
        namespaces={name: dict(types) for name, types in namespaces.items()},
        slots=dict(slots),
        families={
            name: FamilyCount(len(entries), sum(len(key) + len(entries[key]) for key in entries), broken[name])
            for name, entries in families.items()
        },
        broken=(),
    )


@contextmanager
def small_pages(entries: int, owners: int) -> Iterator[None]:
    """Windows that begin and end anywhere."""
    pages = partial(EntryPages, max_entries=entries)
    with (
        mock.patch.object(liveness, "EntryPages", pages),
        mock.patch.object(census, "EntryPages", pages),
        mock.patch.object(liveness, "_WINDOW_OWNERS", owners),
    ):
        yield


def check(path: Path, families: Families, slot_encoded: bool) -> Census:
    store = SourceStore(str(path))
    found = take_census(store, Layout(slot_encoded, tuple(FAMILIES)), NOW_MS)
    expected = counted_one_by_one(families, slot_encoded)
    assert found.families == expected.families
    assert found.namespaces == expected.namespaces
    assert found.slots == expected.slots
    broken = sum(family.broken for family in found.families.values())
    assert len(found.broken) == min(broken, 10)
    total = found.total()
    entries = sum(found.families[name].entries for name in KEYED_FAMILIES)
    assert total.keys + total.subkeys + total.garbage + broken == entries
    return found


NAMESPACES = st.sampled_from([DEFAULT_NAMESPACE, b"", b"a", b"\xff", b"\xff" * 255])
# Prefixes of each other, of several lengths, at both ends of the order.
USER_KEYS = st.one_of(
    st.text("a\0\xff", max_size=4).map(lambda text: text.encode("latin-1")),
    st.integers(0, 40).map(lambda number: b"%d" % number),
)
BROKEN_KEYS = st.one_of(
    st.binary(max_size=4),
    st.builds(
        lambda namespace, slot, rest: namespace_prefix(namespace) + slot + rest,
        NAMESPACES,
        st.sampled_from([b"", b"\0", b"\0\0", b"\x3f\xff", b"\x40\0"]),
        st.sampled_from([b"", b"\0\0\0", b"\0\0\0\x01", b"\0\0\0\x01a" + bytes(7), b"\xff" * 12]),
    ),
)
VERSIONS = st.integers(1, 2)
VALUES = st.one_of(
    st.builds(
        metadata_value,
        st.sampled_from([*map(int, Type), 0, 12]),
        st.sampled_from(EXPIRES_MS),
        VERSIONS,
        st.integers(0, 1),
        is_64bit=st.booleans(),
    ),
    st.just(metadata_value(Type.HASH)),
    st.just(metadata_value(Type.ZSET, is_64bit=False)),
    st.binary(max_size=3),
)


def directories(slot_encoded: bool) -> st.SearchStrategy[Families]:
    keys = st.builds(partial(metadata_key, slot_encoded=slot_encoded), NAMESPACES, USER_KEYS)
    subkeys = st.builds(
        lambda namespace, user_key, version, rest: subkey_prefix(namespace, user_key, version, slot_encoded) + rest,
        NAMESPACES,
        USER_KEYS,
        VERSIONS,
        st.binary(max_size=2),
    )
    of_subkeys = st.dictionaries(st.one_of(subkeys, subkeys, BROKEN_KEYS), st.binary(max_size=4), max_size=30)
    others = st.dictionaries(st.binary(max_size=6), st.binary(max_size=6), max_size=4)
    return st.fixed_dictionaries(
        {
            "default": of_subkeys,
            METADATA: st.dictionaries(st.one_of(keys, keys, keys, BROKEN_KEYS), VALUES, max_size=30),
            "zset_score": of_subkeys,
            "pubsub": others,
            "propagate": others,
            "stream": of_subkeys,
            "search": others,
        }
    )


@given(st.data(), st.booleans(), st.sampled_from([1, 2, 3, 7, 1000]), st.sampled_from([1, 2, 5, 1000]))
def test_any_directory_is_counted_as_one_by_one(
    data: st.DataObject, slot_encoded: bool, entries: int, owners: int
) -> None:
    families = data.draw(directories(slot_encoded))
    with quick_folder("kvbatch-census-") as base, small_pages(entries, owners):
        check(write_store(base / "store", families, flush=False), families, slot_encoded)


@pytest.mark.parametrize(("entries", "owners"), [(1 << 16, 1 << 18), (500, 100), (64, 1)])
def test_real_directories_are_counted_as_one_by_one(
    source: Path, fixture: str, counts: dict[str, tuple[int, str]], entries: int, owners: int
) -> None:
    with small_pages(entries, owners):
        found = check(source, read_store(source), fixture == "cluster")
    assert {name: family.entries for name, family in found.families.items()} == {n: c for n, (c, _) in counts.items()}
    assert found.total().garbage > 0
    assert not found.broken


def test_live_keys_of_real_directories_are_those_that_a_client_saw(
    shared_fixtures: Path, source: Path, fixture: str
) -> None:
    listings = {b"__namespace": "kvrocks-cluster"}
    if fixture == "standalone":
        listings = {b"__namespace": "kvrocks-standalone-default", b"tenant_a": "kvrocks-standalone-tenant_a"}
    store = SourceStore(str(source))
    found = take_census(store, require_layout(store), time.time_ns() // 1_000_000)
    assert found.namespaces.keys() == listings.keys()
    seen_slots: Counter[int] = Counter()
    for namespace, name in listings.items():
        listing = shared_fixtures / f"{name}.logical.jsonl.zst"
        lines = subprocess.run(["zstd", "-dc", listing], check=True, capture_output=True, text=True).stdout.splitlines()
        seen = [json.loads(line) for line in lines]
        live = {
            kind: tally.keys - tally.expired - tally.empty
            for kind, tally in found.namespaces[namespace].items()
            if kind != UNKNOWN_TYPE
        }
        assert live == Counter(TYPES_SAID.get(each["type"], each["type"]) for each in seen)
        seen_slots.update(slot_of(base64.b64decode(each["key"])) for each in seen)
    if fixture == "cluster":
        keys = {slot: tally.keys - tally.expired - tally.empty for slot, tally in found.slots.items()}
        assert {slot: count for slot, count in keys.items() if count} == seen_slots
    else:
        assert found.slots == {}


def test_windows_and_their_ranges_are_each_family_once(source: Path, fixture: str) -> None:
    """Without a gap or an overlap that has an entry in it."""
    slot_encoded = fixture == "cluster"
    store = SourceStore(str(source))
    entries = read_store(source)
    read: dict[str, list[bytes]] = {name: [] for name in KEYED_FAMILIES[1:]}
    windows = 0
    with small_pages(200, 300):
        for seen in read_windows(store, slot_encoded, NOW_MS):
            if isinstance(seen, MetadataPage):
                continue
            windows += 1
            assert len(seen.owners) <= 300 + 200
            for family, keys in read.items():
                keys += _keys_of(store, family, seen, slot_encoded)
    assert windows > 5
    for family, keys in read.items():
        assert sorted(keys) == sorted(entries[family])


def _keys_of(store: SourceStore, family: str, window: Window, slot_encoded: bool) -> list[bytes]:
    keys: list[bytes] = []
    for part in subkey_ranges(store, family, window, slot_encoded):
        pages = EntryPages(store, family, part.start, part.end)
        while (page := pages.next()) is not None:
            keys += map(page.key, range(len(page)))
    assert keys == sorted(keys)
    return keys


def test_subkeys_of_metadata_that_cannot_be_read_are_no_garbage(tmp_path: Path) -> None:
    """A type of a later release, perhaps: nobody may take them for what can be left out."""
    key, subkey = metadata_key(b"ns", b"key", False), subkey_prefix(b"ns", b"key", 7, False) + b"field"
    families = {name: {} for name in FAMILIES} | {METADATA: {key: b"\x8c" + bytes(40)}, "default": {subkey: b""}}
    found = check(write_store(tmp_path / "store", families), families, slot_encoded=False)
    assert found.total() == Tally(subkeys=1, bytes=len(subkey))
    assert [(entry.column_family, entry.key, entry.reason) for entry in found.broken] == [
        (METADATA, key, "metadata of the unknown type 12")
    ]


def test_equal_halves_of_digests_are_told_apart() -> None:
    """No keys are known whose digests are alike in 64 bits; so other digests are made up for them."""
    families = {name: {} for name in FAMILIES}
    users = [b"a", b"b", b"c"]
    families[METADATA] = {metadata_key(b"", key, False): metadata_value(Type.HASH, version=1) for key in users[:2]}
    families["default"] = {subkey_prefix(b"", key, 1, False): b"" for key in users}
    digest = liveness.digest_key_parts

    def alike(keys: object, parts: object) -> object:
        low, high = digest(keys, parts)  # type: ignore[arg-type]
        return low * 0 + 5, high

    with quick_folder("kvbatch-census-") as base, mock.patch.object(liveness, "digest_key_parts", alike):
        found = check(write_store(base / "store", families), families, slot_encoded=False)
    assert (found.total().subkeys, found.total().garbage) == (2, 1)


def test_an_expired_key_and_its_subkeys_are_dead(tmp_path: Path) -> None:
    families = {name: {} for name in FAMILIES}
    for number, expire_ms in enumerate(EXPIRES_MS):
        user_key = b"key%d" % number
        families[METADATA][metadata_key(b"", user_key, False)] = metadata_value(Type.SET, expire_ms, 3)
        families["default"][subkey_prefix(b"", user_key, 3, False) + b"member"] = b""
    found = check(write_store(tmp_path / "store", families), families, slot_encoded=False)
    total = found.total()
    assert (total.keys, total.expired, total.subkeys, total.garbage) == (4, 1, 3, 1)
    assert total.dead_bytes == total.bytes // 4


def test_an_error_in_a_file_is_told_with_its_name(tmp_path: Path) -> None:
    families = {name: {} for name in FAMILIES}
    keys = [metadata_key(b"", b"key%06d" % number, False) for number in range(2000)]
    families[METADATA] = dict.fromkeys(keys, metadata_value(Type.STRING) + os.urandom(50))
    path = write_store(tmp_path / "store", families)
    [table] = path.glob("*.sst")
    damaged = bytearray(table.read_bytes())
    damaged[len(damaged) // 3] ^= 1
    table.write_bytes(damaged)
    store = SourceStore(str(path))
    with pytest.raises(SourceError, match=table.name):
        take_census(store, Layout(False, tuple(FAMILIES)), NOW_MS)
