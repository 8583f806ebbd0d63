"""What a report's plots draw is exact, whatever was left out of the samples."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from kvbatch.report_series import range_bars, to_intervals
from kvbatch.samples import JobHistory, RangeTimes, Sample, read_history
from kvbatch.state import StateStore
from support.history import START, write_history

BLANK = Sample(
    running=0.0,
    time=START,
    run=1,
    entries=0,
    raw_bytes=0,
    wire_bytes=0,
    entries_per_second=0,
    bytes_per_second=0,
    batch_bytes=0,
    window=0,
    round_trip_seconds=None,
    apply_seconds=None,
    rss_bytes=0,
    streams=0,
    state="running",
    throttle=None,
    throttled_seconds={},
)


def sample(running: float, **fields: object) -> Sample:
    return dataclasses.replace(BLANK, running=running, time=START + running, **fields)  # type: ignore[arg-type]


def test_no_samples_are_no_intervals() -> None:
    assert to_intervals([], 100) == []


def test_rates_come_from_totals_and_gauges_from_what_the_interval_saw() -> None:
    samples = [
        sample(10, raw_bytes=500, entries=50, bytes_per_second=80, wire_bytes=200),
        sample(30, raw_bytes=2500, entries=90, rss_bytes=9, round_trip_seconds=0.2, throttled_seconds={"window": 5.0}),
        sample(40, raw_bytes=4000, rss_bytes=5, round_trip_seconds=0.3),
        sample(
            60, raw_bytes=5500, entries=150, wire_bytes=1500, throttled_seconds={"window": 20.0}, window=4, streams=2
        ),
    ]
    first, second = to_intervals(samples, 2)
    # The first interval of a run has no totals to start from.
    assert (first.start, first.end, first.bytes_per_second, first.wire_bytes_per_second) == (0, 30, 40, 0)
    assert (first.rss_bytes, first.round_trip_seconds, first.apply_seconds) == (9, 0.2, None)
    assert (second.start, second.end, second.bytes_per_second, second.entries_per_second) == (30, 60, 100, 2)
    assert (second.wire_bytes_per_second, second.rss_bytes, second.round_trip_seconds) == (50, 5, 0.3)
    assert second.throttled_shares == {"window": 0.5}
    assert (second.window, second.streams) == (4, 2)


def test_a_new_run_begins_an_interval_and_what_was_sent_again_is_no_negative_rate() -> None:
    intervals = to_intervals(
        [
            sample(10, raw_bytes=1000, bytes_per_second=100, wire_bytes=100),
            sample(20, raw_bytes=2000, wire_bytes=200),
            sample(22, run=2, raw_bytes=1500, bytes_per_second=40, wire_bytes=260),
            sample(30, run=2, raw_bytes=2300, wire_bytes=300),
        ],
        1,
    )
    assert [(each.run, each.start, each.end) for each in intervals] == [(1, 0, 20), (2, 20, 30)]
    assert [each.wire_bytes_per_second for each in intervals] == [10, 10]
    assert all(each.bytes_per_second >= 0 for each in intervals)


def test_many_samples_become_about_as_many_intervals_as_wanted(tmp_path: Path) -> None:
    state = StateStore(tmp_path)
    write_history(state, "nightly", seconds=700, runs=2)
    history = read_history(state, "nightly")
    intervals = to_intervals(history.samples, 100)
    assert 90 <= len(intervals) <= 110
    assert (intervals[0].start, intervals[-1].end) == (0, 1400)
    assert [later.start for later in intervals[1:]] == [earlier.end for earlier in intervals[:-1]]


def test_bars_are_in_the_order_of_the_starts_and_show_what_was_interrupted() -> None:
    history = JobHistory(
        samples=[sample(1), sample(100)],
        ranges=[
            RangeTimes(0, START + 50, None, 1),
            RangeTimes(1, START + 10, START + 20, 1),
            RangeTimes(2, START + 30, START + 60, 2),
            RangeTimes(3, None, START + 60, 0),
        ],
    )
    bars = range_bars(history, 10)
    assert [(bar.first_range, bar.start, bar.end) for bar in bars] == [(1, 10, 20), (2, 30, 60), (0, 50, 100)]
    assert [(bar.complete, bar.begun_again) for bar in bars] == [(True, False), (True, True), (False, False)]
    [bar] = range_bars(history, 1)
    assert (bar.ranges, bar.start, bar.end, bar.complete, bar.begun_again) == (3, 10, 100, False, True)


@pytest.mark.parametrize("count", [1, 200, 201, 10_000])
def test_bars_stay_few(count: int) -> None:
    history = JobHistory(
        [sample(1), sample(count)], [RangeTimes(number, START + number, START + number, 1) for number in range(count)]
    )
    bars = range_bars(history, 200)
    assert len(bars) <= 200
    assert sum(bar.ranges for bar in bars) == count
