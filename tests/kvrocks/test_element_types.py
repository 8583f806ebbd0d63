"""What the log records of a batch of elements say of their types."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from kvbatch._core.batch import RecordKind, decode_batch
from kvbatch._core.frame import BufferPool, Frame, FrameLimits
from kvbatch._core.store import ElementTypes, RangeReader, SourceStore, send_apply_batch
from kvbatch._core.wire import Connection
from kvbatch.kvrocks.keys import FAMILIES, metadata_key, subkey_prefix
from support.stores import write_store

NAMESPACE = b"__namespace"
# Of types and encodings: flags, and how many bytes stand between them and the version.
HASH, OLD_HASH, LIST, SET, STRING = (0x82, 8), (0x02, 4), (0x83, 8), (0x84, 8), (0x81, 8)


def metadata(kind: tuple[int, int], version: int) -> bytes:
    flags, expire_bytes = kind
    return bytes([flags]) + bytes(expire_bytes) + version.to_bytes(8, "big") + bytes(8)


def sent(path: Path, keys: dict[bytes, bytes], elements: list[bytes], *, encoded: bool = False) -> list[bytes]:
    """The log record that holds for each of the elements, in their order."""
    families: dict[str, dict[bytes, bytes]] = {name: {} for name in FAMILIES} | {
        "metadata": {metadata_key(NAMESPACE, key, encoded): value for key, value in keys.items()},
        "default": dict.fromkeys(elements, b""),
    }
    store = SourceStore(str(write_store(path, families)))
    frame = Frame(BufferPool(1 << 24))
    RangeReader(store, "default", None, None).fill(frame, 1 << 20)
    near, far = socket.socketpair()
    with far:
        connection = Connection(near.detach(), "server", FrameLimits())
        answer = send_apply_batch(connection, frame, b"", {0}, ElementTypes(store, encoded))
        connection.shutdown()
        command = far.makefile("rb").read()
    assert (answer.entries, answer.last_key) == (len(elements), max(elements))
    batch = command.partition(b"APPLYBATCH\r\n$")[2].partition(b"\r\n")[2][: answer.length]
    logs, log = [], b""
    for record, _, key, _ in decode_batch(batch):
        if record is RecordKind.LOG_DATA:
            log = key
        else:
            logs.append(log)
    return logs


@pytest.mark.parametrize("encoded", [False, True])
def test_an_element_is_of_the_type_of_its_key(tmp_path: Path, encoded: bool) -> None:
    keys = {b"a": (HASH, 1), b"b": (LIST, 2), b"c": (OLD_HASH, 3), b"longer": (SET, 4), b"none": (STRING, 5)}
    elements = {subkey_prefix(NAMESPACE, key, version, encoded) + b"x": key for key, (_, version) in keys.items()}
    elements |= {subkey_prefix(NAMESPACE, b"a", 1, encoded) + b"y": b"a"}
    elements |= {
        subkey_prefix(NAMESPACE, b"a", 9, encoded) + b"x": b"garbage",
        subkey_prefix(NAMESPACE, b"z", 1, encoded): b"z",
    }
    stored = {key: metadata(kind, version) for key, (kind, version) in keys.items()}
    logs = {b"a": b"2", b"b": b"3 7", b"c": b"2", b"longer": b"4"}
    found = sent(tmp_path / "source", stored, list(elements), encoded=encoded)
    assert found == [logs.get(elements[key], b"0") for key in sorted(elements)]


def test_many_keys_between_two_elements_are_passed_over(tmp_path: Path) -> None:
    stored = {b"key%04d" % number: metadata(SET if number % 2 else HASH, number) for number in range(1000)}
    numbers = [0, 1, 2, 3, 400, 401, 999]
    elements = [subkey_prefix(NAMESPACE, b"key%04d" % number, number, False) + b"m" for number in numbers]
    assert sent(tmp_path / "source", stored, elements) == [b"4" if number % 2 else b"2" for number in numbers]


def test_a_malformed_element_has_no_type(tmp_path: Path) -> None:
    whole = subkey_prefix(NAMESPACE, b"a", 1, False)
    elements = [b"", b"\x05ab", *(whole[:length] for length in range(1, len(whole) + 1))]
    found = sent(tmp_path / "source", {b"a": metadata(HASH, 1)}, elements)
    assert found == [b"2" if element == whole else b"0" for element in sorted(elements)]


def test_metadata_beside_a_large_string_costs_no_memory(tmp_path: Path) -> None:
    stored = {b"a": metadata(HASH, 1), b"b": bytes([0x81]) + bytes(8) + bytes(3 << 20), b"c": metadata(SET, 3)}
    elements = [subkey_prefix(NAMESPACE, key, version, False) for key, version in ((b"a", 1), (b"c", 3))]
    for log, expected in zip(sent(tmp_path / "source", stored, elements), (b"2", b"4"), strict=True):
        assert log in (expected, b"0")
