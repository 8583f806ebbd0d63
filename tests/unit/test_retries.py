"""Retries are counted from the last failure that had more at the target than any before it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kvbatch.options import MigrationOptions
from kvbatch.retries import Retries

ROOT = Path(__file__).resolve().parents[2]


def numbers(retries: Retries, *durable: int) -> list[tuple[int, int] | None]:
    """Attempt and retry after failures with so much at the target."""
    after = [retries.after_failure(each) for each in durable]
    return [None if each is None else (each.attempt, each.retry) for each in after]


def test_none_is_none_with_progress_too() -> None:
    retries = Retries(0)
    retries.note_opened(0)
    assert numbers(retries, 100) == [None]


def test_only_failures_in_a_row_without_progress_count_and_attempts_count_on() -> None:
    retries = Retries(2)
    retries.note_opened(10)
    assert numbers(retries, 10, 10, 11, 11, 12) == [(1, 1), (2, 2), (3, 1), (4, 2), (5, 1)]
    assert numbers(retries, 12, 12) == [(6, 2), None]


def test_what_stood_there_before_is_no_progress() -> None:
    retries = Retries(2)
    assert numbers(retries, 0) == [(1, 1)]
    retries.note_opened(1000)
    assert numbers(retries, 1000, 1000) == [(2, 2), None]


def test_what_a_later_session_finds_beyond_that_is() -> None:
    retries = Retries(1)
    retries.note_opened(1000)
    assert numbers(retries, 1000) == [(1, 1)]
    retries.note_opened(1500)
    assert numbers(retries, 1500, 1500) == [(2, 1), None]


def test_what_comes_and_goes_is_not() -> None:
    """A file that was received twice because its first copy was damaged."""
    retries = Retries(1)
    retries.note_opened(1000)
    assert numbers(retries, 0, 1000) == [(1, 1), None]


@pytest.mark.parametrize(("number", "least"), [(0, 0.2), (1, 0.4), (4, 3.2), (5, 5.0), (5000, 5.0)])
def test_pauses_grow_to_five_seconds(number: int, least: float) -> None:
    retries = Retries(10_000)
    for _ in range(number):
        retries.after_failure(0)
    retry = retries.after_failure(0)
    assert retry is not None
    assert least <= retry.wait_seconds <= least + 0.2


def test_the_default_number_lasts_as_long_as_the_resume_page_says() -> None:
    retries = Retries(MigrationOptions().retries)
    waits = []
    while (retry := retries.after_failure(0)) is not None:
        waits.append(retry.wait_seconds)
    [said] = re.findall(r"the sender retries for about (\d+) seconds", (ROOT / "docs/resume.md").read_text())
    assert abs(sum(waits) - int(said)) <= 1
