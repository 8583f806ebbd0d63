"""The numbers behind the plots of a report: samples and ranges, reduced to what a page can show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kvbatch.samples import JobHistory, RangeTimes, Sample

__all__ = ["Bar", "Interval", "range_bars", "to_intervals"]


@dataclass(frozen=True, slots=True)
class Interval:
    """What a job did from `start` to `end`, in seconds that it ran. Rates are means, memory is the most, latencies are
    means (None: not measured), shares are those of the streams' time; the rest is as it was at the end."""

    start: float
    end: float
    run: int
    entries_per_second: float
    bytes_per_second: float
    wire_bytes_per_second: float
    batch_bytes: int
    window: int
    streams: int
    round_trip_seconds: float | None
    apply_seconds: float | None
    rss_bytes: int
    throttled_shares: dict[str, float]


def to_intervals(samples: Sequence[Sample], most: int) -> list[Interval]:
    """About `most` intervals of equal length, some more where runs begin; fewer where there are no more samples."""
    if not samples:
        return []
    least_seconds = samples[-1].running / most
    intervals = []
    group: list[Sample] = []
    before: Sample | None = None
    for position, sample in enumerate(samples):
        group.append(sample)
        last_of_run = position + 1 == len(samples) or samples[position + 1].run != sample.run
        if last_of_run or sample.running - (before.running if before else 0.0) >= least_seconds:
            intervals.append(_interval(before, group))
            before, group = sample, []
    return intervals


def _interval(before: Sample | None, group: Sequence[Sample]) -> Interval:
    last = group[-1]
    start = before.running if before else 0.0
    seconds = max(1e-3, last.running - start)
    # Entries and bytes of a run begin at what was durable, which no sample says.
    same_run = before is not None and before.run == last.run
    throttled_before = before.throttled_seconds if before else {}
    return Interval(
        start=start,
        end=last.running,
        run=last.run,
        entries_per_second=(
            max(0, last.entries - before.entries) / seconds
            if before and same_run
            else sum(each.entries_per_second for each in group) / len(group)
        ),
        bytes_per_second=(
            max(0, last.raw_bytes - before.raw_bytes) / seconds
            if before and same_run
            else sum(each.bytes_per_second for each in group) / len(group)
        ),
        wire_bytes_per_second=max(0, last.wire_bytes - (before.wire_bytes if before else 0)) / seconds,
        batch_bytes=last.batch_bytes,
        window=last.window,
        streams=last.streams,
        round_trip_seconds=_mean([each.round_trip_seconds for each in group]),
        apply_seconds=_mean([each.apply_seconds for each in group]),
        rss_bytes=max(each.rss_bytes for each in group),
        throttled_shares={
            reason: min(1.0, max(0.0, total - throttled_before.get(reason, 0.0)) / seconds)
            for reason, total in last.throttled_seconds.items()
        },
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


@dataclass(frozen=True, slots=True)
class Bar:
    """When one range, or several that were begun one after the other, were moved: in seconds that the job ran."""

    first_range: int
    ranges: int
    start: float
    end: float
    complete: bool
    begun_again: bool


def range_bars(history: JobHistory, most: int) -> list[Bar]:
    """At most `most` bars in the order in which ranges were begun."""
    begun = sorted(
        (times for times in history.ranges if times.started is not None), key=lambda times: times.started or 0
    )
    size = max(1, math.ceil(len(begun) / most))
    now = history.samples[-1].running if history.samples else 0.0

    def bar(group: Sequence[RangeTimes]) -> Bar:
        complete = all(times.completed is not None for times in group)
        ends = [now if times.completed is None else history.running_at(times.completed) for times in group]
        return Bar(
            first_range=group[0].range,
            ranges=len(group),
            start=history.running_at(group[0].started or 0),
            end=max(ends),
            complete=complete,
            begun_again=any(times.starts > 1 for times in group),
        )

    return [bar(begun[first : first + size]) for first in range(0, len(begun), size)]
