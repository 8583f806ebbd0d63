"""The number of streams, on machines whose goodput follows from it."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from kvbatch.flow.stream_controller import StreamObservation, StreamState, decide

MB = 1e6


def run(
    state: StreamState, goodput_of: Callable[[int], float], seconds: float, *, max_streams: int = 8, step: float = 0.5
) -> tuple[StreamState, list[int]]:
    seen = []
    for _ in range(int(seconds / step)):
        state = decide(state, StreamObservation(step, goodput_of(state.streams), state.streams), max_streams)
        seen.append(state.streams)
    return state, seen


def saturating(useful: int, each: float = 100 * MB) -> Callable[[int], float]:
    """A machine with work for so many streams."""
    return lambda streams: each * min(streams, useful)


observations = st.builds(
    StreamObservation,
    seconds=st.floats(0.05, 2),
    goodput=st.floats(0, 1e10),
    streams=st.integers(0, 10),
    held_back=st.booleans(),
)


@given(st.lists(st.tuples(observations, st.integers(1, 9), st.booleans()), max_size=60))
def test_there_is_always_one_and_never_more_than_allowed(steps: list[tuple[StreamObservation, int, bool]]) -> None:
    state = StreamState()
    for observed, max_streams, follows in steps:
        if follows:
            observed = StreamObservation(observed.seconds, observed.goodput, state.streams)
        before = state.streams
        state = decide(state, observed, max_streams)
        assert 1 <= state.streams <= max_streams
        assert state.streams <= before + 1


@given(st.integers(1, 8), st.sampled_from([0.25, 0.5, 1.0]))
def test_it_finds_as_many_as_have_work_and_stays_there(useful: int, step: float) -> None:
    state, _ = run(StreamState(), saturating(useful), 40, step=step)
    assert (state.streams, state.phase) == (useful, "steady")
    _, seen = run(state, saturating(useful), 120, step=step)
    assert set(seen) == {useful}


@given(st.integers(1, 7), st.integers(1, 7))
def test_after_a_lasting_change_it_looks_again(first: int, more: int) -> None:
    useful = min(8, first + more)
    state, _ = run(StreamState(), saturating(first), 40)
    # The same streams have twice as much to do each, and there is work for more of them.
    state, _ = run(state, saturating(useful, 200 * MB), 40)
    assert state.streams == useful


@given(st.integers(1, 6), st.floats(0.3, 0.7), st.integers(1, 6))
def test_a_dip_that_passes_changes_nothing(useful: int, dip: float, samples: int) -> None:
    state, _ = run(StreamState(), saturating(useful), 40)
    _, seen = run(state, lambda streams: dip * saturating(useful)(streams), samples * 0.5)
    assert set(seen) == {useful}
