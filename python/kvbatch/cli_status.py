"""The command that shows jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from kvbatch.cli_options import JsonOption, StateOption
from kvbatch.cli_output import print_json
from kvbatch.control_client import control
from kvbatch.errors import UsageError
from kvbatch.job_status import JobStatus, list_status
from kvbatch.options import default_state_dir
from kvbatch.status_view import show_job, show_jobs, watch

__all__ = ["add_status_command"]

_DEFAULT_INTERVAL = 2.0


def status(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="One job; all when left out.")] = None,
    keep_watching: Annotated[
        bool, typer.Option("--watch", help="Show it again and again: in place on a terminal, else a line each time.")
    ] = False,
    interval: Annotated[
        float | None, typer.Option(help="With --watch: seconds between two looks (default: 2).", min=0.1)
    ] = None,
    state_dir: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the jobs that this machine sent, the newest first. Of one JOB all there is."""
    directory = state_dir or default_state_dir()

    def read() -> list[JobStatus]:
        return list_status(directory) if job is None else [control(job, directory).status()]

    if keep_watching:
        if as_json:
            raise UsageError("--watch is for people; a script repeats `kvbatch status --json`")
        watch(read, interval or _DEFAULT_INTERVAL, one=job is not None)
        return
    if interval is not None:
        raise UsageError("--interval is the time between two looks of --watch; give that too")
    jobs = read()
    if as_json:
        print_json({"jobs": [each.to_json() for each in jobs]} if job is None else jobs[0].to_json())
    elif job is None:
        show_jobs(jobs, directory)
    else:
        show_job(jobs[0])


def add_status_command(app: typer.Typer) -> None:
    app.command()(status)
