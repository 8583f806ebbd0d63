"""Options that several commands take alike."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from kvbatch.options import MAX_STREAMS, TARGET_COMPRESSIONS

__all__ = [
    "BatchOption",
    "CheckOption",
    "CompressionChoice",
    "CompressionOption",
    "FamilyOption",
    "JobArgument",
    "JobOption",
    "JsonOption",
    "LaneChoice",
    "LaneOption",
    "LinkOption",
    "MaxStreamsOption",
    "MemoryOption",
    "MetricsOption",
    "NamespaceOption",
    "NonemptyOption",
    "OverwriteOption",
    "ProgressChoice",
    "ProgressOption",
    "RangeOption",
    "RateOption",
    "ReadRateOption",
    "RetriesOption",
    "ScheduleOption",
    "SlotsOption",
    "SourceArgument",
    "StateOption",
    "StreamsOption",
    "TargetArgument",
    "TargetCompressionOption",
    "TimeoutOption",
    "WindowOption",
    "read_path",
]


def read_path(text: str) -> Path:
    """An empty one, as from an unset variable, would be the working directory."""
    if not text:
        raise typer.BadParameter("an empty path names no directory")
    return Path(text)


JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, as `kvbatch status` shows it.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object on stdout; an error prints none.")
]
StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        parser=read_path,
        metavar="PATH",
        help="Where the sender keeps its jobs (default: the XDG state directory).",
    ),
]


class ProgressChoice(StrEnum):
    AUTO = "auto"
    BAR = "bar"
    PLAIN = "plain"
    JSON = "json"
    NONE = "none"


class LaneChoice(StrEnum):
    AUTO = "auto"
    BATCH = "batch"
    SST = "sst"
    FILES = "files"


class CompressionChoice(StrEnum):
    AUTO = "auto"
    LZ4 = "lz4"
    ZSTD = "zstd"
    NONE = "none"


def _one_of(choices: type[StrEnum], help_: str) -> Any:
    """As typer reads an enumeration by itself, but for how its complaint begins."""
    values = [choice.value for choice in choices]

    def parse(text: str) -> StrEnum:
        if text not in values:
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(values)}")
        return choices(text)

    return typer.Option(parser=parse, metavar=f"[{'|'.join(values)}]", help=help_)


SourceArgument = Annotated[str, typer.Argument(metavar="SOURCE", help="A RocksDB directory: PATH or rocksdb:PATH.")]
TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="TARGET", help="PATH, rocksdb:PATH, kvbatch://host:port/NAME or kvrocks://[:PASSWORD@]host:port."
    ),
]
ProgressOption = Annotated[ProgressChoice, _one_of(ProgressChoice, "What to show on stderr.")]
LaneOption = Annotated[LaneChoice, _one_of(LaneChoice, "How bytes travel.")]
StreamsOption = Annotated[
    str | None,
    typer.Option(
        metavar="N", help=f"Ranges moved at once: auto, or 1 to {MAX_STREAMS} (default: the cores, 4 at most)."
    ),
]
MaxStreamsOption = Annotated[
    int | None,
    typer.Option(help="Most ranges moved at once, so most connections to one target (default: 8 with --streams auto)."),
]
CompressionOption = Annotated[CompressionChoice, _one_of(CompressionChoice, "Compression on the wire.")]
TargetCompressionOption = Annotated[
    str,
    typer.Option(help=f"Compression of the target's files: auto (as the source), {', '.join(TARGET_COMPRESSIONS)}."),
]
MemoryOption = Annotated[str, typer.Option(help="Memory for frames on this side, like 256MiB or 1GiB.")]
BatchOption = Annotated[str, typer.Option(help="Bytes in a batch: auto, or 4KiB to 64MiB.")]
WindowOption = Annotated[str, typer.Option(help="Frames in flight per stream: auto, or 1 to 1024.")]
RateOption = Annotated[
    str,
    typer.Option(
        metavar="RATE", help="Most bytes a second on the wire, like 20MiB/s, 64KiB/s at least; 0 for no limit."
    ),
]
ScheduleOption = Annotated[
    str | None,
    typer.Option(metavar="SCHEDULE", help="The same by local time of day, like 09:00-18:00=20MiB/s,*=0."),
]
ReadRateOption = Annotated[
    str,
    typer.Option(
        "--max-source-read-rate", metavar="RATE", help="Most bytes a second read of the source's files; 0 for no limit."
    ),
]
CheckOption = Annotated[
    str | None,
    typer.Option(
        metavar="CHECK",
        help="A shell command or URL asked every second; unless it exits 0, or answers 2xx, the job waits.",
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        help="How long a receiver may say nothing before the connection counts as broken: 1 to 86400.",
    ),
]
FamilyOption = Annotated[
    list[str] | None, typer.Option("--cf", metavar="NAME", help="Only this column family; may be repeated.")
]
RangeOption = Annotated[
    str | None, typer.Option("--range", metavar="HEX..HEX", help="Only keys in [start, end); either side may be empty.")
]
SlotsOption = Annotated[
    str | None,
    typer.Option("--slots", metavar="SLOTS", help="Only these slots of a Kvrocks directory, like 0-100,200."),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option("--namespace", metavar="NS", help="Only this namespace of a Kvrocks directory."),
]
JobOption = Annotated[str | None, typer.Option(help="Job id (default: made from source, target and selection).")]
NonemptyOption = Annotated[
    bool, typer.Option("--allow-nonempty", help="Write into a target that holds other data; its other keys stay.")
]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Delete first what a Kvrocks server holds in the slots or namespaces that go there."
    ),
]
LinkOption = Annotated[
    bool, typer.Option("--link", help="With --lane files: hard links of the files that are never written again.")
]
RetriesOption = Annotated[
    int, typer.Option(help="Retries in a row without progress before giving up with exit 75; 0: none.")
]
MetricsOption = Annotated[
    str | None,
    typer.Option("--metrics-listen", metavar="HOST:PORT", help="Serve Prometheus metrics; port 0 takes a free one."),
]
