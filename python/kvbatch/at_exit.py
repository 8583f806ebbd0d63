"""What runs in the background is stopped before Python goes down.

A daemon thread that comes back from the core after that would end the process by std::terminate, and its exit code
would be lost.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import weakref
from typing import Protocol

__all__ = ["AT_EXIT_SECONDS", "Background", "stop_at_exit"]

# A program that is to end must not wait for ever, for a peer that is silent or a disk that hangs.
AT_EXIT_SECONDS = 30.0


class Background(Protocol):
    def stop_at_exit(self) -> None:
        """Comes back once no thread of it is left, or AT_EXIT_SECONDS have passed."""


_running: weakref.WeakKeyDictionary[Background, None] = weakref.WeakKeyDictionary()
# A forked child has its parent's connections and none of its threads.
os.register_at_fork(after_in_child=_running.clear)


def stop_at_exit(background: Background) -> None:
    _running[background] = None


@atexit.register
def _stop_all() -> None:
    # The newest first: a migration before the receiver in the same program that it writes to.
    for background in reversed(list(_running)):
        with contextlib.suppress(Exception):
            background.stop_at_exit()
