"""Both ends of the protocol by hand, for peers that break it."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kvbatch._core.base import crc32c
from kvbatch._core.frame import HEADER_BYTES, FrameHeader, FrameLimits, FrameType

__all__ = ["RawPeer", "WireFrame", "encode_frame", "fake_receiver", "patch_header"]

WAIT_SECONDS = 20.0
_LIMITS = FrameLimits(max_file_bytes=64 << 20)


@dataclass(frozen=True)
class WireFrame:
    header: FrameHeader
    payload: bytes

    @property
    def type(self) -> FrameType:
        return self.header.type

    @property
    def json(self) -> Any:
        return json.loads(self.payload) if self.payload else {}


def encode_frame(type_: FrameType, payload: object = b"", **header: Any) -> bytes:
    """A correct frame, checksums included; a payload that is not bytes becomes JSON."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    fields: dict[str, Any] = {
        "type": type_,
        "raw_length": len(body),
        "payload_length": len(body),
        "payload_crc32c": crc32c(body),
        **header,
    }
    return FrameHeader(**fields).encode() + body


def patch_header(frame: bytes, offset: int, value: bytes) -> bytes:
    """The frame with other bytes in its header, whose own checksum is made to fit."""
    header = frame[:offset] + value + frame[offset + len(value) : HEADER_BYTES - 4]
    return header + struct.pack("<I", crc32c(header)) + frame[HEADER_BYTES:]


def _read_exactly(sock: socket.socket, size: int) -> bytes:
    whole = bytearray(size)
    left = memoryview(whole)
    while left:
        count = sock.recv_into(left)
        if not count:
            raise EOFError
        left = left[count:]
    return bytes(whole)


def read_frame(sock: socket.socket) -> WireFrame:
    """Raises EOFError at the end of the connection."""
    header = FrameHeader.decode(_read_exactly(sock, HEADER_BYTES), _LIMITS)
    return WireFrame(header, _read_exactly(sock, header.payload_length))


class RawPeer:
    """A connection to a receiver on which any bytes can be sent."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS)
        self._sequence = 0

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def frame(self, type_: FrameType, payload: object = b"", **header: Any) -> bytes:
        """The next frame of this connection, encoded and not yet sent."""
        header.setdefault("sequence", self._sequence)
        self._sequence += 1
        return encode_frame(type_, payload, **header)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_frame(self, type_: FrameType, payload: object = b"", **header: Any) -> None:
        self.send(self.frame(type_, payload, **header))

    def read(self) -> WireFrame:
        return read_frame(self.socket)

    def hello(self, role: str, **more: Any) -> WireFrame:
        """Shakes hands; the WELCOME, or the ERROR that came instead."""
        self.send_frame(FrameType.HELLO, {"software": "test", "protocol": 1, "role": role, "window": 1, **more})
        return self.read()

    def request(self, operation: object, **arguments: Any) -> WireFrame:
        self.send_frame(FrameType.REQUEST, {"operation": operation, **arguments})
        return self.read()

    def until_closed(self) -> list[WireFrame]:
        """What the receiver still says before it closes; fails when it does not close within WAIT_SECONDS. Like any
        sender, this one is done once it hears of an error."""
        frames = []
        try:
            while True:
                frames.append(self.read())
                if frames[-1].type == FrameType.ERROR:
                    with contextlib.suppress(OSError):  # both may be done already
                        self.socket.shutdown(socket.SHUT_WR)
        except (EOFError, ConnectionResetError):
            return frames


@contextmanager
def fake_receiver(converse: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that treats each connection as `converse` says, then closes it; its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def serve() -> None:
        while not done.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock, contextlib.suppress(OSError, EOFError):
                sock.settimeout(WAIT_SECONDS)
                converse(sock)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        done.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(WAIT_SECONDS)
