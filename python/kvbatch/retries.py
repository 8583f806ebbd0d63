"""How often a job whose session broke opens another one. docs/resume.md has the rule."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["Retries", "Retry"]

_WAIT_SECONDS = 0.2
_WAIT_MAX_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Retry:
    """The attempt that failed, from 1 and over the whole run; which retry of how many the next one is; the pause
    before it."""

    attempt: int
    retry: int
    retries: int
    wait_seconds: float


class Retries:
    """Counts failures since the target had more than ever before in this run. For the job's thread alone."""

    def __init__(self, allowed: int) -> None:
        self._allowed = allowed
        self._attempts = 0
        self._since_progress = 0
        self._most_bytes: int | None = None

    def note_opened(self, durable_bytes: int) -> None:
        """A session begins with so much at the target. What the first one finds there is no progress of this run; what
        a later one finds may have become durable behind the failure before it."""
        if self._most_bytes is None:
            self._most_bytes = durable_bytes

    def after_failure(self, durable_bytes: int) -> Retry | None:
        """What follows on a failure that may pass; None when there are no more retries."""
        self._attempts += 1
        if self._most_bytes is not None and durable_bytes > self._most_bytes:
            self._most_bytes = durable_bytes
            self._since_progress = 0
        if self._since_progress >= self._allowed:
            return None
        self._since_progress += 1
        # A power beyond the longest pause would be a number without end.
        wait = min(_WAIT_MAX_SECONDS, _WAIT_SECONDS * 2.0 ** min(self._since_progress - 1, 10))
        return Retry(self._attempts, self._since_progress, self._allowed, wait + random.uniform(0, _WAIT_SECONDS))
