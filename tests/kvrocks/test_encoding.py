"""Kvrocks' keys and metadata, by known vectors, by any bytes, and by every key of two real directories."""

from __future__ import annotations

import binascii
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import rocksdict
from hypothesis import given
from hypothesis import strategies as st

from kvbatch._core.store import SourceStore
from kvbatch.errors import RefusedError, UsageError
from kvbatch.kvrocks.keys import (
    DEFAULT_NAMESPACE,
    FAMILIES,
    KEYED_FAMILIES,
    METADATA,
    MetadataKey,
    Subkey,
    metadata_key,
    namespace_prefix,
    parse_metadata_key,
    parse_subkey,
    subkey_prefix,
    successor,
)
from kvbatch.kvrocks.layout import Layout, find_layout, require_layout, sample_keys
from kvbatch.kvrocks.metadata import HEADER_BYTES, MAY_BE_EMPTY, WITHOUT_SUBKEYS, Metadata, Type, parse_metadata
from kvbatch.kvrocks.slots import SLOTS, Slots, parse_slots, slot_of
from support.stores import numbered, raw_options, read_store, write_store

NAMESPACES = st.one_of(st.just(DEFAULT_NAMESPACE), st.binary(max_size=255))
VERSIONS = st.integers(0, (1 << 64) - 1)
NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize(
    ("user_key", "slot"),
    [
        (b"a", 15495),
        (b"foo", 12182),
        (b"123456789", 12739),
        (b"{user}1", 5474),
        (b"", 0),
        # A hash tag ends at the first brace behind it, and counts only where something stands in it.
        (b"x{foo}y}z", 12182),
        (b"}{foo}", 12182),
        (b"{{a}", slot_of(b"{a")),
    ],
)
def test_slots_are_those_of_redis(user_key: bytes, slot: int) -> None:
    assert slot_of(user_key) == slot


@pytest.mark.parametrize("user_key", [b"{}foo", b"{foo", b"foo}", b"}foo{", b"{}{foo}"])
def test_without_a_hash_tag_the_whole_key_counts(user_key: bytes) -> None:
    assert slot_of(user_key) == binascii.crc_hqx(user_key, 0) % SLOTS != slot_of(b"foo")


