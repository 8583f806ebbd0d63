"""The options of a job, checked at the edge."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from kvbatch._core import store
from kvbatch.errors import UsageError
from kvbatch.flow.rate_schedule import RateSchedule, parse_rate
from kvbatch.flow.settings import SETTING_NAMES, JobSettings
from kvbatch.flow.source_check import SourceCheck
from kvbatch.kvrocks.slots import Slots, parse_slots
from kvbatch.ranges import KeyRange, parse_key_range
from kvbatch.units import format_bytes, parse_bytes, write_bytes

__all__ = [
    "PLAIN_SOURCE",
    "SELECTING",
    "TARGET_COMPRESSIONS",
    "MigrationOptions",
    "ReceiverOptions",
    "SourceMemory",
    "SourceOptions",
    "VerifyOptions",
    "default_state_dir",
    "default_streams",
]

KIB = 1 << 10
MIB = 1 << 20
# Where `auto` begins.
AUTO_BATCH_BYTES = MIB
AUTO_WINDOW = 32
MIN_BATCH_BYTES = 4 * KIB
MAX_BATCH_BYTES = 64 * MIB
MAX_STREAMS = 64
# That `auto` may choose where --max-streams is not given.
AUTO_MAX_STREAMS = 8
MAX_WINDOW = 1024
MIN_RATE = 64 * KIB
# What `auto` may choose.
MIN_AUTO_BATCH_BYTES = 64 * KIB
# Each stream holds one frame, which takes twice the batch when it is compressed.
FRAME_PARTS = 2
# What a stream has beside its frame, as large as it gets without a large entry: what is read ahead, and a block where
# it is read and where it is built.
STREAM_BYTES = 2 * MIB

# What the core can write files with; a build against an installed RocksDB may lack some, which it says itself.
TARGET_COMPRESSIONS = ("none", "lz4", "lz4hc", "zstd", "snappy", "zlib", "bzip2")

# The options that say what of a source is moved or compared.
SELECTING = ("column_families", "key_range", "slots", "namespace")
# Its length is a byte.
_MAX_NAMESPACE_BYTES = 255

# No machine has more, and it stays far from where sums of sizes would overflow in the core.
MAX_SIZE = 1 << 50


@dataclass(frozen=True, slots=True)
class SourceMemory:
    """What an open source takes of `--max-memory`, in bytes."""

    # Its memtables and the indexes of its files.
    shared_bytes: int = 0
    # Blocks of the files that a stream merges, beyond its own part.
    stream_bytes: int = 0
    merged_files: int = 0

    def bytes_of(self, streams: int) -> int:
        return self.shared_bytes + self.stream_bytes * streams


# One whose files do not overlap and whose WAL was flushed.
PLAIN_SOURCE = SourceMemory()


def default_streams() -> int:
    """As many streams as cores, four at most: beyond that the target's disk is the limit."""
    return max(1, min(4, len(os.sched_getaffinity(0))))


def default_state_dir() -> Path:
    """Of the XDG base directory specification, which has a path that is not absolute ignored. Raises UsageError for a
    user without a home directory."""
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path.home() / ".local" / "state"
        except RuntimeError as error:
            raise UsageError(
                "no state directory can be used: this user has no home directory, and XDG_STATE_HOME is not set. "
                "Nothing was changed; give one with --state-dir"
            ) from error
    return base / "kvbatch"


def _check_family_names(names: Sequence[str]) -> Sequence[str]:
    """Raises UsageError for a bare string, whose letters would be taken for names."""
    if isinstance(names, str):
        raise UsageError(f"column_families {names!r}: give a sequence of names, ({names!r},) for this one")
    return names


def _parse_path(value: Any) -> Any:
    """`Path("")` is the working directory, which nobody means who gives an empty text, as from an unset variable."""
    if value in ("", b""):
        raise ValueError
    return value


_Path = Annotated[Path, BeforeValidator(_parse_path)]


def _read_by(parse: Callable[[Any], Any]) -> BeforeValidator:
    """Has pydantic collect what `parse` complains of, so that the complaint can name the option."""

    def validate(value: Any) -> Any:
        try:
            return parse(value)
        except UsageError as error:
            raise ValueError(str(error)) from error

    return BeforeValidator(validate)


def _parse_batch_size(value: Any) -> int:
    if value == "auto":
        return 0
    size = parse_bytes(value)
    if not MIN_BATCH_BYTES <= size <= MAX_BATCH_BYTES:
        raise ValueError
    return size


