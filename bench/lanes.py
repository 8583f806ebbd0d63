"""The lanes against each other over loopback: rates, CPU time of both sides and memory, in one run.

    python bench/lanes.py --json out.json [--entries 5000000] [--scale 1.0] [--rounds 3] [--directory DIRECTORY]

Every round moves each source once in each way, each time into a fresh target behind a receiver in a process of its own,
and once each `cp -r` of the largest source, synced, and iperf3 with one stream over loopback. A ratio is taken within a
round; medians over the rounds are what is reported. CPU seconds are user and system time of each process
(/proc/PID/stat), from the call of `migrate` to its end; GB are the bytes of keys and values.

The sources, 16-byte keys and 100-byte values:
    plain     --entries, not compressed; `packed` the same with lz4
    overlaid  twice as many, each tenth entry written anew in files above those of the last level; `packed` with lz4
    large     twenty times as many, lz4: half of its keys are four dozen files, so that the two at the edges, which are
              read, do not decide. Compacted stores are compressed unless somebody turned that off
    files     5 GiB of files, not compressed
--scale makes the last three smaller.

A virtual machine whose host takes back freed memory (free page reporting) pays for every new page of a target, cp too:
`page_reporting_order` in the result tells. Its figures are those of the host's memory, not of the lanes; as root,
`echo 11 > /sys/module/page_reporting/parameters/page_reporting_order` ends that until the next boot.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rocksdict
from end_to_end import MIB, peak_rss, reset_peak_rss
from flow_beside import bring_into_page_cache

import kvbatch
from kvbatch._core.base import file_crc32c
from kvbatch._core.store import write_sample_store
from kvbatch.demo import receiver_process
from kvbatch.target import FILE_PIECE_BYTES

_TICKS = os.sysconf("SC_CLK_TCK")
_NEVER = 1 << 50
# Half of the key space of a sample store, whose keys are hexadecimal numbers scattered over it.
_MIDDLE = kvbatch.KeyRange(b"4", b"c")
_LARGEST_ORDER = 10
# Of the store `files`, and what an entry takes in it.
FILES_BYTES = 5 << 30
_STORED_ENTRY_BYTES = 122.8
_MOVERS = ("read", "pread64", "readv", "write", "pwrite64", "writev", "sendto", "sendmsg", "sendfile")
# `1234 sendfile(9, 8, [0] => [4096], 4096) = 4096`, also where a call was resumed.
_RETURNED = re.compile(r"(?:<\.\.\. )?(\w+)(?:\(| resumed).* = (\d+)$")


@dataclass(frozen=True)
class CpuTime:
    """Seconds of a process."""

    user: float
    system: float

    @staticmethod
    def of(pid: int | str) -> CpuTime:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        return CpuTime(int(fields[11]) / _TICKS, int(fields[12]) / _TICKS)

    def __sub__(self, before: CpuTime) -> CpuTime:
        return CpuTime(self.user - before.user, self.system - before.system)

    @property
    def all(self) -> float:
        return self.user + self.system


@dataclass
class Way:
    """One way to move a source: options of `migrate`."""

    options: dict[str, Any]
    key_range: kvbatch.KeyRange = field(default_factory=kvbatch.KeyRange)


class LaneBench:
    def __init__(self, folder: Path, entries: int, scale: float = 1.0) -> None:
        self.folder = folder
        self.entries = entries
        self.scale = scale
        self.runs = 0

    def source(self, name: str, times: float = 1.0, **options: Any) -> Path:
        path = self.folder / name
        if not path.exists():
            scale = 1.0 if times == 1.0 else times * self.scale
            write_sample_store(str(path), entries=int(self.entries * scale), **options)
        return path

    def with_overlay(self, name: str, compression: str) -> Path:
        """Every tenth entry written anew, in files above those of the last level."""
        path = self.folder / name
        if not path.exists():
            self.source(name, 2.0, compression=compression)
            # In a process of its own, so that what rocksdict holds on to is not taken for a lane's memory.
            writer = multiprocessing.get_context("spawn").Process(target=write_overlay, args=(path, compression))
            writer.start()
            writer.join()
            assert writer.exitcode == 0
        return path

    def move(self, source: Path, way: Way) -> dict[str, float]:
        self.runs += 1
        target = self.folder / "target"
        shutil.rmtree(target, ignore_errors=True)
        os.sync()
        # The sources together are about what the machine has memory for.
        bring_into_page_cache(source)
        reset_peak_rss()
        with receiver_process(target) as (process, port):
            sender, receiver = CpuTime.of("self"), CpuTime.of(process.pid)
            summary = kvbatch.migrate(
                source,
                f"kvbatch://127.0.0.1:{port}/copy",
                compression="none",
                key_range=way.key_range,
                state_dir=self.folder / f"state-{self.runs}",
                **way.options,
            ).wait()
            sender, receiver = CpuTime.of("self") - sender, CpuTime.of(process.pid) - receiver
            receiver_rss = peak_rss(process.pid)
        gigabytes = summary.raw_bytes / 1e9
        shutil.rmtree(target, ignore_errors=True)
        return {
            "entries_per_second": summary.entries / summary.seconds,
            "megabytes_per_second": summary.raw_bytes / summary.seconds / 1e6,
            "seconds": summary.seconds,
            "sender_cpu_seconds_per_gigabyte": sender.all / gigabytes,
            "sender_user_cpu_seconds_per_gigabyte": sender.user / gigabytes,
            "receiver_cpu_seconds_per_gigabyte": receiver.all / gigabytes,
            "cpu_microseconds_per_entry": 1e6 * (sender.all + receiver.all) / summary.entries,
            "sender_rss_mib": peak_rss("self") / MIB,
            "receiver_rss_mib": receiver_rss / MIB,
        }

    def checksum(self, source: Path) -> float:
        """User CPU seconds a GB of the checksum that the sender of a file computes, alone."""
        before = CpuTime.of("self")
        for file in source.iterdir():
            with file.open("rb") as opened:
                for offset in range(0, file.stat().st_size, FILE_PIECE_BYTES):
                    length = min(FILE_PIECE_BYTES, file.stat().st_size - offset)
                    file_crc32c(opened.fileno(), offset, length, str(file))
        return (CpuTime.of("self") - before).user / (stored_bytes(source) / 1e9)

    def copy(self, source: Path) -> float:
        """Bytes of the store's files a second through `cp -r`, synced."""
        target = self.folder / "cp"
        shutil.rmtree(target, ignore_errors=True)
        os.sync()
        bring_into_page_cache(source)
        began = time.perf_counter()
        subprocess.run(["cp", "-r", source, target], check=True)
        subprocess.run(["sync", "-f", target], check=True)
        seconds = time.perf_counter() - began
        shutil.rmtree(target)
        return stored_bytes(source) / seconds / 1e6

    def iperf3(self) -> float:
        """What one stream carries over loopback, in MB/s; bytes that nobody keeps."""
        port = str(free_port())
        with subprocess.Popen(["iperf3", "-s", "-1", "-p", port], stdout=subprocess.DEVNULL) as server:
            time.sleep(0.5)
            command = ["iperf3", "-c", "127.0.0.1", "-p", port, "-t", "3", "-J"]
            report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            server.wait()
        return report["end"]["sum_received"]["bits_per_second"] / 8e6

    def payload_through_user_space(self, source: Path) -> dict[str, float]:
        """What the sender of a job in the lane `files` reads and writes by each system call, as strace sees it, in MB;
        `sendfile` alone may move the store."""
        target, trace = self.folder / "target", self.folder / "trace"
        with receiver_process(target) as (_, port):
            command = [
                "strace",
                "-f",
                "-qq",
                "-e",
                f"trace={','.join(_MOVERS)}",
                "-o",
                str(trace),
                sys.executable,
                "-m",
            ]
            command += ["kvbatch", "migrate", str(source), f"kvbatch://127.0.0.1:{port}/copy", "--lane", "files"]
            command += ["--progress", "none", "--json", "--state-dir", str(self.folder / "state-strace")]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(target)
        moved = dict.fromkeys(_MOVERS, 0)
        for line in trace.read_text(errors="replace").splitlines():
            found = _RETURNED.search(line)
            if found and found[1] in moved:
                moved[found[1]] += int(found[2])
        return {name: size / 1e6 for name, size in moved.items()}


