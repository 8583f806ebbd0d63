"""What can be changed of a running job."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from kvbatch.units import format_bytes

__all__ = ["ADAPTING", "RATES", "SETTING_NAMES", "SIZES", "JobSettings", "show_setting"]

# Bytes a second and bytes; what is left to kvbatch at 0.
RATES = ("rate_limit", "source_read_rate")
SIZES = ("batch_bytes", "max_memory")
ADAPTING = ("streams", "batch_bytes", "window")


@dataclass(frozen=True, slots=True)
class JobSettings:
    """Rates are bytes a second, 0 for no limit; `batch_bytes` is 0 where it adapts, `window` and `streams` too."""

    rate_limit: int = 0
    source_read_rate: int = 0
    streams: int = 0
    batch_bytes: int = 0
    window: int = 0
    compression: str = "auto"
    max_memory: int = 0


SETTING_NAMES = tuple(field.name for field in dataclasses.fields(JobSettings))


def show_setting(name: str, value: Any) -> str:
    """As people read it: 20 MiB/s, none, auto."""
    if name in RATES:
        return f"{format_bytes(value)}/s" if value else "none"
    if name in ADAPTING and not value:
        return "auto"
    return format_bytes(value) if name in SIZES else str(value)