def _parse_auto(value: Any) -> Any:
    """`auto` is held as 0, which nobody may give."""
    if value == "auto":
        return 0
    if value == 0:
        raise ValueError
    return value


def _parse_limit(value: Any) -> int:
    """A limit that holds a frame up for longer than a peer waits would break the connection."""
    rate = parse_rate(value)
    if 0 < rate < MIN_RATE:
        raise UsageError(f"{value!r} is less than 64KiB/s")
    return rate


def _parse_schedule(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        schedule = RateSchedule.parse(value)
    except UsageError as error:
        raise _PartError(str(error)) from error
    least = min((limit for limit in schedule.limits if limit), default=MIN_RATE)
    if least < MIN_RATE:
        raise _PartError(f"rate schedule {value!r}: the limit {write_bytes(least)} is less than 64KiB/s")
    return schedule


def _known_check(value: Any) -> Any:
    if value is not None:
        SourceCheck(value)
    return value


def _parse_optional_range(value: Any) -> KeyRange:
    return KeyRange() if value is None else parse_key_range(value)


def _parse_optional_slots(value: Any) -> Slots | None:
    if value is None:
        return None
    if not isinstance(value, str | Slots):
        raise ValueError
    try:
        return parse_slots(str(value))
    except UsageError as error:
        raise _PartError(str(error)) from error


def _check_namespace(value: Any) -> Any:
    """An empty one, as from an unset variable, is no server's."""
    if isinstance(value, str) and not 0 < len(os.fsencode(value)) <= _MAX_NAMESPACE_BYTES:
        raise ValueError
    return value


def _known_compression(value: Any) -> Any:
    if isinstance(value, str) and value != "auto":
        store.check_compression(value)
    return value


def _option(command_line: str, allowed: str, **more: Any) -> Any:
    """A field with its name on the command line, empty where it has none, and what it takes, for the complaint about
    anything else."""
    return Field(title=command_line, description=allowed, **more)


def _number(command_line: str, least: int, most: int | None = None, **more: Any) -> Any:
    allowed = f"a whole number, {least} or more" if most is None else f"a whole number from {least} to {most}"
    return _option(command_line, allowed, ge=least, le=most, strict=True, **more)


def _flag(command_line: str) -> Any:
    return _option(command_line, "true or false", strict=True, default=False)


def _size(command_line: str, default: int) -> Any:
    return _option(
        command_line, "a size from 1 byte to 1024TiB, like 64KiB, 1MiB or 2GiB", gt=0, le=MAX_SIZE, default=default
    )


_A_RATE = "bytes a second, 64KiB/s or more, like 20MiB/s; 0 for no limit"


class _PartError(ValueError):
    """What is wrong with a part of what was given, where that says more than what the option takes."""


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, defer_build=True)

    @classmethod
    def checked(cls, **options: Any) -> Self:
        """Raises UsageError naming the option at fault, what was given and what it takes."""
        try:
            return cls(**options)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            if name not in cls.model_fields:
                known = ", ".join(cls.model_fields)
                raise UsageError(f"there is no option {name!r}; there are {known}") from error
            why = first.get("ctx", {}).get("error")
            if isinstance(why, _PartError):
                raise UsageError(f"{_shown(name, cls.model_fields[name].title)}: {why}") from error
            raise cls.complaint(name, options[name]) from error

    @classmethod
    def complaint(cls, name: str, given: Any) -> UsageError:
        """What is wrong with what was given for this option."""
        field = cls.model_fields[name]
        return UsageError(f"{_shown(name, field.title)} {given!r}: give {field.description}")


_FamilyNames = Annotated[tuple[str, ...], BeforeValidator(_check_family_names)]
_OptionalRange = Annotated[KeyRange, _read_by(_parse_optional_range)]


