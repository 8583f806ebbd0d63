"""Real migrations that are paused, steered and limited while they run: they obey, say so, and come out equal."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import kvbatch
from kvbatch.options import MigrationOptions
from kvbatch.process import ThreadPriority
from kvbatch.status_view import job_rows
from kvbatch.target_job import TargetJob
from kvbatch.target_local import LocalSession
from kvbatch.target_remote import RemoteSession
from support.places import Place
from support.steered import WAIT_SECONDS, SteeredJob, small_pieces, until
from support.stores import read_store, write_store

KIB = 1 << 10
MIB = 1 << 20
# Of so many bytes a second, what a job needs is far more than what a test takes.
CRAWL = 64 * KIB

Entries = dict[str, dict[bytes, bytes]]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Entries]:
    """3 MB that do not compress."""
    noise = random.Random(4)
    entries = {
        "default": {b"key-%06d" % number: noise.randbytes(1000) for number in range(2600)},
        "users": {b"user-%06d" % number: noise.randbytes(200) for number in range(1500)},
    }
    return write_store(tmp_path_factory.mktemp("flow") / "source", entries), entries


@pytest.fixture
def source(stored: tuple[Path, Entries]) -> Path:
    return stored[0]


@pytest.fixture
def check_equal(stored: tuple[Path, Entries]) -> Callable[[Path], None]:
    def check(target: Path) -> None:
        assert read_store(target) == stored[1]

    return check


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvbatch.migration.SAMPLE_SECONDS", 0.05)


# Every lane, and both ways.
some_ways = pytest.mark.parametrize(
    ("place", "lane"), [("receiver", "batch"), ("directory", "sst"), ("receiver", "files")], indirect=["place"]
)
other_ways = pytest.mark.parametrize(
    ("place", "lane"), [("directory", "batch"), ("receiver", "sst"), ("directory", "files")], indirect=["place"]
)


# -- pause, resume, set -----------------------------------------------------------------------------------------------

EACH_SETTING: list[dict[str, Any]] = [
    {"rate_limit": "96KiB/s"},
    {"source_read_rate": "8MiB/s"},
    {"streams": 3},
    {"batch_bytes": 8 * KIB},
    {"batch_bytes": "auto"},
    {"window": 2},
    {"window": "auto"},
    {"compression": "zstd"},
    {"max_memory": "64MiB"},
    {"rate_limit": 0, "source_read_rate": 0, "streams": 2, "window": 7, "batch_bytes": "16KiB", "compression": "lz4"},
]


@other_ways
def test_a_job_obeys_in_every_lane_and_comes_out_equal(
    place: Place, source: Path, check_equal: Callable[[Path], None], lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch)
    with SteeredJob(source, place.endpoint(), lane=lane, rate_limit=CRAWL) as job:
        job.until(lambda progress: progress.batches > 0)
        job.migration.pause()
        job.migration.pause()
        assert (job.progress.state, job.migration.settings.rate_limit) == ("paused", CRAWL)
        held = job.until_held("paused")
        assert held.ranges_complete < held.ranges
        job.check_nothing_moves()
        # Nothing of it makes a paused job move.
        for changes in EACH_SETTING:
            settings = job.migration.set(**changes)
        job.check_nothing_moves()
        assert (settings.rate_limit, settings.streams, settings.window, settings.compression) == (0, 2, 7, "lz4")
        with pytest.raises(kvbatch.UsageError):
            job.migration.set(window=3, streams=0)
        assert job.migration.settings == settings
        assert job.progress.state == "paused"
        job.migration.resume()
        job.migration.resume()
        summary = job.finish()
        assert job.progress.throttled_seconds["paused"] > 0
    assert summary.throttled_seconds > 0
    assert summary.resent_bytes == 0
    assert [data["state"] for data in job.told("state")] == ["paused", "running"]
    assert [data.keys() for data in job.told("settings")] == [changes.keys() for changes in EACH_SETTING]
    assert "paused" in [data["reason"] for data in job.told("throttle")]
    check_equal(place.path())


def test_a_job_that_is_paused_before_its_first_frame_moves_nothing_at_all(
    place: Place, source: Path, check_equal: Callable[[Path], None]
) -> None:
    migration = kvbatch.Migration(str(source), place.endpoint(), MigrationOptions.checked(batch_bytes=16 * KIB))
    migration.pause()
    migration.start()
    until(lambda: migration.progress().throttle == "paused")
    assert (migration.progress().batches, migration.progress().entries) == (0, 0)
    migration.resume()
    migration.wait(WAIT_SECONDS)
    check_equal(place.path())


@other_ways
def test_a_paused_job_is_cancelled_and_carried_on(
    place: Place, source: Path, check_equal: Callable[[Path], None], lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch)
    with SteeredJob(source, place.endpoint(), lane=lane, rate_limit=CRAWL) as job:
        job.migration.pause()
        job.until_held("paused")
        job.migration.cancel()
        with pytest.raises(kvbatch.StoppedError):
            job.migration.wait(WAIT_SECONDS)
    assert job.told("done") == [{"state": "stopped", "error": job.told("done")[0]["error"]}]
    with SteeredJob(source, place.endpoint(), lane=lane) as again:
        assert again.finish().state == "done"
    check_equal(place.path())


@pytest.mark.parametrize("place", ["receiver"], indirect=True)
def test_two_operators_at_once(place: Place, source: Path, check_equal: Callable[[Path], None]) -> None:
    """One in this process, one at the socket: each gets what holds behind its own request, and the job survives it."""
    with (
        SteeredJob(source, place.endpoint(), rate_limit=CRAWL, job="shared") as job,
        ThreadPoolExecutor(2) as operators,
    ):
        job.until(lambda progress: progress.batches > 0)

        def at_the_socket() -> None:
            control = kvbatch.control("shared")
            for number in range(20):
                assert control.pause().settings is not None
                settings = control.set(batch_bytes=(4 + number) * KIB).settings
                assert settings is not None
                assert settings["batch_bytes"] == (4 + number) * KIB
                control.resume()

        def in_this_process() -> None:
            for number in range(20):
                job.migration.pause()
                assert job.migration.set(window=1 + number).window == 1 + number
                job.migration.resume()

        for work in [operators.submit(at_the_socket), operators.submit(in_this_process)]:
            work.result(WAIT_SECONDS)
        job.migration.resume()
        assert (job.migration.settings.batch_bytes, job.migration.settings.window) == (23 * KIB, 20)
        job.finish(rate_limit=0)
    states = [data["state"] for data in job.told("state")]
    assert states == ["paused", "running"] * (len(states) // 2)
    check_equal(place.path())


# -- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["receiver"], indirect=True)
def test_streams_come_and_go(place: Place, source: Path, check_equal: Callable[[Path], None]) -> None:
    with SteeredJob(
        source, place.endpoint(), streams=1, rate_limit=512 * KIB, range_bytes=32 * KIB, batch_bytes=4 * KIB
    ) as job:
        job.until(lambda progress: progress.streams == 1)
        job.migration.set(streams=4)
        job.until(lambda progress: progress.streams == 4)
        # The surplus ends behind the ranges that it has.
        job.migration.set(streams=2)
        job.until(lambda progress: progress.streams == 2)
        job.migration.set(streams=3)
        job.until(lambda progress: progress.streams == 3)
        job.finish(rate_limit=0)
    assert not job.told("retry")
    check_equal(place.path())


@some_ways
def test_streams_that_are_chosen_by_the_job(
    place: Place, source: Path, check_equal: Callable[[Path], None], lane: str
) -> None:
    options = {"streams": "auto", "max_streams": 3, "batch_bytes": "auto", "window": "auto", "max_memory": "8MiB"}
    with SteeredJob(source, place.endpoint(), lane=lane, range_bytes=64 * KIB, **options) as job:
        job.finish()
    samples = job.told("sample")
    assert all(sample["streams"] <= 3 for sample in samples)
    assert all(2 * sample["streams"] * sample["batch_bytes"] <= 16 * MIB for sample in samples)
    check_equal(place.path())


# -- limits -----------------------------------------------------------------------------------------------------------


class Sent:
    """What all streams of a job handed over so far."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.streams: list[Any] = []
        for session in (LocalSession, RemoteSession):
            monkeypatch.setattr(session, "stream", self._noting(session.stream))

    def _noting(self, make: Callable[..., Any]) -> Callable[..., Any]:
        def stream(*arguments: Any) -> Any:
            self.streams.append(made := make(*arguments))
            return made

        return stream

    def bytes(self) -> int:
        return sum(stream.sent_bytes for stream in list(self.streams))


