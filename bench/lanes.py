"""The lanes against each other over loopback: rates, CPU time of both sides and memory, in one run.

    python bench/lanes.py --json out.json [--entries 5000000] [--rounds 3] [--directory /dev/shm]

Every round moves the same source once in each way, each time into a fresh target behind a receiver in a process of its
own, and once each `cp -r` of the source and a bare sendfile over loopback. A ratio is taken within a round; medians
over the rounds are what is reported. CPU seconds are user and system time of each process (/proc/PID/stat), from the
call of `migrate` to its end; GB are the bytes of keys and values.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rocksdict
from end_to_end import MIB, peak_rss, reset_peak_rss

import kvbatch
from kvbatch._core.store import write_sample_store
from kvbatch.demo import receiver_process

_TICKS = os.sysconf("SC_CLK_TCK")
_NEVER = 1 << 50


def cpu_seconds(pid: int | str) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@dataclass
class Way:
    """One way to move a source: options of `migrate`."""

    options: dict[str, Any]
    key_range: kvbatch.KeyRange = field(default_factory=kvbatch.KeyRange)


class LaneBench:
    def __init__(self, folder: Path, entries: int) -> None:
        self.folder = folder
        self.entries = entries
        self.runs = 0

    def source(self, name: str, **options: Any) -> Path:
        path = self.folder / name
        if not path.exists():
            write_sample_store(str(path), entries=self.entries, **options)
        return path

    def with_overlay(self) -> Path:
        """Every tenth entry written anew, in files above those of the last level."""
        path = self.folder / "overlaid"
        if not path.exists():
            shutil.copytree(self.source("plain"), path)
            options = rocksdict.Options(raw_mode=True)
            options.set_disable_auto_compactions(True)
            options.set_compression_type(rocksdict.DBCompressionType.none())
            store = rocksdict.Rdict(str(path), options)
            batch = rocksdict.WriteBatch(raw_mode=True)
            for number, (key, value) in enumerate(store.items()):
                if number % 10 == 0:
                    batch.put(key, value[::-1])
                if len(batch) >= 10_000:
                    store.write(batch)
                    batch = rocksdict.WriteBatch(raw_mode=True)
            store.write(batch)
            store.flush()
            store.close()
        return path

    def middle(self, source: Path) -> kvbatch.KeyRange:
        """Half of the key space of a sample store, whose keys are decimal numbers scattered over it."""
        keys = [part.start for part in kvbatch.plan(source, self.folder / "none", lane="batch").ranges if part.start]
        return kvbatch.KeyRange(keys[len(keys) // 4], keys[3 * len(keys) // 4])

    def move(self, source: Path, way: Way) -> dict[str, float]:
        self.runs += 1
        target = self.folder / "target"
        shutil.rmtree(target, ignore_errors=True)
        os.sync()
        reset_peak_rss()
        with receiver_process(target) as (process, port):
            sender, receiver = cpu_seconds("self"), cpu_seconds(process.pid)
            summary = kvbatch.migrate(
                source,
                f"kvbatch://127.0.0.1:{port}/copy",
                compression="none",
                key_range=way.key_range,
                state_dir=self.folder / f"state-{self.runs}",
                **way.options,
            ).wait()
            sender, receiver = cpu_seconds("self") - sender, cpu_seconds(process.pid) - receiver
            receiver_rss = peak_rss(process.pid)
        gigabytes = summary.raw_bytes / 1e9
        shutil.rmtree(target, ignore_errors=True)
        return {
            "entries_per_second": summary.entries / summary.seconds,
            "megabytes_per_second": summary.raw_bytes / summary.seconds / 1e6,
            "sender_cpu_seconds_per_gigabyte": sender / gigabytes,
            "receiver_cpu_seconds_per_gigabyte": receiver / gigabytes,
            "cpu_microseconds_per_entry": 1e6 * (sender + receiver) / summary.entries,
            "sender_rss_mib": peak_rss("self") / MIB,
            "receiver_rss_mib": receiver_rss / MIB,
        }

    def copy(self, source: Path) -> float:
        """Bytes of the store's files a second through `cp -r`, synced."""
        target = self.folder / "cp"
        shutil.rmtree(target, ignore_errors=True)
        os.sync()
        began = time.perf_counter()
        subprocess.run(["cp", "-r", source, target], check=True)
        subprocess.run(["sync", "-f", target], check=True)
        seconds = time.perf_counter() - began
        shutil.rmtree(target)
        return stored_bytes(source) / seconds / 1e6

    def loopback(self, source: Path) -> float:
        """Bytes of the store's largest files a second by sendfile over one loopback connection, thrown away there."""
        files = sorted(source.glob("*.sst"), key=lambda file: file.stat().st_size)
        server = socket.create_server(("127.0.0.1", 0))

        def swallow() -> None:
            peer, _ = server.accept()
            buffer = bytearray(MIB)
            while peer.recv_into(buffer, MIB, socket.MSG_WAITALL):
                pass

        thread = threading.Thread(target=swallow)
        thread.start()
        began = time.perf_counter()
        with socket.create_connection(server.getsockname()) as connection:
            for file in files:
                with file.open("rb") as opened:
                    connection.sendfile(opened)
        thread.join()
        return sum(file.stat().st_size for file in files) / (time.perf_counter() - began) / 1e6


