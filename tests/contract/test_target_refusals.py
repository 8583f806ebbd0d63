"""What a target of any kind does not take, and that the job goes on afterwards (kvbatch/target.py)."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kvbatch.errors import CorruptionError, KvbatchError, ProtocolError
from kvbatch.ranges import Range
from kvbatch.target import TargetSession, TargetStream
from support.sender import SmallSource
from support.stores import read_store
from support.targets import BOUNDS, ENTRIES, TargetCase, finish, put_and_drain


def put_before_begin(source: SmallSource, session: TargetSession, stream: TargetStream) -> None:
    batches = SmallSource(source.path, BOUNDS)
    frame, reader = next(batches.frames(batches.ranges[0], 0))
    stream.put(frame, reader.digest)


def end_before_begin(source: SmallSource, session: TargetSession, stream: TargetStream) -> None:
    stream.end(0, 0, bytes(16))


def begin_while_another_is_open(source: SmallSource, session: TargetSession, stream: TargetStream) -> None:
    stream.begin(source.ranges[0])
    stream.begin(source.ranges[1])


def begin_an_unknown_range(source: SmallSource, session: TargetSession, stream: TargetStream) -> None:
    stream.begin(Range(len(source.ranges), "default", None, None))


def begin_a_complete_range(source: SmallSource, session: TargetSession, stream: TargetStream) -> None:
    source.move(session, source.ranges[:1])
    stream.begin(source.ranges[0])


def take_a_range_of_another_stream(source: SmallSource, session: TargetSession, stream: TargetStream) -> None:
    other = session.stream(1)
    other.begin(source.ranges[0])
    # The answer to this drain shows that the range is taken before the second stream asks for it.
    other.drain()
    stream.begin(source.ranges[0])
    # The answer must come while the other stream still has the range.
    stream.drain()
    other.close()


def misuse_and_drain(misuse: Any, source: SmallSource, session: TargetSession, stream: TargetStream) -> None:
    misuse(source, session, stream)
    stream.drain()


@pytest.mark.parametrize(
    "misuse",
    [
        put_before_begin,
        end_before_begin,
        begin_while_another_is_open,
        begin_an_unknown_range,
        begin_a_complete_range,
        take_a_range_of_another_stream,
    ],
)
def test_calls_out_of_order_are_protocol_errors_and_the_job_goes_on(
    target: TargetCase, any_source: SmallSource, misuse: Any
) -> None:
    session = target.open(any_source.manifest)
    stream = session.stream(0)
    with pytest.raises(KvbatchError) as raised:
        misuse_and_drain(misuse, any_source, session, stream)
    stream.close()
    session.close()
    finish(target, any_source)
    assert read_store(target.path) == ENTRIES
    assert type(raised.value) is ProtocolError


def test_finish_with_an_incomplete_range_is_refused_by_name(target: TargetCase, any_source: SmallSource) -> None:
    session = target.open(any_source.manifest)
    any_source.move(session, any_source.ranges[:-1])
    with pytest.raises(ProtocolError, match=re.escape(str(any_source.ranges[-1]))):
        session.finish()
    session.close()
    finish(target, any_source)
    assert read_store(target.path) == ENTRIES


def test_a_running_digest_that_is_not_the_sources_is_corruption(target: TargetCase, source: SmallSource) -> None:
    session = target.open(source.manifest)
    stream = session.stream(0)
    stream.begin(source.ranges[0])
    frame, _ = next(source.frames(source.ranges[0], session.reply.family_ids["default"]))
    with pytest.raises(CorruptionError, match="digest"):
        put_and_drain(stream, frame, b"\1" * 16)
    stream.close()
    session.close()


def end_and_drain(stream: TargetStream, entries: int, raw_bytes: int, digest: bytes) -> None:
    stream.end(entries, raw_bytes, digest)
    stream.drain()


@pytest.mark.parametrize(("entries", "raw_bytes", "digest"), [(1, 0, False), (0, 1, False), (0, 0, True)])
def test_totals_that_do_not_fit_leave_the_range_incomplete(
    target: TargetCase, source: SmallSource, entries: int, raw_bytes: int, digest: bool
) -> None:
    session = target.open(source.manifest)
    stream = session.stream(0)
    totals = source.put(session, stream, source.ranges[0])
    claimed = b"\1" * 16 if digest else totals.digest
    with pytest.raises(CorruptionError, match="range 0"):
        end_and_drain(stream, totals.entries + entries, totals.raw_bytes + raw_bytes, claimed)
    stream.close()
    session.close()
    target.settle()
    session = target.open(source.manifest)
    assert not any(cursor.complete for cursor in session.reply.cursors)
    source.move(session)
    session.finish()
    session.close()
    assert read_store(target.path) == ENTRIES


@pytest.mark.parametrize("wrong", ["other range", "other family", "unknown family"])
def test_a_batch_of_another_range_or_family_is_not_applied(target: TargetCase, source: SmallSource, wrong: str) -> None:
    session = target.open(source.manifest)
    ids = session.reply.family_ids
    stream = session.stream(0)
    stream.begin(source.ranges[0])
    part = source.ranges[1] if wrong == "other range" else source.ranges[0]
    family = {"other range": ids["default"], "other family": ids["users"], "unknown family": 77}[wrong]
    frame, reader = next(source.frames(part, family))
    with pytest.raises(CorruptionError, match="batch"):
        put_and_drain(stream, frame, reader.digest)
    stream.close()
    session.close()
    target.settle()
    session = target.open(source.manifest)
    assert [cursor for cursor in session.reply.cursors if cursor.entries] == []
    source.move(session)
    session.finish()
    session.close()
    assert read_store(target.path) == ENTRIES


def test_the_same_batch_twice_is_corruption(target: TargetCase, source: SmallSource) -> None:
    session = target.open(source.manifest)
    stream = session.stream(0)
    stream.begin(source.ranges[0])
    frame, reader = next(source.frames(source.ranges[0], session.reply.family_ids["default"]))
    stream.put(frame, reader.digest)
    with pytest.raises(CorruptionError, match="keys"):
        put_and_drain(stream, frame, reader.digest)
    stream.close()
    session.close()
    finish(target, source)
    assert read_store(target.path) == ENTRIES
