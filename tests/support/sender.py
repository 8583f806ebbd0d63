"""The sender's half of a job, a call at a time, for tests of what stands at the other end."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kvbatch
from kvbatch._core.codec import Codec
from kvbatch._core.frame import BufferPool, Frame
from kvbatch._core.store import Cursor, RangeReader, SourceStore, StopReason
from kvbatch.compression import CodecChooser
from kvbatch.fingerprint import fingerprint_directory
from kvbatch.flow.job_flow import JobFlow
from kvbatch.flow.settings import JobSettings
from kvbatch.flow.stream_meter import StreamMeter
from kvbatch.flow.throttle import ThrottleLedger
from kvbatch.job_stream import JobStream
from kvbatch.manifest import Manifest
from kvbatch.range_queue import RangeQueue
from kvbatch.ranges import Range, Selection
from kvbatch.sent_log import SentLog
from kvbatch.stream_counters import StreamCounters
from kvbatch.target import FILE_PIECE_BYTES, FileSums, TargetSession, TargetStream
from kvbatch.target_local import LocalSession
from support.places import Place

__all__ = ["KEYED_WAYS", "WAYS", "SmallSource", "Totals", "put_pieces"]

# How a range may travel: the lanes, and in the lane `sst` files that the sender builds or the source's own.
WAYS = ("batch", "built", "grafted", "files")
# A range is a range of keys, not a file of a store that comes as a whole.
KEYED_WAYS = ("batch", "built", "grafted")


def put_pieces(source: Path, place: Place, pieces: int) -> Path:
    """Leaves a job of the lane `files` with the first pieces of the largest file; that partial file."""
    plan = kvbatch.plan(source, place.endpoint(), lane="files")
    session = LocalSession(place.path(), plan.manifest, 1 << 20)
    stream = session.stream(0)
    part = max(plan.ranges, key=lambda part: part.file_bytes)
    assert part.file_bytes > pieces * FILE_PIECE_BYTES
    stream.begin(part)
    sums = FileSums()
    with (source / part.file).open("rb") as file:
        for number in range(pieces):
            offset = number * FILE_PIECE_BYTES
            sums = stream.put_file(file.fileno(), offset, FILE_PIECE_BYTES, part.file, sums)
    stream.close()
    session.close()
    return place.root / ".target.kvbatch" / f"{part.file}.partial"


@dataclass
class Totals:
    """What was read of a range so far."""

    entries: int = 0
    raw_bytes: int = 0
    digest: bytes = bytes(16)


@dataclass
class SmallSource:
    """A store and the manifest of a job that moves it, with ranges as given, (family, start, end), unless they are
    files. A call at a time there are batches only."""

    path: Path
    bounds: Sequence[tuple[str, bytes | None, bytes | None]]
    job: str = "contract"
    batch_bytes: int = 4096
    codec: Codec = Codec.NONE
    options: dict[str, Any] = field(default_factory=dict)
    way: str = "batch"

    def __post_init__(self) -> None:
        self.store = SourceStore(str(self.path))
        if self.way in ("grafted", "files"):
            lane: dict[str, Any] = {"lane": "sst", "graft_bytes": 1} if self.way == "grafted" else {"lane": "files"}
            plan = kvbatch.plan(self.path, self.path.parent / "nowhere", job=self.job, **lane)
            self.manifest = dataclasses.replace(plan.manifest, **self.options)
            self.ranges = plan.ranges
            return
        self.ranges = tuple(Range(i, *bound) for i, bound in enumerate(self.bounds))
        self.manifest = Manifest(
            job=self.job,
            source=str(self.path),
            fingerprint=fingerprint_directory(self.path),
            lane="sst" if self.way == "built" else "batch",
            selection=Selection(),
            families=tuple(self.store.column_families),
            ranges=self.ranges,
            **self.options,
        )

    def frames(
        self, part: Range, family_id: int, *, after: Cursor | None = None, totals: Totals | None = None
    ) -> Iterator[tuple[Frame, RangeReader]]:
        """The batches of a range behind a cursor; `totals` is brought forward with them."""
        totals = totals if totals is not None else Totals()
        if after is not None:
            totals.entries, totals.raw_bytes, totals.digest = after.entries, after.raw_bytes, after.digest
        reader = RangeReader(
            self.store,
            part.column_family,
            part.start,
            part.end,
            after=after.last_key if after is not None and after.entries else None,
            target_family=family_id,
            digest=totals.digest,
        )
        frame = Frame(BufferPool(8 << 20))
        while True:
            filled = reader.fill(frame, self.batch_bytes, self.codec)
            if filled.entries:
                totals.entries += filled.entries
                totals.raw_bytes += filled.raw_bytes
                totals.digest = reader.digest
                yield frame, reader
            if filled.stop == StopReason.END:
                return

    def put(
        self,
        session: TargetSession,
        stream: TargetStream,
        part: Range,
        *,
        after: Cursor | None = None,
        limit: int | None = None,
    ) -> Totals:
        """Begins a range and puts its batches, or the first `limit` of them, without ending it."""
        totals = Totals()
        stream.begin(part)
        for number, (frame, reader) in enumerate(
            self.frames(part, session.reply.family_ids[part.column_family], after=after, totals=totals), start=1
        ):
            stream.put(frame, reader.digest)
            if number == limit:
                break
        return totals

    def move(self, session: TargetSession, parts: Sequence[Range] | None = None) -> list[Cursor]:
        """Moves ranges whole over one stream, behind the cursors of the reply, as a job does; what became durable."""
        cursors = {cursor.range: cursor for cursor in session.reply.cursors}
        wanted = self.ranges if parts is None else parts
        durable: list[Cursor] = []
        stream = JobStream(
            index=0,
            source=self.store,
            session=session,
            queue=RangeQueue([part for part in wanted if part.id not in cursors or not cursors[part.id].complete]),
            cursors=cursors,
            # A directory cannot keep it: it counts in memory.
            sent=SentLog(self.path, len(self.ranges), anew=True, on_lost=lambda error: None),
            pool=BufferPool(8 << 20),
            flow=JobFlow(JobSettings(), self.store.read_limiter, ThrottleLedger()),
            meter=StreamMeter(),
            batch_bytes=self.batch_bytes,
            piece_bytes=FILE_PIECE_BYTES,
            codecs=CodecChooser(self.codec.name.lower()),
            link=False,
            counters=StreamCounters(),
            stopping=threading.Event(),
            on_started=lambda part: None,
            on_split=lambda part: None,
            on_durable=durable.append,
            on_ended=lambda: None,
        )
        stream.run()
        if stream.error is not None:
            raise stream.error
        return durable
