"""A job over a link between two real processes, each of which may die: what the fault tests share."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rocksdict

import kvbatch
from support.link import Link, Passing, Trap
from support.processes import Child, Processes
from support.stores import copy_open_store, raw_options, read_store
from support.tables import table_options_of

__all__ = [
    "GRAFT_BYTES",
    "KIB",
    "MOST_GRAFT_BYTES",
    "OVER",
    "SOURCE_BYTES",
    "Pieces",
    "Route",
    "chance",
    "check_done",
    "check_equal",
    "cut_while_it_is_sent",
    "make_source",
]

KIB = 1 << 10
DEFAULT_ENTRIES = 120_000
FAMILY_ENTRIES = 20_000
# About that many in keys and values.
SOURCE_BYTES = 15_000_000
# Files of the source of so many bytes can be moved whole; with what stands over it none makes a range of more.
GRAFT_BYTES = 128 * KIB
MOST_GRAFT_BYTES = 352 * KIB
# What stands over them: values as large as those below.
OVER = b"over" * 25
# Of the files that are built here, as the source's options say.
BLOCK_BYTES = 4 * KIB

_SEED = os.environ.get("KVBATCH_FAULT_SEED") or str(random.SystemRandom().randrange(1_000_000))


def chance(name: object) -> random.Random:
    """The random choices of one test; the same environment variable makes them the same again."""
    print(f"KVBATCH_FAULT_SEED={_SEED} makes these choices again")
    return random.Random(f"{_SEED}/{name}")


def make_source(path: Path) -> Path:
    """A store of three families, one of them empty, 15 MB of keys and values.

    The first family is some fifty files of which most can be moved as they are. In the order of their keys: eighteen
    have nothing over them, twelve something in files, four too much, eight something in the WAL alone, the others
    nothing again. What stands over them takes away as many entries as it adds."""
    written = path.with_name(path.name + ".open")
    store = rocksdict.Rdict(str(written), table_options_of(256 * KIB))
    noise = random.Random(path.name)
    keys = [b"%016x" % (number << 40) for number in range(DEFAULT_ENTRIES)]
    # Files that overlap are merged instead of just moved, which leaves sequence numbers alone.
    for some in (keys[::2], keys[1::2]):
        for key in some:
            store[key] = noise.randbytes(50) + b"the quick brown fox jumps over the lazy dog; 50 by"
        store.flush()
    store.compact_range(None, None)
    last_keys = sorted(bytes(file["end_key"]) for file in store.live_files())
    ends = [keys.index(last) + 1 for last in last_keys]
    _write_over(store, keys[ends[17] : ends[29]], every=20)
    store.flush()
    _write_over(store, keys[ends[29] : ends[33]], every=3)
    store.flush()
    # The bounds are in bytes of keys and values, of which a piece of a built file holds no more than it is long: it is
    # not compressed, and what a key shares with the one before, which a file leaves out, is less than what it adds.
    users = store.create_column_family("users", table_options_of(256 * KIB))
    for number in range(FAMILY_ENTRIES):
        users[b"%08d-user" % number] = b"%d" % number * 10
    users.flush()
    store.create_column_family("empty", raw_options())
    _write_over(store, keys[ends[33] : ends[41]], every=40)
    copy_open_store(store, written, path)
    del users
    store.close()
    shutil.rmtree(written)
    return path


def _write_over(store: rocksdict.Rdict, keys: list[bytes], *, every: int) -> None:
    """Overwrites, deletes and puts between them one of so many keys each."""
    for number in range(0, len(keys) - 2, every):
        store[keys[number]] = OVER
        del store[keys[number + 1]]
        store[keys[number + 2] + b"-new"] = OVER


@dataclass(frozen=True)
class Pieces:
    """The sizes that bound what may have to be sent again."""

    batch_bytes: int = 32 * KIB
    window: int = 4
    streams: int = 2
    sst_file_bytes: int = 512 * KIB
    range_bytes: int = 1536 * KIB
    lane: str = "batch"
    # In the lane `sst`: whether files of the source are moved as they are, or the sender builds all of them.
    grafts: bool = False
    # A file of the source travels in pieces of so many bytes.
    piece_bytes: int = 64 * KIB
    compression: str = "auto"

    @staticmethod
    def drawn(draw: random.Random, *, grafts: bool = False) -> Pieces:
        return Pieces(
            batch_bytes=draw.choice([16, 32, 64, 128]) * KIB,
            window=draw.choice([1, 2, 4, 8]),
            streams=draw.choice([1, 2, 3, 4]),
            sst_file_bytes=draw.choice([256, 512, 1024, 8192]) * KIB,
            range_bytes=draw.choice([512, 1024, 2048, 65536]) * KIB,
            lane="sst" if grafts else draw.choice(["batch", "sst"]),
            grafts=grafts,
            piece_bytes=draw.choice([16, 64, 8192]) * KIB,
        )

    @property
    def arguments(self) -> list[str]:
        sizes = [f"--batch-size={self.batch_bytes}", f"--window={self.window}", f"--streams={self.streams}"]
        sizes.append(f"--compression={self.compression}")
        builds = self.lane == "sst" and not self.grafts
        return [
            *sizes,
            f"--lane={self.lane}",
            f"--compression={self.compression}",
            *(["--target-compression=none"] if builds else []),
        ]

    @property
    def environment(self) -> dict[str, str]:
        sizes = {"RANGE_BYTES": self.range_bytes, "SST_FILE_BYTES": self.sst_file_bytes, "GRAFT_BYTES": GRAFT_BYTES}
        # In the lane `files` both sides must think the same of it.
        if self.grafts:
            sizes["PIECE_BYTES"] = self.piece_bytes
        return {f"KVBATCH_TEST_{name}": str(size) for name, size in sizes.items()}

    @property
    def frame_bytes(self) -> int:
        """The most that a frame carries."""
        return max(self.batch_bytes, min(self.piece_bytes, MOST_GRAFT_BYTES)) if self.grafts else self.batch_bytes

    @property
    def windows(self) -> int:
        """What a sender may have under way; one that dies loses no more. Of a file that is built again the target does
        not trust its last 16 KiB, the whole piece counts in which the rest ends, and with the newest piece the block
        that was being filled behind it."""
        again = self.frame_bytes + BLOCK_BYTES if self.lane == "sst" else 0
        return self.streams * (self.window * self.frame_bytes + again)

    @property
    def unfinished_files(self) -> int:
        """What a receiver that dies may lose besides the window: one file a stream. With what lies over it a file of
        the source is two: the end of one may be under way while the next one comes."""
        return self.streams * self._file_bytes * (2 if self.grafts else 1)

    @property
    def _file_bytes(self) -> int:
        # A file is full behind the batch that fills it, and the block that it is in.
        built = self.sst_file_bytes + self.batch_bytes + 64 * KIB
        return max(built, MOST_GRAFT_BYTES) if self.grafts else built


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

    def copy_source(self) -> Path:
        """Of its own from now on: other tests use the one there was."""
        self.source = Path(shutil.copytree(self.source, self.root.parent / "own"))
        return self.source

    def start_receiver(self) -> None:
        """Again on the same root and port."""
        self.receiver, _ = self.processes.serve(self.root, self.port)


def cut_while_it_is_sent(route: Route, table: Path, when: Callable[[Passing], bool], *arguments: object) -> None:
    """Truncates a file of the source at that moment, which the command must end with, naming it; mends it again."""
    content = table.read_bytes()

    def cut(passing: Passing) -> bytes:
        os.truncate(table, len(content) // 2)
        return passing.data

    route.link.hook = Trap(when, cut)
    sender = route.migrate(*arguments)
    assert sender.wait() == 1
    assert str(table) in sender.errors
    table.write_bytes(content)


def check_equal(source: Path, target: Path, *, read_back: bool = False) -> None:
    """By digests, and entry by entry with a RocksDB that is not ours where that is asked for."""
    report = kvbatch.verify(str(source), str(target))
    assert not report.unfinished
    assert report.equal, report
    assert report.entries_source == report.entries_target == DEFAULT_ENTRIES + FAMILY_ENTRIES
    if read_back:
        assert read_store(target) == read_store(source)


def check_done(summary: dict[str, Any], *, resumed: bool | None = None) -> None:
    assert summary["state"] == "done"
    assert summary["entries"] == DEFAULT_ENTRIES + FAMILY_ENTRIES
    if resumed is not None:
        assert summary["resumed"] is resumed
