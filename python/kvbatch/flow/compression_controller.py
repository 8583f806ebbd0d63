"""`--compression auto`: whether a codec raises what arrives, on this link and with these cores."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from kvbatch.units import format_bytes

__all__ = ["CodecName", "CodecSample", "CompressionObservation", "CompressionState", "decide", "estimates"]

CodecName = Literal["none", "lz4", "zstd"]

# Data that become smaller by less are not compressed at all.
_LEAST_RATIO = 1.02
# Another choice has to promise so much more, twice in a row.
_HYSTERESIS = 1.15
_AGREEING = 2
# Of the streams' time: waits that are longer say what the limit is.
_NOTICEABLE_SHARE = 0.1
# Of a core: others that keep all of them busy share with a stream that waits and would not.
_FAIR_SHARE = 0.25
# What a link was measured to carry is the mean of late: frames are counted when they are through, in lumps. So is how a
# codec does, which single frames tell.
_NEW_SHARE = 0.3
# What a link that held streams up was measured to carry is believed for so long, and twice as long each time that
# trying without its limit was in vain.
_TRUST_SECONDS = 30.0
_TRUST_SECONDS_MAX = 480.0
# Data and load change: a codec that is not in use is tried on some frame this often.
_SAMPLE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class CodecSample:
    """How a codec did on frames: CPU seconds for each raw byte, raw bytes over payload bytes."""

    seconds_per_byte: float
    ratio: float


def blend(known: CodecSample | None, new: CodecSample) -> CodecSample:
    """What is known of a codec behind one more frame."""
    if known is None:
        return new

    def mean(before: float, now: float) -> float:
        return before + _NEW_SHARE * (now - before)

    return CodecSample(mean(known.seconds_per_byte, new.seconds_per_byte), 1 / mean(1 / known.ratio, 1 / new.ratio))


@dataclass(frozen=True, slots=True)
class CompressionObservation:
    """One interval of `seconds`.

    goodput           raw bytes a second, acknowledged, of the whole job
    wire_rate         bytes a second handed to the network
    blocked_share     of the streams' time: waiting for the network to take bytes
    window_share      of the streams' time: waiting for acks, so for the target or the round trip
    rate_limit        most bytes a second that may be handed to the network now, infinity without a limit
    limited_share     of the streams' time: waiting for that limit
    pack_seconds_per_byte   CPU seconds to read and pack a raw byte
    streams, idle_cores     how many streams run; cores that nobody used
    samples           of late, by codec; what stands in no sample is not considered
    """

    seconds: float
    goodput: float
    wire_rate: float
    blocked_share: float
    window_share: float
    pack_seconds_per_byte: float
    streams: int
    idle_cores: float
    samples: Mapping[CodecName, CodecSample] = field(default_factory=dict)
    rate_limit: float = math.inf
    limited_share: float = 0.0

    @property
    def limited(self) -> bool:
        """Whether it is the rate limit that holds streams up: link and target could take more."""
        return self.limited_share >= max(_NOTICEABLE_SHARE, self.blocked_share, self.window_share)

    @property
    def waits(self) -> bool:
        """Whether streams wait for something: else they have all the CPU that they can get."""
        return max(self.limited_share, self.blocked_share, self.window_share) >= _NOTICEABLE_SHARE

    @property
    def wire_is_full(self) -> bool:
        """Whether fewer bytes for the same data would go faster."""
        return self.limited or self.blocked_share >= _NOTICEABLE_SHARE


@dataclass(frozen=True, slots=True)
class CompressionState:
    """`codec` is what frames get, `reason` why, in words. `sample` is a codec to try on a frame of the next interval.

    `link_rate` is the most that the link was seen to carry while it was the limit, 0 while it never was;
    `trusted_seconds` that figure is still believed."""

    codec: CodecName = "none"
    reason: str = "nothing is known yet"
    sample: CodecName | None = "lz4"
    last_sample: CodecName | None = None
    link_rate: float = 0.0
    trusted_seconds: float = 0.0
    trust_seconds: float = _TRUST_SECONDS
    candidate: CodecName | None = None
    agreeing: int = 0
    since_sample_seconds: float = 0.0


def decide(state: CompressionState, observed: CompressionObservation) -> CompressionState:
    """One step; to be taken every half second or so, with fresh samples of codecs where `sample` asked for them."""
    if observed.goodput <= 0:
        return state
    state = _next_sample(_learn_link(state, observed), observed)
    if state.codec != "none" and state.codec not in observed.samples:
        return state  # no frame has shown yet what it does
    expected = estimates(state, observed)
    # What hardly shrinks costs CPU for nothing, however well the sender seems to afford it.
    worth = [codec for codec in expected if codec == "none" or observed.samples[codec].ratio >= _LEAST_RATIO]
    best = max(worth, key=lambda codec: expected[codec])
    if best == state.codec or (state.codec in worth and expected[best] < _HYSTERESIS * expected[state.codec]):
        return dataclasses.replace(state, candidate=None, agreeing=0, reason=_reason(state.codec, expected, observed))
    agreeing = state.agreeing + 1 if best == state.candidate else 1
    if agreeing < _AGREEING:
        return dataclasses.replace(state, candidate=best, agreeing=agreeing)
    return dataclasses.replace(state, codec=best, candidate=None, agreeing=0, reason=_reason(best, expected, observed))


def estimates(state: CompressionState, observed: CompressionObservation) -> dict[CodecName, float]:
    """Raw bytes a second that should arrive with each codec: the rate of the slowest stage."""
    samples: dict[CodecName, CodecSample] = {"none": CodecSample(0.0, 1.0), **observed.samples}
    now = samples.get(state.codec, CodecSample(0.0, 1.0))
    busy_cores = observed.goodput * (observed.pack_seconds_per_byte + now.seconds_per_byte)
    spare_cores = max(observed.idle_cores, 0.0)
    if observed.waits:
        spare_cores = max(spare_cores, _FAIR_SHARE)
    cores = min(observed.streams, busy_cores + spare_cores)
    # Where acks are waited for, what comes behind the link is the limit, and no codec changes it.
    behind = observed.goodput if observed.window_share >= _NOTICEABLE_SHARE and not observed.wire_is_full else math.inf
    # A link that may not be used in full is a slower one.
    wire = min(_link_rate(state), observed.rate_limit)
    expected: dict[CodecName, float] = {}
    for codec, sample in samples.items():
        seconds_per_byte = observed.pack_seconds_per_byte + sample.seconds_per_byte
        cpu = cores / seconds_per_byte if seconds_per_byte > 0 else math.inf
        expected[codec] = min(cpu, wire * sample.ratio, behind)
    return expected


def _link_rate(state: CompressionState) -> float:
    return state.link_rate if state.trusted_seconds > 0 else math.inf


def _learn_link(state: CompressionState, observed: CompressionObservation) -> CompressionState:
    """What a link carries is known only while it holds streams up; else it carries that or more."""
    if observed.limited or observed.blocked_share < _NOTICEABLE_SHARE:
        return dataclasses.replace(state, trusted_seconds=max(0.0, state.trusted_seconds - observed.seconds))
    trust = state.trust_seconds
    if state.link_rate > 0 and state.trusted_seconds <= 0:
        # It was tried whether the limit is gone.
        changed = not 0.8 <= observed.wire_rate / state.link_rate <= 1.25
        trust = _TRUST_SECONDS if changed else min(2 * trust, _TRUST_SECONDS_MAX)
    known = state.link_rate if state.trusted_seconds > 0 else 0.0
    rate = known + _NEW_SHARE * (observed.wire_rate - known) if known else observed.wire_rate
    return dataclasses.replace(state, link_rate=rate, trusted_seconds=trust, trust_seconds=trust)


def _next_sample(state: CompressionState, observed: CompressionObservation) -> CompressionState:
    """What was never tried at once, the others in turn; zstd only where the wire is the limit and cores are idle."""
    waited = state.since_sample_seconds + observed.seconds
    worthwhile = observed.wire_is_full and observed.idle_cores > 0
    turns: list[CodecName] = ["lz4", "zstd"] if worthwhile else ["lz4"]
    used: list[CodecName] = [] if state.codec == "none" else [state.codec]
    unknown = [codec for codec in (*used, *turns) if codec not in observed.samples]
    turns = [codec for codec in turns if codec != state.codec]
    if not unknown and (not turns or waited < _SAMPLE_SECONDS):
        return dataclasses.replace(state, sample=None, since_sample_seconds=waited)
    codec = (unknown or [codec for codec in turns if codec != state.last_sample] or turns)[0]
    return dataclasses.replace(state, sample=codec, last_sample=codec, since_sample_seconds=0.0)


def _reason(codec: CodecName, expected: Mapping[CodecName, float], observed: CompressionObservation) -> str:
    others = ", ".join(
        f"{other} {_rate(rate)}" for other, rate in expected.items() if other != codec and math.isfinite(rate)
    )
    if observed.limited:
        limit = f"the rate limit of {_rate(observed.rate_limit)} is the limit"
    elif observed.blocked_share >= _NOTICEABLE_SHARE:
        limit = f"the link is the limit at {_rate(observed.wire_rate)}"
    elif observed.window_share >= _NOTICEABLE_SHARE:
        limit = "the target is the limit"
    else:
        limit = "the sender is the limit"
    shown = f"{codec} {_rate(expected[codec])}" if math.isfinite(expected[codec]) else codec
    return f"{limit}; expected with {shown}" + (f", {others}" if others else "")


def _rate(rate: float) -> str:
    return f"{format_bytes(rate)}/s"
