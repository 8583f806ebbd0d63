from __future__ import annotations

import pytest

from kvbatch.flow.throttle import ThrottleLedger, ThrottleReason


class Clock:
    now = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("kvbatch.flow.throttle.time.monotonic", lambda: clock.now)
    return clock


def test_waits_count_while_they_last_and_afterwards(clock: Clock) -> None:
    ledger = ThrottleLedger()
    with ledger.waiting(0, ThrottleReason.WINDOW):
        clock.now += 2
        with ledger.waiting(1, ThrottleReason.PAUSED):
            clock.now += 1
            assert ledger.reason_of(0) is ThrottleReason.WINDOW
            assert ledger.reason_of(1) is ThrottleReason.PAUSED
            assert ledger.reason_of(2) is None
            seconds = ledger.seconds()
            assert (seconds[ThrottleReason.WINDOW], seconds[ThrottleReason.PAUSED]) == (3, 1)
    clock.now += 5
    assert ledger.reason_of(0) is None
    assert ledger.seconds() == {**dict.fromkeys(ThrottleReason, 0.0), "window": 3, "paused": 1}


def test_a_wait_that_is_broken_off_counts_too(clock: Clock) -> None:
    ledger = ThrottleLedger()

    def wait_in_vain() -> None:
        with ledger.waiting(0, ThrottleReason.WINDOW):
            clock.now += 1
            raise KeyError

    with pytest.raises(KeyError):
        wait_in_vain()
    assert (ledger.reason_of(0), ledger.seconds()[ThrottleReason.WINDOW]) == (None, 1)


def test_what_others_measured_is_added_unless_it_is_nothing(clock: Clock) -> None:
    ledger = ThrottleLedger()
    for seconds in (1.5, 0.0, -1.0):
        ledger.add(ThrottleReason.RATE_LIMIT, seconds)
    assert ledger.seconds()[ThrottleReason.RATE_LIMIT] == 1.5


def test_the_main_reason_is_that_since_the_last_question_if_it_took_a_noticeable_share(clock: Clock) -> None:
    ledger = ThrottleLedger()
    clock.now += 10
    ledger.add(ThrottleReason.RATE_LIMIT, 3)
    ledger.add(ThrottleReason.WINDOW, 2)
    assert ledger.main_reason(2) is ThrottleReason.RATE_LIMIT
    clock.now += 10
    ledger.add(ThrottleReason.WINDOW, 1.1)
    assert ledger.main_reason(2) is ThrottleReason.WINDOW
    clock.now += 10
    ledger.add(ThrottleReason.WINDOW, 0.9)
    assert ledger.main_reason(2) is None
    with ledger.waiting(0, ThrottleReason.SOURCE_CHECK):
        clock.now += 10
        assert ledger.main_reason(1) is ThrottleReason.SOURCE_CHECK
        clock.now += 1
        assert ledger.main_reason(0) is None, "they waited before the session broke"