@pytest.mark.parametrize(
    ("text", "canonical", "ranges"),
    [
        ("0-100,200", "0-100,200", ((0, 100), (200, 200))),
        ("200, 0-100 ", "0-100,200", ((0, 100), (200, 200))),
        ("5", "5", ((5, 5),)),
        ("7-7", "7", ((7, 7),)),
        ("0-4,5,3-9", "0-9", ((0, 9),)),
        ("0-16383", "0-16383", ((0, 16383),)),
        ("007", "7", ((7, 7),)),
    ],
)
def test_slots_are_read_merged_and_written(text: str, canonical: str, ranges: tuple[tuple[int, int], ...]) -> None:
    slots = parse_slots(text)
    assert slots == Slots(ranges)
    assert str(slots) == canonical


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "write slots"),
        (",", "write slots"),
        ("1,", "write slots"),
        ("-5", "write slots"),
        ("1-", "write slots"),
        ("1-2-3", "write slots"),
        ("a", "write slots"),
        ("1 2", "write slots"),
        ("+1", "write slots"),
        ("1_0", "write slots"),
        ("²", "write slots"),
        ("٣", "write slots"),
        ("16384", "slots are 0 to 16383"),
        ("0-16384", "slots are 0 to 16383"),
        ("9" * 10_000, "slots are 0 to 16383"),
        ("9-3", "9-3 ends before it begins"),
    ],
)
def test_what_are_no_slots_is_wrong_usage(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_slots(text)


@given(st.sets(st.integers(0, SLOTS - 1), min_size=1, max_size=40))
def test_any_slots_survive_being_written(chosen: set[int]) -> None:
    slots = parse_slots(",".join(map(str, chosen)))
    assert {slot for first, last in slots.ranges for slot in range(first, last + 1)} == chosen
    assert parse_slots(str(slots)) == slots
    assert all(slot in slots for slot in chosen)
    assert all((slot in slots) == (slot in chosen) for slot in range(max(chosen) + 2))
    # Neither touching nor overlapping.
    assert all(last + 1 < first for (_, last), (first, _) in itertools.pairwise(slots.ranges))


NAMESPACE_HEX = "0b5f5f6e616d657370616365"


@pytest.mark.parametrize(
    ("key", "slot_encoded", "parsed"),
    [
        (NAMESPACE_HEX + "61", False, MetadataKey(b"__namespace", None, b"a")),
        (NAMESPACE_HEX + "3c8761", True, MetadataKey(b"__namespace", 0x3C87, b"a")),
        ("00", False, MetadataKey(b"", None, b"")),
        ("02616200", False, MetadataKey(b"ab", None, b"\0")),
    ],
)
def test_keys_of_metadata(key: str, slot_encoded: bool, parsed: MetadataKey) -> None:
    assert parse_metadata_key(bytes.fromhex(key), slot_encoded) == parsed
    assert metadata_key(parsed.namespace, parsed.user_key, slot_encoded) == bytes.fromhex(key)


@pytest.mark.parametrize(
    ("key", "slot_encoded", "parsed"),
    [
        (
            NAMESPACE_HEX + "00000004" + "68617368" + "3076f331696342a7" + "6669656c64",
            False,
            Subkey(b"__namespace", None, b"hash", 0x3076F331696342A7, b"field"),
        ),
        (
            NAMESPACE_HEX + "1fdd" + "00000001" + "7a" + "3076f331696342a7" + "6d",
            True,
            Subkey(b"__namespace", 0x1FDD, b"z", 0x3076F331696342A7, b"m"),
        ),
    ],
)
def test_subkeys(key: str, slot_encoded: bool, parsed: Subkey) -> None:
    assert parse_subkey(bytes.fromhex(key), slot_encoded) == parsed
    prefix = subkey_prefix(parsed.namespace, parsed.user_key, parsed.version, slot_encoded)
    assert prefix + parsed.rest == bytes.fromhex(key)


@given(NAMESPACES, st.binary(max_size=40), VERSIONS, st.binary(max_size=20), st.booleans())
def test_any_key_survives_being_written(
    namespace: bytes, user_key: bytes, version: int, rest: bytes, slot_encoded: bool
) -> None:
    slot = slot_of(user_key) if slot_encoded else None
    key = metadata_key(namespace, user_key, slot_encoded)
    assert key.startswith(namespace_prefix(namespace))
    assert parse_metadata_key(key, slot_encoded) == MetadataKey(namespace, slot, user_key)
    key = subkey_prefix(namespace, user_key, version, slot_encoded) + rest
    assert key.startswith(namespace_prefix(namespace))
    assert parse_subkey(key, slot_encoded) == Subkey(namespace, slot, user_key, version, rest)


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_a_key_or_malformed(key: bytes, slot_encoded: bool) -> None:
    for parse in (parse_metadata_key, parse_subkey):
        try:
            parsed = parse(key, slot_encoded)
        except ValueError:
            continue
        assert key.startswith(namespace_prefix(parsed.namespace))
        assert (parsed.slot is not None) == slot_encoded


@pytest.mark.parametrize("key", ["", "01", "0bff", NAMESPACE_HEX + "00", NAMESPACE_HEX + "400061"])
def test_malformed_keys_of_metadata(key: str) -> None:
    with pytest.raises(ValueError, match=r"ends before its namespace or its slot|has slot 16384"):
        parse_metadata_key(bytes.fromhex(key), slot_encoded=True)


@pytest.mark.parametrize("behind", ["", "000000", "00000001", "00000001" + "61" + "00" * 7, "ffffffff" + "61" * 20])
@pytest.mark.parametrize("slot", ["", "0000"])
def test_malformed_subkeys(behind: str, slot: str) -> None:
    with pytest.raises(ValueError, match="ends before its user key or its version"):
        parse_subkey(bytes.fromhex(NAMESPACE_HEX + slot + behind), slot_encoded=bool(slot))


def test_a_namespace_is_short() -> None:
    with pytest.raises(ValueError, match="255 bytes at most, this one 256"):
        namespace_prefix(bytes(256))


@given(prefix=st.binary(max_size=6), key=st.binary(max_size=9))
def test_a_successor_parts_what_begins_so_from_what_is_behind(prefix: bytes, key: bytes) -> None:
    behind = successor(prefix)
    assert behind is None or prefix + key < behind
    if key > prefix and not key.startswith(prefix):
        assert behind is not None
        assert key >= behind


@pytest.mark.parametrize(
    ("prefix", "behind"),
    [(b"\x01a", b"\x01b"), (b"\x02a\xff", b"\x02b"), (b"\x01\xff", b"\x02"), (b"\xff\xff", None), (b"", None)],
)
def test_successors(prefix: bytes, behind: bytes | None) -> None:
    assert successor(prefix) == behind


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        ("01" + "00000000" + "31", Metadata(Type.STRING, 0, None, None, False)),
        ("81" + "0000000000000000" + "31", Metadata(Type.STRING, 0, None, None, True)),
        ("01" + "00000002", Metadata(Type.STRING, 2000, None, None, False)),
        ("8a" + "0000000000000002" + "00", Metadata(Type.JSON, 2, None, None, True)),
        (
            "02" + "00000000" + "3076f331696342a7" + "00000002",
            Metadata(Type.HASH, 0, 0x3076F331696342A7, 2, False),
        ),
        (
            "85" + "00000000000000ff" + "3076f331696342a7" + "0000000000000001",
            Metadata(Type.ZSET, 255, 0x3076F331696342A7, 1, True),
        ),
        ("f8" + "00" * 24, Metadata(Type.STREAM, 0, 0, 0, True)),
    ],
)
def test_metadata_of_both_encodings(value: str, parsed: Metadata) -> None:
    assert parse_metadata(bytes.fromhex(value)) == parsed