def write_overlay(path: Path, compression: str) -> None:
    options = rocksdict.Options(raw_mode=True)
    options.set_disable_auto_compactions(True)
    options.set_compression_type(getattr(rocksdict.DBCompressionType, compression)())
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


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def stored_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())


def page_reporting_order() -> int | None:
    """Free blocks of memory of this order and above go back to the host; None: none do, or this is no virtual machine
    that could."""
    try:
        order = int(Path("/sys/module/page_reporting/parameters/page_reporting_order").read_text())
    except (OSError, ValueError):
        return None
    return order if order <= _LARGEST_ORDER else None


def one_round(bench: LaneBench) -> dict[str, Any]:
    plain, packed = bench.source("plain"), bench.source("packed", compression="lz4")
    overlaid, overlaid_packed = bench.with_overlay("overlaid", "none"), bench.with_overlay("overlaid-packed", "lz4")
    large = bench.source("large", 20.0, compression="lz4")
    files = bench.source("files", FILES_BYTES / (_STORED_ENTRY_BYTES * bench.entries))
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
        "batch, half": (plain, Way({"lane": "batch"}, _MIDDLE)),
        "sst, grafted, half": (plain, Way({"lane": "sst"}, _MIDDLE)),
        "batch, large, lz4 files": (large, Way({"lane": "batch"})),
        "sst, grafted, large, lz4 files": (large, Way({"lane": "sst"})),
        "batch, half, large, lz4 files": (large, Way({"lane": "batch"}, _MIDDLE)),
        "sst, grafted, half, large, lz4 files": (large, Way({"lane": "sst"}, _MIDDLE)),
        "batch, overlaid": (overlaid, Way({"lane": "batch"})),
        "sst, grafted, overlaid": (overlaid, Way({"lane": "sst"})),
        "batch, overlaid, lz4 files": (overlaid_packed, Way({"lane": "batch"})),
        "sst, grafted, overlaid, lz4 files": (overlaid_packed, Way({"lane": "sst"})),
        "files, 5 GiB": (files, Way({"lane": "files"})),
    }
    figures: dict[str, Any] = {name: bench.move(source, way) for name, (source, way) in ways.items()}
    figures["cp, 5 GiB"] = bench.copy(files)
    figures["iperf3"] = bench.iperf3()
    figures["checksum"] = bench.checksum(files)
    return figures


