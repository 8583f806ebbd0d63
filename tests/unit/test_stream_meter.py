from __future__ import annotations

from typing import Any

import pytest

from kvbatch.flow.stream_meter import StreamMeter
from kvbatch.protocol import MALFORMED


def ack(**changes: Any) -> dict[str, Any]:
    return {"frames": 2, "apply_seconds": 0.5, "queued": 7, **changes}


def test_a_reading_is_what_came_since_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("kvbatch.flow.stream_meter.time.monotonic", lambda: now)
    meter = StreamMeter(_ack_at=now)
    meter.sent(1000)
    meter.acknowledged(0.02, 300, ack())
    now += 1
    meter.acknowledged(0.01, 100, ack(queued=3, frames=1))
    now += 2
    reading = meter.read()
    assert (reading.acknowledged_bytes, reading.in_flight_bytes, reading.round_trip_seconds) == (400, 600, 0.01)
    assert (reading.queued_bytes, reading.since_ack_seconds) == (3, 2.0)
    reading = meter.read()
    assert (reading.acknowledged_bytes, reading.in_flight_bytes, reading.round_trip_seconds) == (0, 600, 0.0)
    assert (reading.queued_bytes, reading.since_ack_seconds) == (0, 2.0)
    # Sums, of which others look at the growth.
    assert (meter.apply_seconds, meter.applied_frames) == (1.0, 3)


def test_the_shortest_round_trip_is_kept() -> None:
    meter = StreamMeter()
    assert meter.read().link_seconds == 0.0
    meter.note_link(0.0)
    meter.note_link(0.03)
    meter.acknowledged(0.02, 300, ack())
    meter.acknowledged(0.5, 300, ack())
    assert meter.read().link_seconds == 0.02
    meter.note_link(0.1)
    assert meter.read().link_seconds == 0.02


def test_a_target_without_acks(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = StreamMeter()
    meter.applied(0.25, 500)
    meter.applied(0.5, 500)
    reading = meter.read()
    assert (reading.acknowledged_bytes, reading.in_flight_bytes, reading.round_trip_seconds) == (1000, 0, 0.0)
    assert (meter.apply_seconds, meter.applied_frames) == (0.75, 2)


def test_an_ack_of_an_older_receiver_says_less() -> None:
    meter = StreamMeter()
    meter.acknowledged(0.1, 10, {"frames": 1})
    assert (meter.apply_seconds, meter.applied_frames, meter.health, meter.read().queued_bytes) == (0.0, 1, None, 0)


def test_health_is_kept_with_its_time() -> None:
    meter = StreamMeter()
    assert (meter.health, meter.health_at) == (None, 0.0)
    meter.acknowledged(0.1, 10, ack(health={"l0_files": 3, "l0_stop_trigger": -1}))
    assert meter.health == {"l0_files": 3, "l0_stop_trigger": -1}
    assert meter.health_at > 0


@pytest.mark.parametrize(
    "nonsense",
    [
        {"apply_seconds": -1}, {"apply_seconds": float("nan")}, {"apply_seconds": float("inf")},
        {"apply_seconds": 1e300}, {"apply_seconds": "much"}, {"apply_seconds": None}, {"apply_seconds": 10**400},
        {"queued": -1}, {"queued": 1 << 63}, {"queued": 1.5}, {"queued": "5"}, {"queued": None}, {"queued": True},
        {"health": None}, {"health": [1]}, {"health": "well"}, {"health": {"l0_files": "many"}},
        {"health": {"l0_files": 1 << 63}}, {"health": {"l0_files": 0.5}}, {"health": {"l0_files": None}},
    ],
    ids=repr,
)  # fmt: skip
def test_nonsense_is_found_out(nonsense: dict[str, Any]) -> None:
    with pytest.raises(MALFORMED):
        StreamMeter().acknowledged(0.1, 10, ack(**nonsense))
