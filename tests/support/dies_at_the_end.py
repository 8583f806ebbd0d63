"""`kvbatch` that is killed at the end of a job of the lane `files`, in the step that the environment's DIES_AT names: a
key of STEPS, by itself "record"."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from kvbatch import cli, target_files
from kvbatch._core.store import TargetStore
from kvbatch.target_staging import Staging


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _at_the_record() -> None:
    """The store has its name, and the job's record is still in it."""
    unlink = Path.unlink

    def act(path: Path, missing_ok: bool = False) -> None:
        if path.name == "kvbatch.json":
            _die()
        unlink(path, missing_ok)

    setattr(Path, "unlink", act)  # noqa: B010 - a plain assignment to a method is none for mypy


def _at_the_links() -> None:
    """The files of chosen families have their second names."""
    link = Staging.link_all

    def act(staging: Staging, names: Any) -> None:
        link(staging, names)
        _die()

    setattr(Staging, "link_all", act)  # noqa: B010


def _at_a_family() -> None:
    """The first of them is made."""

    class Dying(TargetStore):
        def import_family(self, *arguments: Any, **options: Any) -> None:
            super().import_family(*arguments, **options)
            _die()

    setattr(target_files, "TargetStore", Dying)  # noqa: B010


def _at_the_name() -> None:
    """All of them are."""
    setattr(Staging, "move_into_place", lambda *_: _die())  # noqa: B010


STEPS = {"record": _at_the_record, "links": _at_the_links, "family": _at_a_family, "name": _at_the_name}

if __name__ == "__main__":
    STEPS[os.environ.get("DIES_AT", "record")]()
    cli.main()
