"""A job over a link between two real processes, each of which may die: what the fault tests share."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rocksdict

import kvbatch
from kvbatch._core.store import write_sample_store
from support.link import Link
from support.processes import Child, Processes
from support.stores import raw_options, read_store

__all__ = ["KIB", "SOURCE_BYTES", "Pieces", "Route", "chance", "check_done", "check_equal", "make_source"]

KIB = 1 << 10
SAMPLE_ENTRIES = 120_000
FAMILY_ENTRIES = 20_000
# About that many in keys and values.
SOURCE_BYTES = 15_000_000

_SEED = os.environ.get("KVBATCH_FAULT_SEED") or str(random.SystemRandom().randrange(1_000_000))


def chance(name: object) -> random.Random:
    """The random choices of one test; the same environment variable makes them the same again."""
    print(f"KVBATCH_FAULT_SEED={_SEED} makes these choices again")
    return random.Random(f"{_SEED}/{name}")


def make_source(path: Path) -> Path:
    """A store of three families, one of them empty, 15 MB of keys and values."""
    write_sample_store(str(path), entries=SAMPLE_ENTRIES)
    store = rocksdict.Rdict(str(path), raw_options())
    users = store.create_column_family("users", raw_options())
    for number in range(FAMILY_ENTRIES):
        users[b"user-%08d" % number] = b"%d" % number * 10
    users.flush()
    store.create_column_family("empty", raw_options())
    del users
    store.close()
    return path


@dataclass(frozen=True)
class Pieces:
    """The sizes that bound what may have to be sent again."""

    batch_bytes: int = 32 * KIB
    window: int = 4
    streams: int = 2
    sst_file_bytes: int = 512 * KIB
    range_bytes: int = 1536 * KIB
    # In the lane `sst` the sender builds every file: none of the source's own is moved.
    lane: str = "batch"

    @staticmethod
    def drawn(draw: random.Random) -> Pieces:
        return Pieces(
            batch_bytes=draw.choice([16, 32, 64, 128]) * KIB,
            window=draw.choice([1, 2, 4, 8]),
            streams=draw.choice([1, 2, 3, 4]),
            sst_file_bytes=draw.choice([256, 512, 1024, 8192]) * KIB,
            range_bytes=draw.choice([512, 1024, 2048, 65536]) * KIB,
            lane=draw.choice(["batch", "sst"]),
        )

    @property
    def arguments(self) -> list[str]:
        sizes = [f"--batch-size={self.batch_bytes}", f"--window={self.window}", f"--streams={self.streams}"]
        return [*sizes, f"--lane={self.lane}", *(["--target-compression=none"] if self.lane == "sst" else [])]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "KVBATCH_TEST_RANGE_BYTES": str(self.range_bytes),
            "KVBATCH_TEST_SST_FILE_BYTES": str(self.sst_file_bytes),
        }

    @property
    def windows(self) -> int:
        """What a sender may have under way; one that dies loses no more, but for the part of a file that had come."""
        return self.streams * self.window * self.batch_bytes + (self.unfinished_files if self.lane == "sst" else 0)

    @property
    def unfinished_files(self) -> int:
        """What a receiver that dies may lose besides the window: one file a stream."""
        # A file is full behind the batch that fills it, and the block that it is in.
        return self.streams * (self.sst_file_bytes + self.batch_bytes + 64 * KIB)


@dataclass
class Route:
    """Source → sender → link → receiver → `root`/`name`."""

    processes: Processes
    source: Path
    root: Path
    receiver: Child
    port: int
    pieces: Pieces = field(default_factory=Pieces)
    name: str = "copy"
    link: Link = field(init=False)

    def __post_init__(self) -> None:
        self.processes.environment.update(self.pieces.environment)
        self.link = Link(self.port)

    @property
    def copy(self) -> Path:
        return self.root / self.name

    def endpoint(self, name: str | None = None) -> str:
        return f"kvbatch://127.0.0.1:{self.link.port}/{name or self.name}"

    def direct_endpoint(self) -> str:
        """Past the link."""
        return f"kvbatch://127.0.0.1:{self.port}/{self.name}"

    def migrate(self, *arguments: object, name: str | None = None, state: str = "state") -> Child:
        return self.processes.migrate(self.source, self.endpoint(name), *self.pieces.arguments, *arguments, state=state)

    def start_receiver(self) -> None:
        """Again on the same root and port."""
        self.receiver, _ = self.processes.serve(self.root, self.port)


def check_equal(source: Path, target: Path, *, read_back: bool = False) -> None:
    """By digests, and entry by entry with a RocksDB that is not ours where that is asked for."""
    report = kvbatch.verify(str(source), str(target))
    assert not report.unfinished
    assert report.equal, report
    assert report.entries_source == report.entries_target == SAMPLE_ENTRIES + FAMILY_ENTRIES
    if read_back:
        assert read_store(target) == read_store(source)


def check_done(summary: dict[str, Any], *, resumed: bool | None = None) -> None:
    assert summary["state"] == "done"
    assert summary["entries"] == SAMPLE_ENTRIES + FAMILY_ENTRIES
    if resumed is not None:
        assert summary["resumed"] is resumed
