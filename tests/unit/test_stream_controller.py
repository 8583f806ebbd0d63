from __future__ import annotations

from collections.abc import Callable

from kvbatch.flow.stream_controller import StreamObservation, StreamState, decide


def settle(goodput_of: Callable[[int], float], state: StreamState | None = None, max_streams: int = 8) -> StreamState:
    state = state or StreamState()
    for _ in range(100):
        state = decide(state, StreamObservation(0.5, goodput_of(state.streams), state.streams), max_streams)
    return state


def test_it_starts_with_one() -> None:
    assert StreamState().streams == 1


def test_a_stream_that_brings_a_little_stays_and_is_the_last() -> None:
    assert settle(lambda streams: {1: 100.0, 2: 105.0}.get(streams, 1000.0)).streams == 2


def test_a_stream_that_brings_nothing_is_taken_back() -> None:
    assert settle(lambda streams: {1: 100.0, 2: 190.0, 3: 195.0 - 1}.get(streams, 0.0)).streams == 2


def test_a_stream_that_does_harm_is_taken_back() -> None:
    assert settle(lambda streams: 100.0 / streams).streams == 1


def test_no_more_than_the_cap() -> None:
    assert settle(lambda streams: 100.0 * streams, max_streams=3).streams == 3


def test_a_lower_cap_holds_at_once() -> None:
    state = settle(lambda streams: 100.0 * streams)
    assert decide(state, StreamObservation(0.5, 800.0, 8), 2).streams == 2


def test_what_is_held_back_says_nothing_about_the_number() -> None:
    state = StreamState()
    for _ in range(100):
        state = decide(state, StreamObservation(0.5, 20.0, state.streams, held_back=True), 8)
    assert state.streams == 1


def test_streams_that_have_not_come_are_waited_for() -> None:
    state = StreamState()
    for _ in range(100):
        state = decide(state, StreamObservation(0.5, 100.0, 1), 8)
    # The second is wanted, but only one ever ran.
    assert (state.streams, state.tried) == (2, True)


def test_a_job_that_moves_nothing_asks_for_no_more() -> None:
    assert settle(lambda streams: 0.0).streams == 1
