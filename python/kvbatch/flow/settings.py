"""What can be changed of a running job."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["JobSettings"]


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
