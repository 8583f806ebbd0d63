from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import kvbatch
from kvbatch._core.base import RateLimiter
from kvbatch._core.store import Cursor
from kvbatch.flow.job_flow import JobFlow
from kvbatch.flow.settings import JobSettings
from kvbatch.flow.stream_meter import StreamMeter
from kvbatch.flow.throttle import ThrottleLedger, ThrottleReason
from kvbatch.job_figures import JobFigures
from kvbatch.job_stream import StreamCounters
from support.stores import numbered, write_store


def stream(index: int, **counted: Any) -> Any:
    """What the figures look at. `under_way`: of a piece that is not counted yet."""
    under_way, counters = counted.pop("under_way", 0), StreamCounters(**counted)

    def add_to(total: StreamCounters) -> int:
        total.include(counters)
        return int(under_way)

    return SimpleNamespace(
        index=index, counters=counters, add_to=add_to, ended=False, meter=StreamMeter(index), batch_bytes=4096,
        compression="none", part=None, range_bytes=0,
    )  # fmt: skip


@pytest.fixture
def figures(tmp_path: Path) -> JobFigures:
    source = write_store(tmp_path / "source", {"default": numbered(100)})
    plan = kvbatch.plan(source, tmp_path / "target", lane="batch")
    return JobFigures(plan, JobFlow(JobSettings(), RateLimiter(), ThrottleLedger()))


def test_sessions_add_up_and_what_was_not_durable_is_counted_once(figures: JobFigures) -> None:
    first = stream(0, entries=50, raw_bytes=500, batches=5)
    figures.begin_session(figures._manifest, [])
    figures.begin_streams([first])
    assert (figures.sample().entries, figures.sample().durable_entries) == (50, 0)
    figures.note_durable(Cursor(0, complete=False, entries=30, raw_bytes=300, digest=bytes(16), last_key=b"k"))
    assert (figures.sample().entries, figures.sample().durable_entries) == (50, 30)
    figures.end_streams()
    figures.begin_session(figures._manifest, list(figures.cursors().values()))
    figures.begin_streams([stream(0, entries=10, raw_bytes=100, batches=1)])
    again = figures.sample()
    assert (again.entries, again.raw_bytes, again.batches) == (40, 400, 6)


def test_rates_of_the_run_count_once_what_was_sent_again(figures: JobFigures) -> None:
    found = Cursor(0, complete=False, entries=20, raw_bytes=200, digest=bytes(16), last_key=b"k")
    figures.begin_session(figures._manifest, [found])
    figures.begin_streams([stream(0, entries=50, raw_bytes=500, batches=5)])
    figures.end_streams()
    # Nothing of it became durable.
    figures.begin_session(figures._manifest, [found])
    again = figures.sample()
    assert (again.entries, again.mean_entries_per_second, again.mean_bytes_per_second) == (20, 0.0, 0.0)
    figures.begin_streams([stream(0, entries=80, raw_bytes=800, batches=8)])
    figures.note_durable(Cursor(0, complete=True, entries=100, raw_bytes=1000, digest=bytes(16), last_key=b"z"))
    figures.end_streams()
    last = figures.last_sample()
    summary = figures.summary("job", "so", resumed=True, resent_bytes=500)
    assert last.entries_per_second == last.mean_entries_per_second == summary.entries_per_second
    assert summary.entries_per_second == pytest.approx(80 / summary.seconds)
    assert last.bytes_per_second == last.mean_bytes_per_second == pytest.approx(800 / summary.seconds)


def test_nothing_moves_behind_a_break(figures: JobFigures) -> None:
    figures.begin_session(figures._manifest, [])
    figures.begin_streams([stream(0, entries=50, raw_bytes=500, wire_bytes=400)])
    assert figures.sample().bytes_per_second > 0
    figures.end_streams()
    figures.note_break()
    waiting = figures.sample()
    assert (waiting.entries_per_second, waiting.bytes_per_second, waiting.wire_bytes_per_second) == (0.0, 0.0, 0.0)
    assert waiting.remaining_seconds is None


def test_what_was_read_stays_between_two_attempts(figures: JobFigures) -> None:
    found = Cursor(0, complete=False, entries=20, raw_bytes=200, digest=bytes(16), last_key=b"k")
    figures.begin_session(figures._manifest, [found])
    figures.begin_streams([stream(0, entries=50, raw_bytes=500, wire_bytes=400, batches=5)])
    running = figures.sample()
    figures.end_streams()
    figures.note_break()
    for waiting in (figures.sample(), figures.sample()):
        assert (waiting.entries, waiting.raw_bytes) == (running.entries, running.raw_bytes) == (70, 700)
        assert (waiting.batches, waiting.wire_bytes) == (5, 400)
    # The next session begins with what the target has.
    figures.begin_session(figures._manifest, [found])
    again = figures.sample()
    assert (again.entries, again.raw_bytes, again.batches, again.wire_bytes) == (20, 200, 5, 400)


