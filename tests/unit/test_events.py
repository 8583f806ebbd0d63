from __future__ import annotations

import dataclasses
import json
import threading

import pytest

from kvbatch.events import Event, EventBus, Progress, RateMeter, Summary


def test_every_subscriber_gets_every_event_until_done() -> None:
    bus = EventBus()
    first, second = bus.subscribe(), bus.subscribe()
    bus.publish("job", job="nightly")
    bus.publish("sample", entries=5)
    bus.publish("done", state="done")
    for events in (list(first), list(second)):
        assert [(event.kind, event.data) for event in events] == [
            ("job", {"job": "nightly"}),
            ("sample", {"entries": 5}),
            ("done", {"state": "done"}),
        ]


def test_a_late_subscriber_gets_what_happened_before_but_for_samples() -> None:
    bus = EventBus()
    bus.publish("job", job="nightly")
    bus.publish("sample", entries=5)
    bus.publish("retry", attempt=1)
    late = bus.subscribe()
    bus.publish("sample", entries=7)
    bus.publish("done", state="done")
    assert [event.kind for event in late] == ["job", "retry", "sample", "done"]


def test_who_comes_after_the_end_gets_all_of_it() -> None:
    bus = EventBus()
    bus.publish("retry", attempt=1)
    bus.publish("done", state="failed", error="no disk")
    for _ in range(2):
        assert [event.data for event in bus.subscribe()] == [{"attempt": 1}, {"state": "failed", "error": "no disk"}]


def test_what_is_kept_for_late_subscribers_is_bounded() -> None:
    bus = EventBus()
    for number in range(10_000):
        bus.publish("warning", message=str(number))
    bus.publish("done", state="done")
    events = list(bus.subscribe())
    assert len(events) == 4096
    assert [event.kind for event in events[-2:]] == ["warning", "done"]


def test_a_subscriber_that_leaves_is_forgotten() -> None:
    bus = EventBus()
    events = bus.subscribe()
    bus.publish("job", job="nightly")
    assert next(events).kind == "job"
    events.close()  # type: ignore[attr-defined]
    bus.publish("done", state="done")
    assert bus._queues == []


def test_events_come_from_any_thread_in_the_order_of_each() -> None:
    bus = EventBus()
    events = bus.subscribe()

    def publish(number: int) -> None:
        for i in range(200):
            bus.publish("range", range=number, state=str(i))

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bus.publish("done", state="done")
    seen = [event.data for event in events if event.kind == "range"]
    for number in range(4):
        assert [data["state"] for data in seen if data["range"] == number] == [str(i) for i in range(200)]


def test_an_event_is_flat_json() -> None:
    event = Event("warning", 1.5, {"message": "mind the gap"})
    assert json.loads(json.dumps(event.to_json())) == {"event": "warning", "time": 1.5, "message": "mind the gap"}


@pytest.mark.parametrize(
    ("rate", "raw_bytes", "seconds"), [(0.0, 0, None), (10.0, 0, 100.0), (10.0, 900, 10.0), (10.0, 2000, 0.0)]
)
def test_the_time_that_remains(rate: float, raw_bytes: int, seconds: float | None) -> None:
    progress = Progress(estimated_bytes=1000, raw_bytes=raw_bytes, bytes_per_second=rate)
    assert progress.remaining_seconds == seconds


def test_a_summary_has_the_fields_of_the_contract_in_their_order() -> None:
    assert [field.name for field in dataclasses.fields(Summary)] == [
        "job", "state", "lane", "lane_reason", "entries", "raw_bytes", "wire_bytes", "seconds", "entries_per_second",
        "batches", "resumed", "resent_bytes", "throttled_seconds", "peak_rss_bytes", "ranges", "finished_before",
    ]  # fmt: skip


def test_a_rate_is_the_mean_over_the_last_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("kvbatch.events.time.monotonic", lambda: now)
    meter = RateMeter()
    assert meter.sample(0, 0) == (0, 0)
    for second in range(1, 4):
        now = 100.0 + second
        assert meter.sample(10 * second, 1000 * second) == (10, 1000)
    # What was long ago does not count.
    for second in range(4, 30):
        now = 100.0 + second
        rates = meter.sample(30, 3000)
    assert rates == (0, 0)
