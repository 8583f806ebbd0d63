"""What the kernel says of this process."""

from __future__ import annotations

import resource
from pathlib import Path

__all__ = ["peak_rss_bytes", "rss_bytes"]

_PAGE_BYTES = resource.getpagesize()


def peak_rss_bytes() -> int:
    """Most memory ever resident. From /proc, since getrusage counts the parent's size before exec too."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def rss_bytes() -> int:
    """Memory that is resident now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
