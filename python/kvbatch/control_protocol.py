"""What is said at the control socket of a running job: one request and one answer a connection, each a JSON object in
one line.

request  {"request": "status" | "pause" | "resume" | "cancel"}
         {"request": "set", "changes": {name: value, ...}}
answer   {"ok": true, "state": ..., "settings": {...}, "progress": {...}}
         {"ok": false, "kind": "UsageError", "message": ..., "retryable": false}

An answer to a request that was fulfilled says what is valid behind it. `kind` is the name of an exception in
kvbatch.errors.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from kvbatch.errors import KvbatchError, ProtocolError, UsageError, error_for_kind

__all__ = [
    "MAX_ANSWER_BYTES",
    "MAX_REQUEST_BYTES",
    "ControlRequest",
    "decode_answer",
    "decode_request",
    "encode_error",
    "encode_line",
    "peer_uid",
    "short_address",
]

MAX_REQUEST_BYTES = 64 << 10
# Below the buffer that a Unix socket has from the kernel, so that an answer never waits for who reads it.
MAX_ANSWER_BYTES = 128 << 10
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid

Verb = Literal["status", "pause", "resume", "cancel", "set"]


@dataclass(frozen=True, slots=True)
class ControlRequest:
    """`changes` are the settings that `set` changes, by the names of kvbatch.flow.settings.JobSettings."""

    verb: Verb
    changes: Mapping[str, int | str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        more = {"changes": dict(self.changes)} if self.verb == "set" else {}
        return {"request": self.verb, **more}


def encode_line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def encode_error(error: KvbatchError) -> bytes:
    return encode_line({"ok": False, "kind": type(error).__name__, "message": str(error), "retryable": error.retryable})


def _decode_object(line: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{what} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ProtocolError(f"{what} is no JSON object")
    return value


def decode_request(line: bytes) -> ControlRequest:
    """Raises ProtocolError for what is no request, UsageError for changes that cannot be any."""
    value = _decode_object(line, "the request")
    verb = value.get("request")
    if not isinstance(verb, str) or verb not in get_args(Verb):
        raise ProtocolError(f"unknown request {verb!r}; there are {', '.join(get_args(Verb))}")
    expected = {"request", "changes"} if verb == "set" else {"request"}
    if value.keys() - expected:
        raise ProtocolError(f"the request {verb!r} takes no {sorted(value.keys() - expected)[0]!r}")
    changes = value.get("changes", {})
    if not isinstance(changes, dict) or not all(type(each) in (int, str) for each in changes.values()):
        raise ProtocolError("the changes of a `set` are names with numbers or text")
    if verb == "set" and not changes:
        raise UsageError("nothing to set: name at least one setting and its new value")
    return ControlRequest(verb, changes)  # type: ignore[arg-type]


def decode_answer(line: bytes) -> dict[str, Any]:
    """The fields of an answer. Raises the error that it tells of, ProtocolError when it is none."""
    value = _decode_object(line, "the job's answer")
    if value.get("ok") is not True:
        raise error_for_kind(
            str(value.get("kind")), str(value.get("message")), retryable=value.get("retryable") is True
        )
    if not isinstance(value.get("state"), str):
        raise ProtocolError("the job's answer has no state")
    if not isinstance(value.get("settings"), dict) or not isinstance(value.get("progress"), dict):
        raise ProtocolError("the job's answer has no settings or no progress")
    return value


def peer_uid(sock: socket.socket) -> int:
    """The user at the other end of a Unix socket, as the kernel saw it when it connected or listened."""
    _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(uid)


@contextmanager
def short_address(path: Path) -> Iterator[str]:
    """Another name for a socket, which fits into the 108 bytes of an address however long `path` is. Raises OSError."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
