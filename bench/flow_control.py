"""The bars of flow control and visibility, in one run of some minutes on a machine that does nothing else.

    PYTHONPATH=tests python bench/flow_control.py --json out.json [--rounds 3] [--pairs 8] [--part rate]...
        [--entries 5000000] [--long-entries 25000000] [--directory DIRECTORY] [--memory-directory /dev/shm]

Entries have 16-byte keys and 100-byte values, half of each value text; sources lie in --directory. Senders, receivers,
links and what else the machine is busy with (bench/foreground.py) are processes of their own, but for the senders of
`rate`, `overhead` and `auto`, which are threads of this one. Ratios are taken within a round; medians over the rounds
are what is reported, of `rate` the worst. Parts:

rate      `--rate-limit`: 20 MiB/s, after five seconds 200, after five more 20 again, in the lanes `batch` and `files`,
          with 1 and 4 streams. What arrives at the receiver is counted on its way there. `error`: the largest deviation
          of five seconds from the limit; they begin at the job's first byte and at each change. `burst_to_bound`: the
          most that came in 100 ms, against the bound of docs/throttle.md, which is what 200 ms bring.
reads     p99 of 2000 gets a second by a process that has the source open, while `kvbatch migrate` reads the source with
          `--max-source-read-rate 50MiB/s`, and without, against the same with nothing else going on. `cached`: all of
          the source is in the page cache; `from_disk`: it is dropped from there before each measurement. The target is
          another machine's: it lies in memory, and the receiver gets the CPU time that nobody else wants.
writes    20 MiB/s written to a store beside the target, on the disk, with and without a migration to the target: how
          often RocksDB held those writes up (delays and stops together).
overhead  throughput of a job that is watched (metrics of both sides scraped every second, every event made JSON and
          kept in the state directory) against the same job when it is not: it goes over from the one to the other every
          second, since the same job run again is up to a third slower or faster. Nothing turns samples and events
          off: there they are patched out of a job whose settings are fixed. What streams count cannot be taken out, nor
          that somebody listens. `overhead`: the median over the jobs. `whole`: jobs of a second, start and end
          included, with and without state directory and control socket, in pairs; they scatter so much that
          `standard_error` belongs to what is said. `cpu` is the same in CPU seconds of both sides.
auto      `--streams auto --compression auto` against a grid of fixed settings, over loopback and a link of 100 Mbit/s:
          entries a second that the receiver applied, from the third to the sixth second of a job; of `auto` from the
          sixth to the tenth. One that ends before is measured over its second half, and called `short`: give it more
          --long-entries.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from flow_bench import MIB, FlowBench, ended, ending_early, medians
from flow_beside import bring_into_page_cache, measure_reads, measure_writes
from foreground import foreground_process
from lanes import CpuTime, free_port

import kvbatch
import kvbatch.migration
from kvbatch.events import EventBus, Progress
from kvbatch.flow_policy import FlowPolicy
from kvbatch.job_figures import JobFigures
from kvbatch.job_recorder import JobRecorder
from kvbatch.metrics_listener import serve_metrics
from kvbatch.migration import Migration
from kvbatch.options import MigrationOptions
from support.shaped_link import shaped_link_process

RATES = (20 * MIB, 200 * MIB, 20 * MIB)
RATE_SECONDS = 5.0
BURST_SECONDS = 0.1
LINKS = {"loopback": 0.0, "100 Mbit/s": 12.5e6}
GRID = ((1, "none"), (2, "none"), (4, "none"), (1, "lz4"), (2, "lz4"), (1, "zstd"), (2, "zstd"))
FIXED_SECONDS, AUTO_SECONDS = (3.0, 6.0), (6.0, 10.0)
_REPORT_SECONDS = 0.005
_LOOK_SECONDS = 0.05
# Of a job while it is watched, or not; what begins before is left out.
_WATCHED_SECONDS = 1.0
_SETTLE_SECONDS = 0.1


# -- rate -------------------------------------------------------------------------------------------------------------


def bytes_by(carried: Sequence[tuple[float, int]], moment: float) -> int:
    """What had arrived by then, from reports of (time, bytes so far)."""
    behind = bisect.bisect_right(carried, moment, key=lambda report: report[0])
    return carried[behind - 1][1] if behind else 0


def largest_burst(carried: Sequence[tuple[float, int]], begin: float, end: float) -> int:
    """The most bytes in any BURST_SECONDS, as exactly as the reports are."""
    reports = [report for report in carried if begin <= report[0] <= end]
    most, first = 0, 0
    for moment, total in reports:
        while moment - reports[first][0] > BURST_SECONDS:
            first += 1
        most = max(most, total - reports[first][1])
    return most


def limited(bench: FlowBench, lane: str, streams: int) -> dict[str, dict[str, float]]:
    """One job at each of RATES in turn."""
    with (
        bench.receiver(bench.memory) as (_, receiver),
        shaped_link_process(receiver, report_seconds=_REPORT_SECONDS) as (port, reports),
    ):
        migration = kvbatch.migrate(
            bench.source("long"),
            f"kvbatch://127.0.0.1:{port}/copy",
            lane=lane,
            streams=streams,
            compression="none",
            rate_limit=RATES[0],
            state_dir=bench.new("state"),
        )
        while not reports or reports[-1][1] == 0:
            time.sleep(_REPORT_SECONDS)
        began = [next(moment for moment, total in list(reports) if total > 0)]
        for rate in RATES[1:]:
            time.sleep(max(0.0, began[-1] + RATE_SECONDS - time.monotonic()))
            began.append(time.monotonic())
            migration.set(rate_limit=rate)
        time.sleep(RATE_SECONDS + BURST_SECONDS)
        if ended(migration, 0):
            raise RuntimeError("the job ended before it was measured: give it more --long-entries")
        ending_early(migration)
        carried = list(reports)
    phases = ("at_first", "raised", "lowered")
    figures = {}
    for phase, rate, begin in zip(phases, RATES, began, strict=True):
        end = begin + RATE_SECONDS
        arrived = bytes_by(carried, end) - bytes_by(carried, begin)
        # Right behind a change what is under way is still of the earlier limit.
        burst = largest_burst(carried, begin + (BURST_SECONDS if phase == "lowered" else 0), end)
        figures[phase] = {
            "rate_to_limit": arrived / RATE_SECONDS / rate,
            "burst_to_bound": burst / (2 * BURST_SECONDS * rate),
        }
    return figures


def measure_rate(bench: FlowBench) -> dict[str, Any]:
    cells = {
        f"{lane}, {streams} streams": limited(bench, lane, streams) for lane in ("batch", "files") for streams in (1, 4)
    }
    phases = [phase for cell in cells.values() for phase in cell.values()]
    return {
        "cells": cells,
        "error": max(abs(phase["rate_to_limit"] - 1) for phase in phases),
        "burst_to_bound": max(phase["burst_to_bound"] for phase in phases),
    }


# -- overhead ---------------------------------------------------------------------------------------------------------


def unsampled() -> contextlib.ExitStack:
    """While it is open, jobs do without events and samples."""

    def publish_done(bus: EventBus, kind: Any, **data: Any) -> None:
        if kind == "done":
            publish(bus, kind, **data)

    def last_progress(figures: JobFigures) -> Progress:
        return figures.progress

    publish = EventBus.publish
    # Settings are fixed: nothing that is sampled changes anything.
    return patched(
        (EventBus, "publish", publish_done),
        (JobFigures, "sample", last_progress),
        (FlowPolicy, "look", nothing),
    )


def unrecorded() -> contextlib.ExitStack:
    """While it is open, jobs begin and end without record and control socket."""

    def no_socket(*arguments: Any) -> contextlib.AbstractContextManager[None]:
        del arguments
        return contextlib.nullcontext()

    return patched(
        (kvbatch.migration, "controlled", no_socket),
        (JobRecorder, "start", nothing),
        (JobRecorder, "find", nothing),
        (JobRecorder, "update", nothing),
    )


def nothing(*arguments: Any, **named: Any) -> None:
    del arguments, named


def patched(*patches: tuple[Any, str, Callable[..., Any]]) -> contextlib.ExitStack:
    with contextlib.ExitStack() as stack:
        for owner, name, instead in patches:
            stack.enter_context(mock.patch.object(owner, name, instead))
        return stack.pop_all()


@contextlib.contextmanager
def watched_migration(
    bench: FlowBench, place: Path, source: str, *, watched: bool = True
) -> Iterator[tuple[Migration, subprocess.Popen[str], subprocess.Popen[str]]]:
    """A job with fixed settings that is not started yet, its receiver, and what scrapes both if it is `watched`."""
    listen = f"127.0.0.1:{free_port()}"
    more = ("--metrics-listen", listen) if watched else ()
    with bench.receiver(place, *more) as (receiver, port), contextlib.ExitStack() as stack:
        options = MigrationOptions.checked(
            lane="batch",
            compression="none",
            target_compression="none",
            streams=1,
            batch_bytes=2 * MIB,
            window=16,
            state_dir=bench.new("state", place),
        )
        migration = Migration(str(bench.source(source)), f"kvbatch://127.0.0.1:{port}/copy", options)
        urls: list[str] = []
        if watched:
            own = stack.enter_context(serve_metrics(migration, "127.0.0.1:0"))
            urls = [f"http://127.0.0.1:{own.port}/metrics", f"http://{listen}/metrics"]
            events = migration.events()
            follower = threading.Thread(target=lambda: [json.dumps(event.to_json()) for event in events])
            follower.start()
            stack.callback(follower.join)
        # Starting it takes a while: both kinds of jobs begin on a machine that has calmed down as much.
        yield migration, receiver, stack.enter_context(foreground_process("scrape", *urls))


def sent_bytes(migration: Migration) -> int:
    """Of its only stream, as of this moment: samples are half a second old, and patched out besides."""
    group = migration._policy._group
    streams = [] if group is None else group.streams
    return sum(stream._stream.sent_bytes for stream in streams if stream._stream is not None)


def now_and_then_watched(bench: FlowBench, place: Path) -> dict[str, float]:
    """Bytes a second of two jobs while they are watched and while they are not, in turns: what is slower at a job's
    beginning than at its end is watched in the one and not in the other."""
    length = {True: 0, False: 0}
    seconds = {True: 0.0, False: 0.0}
    for first in (True, False):
        watched = first
        with watched_migration(bench, place, "long") as (migration, _, scraper):
            migration.start()
            while not ended(migration, _SETTLE_SECONDS):
                with contextlib.ExitStack() as stack:
                    if not watched:
                        scraper.send_signal(signal.SIGSTOP)
                        stack.callback(scraper.send_signal, signal.SIGCONT)
                        stack.enter_context(unsampled())
                    began, before = time.monotonic(), sent_bytes(migration)
                    if not ended(migration, _WATCHED_SECONDS):
                        length[watched] += sent_bytes(migration) - before
                        seconds[watched] += time.monotonic() - began
                watched = not watched
    rates = {watched: length[watched] / seconds[watched] for watched in length}
    return {"watched": rates[True], "unwatched": rates[False], "overhead": 1 - rates[True] / rates[False]}


def moved(bench: FlowBench, place: Path, *, watched: bool) -> dict[str, float]:
    with (
        watched_migration(bench, place, "source", watched=watched) as (migration, receiver, _),
        contextlib.nullcontext() if watched else unsampled(),
        contextlib.nullcontext() if watched else unrecorded(),
    ):
        before = CpuTime.of("self").all + CpuTime.of(receiver.pid).all
        # The summary's seconds begin earlier: starting to listen is not what a watched job pays for each second.
        began = time.monotonic()
        entries = migration.start().wait().entries
        seconds = time.monotonic() - began
        cpu = CpuTime.of("self").all + CpuTime.of(receiver.pid).all - before
    return {"rate": entries / seconds, "cpu_seconds": cpu}


def with_errors(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """`standard_error`: of the mean of `overhead`."""
    overheads = [each["overhead"] for each in rounds]
    error = statistics.stdev(overheads) / len(overheads) ** 0.5 if len(overheads) > 1 else None
    return {
        "medians": medians(rounds),
        "mean": statistics.mean(overheads),
        "standard_error": error,
        "rounds": rounds,
    }


def measure_overhead(bench: FlowBench) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    order = random.Random(1)
    for name, place in (("memory", bench.memory), ("disk", bench.folder)):
        moved(bench, place, watched=True)  # fills the page cache, and imports what listens
        pairs = []
        for _ in range(bench.pairs):
            both = {watched: moved(bench, place, watched=watched) for watched in order.sample((True, False), 2)}
            pairs.append(
                {
                    "watched": both[True]["rate"],
                    "unwatched": both[False]["rate"],
                    "overhead": 1 - both[True]["rate"] / both[False]["rate"],
                    "cpu": both[True]["cpu_seconds"] / both[False]["cpu_seconds"] - 1,
                }
            )
        bring_into_page_cache(bench.source("long"))
        jobs = [now_and_then_watched(bench, place) for _ in range(bench.pairs)]
        figures[name] = {**with_errors(jobs), "whole": with_errors(pairs)}
    return figures


# -- auto -------------------------------------------------------------------------------------------------------------


def applied_entries(url: str) -> tuple[float, int]:
    """The time, and what the receiver says that it has applied."""
    with urllib.request.urlopen(url) as answer:
        text = answer.read().decode()
    found = re.search(r"^kvbatch_receiver_entries_total (\S+)$", text, re.MULTILINE)
    if found is None:
        raise RuntimeError("the receiver does not tell how much it has applied")
    return time.monotonic(), int(float(found[1]))


def goodput(
    bench: FlowBench, rate: float, window: tuple[float, float], streams: int | str, compression: str
) -> dict[str, Any]:
    """Entries a second between these two times; of a job that ends before, over its second half."""
    listen = f"127.0.0.1:{free_port()}"
    with contextlib.ExitStack() as stack:
        _, port = stack.enter_context(bench.receiver(bench.memory, "--metrics-listen", listen))
        if rate:
            port, _ = stack.enter_context(shaped_link_process(port, rate=rate))
        migration = kvbatch.migrate(
            bench.source("long"),
            f"kvbatch://127.0.0.1:{port}/copy",
            lane="batch",
            streams=streams,
            compression=compression,
            target_compression="none",
            state_dir=bench.new("state"),
        )
        began = time.monotonic()
        applied: list[tuple[float, int]] = []
        progress = migration.progress()
        while time.monotonic() < began + window[1] and not ended(migration, _LOOK_SECONDS):
            progress = migration.progress()
            now = applied_entries(f"http://{listen}/metrics")
            # A frame is applied as a whole: what counts is when.
            if not applied or now[1] > applied[-1][1]:
                applied.append(now)
        short = ended(migration, 0)
        ending_early(migration)
    last = applied[-1]
    begin = min(began + window[0], (began + last[0]) / 2) if short else began + window[0]
    first = next(each for each in applied if each[0] >= begin)
    return {
        "rate": (last[1] - first[1]) / (last[0] - first[0]),
        "short": short,
        "streams": progress.streams,
        "compression": progress.compression,
    }


def measure_auto(bench: FlowBench) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for link, rate in LINKS.items():
        fixed = {
            f"{streams} streams, {compression}": goodput(bench, rate, FIXED_SECONDS, streams, compression)
            for streams, compression in GRID
        }
        auto = goodput(bench, rate, AUTO_SECONDS, "auto", "auto")
        best = max(fixed, key=lambda name: fixed[name]["rate"])
        figures[link] = {"fixed": fixed, "auto": auto, "best": best, "ratio": auto["rate"] / fixed[best]["rate"]}
    return figures


# -- all of it --------------------------------------------------------------------------------------------------------


PARTS: dict[str, Callable[[FlowBench], dict[str, Any]]] = {
    "rate": measure_rate,
    "reads": measure_reads,
    "writes": measure_writes,
    "overhead": measure_overhead,
    "auto": measure_auto,
}

# (part, path to the figure in it): (bar, whether the figure must be at least that, or at most)
BARS: dict[tuple[str, ...], tuple[float, str]] = {
    ("rate", "error"): (0.05, "at most"),
    ("rate", "burst_to_bound"): (1.0, "at most"),
    ("reads", "medians", "cached, limited: p99_to_idle"): (1.3, "at most"),
    ("reads", "medians", "cached, limited, batch: p99_to_idle"): (1.3, "at most"),
    ("reads", "medians", "from_disk, limited: p99_to_idle"): (1.3, "at most"),
    ("reads", "medians", "from_disk, limited, batch: p99_to_idle"): (1.3, "at most"),
    ("writes", "stalls"): (0.0, "at most"),
    ("overhead", "memory", "medians", "overhead"): (0.02, "at most"),
    ("overhead", "disk", "medians", "overhead"): (0.02, "at most"),
    ("auto", "loopback", "ratio"): (0.9, "at least"),
    ("auto", "100 Mbit/s", "ratio"): (0.9, "at least"),
}


def reached_bars(measured: dict[str, Any]) -> dict[str, dict[str, Any]]:
    bars = {}
    for path, (bar, kind) in BARS.items():
        if path[0] in measured:
            figure: Any = measured
            for name in path:
                figure = figure[name]
            reached = figure >= bar if kind == "at least" else figure <= bar
            shown = " ".join(name for name in path if name != "medians")
            bars[shown] = {"figure": figure, "bar": bar, "kind": kind, "reached": reached}
    return bars


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--part", choices=PARTS, action="append", help="measure this only; may be given again")
    parser.add_argument("--rounds", type=int, default=3, help="of reads and writes")
    parser.add_argument("--pairs", type=int, default=8, help="of overhead, in each place")
    parser.add_argument("--entries", type=int, default=5_000_000, help="of the source of overhead")
    parser.add_argument("--long-entries", type=int, default=25_000_000, help="of the source of the others")
    parser.add_argument("--directory", type=Path, help="the disk (default: the temporary directory)")
    parser.add_argument("--memory-directory", type=Path, default=Path("/dev/shm"), help="a file system in memory")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="kvbatch-flow-", dir=arguments.directory) as folder,
        tempfile.TemporaryDirectory(prefix="kvbatch-flow-", dir=arguments.memory_directory) as memory,
    ):
        bench = FlowBench(
            Path(folder), Path(memory), arguments.entries, arguments.long_entries, arguments.rounds, arguments.pairs
        )
        measured = {}
        for part in arguments.part or PARTS:
            began = time.monotonic()
            measured[part] = PARTS[part](bench)
            print(f"{part}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    result = {
        "entries": arguments.entries,
        "long_entries": arguments.long_entries,
        "machine": {"cores": len(os.sched_getaffinity(0))},
        "parts": measured,
        "bars": reached_bars(measured),
    }
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    for name, bar in result["bars"].items():
        verdict = "ok" if bar["reached"] else "MISSED"
        print(f"{name:48} {bar['figure']:8.3f}  {bar['kind']} {bar['bar']}  {verdict}")


if __name__ == "__main__":
    main()
