"""How fast a job may go for the health of its target: it backs off before RocksDB holds back the target's writers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HealthDecision", "TargetHealth", "decide"]

# Where full speed ends, of what RocksDB slows writers down at.
_BEGINS_AT = 0.6
# Pending compaction is a coarse estimate that jumps: nothing more is sent a little before the limit.
_PENDING_ENDS_AT = 0.95
# A frame that takes this long to apply is held up; from the second figure on the job goes at the least share. Never at
# none: how long frames take is known from frames alone.
_APPLY_SLOW_SECONDS = 1.0
_APPLY_STALLED_SECONDS = 4.0
_APPLY_LEAST_SHARE = 0.25
# Speed comes back once so much more is allowed, this much at a time.
_RISE_FROM = 0.15
_RISE_STEP = 0.25


@dataclass(frozen=True, slots=True)
class TargetHealth:
    """What RocksDB tells of the target, worst column family first, and its limits.

    delayed_write_rate  bytes a second that RocksDB allows its writers; 0 while it does not slow them down
    apply_seconds       that the target took to apply a frame, the mean of late; 0 while unknown
    triggers and limits of the target's options; those that are 0 or negative are switched off
    """

    l0_files: int = 0
    pending_compaction_bytes: int = 0
    delayed_write_rate: int = 0
    write_stopped: bool = False
    apply_seconds: float = 0.0
    l0_slowdown_trigger: int = 20
    l0_stop_trigger: int = 36
    soft_pending_compaction_bytes: int = 64 << 30
    hard_pending_compaction_bytes: int = 256 << 30


@dataclass(frozen=True, slots=True)
class HealthDecision:
    """`share` of its full speed at which the job may go, from 0 to 1, and why; no reason at full speed. At share 0 the
    target must be asked for its health again after `recheck_seconds`: no ack will tell."""

    share: float = 1.0
    reason: str | None = None

    @property
    def recheck_seconds(self) -> float:
        return 0.5


def decide(before: HealthDecision, health: TargetHealth) -> HealthDecision:
    """What to do now, `before` being what was decided last. Slower at once, faster by steps."""
    allowed = min(
        (
            _of_stalls(health),
            _of_l0_files(health),
            _of_pending_compaction(health),
            _of_apply_seconds(health),
        ),
        key=lambda decision: decision.share,
    )
    if allowed.share <= before.share:
        return allowed
    if allowed.share < 1 and allowed.share < before.share + _RISE_FROM:
        return before
    share = min(allowed.share, before.share + _RISE_STEP)
    return allowed if share == allowed.share else HealthDecision(share, allowed.reason or "the target has recovered")


def _of_stalls(health: TargetHealth) -> HealthDecision:
    if health.write_stopped:
        return HealthDecision(0.0, "the target has stopped all writes until compactions catch up")
    if health.delayed_write_rate > 0:
        return HealthDecision(0.0, f"the target slows its writers down to {health.delayed_write_rate} bytes/s")
    return HealthDecision()


def _of_l0_files(health: TargetHealth) -> HealthDecision:
    limit = _limit(health.l0_slowdown_trigger, health.l0_stop_trigger)
    begin = _BEGINS_AT * limit
    # A flush may be under way, so the last file below the trigger is not for this job, unless that is all there is.
    end = limit - 1 if limit - 1 > begin else limit
    share = _falling(health.l0_files, begin, end) if limit else 1.0
    return _decision(share, f"{health.l0_files} L0 files at the target, which slows its writers down at {limit}")


def _of_pending_compaction(health: TargetHealth) -> HealthDecision:
    limit = _limit(health.soft_pending_compaction_bytes, health.hard_pending_compaction_bytes)
    pending = health.pending_compaction_bytes
    share = _falling(pending, _BEGINS_AT * limit, _PENDING_ENDS_AT * limit) if limit else 1.0
    return _decision(
        share, f"{pending} bytes wait for compaction at the target, which slows its writers down at {limit}"
    )


def _of_apply_seconds(health: TargetHealth) -> HealthDecision:
    share = _falling(health.apply_seconds, _APPLY_SLOW_SECONDS, _APPLY_STALLED_SECONDS)
    reason = f"the target takes {health.apply_seconds:.1f} s to apply a frame"
    return _decision(max(share, _APPLY_LEAST_SHARE), reason)


def _limit(slowdown: int, stop: int) -> int:
    """Where writers begin to suffer; 0 where nothing is switched on."""
    return min((limit for limit in (slowdown, stop) if limit > 0), default=0)


def _falling(value: float, begin: float, end: float) -> float:
    """1 up to `begin`, 0 from `end` on, a line between."""
    return min(1.0, max(0.0, (end - value) / (end - begin)))


def _decision(share: float, reason: str) -> HealthDecision:
    return HealthDecision(share, None if share == 1 else reason)
