"""The program: `kvbatch` and `python -m kvbatch`."""

from __future__ import annotations

import signal

__all__ = ["main"]


def main() -> None:
    """Until a command says what Ctrl-C means to it, it ends the process as SIGTERM does. Python's own way would show
    where in the imports below it was."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # ignored, it stays so
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from kvbatch import cli

    cli.main()


if __name__ == "__main__":
    main()
