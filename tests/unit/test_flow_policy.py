from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from kvbatch._core.base import RateLimiter
from kvbatch.endpoints import ReceiverEndpoint
from kvbatch.events import EventBus, Progress
from kvbatch.flow.compression_controller import CodecName, CodecSample
from kvbatch.flow.job_flow import JobFlow
from kvbatch.flow.throttle import ThrottleLedger, ThrottleReason
from kvbatch.flow_policy import FlowPolicy
from kvbatch.job_figures import Observation
from kvbatch.options import AUTO_BATCH_BYTES, AUTO_WINDOW, MigrationOptions
from kvbatch.target import FILE_PIECE_BYTES

KIB = 1 << 10
MIB = 1 << 20
NEAR = ReceiverEndpoint("127.0.0.1", 7720, "copy")

OBSERVED = Observation(
    seconds=0.5,
    streams=1,
    raw_bytes=10 * MIB,
    payload_bytes=10 * MIB,
    stage_seconds={"read": 0.1, "compress": 0.0, "network": 0.0, "apply": 0.1},
    waited_seconds=dict.fromkeys(ThrottleReason, 0.0),
    applied_frames=5,
    apply_seconds=0.1,
    acknowledged_bytes=10 * MIB,
    in_flight_bytes=MIB,
    round_trip_seconds=0.001,
    link_seconds=0.001,
    since_ack_seconds=0.0,
    queued_bytes=0,
    health=None,
)


class Steered:
    def __init__(self, **options: Any) -> None:
        self.options = MigrationOptions.checked(**options)
        self.flow = JobFlow(self.options.settings, RateLimiter(), ThrottleLedger())
        self.bus = EventBus()
        self.policy = FlowPolicy(self.options, self.flow, NEAR, self.bus)

    def look(self, throttle: str | None = None, **observed: Any) -> None:
        self.policy.look(Progress(throttle=throttle), dataclasses.replace(OBSERVED, **observed))

    def told(self, kind: str) -> list[dict[str, Any]]:
        events = self.bus.subscribe()
        self.bus.publish("done")
        return [event.data for event in events if event.kind == kind]


def test_what_is_set_holds_and_what_is_not_adapts() -> None:
    steered = Steered(streams=2)
    assert (steered.policy.batch_bytes, steered.policy.window) == (AUTO_BATCH_BYTES, AUTO_WINDOW)
    steered.flow.change(batch_bytes=4 * KIB, window=3, streams=5)
    assert (steered.policy.batch_bytes, steered.policy.window, steered.policy.streams) == (4 * KIB, 3, 5)
    automatic = Steered(streams="auto")
    assert automatic.policy.streams == 1


@pytest.mark.parametrize(("streams", "memory", "most"), [(1, 3, 512), (4, 9, 128), (8, 17, 64), (2, 256, 1024)])
def test_batches_of_all_streams_fit_into_the_memory(streams: int, memory: int, most: int) -> None:
    """Twice each of them, beside the 2 MiB that each stream takes in any case."""
    steered = Steered(streams=streams, max_memory=memory * MIB)
    assert steered.policy.batch_bytes == most * KIB


def test_under_a_limit_frames_are_small() -> None:
    steered = Steered(rate_limit=MIB, streams=2)
    assert (steered.policy.batch_bytes, steered.policy.piece_bytes) == (128 * KIB, 128 * KIB)
    steered.flow.change(rate_limit=0)
    assert steered.policy.piece_bytes == FILE_PIECE_BYTES


def test_a_schedule_is_followed_and_each_change_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.datetime(2024, 5, 1, 8, 59)

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Clock:
            return cls(now.year, now.month, now.day, now.hour, now.minute)

    monkeypatch.setattr("kvbatch.flow_policy.datetime.datetime", Clock)
    steered = Steered(rate_schedule="09:00-18:00=20MiB/s,*=50MiB/s")
    assert steered.flow.settings.rate_limit == 50 * MIB
    steered.look()
    for hour in (9, 16):
        now = now.replace(hour=hour, minute=0)
        steered.look()
        assert steered.flow.settings.rate_limit == 20 * MIB
    # What somebody sets meanwhile counts until the schedule has something new to say.
    steered.flow.change(rate_limit=MIB)
    now = now.replace(hour=17)
    steered.look()
    assert steered.flow.settings.rate_limit == MIB
    now = now.replace(hour=18)
    steered.look()
    told = [data["rate_limit"] for data in steered.told("settings")]
    assert told == [20 * MIB, 50 * MIB], "what it began with is no change"


def held(flow: JobFlow) -> ThrottleReason | None:
    return flow._first_hold