def stored_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())


def one_round(bench: LaneBench) -> dict[str, Any]:
    plain, packed, overlaid = bench.source("plain"), bench.source("packed", compression="lz4"), bench.with_overlay()
    half = bench.middle(plain)
    built = {"lane": "sst", "graft_bytes": _NEVER}
    ways: dict[str, tuple[Path, Way]] = {
        "batch": (plain, Way({"lane": "batch"})),
        "sst, built": (plain, Way(built)),
        "sst, grafted": (plain, Way({"lane": "sst"})),
        "files": (plain, Way({"lane": "files"})),
        "batch, lz4 files": (packed, Way({"lane": "batch"})),
        "sst, built, lz4 files": (packed, Way(built)),
        "sst, grafted, lz4 files": (packed, Way({"lane": "sst"})),
        "files, lz4 files": (packed, Way({"lane": "files"})),
        "batch, half": (plain, Way({"lane": "batch"}, half)),
        "sst, grafted, half": (plain, Way({"lane": "sst"}, half)),
        "batch, overlaid": (overlaid, Way({"lane": "batch"})),
        "sst, grafted, overlaid": (overlaid, Way({"lane": "sst"})),
    }
    figures: dict[str, Any] = {name: bench.move(source, way) for name, (source, way) in ways.items()}
    figures["cp"] = bench.copy(plain)
    figures["sendfile over loopback"] = bench.loopback(plain)
    # Of files, not of keys and values.
    figures["files moved"] = stored_bytes(plain) / 1e6 * figures["files"]["entries_per_second"] / bench.entries
    return figures


def ratios(figures: dict[str, Any]) -> dict[str, float]:
    def of(figure: str, name: str, base: str) -> float:
        return figures[name][figure] / figures[base][figure]

    rate, cpu, receiver = "entries_per_second", "cpu_microseconds_per_entry", "receiver_cpu_seconds_per_gigabyte"
    return {
        "graft_half_to_batch": of(rate, "sst, grafted, half", "batch, half"),
        "graft_overlaid_to_batch": of(rate, "sst, grafted, overlaid", "batch, overlaid"),
        "graft_cpu_to_batch": of(cpu, "sst, grafted, half", "batch, half"),
        "graft_lz4_to_batch": of(rate, "sst, grafted, lz4 files", "batch, lz4 files"),
        "graft_lz4_cpu_to_batch": of(cpu, "sst, grafted, lz4 files", "batch, lz4 files"),
        "sst_to_batch": of(rate, "sst, built", "batch"),
        "sst_receiver_cpu_to_batch": of(receiver, "sst, built", "batch"),
        "sst_lz4_to_batch": of(rate, "sst, built, lz4 files", "batch, lz4 files"),
        "sst_lz4_receiver_cpu_to_batch": of(receiver, "sst, built, lz4 files", "batch, lz4 files"),
        "files_to_the_slower_of_cp_and_loopback": figures["files moved"]
        / min(figures["cp"], figures["sendfile over loopback"]),
        "rss_mib": max(
            figures[name][f"{side}_rss_mib"] for name in figures if "," in name for side in ("sender", "receiver")
        ),
    }


# name: (bar, whether the figure must be at least that, or at most)
BARS = {
    "graft_half_to_batch": (3.0, "at least"),
    "graft_overlaid_to_batch": (2.0, "at least"),
    "graft_cpu_to_batch": (0.2, "at most"),
    "sst_to_batch": (1.0, "at least"),
    "sst_receiver_cpu_to_batch": (0.25, "at most"),
    "files_to_the_slower_of_cp_and_loopback": (0.8, "at least"),
    "rss_mib": (200.0, "at most"),
}


def median(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {name: median([value[name] for value in values]) for name in values[0]}
    return statistics.median(values)


def main(one: Callable[[LaneBench], dict[str, Any]] = one_round) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--entries", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="work on this file system (default: the temporary directory)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kvbatch-lanes-", dir=arguments.directory) as folder:
        bench = LaneBench(Path(folder), arguments.entries)
        one(bench)  # fills the page cache
        rounds = [one(bench) for _ in range(arguments.rounds)]
    figures = median(rounds)
    compared = median([ratios(each) for each in rounds])
    result = {"entries": arguments.entries, "medians": figures, "ratios": compared, "bars": BARS, "rounds": rounds}
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    for name, row in figures.items():
        if isinstance(row, dict):
            shown = ", ".join(f"{figure} {value:.4g}" for figure, value in row.items())
            print(f"{name}: {shown}", file=sys.stderr)
        else:
            print(f"{name}: {row:.0f} MB/s", file=sys.stderr)
    for name, figure in compared.items():
        bar, kind = BARS.get(name, (None, ""))
        verdict = (
            "" if bar is None else f"{kind} {bar}  {'ok' if (figure >= bar) == (kind == 'at least') else 'MISSED'}"
        )
        print(f"{name:40} {figure:8.3f}  {verdict}")


if __name__ == "__main__":
    main()
