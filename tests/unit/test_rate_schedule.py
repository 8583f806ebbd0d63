from __future__ import annotations

import datetime
import math
from typing import Any

import pytest

from kvbatch.errors import UsageError
from kvbatch.flow.rate_schedule import RateSchedule, parse_rate

MIB = 1 << 20


def at(text: str) -> datetime.time:
    return datetime.time.fromisoformat(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("20MiB/s", 20 * MIB),
        ("20MiB", 20 * MIB),
        (" 1.5MB/s ", 1_500_000),
        ("0", 0),
        ("0/s", 0),
        ("unlimited", 0),
        (4096, 4096),
        (0, 0),
    ],
)
def test_rates_are_read(text: str | int, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "/s", "-1", -1, True, None, 1.5, "20MiB/m", "20 MiB per s", "2048TiB/s"])
def test_what_is_no_rate_is_wrong_usage(text: Any) -> None:
    with pytest.raises(UsageError, match="malformed rate"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("time", "limit"),
    [
        ("08:59:59.999999", 0),
        ("09:00", 20 * MIB),
        ("17:59:59", 20 * MIB),
        ("18:00", 0),
        ("22:00", 50 * MIB),
        ("00:00", 50 * MIB),
        ("05:59:59", 50 * MIB),
        ("06:00", 0),
    ],
)
def test_a_schedule_gives_the_limit_of_the_time(time: str, limit: int) -> None:
    schedule = RateSchedule.parse("09:00-18:00=20MiB/s, 22:00-06:00=50MiB/s, *=0")
    assert schedule.limit_at(at(time)) == limit
    assert schedule.limit_at(datetime.datetime.combine(datetime.date(2026, 3, 29), at(time))) == limit


def test_the_first_window_that_holds_wins() -> None:
    schedule = RateSchedule.parse("12:00-13:00=unlimited,09:00-18:00=20MiB/s,*=1MiB/s")
    assert schedule.limit_at(at("12:30")) == 0
    assert schedule.limit_at(at("13:00")) == 20 * MIB
    assert schedule.limit_at(at("18:00")) == MIB


def test_other_times_have_no_limit_unless_one_is_given() -> None:
    assert RateSchedule.parse("09:00-18:00=20MiB/s").limit_at(at("20:00")) == 0


def test_a_window_may_end_with_the_day() -> None:
    schedule = RateSchedule.parse("20:00-24:00=1MiB/s,*=2MiB/s")
    assert schedule.limit_at(at("23:59:59")) == MIB
    assert schedule.limit_at(at("00:00")) == 2 * MIB
    assert schedule.next_change(at("23:00")) == 3600


def test_the_next_change_is_the_next_edge_of_a_window() -> None:
    schedule = RateSchedule.parse("09:00-18:00=20MiB/s")
    assert schedule.next_change(at("08:59:30")) == 30
    assert schedule.next_change(at("09:00")) == 9 * 3600
    assert schedule.next_change(at("18:00")) == 15 * 3600


@pytest.mark.parametrize("text", ["*=20MiB/s", "00:00-24:00=20MiB/s"])
def test_what_never_changes_has_no_next_change(text: str) -> None:
    assert RateSchedule.parse(text).next_change(at("09:00")) == math.inf


@pytest.mark.parametrize(
    ("text", "part", "why"),
    [
        ("", "", "write it like"),
        ("09:00-18:00", "09:00-18:00", "write it like"),
        ("*=0,", "", "write it like"),
        ("09:00-18:00=fast,*=0", "09:00-18:00=fast", "malformed rate 'fast'"),
        ("*=0,9-18=1MiB/s", "9-18=1MiB/s", "no time of day"),
        ("mon 09:00-18:00=1MiB/s", "mon 09:00-18:00=1MiB/s", "no time of day"),
        ("09:60-18:00=1MiB/s", "09:60-18:00=1MiB/s", "no such time"),
        ("24:00-18:00=1MiB/s", "24:00-18:00=1MiB/s", "no such time"),
        ("09:00-24:01=1MiB/s", "09:00-24:01=1MiB/s", "no such time"),
        ("09:00-09:00=1MiB/s", "09:00-09:00=1MiB/s", "no time at all"),
        ("*=0,*=1MiB/s", "*=1MiB/s", "already"),
    ],
)
def test_a_malformed_schedule_names_the_part_at_fault(text: str, part: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        RateSchedule.parse(text)
    assert f"part {part!r}" in str(caught.value)
