"""How ranges travel to a target of any kind, end, and go on after a break (kvbatch/target.py)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kvbatch._core.codec import Codec
from kvbatch._core.store import describe_store
from kvbatch.errors import CorruptionError, RefusedError, TransportError
from support.sender import KEYED_WAYS, SmallSource, Totals
from support.stores import read_store, write_store
from support.targets import ENTRIES, TargetCase, finish, put_and_drain


def test_a_finished_target_is_an_ordinary_store_with_the_same_entries(
    target: TargetCase, any_source: SmallSource
) -> None:
    finish(target, any_source)
    assert read_store(target.path) == ENTRIES
    assert [family.name for family in describe_store(str(target.path))] == ["default", "users"]
    assert not (target.path / ".kvbatch").exists()


@pytest.mark.parametrize("codec", [Codec.LZ4, Codec.ZSTD])
def test_compressed_batches_come_out_the_same(target: TargetCase, source: SmallSource, codec: Codec) -> None:
    source.codec = codec
    finish(target, source)
    assert read_store(target.path) == ENTRIES


def test_an_older_rocksdb_reads_a_finished_target(target: TargetCase, source: SmallSource) -> None:
    finish(target, source)
    # Only the OPTIONS file, which no store has to have, names options that the older library does not know.
    ldb = ["ldb", f"--db={target.path}", "--column_family=users", "--ignore_unknown_options"]
    scan = subprocess.run([*ldb, "scan"], capture_output=True, text=True, check=True, timeout=60)
    lines = scan.stdout.splitlines()
    assert len(lines) == len(ENTRIES["users"])
    assert lines[0].startswith("key-00000000")
    assert lines[0].endswith("user-0")


def test_a_range_that_ended_becomes_durable_and_complete(target: TargetCase, source: SmallSource) -> None:
    session = target.open(source.manifest)
    stream = session.stream(0)
    part = source.ranges[0]
    totals = source.put(session, stream, part)
    stream.end(totals.entries, totals.raw_bytes, totals.digest)
    stream.drain()
    cursor = stream.take_durable()[-1]
    assert stream.take_durable() == []
    stream.close()
    session.close()
    assert (cursor.range, cursor.complete, cursor.entries) == (part.id, True, 300)
    assert cursor.raw_bytes == sum(len(k) + len(v) for k, v in list(ENTRIES["default"].items())[:300])
    assert cursor.digest == totals.digest != bytes(16)
    assert cursor.last_key == b"key-00000299"


@pytest.mark.parametrize("way", KEYED_WAYS)
def test_an_empty_range_completes(target: TargetCase, tmp_path: Path, way: str) -> None:
    empty = SmallSource(write_store(tmp_path / "empty", {"default": {}}), [("default", None, None)], way=way)
    session = target.open(empty.manifest)
    [cursor] = empty.move(session)
    session.finish()
    session.close()
    assert (cursor.complete, cursor.entries, cursor.last_key) == (True, 0, b"")
    assert read_store(target.path) == {"default": {}}


def test_wire_bytes_count_what_was_sent(target: TargetCase, source: SmallSource) -> None:
    session = target.open(source.manifest)
    stream = session.stream(0)
    totals = source.put(session, stream, source.ranges[0])
    stream.close()
    session.close()
    assert stream.wire_bytes == 0 if target.kind == "directory" else stream.wire_bytes > totals.raw_bytes


def test_two_streams_carry_two_ranges_at_once(target: TargetCase, source: SmallSource) -> None:
    session = target.open(source.manifest)
    streams = [session.stream(index) for index in range(2)]
    parts = source.ranges[:2]
    sides = []
    for stream, part in zip(streams, parts, strict=True):
        stream.begin(part)
        totals = Totals()
        sides.append((stream, totals, source.frames(part, session.reply.family_ids["default"], totals=totals)))
    for batches in zip(*(frames for _, _, frames in sides), strict=True):
        for (stream, _, _), (frame, reader) in zip(sides, batches, strict=True):
            stream.put(frame, reader.digest)
    for stream, totals, _ in sides:
        stream.end(totals.entries, totals.raw_bytes, totals.digest)
        stream.drain()
        stream.close()
    session.close()
    finish(target, source)
    assert read_store(target.path) == ENTRIES


def test_what_a_stop_makes_durable_is_told(target: TargetCase, source: SmallSource) -> None:
    """Behind the last ack, which said nothing of it."""
    session = target.open(source.manifest)
    stream = session.stream(0)
    totals = source.put(session, stream, source.ranges[0], limit=2)
    stream.close()
    told = session.settle(30).cursors
    assert session.settle(30).cursors == told
    session.close()
    target.settle()
    session = target.open(source.manifest)
    found = session.reply.cursors
    session.close()
    assert told == found
    assert [(cursor.range, cursor.entries) for cursor in told] == [(0, totals.entries)]
    finish(target, source)
    assert read_store(target.path) == ENTRIES


@pytest.mark.parametrize("streams", [0, 2])
def test_a_job_can_be_opened_again_at_once(target: TargetCase, source: SmallSource, streams: int) -> None:
    """A sender whose connection broke is back before the receiver has cleared up behind it."""
    for _ in range(20):
        session = target.open(source.manifest)
        held = [session.stream(index) for index in range(streams)]
        for stream, part in zip(held, source.ranges, strict=False):
            cursor = next((cursor for cursor in session.reply.cursors if cursor.range == part.id), None)
            source.put(session, stream, part, after=cursor, limit=1)
        for stream in held:
            stream.close()
        session.close()
    finish(target, source)
    assert read_store(target.path) == ENTRIES


# -- resume -----------------------------------------------------------------------------------------------------------


def test_what_was_put_is_durable_after_close_and_the_range_goes_on_behind_it(
    target: TargetCase, source: SmallSource
) -> None:
    session = target.open(source.manifest)
    stream = session.stream(0)
    totals = source.put(session, stream, source.ranges[0], limit=2)
    stream.close()
    session.close()
    target.settle()

    session = target.open(source.manifest)
    [cursor] = session.reply.cursors
    assert session.reply.resumed
    assert (cursor.range, cursor.complete) == (0, False)
    assert (cursor.entries, cursor.raw_bytes, cursor.digest) == (totals.entries, totals.raw_bytes, totals.digest)
    assert cursor.last_key == f"key-{totals.entries - 1:08}".encode()
    source.move(session)
    session.finish()
    session.close()
    assert read_store(target.path) == ENTRIES


def test_ranges_that_were_complete_are_not_moved_again(target: TargetCase, any_source: SmallSource) -> None:
    session = target.open(any_source.manifest)
    moved = any_source.move(session, any_source.ranges[:2])
    session.close()
    target.settle()
    session = target.open(any_source.manifest)
    assert session.reply.resumed
    assert {cursor.range for cursor in session.reply.cursors if cursor.complete} == {0, 1}
    moved += any_source.move(session)
    session.finish()
    session.close()
    complete = [cursor.range for cursor in moved if cursor.complete]
    assert sorted(complete) == [part.id for part in any_source.ranges]
    assert read_store(target.path) == ENTRIES


def test_a_batch_that_was_durable_before_is_not_taken_again(target: TargetCase, source: SmallSource) -> None:
    session = target.open(source.manifest)
    stream = session.stream(0)
    source.put(session, stream, source.ranges[0], limit=2)
    stream.close()
    session.close()
    target.settle()
    session = target.open(source.manifest)
    stream = session.stream(0)
    stream.begin(source.ranges[0])
    frame, reader = next(source.frames(source.ranges[0], session.reply.family_ids["default"]))
    with pytest.raises(CorruptionError, match="do not follow"):
        put_and_drain(stream, frame, reader.digest)
    stream.close()
    session.close()
    finish(target, source)
    assert read_store(target.path) == ENTRIES


def test_close_can_be_repeated_and_never_raises(target: TargetCase, any_source: SmallSource) -> None:
    session = target.open(any_source.manifest)
    stream = session.stream(0)
    stream.begin(any_source.ranges[0])
    for end in (stream, stream, session, session, stream):
        end.close()
    finish(target, any_source)


def test_a_second_open_does_not_disturb_what_the_first_made_durable(target: TargetCase, source: SmallSource) -> None:
    """A directory is locked; at a receiver an older session of the same sender gives way, for it broke."""
    first = target.open(source.manifest)
    stream = first.stream(0)
    source.put(first, stream, source.ranges[0], limit=2)
    if target.kind == "directory":
        with pytest.raises(RefusedError):
            target.open(source.manifest)
        stream.close()
        first.close()
        second = target.open(source.manifest)
    else:
        second = target.open(source.manifest)
        with pytest.raises(TransportError):
            stream.drain()
    assert [cursor.entries > 0 for cursor in second.reply.cursors] == [True]
    source.move(second)
    second.finish()
    second.close()
    stream.close()
    first.close()
    assert read_store(target.path) == ENTRIES