@pytest.mark.parametrize("health", [{"write_stopped": 1}, {"delayed_write_rate": 1000}])
def test_a_target_that_holds_writers_up_holds_the_job_until_it_is_well(health: dict[str, int]) -> None:
    steered = Steered()
    steered.look(health=health)
    assert held(steered.flow) is ThrottleReason.TARGET_STALL
    # Nothing is applied and nothing new is known meanwhile.
    steered.look(health=health, applied_frames=0, apply_seconds=0.0, acknowledged_bytes=0, in_flight_bytes=0)
    assert held(steered.flow) is ThrottleReason.TARGET_STALL
    steered.look(health={"write_stopped": 0, "delayed_write_rate": 0})
    assert held(steered.flow) is None
    assert 0 < steered.flow._share < 1
    for _ in range(4):
        steered.look(health={})
    assert steered.flow._share == 1


def test_a_target_that_takes_long_slows_the_job_down_and_never_stops_it() -> None:
    steered = Steered()
    steered.look(applied_frames=1, apply_seconds=100.0)
    assert (held(steered.flow), steered.flow._share) == (None, 0.25)


def test_what_is_not_known_of_health_is_left_out() -> None:
    steered = Steered()
    steered.look(health={"immutable_memtables": 3, "a later figure": 1 << 60})
    assert (held(steered.flow), steered.flow._share) == (None, 1)


def test_a_reason_is_told_when_it_changes() -> None:
    steered = Steered()
    for reason in (None, "window", "window", "rate-limit", None):
        steered.look(throttle=reason)
    assert [data["reason"] for data in steered.told("throttle")] == ["window", "rate-limit", None]


class Group:
    """Of one stream, whose trials come out at once: lz4 halves what it gets."""

    def __init__(self) -> None:
        self.streams = [self]
        self.ended = False
        self.codecs = self
        self.settled = True

    def take_sample(self) -> tuple[CodecName, CodecSample]:
        return "lz4", CodecSample(1.5e-8, 2.0)

    def ask(self, codec: CodecName) -> None:
        pass


def test_the_rate_limit_of_now_decides_on_compression(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set and lifted while the job runs."""
    monkeypatch.setattr("kvbatch.flow_policy.IdleCores.measure", lambda self: 1.0)
    steered = Steered(compression="auto", streams=1)
    steered.policy._group = cast(Any, Group())
    limited = {"waited_seconds": {**OBSERVED.waited_seconds, ThrottleReason.RATE_LIMIT: 0.45}}

    def look(times: int, **observed: Any) -> str:
        for _ in range(times):
            steered.look(**observed)
        return steered.policy.codec

    assert look(4) == "none"
    steered.flow.change(rate_limit=20 * MIB)
    # The interval in which it came says nothing.
    assert look(2, **limited) == "none"
    assert look(1, **limited) == "lz4"
    steered.flow.change(rate_limit=0)
    assert look(1, **limited) == "lz4"
    assert look(2) == "none"
    choices = [(data["codec"], data["reason"]) for data in steered.told("compression")]
    assert choices == [
        ("lz4", "the rate limit of 20 MiB/s is the limit; expected with lz4 38.9 MiB/s, none 20 MiB/s"),
        ("none", "the sender is the limit; expected with none 100 MiB/s, lz4 38.9 MiB/s"),
    ]


def test_without_streams_nothing_is_concluded() -> None:
    steered = Steered()
    steered.look(streams=0, health={"write_stopped": 1})
    assert held(steered.flow) is None


def test_a_check_holds_the_job_before_its_first_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Callable[[], str | None]] = [lambda: "busy"]

    class Check:
        def __init__(self, check: object) -> None:
            assert check == "true"

        def start(self) -> Check:
            return self

        @property
        def reason(self) -> str | None:
            return answers[0]()

        outcome = None

    monkeypatch.setattr("kvbatch.flow_policy.SourceCheck", Check)
    steered = Steered(throttle_check="true")
    steered.look()
    assert held(steered.flow) is ThrottleReason.SOURCE_CHECK
    answers[0] = lambda: None
    steered.look()
    assert held(steered.flow) is None


def test_what_a_check_answers_is_told_when_it_ends_in_another_way(tmp_path: Path) -> None:
    """Not each time that it says something else."""
    (tmp_path / "status").write_text("3")
    steered = Steered(throttle_check=f"date +%N; exit $(cat {tmp_path / 'status'})")
    check = steered.policy._check
    assert check is not None
    try:
        for status in ("3", "4"):
            (tmp_path / "status").write_text(status)
            deadline = time.monotonic() + 60
            while check.outcome != f"exited with {status}":
                assert time.monotonic() < deadline
                time.sleep(0.01)
            for _ in range(3):
                steered.look()
        held_back = steered.flow.held_back
    finally:
        steered.policy.close()
    assert held_back is not None
    assert " exited with 4: " in held_back
    assert [data["message"].partition(" exited with ")[2][0] for data in steered.told("warning")] == ["3", "4"]
