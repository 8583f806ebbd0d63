"""Schedules against a table of the day's seconds."""

from __future__ import annotations

import datetime

from hypothesis import given
from hypothesis import strategies as st

from kvbatch.flow.rate_schedule import RateSchedule, RateWindow

DAY = 24 * 60

limits = st.integers(0, 1 << 40)
windows = st.builds(
    lambda start, length, limit: RateWindow(60 * start, 60 * ((start + length - 1) % DAY + 1), limit),
    st.integers(0, DAY - 1),
    st.integers(1, DAY - 1),
    limits,
)
schedules = st.builds(RateSchedule, st.lists(windows, max_size=5).map(tuple), limits)
times = st.times()


def later(moment: datetime.time, seconds: float) -> datetime.time:
    return (datetime.datetime.combine(datetime.date(2026, 1, 1), moment) + datetime.timedelta(seconds=seconds)).time()


@given(schedules)
def test_a_schedule_is_read_as_it_is_written(schedule: RateSchedule) -> None:
    assert RateSchedule.parse(str(schedule)) == schedule


@given(schedules, times)
def test_the_limit_is_that_of_the_first_window_over_the_minute(schedule: RateSchedule, moment: datetime.time) -> None:
    minute = moment.hour * 60 + moment.minute
    expected = schedule.default
    for window in reversed(schedule.windows):
        first, last = window.start // 60, window.end // 60
        if minute in {each % DAY for each in range(first, last if last > first else last + DAY)}:
            expected = window.limit
    assert schedule.limit_at(moment) == expected


@given(schedules, times, st.floats(0, 0.999))
def test_the_limit_stays_until_the_next_change(schedule: RateSchedule, moment: datetime.time, share: float) -> None:
    change = schedule.next_change(moment)
    assert change > 0
    assert schedule.limit_at(later(moment, share * min(change, 86_400))) == schedule.limit_at(moment)
