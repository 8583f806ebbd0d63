from __future__ import annotations

import threading
from typing import Any

import pytest

from kvbatch.range_queue import RangeQueue
from kvbatch.ranges import Range
from kvbatch.stream_group import LEAST_SHARED_BYTES, StreamGroup
from support.steered import until


class FakeStream:
    """Works until it is told to end; takes one range."""

    def __init__(self, index: int, queue: RangeQueue) -> None:
        self.index = index
        self.ended = self.retiring = self.interrupted = self.split_wanted = False
        self.left_bytes = 0
        self.error: Exception | None = None
        self.end = threading.Event()
        self._queue = queue

    def run(self) -> None:
        self._queue.take()
        self.end.wait()
        self.ended = True

    def interrupt(self) -> None:
        self.interrupted = True


class Group:
    def __init__(self, ranges: int) -> None:
        self.queue = RangeQueue([Range(number, "default", None, None) for number in range(ranges)])
        self.halt = threading.Event()
        self.group = StreamGroup(self._make, self.queue, self.halt)

    def _make(self, index: int) -> Any:
        return FakeStream(index, self.queue)

    def adjust(self, wanted: int) -> list[int]:
        """The streams that are at work then and stay."""
        waiting = self.queue.waiting
        before = len(self.group.streams)
        self.group.adjust(wanted)
        started = len(self.group.streams) - before
        until(lambda: self.queue.waiting == waiting - started)
        return [stream.index for stream in self.group.streams if not stream.ended and not stream.retiring]

    def end(self, *indexes: int) -> None:
        for index in indexes:
            stream: Any = self.group.streams[index]
            stream.end.set()
            until(lambda stream=stream: stream.ended)


@pytest.fixture
def ten() -> Any:
    group = Group(10)
    yield group
    group.end(*range(len(group.group.streams)))
    group.group.join()


def test_streams_come_and_the_youngest_go(ten: Group) -> None:
    assert ten.adjust(2) == [0, 1]
    assert ten.adjust(4) == [0, 1, 2, 3]
    assert ten.adjust(1) == [0]
    assert [stream.retiring for stream in ten.group.streams] == [False, True, True, True]
    # Those that retire are not called back: they may be at their end.
    assert ten.adjust(3) == [0, 4, 5]
    ten.end(0, 1, 2)
    assert ten.adjust(3) == [4, 5, 6]
    assert not ten.group.ended


def test_no_more_streams_than_there_are_ranges_to_take() -> None:
    group = Group(3)
    assert group.adjust(8) == [0, 1, 2]
    assert group.adjust(8) == [0, 1, 2]
    group.end(0, 1, 2)
    assert group.adjust(8) == []
    assert group.group.ended
    group.group.join()


def test_nothing_starts_once_all_are_to_stop(ten: Group) -> None:
    ten.adjust(2)
    ten.halt.set()
    ten.group.adjust(5)
    assert len(ten.group.streams) == 2
    assert not ten.group.streams[0].retiring
    ten.group.interrupt()
    interrupted: list[Any] = list(ten.group.streams)
    assert all(stream.interrupted for stream in interrupted)


def test_errors_are_those_of_all_streams(ten: Group) -> None:
    ten.adjust(3)
    errors = [ValueError("first"), ValueError("third")]
    ten.group.streams[0].error, ten.group.streams[2].error = errors
    assert ten.group.errors == errors


def test_without_a_range_everything_has_ended() -> None:
    group = Group(0)
    assert group.adjust(4) == []
    assert group.group.ended


def test_whoever_has_most_left_gives_some_away_when_somebody_has_nothing_to_do() -> None:
    group = Group(2)
    group.adjust(3)
    streams: list[Any] = group.group.streams
    streams[0].left_bytes, streams[1].left_bytes = LEAST_SHARED_BYTES, 2 * LEAST_SHARED_BYTES
    group.adjust(2)
    assert [stream.split_wanted for stream in streams] == [False, False]
    # The second time it is still to come.
    for _ in range(2):
        group.adjust(3)
        assert [stream.split_wanted for stream in streams] == [False, True]
    streams[1].split_wanted = False
    streams[0].left_bytes = streams[1].left_bytes = LEAST_SHARED_BYTES - 1
    group.adjust(3)
    assert [stream.split_wanted for stream in streams] == [False, False]
    group.end(0, 1)
    group.group.join()
