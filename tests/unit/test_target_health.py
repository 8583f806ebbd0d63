from __future__ import annotations

import pytest

from kvbatch.flow.target_health import HealthDecision, TargetHealth, decide

FULL = HealthDecision()
GIB = 1 << 30


@pytest.mark.parametrize(
    ("l0_files", "share"), [(0, 1.0), (12, 1.0), (13, 6 / 7), (16, 3 / 7), (18, 1 / 7), (19, 0.0), (40, 0.0)]
)
def test_l0_files_slow_a_job_down_before_the_trigger(l0_files: int, share: float) -> None:
    decision = decide(FULL, TargetHealth(l0_files=l0_files))
    assert decision.share == pytest.approx(share)
    if share < 1:
        assert decision.reason == f"{l0_files} L0 files at the target, which slows its writers down at 20"


@pytest.mark.parametrize(("trigger", "l0_files", "share"), [(1, 0, 1.0), (1, 1, 0.0), (2, 1, 1.0), (2, 2, 0.0)])
def test_small_triggers_leave_room_to_go_on(trigger: int, l0_files: int, share: float) -> None:
    assert decide(FULL, TargetHealth(l0_files=l0_files, l0_slowdown_trigger=trigger)).share == share


def test_limits_that_are_switched_off_slow_nothing_down() -> None:
    health = TargetHealth(
        l0_files=500,
        pending_compaction_bytes=900 * GIB,
        l0_slowdown_trigger=-1,
        l0_stop_trigger=-1,
        soft_pending_compaction_bytes=0,
        hard_pending_compaction_bytes=0,
    )
    assert decide(FULL, health) == FULL


@pytest.mark.parametrize(("gibibytes", "share"), [(38, 1.0), (49.6, 0.5), (60.8, 0.0), (300, 0.0)])
def test_pending_compaction_slows_a_job_down(gibibytes: float, share: float) -> None:
    decision = decide(FULL, TargetHealth(pending_compaction_bytes=int(gibibytes * GIB)))
    assert decision.share == pytest.approx(share, abs=1e-6)


def test_a_stopped_target_is_left_alone_and_looked_at_again() -> None:
    decision = decide(FULL, TargetHealth(write_stopped=True))
    assert decision.share == 0
    assert decision.reason == "the target has stopped all writes until compactions catch up"
    assert 0 < decision.recheck_seconds <= 1


def test_writers_that_are_slowed_down_are_left_alone() -> None:
    decision = decide(FULL, TargetHealth(delayed_write_rate=16_000_000))
    assert (decision.share, decision.reason) == (0, "the target slows its writers down to 16000000 bytes/s")


def test_slow_frames_never_stop_a_job_which_would_never_learn_that_they_are_over() -> None:
    decision = decide(FULL, TargetHealth(apply_seconds=60.0))
    assert (decision.share, decision.reason) == (0.25, "the target takes 60.0 s to apply a frame")


def test_speed_comes_back_by_steps() -> None:
    decision = decide(FULL, TargetHealth(l0_files=19))
    shares = []
    for l0_files in (18, 17, 17, 12, 12, 12):
        decision = decide(decision, TargetHealth(l0_files=l0_files))
        shares.append(decision.share)
    # One file less is not yet a reason to go on.
    assert shares == pytest.approx([0.0, 0.25, 0.25, 0.5, 0.75, 1.0])
