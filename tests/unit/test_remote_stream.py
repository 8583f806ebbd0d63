"""What a stream to a receiver keeps in flight, and how long it waits, by how large its frames are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from kvbatch._core.base import RateLimiter
from kvbatch._core.frame import FrameType
from kvbatch.flow.stream_meter import StreamMeter
from kvbatch.flow.throttle import ThrottleReason
from kvbatch.target_remote import RemoteStream

KIB = 1 << 10
MIB = 1 << 20
DIGEST = bytes(16)


class FakeReceiver:
    """Acknowledges three quarters of the window that it was told at once, as the honest one does; one that is `slow`
    when its sender has nothing to do but wait."""

    name = "receiver"
    greeting_seconds = 0.001

    def __init__(self, window: int, *, slow: bool = False) -> None:
        self.connection = self
        self.slow = slow
        self.timeouts: list[float] = []
        self.windows = [window]
        self.unacknowledged: list[int] = []
        self.most_in_flight = (0, 0)
        self.meter = StreamMeter(window=window)
        self.stream = RemoteStream(cast(Any, self), 0, 0, self.meter, 5.0)

    def set_rate_limiter(self, limiter: RateLimiter) -> None:
        pass

    def set_timeout(self, milliseconds: int) -> None:
        self.timeouts.append(milliseconds / 1000)

    def wait_readable(self, milliseconds: int) -> bool:
        return not self.slow and len(self.unacknowledged) >= max(1, 3 * self.windows[-1] // 4)

    def send(self, type_: FrameType, value: dict[str, Any], **_: int) -> None:
        assert type_ is FrameType.HEARTBEAT
        self.windows.append(value["window"])

    def send_frame(self, frame: Any) -> None:
        self.unacknowledged.append(frame.raw_length)
        self.most_in_flight = max(self.most_in_flight, (sum(self.unacknowledged), len(self.unacknowledged)))

    def receive(self, *_: FrameType) -> tuple[FrameType, dict[str, Any]]:
        assert self.unacknowledged, "nothing that an ack could come for"
        frames = len(self.unacknowledged)
        self.unacknowledged.clear()
        ack = {"frames": frames, "digest": DIGEST.hex(), "durable": [], "drained": False}
        return FrameType.ACK, {**ack, "apply_seconds": 0.0, "queued": 0}

    def put(self, *sizes: int) -> None:
        for size in sizes:
            self.stream.put(cast(Any, SimpleNamespace(raw_length=size)), DIGEST)


@pytest.fixture
def receiver() -> FakeReceiver:
    return FakeReceiver(16)


def test_usual_batches_fill_the_window_and_change_nothing_under_way(receiver: FakeReceiver) -> None:
    receiver.put(*[MIB - number for number in range(200)])
    assert (receiver.timeouts, receiver.windows) == ([6.0], [16])
    receiver.meter.window = 64
    receiver.put(*[MIB] * 200)
    assert (receiver.timeouts, receiver.windows) == ([6.0], [16, 64])


def test_a_receiver_may_be_silent_longer_while_a_larger_frame_is_under_way(receiver: FakeReceiver) -> None:
    receiver.put(100 * KIB, 100 * KIB)
    assert receiver.timeouts == [6.0]
    receiver.put(256 * MIB)
    assert receiver.timeouts == [6.0, 261.0]
    # Another batch size, on the way there.
    receiver.put(*[8 * MIB] * 40)
    assert receiver.timeouts == [6.0, 261.0, 13.0]
    receiver.put(*[100 * KIB] * 40)
    assert receiver.timeouts == [6.0, 261.0, 13.0, 6.0]


def test_the_deadline_is_long_enough_before_the_first_byte_of_a_large_frame(receiver: FakeReceiver) -> None:
    honest, seen = receiver.send_frame, []

    def send_frame(frame: Any) -> None:
        seen.append(receiver.timeouts[-1])
        honest(frame)

    receiver.send_frame = send_frame  # type: ignore[method-assign]
    receiver.put(MIB, 64 * MIB, MIB)
    assert seen == [6.0, 69.0, 69.0]


@pytest.mark.parametrize(
    ("frame_bytes", "most_frames"), [(MIB, 64), (3 * MIB, 21), (8 * MIB, 8), (64 * MIB, 2), (256 * MIB, 2)]
)
def test_bytes_in_flight_are_bounded_whatever_the_window(frame_bytes: int, most_frames: int) -> None:
    receiver = FakeReceiver(1024, slow=True)
    receiver.put(*[frame_bytes] * 200)
    assert receiver.most_in_flight == (most_frames * frame_bytes, most_frames)
    # So it acknowledges in time by itself.
    assert receiver.windows == [1024, most_frames]
    assert receiver.meter.ledger.seconds()[ThrottleReason.WINDOW] > 0


def test_small_frames_have_the_whole_window_before_and_behind_large_ones() -> None:
    receiver = FakeReceiver(1024, slow=True)
    receiver.put(*[16 * KIB] * 2000)
    assert receiver.windows == [1024]
    receiver.put(*[8 * MIB] * 20)
    assert receiver.windows == [1024, 8]
    receiver.put(*[16 * KIB] * 2000)
    assert receiver.windows == [1024, 8, 1024]
    assert receiver.most_in_flight[0] <= 64 * MIB + 8 * MIB


def test_a_window_of_one_frame_stays_one() -> None:
    alone = FakeReceiver(1, slow=True)
    alone.put(*[64 * MIB] * 5)
    assert (alone.most_in_flight, alone.windows) == ((64 * MIB, 1), [1])
