from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kvbatch._core.frame import FrameLimits, FrameType
from kvbatch._core.store import Cursor
from kvbatch.errors import ClosedError, CorruptionError, ProtocolError, RefusedError, TransportError
from kvbatch.protocol import Peer, connect, cursor_from_json, cursor_to_json
from support.wire import encode_frame


@pytest.fixture
def ends() -> Iterator[tuple[Peer, socket.socket]]:
    """A peer and the raw other end of its connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    far.settimeout(20)
    peer = Peer(near, FrameLimits())
    peer.connection.set_timeout(20_000)
    yield peer, far
    peer.close()
    far.close()


@pytest.mark.parametrize(
    "cursor",
    [
        Cursor(0),
        Cursor(3, complete=True, entries=1 << 40, raw_bytes=1 << 60, digest=bytes(range(16)), last_key=b"\0\xff"),
    ],
)
def test_a_cursor_survives_json(cursor: Cursor) -> None:
    assert cursor_from_json(cursor_to_json(cursor)) == cursor


def test_an_object_is_received_as_it_was_sent(ends: tuple[Peer, socket.socket]) -> None:
    peer, far = ends
    far.sendall(encode_frame(FrameType.REPLY, {"ü": [1, None]}) + encode_frame(FrameType.ACK, b"", sequence=1))
    assert peer.receive(FrameType.REPLY) == (FrameType.REPLY, {"ü": [1, None]})
    assert peer.receive(FrameType.REPLY, FrameType.ACK) == (FrameType.ACK, {})


@pytest.mark.parametrize("payload", [b"{", b"\xff", b"[]", b"5", b'"x"', b"null", b"[" * 50_000, b'{"a":' * 50_000])
def test_a_payload_that_is_no_object_is_corruption(ends: tuple[Peer, socket.socket], payload: bytes) -> None:
    peer, far = ends
    far.sendall(encode_frame(FrameType.REPLY, payload))
    with pytest.raises(CorruptionError, match="JSON"):
        peer.receive(FrameType.REPLY)


@pytest.mark.parametrize("type_", [FrameType.ACK, FrameType.HELLO, FrameType.DATA])
def test_another_type_is_a_protocol_error(ends: tuple[Peer, socket.socket], type_: FrameType) -> None:
    peer, far = ends
    far.sendall(encode_frame(type_, {}))
    with pytest.raises(ProtocolError, match="where REPLY was due"):
        peer.receive(FrameType.REPLY)


def test_an_error_frame_is_raised_as_what_it_says(ends: tuple[Peer, socket.socket]) -> None:
    peer, far = ends
    far.sendall(encode_frame(FrameType.ERROR, {"kind": "RefusedError", "message": "no", "retryable": True}))
    with pytest.raises(RefusedError, match=rf"^at the receiver {re.escape(peer.name)}: no$") as raised:
        peer.receive(FrameType.REPLY)
    assert raised.value.retryable


def test_an_error_that_was_sent_comes_out_the_same(ends: tuple[Peer, socket.socket]) -> None:
    peer, far = ends
    other = Peer(far.dup(), FrameLimits())
    other.send_error(CorruptionError("bits", retryable=False))
    with pytest.raises(CorruptionError, match="bits") as raised:
        peer.receive(FrameType.REPLY)
    assert not raised.value.retryable
    other.close()


def test_the_end_of_a_connection_is_closed_and_a_cut_frame_is_transport(ends: tuple[Peer, socket.socket]) -> None:
    peer, far = ends
    far.sendall(encode_frame(FrameType.REPLY, {"a": 1})[:-1])
    far.shutdown(socket.SHUT_WR)
    with pytest.raises(TransportError, match="inside a frame") as raised:
        peer.receive(FrameType.REPLY)
    assert type(raised.value) is TransportError
    with pytest.raises(ClosedError):
        peer.receive(FrameType.REPLY)


def test_a_request_reports_what_the_peer_said_before_it_closed(ends: tuple[Peer, socket.socket]) -> None:
    """It may find the connection broken before it has read why."""
    peer, far = ends
    far.sendall(encode_frame(FrameType.ERROR, {"kind": "RefusedError", "message": "full up", "retryable": False}))
    far.shutdown(socket.SHUT_RDWR)

    def ask() -> None:
        for _ in range(100):
            peer.request("finish", padding="x" * 100_000)

    with pytest.raises(RefusedError, match="full up"):
        ask()


def test_close_wakes_a_thread_that_waits(ends: tuple[Peer, socket.socket]) -> None:
    peer, _ = ends
    errors: list[Any] = []

    def wait() -> None:
        try:
            peer.receive(FrameType.REPLY)
        except TransportError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    peer.close()
    thread.join(20)
    assert len(errors) == 1


def test_a_peer_that_does_not_even_greet_is_given_up_as_early_as_a_silent_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        began = time.monotonic()
        with pytest.raises(TransportError, match="said nothing within"):
            connect("127.0.0.1", listener.getsockname()[1], "stream", silence_seconds=0.2)
        assert time.monotonic() - began < 10