@given(st.sampled_from(Type), st.booleans(), st.data(), st.binary(max_size=8))
def test_any_metadata_is_read_from_its_header(kind: Type, is_64bit: bool, data: st.DataObject, tail: bytes) -> None:
    width = 8 if is_64bit else 4
    expire, size = (data.draw(st.integers(0, (1 << 8 * width) - 1)) for _ in range(2))
    version = data.draw(VERSIONS)
    header = bytes([kind | 0x80 * is_64bit]) + expire.to_bytes(width, "big")
    if kind not in WITHOUT_SUBKEYS:
        header += version.to_bytes(8, "big") + size.to_bytes(width, "big")
    parsed = parse_metadata((header + tail)[: max(HEADER_BYTES, len(header))])
    assert parsed.expire_ms == (expire if is_64bit else 1000 * expire)
    assert (parsed.version, parsed.size) == ((None, None) if kind in WITHOUT_SUBKEYS else (version, size))
    for length in range(len(header)):
        with pytest.raises(ValueError, match=r"at least \d+ are needed|metadata is empty"):
            parse_metadata(header[:length])


@pytest.mark.parametrize("flags", [0x00, 0x80, 0x0C, 0x8F])
def test_metadata_of_an_unknown_type(flags: int) -> None:
    with pytest.raises(ValueError, match=f"unknown type {flags & 15}"):
        parse_metadata(bytes([flags]) + bytes(40))


@pytest.mark.parametrize("kind", Type)
def test_what_is_live(kind: Type) -> None:
    size = None if kind in WITHOUT_SUBKEYS else 0
    assert Metadata(kind, 0, 1, size, True).is_live(NOW_MS) == (kind in MAY_BE_EMPTY)
    assert Metadata(kind, NOW_MS, 1, 1, True).is_live(NOW_MS)
    assert not Metadata(kind, NOW_MS - 1, 1, 1, True).is_live(NOW_MS)


def test_every_key_of_a_real_directory(source: Path, fixture: str) -> None:
    """Whoever reads it wrongly does not find the metadata of all those subkeys."""
    slot_encoded = fixture == "cluster"
    entries = read_store(source)
    keys = {key: parse_metadata_key(key, slot_encoded) for key in entries[METADATA]}
    metadata = {parsed: parse_metadata(entries[METADATA][key]) for key, parsed in keys.items()}
    assert set(Type) == {one.type for one in metadata.values()}
    assert {key.namespace for key in metadata} == {b"__namespace", *([] if slot_encoded else [b"tenant_a"])}
    for key, parsed in keys.items():
        assert parsed.slot == (slot_of(parsed.user_key) if slot_encoded else None)
        assert metadata_key(parsed.namespace, parsed.user_key, slot_encoded) == key

    owned: Counter[MetadataKey] = Counter()
    for family in KEYED_FAMILIES[1:]:
        for key in entries[family]:
            subkey = parse_subkey(key, slot_encoded)
            owner = MetadataKey(subkey.namespace, subkey.slot, subkey.user_key)
            assert key.startswith(subkey_prefix(owner.namespace, owner.user_key, subkey.version, slot_encoded))
            found = metadata.get(owner)
            if family != "zset_score" and found is not None and found.version == subkey.version:
                owned[owner] += 1
    counted = {Type.HASH, Type.LIST, Type.SET, Type.ZSET, Type.SORTEDINT}
    sizes = {key: one.size for key, one in metadata.items() if one.type in counted}
    assert sizes == {key: owned[key] for key in sizes}


