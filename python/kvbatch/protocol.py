"""The conversation between sender and receiver, on top of frames. docs/wire-format.md has the page.

Control payloads are JSON objects. Every connection starts with HELLO and WELCOME; a control connection goes on with
REQUEST and REPLY, a stream connection with RANGE_BEGIN, DATA, RANGE_END and DRAIN one way and ACK the other. ERROR ends
any of them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from kvbatch._core.frame import PROTOCOL_VERSION, BufferPool, Frame, FrameLimits, FrameType
from kvbatch._core.store import Cursor, PartialFile
from kvbatch._core.wire import Connection
from kvbatch.endpoints import format_address
from kvbatch.errors import CorruptionError, KvbatchError, ProtocolError, TransportError, UsageError, error_for_kind
from kvbatch.version import __version__

__all__ = [
    "MALFORMED",
    "Peer",
    "connect",
    "cursor_from_json",
    "cursor_to_json",
    "decode_payload",
    "hello",
    "ignore_peer",
    "malformed_is_protocol_error",
    "partial_file_from_json",
    "partial_file_to_json",
]

CONTROL_POOL_BYTES = 64 << 20
_SOCKET_BUFFER_BYTES = 4 << 20
_CONNECT_SECONDS = 10.0
# There is no such name, or it has no address; EAI_AGAIN and the like are faults of the resolver, which pass.
_NO_SUCH_HOST = (socket.EAI_NONAME, socket.EAI_NODATA)
# Nobody listens there, or no way leads there.
_NOT_REACHED = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)
# A greeting is no work for a receiver, and has as long as the connection itself.
_WELCOME_MILLISECONDS = 10_000
# A resolver that does not know one of these any more has a fault too.
_reached_hosts: set[str] = set()
# A dead peer is noticed by TCP itself; a silent but living one after this long. A receiver that is at work says every
# HEARTBEAT_SECONDS that it is, so that slow is not taken for dead.
SILENCE_SECONDS = 60.0
# What a receiver gives a sender to go on with a frame that has begun.
SENDER_SILENCE_MILLISECONDS = 300_000
# A peer that does not close gets this long to hear why the connection ends.
_LAST_WORD_MILLISECONDS = 5_000
# A larger buffer goes back to the pool as soon as it is read.
_KEPT_FRAME_BYTES = 64 << 10
# What a peer may still have under way when it closes: acks.
_MAX_LEFT_OVER_FRAMES = 2048
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 20), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 4))


# What taking a peer's JSON apart raises when something is missing there or of another type.
MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError)


@contextlib.contextmanager
def malformed_is_protocol_error(peer: str, what: str) -> Iterator[None]:
    """For the code that takes a peer's JSON apart: it is the peer's fault."""
    try:
        yield
    except MALFORMED as error:
        raise ProtocolError(f"{peer} sent a malformed {what}: {error!r}") from error


def cursor_to_json(cursor: Cursor) -> dict[str, Any]:
    return {
        "range": cursor.range,
        "complete": cursor.complete,
        "entries": cursor.entries,
        "raw_bytes": cursor.raw_bytes,
        "digest": cursor.digest.hex(),
        "last_key": cursor.last_key.hex(),
    }


def cursor_from_json(value: dict[str, Any]) -> Cursor:
    return Cursor(
        value["range"],
        complete=value["complete"],
        entries=value["entries"],
        raw_bytes=value["raw_bytes"],
        digest=bytes.fromhex(value["digest"]),
        last_key=bytes.fromhex(value["last_key"]),
    )


def partial_file_to_json(file: PartialFile) -> dict[str, Any]:
    return {"range": file.range, "length": file.length, "crc32c": file.crc32c}


def partial_file_from_json(value: dict[str, Any]) -> PartialFile:
    return PartialFile(value["range"], value["length"], value["crc32c"])


def tune(sock: socket.socket) -> None:
    sock.setblocking(True)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER_BYTES)


class Peer:
    """The other end of a connection. Errors it reports are raised here; see kvbatch.errors. `greeting_seconds`: from
    HELLO to WELCOME, a round trip and a little; 0 for who was greeted."""

    def __init__(self, sock: socket.socket, limits: FrameLimits, pool: BufferPool | None = None) -> None:
        tune(sock)
        host, port, *_ = sock.getpeername()
        self.name = f"{host}:{port}"
        self.connection = Connection(sock.detach(), self.name, limits)
        self.greeting_seconds = 0.0
        self._frame = Frame(pool or BufferPool(CONTROL_POOL_BYTES))
        self._told = False

    def send(self, type_: FrameType, value: dict[str, Any] | None = None, *, stream: int = 0, range_: int = 0) -> None:
        payload = b"" if value is None else json.dumps(value, separators=(",", ":")).encode()
        self.connection.send_control(type_, payload, stream, range_)

    def receive(self, *expected: FrameType) -> tuple[FrameType, dict[str, Any]]:
        """The next control frame, which must be of an expected type. ERROR frames are raised as what they say, a
        HEARTBEAT that was not expected only says that the peer is at work."""
        while True:
            self.connection.receive(self._frame)
            type_ = self._frame.type
            if type_ != FrameType.HEARTBEAT or FrameType.HEARTBEAT in expected:
                break
        if type_ == FrameType.DATA:
            raise ProtocolError(f"{self.name} sent a data frame where {_names(expected)} was due")
        value = decode_payload(self._frame)
        if self._frame.raw_length > _KEPT_FRAME_BYTES:
            self._frame.release()
        if type_ == FrameType.ERROR:
            # Its paths are of its machine. Receivers alone report errors.
            message = f"at the receiver {self.name}: {value.get('message')}"
            raise error_for_kind(str(value.get("kind")), message, retryable=bool(value.get("retryable")))
        if type_ not in expected:
            raise ProtocolError(f"{self.name} sent {type_.name} where {_names(expected)} was due")
        return type_, value

    def release(self) -> None:
        """Gives back its memory. For the thread that receives."""
        self._frame.release()

    def send_error(self, error: KvbatchError) -> None:
        """Tells the peer why this ends, if it still listens; once."""
        if self._told:
            return
        self._told = True
        with contextlib.suppress(TransportError):
            self.send(
                FrameType.ERROR,
                {"kind": type(error).__name__, "message": str(error), "retryable": error.retryable},
            )

    def linger(self) -> None:
        """Lets the peer hear what was said last: what it has under way is dropped until it closes."""
        self.connection.linger(_LAST_WORD_MILLISECONDS)

    def request(self, operation: str, **arguments: Any) -> dict[str, Any]:
        try:
            self.send(FrameType.REQUEST, {"operation": operation, **arguments})
        except TransportError as error:
            self.raise_reported(error)
        return self.receive(FrameType.REPLY)[1]

    def send_frame(self, frame: Frame) -> None:
        """Sends a data frame; when the peer is gone, raises what it said last."""
        try:
            self.connection.send(frame)
        except TransportError as error:
            self.raise_reported(error)

    def raise_reported(self, broken: TransportError) -> NoReturn:
        """A peer that reports an error closes behind it: what it said tells more than the broken pipe."""
        for _ in range(_MAX_LEFT_OVER_FRAMES):
            try:
                self.receive(FrameType.ACK, FrameType.REPLY)
            except TransportError:
                break
        raise broken from None

    def close(self) -> None:
        self.connection.shutdown()


def decode_payload(frame: Frame) -> dict[str, Any]:
    """The JSON object of a control frame. Raises CorruptionError."""
    payload = frame.raw()
    if not payload:
        return {}
    try:
        value = json.loads(payload.decode())
    except (ValueError, RecursionError) as error:
        raise CorruptionError(f"control frame without valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CorruptionError("control frame whose JSON is no object")
    return value


def _names(types: tuple[FrameType, ...]) -> str:
    return " or ".join(type_.name for type_ in types)


def hello(role: str, **more: Any) -> dict[str, Any]:
    return {"software": f"kvbatch {__version__}", "protocol": PROTOCOL_VERSION, "role": role, **more}


def ignore_peer(peer: Peer) -> None:
    del peer


def connect(
    host: str,
    port: int,
    role: str,
    *,
    on_connected: Callable[[Peer], None] = ignore_peer,
    silence_seconds: float | None = None,
    **more: Any,
) -> tuple[Peer, dict[str, Any]]:
    """Connects and shakes hands; the peer and its WELCOME. A peer that is silent for `silence_seconds` is given up, one
    that does not greet no later than after 10 seconds. `on_connected` gets the peer before anything is waited for, so
    that another thread can close it. Raises UsageError for a host that does not exist, TransportError, ProtocolError.
    """
    try:
        sock = socket.create_connection((host, port), timeout=_CONNECT_SECONDS)
    except OSError as error:
        if isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_HOST and host not in _reached_hosts:
            raise UsageError(f"there is no host {host!r}: {error.strerror}") from error
        absent = isinstance(error, TimeoutError) or error.errno in _NOT_REACHED
        advice = ". Start the receiver there, or correct host and port" if absent else ""
        raise TransportError(f"connect to {format_address(host, port)}: {error.strerror or error}{advice}") from error
    _reached_hosts.add(host)
    peer = Peer(sock, FrameLimits(max_data_bytes=0))
    try:
        on_connected(peer)
        silence = round(1000 * (silence_seconds or SILENCE_SECONDS))
        patience = min(_WELCOME_MILLISECONDS, silence)
        peer.connection.set_timeout(patience)
        began = time.monotonic()
        peer.send(FrameType.HELLO, hello(role, **more))
        if not peer.connection.wait_readable(patience):
            raise TransportError(
                f"{peer.name} took the connection and said nothing within {patience / 1000:g} s: what answers there "
                "may be no kvbatch receiver. Check host and port"
            )
        welcome = peer.receive(FrameType.WELCOME)[1]
        peer.greeting_seconds = time.monotonic() - began
        peer.connection.set_timeout(silence)
    except BaseException:
        peer.close()
        raise
    return peer, welcome
