"""How many streams a job runs with `--streams auto`: one more as long as each brings something."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

__all__ = ["StreamObservation", "StreamState", "decide"]

# A new stream connects, and takes its first range, before it is judged; then so long.
_SETTLE_SECONDS = 0.75
_MEASURE_SECONDS = 1.5
# What a stream has to bring so that another one is tried, and so that it stays.
_GO_ON_GAIN = 1.10
_KEEP_GAIN = 1.03
# What goodput has to be off by, and for how long, to look again.
_CHANGE = 1.25
_CHANGE_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class StreamObservation:
    """`seconds` since the last one; `goodput` in raw bytes a second, acknowledged, of the whole job; the `streams` that
    ran all the time; whether the job was `held_back`: paused, or by a limit that is not the machine's."""

    seconds: float
    goodput: float
    streams: int
    held_back: bool = False


@dataclass(frozen=True, slots=True)
class StreamState:
    """`streams` is how many there shall be. `tried`: the last of them is on trial, `goodput_before` what they did
    without it. `steady_goodput` is what there was when it was last enough."""

    streams: int = 1
    phase: Literal["growing", "steady"] = "growing"
    tried: bool = False
    goodput_before: float = 0.0
    steady_goodput: float = 0.0
    settling_seconds: float = _SETTLE_SECONDS
    measured_seconds: float = 0.0
    measured_bytes: float = 0.0


def decide(state: StreamState, observed: StreamObservation, max_streams: int) -> StreamState:
    """One step. With `max_streams` fewer than there are, those above it go."""
    if state.streams > max_streams:
        return _steady(dataclasses.replace(state, streams=max(1, max_streams), tried=False), 0.0)
    # Streams that are still to come or to go, or that have no range left, say nothing about their number.
    if observed.held_back or observed.streams != state.streams:
        return _measuring(state)
    if state.settling_seconds > 0:
        return dataclasses.replace(state, settling_seconds=state.settling_seconds - observed.seconds)
    state = dataclasses.replace(
        state,
        measured_seconds=state.measured_seconds + observed.seconds,
        measured_bytes=state.measured_bytes + observed.seconds * observed.goodput,
    )
    goodput = state.measured_bytes / state.measured_seconds
    if state.phase == "steady":
        return _look(state, goodput, observed.goodput)
    return state if state.measured_seconds < _MEASURE_SECONDS else _judge(state, goodput, max_streams)


def _judge(state: StreamState, goodput: float, max_streams: int) -> StreamState:
    if state.tried and goodput < _KEEP_GAIN * state.goodput_before:
        return _steady(dataclasses.replace(state, streams=state.streams - 1, tried=False), state.goodput_before)
    if (state.tried and goodput < _GO_ON_GAIN * state.goodput_before) or state.streams >= max_streams or goodput == 0:
        return _steady(dataclasses.replace(state, tried=False), goodput)
    more = dataclasses.replace(state, streams=state.streams + 1, tried=True, goodput_before=goodput)
    return _measuring(more)


def _look(state: StreamState, goodput: float, goodput_now: float) -> StreamState:
    """Whether it is still what it was. Counts only how long it has been something else."""
    steady = state.steady_goodput
    if steady == 0:  # still to be learned
        return state if state.measured_seconds < _MEASURE_SECONDS else _steady(state, goodput)
    if steady / _CHANGE <= goodput_now <= steady * _CHANGE:
        return dataclasses.replace(state, measured_seconds=0.0, measured_bytes=0.0)
    if state.measured_seconds < _CHANGE_SECONDS:
        return state
    return _measuring(dataclasses.replace(state, phase="growing", tried=False))


def _steady(state: StreamState, goodput: float) -> StreamState:
    return _measuring(dataclasses.replace(state, phase="steady", steady_goodput=goodput))


def _measuring(state: StreamState) -> StreamState:
    return dataclasses.replace(state, settling_seconds=_SETTLE_SECONDS, measured_seconds=0.0, measured_bytes=0.0)
