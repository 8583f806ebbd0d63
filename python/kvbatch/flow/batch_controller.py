"""`--batch-size auto`: how large batches are and how many frames are in flight.

What is best by itself ("home") is searched for by trials: a setting is tried, measured against what there was before,
and kept only if it gained. What must not be exceeded at the moment (a slow link, a target that is held up, no acks) is
a ceiling over home; when it goes, the setting goes back to home by itself.

A receiver acknowledges three quarters of a window at once. When such an ack leaves, at most a quarter is under way,
and what the ack sets free arrives one round trip later: a window of x times rate times round trip moves 0.75 x /
(1 + x / 2) of the rate, all of it from x = 4 on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kvbatch.flow.batch_state import (
    MAX_BATCH_BYTES,
    MAX_IN_FLIGHT_BYTES,
    MAX_WINDOW,
    MIN_BATCH_BYTES,
    MIN_WINDOW,
    START_BATCH_BYTES,
    TRIED,
    BatchObservation,
    BatchState,
    Hunt,
    Kind,
    Measured,
    Settings,
    Trial,
)

__all__ = ["decide"]

_BATCH_STEP_BYTES = 16 << 10

# A frame takes no longer than this on its link, and what is in flight no longer than that, so that a stop or another
# rate take effect soon and little is sent again after a crash; a little longer where the round trip is so long that
# less would starve it.
_FRAME_SECONDS = 0.25
_IN_FLIGHT_SECONDS, _IN_FLIGHT_SECONDS_MAX = 1.5, 2.0
_IN_FLIGHT_LATENCIES = 2.0
# A ceiling that moves by less is left alone.
_CEILING_SLACK = 1.25

# Steps down, and back to what was proven, are sharp.
_CUT = 0.5
_RETURN = 2.0
# What more has to gain to be kept, and what is enough at first sight.
_GAIN = 1.05
_OBVIOUS_GAIN = 1.3
# Smaller batches than were found are tried too, as a machine that is busy with other things feigns gains. They must
# not lose more than this.
_SMALLER_GAIN = 0.97
# The target has so many times what it does in a round trip.
_FED = 1.25
# For larger batches, which take memory, a gain counts only if what the job does differently by itself explains it in
# one of twenty cases at most: Student's t, one-sided, for 1 degree of freedom and more.
_STUDENT_T = (6.31, 2.92, 2.35, 2.13, 2.02, 1.94, 1.89, 1.86, 1.83, 1.81)
_INTERVALS = 2
# Of the streams' time: less is not what limits the job.
_NOTICEABLE_SHARE = 0.05
_MUCH_SHARE = 0.2
# A trial is measured over so many acks, of all streams, within these bounds.
_ACKS = 6
_MEASURE_SECONDS_MIN, _MEASURE_SECONDS_MAX = 0.5, 2.0
_SETTLING_SECONDS_MAX = 4.0

# No ack for so long, for so many latencies and for so many times what comes between two acks is a silence, and one step
# down for each.
_SILENCE_SECONDS = 0.5
_SILENCE_LATENCIES = 3.0
_SILENCE_ACKS = 2.0
# The target is held up when frames take so many times what they took, for so long, and no more once they take less.
_HELD_UP = 4.0
_HELD_UP_SECONDS = 0.4
_RELEASED = 2.0
# What holds up so long is what the target does now.
_HELD_UP_SECONDS_MAX = 10.0
_APPLY_SECONDS = 10.0
# Goodput that is so different for so long is another link or another target: the search begins anew.
_CHANGE = 1.6
_CHANGE_SECONDS = 2.0
_GOODPUT_SECONDS = 1.5


def decide(state: BatchState, observed: BatchObservation) -> BatchState:
    """One step."""
    if not observed.acknowledged_bytes and not observed.in_flight_bytes:
        return state._replace(measured=Measured(), silent_seconds=0.0, silent_steps=0)  # nothing is on its way
    state = _note_silence(_learn(state, observed), observed)
    state = _note_apply(state, observed)
    state = _note_change(state, observed)
    ceiling, reason = _ceiling(state, observed)
    within = _towards(state.settings, state.home, ceiling)
    if within != state.home:
        # There is no judging what cannot be used.
        home = state.trial.before if state.trial else state.home
        return _use(state._replace(home=home, trial=None), within, reason, observed)
    if state.settings != state.home:
        return _use(state, state.home, "nothing is in the way any more", observed)
    return _search(state, observed, ceiling)


# -- what is known -----------------------------------------------------------------------------------------------------


def _learn(state: BatchState, observed: BatchObservation) -> BatchState:
    state = state.passed(observed.seconds)
    measured = state.measured
    # From ack to ack, each of which speaks for much: what falls into an interval comes in lumps.
    seconds = state.silent_seconds + observed.seconds - observed.since_ack_seconds
    if measured.settling_seconds > 0:
        measured = measured._replace(settling_seconds=measured.settling_seconds - observed.seconds)
    else:
        measured = measured._replace(window_seconds=measured.window_seconds + observed.window_seconds)
        if observed.acknowledged_bytes:
            measured = measured._replace(
                seconds=measured.seconds + seconds,
                acknowledged_bytes=measured.acknowledged_bytes + observed.acknowledged_bytes,
                intervals=measured.intervals + 1,
                squares=measured.squares + (observed.acknowledged_bytes**2 / seconds if seconds > 0 else 0.0),
                queued_bytes=min(measured.queued_bytes, observed.target_queued_bytes),
            )
    if not observed.acknowledged_bytes:
        return state._replace(measured=measured)
    recent = (*state.recent, (seconds, observed.acknowledged_bytes))
    while sum(seconds for seconds, _ in recent[1:]) >= _GOODPUT_SECONDS:
        recent = recent[1:]
    if observed.latency_seconds > 0:
        least = min(state.least_latency or observed.latency_seconds, observed.latency_seconds)
        state = state._replace(latency=observed.latency_seconds, least_latency=least)
    return state._replace(measured=measured, recent=recent)


def _note_silence(state: BatchState, observed: BatchObservation) -> BatchState:
    if observed.acknowledged_bytes:
        return state._replace(silent_seconds=observed.since_ack_seconds, silent_steps=0)
    silent = state.silent_seconds + observed.seconds
    patience = max(
        _SILENCE_SECONDS, _SILENCE_LATENCIES * state.latency, _SILENCE_ACKS * _ack_seconds(state, observed.streams)
    )
    return state._replace(silent_seconds=silent, silent_steps=int(silent / patience))


def _ack_seconds(state: BatchState, streams: int) -> float:
    """From one ack of a stream to the next; 0 while unknown."""
    return 0.75 * state.settings.in_flight_bytes * streams / state.goodput if state.goodput else 0.0


def _note_apply(state: BatchState, observed: BatchObservation) -> BatchState:
    """Whether the target is held up; what it takes for a frame else."""
    now, batch_bytes = observed.apply_seconds, state.batch_bytes
    if state.held_up_seconds > _HELD_UP_SECONDS_MAX:
        state = state._replace(held_up_seconds=0.0, apply_seconds=0.0)
        return _start_anew(state)
    if now <= 0:  # it may well be, and be the reason why nothing is known
        more = observed.seconds if state.held_up_seconds else 0.0
        return state._replace(held_up_seconds=state.held_up_seconds + more)
    if state.apply_seconds == 0:
        return state._replace(apply_seconds=now, apply_batch_bytes=batch_bytes)
    expected = state.apply_seconds * max(1.0, batch_bytes / state.apply_batch_bytes)
    if now >= (_RELEASED if state.held_up_seconds else _HELD_UP) * expected:
        return state._replace(held_up_seconds=state.held_up_seconds + observed.seconds)
    state = state._replace(held_up_seconds=0.0)
    if state.settings != state.home:
        return state
    if batch_bytes != state.apply_batch_bytes:
        return state._replace(apply_seconds=now, apply_batch_bytes=batch_bytes)
    share = min(1.0, observed.seconds / _APPLY_SECONDS)
    return state._replace(apply_seconds=state.apply_seconds + share * (now - state.apply_seconds))


def _note_change(state: BatchState, observed: BatchObservation) -> BatchState:
    """Whether the job does lastingly more or less than when trials brought nothing any more."""
    steady, now = state.steady_goodput, state.goodput
    if _held_up(state) or state.silent_steps or _held_back(observed):
        return state
    if not steady or steady / _CHANGE <= now <= steady * _CHANGE:
        return state._replace(changed_seconds=0.0)
    changed = state.changed_seconds + observed.seconds
    return _start_anew(state) if changed >= _CHANGE_SECONDS else state._replace(changed_seconds=changed)


def _start_anew(state: BatchState) -> BatchState:
    """The search, from no larger a batch than at the start: a large one has to show its use each time."""
    home = state.trial.before if state.trial else state.home
    if home.batch_bytes > START_BATCH_BYTES:
        home = _with_batch(home, START_BATCH_BYTES)
    fresh = BatchState()
    return state._replace(
        home=home,
        trial=None,
        window_hunt=fresh.window_hunt,
        larger_hunt=fresh.larger_hunt,
        smaller_hunt=fresh.smaller_hunt,
        least_latency=0.0,
        steady_goodput=0.0,
        changed_seconds=0.0,
    )


def _held_up(state: BatchState) -> bool:
    return state.held_up_seconds >= _HELD_UP_SECONDS


def _held_back(observed: BatchObservation) -> bool:
    return observed.held_back_seconds > _MUCH_SHARE * observed.seconds * max(1, observed.streams)


# -- what must not be exceeded at the moment ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Ceiling:
    batch_bytes: float = MAX_BATCH_BYTES
    in_flight_bytes: float = MAX_IN_FLIGHT_BYTES


def _ceiling(state: BatchState, observed: BatchObservation) -> tuple[_Ceiling, str]:
    ceiling, reason = _Ceiling(), ""
    if state.goodput:
        rate = state.goodput / max(1, observed.streams)
        in_flight_seconds = max(_IN_FLIGHT_SECONDS, _IN_FLIGHT_LATENCIES * state.least_latency)
        in_flight_seconds = min(in_flight_seconds, _IN_FLIGHT_SECONDS_MAX)
        ceiling = _Ceiling(_FRAME_SECONDS * rate, min(MAX_IN_FLIGHT_BYTES, in_flight_seconds * rate))
        reason = f"a frame may take {_FRAME_SECONDS} s, what is in flight {in_flight_seconds:.1f} s"
    if state.silent_steps:
        # What stands in no relation to a rate, as none is known.
        cut = START_BATCH_BYTES * _CUT**state.silent_steps
        return _Ceiling(min(ceiling.batch_bytes, cut), ceiling.in_flight_bytes), "the target is silent"
    if _held_up(state):
        # What is in flight is what waits there; frames below the usual size would only cost it more.
        half = _Ceiling(
            min(ceiling.batch_bytes, max(START_BATCH_BYTES, _CUT * state.home.batch_bytes)),
            min(ceiling.in_flight_bytes, _CUT * state.home.in_flight_bytes),
        )
        return half, "the target takes far longer than before for a frame"
    return ceiling, reason


def _towards(now: Settings, home: Settings, ceiling: _Ceiling) -> Settings:
    """Home, or as much of it as the ceiling allows: at most a sharp step away from what is used now."""
    batch_bytes = _limited(now.batch_bytes, home.batch_bytes, ceiling.batch_bytes)
    batch_bytes = _round_batch(batch_bytes)
    window = _limited(now.window, home.window, ceiling.in_flight_bytes / batch_bytes)
    return _bounded(batch_bytes, int(window))


def _limited(now: float, home: float, ceiling: float) -> float:
    if ceiling < home:
        # What moves a little all the time must not move the settings.
        if now / _CEILING_SLACK <= ceiling <= now * _CEILING_SLACK:
            return now
        home = ceiling
    return max(now * _CUT, min(now * _RETURN, home))


# -- the search for what is best ---------------------------------------------------------------------------------------


def _search(state: BatchState, observed: BatchObservation, ceiling: _Ceiling) -> BatchState:
    measured, trial = state.measured, state.trial
    if _held_back(observed) or measured.settling_seconds > 0 or not measured.acknowledged_bytes:
        return state
    needed = _ACKS * _ack_seconds(state, observed.streams) / max(1, observed.streams)
    enough = measured.seconds >= min(_MEASURE_SECONDS_MAX, max(_MEASURE_SECONDS_MIN, needed))
    if trial is not None:
        gain = measured.goodput / trial.measured.goodput
        unclear = trial.kind == "larger" and _GAIN <= gain < 1 + _noise(trial.measured, measured)
        if (gain < _OBVIOUS_GAIN and not enough) or (unclear and measured.seconds < _MEASURE_SECONDS_MAX):
            return state
        tried = f"{TRIED[trial.kind]} gained {gain - 1:.0%}"
        if unclear or gain < (_SMALLER_GAIN if trial.kind == "smaller" else _GAIN):
            state = state.with_hunt(trial.kind, state.hunt(trial.kind).in_vain)
            state = state._replace(trial=None, home=trial.before, steady_goodput=trial.measured.goodput)
            within = ", as it does by itself" if unclear else ""
            return _use(state, trial.before, f"{tried}{within}: taken back", observed)
        state = state._replace(trial=None, reason=tried)
        hunt = state.hunt(trial.kind)
        # What a batch costs whatever its size is spread over so many times the bytes now: the next step gains so many
        # times less than this one did.
        spread = trial.kind == "larger" and gain - 1 < hunt.growth * (_GAIN - 1)
        state = state.with_hunt(trial.kind, hunt.in_vain if spread else Hunt(hunt.starting))
    state, tries = _try_more_in_flight(state, observed, ceiling)
    if tries or not enough or measured.intervals < _INTERVALS:
        return state
    return _try_another_batch(state, observed, ceiling)


def _noise(before: Measured, now: Measured) -> float:
    """The relative difference of these two that chance explains (see _STUDENT_T); `before` has _INTERVALS or more."""
    freedom = before.intervals + now.intervals - 2
    squares = (before.intervals - 1) * before.variance + (now.intervals - 1) * now.variance
    error = math.sqrt(squares / freedom * (1 / before.intervals + 1 / now.intervals))
    return _STUDENT_T[min(freedom, len(_STUDENT_T)) - 1] * error


def _try_more_in_flight(state: BatchState, observed: BatchObservation, ceiling: _Ceiling) -> tuple[BatchState, bool]:
    home, measured = state.home, state.measured
    waited = measured.window_seconds > _NOTICEABLE_SHARE * measured.seconds * max(1, observed.streams)
    # Where the target has work left until what an ack sets free arrives, more would only wait.
    needed = max(state.batch_bytes * max(1, observed.streams) / 2, _FED * measured.goodput * observed.link_seconds)
    fed = measured.queued_bytes >= needed
    if not waited or fed:
        return state, False
    more = _bounded(home.batch_bytes, max(home.window + 1, int(home.window * state.window_hunt.growth)))
    return _try(state, "window", more, observed, ceiling)


def _try_another_batch(state: BatchState, observed: BatchObservation, ceiling: _Ceiling) -> BatchState:
    home = state.home
    state, tries = _try(
        state, "larger", _with_batch(home, home.batch_bytes * state.larger_hunt.growth), observed, ceiling
    )
    if not tries and home.batch_bytes > START_BATCH_BYTES:
        smaller = _with_batch(home, max(START_BATCH_BYTES, home.batch_bytes * _CUT))
        state, _ = _try(state, "smaller", smaller, observed, ceiling)
    return state


def _try(
    state: BatchState, kind: Kind, other: Settings, observed: BatchObservation, ceiling: _Ceiling
) -> tuple[BatchState, bool]:
    """Starts a trial where one makes sense, and says whether it does."""
    fits = other.batch_bytes <= ceiling.batch_bytes and other.in_flight_bytes <= ceiling.in_flight_bytes
    if state.hunt(kind).pause_seconds or other == state.home or not fits:
        return state, False
    trial = Trial(kind, state.home, state.measured)
    return _use(state._replace(home=other, trial=trial), other, f"a trial: {TRIED[kind]}", observed), True


def _use(state: BatchState, settings: Settings, reason: str, observed: BatchObservation) -> BatchState:
    if settings == state.settings:
        return state
    settling = max(observed.seconds, min(2 * state.latency, _SETTLING_SECONDS_MAX))
    return state._replace(settings=settings, reason=reason, measured=Measured(settling))


def _with_batch(settings: Settings, batch_bytes: float) -> Settings:
    """Another batch, and about as much in flight."""
    rounded = _round_batch(batch_bytes)
    return _bounded(rounded, settings.in_flight_bytes // rounded)


def _round_batch(batch_bytes: float) -> int:
    rounded = int(batch_bytes) // _BATCH_STEP_BYTES * _BATCH_STEP_BYTES
    return min(MAX_BATCH_BYTES, max(MIN_BATCH_BYTES, rounded))


def _bounded(batch_bytes: int, window: int) -> Settings:
    return Settings(batch_bytes, max(MIN_WINDOW, min(window, MAX_WINDOW, MAX_IN_FLIGHT_BYTES // batch_bytes)))
