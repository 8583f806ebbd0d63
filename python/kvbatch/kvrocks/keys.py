"""The keys of Kvrocks' column families.

metadata                     u8 length of namespace · namespace · [u16 slot] · user key
default, zset_score, stream  u8 length of namespace · namespace · [u16 slot] · u32 length of user key · user key ·
                             u64 version · the rest, which depends on the type

The slot is there in a slot-encoded directory only. So namespaces sort by their length first; in a slot metadata sorts
by the user key, but subkeys by its length before it.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvbatch.kvrocks.slots import SLOTS, slot_of
from kvbatch.ranges import describe_key

__all__ = [
    "DEFAULT_NAMESPACE",
    "FAMILIES",
    "KEYED_FAMILIES",
    "METADATA",
    "MetadataKey",
    "Subkey",
    "metadata_key",
    "namespace_prefix",
    "parse_metadata_key",
    "parse_subkey",
    "subkey_prefix",
    "successor",
]

DEFAULT_NAMESPACE = b"__namespace"
# By their ids, which Kvrocks takes for granted. Releases before 2.8 have no search, those before 2.2 no stream.
FAMILIES = {
    name: number
    for number, name in enumerate(
        ("default", "metadata", "zset_score", "pubsub", "propagate", "stream", "search"),
    )
}
METADATA = "metadata"
# Those whose keys begin with a namespace, a slot and a user key. Metadata first: subkeys without it are garbage.
KEYED_FAMILIES = (METADATA, "default", "zset_score", "stream")


@dataclass(frozen=True, slots=True)
class MetadataKey:
    namespace: bytes
    slot: int | None
    user_key: bytes


@dataclass(frozen=True, slots=True)
class Subkey:
    """`rest`: what the type puts there: a field, a member, an index, …"""

    namespace: bytes
    slot: int | None
    user_key: bytes
    version: int
    rest: bytes


def namespace_prefix(namespace: bytes) -> bytes:
    """What the keys of a namespace begin with. Raises ValueError for one of more than 255 bytes."""
    if len(namespace) > 255:
        raise ValueError(f"a namespace has 255 bytes at most, this one {len(namespace)}")
    return bytes([len(namespace)]) + namespace


def successor(prefix: bytes) -> bytes | None:
    """The least bytes behind everything that begins with `prefix`; None where nothing is."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else None


def metadata_key(namespace: bytes, user_key: bytes, slot_encoded: bool) -> bytes:
    """Raises ValueError as namespace_prefix."""
    return _head(namespace, user_key, slot_encoded) + user_key


def subkey_prefix(namespace: bytes, user_key: bytes, version: int, slot_encoded: bool) -> bytes:
    """What all subkeys of a user key at one version begin with. Raises ValueError as namespace_prefix."""
    head = _head(namespace, user_key, slot_encoded)
    return head + len(user_key).to_bytes(4, "big") + user_key + version.to_bytes(8, "big")


def _head(namespace: bytes, user_key: bytes, slot_encoded: bool) -> bytes:
    slot = slot_of(user_key).to_bytes(2, "big") if slot_encoded else b""
    return namespace_prefix(namespace) + slot


def parse_metadata_key(key: bytes, slot_encoded: bool) -> MetadataKey:
    """Raises ValueError for a key that is malformed. The slot is what the key says, not the hash of the user key."""
    namespace, slot, user_key = _parse_head(key, slot_encoded)
    return MetadataKey(namespace, slot, user_key)


def parse_subkey(key: bytes, slot_encoded: bool) -> Subkey:
    """Raises ValueError for a key that is malformed. The slot is what the key says, not the hash of the user key."""
    namespace, slot, behind = _parse_head(key, slot_encoded)
    version_at = 4 + int.from_bytes(behind[:4], "big")
    rest_at = version_at + 8
    if len(behind) < rest_at:
        raise ValueError(f"{describe_key(key)} ends before its user key or its version does")
    version = int.from_bytes(behind[version_at:rest_at], "big")
    return Subkey(namespace, slot, behind[4:version_at], version, behind[rest_at:])


def _parse_head(key: bytes, slot_encoded: bool) -> tuple[bytes, int | None, bytes]:
    """Namespace, slot and what stands behind them."""
    slot_at = 1 + key[0] if key else 1
    end = slot_at + (2 if slot_encoded else 0)
    if len(key) < end:
        raise ValueError(f"{describe_key(key)} ends before its namespace{' or its slot' if slot_encoded else ''} does")
    slot = int.from_bytes(key[slot_at:end], "big") if slot_encoded else None
    if slot is not None and slot >= SLOTS:
        raise ValueError(f"{describe_key(key)} has slot {slot}; the last is {SLOTS - 1}")
    return key[1:slot_at], slot, key[end:]
