"""The estimate of a plan's duration."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvbatch
from kvbatch import calibration
from kvbatch.calibration import Calibration, calibrate, estimate_seconds
from kvbatch.endpoints import parse_endpoint
from kvbatch.migration_plan import Plan, open_source
from kvbatch.options import MigrationOptions
from kvbatch.target_state import TargetState
from support.link import Link, Passing
from support.stores import numbered, write_store

OPTIONS = MigrationOptions.checked(streams=2)
ELSEWHERE = parse_endpoint("kvbatch://10.1.2.3/copy")
HERE = parse_endpoint("copy")
GIGABYTE = 10**9


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Of a gigabyte of entries in one range."""
    made = kvbatch.plan(write_store(tmp_path / "source", {"default": numbered(2000)}), tmp_path / "copy")
    [part] = made.ranges
    return dataclasses.replace(made, ranges=(dataclasses.replace(part, estimated_bytes=GIGABYTE),))


def seconds(plan: Plan, measured: Calibration, target: object = HERE) -> float:
    return estimate_seconds(plan, measured, target, OPTIONS) - calibration._FIXED_SECONDS  # type: ignore[arg-type]


def test_two_cores_share_the_work_of_both_sides(plan: Plan) -> None:
    assert seconds(plan, Calibration(0.0, 1.4e-9)) == pytest.approx((1.4 + 0.6) / 2)
    assert seconds(plan, Calibration(0.0, 1.4e-9), ELSEWHERE) == pytest.approx((1.4 + 0.6) / 4)


def test_files_are_not_read_entry_by_entry(plan: Plan) -> None:
    by_file = dataclasses.replace(plan.ranges[0], file="000007.sst", file_bytes=GIGABYTE // 2)
    moved = dataclasses.replace(plan, ranges=(by_file,))
    assert seconds(moved, Calibration(0.1e-9, 9.0)) == pytest.approx((0.1 + 0.6) / 2 / 2)


def test_a_slow_link_decides(plan: Plan) -> None:
    assert seconds(plan, Calibration(0.0, 1e-9, 1e6), ELSEWHERE) == pytest.approx(1000)


def test_only_what_is_left_counts(plan: Plan) -> None:
    measured = Calibration(0.0, 1.4e-9)
    half = dataclasses.replace(plan, target_state=TargetState("resumable", 1, 2))
    assert seconds(half, measured) == pytest.approx(0.5)
    done = dataclasses.replace(plan, target_state=TargetState("finished"))
    assert estimate_seconds(done, measured, HERE, OPTIONS) == 0.0


def test_reading_is_measured_where_something_is_read(tmp_path: Path) -> None:
    source = write_store(tmp_path / "source", {"default": numbered(5000)})
    store = open_source(parse_endpoint(source), OPTIONS)
    read = calibrate(store, kvbatch.plan(source, tmp_path / "copy", lane="batch"), HERE)
    assert read.file_seconds_per_byte == 0.0
    assert 0.0 < read.entry_seconds_per_byte < 1e-3
    files = calibrate(store, kvbatch.plan(source, tmp_path / "copy", lane="files"), HERE)
    assert files.entry_seconds_per_byte == 0.0
    assert 0.0 < files.file_seconds_per_byte < 1e-3
    empty = write_store(tmp_path / "empty", {"default": {}})
    nothing = kvbatch.plan(empty, tmp_path / "copy")
    assert nothing.estimated_seconds == pytest.approx(calibration._FIXED_SECONDS, abs=0.01)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[kvbatch.Receiver]:
    with kvbatch.serve(tmp_path / "root") as serving:
        yield serving


def test_the_link_is_measured(receiver: kvbatch.Receiver, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that takes ten megabytes a second, and one that nothing slows down."""
    monkeypatch.setattr(calibration, "is_elsewhere", lambda _: True)

    def slowly(passing: Passing) -> bytes:
        time.sleep(len(passing.data) / 10e6)
        return passing.data

    with Link(receiver.port) as link:
        link.hook = slowly
        rate = calibration._link_bytes_per_second(parse_endpoint(f"kvbatch://127.0.0.1:{link.port}/copy"))
    assert 2e6 < rate <= 10e6
    monkeypatch.setattr(calibration, "_FASTEST_PROBE", 1.0)
    free = calibration._link_bytes_per_second(parse_endpoint(f"kvbatch://127.0.0.1:{receiver.port}/copy"))
    assert free == float("inf")
