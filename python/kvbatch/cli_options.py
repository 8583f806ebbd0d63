"""Options that several commands take alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["JobArgument", "JsonOption", "StateOption"]

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, as `kvbatch status` shows it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout.")]
StateOption = Annotated[
    Path | None, typer.Option("--state-dir", help="Where the sender keeps its jobs (default: the XDG state directory).")
]