def burst(rate: int) -> int:
    """docs/throttle.md: a tenth of a second, 64 KiB at least."""
    return max(64 * KIB, rate // 10)


@some_ways
def test_no_more_is_sent_than_the_limit_allows_at_any_moment(
    place: Place, source: Path, check_equal: Callable[[Path], None], lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch)
    sent = Sent(monkeypatch)
    first, second = 1 * MIB, 128 * KIB
    began = time.monotonic()
    with SteeredJob(source, place.endpoint(), lane=lane, rate_limit=first) as job:

        def check_first() -> bool:
            so_far = sent.bytes()
            assert so_far <= first * (time.monotonic() - began) + burst(first)
            return so_far > 512 * KIB

        until(check_first)
        changed = time.monotonic()
        job.migration.set(rate_limit=second)
        # Streams may still have to send what the first limit had granted them.
        already = sent.bytes() + burst(first)
        for _ in range(40):
            so_far = sent.bytes()
            assert so_far <= already + second * (time.monotonic() - changed) + burst(second)
            time.sleep(0.01)
        limited = job.until(lambda progress: progress.rate_limit == second)
        assert limited.throttled_seconds["rate-limit"] > 0
        job.finish(rate_limit=0)
    check_equal(place.path())


@pytest.mark.parametrize("place", ["receiver"], indirect=True)
def test_a_limit_by_the_time_of_day(place: Place, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Sent(monkeypatch)
    began = time.monotonic()
    schedule = "00:00-12:00=256KiB/s,12:00-24:00=256KiB/s,*=0"
    with SteeredJob(source, place.endpoint(), rate_schedule=schedule) as job:
        assert job.migration.settings.rate_limit == 256 * KIB

        def check() -> bool:
            so_far = sent.bytes()
            assert so_far <= 256 * KIB * (time.monotonic() - began) + burst(256 * KIB)
            return so_far > 200 * KIB

        until(check)


@pytest.mark.parametrize("place", ["receiver"], indirect=True)
def test_a_piece_that_takes_long_is_progress_from_its_first_bytes_on(source: Path, place: Place) -> None:
    """2.6 MB in one piece, which take ten seconds."""
    with SteeredJob(source, place.endpoint(), lane="files", streams=1, rate_limit=256 * KIB) as job:
        began = job.until(lambda progress: progress.raw_bytes > 0)
        assert began.raw_bytes < MIB
        later = job.until(lambda progress: progress.seconds > began.seconds + 1.5)
        assert later.batches == began.batches
        for moved in (later.raw_bytes - began.raw_bytes, later.wire_bytes - began.wire_bytes):
            assert 0.6 < moved / (256 * KIB * (later.seconds - began.seconds)) < 1.3
        job.finish(rate_limit=0)


@other_ways
def test_a_stop_does_not_wait_for_what_a_low_limit_brings(
    place: Place, source: Path, check_equal: Callable[[Path], None], lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the lane `files` a piece of these sizes would take 45 seconds."""
    monkeypatch.setattr("kvbatch.migration._STOP_GRACE_SECONDS", 0.2)
    with SteeredJob(source, place.endpoint(), lane=lane, rate_limit=CRAWL, batch_bytes=2 * MIB) as job:
        # Nothing is counted of a piece that is under way.
        job.until(lambda progress: progress.throttled_seconds.get("rate-limit", 0) > 0)
        asked = time.monotonic()
        job.migration.cancel()
        with pytest.raises(kvbatch.StoppedError):
            job.migration.wait(WAIT_SECONDS)
        assert time.monotonic() - asked < 20
    with SteeredJob(source, place.endpoint(), lane=lane) as again:
        again.finish()
    check_equal(place.path())


@other_ways
def test_no_more_is_read_of_the_source_than_allowed_at_any_moment(
    place: Place, source: Path, check_equal: Callable[[Path], None], lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch)
    sent = Sent(monkeypatch)
    rate = 1 * MIB
    options = MigrationOptions.checked(lane=lane, source_read_rate=rate, batch_bytes=16 * KIB, streams=2)
    migration = kvbatch.Migration(str(source), place.endpoint(), options)
    store = migration._store
    # What it took to open and to plan.
    before, began = store.bytes_read, time.monotonic()
    migration.start()
    # Files that are sent as they are do not go through RocksDB: what was sent was read, but for the frames around.
    frames_around = 64 * KIB

    def check() -> bool:
        so_far = sent.bytes() - frames_around if lane == "files" else store.bytes_read - before
        assert so_far <= rate * (time.monotonic() - began) + burst(rate)
        return migration.progress().throttled_seconds.get("source-read-rate", 0) > 0.2

    until(check)
    migration.set(source_read_rate=0)
    migration.wait(WAIT_SECONDS)
    check_equal(place.path())


def niceness_of_streams() -> list[int]:
    """That of every thread but the caller's, which has the process's own."""
    mine = threading.get_native_id()
    threads = [int(each.name) for each in Path("/proc/self/task").iterdir() if int(each.name) != mine]
    return [os.getpriority(os.PRIO_PROCESS, thread) for thread in threads]


@pytest.mark.parametrize(("lane", "low"), [("batch", 2), ("sst", 2), ("files", 0)])
def test_streams_that_read_entries_under_a_limit_give_way_on_the_cores(
    place: Place, source: Path, check_equal: Callable[[Path], None], lane: str, low: int
) -> None:
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    options = {"lane": lane, "streams": 2, "graft_bytes": 1 << 30}
    with SteeredJob(source, place.endpoint(), source_read_rate=CRAWL, **options) as job:
        job.until(lambda progress: progress.streams == 2 and progress.throttle == "source-read-rate")
        assert niceness_of_streams().count(19) == low
        job.migration.set(source_read_rate=0)
        job.migration.wait(WAIT_SECONDS)
    assert os.getpriority(os.PRIO_PROCESS, 0) == mine
    check_equal(place.path())


def test_a_thread_without_the_right_to_take_its_priority_back_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def low_and_back() -> tuple[int, int, int]:
        thread = threading.get_native_id()
        before = os.getpriority(os.PRIO_PROCESS, thread)
        priority = ThreadPriority()
        priority.set_low(True)
        during = os.getpriority(os.PRIO_PROCESS, thread)
        priority.set_low(False)
        return before, during, os.getpriority(os.PRIO_PROCESS, thread)

    with ThreadPoolExecutor(1) as one:
        before, during, after = one.submit(low_and_back).result()
    assert during == 19
    assert after == (before if os.geteuid() == 0 else during)

    def refused(*given: int) -> None:
        raise PermissionError(*given)

    monkeypatch.setattr("os.setpriority", refused)
    assert low_and_back()[0] == os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


# -- health -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["directory"], indirect=True)
def test_nothing_moves_before_the_source_is_well(
    place: Place, source: Path, check_equal: Callable[[Path], None], tmp_path: Path
) -> None:
    busy = tmp_path / "busy"
    busy.touch()
    with SteeredJob(source, place.endpoint(), throttle_check=f"test ! -e '{busy}'") as job:
        held = job.until_held("source-check")
        assert (held.batches, held.entries, held.state) == (0, 0, "running")
        job.check_nothing_moves()
        shown = dict(job_rows(kvbatch.control(job.migration.job).status()))
        assert shown["held back"].endswith(f"test ! -e '{busy}'\" exited with 1")
        busy.unlink()
        summary = job.finish()
        assert job.progress.throttled_seconds["source-check"] > 0
    assert summary.throttled_seconds > 0
    assert job.told("throttle")[0] == {"reason": "source-check"}
    assert [warning["message"].rpartition('"')[2] for warning in job.told("warning")] == [" exited with 1"]
    check_equal(place.path())


class Stall:
    """Has every target say that it has stopped its writers, until it is well again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.well = threading.Event()
        self.asked = 0
        honest = TargetJob.health

        def health(job: TargetJob) -> dict[str, int]:
            self.asked += 1
            return honest(job) if self.well.is_set() else {**honest(job), "write_stopped": 1}

        monkeypatch.setattr(TargetJob, "health", health)


@pytest.mark.parametrize(("place", "lane"), [("receiver", "batch"), ("directory", "sst")], indirect=["place"])
def test_a_stalled_target_is_waited_for(
    place: Place, source: Path, check_equal: Callable[[Path], None], lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stall = Stall(monkeypatch)
    with SteeredJob(source, place.endpoint(), lane=lane, rate_limit=256 * KIB) as job:
        held = job.until_held("target-stall")
        asked = stall.asked
        job.check_nothing_moves()
        # It is asked again and again meanwhile, by every stream.
        until(lambda: stall.asked >= asked + 4)
        stall.well.set()
        job.until(lambda progress: progress.batches > held.batches)
        job.finish(rate_limit=0)
        assert job.progress.throttled_seconds["target-stall"] > 0
    assert "target-stall" in [data["reason"] for data in job.told("throttle")]
    check_equal(place.path())


@pytest.mark.parametrize("place", ["receiver"], indirect=True)
def test_a_job_that_waits_for_a_stalled_target_can_be_paused_and_stopped(
    place: Place, source: Path, check_equal: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stall = Stall(monkeypatch)
    with SteeredJob(source, place.endpoint(), rate_limit=256 * KIB) as job:
        job.until_held("target-stall")
        job.migration.pause()
        job.until_held("paused")
        job.migration.resume()
        job.until_held("target-stall")
        job.migration.cancel()
        with pytest.raises(kvbatch.StoppedError):
            job.migration.wait(WAIT_SECONDS)
    stall.well.set()
    with SteeredJob(source, place.endpoint()) as again:
        again.finish()
    check_equal(place.path())
