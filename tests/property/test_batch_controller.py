"""The controller of batches and windows, for all that it may be told, and on many machines."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from kvbatch.flow.batch_controller import decide
from kvbatch.flow.batch_state import (
    MAX_BATCH_BYTES,
    MAX_IN_FLIGHT_BYTES,
    MAX_WINDOW,
    MIN_BATCH_BYTES,
    MIN_WINDOW,
    BatchObservation,
    BatchState,
)
from support.simulated_link import Machine, Simulation

sizes = st.one_of(st.just(0), st.integers(0, 1 << 40))
waits = st.one_of(st.just(0.0), st.floats(0, 10))
observations = st.builds(
    BatchObservation,
    seconds=st.floats(0.01, 5),
    streams=st.integers(1, 64),
    acknowledged_bytes=sizes,
    in_flight_bytes=sizes,
    latency_seconds=waits,
    since_ack_seconds=st.just(0.0),
    apply_seconds=waits,
    target_queued_bytes=sizes,
    window_seconds=waits,
    held_back_seconds=waits,
)


@given(st.lists(st.tuples(observations, st.integers(1, 12)), max_size=20))
def test_bounds_are_always_kept(observed: list[tuple[BatchObservation, int]]) -> None:
    state = BatchState()
    for observation, times in observed:
        for _ in range(times):
            before = state
            state = decide(state, observation)
            assert MIN_BATCH_BYTES <= state.batch_bytes <= MAX_BATCH_BYTES
            assert MIN_WINDOW <= state.window <= MAX_WINDOW
            assert state.settings.in_flight_bytes <= MAX_IN_FLIGHT_BYTES
            # Up to twice as large in a step, and no less than half, but for rounding.
            assert before.batch_bytes / 2 - 16_384 <= state.batch_bytes <= 2 * before.batch_bytes


@settings(max_examples=50)
@given(observations.filter(lambda observed: observed.acknowledged_bytes > 0), st.sampled_from([0.25, 0.5]))
def test_constant_input_makes_for_constant_settings(observation: BatchObservation, interval: float) -> None:
    observation = dataclasses.replace(observation, seconds=interval)
    state, seen = BatchState(), []
    for _ in range(int(300 / interval)):
        state = decide(state, observation)
        seen.append(state.settings)
    late = Counter(seen[int(100 / interval) :])
    usual, times = late.most_common(1)[0]
    # A trial takes up to six seconds where acks take seconds.
    assert times >= 0.85 * late.total()
    for other in late:
        assert other.batch_bytes <= 1.3 * usual.batch_bytes
        assert other.window <= max(usual.window + 1, 1.3 * usual.window)


machines = st.builds(
    Machine,
    round_trip=st.sampled_from([0.0, 0.001, 0.02, 0.1]),
    bandwidth=st.sampled_from([5e6, 12.5e6, 125e6, math.inf]),
    streams=st.integers(1, 3),
    pack_seconds_per_byte=st.floats(0.7e-9, 4e-9),
    apply_frame_seconds=st.floats(0, 1e-3),
    apply_seconds_per_byte=st.floats(1e-9, 6e-9),
    cache_penalty=st.floats(1, 1.3),
)


@settings(max_examples=12)
@given(machines, st.floats(4, 20), st.floats(1, 6))
def test_after_a_step_it_comes_back(machine: Machine, times: float, lasts: float) -> None:
    slow = dataclasses.replace(
        machine,
        apply_frame_seconds=times * machine.apply_frame_seconds,
        apply_seconds_per_byte=times * machine.apply_seconds_per_byte,
    )
    over = 8 + lasts
    simulation = Simulation(lambda now: slow if 8 <= now < over else machine).run(over + 12)
    usual = Simulation(machine).run(12).goodput(5, 8)
    assert simulation.goodput(over + 3, over + 6) >= 0.85 * usual


@settings(max_examples=12)
@given(machines)
def test_on_a_constant_machine_it_settles(machine: Machine) -> None:
    simulation = Simulation(machine).run(60)
    seen = Counter(state.settings for moment, state in simulation.history if moment > 25)
    assert seen.most_common(1)[0][1] >= 0.8 * seen.total()
