"""Limits of rate as people write them: one for all the time, or by the time of day."""

from __future__ import annotations

import datetime
import math
import re
from dataclasses import dataclass

from kvbatch.errors import UsageError
from kvbatch.units import parse_bytes, write_bytes

__all__ = ["RateSchedule", "RateWindow", "parse_rate"]

_DAY_SECONDS = 24 * 60 * 60
_UNLIMITED = "unlimited"
# Far from where sums would overflow in the core, as for all sizes.
_MAX_RATE = 1 << 50
_WINDOW = re.compile(r"(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})")


def parse_rate(text: str | int) -> int:
    """`20MiB/s`, `20MiB`, `unlimited` or a plain number, in bytes a second; 0 is no limit. Raises UsageError."""
    rate = _rate_or_none(text)
    if rate is None or not 0 <= rate <= _MAX_RATE:
        raise UsageError(
            f"malformed rate {text!r}: write it like 20MiB/s, up to 1024TiB/s; 0 or {_UNLIMITED} for no limit"
        )
    return rate


def _rate_or_none(text: object) -> int | None:
    if isinstance(text, int):
        return None if isinstance(text, bool) else text
    if not isinstance(text, str):
        return None
    stripped = text.strip()
    if stripped == _UNLIMITED:
        return 0
    try:
        return parse_bytes(stripped.removesuffix("/s"))
    except UsageError:
        return None


@dataclass(frozen=True, slots=True)
class RateWindow:
    """From `start` to `end`, seconds of the day, `limit` holds (bytes a second, 0 for none). A window whose end is
    before its start crosses midnight. `start` is inside, `end` is not."""

    start: int
    end: int
    limit: int

    def holds_at(self, second: float) -> bool:
        if self.start < self.end:
            return self.start <= second < self.end
        return second >= self.start or second < self.end

    def __str__(self) -> str:
        return f"{_clock(self.start)}-{_clock(self.end)}={write_bytes(self.limit)}"


@dataclass(frozen=True, slots=True)
class RateSchedule:
    """The first window that holds gives the limit; where none does, `default` does. Bytes a second, 0 for none."""

    windows: tuple[RateWindow, ...] = ()
    default: int = 0

    @staticmethod
    def parse(text: str) -> RateSchedule:
        """`09:00-18:00=20MiB/s,22:00-06:00=unlimited,*=50MiB/s`. `*` is all other times; without it they have no
        limit. Raises UsageError naming the part at fault."""
        windows: list[RateWindow] = []
        default: int | None = None
        for part in text.split(","):
            when, equals, rate = part.strip().partition("=")
            if not equals:
                raise _malformed(text, part, "write it like 09:00-18:00=20MiB/s or *=0")
            try:
                limit = parse_rate(rate)
            except UsageError as error:
                raise _malformed(text, part, str(error)) from error
            if when.strip() == "*":
                if default is not None:
                    raise _malformed(text, part, "there is a limit for all other times already")
                default = limit
            else:
                windows.append(RateWindow(*_parse_window(text, part, when.strip()), limit))
        return RateSchedule(tuple(windows), default or 0)

    @property
    def limits(self) -> tuple[int, ...]:
        """All that ever hold."""
        return (*(window.limit for window in self.windows), self.default)

    def limit_at(self, now: datetime.time | datetime.datetime) -> int:
        """The limit at this local time, in bytes a second; 0 for none."""
        second = _second_of_day(now)
        return next((window.limit for window in self.windows if window.holds_at(second)), self.default)

    def next_change(self, now: datetime.time | datetime.datetime) -> float:
        """Seconds, as the clock on the wall counts them, for which the limit is sure to stay what it is; infinity
        when it never changes. Where clocks are put forward or back, look again more often than that."""
        second = _second_of_day(now)
        edges = {edge % _DAY_SECONDS for window in self.windows for edge in (window.start, window.end)}
        if len(edges) < 2:
            return math.inf
        return min((edge - second) % _DAY_SECONDS or _DAY_SECONDS for edge in edges)

    def __str__(self) -> str:
        """What `parse` reads as this schedule."""
        return ",".join([*map(str, self.windows), f"*={write_bytes(self.default)}"])


def _parse_window(text: str, part: str, when: str) -> tuple[int, int]:
    match = _WINDOW.fullmatch(when)
    if match is None:
        raise _malformed(text, part, f"{when!r} is no time of day: write it like 09:00-18:00, or * for all other times")
    hours, minutes = (int(match[1]), int(match[3])), (int(match[2]), int(match[4]))
    start, end = (hour * 3600 + minute * 60 for hour, minute in zip(hours, minutes, strict=True))
    # 24:00 ends a day and begins none.
    if max(minutes) > 59 or start >= _DAY_SECONDS or end > _DAY_SECONDS:
        raise _malformed(text, part, f"there is no such time as in {when!r}: 00:00 to 23:59, and 24:00 as an end")
    if start == end:
        raise _malformed(text, part, f"{when!r} is no time at all: for the whole day write 00:00-24:00 or *")
    return start, end


def _malformed(text: str, part: str, why: str) -> UsageError:
    return UsageError(f"rate schedule {text!r}, part {part.strip()!r}: {why}")


def _second_of_day(now: datetime.time | datetime.datetime) -> float:
    return now.hour * 3600 + now.minute * 60 + now.second + now.microsecond / 1e6


def _clock(second: int) -> str:
    return f"{second // 3600:02}:{second // 60 % 60:02}"
