"""The commands that control a running job: pause, resume, set and cancel."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kvbatch.cli_options import JobArgument, JsonOption, StateOption
from kvbatch.cli_output import print_json, print_table
from kvbatch.control_client import JobControl, control
from kvbatch.errors import RefusedError, StoppedError, UsageError
from kvbatch.job_discard import Discarded, check_discardable, discard
from kvbatch.job_status import JobStatus, command, find_record
from kvbatch.options import MigrationOptions, default_state_dir
from kvbatch.state import JobRecord, JobState, find_job
from kvbatch.status_view import setting_rows
from kvbatch.target_discard import DiscardOutcome

__all__ = ["add_control_commands"]


def _control(job: str, state_dir: Path | None) -> JobControl:
    return control(job, state_dir or default_state_dir())


def _tell(status: JobStatus, as_json: bool, then: str = "") -> None:
    if as_json:
        print_json(status.to_json())
    else:
        print(f"job {status.job} is {status.state}{then}")


def pause(job: JobArgument, state_dir: StateOption = None, as_json: JsonOption = False) -> None:
    """Pause a running job; `resume` goes on. It waits behind the batches, or pieces of files, that are under way."""
    status = _control(job, state_dir).pause()
    _tell(status, as_json, f"; `{command('resume', job, state_dir or default_state_dir())}` goes on")


def resume(job: JobArgument, state_dir: StateOption = None, as_json: JsonOption = False) -> None:
    """Go on with a paused job. One that is not running is carried on by its `kvbatch migrate`."""
    _tell(_control(job, state_dir).resume(), as_json)


def _number_or_auto(name: str, text: str | None) -> int | str | None:
    """Complains as `migrate` does, whether the job runs or not."""
    if text is None or text == "auto":
        return text
    if not text.isdecimal():
        raise MigrationOptions.complaint(name, text)
    return int(text)


def set_settings(
    job: JobArgument,
    rate_limit: Annotated[
        str | None, typer.Option(help="Bytes on the wire in a second, such as 20MiB/s; 0 for no limit.")
    ] = None,
    source_read_rate: Annotated[
        str | None,
        typer.Option(
            "--max-source-read-rate",
            "--source-read-rate",
            help="Bytes read from the source in a second; 0 for no limit.",
        ),
    ] = None,
    streams: Annotated[str | None, typer.Option(metavar="N|auto", help="Ranges moved at once.")] = None,
    batch_size: Annotated[str | None, typer.Option(help="Bytes in a batch: a size or auto.")] = None,
    window: Annotated[str | None, typer.Option(metavar="N|auto", help="Frames in flight per stream.")] = None,
    compression: Annotated[str | None, typer.Option(help="On the wire: auto, lz4, zstd or none.")] = None,
    max_memory: Annotated[str | None, typer.Option(help="Memory for frames on this side.")] = None,
    state_dir: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change settings of a running job. All that are given, or none of them where one makes no sense."""
    given: dict[str, int | str | None] = {
        "rate_limit": rate_limit,
        "source_read_rate": source_read_rate,
        "streams": _number_or_auto("streams", streams),
        "batch_bytes": batch_size,
        "window": _number_or_auto("window", window),
        "compression": compression,
        "max_memory": max_memory,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes:
        raise UsageError(
            "nothing to set: give at least one of --rate-limit, --max-source-read-rate, --streams, --batch-size, "
            "--window, --compression and --max-memory"
        )
    status = _control(job, state_dir).set(**changes)
    if as_json:
        print_json(status.to_json())
    else:
        print_table([("job", status.job), ("state", status.state), *setting_rows(status.settings or {})])


def cancel(
    job: JobArgument,
    remove: Annotated[
        bool, typer.Option("--discard", help="Also remove what it wrote at the target, and its record here.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --discard: do not ask.")] = False,
    state_dir: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop a job. It stays resumable, unless it is to be discarded."""
    directory = state_dir or default_state_dir()
    if remove:
        _discard(job, directory, yes=yes, as_json=as_json)
        return
    if yes:
        raise UsageError("--yes answers what --discard asks; without it nothing is removed and nothing asked")
    _tell_end(_control(job, directory).cancel(), as_json)


def _tell_end(status: JobStatus, as_json: bool) -> None:
    if status.state == JobState.STOPPED and status.error and not as_json:
        # Which says what is sent again, too.
        print(f"job {status.job}: {status.error}. Carry it on with: {status.carry_on_line}")
        return
    then = ""
    if status.state == JobState.DONE:
        then = ": it had come to its end before it could be stopped"
    elif status.state in (JobState.STOPPED, JobState.FAILED):
        why = f" ({status.error})" if status.state == JobState.FAILED else ""
        then = f"{why}; nothing is lost. Carry it on with: {status.carry_on_line}"
    _tell(status, as_json, then)


def _discard(job: str, directory: Path, *, yes: bool, as_json: bool) -> None:
    record = find_record(job, directory)
    check_discardable(record, directory)
    if not yes:
        _confirm(record, directory)
    if record.alive:
        try:
            control(job, directory).cancel()
        except RefusedError:
            # It may have come to its end while the question was asked.
            if find_record(job, directory).alive:
                raise
    # Of one that was stopped before it had reached its target nothing is kept.
    kept = find_job(directory, job) is not None
    discarded = discard(job, directory) if kept else Discarded(job, record.target, DiscardOutcome.NOTHING)
    if as_json:
        print_json(discarded.to_json())
    else:
        print(discarded)


def _confirm(record: JobRecord, directory: Path) -> None:
    if not sys.stdin.isatty():
        raise UsageError(
            f"removing what job {record.job} wrote at {record.target} wants a yes, and there is no terminal to ask at. "
            f"Nothing was done; `{command('cancel --discard --yes', record.job, directory)}` does not ask"
        )
    stop = "Stop the job and remove" if record.alive else "Remove"
    try:
        yes = typer.confirm(f"{stop} what job {record.job} wrote at {record.target}?", err=True)
    except typer.Abort:  # Ctrl-C or Ctrl-D
        yes = False
        print(file=sys.stderr)
    if not yes:
        raise StoppedError("nothing was done")


def add_control_commands(app: typer.Typer) -> None:
    app.command("pause")(pause)
    app.command("resume")(resume)
    app.command("cancel")(cancel)
    app.command("set")(set_settings)
