"""A running Kvrocks server as target: batches go there as APPLYBATCH, one behind the other on one connection."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from kvbatch._core.codec import Codec
from kvbatch._core.frame import Frame
from kvbatch._core.store import (
    BatchRun,
    BuiltPiece,
    Cursor,
    ElementTypes,
    RangeReader,
    SourceStore,
    SstBuilder,
    send_apply_batch,
)
from kvbatch.endpoints import KvrocksEndpoint
from kvbatch.errors import CorruptionError, KvbatchError, ProtocolError, RefusedError, TransportError
from kvbatch.findings import Finding
from kvbatch.flow.batch_state import MAX_IN_FLIGHT_BYTES
from kvbatch.flow.stream_meter import HEALTH_SECONDS, StreamMeter
from kvbatch.flow.throttle import ThrottleReason
from kvbatch.kvrocks.client import KvrocksClient, info_fields
from kvbatch.kvrocks.kept_cursors import KeptCursors
from kvbatch.kvrocks.keys import FAMILIES, METADATA
from kvbatch.kvrocks.opening import delete_selected, look_at_server
from kvbatch.kvrocks.preflight import server_sequence
from kvbatch.kvrocks.source import KvrocksSource
from kvbatch.manifest import Manifest
from kvbatch.protocol import SILENCE_SECONDS, malformed_is_protocol_error
from kvbatch.ranges import Range
from kvbatch.target import FileSums
from kvbatch.target_job import FileTotals, OpenReply

__all__ = ["KvrocksSession", "KvrocksStream"]

# Who reads the server's log of writes command by command, as its migration in that mode does, takes puts for what the
# log record before them says: 1 strings, 5 sorted sets, 8 streams. In `default` elements of all types are mixed.
_LOG_DATA = {METADATA: b"1", "zset_score": b"5", "stream": b"8"}
# A server may take a second more to answer for each of these that a batch has.
_BYTES_PER_SECOND = 1 << 20
# However large batches are, one is on its way while another is applied.
_LEAST_WINDOW = 2
# A stream that ends waits so long for what is under way.
_CLOSE_SECONDS = 2.0
# RocksDB counts how often it has held writers up, by column family and reason.
_STOPPED, _SLOWED = ("limit_stop[", "bytes_stop["), ("limit_slowdown[", "bytes_slowdown[")


@dataclass(slots=True)
class _Sent:
    """A batch without a reply: where its range stands behind it, and what the server is to answer."""

    cursor: Cursor
    raw_length: int
    length: int
    at: float


class _Health:
    """What the server says of its RocksDB, as the fields of _core.store.TargetHealth. It does not tell how near it is
    to holding writers up, but how often it did: once more since the last look is what counts."""

    def __init__(self) -> None:
        self._before: tuple[int, int] | None = None

    def read(self, rocksdb: bytes) -> dict[str, int]:
        fields = info_fields(rocksdb)

        def count(kinds: tuple[str, ...]) -> int:
            return sum(int(value) for name, value in fields.items() if any(kind in name for kind in kinds))

        now = (count(_STOPPED), count(_SLOWED))
        stopped, slowed = (value > before for value, before in zip(now, self._before or now, strict=True))
        self._before = now
        # The rate that is left to writers is not among what it says.
        return {"write_stopped": int(stopped), "delayed_write_rate": int(slowed)}


class KvrocksStream:
    """Keeps as many batches unanswered as the meter's window says, fewer where they are so large that this would be
    more than MAX_IN_FLIGHT_BYTES. A cursor is kept, and durable for the job, once the replies that speak for it came;
    what the server has applied it writes to its disk when it sees fit."""

    def __init__(self, session: KvrocksSession, client: KvrocksClient, meter: StreamMeter) -> None:
        self._session = session
        self._client = client
        self._wire = client.wire
        self._meter = meter
        self._log_data = b""
        self._types: ElementTypes | None = None
        self._family = 0
        self._cursor = Cursor(0)
        self._in_flight: deque[_Sent] = deque()
        self._patience = -1  # seconds for the largest batch so far
        self._replied_at = 0.0
        self._durable: dict[int, Cursor] = {}
        self._failed = False
        self._wire.set_rate_limiter(meter.limiter)
        meter.note_link(session.round_trip_seconds)

    @property
    def wire_bytes(self) -> int:
        """Without replies, which are a few bytes each."""
        return self._wire.bytes_sent

    @property
    def sent_bytes(self) -> int:
        return self._wire.bytes_sent

    @property
    def network_seconds(self) -> float:
        return self._wire.send_seconds

    def begin(self, part: Range, offset: int = 0) -> None:
        del offset
        # A batch that the server refuses does not keep it from taking the next one, which may hold what belongs to it.
        if self._family == FAMILIES[METADATA] and part.column_family != METADATA:
            self.drain()
        self._log_data = _LOG_DATA.get(part.column_family, b"")
        self._types = None if self._log_data else self._session.element_types()
        self._family = FAMILIES[part.column_family]
        self._cursor = self._session.cursor(part.id)

    def put(self, frame: Frame, digest: bytes) -> None:
        raw_length = frame.raw_length
        self._allow(raw_length)
        try:
            sent = send_apply_batch(self._wire, frame, self._log_data, {self._family}, self._types)
        except TransportError:
            # A server that closes the connection may have said why.
            self.drain()
            raise
        self._cursor = Cursor(
            self._cursor.range,
            entries=self._cursor.entries + sent.entries,
            raw_bytes=self._cursor.raw_bytes + sent.raw_bytes,
            digest=digest,
            last_key=sent.last_key,
        )
        self._in_flight.append(_Sent(self._cursor, raw_length, sent.length, time.monotonic()))
        self._meter.sent(raw_length)
        self._take_replies(self._window(raw_length))
        self._look_at_health()

    def put_run(
        self,
        frame: Frame,
        reader: RangeReader,
        *,
        batch_bytes: int,
        codec: Codec,
        frames: int,
        mark: memoryview,
        sent_bytes: int,
    ) -> BatchRun:
        del frames, mark, sent_bytes
        self.put(frame, reader.digest)
        return BatchRun(reader.fill(frame, batch_bytes, codec))

    def put_file(self, fd: int, offset: int, length: int, name: str, sums: FileSums) -> FileSums:
        _takes_no_files(fd, offset, length, name, sums)

    def put_piece(self, builder: SstBuilder, piece: BuiltPiece, digest: bytes, skip: int = 0) -> bytes:
        _takes_no_files(builder, piece, digest, skip)

    def end_file(self, totals: FileTotals) -> None:
        _takes_no_files(totals)

    def link_file(self, path: str) -> None:
        _takes_no_files(path)

    def end(self, entries: int, raw_bytes: int, digest: bytes) -> None:
        cursor = self._cursor
        if (entries, raw_bytes, digest) != (cursor.entries, cursor.raw_bytes, cursor.digest):
            raise CorruptionError(
                f"range {cursor.range}: what was sent is not what was read: memory changed on the way"
            )
        complete = Cursor(
            cursor.range,
            complete=True,
            entries=entries,
            raw_bytes=raw_bytes,
            digest=digest,
            last_key=cursor.last_key,
        )
        if self._in_flight and self._in_flight[-1].cursor.range == cursor.range:
            self._in_flight[-1].cursor = complete
        else:
            self._keep({complete.range: complete})

    def heartbeat(self) -> None:
        self._take_replies()
        self._session.ask_health(self._meter)

    def take_durable(self) -> list[Cursor]:
        durable, self._durable = self._durable, {}
        return list(durable.values())

    def drain(self) -> None:
        self._take_replies(1)

    def interrupt(self) -> None:
        self._client.close()

    def close(self) -> None:
        deadline = time.monotonic() + _CLOSE_SECONDS
        with suppress(KvbatchError):
            while self._in_flight and not self._failed and self._wire.wait_readable(_milliseconds_until(deadline)):
                self._take_replies()
        self._client.close()

    def _allow(self, raw_length: int) -> None:
        """Before a batch: the server has time for it."""
        patience = -(-raw_length // _BYTES_PER_SECOND)
        if patience > self._patience:
            self._patience = patience
            self._wire.set_timeout(round(1000 * (self._session.silence_seconds + patience)))

    def _window(self, raw_length: int) -> int:
        """With the batch that was just sent, from how many on there are too many."""
        fitting = max(_LEAST_WINDOW, MAX_IN_FLIGHT_BYTES // max(1, raw_length))
        return min(self._meter.window, fitting)

    def _take_replies(self, limit: int | None = None) -> None:
        """Those that are there; waits for more while `limit` batches are unanswered."""
        answered: dict[int, Cursor] = {}
        try:
            while self._in_flight and self._client.has_reply():
                self._take_reply(answered)
            if limit is not None and len(self._in_flight) >= limit:
                with self._meter.ledger.waiting(self._meter.stream, ThrottleReason.WINDOW):
                    while len(self._in_flight) >= limit:
                        self._take_reply(answered)
        except KvbatchError as error:
            self._failed = True
            if isinstance(error, CorruptionError):
                self._session.note_broken(error)
            raise
        finally:
            if answered:
                self._keep(answered)

    def _take_reply(self, answered: dict[int, Cursor]) -> None:
        oldest = self._in_flight[0]
        reply = self._client.reply(oldest.raw_length / _BYTES_PER_SECOND)
        if reply != oldest.length:
            raise ProtocolError(f"{self._client.name} answered {reply!r} to a batch of {oldest.length} bytes")
        now = time.monotonic()
        # It answers in turn: what it had of the batch before took until that was answered.
        ack = {"frames": 1, "apply_seconds": now - max(oldest.at, self._replied_at)}
        self._meter.acknowledged(now - oldest.at, oldest.raw_length, ack)
        self._replied_at = now
        self._in_flight.popleft()
        answered[oldest.cursor.range] = oldest.cursor

    def _keep(self, cursors: dict[int, Cursor]) -> None:
        self._session.keep(list(cursors.values()))
        self._durable |= cursors

    def _look_at_health(self) -> None:
        if time.monotonic() >= self._meter.health_at + HEALTH_SECONDS:
            self._session.look_at_health(self._meter)


def _milliseconds_until(deadline: float) -> int:
    return max(0, round(1000 * (deadline - time.monotonic())))


def _takes_no_files(*what: object) -> NoReturn:
    del what
    raise RefusedError("a Kvrocks server takes batches and no files; migrate with --lane batch")


class KvrocksSession:
    """A job at a server. Its streams are one at a time; `findings` are those of the preflight."""

    def __init__(
        self,
        endpoint: KvrocksEndpoint,
        manifest: Manifest,
        store: SourceStore,
        source: KvrocksSource,
        state_dir: Path,
        *,
        overwrite: bool = False,
        silence_seconds: float = SILENCE_SECONDS,
        on_connected: Callable[[KvrocksClient], None] | None = None,
    ) -> None:
        """Connects, looks at the server and takes up the job, or begins it: with `overwrite` by deleting what stands
        where `source` goes. Raises RefusedError, before anything was sent, for a job that is done too, and what
        KvrocksClient raises."""
        self.silence_seconds = silence_seconds
        self._endpoint = endpoint
        self._store = store
        self._slot_encoded = bool(source.slot_encoded)
        self._health = _Health()
        self._asked_health = False
        self._kept = KeptCursors(state_dir, manifest.job)
        try:
            self._client = KvrocksClient(endpoint, silence_seconds, on_connected=on_connected)
        except BaseException:
            self._kept.close()
            raise
        try:
            self._open(manifest, source, overwrite)
        except BaseException:
            self.close()
            raise

    def _open(self, manifest: Manifest, source: KvrocksSource, overwrite: bool) -> None:
        began = time.monotonic()
        self._client.ask("PING")
        self.round_trip_seconds = time.monotonic() - began
        kept = self._kept.find()
        state, preflight = look_at_server(
            self._client, self._endpoint, manifest, source, kept, overwrite, self.silence_seconds
        )
        if state.kind == "finished":
            raise RefusedError(
                f"job {manifest.job} was finished before, and {self._endpoint} still holds keys. Nothing was sent; "
                "--overwrite sends it anew"
            )
        self.findings: list[Finding] = preflight.findings
        if kept is None or state.kind != "resumable":
            kept = None
            if state.kind == "overwritten":
                delete_selected(self._client, source)
            with malformed_is_protocol_error(self._client.name, "answer to INFO"):
                sequence = server_sequence(self._client)
            self._kept.begin(str(self._endpoint), manifest, sequence)
            cursors: tuple[Cursor, ...] = ()
        else:
            manifest, cursors = kept.manifest, kept.cursors
        self._reply = OpenReply(
            identity=str(self._endpoint),
            resumed=kept is not None,
            family_ids={name: FAMILIES[name] for name in source.families},
            manifest=manifest,
            cursors=cursors,
            # The rest is for log records, of which there may be one for each key.
            max_frame_bytes=preflight.bulk_bytes * 3 // 4,
            frame_limit=f"the server's proto-max-bulk-len {preflight.bulk_bytes}",
        )
        self._cursors = {cursor.range: cursor for cursor in cursors}

    @property
    def reply(self) -> OpenReply:
        return self._reply

    def stream(self, index: int, meter: StreamMeter | None = None) -> KvrocksStream:
        return KvrocksStream(self, KvrocksClient(self._endpoint, self.silence_seconds), meter or StreamMeter(index))

    def cursor(self, range_id: int) -> Cursor:
        """Where a range goes on."""
        return self._cursors.get(range_id, Cursor(range_id))

    def element_types(self) -> ElementTypes:
        """For one range of elements."""
        return ElementTypes(self._store, self._slot_encoded)

    def keep(self, cursors: list[Cursor]) -> None:
        """The server has applied all up to these."""
        self._kept.note(cursors)
        self._cursors |= {cursor.range: cursor for cursor in cursors}

    def note_broken(self, error: CorruptionError) -> None:
        self._kept.note_broken(str(error))

    def look_at_health(self, meter: StreamMeter) -> None:
        """Asks the server how it is, and hears what it said when it was asked before; never waits."""
        if self._asked_health and self._client.has_reply():
            self._asked_health = False
            self._note_health(meter)
        elif not self._asked_health:
            self._client.send("INFO", "rocksdb")
            self._asked_health = True

    def ask_health(self, meter: StreamMeter) -> None:
        """The same, but waits for the answer."""
        if not self._asked_health:
            self._client.send("INFO", "rocksdb")
        self._asked_health = False
        self._note_health(meter)

    def _note_health(self, meter: StreamMeter) -> None:
        with malformed_is_protocol_error(self._client.name, "answer to INFO"):
            meter.note_health(self._health.read(self._client.reply()))

    def split(self, range_id: int, key: bytes) -> Range:
        del range_id, key
        raise RefusedError("a Kvrocks server is written through one connection, with nobody to share a range with")

    def settle(self, seconds: float) -> OpenReply:
        del seconds
        return dataclasses.replace(self._reply, cursors=tuple(self._cursors.values()))

    def finish(self) -> None:
        self._kept.note_finished()

    def close(self) -> None:
        self._client.close()
        self._kept.close()
