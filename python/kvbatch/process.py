"""What the kernel says of this process."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

__all__ = ["IdleCores", "peak_rss_bytes", "rss_bytes"]

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


def _idle_seconds() -> float:
    """Of all cores together since the start: the fourth figure of proc(5), /proc/stat."""
    try:
        with Path("/proc/stat").open() as stat:
            return int(stat.readline().split()[4]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0
