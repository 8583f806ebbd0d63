from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from kvbatch._core.base import RateLimiter
from kvbatch.flow.job_flow import JobFlow
from kvbatch.flow.settings import JobSettings
from kvbatch.flow.throttle import ThrottleLedger, ThrottleReason
from support.steered import WAIT_SECONDS, until

KIB = 1 << 10


@pytest.fixture
def flow() -> JobFlow:
    return JobFlow(JobSettings(), RateLimiter(), ThrottleLedger())


class Streams:
    """Threads that ask whether they may go on."""

    def __init__(self, flow: JobFlow, heartbeat: Callable[[], None] = lambda: None) -> None:
        self.stopping = threading.Event()
        self.flow = flow
        self.threads = [
            threading.Thread(target=flow.wait_while_held, args=(index, self.stopping, heartbeat), daemon=True)
            for index in range(2)
        ]
        for thread in self.threads:
            thread.start()

    def wait_for(self, reason: ThrottleReason) -> None:
        until(lambda: [self.flow.ledger.reason_of(index) for index in range(2)] == [reason, reason], reason)

    def join(self) -> None:
        for thread in self.threads:
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive()


def test_nobody_waits_for_nothing(flow: JobFlow) -> None:
    Streams(flow).join()
    assert sum(flow.ledger.seconds().values()) == 0


def test_a_pause_holds_every_stream_until_it_ends(flow: JobFlow) -> None:
    assert (flow.pause(), flow.pause(), flow.state) == (True, False, "paused")
    streams = Streams(flow)
    streams.wait_for(ThrottleReason.PAUSED)
    assert (flow.resume(), flow.resume(), flow.state) == (True, False, "running")
    streams.join()
    assert flow.ledger.seconds()[ThrottleReason.PAUSED] > 0


def test_what_still_holds_goes_on_holding(flow: JobFlow) -> None:
    """A pause is named before anything else; who is let go by one reason waits for the next."""
    flow.hold(ThrottleReason.SOURCE_CHECK, "busy")
    flow.pause()
    streams = Streams(flow)
    streams.wait_for(ThrottleReason.PAUSED)
    flow.resume()
    streams.wait_for(ThrottleReason.SOURCE_CHECK)
    flow.slow_down(0.0)
    flow.hold(ThrottleReason.SOURCE_CHECK, None)
    streams.wait_for(ThrottleReason.TARGET_STALL)
    flow.slow_down(1.0)
    streams.join()


def test_a_stream_that_is_to_stop_is_not_held(flow: JobFlow) -> None:
    flow.pause()
    streams = Streams(flow)
    streams.wait_for(ThrottleReason.PAUSED)
    streams.stopping.set()
    flow.wake()
    streams.join()


@pytest.mark.parametrize("reason", [ThrottleReason.PAUSED, ThrottleReason.TARGET_STALL])
def test_a_stream_that_is_held_says_that_it_lives(
    flow: JobFlow, reason: ThrottleReason, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HEARTBEAT_SECONDS", "_RECHECK_SECONDS"):
        monkeypatch.setattr(f"kvbatch.flow.job_flow.{name}", 0.01)
    beats: list[int] = []
    flow.hold(reason, "so it is")
    streams = Streams(flow, lambda: beats.append(1))
    until(lambda: len(beats) > 6, "heartbeats")
    flow.hold(reason, None)
    streams.join()


def test_who_finds_the_target_gone_by_a_heartbeat_is_not_held_any_more(
    flow: JobFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvbatch.flow.job_flow.HEARTBEAT_SECONDS", 0.01)

    def broken() -> None:
        raise BrokenPipeError

    flow.pause()
    with pytest.raises(BrokenPipeError):
        flow.wait_while_held(0, threading.Event(), broken)
    assert flow.ledger.reason_of(0) is None


def test_at_half_speed_a_stream_waits_about_as_long_as_a_frame_took(
    flow: JobFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float | None] = []

    class Stopping(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout)
            return False

    now = 100.0
    monkeypatch.setattr("kvbatch.flow.job_flow.time.monotonic", lambda: now)
    stopping = Stopping()
    for share in (1.0, 0.5, 0.5, 0.25, 1.0):
        flow.slow_down(share)
        flow.wait_while_held(0, stopping, lambda: None)
        now += 0.2
    # The first frame at a lower speed is the first that is timed.
    assert waited == pytest.approx([0.2, 0.6])


def test_changes_reach_the_limiters(flow: JobFlow) -> None:
    flow.change(rate_limit=100 * KIB, source_read_rate=200 * KIB, window=3)
    assert flow.settings == JobSettings(rate_limit=100 * KIB, source_read_rate=200 * KIB, window=3)
    assert (flow.wire_limiter.bytes_per_second, flow.read_limiter.bytes_per_second) == (100 * KIB, 200 * KIB)
    flow.let_go()
    assert (flow.wire_limiter.bytes_per_second, flow.read_limiter.bytes_per_second) == (0, 0)
    flow.take_hold()
    assert (flow.wire_limiter.bytes_per_second, flow.read_limiter.bytes_per_second) == (100 * KIB, 200 * KIB)
    assert (flow.limit_wire(100 * KIB), flow.limit_wire(0), flow.settings.rate_limit) == (False, True, 0)


def test_waits_for_limits_are_counted_once(flow: JobFlow) -> None:
    flow.change(rate_limit=64 * KIB)
    flow.wire_limiter.charge(KIB)
    flow.count_waits()
    counted = flow.ledger.seconds()[ThrottleReason.RATE_LIMIT]
    assert counted > 0
    flow.count_waits()
    assert flow.ledger.seconds()[ThrottleReason.RATE_LIMIT] == counted


@pytest.mark.parametrize(
    ("limit", "streams", "expected"),
    [(0, 2, 2048), (64, 1, 64), (64, 4, 64), (1024, 1, 256), (1024, 2, 128), (1 << 20, 1, 2048), (1024, 0, 256)],
)
def test_frames_are_small_under_a_limit(flow: JobFlow, limit: int, streams: int, expected: int) -> None:
    flow.change(rate_limit=limit * KIB)
    assert flow.frame_bytes(2048 * KIB, streams) == expected * KIB