def ratios(figures: dict[str, Any]) -> dict[str, float]:
    def of(figure: str, name: str, base: str) -> float:
        return figures[name][figure] / figures[base][figure]

    rate, cpu, receiver = "entries_per_second", "cpu_microseconds_per_entry", "receiver_cpu_seconds_per_gigabyte"
    half, half_batch = "sst, grafted, half, large, lz4 files", "batch, half, large, lz4 files"
    whole, whole_batch = "sst, grafted, large, lz4 files", "batch, large, lz4 files"
    over, over_batch = "sst, grafted, overlaid, lz4 files", "batch, overlaid, lz4 files"
    user = figures["files, 5 GiB"]["sender_user_cpu_seconds_per_gigabyte"]
    moved = figures["files, 5 GiB"]["megabytes_per_second"]
    sides = [figures[name][f"{side}_rss_mib"] for name in figures if "," in name for side in ("sender", "receiver")
             if isinstance(figures[name], dict)]  # fmt: skip
    return {
        "graft_half_to_batch": of(rate, half, half_batch),
        "graft_whole_to_batch": of(rate, whole, whole_batch),
        "graft_overlaid_to_batch": of(rate, over, over_batch),
        "graft_half_cpu_to_batch": of(cpu, half, half_batch),
        "graft_whole_cpu_to_batch": of(cpu, whole, whole_batch),
        "graft_half_uncompressed_to_batch": of(rate, "sst, grafted, half", "batch, half"),
        "graft_half_uncompressed_cpu_to_batch": of(cpu, "sst, grafted, half", "batch, half"),
        "graft_overlaid_uncompressed_to_batch": of(rate, "sst, grafted, overlaid", "batch, overlaid"),
        "sst_to_batch": of(rate, "sst, built, lz4 files", "batch, lz4 files"),
        "sst_receiver_cpu_to_batch": of(receiver, "sst, built, lz4 files", "batch, lz4 files"),
        "sst_uncompressed_to_batch": of(rate, "sst, built", "batch"),
        "sst_uncompressed_receiver_cpu_to_batch": of(receiver, "sst, built", "batch"),
        "files_to_the_slower_of_cp_and_iperf3": moved / min(figures["cp, 5 GiB"], figures["iperf3"]),
        "files_sender_user_cpu_seconds_per_gib": (user - figures["checksum"]) * 1.073741824,
        "rss_mib": max(sides),
    }


