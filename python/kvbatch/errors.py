"""The exceptions of kvbatch.

KvbatchError
├── UsageError          the call makes no sense                                       exit 2
├── RefusedError        would overwrite, does not match, in use                       exit 4
├── SourceError         the source cannot be read
├── TargetError         the target cannot be written
│   ├── NoSpaceError    its disk is full: resumable once there is room                exit 75
│   └── UnavailableError  it takes no writes in its present state: resumable          exit 75
├── ProtocolError       the peer does not speak this protocol, or not in this order
├── CorruptionError     bytes fail their checksum or their structure
├── GapError            the write-ahead log of a live source has a gap
├── TransportError      the connection broke or timed out: retryable                  exit 75
│   └── ClosedError     the peer ended the conversation
└── StoppedError        stopped on request: resumable                                 exit 75
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = [
    "ERROR_KINDS",
    "ClosedError",
    "CorruptionError",
    "GapError",
    "KvbatchError",
    "NoSpaceError",
    "ProtocolError",
    "RefusedError",
    "SourceError",
    "StoppedError",
    "TargetError",
    "TransportError",
    "UnavailableError",
    "UsageError",
    "error_for_kind",
]


class KvbatchError(Exception):
    """Base of all. `retryable`: the same attempt may work by itself a moment later. `final`: nothing carries this job
    on; the message says what to do instead. `changes`: options, by their names in Python, with which the same command
    would go on."""

    exit_code: ClassVar[int] = 1
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str = "",
        *,
        retryable: bool | None = None,
        final: bool = False,
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.final = final
        self.changes = changes or {}
        self.retryable = self.default_retryable if retryable is None else retryable

    @property
    def resumable(self) -> bool:
        """The job stands where it stood and the same command carries on."""
        return self.exit_code == 75


class UsageError(KvbatchError):
    """The call makes no sense; nothing was done."""

    exit_code = 2


class RefusedError(KvbatchError):
    """Doing it would overwrite or mix up data, or somebody else has the store open; nothing was done."""

    exit_code = 4


class SourceError(KvbatchError):
    """The source cannot be read; the message names the file at fault."""


class TargetError(KvbatchError):
    """The target cannot be written."""


class NoSpaceError(TargetError):
    """The target's disk is full, or that of stdout. Nothing is lost; the job goes on once there is room."""

    exit_code = 75


class UnavailableError(TargetError):
    """The target takes no writes in the state that it is in. Nothing is lost; the job goes on once that is another."""

    exit_code = 75


class ProtocolError(KvbatchError):
    """The peer does not speak this protocol, or not in this order."""


class CorruptionError(KvbatchError):
    """Bytes fail their checksum or their structure; none of them was applied."""

    # What was wrong on the wire may well be right the next time; the number of attempts is bounded.
    default_retryable = True


class GapError(KvbatchError):
    """The write-ahead log of a live source has a gap; a new base is needed."""


class TransportError(KvbatchError):
    """The connection broke or timed out."""

    exit_code = 75
    default_retryable = True


class ClosedError(TransportError):
    """The peer ended the conversation, or this side did."""


class StoppedError(KvbatchError):
    """The job was stopped on request and can be resumed."""

    exit_code = 75


_KINDS: dict[str, type[KvbatchError]] = {
    kind.__name__: kind
    for kind in (
        UsageError,
        RefusedError,
        SourceError,
        TargetError,
        NoSpaceError,
        UnavailableError,
        ProtocolError,
        CorruptionError,
        GapError,
        TransportError,
        ClosedError,
        StoppedError,
    )
}

# The name of every class, which is what an error is called on the wire and in metrics.
ERROR_KINDS = (KvbatchError.__name__, *_KINDS)


def error_for_kind(kind: str, message: str, *, retryable: bool) -> KvbatchError:
    """The exception that a peer's error frame stands for; an unknown kind is a plain KvbatchError."""
    return _KINDS.get(kind, KvbatchError)(message, retryable=retryable)