def test_what_frames_got_last_is_known_when_no_stream_is_left(figures: JobFigures) -> None:
    figures.begin_session(figures._manifest, [])
    ran = stream(0, entries=50, raw_bytes=510, sent_raw_bytes=500, payload_bytes=250, wire_bytes=300)
    ran.compression = "zstd"
    figures.begin_streams([ran])
    figures.sample()
    figures.end_streams()
    last = figures.last_sample()
    assert (last.compression, last.compression_ratio) == ("zstd", 2.0)
    assert last.wire_bytes_per_second == pytest.approx(300 / last.seconds)


def test_what_has_left_of_a_piece_is_progress_and_not_observed(figures: JobFigures) -> None:
    piece = stream(0, raw_bytes=100, sent_raw_bytes=100, payload_bytes=50, under_way=30)
    figures.begin_streams([piece, stream(1, under_way=7)])
    progress = figures.sample()
    assert (progress.raw_bytes, progress.durable_bytes, progress.compression_ratio) == (137, 0, 2.0)
    assert progress.bytes_per_second > 0
    assert figures.observation is not None
    assert (figures.observation.raw_bytes, figures.observation.payload_bytes) == (100, 50)


def test_a_job_that_is_held_has_no_rate_once_nothing_moves(figures: JobFigures) -> None:
    ran = stream(0, entries=10, raw_bytes=100, wire_bytes=50)
    figures.begin_streams([ran])
    assert figures.sample().bytes_per_second > 0
    figures._flow.pause()
    ran.counters.add(1, 40)  # a batch that was under way
    assert figures.sample().bytes_per_second > 0
    held = figures.sample()
    assert (held.entries_per_second, held.bytes_per_second, held.wire_bytes_per_second) == (0, 0, 0)
    assert held.remaining_seconds is None
    figures._flow.resume()
    ran.counters.add(1, 40)
    assert figures.sample().bytes_per_second > 0


def test_an_observation_is_what_was_counted_since_the_last(figures: JobFigures) -> None:
    ran = [stream(0, raw_bytes=100, applied_frames=1, apply_seconds=0.5), stream(1)]
    figures.begin_streams(ran)
    figures.sample()
    ran[0].counters.add(1, 40)
    ran[0].counters.applied_frames, ran[0].counters.apply_seconds = 5, 1.5
    ran[1].meter.sent(10)
    figures.sample()
    observed = figures.observation
    assert observed is not None
    assert (observed.raw_bytes, observed.applied_frames, observed.apply_seconds) == (40, 4, 1.0)
    assert (observed.streams, observed.in_flight_bytes) == (2, 10)
    figures.sample()
    assert figures.observation is not None
    assert (figures.observation.raw_bytes, figures.observation.applied_frames) == (0, 0)


def test_the_newest_health_counts(figures: JobFigures) -> None:
    ran = [stream(0), stream(1)]
    ran[0].meter.health, ran[0].meter.health_at = {"write_stopped": 1}, 1.0
    ran[1].meter.health, ran[1].meter.health_at = {"write_stopped": 0}, 2.0
    ran[0].ended = True
    figures.begin_streams(ran)
    figures.sample()
    assert figures.observation is not None
    assert figures.observation.health == {"write_stopped": 0}


def test_waits_are_the_mean_of_the_streams(figures: JobFigures) -> None:
    figures._flow.ledger.add(ThrottleReason.WINDOW, 3.0)
    figures.begin_streams([stream(0), stream(1)])
    assert figures.sample().throttled_seconds == {"window": 1.5}
    figures.end_streams()
    summary = figures.summary("job", "so", resumed=False, resent_bytes=0)
    assert dataclasses.asdict(summary)["throttled_seconds"] == 1.5


def test_streams_are_added_up_in_every_figure() -> None:
    names = [each.name for each in dataclasses.fields(StreamCounters)]
    total = StreamCounters(**{name: number for number, name in enumerate(names)})
    total.include(StreamCounters(**dict.fromkeys(names, 100)))
    assert [getattr(total, name) for name in names] == [100 + number for number in range(len(names))]