# name: (bar, whether the figure must be at least that, or at most)
BARS = {
    "graft_half_to_batch": (3.0, "at least"),
    "graft_overlaid_to_batch": (2.0, "at least"),
    "graft_half_cpu_to_batch": (0.2, "at most"),
    "graft_half_uncompressed_to_batch": (3.0, "at least"),
    "graft_half_uncompressed_cpu_to_batch": (0.2, "at most"),
    "graft_overlaid_uncompressed_to_batch": (2.0, "at least"),
    "sst_to_batch": (1.0, "at least"),
    "sst_receiver_cpu_to_batch": (0.25, "at most"),
    "sst_uncompressed_to_batch": (1.0, "at least"),
    "sst_uncompressed_receiver_cpu_to_batch": (0.25, "at most"),
    "files_to_the_slower_of_cp_and_iperf3": (0.8, "at least"),
    "files_sender_user_cpu_seconds_per_gib": (0.05, "at most"),
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
    parser.add_argument("--scale", type=float, default=1.0, help="of the larger sources")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="work on this file system (default: the temporary directory)")
    arguments = parser.parse_args()
    if missing := [tool for tool in ("iperf3", "strace") if shutil.which(tool) is None]:
        parser.error(f"{' and '.join(missing)} not found; `make bench` installs what the benchmarks need")
    with tempfile.TemporaryDirectory(prefix="kvbatch-lanes-", dir=arguments.directory) as folder:
        bench = LaneBench(Path(folder), arguments.entries, arguments.scale)
        one(bench)  # fills the page cache
        rounds = [one(bench) for _ in range(arguments.rounds)]
        payload = bench.payload_through_user_space(bench.source("plain"))
    figures = median(rounds)
    compared = median([ratios(each) for each in rounds])
    result = {
        "entries": arguments.entries,
        "scale": arguments.scale,
        "page_reporting_order": page_reporting_order(),
        "medians": figures,
        "ratios": compared,
        "bars": BARS,
        "payload": payload,
        "rounds": rounds,
    }
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    for name, row in figures.items():
        if isinstance(row, dict):
            shown = ", ".join(f"{figure} {value:.4g}" for figure, value in row.items())
            print(f"{name}: {shown}", file=sys.stderr)
        else:
            print(f"{name}: {row:.4g}", file=sys.stderr)
    print("MB by system call of a sender of files:", payload, file=sys.stderr)
    for name, figure in compared.items():
        bar, kind = BARS.get(name, (None, ""))
        verdict = (
            "" if bar is None else f"{kind} {bar}  {'ok' if (figure >= bar) == (kind == 'at least') else 'MISSED'}"
        )
        print(f"{name:40} {figure:8.3f}  {verdict}")


if __name__ == "__main__":
    main()
