"""Peers that break the protocol at once: they are told why and cut off, and the receiver keeps serving others."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import kvbatch
from kvbatch._core.codec import Codec
from kvbatch._core.frame import FrameType
from support.stores import numbered, read_store, write_store
from support.wire import RawPeer, encode_frame, patch_header

HELLO = encode_frame(FrameType.HELLO, {"role": "control", "protocol": 1})
MAX_GROWTH_BYTES = 100 << 20


def flipped(frame: bytes, offset: int) -> bytes:
    return frame[:offset] + bytes([frame[offset] ^ 0x10]) + frame[offset + 1 :]


def hello(payload: object) -> bytes:
    return encode_frame(FrameType.HELLO, payload)


@pytest.fixture(autouse=True)
def _still_serves(receiver: kvbatch.Receiver, tmp_path: Path) -> Iterator[None]:
    """Behind every test: an ordinary job works through the same receiver, which took no memory to speak of."""
    before = psutil.Process().memory_info().rss
    yield
    entries = {"default": numbered(50)}
    write_store(tmp_path / "honest", entries)
    kvbatch.migrate(tmp_path / "honest", f"kvbatch://127.0.0.1:{receiver.port}/honest").wait(timeout=10)
    assert read_store(receiver.root / "honest") == entries
    assert psutil.Process().memory_info().rss - before < MAX_GROWTH_BYTES


REFUSED: list[tuple[str, bytes, str, str]] = [
    ("a flipped bit in the header", flipped(HELLO, 20), "CorruptionError", "header"),
    ("a flipped bit in the payload", flipped(HELLO, 70), "CorruptionError", "crc32c"),
    ("another magic", b"KVB9" + HELLO[4:], "ProtocolError", "does not speak kvbatch"),
    ("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "ProtocolError", "GET / HTTP"),
    ("another protocol version", patch_header(HELLO, 4, b"\2"), "ProtocolError", "theirs 2, ours 1"),
    ("type 0", patch_header(HELLO, 5, b"\0"), "ProtocolError", "unknown frame type 0"),
    ("type 255", patch_header(HELLO, 5, b"\xff"), "ProtocolError", "unknown frame type 255"),
    ("an unknown codec", patch_header(HELLO, 6, b"\x09"), "ProtocolError", "codec"),
    ("unknown flags", patch_header(HELLO, 7, b"\1"), "ProtocolError", "flags"),
    ("a reserved field in use", patch_header(HELLO, 56, b"\1"), "ProtocolError", "flags"),
    ("a first frame with number 1", patch_header(HELLO, 24, b"\1"), "ProtocolError", "out of order"),
    ("a payload of 2^63 bytes", patch_header(HELLO, 48, struct.pack("<Q", 1 << 63)), "ProtocolError", str(1 << 63)),
    ("a raw length of 2^63 bytes", patch_header(HELLO, 40, struct.pack("<Q", 1 << 63)), "ProtocolError", str(1 << 63)),
    ("a control frame above the limit", patch_header(HELLO, 40, struct.pack("<QQ", *[(64 << 20) + 1] * 2)),
     "ProtocolError", "limit"),
    ("no JSON", hello(b"{role:"), "CorruptionError", "JSON"),
    ("no UTF-8", hello(b'{"role":"\xff"}'), "CorruptionError", "JSON"),
    ("JSON that is a list", hello(["control"]), "CorruptionError", "no object"),
    ("JSON that is null", hello(None), "CorruptionError", "no object"),
    ("deeply nested JSON", hello(b"[" * 20_000), "CorruptionError", "JSON"),
    ("deeply nested objects", hello(b'{"role":' * 5_000), "CorruptionError", "JSON"),
    ("garbage for compressed data", encode_frame(FrameType.HELLO, b"\xff" * 40, codec=Codec.ZSTD, raw_length=4000),
     "CorruptionError", "zstd"),
    ("a request before HELLO", encode_frame(FrameType.REQUEST, {"operation": "open"}), "ProtocolError", "HELLO"),
    ("data before HELLO", encode_frame(FrameType.DATA, b"x" * 100), "ProtocolError", "limit is 0"),
    ("an unknown role", hello({"role": "emperor"}), "ProtocolError", "emperor"),
    ("no role", hello({}), "ProtocolError", "role"),
    ("a role that is no string", hello({"role": ["control"]}), "ProtocolError", "role"),
    ("a stream of no session", hello({"role": "stream", "session": "0" * 16}), "TransportError", "session"),
    ("a session that is no string", hello({"role": "stream", "session": {}}), "TransportError", "session"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "kind", "words"), [case[1:] for case in REFUSED], ids=[case[0].replace(" ", "-") for case in REFUSED]
)
def test_it_is_told_why_and_cut_off(receiver: kvbatch.Receiver, data: bytes, kind: str, words: str) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(data)
        [error] = peer.until_closed()
    assert error.type == FrameType.ERROR
    assert error.json["kind"] == kind
    assert words in error.json["message"]


@pytest.mark.parametrize("size", [1, 3, 4, 20, 63, 64, len(HELLO) - 1])
def test_a_truncated_frame_is_cut_off(receiver: kvbatch.Receiver, size: int) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(HELLO[:size])
        peer.socket.shutdown(socket.SHUT_WR)
        [error] = peer.until_closed()
    assert error.json["kind"] == "TransportError"
    assert "inside a frame" in error.json["message"]


def test_a_peer_that_leaves_at_once_is_forgotten(receiver: kvbatch.Receiver) -> None:
    for _ in range(20):
        RawPeer(receiver.port).socket.close()
    with RawPeer(receiver.port) as peer:
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.until_closed() == []


def test_a_silent_peer_is_cut_off(receiver: kvbatch.Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvbatch.server._FIRST_FRAME_MILLISECONDS", 100)
    with RawPeer(receiver.port) as peer:
        [error] = peer.until_closed()
    assert error.json["kind"] == "TransportError"


def test_silent_peers_do_not_keep_others_waiting(receiver: kvbatch.Receiver, tmp_path: Path) -> None:
    write_store(tmp_path / "source", {"default": numbered(50)})
    peers = [RawPeer(receiver.port) for _ in range(30)]
    summary = kvbatch.migrate(tmp_path / "source", f"kvbatch://127.0.0.1:{receiver.port}/copy").wait(timeout=10)
    for peer in peers:
        peer.socket.close()
    assert summary.entries == 50


@pytest.mark.parametrize("type_", [FrameType.HELLO, FrameType.DATA])
def test_peers_that_announce_much_and_send_nothing_do_not_use_up_the_memory(
    receiver: kvbatch.Receiver, tmp_path: Path, type_: FrameType
) -> None:
    """Whoever has not said HELLO yet may not hold frame memory that belongs to the jobs."""
    length = (60 << 20) if type_ == FrameType.HELLO else (127 << 20)
    write_store(tmp_path / "source", {"default": numbered(50)})
    announced = patch_header(encode_frame(type_, b""), 40, struct.pack("<QQ", length, length))
    peers = [RawPeer(receiver.port) for _ in range(5)]
    try:
        for peer in peers:
            peer.send(announced)
        summary = kvbatch.migrate(tmp_path / "source", f"kvbatch://127.0.0.1:{receiver.port}/copy").wait(timeout=10)
    finally:
        for peer in peers:
            peer.socket.close()
    assert summary.entries == 50


def test_frames_in_small_pieces_are_still_frames(receiver: kvbatch.Receiver) -> None:
    with RawPeer(receiver.port) as peer:
        for i in range(len(HELLO)):
            peer.send(HELLO[i : i + 1])
        welcome = peer.read()
    assert welcome.type == FrameType.WELCOME
    assert json.loads(welcome.payload)["role"] == "receiver"


def test_a_peer_that_does_not_close_is_not_waited_for(
    receiver: kvbatch.Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets a moment to hear why the connection ends."""
    monkeypatch.setattr("kvbatch.protocol._LAST_WORD_MILLISECONDS", 200)
    with RawPeer(receiver.port) as peer:
        peer.send_frame(FrameType.DRAIN)
        assert peer.read().type == FrameType.ERROR
        with pytest.raises((EOFError, ConnectionResetError)):
            peer.read()
