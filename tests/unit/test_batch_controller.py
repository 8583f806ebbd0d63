"""The controller of batches and windows in simulation: against fixed settings, on links and targets that change."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Callable

import pytest

from kvbatch.flow.batch_controller import decide
from kvbatch.flow.batch_state import BatchObservation, BatchState, Settings
from support.simulated_link import Machine, Simulation

KIB = 1 << 10
MIB = 1 << 20
MB = 1e6
GRID = [Settings(batch, window) for batch in (256 * KIB, MIB, 4 * MIB) for window in (4, 16, 64)]
GRID = [settings for settings in GRID if settings.in_flight_bytes <= 64 * MIB]
TEN_MBIT, HUNDRED_MBIT = 1.25 * MB, 12.5 * MB


def best_of_grid(machine: Machine | Callable[[float], Machine], *spans: tuple[float, float]) -> list[float]:
    """The best goodput of fixed settings in each of the spans, of which the last one ends last."""
    _, end = spans[-1]
    bandwidth = (machine if isinstance(machine, Machine) else machine(end)).bandwidth
    # Until a frame that was under way at the end has arrived.
    until = end + 0.5 + 4 * MIB / bandwidth
    simulations = [Simulation(machine, fixed=each).run(until) for each in GRID]
    return [max(simulation.goodput(*span) for simulation in simulations) for span in spans]


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("bandwidth", [TEN_MBIT, HUNDRED_MBIT, math.inf], ids=["10 Mbit/s", "100 Mbit/s", "unlimited"])
@pytest.mark.parametrize("round_trip", [0.0, 0.001, 0.02, 0.1], ids=["0 ms", "1 ms", "20 ms", "100 ms"])
def test_after_three_seconds_it_does_nine_tenths_of_the_best(round_trip: float, bandwidth: float, streams: int) -> None:
    machine = Machine(round_trip=round_trip, bandwidth=bandwidth, streams=streams)
    [best] = best_of_grid(machine, (3, 6))
    for interval in (0.25, 0.5):
        assert Simulation(machine, interval=interval).run(7).goodput(3, 6) >= 0.9 * best


def held_up(machine: Machine, begin: float, end: float, times: float = 10) -> Callable[[float], Machine]:
    """The same, with a target that takes so many times as long for a while."""
    slow = dataclasses.replace(
        machine,
        apply_frame_seconds=times * machine.apply_frame_seconds,
        apply_seconds_per_byte=times * machine.apply_seconds_per_byte,
    )
    return lambda now: slow if begin <= now < end else machine


@pytest.mark.parametrize("bandwidth", [HUNDRED_MBIT, math.inf], ids=["100 Mbit/s", "unlimited"])
@pytest.mark.parametrize("round_trip", [0.0, 0.001, 0.02, 0.1], ids=["0 ms", "1 ms", "20 ms", "100 ms"])
def test_a_target_that_is_held_up_gets_half_as_much_until_it_is_over(round_trip: float, bandwidth: float) -> None:
    machine = held_up(Machine(round_trip=round_trip, bandwidth=bandwidth), 6, 11)
    simulation = Simulation(machine).run(20)
    before, during, after = proven_at(simulation, 5.9), state_at(simulation, 10.9).settings, proven_at(simulation, 14)
    assert during.in_flight_bytes <= 0.5 * before.in_flight_bytes
    assert after.in_flight_bytes >= 0.9 * before.in_flight_bytes
    assert after.batch_bytes >= before.batch_bytes
    # Or what is on trial.
    assert state_at(simulation, 14).settings == state_at(simulation, 14).home
    spans = (9, 11), (14, 17)
    for span, best in zip(spans, best_of_grid(machine, *spans), strict=True):
        assert simulation.goodput(*span) >= 0.9 * best


def state_at(simulation: Simulation, moment: float) -> BatchState:
    return next(state for seen, state in reversed(simulation.history) if seen <= moment)


def proven_at(simulation: Simulation, moment: float) -> Settings:
    state = state_at(simulation, moment)
    return state.trial.before if state.trial else state.home


@pytest.mark.parametrize("streams", [1, 4])
@pytest.mark.parametrize("bandwidth", [TEN_MBIT, 2 * TEN_MBIT, 4 * TEN_MBIT])
def test_on_a_slow_link_frames_and_what_is_in_flight_stay_short(bandwidth: float, streams: int) -> None:
    simulation = Simulation(Machine(round_trip=0.02, bandwidth=bandwidth, streams=streams)).run(120)
    for moment, state in simulation.history:
        if moment > 20:
            assert state.batch_bytes <= max(64 * KIB, 0.25 * 1.25 * bandwidth / streams)
            assert state.settings.in_flight_bytes <= 2 * 1.25 * bandwidth / streams
    # And all of the link is used, and nothing is tried in vain.
    assert simulation.goodput(6, 119) >= 0.98 * bandwidth
    assert len({state.settings for moment, state in simulation.history if moment > 20}) == 1


def test_a_link_that_becomes_fast_is_used_within_seconds() -> None:
    slow, fast = Machine(round_trip=0.02, bandwidth=TEN_MBIT), Machine(round_trip=0.02)
    simulation = Simulation(lambda now: slow if now < 15 else fast).run(30)
    # What stood in the slow link comes first.
    [best] = best_of_grid(fast, (3, 6))
    assert simulation.goodput(20, 23) >= 0.9 * best


def test_a_link_that_becomes_slow_gets_small_frames() -> None:
    slow, fast = Machine(round_trip=0.02, bandwidth=TEN_MBIT), Machine(round_trip=0.02)
    simulation = Simulation(lambda now: fast if now < 15 else slow).run(45)
    assert simulation.state.batch_bytes <= 0.25 * 1.25 * TEN_MBIT
    assert simulation.state.settings.in_flight_bytes <= 2 * 1.25 * TEN_MBIT


def test_large_batches_are_found_where_each_frame_is_expensive() -> None:
    machine = Machine(apply_frame_seconds=0.02, cache_penalty=1.0)
    simulation = Simulation(machine).run(12)
    assert simulation.state.batch_bytes == 8 * MIB
    assert simulation.goodput(8, 11) >= 0.95 * Simulation(machine, fixed=Settings(8 * MIB, 8)).run(16).goodput(8, 11)


def test_batches_above_2_mib_have_to_gain_something() -> None:
    machine = Machine(cache_penalty=1.0)
    simulation = Simulation(machine).run(120)
    tried = [state.batch_bytes for _, state in simulation.history if state.batch_bytes > 2 * MIB]
    assert max(tried) <= 4 * MIB
    assert len(tried) < 0.1 * len(simulation.history)
    assert simulation.state.home.batch_bytes <= 2 * MIB


def test_what_is_tried_in_vain_is_tried_less_and_less_often() -> None:
    simulation = Simulation(Machine()).run(300)
    home = simulation.state.home
    for kind in ("larger", "smaller"):
        began = [
            moment
            for (_, before), (moment, state) in itertools.pairwise(simulation.history)
            if state.trial and state.trial.kind == kind and before.trial != state.trial
        ]
        pauses = [later - earlier for earlier, later in itertools.pairwise(began)]
        assert pauses[-1] > 80
        assert pauses == sorted(pauses)
    off = [state for moment, state in simulation.history if moment > 60 and state.settings != home]
    assert len(off) < 0.04 * len(simulation.history)
    assert all(state.settings.in_flight_bytes <= 1.3 * home.in_flight_bytes for state in off)


def test_a_silent_target_gets_small_batches_and_the_old_ones_when_it_speaks() -> None:
    stalled = held_up(Machine(), 6, 6.1, times=1000)
    simulation = Simulation(stalled).run(30)
    silent = [state for _, state in simulation.history if state.reason == "the target is silent"]
    assert min(state.batch_bytes for state in silent) == 64 * KIB
    began = max(moment for moment, state in simulation.history if state.silent_steps)
    assert proven_at(simulation, began + 3).batch_bytes >= proven_at(simulation, 5.9).batch_bytes


def constant(**changes: float) -> BatchObservation:
    observed = BatchObservation(0.25, 1, 100_000_000, 16 * MIB, latency_seconds=0.02, apply_seconds=0.003)
    return dataclasses.replace(observed, **changes)  # type: ignore[arg-type]


def test_an_idle_job_keeps_what_it_has() -> None:
    state = BatchState()
    for _ in range(100):
        state = decide(state, constant(acknowledged_bytes=0, in_flight_bytes=0))
    assert state == BatchState()


def test_a_job_that_is_held_back_tries_nothing() -> None:
    state = BatchState()
    for _ in range(400):
        state = decide(state, constant(held_back_seconds=0.1))
        assert state.settings == Settings()


@pytest.mark.parametrize(("link_seconds", "queued_bytes", "tries"), [
    (0.02, 8 * MIB, True),  # 400 MB/s take 8 MB in a round trip: the target runs dry
    (0.02, 12 * MIB, False),
    (0.001, 8 * MIB, False),
    (0.0, 8 * MIB, False),
    (0.0, 0, True),
])  # fmt: skip
def test_more_goes_in_flight_where_the_target_runs_dry(link_seconds: float, queued_bytes: int, tries: bool) -> None:
    state = BatchState()
    for _ in range(4):
        observed = constant(
            link_seconds=link_seconds, target_queued_bytes=queued_bytes, window_seconds=0.1, latency_seconds=0.05
        )
        state = decide(state, observed)
    assert (state.trial is not None and state.trial.kind == "window") == tries


def test_a_low_limit_of_rate_makes_for_small_batches() -> None:
    state = BatchState()
    for _ in range(400):
        state = decide(state, constant(acknowledged_bytes=250_000, held_back_seconds=0.2))
    assert state.batch_bytes <= 256 * KIB


def test_one_slow_frame_cuts_nothing() -> None:
    state = BatchState()
    for _ in range(3):
        state = decide(state, constant())
    before = state.settings
    state = decide(state, constant(apply_seconds=0.1))
    assert decide(state, constant()).settings == before


def test_what_stays_slow_is_what_the_target_does_now() -> None:
    machine = held_up(Machine(), 8, math.inf)
    simulation = Simulation(machine).run(60)
    assert simulation.state.held_up_seconds == 0
    assert simulation.state.batch_bytes >= MIB


def test_the_reason_is_told() -> None:
    simulation = Simulation(Machine(round_trip=0.02, bandwidth=TEN_MBIT)).run(30)
    assert simulation.state.reason == "a frame may take 0.25 s, what is in flight 1.5 s"


def noisy(noise: random.Random, sigma: float) -> BatchObservation:
    return constant(acknowledged_bytes=int(1.5e8 * max(0.2, noise.gauss(1, sigma))))


@pytest.mark.parametrize("sigma", [0.03, 0.1, 0.2])
def test_noise_is_not_taken_for_a_gain_for_long(sigma: float) -> None:
    noise = random.Random(sigma)
    state, seen = BatchState(), []
    for _ in range(1200):
        state = decide(state, noisy(noise, sigma))
        seen.append(state.batch_bytes)
    assert sum(seen) / len(seen) < 1.5 * MIB


@pytest.mark.parametrize("sigma", [0.03, 0.1, 0.2])
def test_a_short_job_takes_no_memory_for_larger_batches_on_what_noise_says(sigma: float) -> None:
    peaks = []
    for seed in range(60):
        noise = random.Random(seed)
        state, peak = BatchState(), 0
        for _ in range(40):
            state = decide(state, noisy(noise, sigma))
            peak = max(peak, state.batch_bytes)
        peaks.append(peak)
    # A trial of twice the first size is all that most of them ever have.
    assert sum(peak > 2 * MIB for peak in peaks) <= len(peaks) // 5


def test_a_gain_within_what_the_job_does_differently_by_itself_is_taken_back() -> None:
    state, reasons = BatchState(), set()
    rates = itertools.cycle([1.0, 1.4])
    for _ in range(20):
        gain = 1.2 if state.batch_bytes > MIB else 1.0
        state = decide(state, constant(acknowledged_bytes=int(1e8 * gain * next(rates))))
        reasons.add(state.reason)
    assert any("as it does by itself: taken back" in reason for reason in reasons)
    assert state.home.batch_bytes == MIB


@pytest.mark.parametrize(("gain", "tries"), [(1.08, False), (1.2, True)])
def test_after_a_small_gain_still_larger_batches_are_not_tried_at_once(gain: float, tries: bool) -> None:
    state, seen = BatchState(), []
    for _ in range(18):
        state = decide(state, constant(acknowledged_bytes=int(1e8 * (gain if state.batch_bytes > MIB else 1.0))))
        seen.append(state.batch_bytes)
    assert state.home.batch_bytes == 2 * MIB
    assert (max(seen) > 2 * MIB) == tries
