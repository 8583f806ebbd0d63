"""The end-to-end bench: whole migrations against their stages alone and against a rocksdict loop, in one run.

    python bench/end_to_end.py --json out.json [--entries 5000000] [--rounds 3] [--skip-large]

Every round measures everything once, one thing after the other, on fresh targets; a ratio is taken within a round and
the median over the rounds is what is reported. Rates are millions of entries a second. The source is in the page cache.
The lane is `batch`, whose stages these are; figures with `_auto` are of the lane that `migrate` chooses by itself.
What a slow disk hides is measured once more where files live in memory (--memory-directory): figures ending in
_in_memory. `disk_write` is the rate at which the disk takes the bare bytes of the entries, synced at the end: no copy
of uncompressed entries can be faster there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import rocksdict

import kvbatch
from kvbatch._core.base import core_cpu_seconds
from kvbatch._core.codec import Codec
from kvbatch._core.frame import BufferPool, Frame
from kvbatch._core.store import (
    ROCKSDB_VERSION,
    ApplyMode,
    ColumnFamilyDescription,
    Cursor,
    RangeApplier,
    RangeReader,
    SourceStore,
    StopReason,
    TargetStore,
    write_sample_store,
)
from kvbatch.demo import receiver_process

MIB = 1 << 20
BATCH_BYTES = 2 * MIB
ROCKSDICT_BATCH = 1000


def peak_rss(pid: int | str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def reset_peak_rss() -> None:
    """Makes VmHWM count from now on; where the kernel refuses, it stays a larger, thus stricter, figure."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class Bench:
    def __init__(self, folder: Path, entries: int) -> None:
        self.folder = folder
        self.entries = entries
        self.source = folder / "source"
        self.target = folder / "target"
        self.runs = 0

    def make_source(self) -> None:
        write_sample_store(str(self.source), entries=self.entries)

    @contextlib.contextmanager
    def fresh_target(self) -> Iterator[Path]:
        self._remove_target()
        # What the last measurement left to the disk is not this one's to pay.
        os.sync()
        yield self.target
        self._remove_target()

    def _remove_target(self) -> None:
        if self.target.is_file():
            self.target.unlink()
        shutil.rmtree(self.target, ignore_errors=True)

    def rate(self, seconds: float) -> float:
        return self.entries / seconds / 1e6

    def disk_write(self) -> float:
        """The bytes of the entries alone, written and synced."""
        chunk = os.urandom(MIB)
        total = self.entries * (16 + 100)
        with self.fresh_target() as path:
            began = time.perf_counter()
            with path.open("wb", buffering=0) as file:
                for _ in range(-(-total // MIB)):
                    file.write(chunk)
                os.fsync(file.fileno())
            return self.rate(time.perf_counter() - began)

    # -- stages alone, one thread --------------------------------------------------------------------------------------

    def iterate_and_pack(self) -> float:
        store = SourceStore(str(self.source))
        frame = Frame(BufferPool(64 * MIB))
        began = time.perf_counter()
        reader = RangeReader(store, "default", None, None)
        entries = 0
        while True:
            filled = reader.fill(frame, BATCH_BYTES, Codec.NONE)
            entries += filled.entries
            if filled.stop == StopReason.END:
                break
        seconds = time.perf_counter() - began
        assert entries == self.entries
        return self.rate(seconds)

    def build_and_ingest(self, compression: str) -> float:
        """SST build and ingest of ready frames, durable at the end."""
        store = SourceStore(str(self.source))
        reader = RangeReader(store, "default", None, None)
        pool = BufferPool(4096 * MIB)
        frames = []
        while True:
            frame = Frame(pool)
            filled = reader.fill(frame, BATCH_BYTES, Codec.NONE)
            frames.append(frame)
            if filled.stop == StopReason.END:
                break
        with self.fresh_target() as path:
            target = TargetStore(str(path))
            family = target.ensure_family(ColumnFamilyDescription("default", compression=compression))
            began = time.perf_counter()
            applier = RangeApplier(target, family, None, None, ApplyMode.INGEST, Cursor(0))
            for frame in frames:
                applier.apply(frame)
            applied = applier.applied
            applier.finish(applied.entries, applied.raw_bytes, applied.digest)
            applier.drain()
            seconds = time.perf_counter() - began
            assert applied.entries == self.entries
            del applier
            target.close()
        return self.rate(seconds)

    # -- the whole way -------------------------------------------------------------------------------------------------

    def _migrate(self, target: str, **options: Any) -> kvbatch.Summary:
        self.runs += 1
        # The stages are those of this lane.
        options = {"compression": "none", "lane": "batch", **options}
        migration = kvbatch.migrate(self.source, target, state_dir=self.folder / f"state-{self.runs}", **options)
        summary = migration.wait()
        assert summary.entries == self.entries
        return summary

    def over_loopback(self, **options: Any) -> dict[str, float]:
        """Directory → receiver in a process of its own → directory."""
        reset_peak_rss()
        with self.fresh_target() as path, receiver_process(path) as (process, port):
            summary = self._migrate(f"kvbatch://127.0.0.1:{port}/copy", **options)
            receiver_rss = peak_rss(process.pid)
        return {
            "rate": self.rate(summary.seconds),
            "sender_rss_mib": summary.peak_rss_bytes / MIB,
            "receiver_rss_mib": receiver_rss / MIB,
        }

    def in_process(self, **options: Any) -> float:
        with self.fresh_target() as path:
            return self.rate(self._migrate(str(path), **options).seconds)

    def verify(self) -> float:
        with self.fresh_target() as path:
            self._migrate(str(path))
            began = time.perf_counter()
            report = kvbatch.verify(str(self.source), str(path))
            seconds = time.perf_counter() - began
            assert report.equal
            assert report.entries_source == self.entries
        return self.rate(seconds)

    def rocksdict_loop(self) -> float:
        """What a script around a RocksDB binding does: iterate, write batches of 1000, flush."""
        with self.fresh_target() as path:
            options = rocksdict.Options(raw_mode=True)
            began = time.perf_counter()
            source = rocksdict.Rdict(str(self.source), options, access_type=rocksdict.AccessType.read_only())
            target = rocksdict.Rdict(str(path), options)
            batch = rocksdict.WriteBatch(raw_mode=True)
            entries = 0
            for key, value in source.items():
                batch.put(key, value)
                entries += 1
                if len(batch) >= ROCKSDICT_BATCH:
                    target.write(batch)
                    batch = rocksdict.WriteBatch(raw_mode=True)
            target.write(batch)
            target.flush()
            seconds = time.perf_counter() - began
            source.close()
            target.close()
            assert entries == self.entries
        return self.rate(seconds)

    def python_share(self) -> float:
        """Python's share of the sender's CPU time during a migration over loopback, in a process of its own, as a
        sender is one: what RocksDB's threads still do here for the stages before would be counted as Python's."""
        return run_in_child(["--share-only", str(self.source), "--entries", str(self.entries)])["python_share"]

    def share_here(self) -> float:
        """The core adds up the CPU time of each thread in its calls (CLOCK_THREAD_CPUTIME_ID, once the GIL is released
        and before it is taken again); all other CPU time of the process from the call of `migrate` to the end of `wait`
        is Python's, converting arguments and waking up for the GIL included. Starting and importing is left out.
        """
        with self.fresh_target() as path, receiver_process(path) as (_, port):
            total, core = time.process_time(), core_cpu_seconds()
            self._migrate(f"kvbatch://127.0.0.1:{port}/copy")
            total, core = time.process_time() - total, core_cpu_seconds() - core
        return 1 - core / total


def one_round(bench: Bench) -> dict[str, Any]:
    loopback, loopback_lz4 = bench.over_loopback(), bench.over_loopback(target_compression="lz4")
    unasked = bench.over_loopback(lane="auto")
    figures = {
        "disk_write": bench.disk_write(),
        "iterate_and_pack": bench.iterate_and_pack(),
        "build_and_ingest": bench.build_and_ingest("none"),
        "build_and_ingest_lz4": bench.build_and_ingest("lz4"),
        "loopback": loopback["rate"],
        "loopback_lz4": loopback_lz4["rate"],
        "loopback_auto": unasked["rate"],
        "in_process": bench.in_process(),
        "in_process_lz4": bench.in_process(target_compression="lz4"),
        "in_process_auto": bench.in_process(lane="auto"),
        "rocksdict_loop": bench.rocksdict_loop(),
        "verify": bench.verify(),
        "python_share": bench.python_share(),
    }
    slowest = min(figures["iterate_and_pack"], figures["build_and_ingest"])
    slowest_lz4 = min(figures["iterate_and_pack"], figures["build_and_ingest_lz4"])
    figures |= {
        "loopback_to_slowest_stage": figures["loopback"] / slowest,
        "loopback_lz4_to_slowest_stage": figures["loopback_lz4"] / slowest_lz4,
        "in_process_to_slowest_stage": figures["in_process"] / slowest,
        "in_process_lz4_to_slowest_stage": figures["in_process_lz4"] / slowest_lz4,
        "loopback_to_rocksdict": figures["loopback"] / figures["rocksdict_loop"],
        "in_process_to_rocksdict": figures["in_process"] / figures["rocksdict_loop"],
        "loopback_auto_to_rocksdict": figures["loopback_auto"] / figures["rocksdict_loop"],
        "in_process_auto_to_rocksdict": figures["in_process_auto"] / figures["rocksdict_loop"],
        "loopback_to_disk_write": figures["loopback"] / figures["disk_write"],
    }
    return figures


def in_memory(bench: Bench) -> dict[str, float]:
    """One round of what is compared with the rocksdict loop, on a file system in memory."""
    figures = {
        "loopback": bench.over_loopback()["rate"],
        "in_process": bench.in_process(),
        "loopback_auto": bench.over_loopback(lane="auto")["rate"],
        "in_process_auto": bench.in_process(lane="auto"),
        "rocksdict_loop": bench.rocksdict_loop(),
    }
    figures |= {f"{way}_to_rocksdict": rate / figures["rocksdict_loop"] for way, rate in figures.items()}
    del figures["rocksdict_loop_to_rocksdict"]
    return {f"{name}_in_memory": figure for name, figure in figures.items()}


# name: (bar, whether the figure must be at least that, or at most)
BARS = {
    "loopback_to_slowest_stage": (0.8, "at least"),
    "loopback_lz4_to_slowest_stage": (0.8, "at least"),
    "in_process_to_slowest_stage": (0.8, "at least"),
    "in_process_lz4_to_slowest_stage": (0.8, "at least"),
    "loopback_to_rocksdict": (4.0, "at least"),
    "in_process_to_rocksdict": (4.0, "at least"),
    "loopback_auto_to_rocksdict": (4.0, "at least"),
    "in_process_auto_to_rocksdict": (4.0, "at least"),
    "loopback_to_rocksdict_in_memory": (4.0, "at least"),
    "in_process_to_rocksdict_in_memory": (4.0, "at least"),
    "loopback_auto_to_rocksdict_in_memory": (4.0, "at least"),
    "in_process_auto_to_rocksdict_in_memory": (4.0, "at least"),
    "verify": (4.0, "at least"),
    "python_share": (0.05, "at most"),
    "sender_rss_mib": (400.0, "at most"),
    "receiver_rss_mib": (400.0, "at most"),
    "large_sender_rss_to_small": (1.1, "at most"),
    "large_receiver_rss_to_small": (1.1, "at most"),
}


def run_in_child(arguments: list[str]) -> dict[str, Any]:
    """A run of this file in a process of its own, so that its peak memory is its own."""
    import subprocess

    command = [sys.executable, __file__, *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def memory_only(folder: Path, entries: int) -> dict[str, float]:
    bench = Bench(folder, entries)
    # In a process of its own: what RocksDB's compactions leave on the heap is not the migration's memory.
    writer = multiprocessing.get_context("spawn").Process(target=bench.make_source)
    writer.start()
    writer.join()
    assert writer.exitcode == 0
    return bench.over_loopback()


def share_only(source: Path, entries: int) -> dict[str, float]:
    with scratch(source.parent) as folder:
        (folder / "small").mkdir()
        small = Bench(folder / "small", 1000)
        small.make_source()
        small.over_loopback()  # everything is imported behind it
        bench = Bench(folder, entries)
        bench.source = source
        return {"python_share": statistics.median(bench.share_here() for _ in range(3))}


def small_and_large(arguments: list[str], entries: int) -> dict[str, float]:
    """One round. Part of what a job takes are its batches, whose size adapts: to a large job more often."""
    small = run_in_child([*arguments, "--entries", str(entries)])
    large = run_in_child([*arguments, "--entries", str(5 * entries)])
    figures = {"large_loopback": 5 * large["rate"]}
    for side in ("sender", "receiver"):
        figures[f"{side}_rss_mib"] = small[f"{side}_rss_mib"]
        figures[f"large_{side}_rss_mib"] = large[f"{side}_rss_mib"]
        figures[f"large_{side}_rss_to_small"] = large[f"{side}_rss_mib"] / small[f"{side}_rss_mib"]
    print(", ".join(f"{k} {v:.3g}" for k, v in figures.items()), file=sys.stderr)
    return figures


@contextlib.contextmanager
def scratch(directory: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kvbatch-bench-", dir=directory) as folder:
        yield Path(folder)


def measure(
    directory: Path | None, entries: int, rounds: int, one: Callable[[Bench], dict[str, Any]]
) -> list[dict[str, Any]]:
    """`rounds` rounds on a fresh source in `directory`."""
    measured = []
    with scratch(directory) as folder:
        bench = Bench(folder, entries)
        bench.make_source()
        bench.in_process()  # fills the page cache, and the disk's too
        for number in range(rounds):
            measured.append(one(bench))
            print(f"round {number + 1}: " + ", ".join(f"{k} {v:.3g}" for k, v in measured[-1].items()), file=sys.stderr)
    return measured


def medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--entries", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip-large", action="store_true", help="leave out the job five times as large")
    parser.add_argument("--directory", type=Path, help="work on this file system (default: the temporary directory)")
    parser.add_argument("--memory-directory", type=Path, default=Path("/dev/shm"), help="a file system in memory")
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--share-only", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    if arguments.share_only:
        print(json.dumps(share_only(arguments.share_only, arguments.entries)))
        return
    if arguments.memory_only:
        with scratch(arguments.directory) as folder:
            print(json.dumps(memory_only(folder, arguments.entries)))
        return
    rounds = measure(arguments.directory, arguments.entries, arguments.rounds, one_round)
    figures = medians(rounds)
    rounds_in_memory = measure(arguments.memory_directory, arguments.entries, arguments.rounds, in_memory)
    figures |= medians(rounds_in_memory)
    if not arguments.skip_large:
        base = ["--memory-only"] + (["--directory", str(arguments.directory)] if arguments.directory else [])
        figures |= medians([small_and_large(base, arguments.entries) for _ in range(arguments.rounds)])

    result = {
        "entries": arguments.entries,
        "rocksdb": ROCKSDB_VERSION,
        "machine": {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version()},
        "medians": figures,
        "rounds": rounds,
        "rounds_in_memory": rounds_in_memory,
        "bars": {
            name: {
                "figure": figures[name],
                "bar": bar,
                "kind": kind,
                "reached": figures[name] >= bar if kind == "at least" else figures[name] <= bar,
            }
            for name, (bar, kind) in BARS.items()
            if name in figures
        },
    }
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    for name, bar in result["bars"].items():
        print(f"{name:32} {bar['figure']:8.3f}  {bar['kind']} {bar['bar']}  {'ok' if bar['reached'] else 'MISSED'}")


if __name__ == "__main__":
    main()