def test_real_directories_are_known(source: Path, fixture: str) -> None:
    store = SourceStore(str(source))
    assert require_layout(store) == Layout(fixture == "cluster", tuple(FAMILIES))


def _subkeys(slot_encoded: bool) -> dict[bytes, bytes]:
    return {subkey_prefix(b"ns", b"k%d" % number, 1, slot_encoded) + b"f": b"" for number in range(50)}


def _metadata(slot_encoded: bool) -> dict[bytes, bytes]:
    return {metadata_key(b"ns", b"k%d" % number, slot_encoded): b"\x81" + bytes(8) for number in range(50)}


@pytest.mark.parametrize("slot_encoded", [True, False])
@pytest.mark.parametrize("filled", [{METADATA: _metadata}, {"zset_score": _subkeys}])
@pytest.mark.parametrize("families", [5, 6, 7])
def test_layout_is_read_from_the_keys(
    tmp_path: Path,
    filled: dict[str, Callable[[bool], dict[bytes, bytes]]],
    slot_encoded: bool,
    families: int,
) -> None:
    """Of directories of old releases, too, which have fewer families."""
    names = tuple(FAMILIES)[:families]
    entries = {name: filled[name](slot_encoded) if name in filled else {} for name in names}
    # Two broken keys do not make it another directory.
    entries[METADATA] |= {b"\xff": b"", b"\0": b""}
    store = SourceStore(str(write_store(tmp_path / "store", entries)))
    assert find_layout(store) == Layout(slot_encoded, names)


def test_a_directory_without_keys_is_as_good_as_either(tmp_path: Path) -> None:
    store = SourceStore(str(write_store(tmp_path / "store", {name: {} for name in FAMILIES})))
    assert find_layout(store) == Layout(None, tuple(FAMILIES))


@pytest.mark.parametrize(
    "names", [["default"], ["default", "metadata"], ["default", "zset_score", "metadata", "pubsub", "propagate"]]
)
def test_another_store_is_no_kvrocks_directory(tmp_path: Path, names: list[str]) -> None:
    store = SourceStore(str(write_store(tmp_path / "store", {name: numbered(3) for name in names})))
    assert find_layout(store) is None
    found = ", ".join(f"{name} {number}" for number, name in enumerate(names))
    with pytest.raises(RefusedError, match=f"no Kvrocks directory: its column families, with their ids, are {found};"):
        require_layout(store)


def test_families_of_other_ids_are_no_kvrocks_directory(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = rocksdict.Rdict(str(path), raw_options())
    store.create_column_family("dropped", raw_options())
    store.drop_column_family("dropped")
    for name in list(FAMILIES)[1:]:
        store.create_column_family(name, raw_options())
    store.close()
    opened = SourceStore(str(path))
    assert find_layout(opened) is None
    with pytest.raises(RefusedError, match="are default 0, metadata 2, zset_score 3"):
        require_layout(opened)


def test_samples_come_from_the_whole_key_space(tmp_path: Path) -> None:
    """Most keys in a small part of it: halving gaps goes on where keys are."""
    keys = [b"a", *(b"common prefix %05d" % number for number in range(5000)), b"\xff"]
    store = SourceStore(str(write_store(tmp_path / "store", {"default": dict.fromkeys(keys, b"")})))
    samples = sample_keys(store, "default", 400)
    assert samples <= set(keys)
    ranks = sorted(map(keys.index, samples))
    assert len(ranks) > 30
    assert max(after - before for before, after in itertools.pairwise(ranks)) < 2500
    assert sample_keys(store, "default", 0) == {keys[0], keys[-1]}