class SourceOptions(_Options):
    """What of a source is moved or compared."""

    column_families: _FamilyNames = _option("--cf", 'a sequence of names, such as ("default",)', default=())
    key_range: _OptionalRange = _option("--range", "HEX..HEX, for example 6100..62 or 61..", default=KeyRange())
    slots: Annotated[Slots | None, BeforeValidator(_parse_optional_slots)] = _option(
        "--slots", "slots from 0 to 16383 and ranges of them, for example 0-100,200", default=None
    )
    namespace: Annotated[str, BeforeValidator(_check_namespace)] | None = _option(
        "--namespace", f"the name of a namespace, 1 to {_MAX_NAMESPACE_BYTES} bytes", default=None
    )

    @classmethod
    def checked(cls, **options: Any) -> Self:
        made = super().checked(**options)
        if made.selects_kvrocks and made.key_range != KeyRange():
            given = "--slots" if made.slots is not None else "--namespace"
            raise UsageError(f"--range and {given} exclude each other: slots and namespaces are ranges of keys already")
        return made

    @property
    def selects_kvrocks(self) -> bool:
        """Whether what Kvrocks keeps is chosen by what it means."""
        return self.slots is not None or self.namespace is not None

    @property
    def families_to_open(self) -> list[str]:
        """Of the source; empty for all. Of a Kvrocks directory a copy has all of them, whatever is in them, since their
        order is their ids."""
        return [] if self.selects_kvrocks else list(self.column_families)


class ReceiverOptions(_Options):
    """What `serve` takes."""

    root: _Path = _option("--root", "a path")
    host: str = _option("", "a host name or an address, such as 127.0.0.1")
    port: int = _number("", 0, 65535)
    max_memory: Annotated[int, _read_by(parse_bytes)] = _option(
        "--max-memory", "a size of 1MiB or more, like 64MiB or 2GiB", ge=MIB, le=MAX_SIZE
    )
    insecure: bool = _flag("--insecure")


class VerifyOptions(SourceOptions):
    """What `verify` takes besides source and target."""

    repair: bool = _flag("--repair")
    threads: Annotated[int, Field(ge=1, le=MAX_STREAMS, strict=True)] | None = _option(
        "", f"a whole number from 1 to {MAX_STREAMS}, or None", default=None
    )
    state_dir: _Path | None = _option("--state-dir", "a path", default=None)


