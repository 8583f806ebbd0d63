"""What the controller of batches and windows is told, and what it remembers.

What a step changes several times is a NamedTuple: `_replace` takes a tenth of `dataclasses.replace`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = [
    "MAX_BATCH_BYTES",
    "MAX_IN_FLIGHT_BYTES",
    "MAX_WINDOW",
    "MIN_BATCH_BYTES",
    "MIN_WINDOW",
    "START_BATCH_BYTES",
    "START_WINDOW",
    "TRIED",
    "BatchObservation",
    "BatchState",
    "Hunt",
    "Kind",
    "Measured",
    "Settings",
    "Trial",
]

KIB = 1 << 10
MIB = 1 << 20
MIN_BATCH_BYTES = 64 * KIB
MAX_BATCH_BYTES = 8 * MIB
START_BATCH_BYTES = MIB
MIN_WINDOW = 2
MAX_WINDOW = 64
START_WINDOW = 16
# Of one stream.
MAX_IN_FLIGHT_BYTES = 64 * MIB

# Steps up: until nothing is gained any more, and then.
_START_GROWTH = 2.0
_GROWTH = 1.25
# Until the next trial; doubled by each that was in vain.
_PAUSE_SECONDS = 5.0
_PAUSE_SECONDS_MAX = 80.0


@dataclass(frozen=True, slots=True)
class BatchObservation:
    """One interval of `seconds`, 0.25 to 0.5 or so, of a job with `streams`.

    acknowledged_bytes   raw bytes that acks of this interval spoke for
    in_flight_bytes      raw bytes sent and not yet acknowledged, at its end; 0 says that nobody waits for an ack
    latency_seconds      from a frame's last byte sent to its ack: the smallest of the interval, 0 without an ack
    link_seconds         the least that a round trip took so far, 0 while unknown
    since_ack_seconds    from the last ack of the interval to its end
    apply_seconds        that the target took to apply a frame, the mean of the interval, 0 while unknown
    target_queued_bytes  that had come to the target's sockets and were not read when acks left, the least of the
                         interval and the sum over the streams; 0 while unknown
    window_seconds       that streams waited for the window, all together
    held_back_seconds    that they waited for anything else that the settings do not change: limits, pauses, memory
    """

    seconds: float
    streams: int
    acknowledged_bytes: int
    in_flight_bytes: int
    latency_seconds: float = 0.0
    link_seconds: float = 0.0
    since_ack_seconds: float = 0.0
    apply_seconds: float = 0.0
    target_queued_bytes: int = 0
    window_seconds: float = 0.0
    held_back_seconds: float = 0.0


Kind = Literal["window", "larger", "smaller"]
TRIED: dict[Kind, str] = {"window": "more in flight", "larger": "larger batches", "smaller": "smaller batches"}


@dataclass(frozen=True, slots=True)
class Settings:
    """Raw bytes of a batch, and frames in flight of a stream."""

    batch_bytes: int = START_BATCH_BYTES
    window: int = START_WINDOW

    @property
    def in_flight_bytes(self) -> int:
        return self.batch_bytes * self.window


class Measured(NamedTuple):
    """What was acknowledged since the settings changed, once what was in flight then is through. `seconds` go from ack
    to ack, over `intervals` with acks, of which `squares` is the sum of bytes squared by seconds; `window_seconds` and
    `queued_bytes` are those of the observations."""

    settling_seconds: float = 0.25
    seconds: float = 0.0
    acknowledged_bytes: int = 0
    intervals: int = 0
    squares: float = 0.0
    window_seconds: float = 0.0
    queued_bytes: int = MAX_IN_FLIGHT_BYTES

    @property
    def goodput(self) -> float:
        return self.acknowledged_bytes / self.seconds if self.seconds else 0.0

    @property
    def variance(self) -> float:
        """Of the goodput of one interval, relative to the mean; 0 while unknown."""
        if self.intervals < 2 or not self.acknowledged_bytes:
            return 0.0
        spread = self.squares * self.seconds / self.acknowledged_bytes**2 - 1
        return max(0.0, spread) * self.intervals / (self.intervals - 1)


@dataclass(frozen=True, slots=True)
class Trial:
    """Home was `before`; `measured` is what the job did with it."""

    kind: Kind
    before: Settings
    measured: Measured


class Hunt(NamedTuple):
    """The trials of one kind. They take large steps until one was in vain; then pauses grow."""

    starting: bool = True
    pause_seconds: float = 0.0
    next_pause_seconds: float = _PAUSE_SECONDS

    @property
    def growth(self) -> float:
        return _START_GROWTH if self.starting else _GROWTH

    def passed(self, seconds: float) -> Hunt:
        return self._replace(pause_seconds=max(0.0, self.pause_seconds - seconds))

    @property
    def in_vain(self) -> Hunt:
        return Hunt(False, self.next_pause_seconds, min(2 * self.next_pause_seconds, _PAUSE_SECONDS_MAX))


class BatchState(NamedTuple):
    """`settings` are to be used now; `reason` says in words what decided.

    home              what has proven best, or is on `trial`
    goodput           raw bytes a second of late, of the intervals in `recent`
    latency           of late, and the least since the search began (anew): when queues stood, it is not the link's; 0
                      while unknown
    steady_goodput    when trials brought nothing any more
    changed_seconds   that it has been something else
    silent_seconds    since the last ack, while one is waited for; `silent_steps` down are due for it
    apply_seconds     that a frame of `apply_batch_bytes` takes at the target while nothing holds it up
    held_up_seconds   that it has taken much more
    """

    settings: Settings = Settings()
    reason: str = "the start"
    home: Settings = Settings()
    trial: Trial | None = None
    window_hunt: Hunt = Hunt()
    larger_hunt: Hunt = Hunt()
    smaller_hunt: Hunt = Hunt(starting=False, pause_seconds=_PAUSE_SECONDS)
    measured: Measured = Measured()
    latency: float = 0.0
    least_latency: float = 0.0
    recent: tuple[tuple[float, int], ...] = ()
    steady_goodput: float = 0.0
    changed_seconds: float = 0.0
    silent_seconds: float = 0.0
    silent_steps: int = 0
    apply_seconds: float = 0.0
    apply_batch_bytes: int = START_BATCH_BYTES
    held_up_seconds: float = 0.0

    def hunt(self, kind: Kind) -> Hunt:
        return {"window": self.window_hunt, "larger": self.larger_hunt, "smaller": self.smaller_hunt}[kind]

    def with_hunt(self, kind: Kind, hunt: Hunt) -> BatchState:
        if kind == "window":
            return self._replace(window_hunt=hunt)
        return self._replace(larger_hunt=hunt) if kind == "larger" else self._replace(smaller_hunt=hunt)

    def passed(self, seconds: float) -> BatchState:
        return self._replace(
            window_hunt=self.window_hunt.passed(seconds),
            larger_hunt=self.larger_hunt.passed(seconds),
            smaller_hunt=self.smaller_hunt.passed(seconds),
        )

    @property
    def batch_bytes(self) -> int:
        return self.settings.batch_bytes

    @property
    def window(self) -> int:
        return self.settings.window

    @property
    def goodput(self) -> float:
        seconds = sum(seconds for seconds, _ in self.recent)
        return sum(acknowledged for _, acknowledged in self.recent) / seconds if seconds else 0.0
