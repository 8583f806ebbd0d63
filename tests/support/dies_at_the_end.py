"""`kvbatch` that is killed in the lane `files` when the store has its name and the job's record is still in it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from kvbatch import cli

_unlink = Path.unlink


def _unlink_or_die(path: Path, missing_ok: bool = False) -> None:
    if path.name == "kvbatch.json":
        os.kill(os.getpid(), signal.SIGKILL)
    _unlink(path, missing_ok)


if __name__ == "__main__":
    setattr(Path, "unlink", _unlink_or_die)  # noqa: B010 - a plain assignment to a method is none for mypy
    cli.main()
