"""What the kernel says of this process."""

from __future__ import annotations

import os
import resource
import threading
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["IdleCores", "ThreadPriority", "peak_rss_bytes", "rss_bytes"]

# The niceness of what takes the cores that nobody else wants: sched(7).
_LOWEST_PRIORITY = 19
_PAGE_BYTES = resource.getpagesize()


def peak_rss_bytes() -> int:
    """Most memory ever resident. From /proc, since getrusage counts the parent's size before exec too."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def rss_bytes() -> int:
    """Memory that is resident now."""
    # Twice a second: a text file object would take most of the time.
    fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(fd, 256).split()[1]) * _PAGE_BYTES
    finally:
        os.close(fd)


class IdleCores:
    """How many cores nobody used, between two looks."""

    def __init__(self) -> None:
        self._at, self._idle = time.monotonic(), _idle_seconds()

    def measure(self) -> float:
        """The mean since the last look; 0 where the kernel does not say."""
        at, idle = time.monotonic(), _idle_seconds()
        cores = (idle - self._idle) / max(1e-3, at - self._at)
        self._at, self._idle = at, idle
        return max(0.0, cores)


class ThreadPriority:
    """Of the thread that makes it. On Linux each thread has its own niceness: setpriority(2)."""

    def __init__(self) -> None:
        self._thread = threading.get_native_id()
        self._usual = os.getpriority(os.PRIO_PROCESS, self._thread)
        self._low = False

    def set_low(self, low: bool) -> None:
        """Takes only cores that nobody else wants, or its share again. Without the right to raise it (CAP_SYS_NICE or
        RLIMIT_NICE) it stays low: idle cores are its own all the same."""
        if low == self._low:
            return
        self._low = low
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, self._thread, _LOWEST_PRIORITY if low else self._usual)


def _idle_seconds() -> float:
    """Of all cores together since the start: the fourth figure of proc(5), /proc/stat."""
    try:
        with Path("/proc/stat").open() as stat:
            return int(stat.readline().split()[4]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0
