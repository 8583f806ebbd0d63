"""The policy that spares a target, for all that a target may tell."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from kvbatch.flow.target_health import HealthDecision, TargetHealth, decide

counts = st.integers(0, 100)
sizes = st.integers(0, 1 << 40)
limits = st.integers(-1, 1 << 40)
healths = st.builds(
    TargetHealth,
    l0_files=counts,
    pending_compaction_bytes=sizes,
    delayed_write_rate=st.sampled_from([0, 0, 16 << 20]),
    write_stopped=st.booleans(),
    apply_seconds=st.floats(0, 100),
    l0_slowdown_trigger=st.integers(-1, 64),
    l0_stop_trigger=st.integers(-1, 64),
    soft_pending_compaction_bytes=limits,
    hard_pending_compaction_bytes=limits,
)
FULL = HealthDecision()


@given(st.lists(healths, min_size=1, max_size=10))
def test_the_share_is_one_and_a_reason_stands_where_it_is_not_whole(observed: list[TargetHealth]) -> None:
    decision = FULL
    for health in observed:
        decision = decide(decision, health)
        assert 0 <= decision.share <= 1
        assert (decision.reason is None) == (decision.share == 1)


@given(healths, counts, counts)
def test_more_l0_files_never_allow_more(health: TargetHealth, some: int, more: int) -> None:
    few, many = sorted((some, more))
    slow = decide(FULL, dataclasses.replace(health, l0_files=many))
    assert slow.share <= decide(FULL, dataclasses.replace(health, l0_files=few)).share


@given(healths)
def test_nothing_is_sent_where_rocksdb_slows_writers_down(health: TargetHealth) -> None:
    limits = (health.l0_slowdown_trigger, health.l0_stop_trigger)
    stalls = (
        health.write_stopped
        or health.delayed_write_rate > 0
        or any(0 < limit <= health.l0_files for limit in limits)
        or 0 < health.soft_pending_compaction_bytes <= health.pending_compaction_bytes
        or 0 < health.hard_pending_compaction_bytes <= health.pending_compaction_bytes
    )
    if stalls:
        assert decide(FULL, health).share == 0


@given(st.lists(healths, max_size=6))
def test_full_speed_comes_back_by_itself(observed: list[TargetHealth]) -> None:
    decision = FULL
    for health in observed:
        decision = decide(decision, health)
    for _ in range(4):
        decision = decide(decision, TargetHealth())
    assert decision == FULL


@given(healths, st.lists(healths, max_size=4))
def test_a_constant_health_settles(health: TargetHealth, earlier: list[TargetHealth]) -> None:
    decision = FULL
    for before in earlier:
        decision = decide(decision, before)
    shares = []
    for _ in range(12):
        decision = decide(decision, health)
        shares.append(decision.share)
    assert shares[:] == sorted(shares, reverse=shares[-1] < shares[0])
    assert len(set(shares[5:])) == 1
