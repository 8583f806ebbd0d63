"""The bytes that a summary calls sent again are those that came by a second time."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable

import pytest

from kvbatch._core.batch import decode_batch
from kvbatch._core.frame import FrameType
from support.link import Cut, Passing
from support.processes import WAIT_SECONDS, Child
from support.route import KIB, Pieces, Route, check_done, check_equal
from support.stores import need_rocksdb

# One stream, whose frames come by in order, and large ranges: none ends in a moment that is meant.
# The toll looks into the batches: even a trial of a codec would hide them.
PIECES = Pieces(
    streams=1,
    window=4,
    batch_bytes=64 * KIB,
    range_bytes=64 * KIB * KIB,
    sst_file_bytes=1024 * KIB,
    compression="none",
)


class Toll:
    """Counts every entry, and every piece of a file of the source, that comes by. From data frame `start` on nothing
    gets through until a whole window is lost: the sender waits then, and what was counted is all that it sent."""

    def __init__(self) -> None:
        self._seen: set[tuple[int, bytes]] = set()
        self._files: dict[int, int] = {}
        self.resent_bytes = 0
        self._lose_from: int | None = None
        self._lost = 0
        self._strike: Callable[[], object] = lambda: None
        self.struck = threading.Event()

    def close_at(self, start: int, strike: Callable[[], object]) -> None:
        self._lose_from, self._lost, self._strike = start, 0, strike
        self.struck.clear()

    def _count_entry(self, family: int, key: bytes, size: int) -> None:
        if (family, key) in self._seen:
            self.resent_bytes += size
        self._seen.add((family, key))

    def _count_piece(self, range_: int, offset: int, length: int) -> None:
        """Of the file of a range, which comes in its order but where it goes on."""
        seen = self._files.get(range_, 0)
        self.resent_bytes += max(0, min(seen, offset + length) - offset)
        self._files[range_] = max(seen, offset + length)

    def __call__(self, passing: Passing) -> bytes:
        frame = passing.frame
        if passing.direction == "down" or frame.type == FrameType.REQUEST:
            return passing.data
        if frame.type == FrameType.FILE:
            self._count_piece(frame.header.range, frame.header.raw_length, frame.header.payload_length)
        elif frame.type == FrameType.DATA:
            for _, family, key, value in decode_batch(frame.payload):
                self._count_entry(family, key, len(key) + len(value))
        elif frame.type == FrameType.FILE_END and not frame.json["graft"]:
            # The next file that is built for this range is another one.
            self._files.pop(frame.header.range, None)
        if self._lose_from is None or passing.number < self._lose_from:
            return passing.data
        self._lost += frame.type in (FrameType.FILE, FrameType.DATA)
        if self._lost == PIECES.window:
            self._lose_from = None
            self._strike()
            self.struck.set()
            raise Cut(everywhere=True)
        return b""


@pytest.fixture
def toll() -> Toll:
    return Toll()


@pytest.fixture
def counted(make_route: Callable[[Pieces], Route], toll: Toll) -> Route:
    route = make_route(PIECES)
    route.link.hook = toll
    return route


def _check(route: Route, toll: Toll, sender: Child, least: int) -> None:
    """The whole job's, to the byte; `least` frames must have come by twice, or nothing is shown by that."""
    summary = sender.result()
    check_done(summary, resumed=True)
    assert toll.resent_bytes > least * route.pieces.batch_bytes * 3 // 4
    assert summary["resent_bytes"] == toll.resent_bytes
    check_equal(route.source, route.copy)


def test_connection_cut_again_and_again(counted: Route, toll: Toll) -> None:
    toll.close_at(20, lambda: toll.close_at(22 + PIECES.window, lambda: toll.close_at(60, lambda: None)))
    _check(counted, toll, counted.migrate(), 2 * PIECES.window)


def test_sender_killed_again_while_it_sends_again(counted: Route, toll: Toll) -> None:
    """The second run dies in the middle of what the first had sent, so that the third sends part of it a third time."""
    for start in (20, 20 + PIECES.window + 2, 60):
        sender = counted.migrate()
        toll.close_at(start, sender.kill)
        assert toll.struck.wait(WAIT_SECONDS)
        assert sender.wait() == -9
    _check(counted, toll, counted.migrate(), 2 * PIECES.window)


def test_receiver_killed_with_an_unfinished_file(counted: Route, toll: Toll) -> None:
    toll.close_at(20, counted.receiver.kill)
    sender = counted.migrate()
    sender.until(toll.struck)
    counted.start_receiver()
    _check(counted, toll, sender, PIECES.window)


def test_nothing_is_sent_again_by_a_job_that_begins_anew(counted: Route, toll: Toll) -> None:
    """What an abandoned copy was sent does not count for the next one."""
    sender = counted.migrate()
    toll.close_at(20, sender.kill)
    assert toll.struck.wait(WAIT_SECONDS)
    counted.receiver.kill()
    counted.copy.rename(counted.copy.with_name("abandoned"))
    counted.start_receiver()
    summary = counted.migrate().result()
    check_done(summary, resumed=False)
    assert summary["resent_bytes"] == 0
    check_equal(counted.source, counted.copy)


def test_files_of_the_source_go_on_where_they_broke(make_route: Callable[[Pieces], Route], toll: Toll) -> None:
    """The receiver dies in one of them, the sender in another: what was lost on the way is sent again, no more."""
    need_rocksdb((9, 10), "ingest files that a database wrote")
    route = make_route(dataclasses.replace(PIECES, lane="sst", grafts=True, piece_bytes=16 * KIB, batch_bytes=16 * KIB))
    route.link.hook = toll
    # Largest first: what comes before is built.
    toll.close_at(200, route.receiver.kill)
    sender = route.migrate()
    sender.until(toll.struck)
    route.start_receiver()
    toll.close_at(400, sender.kill)
    assert toll.struck.wait(WAIT_SECONDS)
    _check(route, toll, route.migrate(), PIECES.window)
    assert toll.resent_bytes <= 2 * route.pieces.windows + route.pieces.unfinished_files
