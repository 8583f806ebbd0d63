from __future__ import annotations

from kvbatch.range_queue import RangeQueue
from kvbatch.ranges import Range


def of_bytes(range_id: int, estimated_bytes: int) -> Range:
    return Range(range_id, "default", None, None, estimated_bytes=estimated_bytes)


def taken(queue: RangeQueue) -> list[int]:
    """The ids, in the order in which they are given out."""
    ids = []
    while (part := queue.take()) is not None:
        ids.append(part.id)
    return ids


def test_the_largest_range_is_taken_first() -> None:
    queue = RangeQueue([of_bytes(0, 20), of_bytes(1, 40), of_bytes(2, 10), of_bytes(3, 30)])
    assert queue.waiting == 4
    assert taken(queue) == [1, 3, 0, 2]
    assert queue.waiting == 0


def test_a_range_that_is_added_takes_its_place() -> None:
    queue = RangeQueue([of_bytes(0, 40), of_bytes(1, 20)])
    for part in (of_bytes(2, 30), of_bytes(3, 50), of_bytes(4, 10)):
        queue.add(part)
    assert queue.waiting == 5
    assert taken(queue) == [3, 0, 2, 1, 4]


def test_a_range_that_is_added_to_an_empty_queue_is_taken() -> None:
    queue = RangeQueue([])
    assert queue.take() is None
    queue.add(of_bytes(7, 0))
    assert taken(queue) == [7]


def test_in_order_the_size_of_a_range_says_nothing() -> None:
    queue = RangeQueue([of_bytes(0, 20), of_bytes(2, 10), of_bytes(1, 40)], in_order=True)
    queue.add(of_bytes(3, 50))
    assert taken(queue) == [0, 1, 2, 3]