class MigrationOptions(SourceOptions):
    """What `migrate` and `plan` take besides source and target. Sizes are bytes, or text like `1MiB`."""

    lane: Literal["auto", "batch", "sst", "files"] = _option("--lane", "auto, batch, sst or files", default="auto")
    streams: Annotated[int, BeforeValidator(_parse_auto)] = _option(
        "--streams",
        f"auto, or a whole number from 1 to {MAX_STREAMS}",
        ge=0,
        le=MAX_STREAMS,
        strict=True,
        default_factory=default_streams,
    )
    # None: AUTO_MAX_STREAMS where they adapt, else as many as are asked for.
    max_streams: Annotated[int, Field(ge=1, le=MAX_STREAMS, strict=True)] | None = _option(
        "--max-streams", f"a whole number from 1 to {MAX_STREAMS}", default=None
    )
    compression: Literal["auto", "lz4", "zstd", "none"] = _option(
        "--compression", "auto, lz4, zstd or none", default="auto"
    )
    target_compression: Annotated[str, _read_by(_known_compression)] = _option(
        "--target-compression",
        f"auto, {', '.join(TARGET_COMPRESSIONS[:-1])} or {TARGET_COMPRESSIONS[-1]}",
        default="auto",
    )
    max_memory: Annotated[int, _read_by(parse_bytes)] = _size("--max-memory", 256 * MIB)
    batch_bytes: Annotated[int, _read_by(_parse_batch_size)] = _option(
        "--batch-size", "auto, or a size from 4KiB to 64MiB", default=0
    )
    window: Annotated[int, BeforeValidator(_parse_auto)] = _option(
        "--window", f"auto, or a whole number from 1 to {MAX_WINDOW}", ge=0, le=MAX_WINDOW, strict=True, default=0
    )
    rate_limit: Annotated[int, _read_by(_parse_limit)] = _option("--rate-limit", _A_RATE, default=0)
    rate_schedule: Annotated[RateSchedule | None, BeforeValidator(_parse_schedule)] = _option(
        "--rate-schedule", "limits by local time of day, like 09:00-18:00=20MiB/s,*=0", default=None
    )
    source_read_rate: Annotated[int, _read_by(_parse_limit)] = _option("--max-source-read-rate", _A_RATE, default=0)
    throttle_check: Annotated[Any, _read_by(_known_check)] = _option(
        "--throttle-check", "a shell command, an http:// or https:// URL or a callable", default=None
    )
    peer_timeout: float = _option(
        "--peer-timeout", "seconds, from 1 to 86400", ge=1, le=86_400, strict=True, default=60.0
    )
    job: str | None = _option(
        "--job",
        "letters, digits, '.', '_' and '-', 64 at most, the first a letter or digit",
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
    )
    state_dir: _Path = _option("--state-dir", "a path", default_factory=default_state_dir)
    allow_nonempty: bool = _flag("--allow-nonempty")
    overwrite: bool = _flag("--overwrite")
    link: bool = _flag("--link")
    retries: int = _number("--retries", 0, default=8)
    sst_file_bytes: Annotated[int, _read_by(parse_bytes)] = _size("", 64 * MIB)
    max_ranges: int = _number("", 1, 10_000, default=64)
    range_bytes: Annotated[int, _read_by(parse_bytes)] = _size("", 42 * MIB)
    # A file of the source that is smaller is read like anything else.
    graft_bytes: Annotated[int, _read_by(parse_bytes)] = _size("", MIB)

    @classmethod
    def checked(cls, **options: Any) -> Self:
        made = super().checked(**options)
        if made.max_streams is not None and made.streams > made.max_streams:
            if "streams" in options:
                raise UsageError(
                    f"--streams {made.streams} is more than --max-streams {made.max_streams} allows to one target: "
                    f"give {made.max_streams} or fewer, or migrate with a higher --max-streams"
                )
            made = made.model_copy(update={"streams": made.max_streams})
        if made.rate_limit and made.rate_schedule is not None:
            raise UsageError("--rate-limit and --rate-schedule exclude each other: a limit for all times is *=20MiB/s")
        made.check_memory(PLAIN_SOURCE)
        return made

    @property
    def least_memory(self) -> int:
        """What the streams need, whatever the source is."""
        return (FRAME_PARTS * self._least_batch_bytes + STREAM_BYTES) * self.most_streams

    @property
    def _least_batch_bytes(self) -> int:
        return self.batch_bytes or MIN_AUTO_BATCH_BYTES

    def check_memory(self, source: SourceMemory) -> None:
        """Raises UsageError where `max_memory` is not enough for the streams and this source."""
        needed = self.least_memory + source.bytes_of(self.most_streams)
        if self.max_memory >= needed:
            return
        what = f"{self.most_streams} streams with batches of {write_bytes(self._least_batch_bytes)}"
        if source.shared_bytes:
            what += f", {format_bytes(source.shared_bytes)} of the source's WAL and indexes"
        if source.stream_bytes:
            what += f", {source.merged_files} files that each stream merges"
        raise UsageError(
            f"--max-memory {write_bytes(self.max_memory)} is too little for {what}: give at least "
            f"{-(-needed // MIB)}MiB, or fewer streams"
        )

    @property
    def settings(self) -> JobSettings:
        """Those that can be changed while the job runs."""
        return JobSettings(**{name: getattr(self, name) for name in SETTING_NAMES})

    @property
    def expected_streams(self) -> int:
        """What a plan counts on: of `auto` nobody knows it yet."""
        return self.streams or min(self.most_auto_streams, default_streams())

    def changed(self, settings: JobSettings, source: SourceMemory = PLAIN_SOURCE, /, **changes: Any) -> dict[str, Any]:
        """`changes` of the settings that hold now, as `checked` reads them; with this source. Raises UsageError."""
        unknown = next((name for name in changes if name not in SETTING_NAMES), None)
        if unknown is not None:
            raise UsageError(f"{unknown!r} cannot be changed while a job runs; {', '.join(SETTING_NAMES)} can")
        if not changes:
            raise UsageError(f"nothing to change was given: {', '.join(SETTING_NAMES)}")
        now = {name: getattr(settings, name) or "auto" for name in ("streams", "batch_bytes", "window")}
        now |= {name: getattr(settings, name) for name in SETTING_NAMES if name not in now}
        now["max_streams"] = self.max_streams
        checked = MigrationOptions.checked(**(now | changes))
        checked.check_memory(source)
        return {name: getattr(checked, name) for name in changes}

    @property
    def most_streams(self) -> int:
        """That there may be at once."""
        return self.streams or self.most_auto_streams

    @property
    def most_auto_streams(self) -> int:
        """That `auto` may choose."""
        return self.max_streams or AUTO_MAX_STREAMS


def _shown(name: str, command_line: str | None) -> str:
    """Both spellings of an option where one does not follow from the other."""
    if not command_line:
        return name
    return command_line if command_line == "--" + name.replace("_", "-") else f"{command_line} ({name})"
