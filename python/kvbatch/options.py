"""The options of a job, checked at the edge."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from kvbatch._core import store
from kvbatch.errors import UsageError
from kvbatch.ranges import KeyRange, parse_key_range
from kvbatch.units import parse_bytes

__all__ = ["MigrationOptions", "default_state_dir", "default_streams"]

KIB = 1 << 10
MIB = 1 << 20
AUTO_BATCH_BYTES = 2 * MIB
MAX_STREAMS = 64

# No machine has more, and it stays far from where sums of sizes would overflow in the core.
MAX_SIZE = 1 << 50
Size = Annotated[int, BeforeValidator(parse_bytes), Field(gt=0, le=MAX_SIZE)]


def default_streams() -> int:
    """As many streams as cores, four at most: beyond that the target's disk is the limit."""
    return max(1, min(4, len(os.sched_getaffinity(0))))


def default_state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "kvbatch"


class MigrationOptions(BaseModel):
    """What `migrate` and `plan` take besides source and target. Sizes are bytes, or text like `1MiB`."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    lane: Literal["auto", "batch"] = "auto"
    streams: int = Field(default_factory=default_streams, ge=1, le=MAX_STREAMS)
    compression: Literal["auto", "lz4", "zstd", "none"] = "auto"
    target_compression: str = "auto"
    max_memory: Size = 256 * MIB
    batch_bytes: Size = AUTO_BATCH_BYTES
    window: int = Field(default=8, ge=1, le=1024)
    column_families: tuple[str, ...] = ()
    key_range: KeyRange = KeyRange()
    job: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    state_dir: Path = Field(default_factory=default_state_dir)
    allow_nonempty: bool = False
    retries: int = Field(default=8, ge=0)
    sst_file_bytes: Size = 64 * MIB
    max_ranges: int = Field(default=64, ge=1, le=10_000)
    range_bytes: Size = 64 * MIB

    @field_validator("batch_bytes", mode="before")
    @classmethod
    def _auto_batch(cls, value: Any) -> Any:
        return AUTO_BATCH_BYTES if value == "auto" else value

    @field_validator("key_range", mode="before")
    @classmethod
    def _key_range(cls, value: Any) -> Any:
        return KeyRange() if value is None else parse_key_range(value)

    @field_validator("target_compression")
    @classmethod
    def _known_compression(cls, value: str) -> str:
        if value != "auto":
            store.check_compression(value)
        return value

    @classmethod
    def checked(cls, **options: Any) -> MigrationOptions:
        """Raises UsageError naming the option at fault."""
        try:
            made = cls(**options)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"]) or "options"
            raise UsageError(f"option {name}: {first['msg']} (given: {first['input']!r})") from error
        if not 4 * KIB <= made.batch_bytes <= 64 * MIB:
            raise UsageError(f"batch size {made.batch_bytes}: it lies between 4KiB and 64MiB")
        # Each stream holds one frame, which takes twice the batch when it is compressed.
        needed = 2 * made.batch_bytes * made.streams
        if made.max_memory < needed:
            raise UsageError(
                f"max memory {made.max_memory} is too little for {made.streams} streams of {made.batch_bytes}-byte "
                f"batches: give at least {needed}, or fewer streams"
            )
        return made
