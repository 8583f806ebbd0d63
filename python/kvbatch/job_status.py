"""What there is to say of a job: its record, and what it answers itself while it runs."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvbatch.errors import UsageError
from kvbatch.events import run_rates
from kvbatch.flow.throttle import ThrottleReason
from kvbatch.kept_options import option_words, without_words
from kvbatch.options import default_state_dir
from kvbatch.shell_words import join_words, quote_word
from kvbatch.state import JobRecord, JobState, find_job, list_jobs

__all__ = ["JobStatus", "command", "find_record", "list_status", "unknown_job"]


@dataclass(frozen=True, slots=True)
class JobStatus:
    """Where a job stands, whether a process runs it or not.

    state     "running", "paused", "stopping" (told to stop), "finishing", or, when no process runs it, "stopped",
              "interrupted" (the process is gone), "failed", "done"
    created, updated  seconds since the epoch; what is known is as old as `updated`
    pid       the process that runs it; None when none does
    progress  the fields of Progress; of a job that does not run, the last that are known, with its state; {} before
              the first. Of a job that does not run all rates are means of its last run
    settings  the fields of JobSettings that are valid now; None when no process runs it, or it does not answer
    summary   the fields of Summary of the run that finished it, or None
    error     what ended the last run; while a run waits for another attempt, which one that is and why; or None
    carry_on  the command that carries it on, with every option that the job was given; None while a process runs it,
              and when it is done
    carry_on_note  what that command cannot say of these options, or None
    """

    job: str
    source: str
    target: str
    state: str
    created: float
    updated: float
    pid: int | None
    progress: dict[str, Any]
    settings: dict[str, Any] | None
    summary: dict[str, Any] | None
    error: str | None
    carry_on: str | None = None
    carry_on_note: str | None = None

    @staticmethod
    def of(record: JobRecord, state_dir: Path, answer: dict[str, Any] | None = None) -> JobStatus:
        """From its record in this state directory and what the job itself answered."""
        progress = record.progress if answer is None else answer["progress"]
        if progress and not record.alive:
            # The last sample may have been taken while the job ran.
            progress = {**progress, **run_rates(lambda name: progress.get(name, 0)), "state": record.shown_state}
        ended = not record.alive and record.state != JobState.DONE
        return JobStatus(
            job=record.job,
            source=record.source,
            target=record.target,
            state=record.shown_state if answer is None else answer["state"],
            created=record.created,
            updated=record.updated,
            pid=record.pid if record.alive else None,
            progress=progress,
            settings=None if answer is None else answer["settings"],
            summary=record.summary,
            error=record.error,
            carry_on=_migrate_command(record, state_dir) if ended else None,
            carry_on_note=_options_note(record.options) if ended else None,
        )

    @property
    def carry_on_line(self) -> str:
        """The command that carries it on, and in words what it does not say; empty where there is none."""
        note = f"  # {self.carry_on_note}" if self.carry_on_note else ""
        return f"{self.carry_on or ''}{note}"

    @property
    def runs(self) -> bool:
        """Whether a process runs it."""
        return self.pid is not None

    def _figure(self, name: str) -> float:
        return float(self.progress.get(name) or 0)

    @property
    def percent(self) -> float | None:
        """Of the estimated bytes: of a job that runs what it read and sent, as its bars show it, of any other what is
        durable at the target, where it will be carried on. None while there is no estimate."""
        return self._share(self._done_bytes)

    @property
    def _done_bytes(self) -> str:
        return "raw_bytes" if self.runs else "durable_bytes"

    @property
    def durable_percent(self) -> float | None:
        """Of the estimated bytes, those that are durable at the target; None while there is no estimate."""
        return self._share("durable_bytes")

    def _share(self, figure: str) -> float | None:
        if self.state == JobState.DONE:
            return 100.0
        expected = self._figure("estimated_bytes")
        return min(100.0, 100 * self._figure(figure) / expected) if expected else None

    @property
    def entries(self) -> int:
        """Those that `percent` speaks of."""
        return int(self._figure("entries" if self.runs else "durable_entries"))

    @property
    def remaining_seconds(self) -> float | None:
        """At the rate of now; of a job that does not run, at the mean of its last run, once it is carried on from what
        is durable. None while nothing moves."""
        if self.state == JobState.DONE:
            return 0.0
        rate = 0.0 if self.state == "paused" else self._figure("bytes_per_second")
        left = self._figure("estimated_bytes") - self._figure(self._done_bytes)
        return max(0.0, left) / rate if rate > 0 else None

    @property
    def entries_per_second(self) -> float:
        """Now; 0 when no process runs it; of a finished job the mean of the run that finished it."""
        return self._rate("entries_per_second")

    @property
    def bytes_per_second(self) -> float:
        """Keys and values, as `entries_per_second`."""
        return self._rate("bytes_per_second")

    def _rate(self, name: str) -> float:
        moves = self.runs and self.state != "paused"
        return self._figure(name) if moves or self.state == JobState.DONE else 0.0

    @property
    def throttle(self) -> str | None:
        """The reason that limits it now, as in Progress; None for none, and when no process runs it."""
        if not self.runs:
            return None
        reason = self.progress.get("throttle")
        if reason is not None and self.state == "paused":
            # The sample may be of a moment before.
            return ThrottleReason.PAUSED.value
        return None if reason is None else str(reason)

    def to_json(self) -> dict[str, Any]:
        return {
            "job": self.job,
            "source": self.source,
            "target": self.target,
            "state": self.state,
            "created": self.created,
            "updated": self.updated,
            "pid": self.pid,
            "percent": self.percent,
            "durable_percent": self.durable_percent,
            "entries_per_second": self.entries_per_second,
            "bytes_per_second": self.bytes_per_second,
            "remaining_seconds": self.remaining_seconds,
            "throttle": self.throttle,
            "progress": self.progress,
            "settings": self.settings,
            "summary": self.summary,
            "error": self.error,
            "carry_on": self.carry_on,
            "carry_on_note": self.carry_on_note,
        }


def _state_option(state_dir: Path) -> str:
    """What a command needs to find this state directory again."""
    with contextlib.suppress(UsageError):  # there is no default
        if state_dir == default_state_dir():
            return ""
    return f" --state-dir {quote_word(str(state_dir.absolute()))}"


def command(verb: str, job: str, state_dir: Path) -> str:
    """A command about this job, to type next."""
    return f"kvbatch {verb} {job}{_state_option(state_dir)}"


def _migrate_command(record: JobRecord, state_dir: Path) -> str:
    words = [record.source, record.target, *option_words(record.options or {}), "--job", record.job]
    return f"kvbatch migrate {join_words(words)}{_state_option(state_dir)}"


def _options_note(kept: dict[str, Any] | None) -> str | None:
    if kept is None:
        return "and the options that it was begun with: they are not recorded"
    missing = without_words(kept)
    return f"without {', '.join(missing)}, which only Python can give" if missing else None


def find_record(job: str, state_dir: Path) -> JobRecord:
    """Raises UsageError for a job that is not known."""
    record = find_job(state_dir, job)
    if record is None:
        raise unknown_job(job, state_dir)
    return record


def unknown_job(job: str, state_dir: Path) -> UsageError:
    return UsageError(
        f"no job {job!r} in the state directory {state_dir}; `kvbatch status{_state_option(state_dir)}` lists those "
        "there are"
    )


def list_status(state_dir: Path) -> list[JobStatus]:
    """Every job that this machine sent, the newest first, by their records. None where there is no state directory."""
    return [JobStatus.of(record, state_dir) for record in list_jobs(state_dir)]
