from __future__ import annotations

import itertools
import queue
from typing import Any

from kvbatch.events import Event
from kvbatch.job_monitor import HISTORY_FIELDS, JobMonitor
from support.watched_job import MIB, RUNNING, FakeJob

WAIT_SECONDS = 30.0


def told(job: FakeJob) -> dict[str, Any]:
    """What a monitor knows once the job has ended, too."""
    monitor = JobMonitor(job)
    job.end()
    assert monitor.wait(WAIT_SECONDS)
    return monitor.snapshot()


def test_before_anything_happens_there_is_a_job_with_ranges_that_wait() -> None:
    snapshot = JobMonitor(FakeJob()).snapshot()
    assert (snapshot["job"], snapshot["state"], snapshot["finished"]) == ("nightly", "running", False)
    assert snapshot["ranges"] == ["waiting"] * 7
    assert snapshot["progress"]["raw_bytes"] == RUNNING.raw_bytes
    assert snapshot["remaining_seconds"] == 2.0


def test_ranges_by_state() -> None:
    job = FakeJob()
    job.begin(ranges=6, complete=(0, 5))
    job.bus.publish("range", range=1, state="started")
    job.bus.publish("range", range=2, state="started")
    job.bus.publish("range", range=2, state="complete")
    assert told(job)["ranges"] == ["complete", "started", "complete", "waiting", "waiting", "complete"]


def test_a_new_session_begins_again_what_was_not_complete() -> None:
    job = FakeJob()
    job.begin(ranges=3, complete=())
    for number in (0, 1):
        job.bus.publish("range", range=number, state="started")
    job.begin(ranges=3, complete=(1,))
    assert told(job)["ranges"] == ["waiting", "complete", "waiting"]


def test_a_range_that_was_split_off_has_its_place() -> None:
    job = FakeJob()
    job.begin(ranges=2, complete=())
    job.bus.publish("range", range=4, state="started")
    monitor = JobMonitor(job)
    job.end()
    assert monitor.wait(WAIT_SECONDS)
    assert monitor.ranges_by_state() == {"waiting": 4, "started": 1, "complete": 0}


def test_state_and_throttle_are_those_of_the_last_event() -> None:
    job = FakeJob()
    monitor = JobMonitor(job)
    heard: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
    monitor.subscribe(heard.put)
    for state, reason in (("paused", "paused"), ("running", None)):
        job.bus.publish("state", state=state)
        job.bus.publish("throttle", reason=reason)
        assert [heard.get(timeout=WAIT_SECONDS).kind for _ in range(2)] == ["state", "throttle"]  # type: ignore[union-attr]
        # Heard by listeners is what was taken before.
        assert (monitor.state, monitor.snapshot()["throttle"]) == (state, reason)
    job.end("failed", error="the disk is gone")
    assert monitor.wait(WAIT_SECONDS)
    assert monitor.state == "failed"
    assert [message["error"] for message in monitor.snapshot()["messages"]] == ["the disk is gone"]


def test_the_last_messages_are_kept_and_all_are_counted() -> None:
    job = FakeJob()
    for number in range(100):
        job.bus.publish("warning", message=f"warning {number}")
    job.bus.publish("retry", attempt=1, wait_seconds=0.2, error="the cable fell out")
    monitor = JobMonitor(job)
    job.end()
    assert monitor.wait(WAIT_SECONDS)
    assert (monitor.count("warning"), monitor.count("retry")) == (100, 1)
    messages = monitor.snapshot()["messages"]
    assert len(messages) == 20
    assert (messages[0]["message"], messages[-1]["error"]) == ("warning 81", "the cable fell out")


def test_the_history_reaches_from_the_beginning_to_the_end_however_long() -> None:
    job = FakeJob()
    monitor = JobMonitor(job)
    for number in range(20_000):
        job.sample(seconds=number / 2, batch_bytes=MIB + number)
    job.end()
    assert monitor.wait(WAIT_SECONDS)
    history = monitor.snapshot()["history"]
    seconds = [point[HISTORY_FIELDS.index("seconds")] for point in history["points"]]
    assert 600 <= len(seconds) <= 1200
    assert seconds[0] == 0
    assert seconds[-1] > 9980
    steps = {after - before for before, after in itertools.pairwise(seconds)}
    assert len(steps) == 1, "the points are equally far apart"


def test_a_listener_hears_what_comes_behind_its_snapshot_and_the_end() -> None:
    job = FakeJob()
    monitor = JobMonitor(job)
    heard: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
    assert monitor.subscribe(heard.put)["finished"] is False
    job.begin()
    job.end()
    assert [event and event.kind for event in (heard.get(timeout=WAIT_SECONDS) for _ in range(3))] == [
        "job",
        "done",
        None,
    ]
    assert monitor.subscribe(heard.put)["finished"] is True
    assert heard.empty()


def test_listeners_are_let_go_when_nobody_watches_any_more() -> None:
    job = FakeJob()
    monitor = JobMonitor(job)
    stays: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
    leaves: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
    monitor.subscribe(stays.put)
    monitor.subscribe(leaves.put)
    monitor.unsubscribe(leaves.put)
    monitor.close()
    monitor.close()
    assert stays.get(timeout=WAIT_SECONDS) is None
    assert stays.empty()
    assert leaves.empty()
