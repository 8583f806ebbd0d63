"""The receiving end of a control connection: opening and finishing jobs, digests, listings, repairs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kvbatch._core.frame import Frame, FrameLimits, FrameType
from kvbatch._core.store import TargetStore
from kvbatch.errors import ClosedError, KvbatchError, ProtocolError
from kvbatch.logs import Logger
from kvbatch.manifest import Manifest
from kvbatch.protocol import Peer, cursor_to_json, malformed_is_protocol_error, partial_file_to_json
from kvbatch.ranges import optional_bytes
from kvbatch.receiver_session import Session, resolve_name
from kvbatch.store_reader import DirectoryReader
from kvbatch.target_discard import JobIdentity
from kvbatch.target_job import OpenReply

if TYPE_CHECKING:
    from kvbatch.server import Receiver

__all__ = ["CONTROL_LIMITS", "ReceiverControl"]

log = Logger("kvbatch.receiver")

# Data frames come on streams, and in a repair.
CONTROL_LIMITS = FrameLimits(max_data_bytes=0)


def _standing(reply: OpenReply) -> dict[str, Any]:
    """Where the ranges of a job stand."""
    return {
        "cursors": [cursor_to_json(cursor) for cursor in reply.cursors],
        "partial_files": [partial_file_to_json(file) for file in reply.partial_files],
        "grafts": [cursor_to_json(cursor) for cursor in reply.grafts],
    }


class ReceiverControl:
    """Answers the requests of one control connection."""

    def __init__(self, receiver: Receiver, peer: Peer) -> None:
        self._receiver = receiver
        self._peer = peer
        self._session: Session | None = None
        self._reader: DirectoryReader | None = None
        self._visit = contextlib.ExitStack()

    def run(self) -> None:
        try:
            while True:
                self._peer.connection.wait_readable(-1)
                _, request = self._peer.receive(FrameType.REQUEST)
                operation = _OPERATIONS.get(str(request.get("operation")))
                if operation is None:
                    raise ProtocolError(f"unknown operation {request.get('operation')!r}")
                with malformed_is_protocol_error(self._peer.name, f"request {request['operation']!r}"):
                    answer = operation(self, request)
                self._peer.send(FrameType.REPLY, answer)
        except ClosedError:
            raise
        except KvbatchError as error:
            # Said before the session takes this connection down with it.
            self._peer.send_error(error)
            raise
        finally:
            self._close_reader()
            if self._session is not None:
                self._receiver.close_session(self._session)

    def _open(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._session is not None:
            raise ProtocolError("this connection has a job open already")
        manifest, sender = Manifest.from_json(request["manifest"]), str(request.get("sender", ""))
        self._session = self._receiver.open_job(request["name"], manifest, self._peer, sender)
        reply = self._session.job.reply(0)
        return {
            "session": self._session.id,
            "identity": reply.identity,
            "resumed": reply.resumed,
            "family_ids": reply.family_ids,
            "manifest": reply.manifest.to_json(),
            **_standing(reply),
        }

    def _settle(self, request: dict[str, Any]) -> dict[str, Any]:
        del request
        if self._session is None:
            raise ProtocolError("open a job first")
        self._session.end_streams()
        return _standing(self._session.job.reply(0))

    def _split(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._session is None:
            raise ProtocolError("open a job first")
        self._session.job.split(int(request["range"]), bytes.fromhex(request["key"]))
        return {}

    def _finish(self, request: dict[str, Any]) -> dict[str, Any]:
        del request
        if self._session is None:
            raise ProtocolError("finish without an open job")
        self._session.job.finish()
        # Whoever hears the answer may use the store at once.
        self._receiver.forget_session(self._session)
        log.info("job finished", job=self._session.job.manifest.job)
        return {}

    def _examine(self, request: dict[str, Any]) -> dict[str, Any]:
        return self._receiver.examine(request["name"], Manifest.from_json(request["manifest"])).to_json()

    def _discard(self, request: dict[str, Any]) -> dict[str, Any]:
        identity = JobIdentity(str(request["job"]), str(request["fingerprint"]))
        return {"outcome": self._receiver.discard(request["name"], identity).value}

    def _probe(self, request: dict[str, Any]) -> dict[str, Any]:
        """The sender measures how long its way here and back takes."""
        del request
        return {}

    def _inspect(self, request: dict[str, Any]) -> dict[str, Any]:
        path = resolve_name(self._receiver.root, request["name"])
        self._receiver.check_idle(path)
        self._close_reader()
        self._visit.enter_context(self._receiver.visitors.visit(path, alone=False))
        self._reader = DirectoryReader(path)
        return {
            "column_families": self._reader.column_families(),
            "comparators": self._reader.comparators(),
            "identity": self._reader.identity(),
            "unfinished": self._reader.unfinished(),
        }

    def _close_reader(self) -> None:
        """Nobody can write to a store while it is read here."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._visit.close()

    def _opened(self) -> DirectoryReader:
        if self._reader is None:
            raise ProtocolError("inspect a store first")
        return self._reader

    def _digest(self, request: dict[str, Any]) -> dict[str, Any]:
        start, end = optional_bytes(request["start"]), optional_bytes(request["end"])
        runs = self._opened().digest(request["column_family"], start, end, request["run_entries"])
        return {"runs": [(run.entries, run.raw_bytes, run.digest.hex(), run.last_key.hex()) for run in runs]}

    def _list(self, request: dict[str, Any]) -> dict[str, Any]:
        start, end = optional_bytes(request["start"]), optional_bytes(request["end"])
        limit = min(int(request["max_key_bytes"]), self._receiver.limits.max_control_bytes // 8)
        after = optional_bytes(request["after"])
        entries, complete = self._opened().list_entries(request["column_family"], start, end, limit, after)
        return {"entries": [(key.hex(), digest.hex()) for key, digest in entries], "complete": complete}

    def _repair(self, request: dict[str, Any]) -> dict[str, Any]:
        """Writes the DATA frames that follow, each answered, until one without entries."""
        path = resolve_name(self._receiver.root, request["name"])
        self._receiver.check_idle(path)
        self._close_reader()
        with (
            self._receiver.visitors.visit(path, alone=True),
            contextlib.closing(TargetStore(str(path), create=False)) as store,
        ):
            self._peer.connection.set_limits(self._receiver.limits)
            self._peer.send(
                FrameType.REPLY, {"family_ids": {f.name: store.family_id(f.name) for f in store.column_families}}
            )
            frame = Frame(self._receiver.pool)
            while True:
                self._peer.connection.receive(frame)
                if frame.type != FrameType.DATA:
                    raise ProtocolError("a repair is made of data frames")
                if frame.entries == 0:
                    break
                store.write(frame)
                self._peer.send(FrameType.REPLY, {})
            store.flush()
        self._peer.connection.set_limits(CONTROL_LIMITS)
        return {}


_OPERATIONS: dict[str, Callable[[ReceiverControl, dict[str, Any]], dict[str, Any]]] = {
    "open": ReceiverControl._open,
    "split": ReceiverControl._split,
    "settle": ReceiverControl._settle,
    "finish": ReceiverControl._finish,
    "examine": ReceiverControl._examine,
    "discard": ReceiverControl._discard,
    "probe": ReceiverControl._probe,
    "inspect": ReceiverControl._inspect,
    "digest": ReceiverControl._digest,
    "list": ReceiverControl._list,
    "repair": ReceiverControl._repair,
}
