"""The command that shows what a store holds."""

from __future__ import annotations

from typing import Annotated

import typer

from kvbatch.cli_options import JsonOption
from kvbatch.cli_output import print_json

__all__ = ["add_inspect_command"]


def inspect_store(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A directory: PATH or rocksdb:PATH.")],
    as_json: JsonOption = False,
) -> None:
    """Show what a store holds. Of a Kvrocks directory every entry is counted, by namespace, type and slot."""
    # No other command is to wait for numpy, or to have it in memory.
    from kvbatch.inspection import inspect
    from kvbatch.inspection_view import show_inspection

    found = inspect(path)
    if as_json:
        print_json(found.to_json())
    else:
        show_inspection(found)


def add_inspect_command(app: typer.Typer) -> None:
    app.command("inspect")(inspect_store)
