"""`--batch-size auto` against fixed settings, over links with a round trip and a rate.

    PYTHONPATH=tests python bench/adaptation.py --json out.json [--entries 40000000] [--streams 1]
        [--rounds 5] [--link unlimited]... [--directory DIRECTORY] [--memory-directory /dev/shm]

A cell of the table is a link: a round trip of 0, 1, 20 or 100 ms, and 10 Mbit/s, 100 Mbit/s or no limit. Sender,
receiver and the link (tests/support/shaped_link.py) are processes of their own. In each cell a job in the lane
`batch`, not compressed, runs with every setting of a small grid and with `auto`, each for six seconds into a fresh
target, and is cancelled. Goodput is what the link carried to the receiver from the third second after its first byte
to the sixth; a job that was done before is measured over its second half, and listed under `short`: give it more
--entries. The target lies on a file system in memory, so that no disk is the limit. A link without a limit is as fast
as these cores are at that moment: there all settings run --rounds times, in turn, and medians are compared: `ratio`.
The largest of several noisy medians is larger than what any of the settings does; `ratio_left_out` asks all rounds but
one which setting is the best, compares `auto` with that one in the round left out, and is the median over the rounds.

`round_trip`: goodput at 10 ms against that at 0 ms, for `auto` and for what stops and waits with batches of 16 KiB.
`simulated`: a target that takes ten times as long for a while is not made here but in simulation
(tests/support/simulated_link.py), `auto` against the same grid, during the jump and three seconds after it.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import dataclasses
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kvbatch
from kvbatch._core.store import write_sample_store
from kvbatch.demo import receiver_process
from kvbatch.flow.batch_state import Settings
from support.shaped_link import shaped_link_process
from support.simulated_link import Machine, Simulation

KIB = 1 << 10
MIB = 1 << 20
ROUND_TRIPS = (0.0, 0.001, 0.02, 0.1)
RATES = {"10 Mbit/s": 1.25e6, "100 Mbit/s": 12.5e6, "unlimited": 0.0}
GRID = (
    Settings(256 * KIB, 16),
    Settings(256 * KIB, 64),
    Settings(MIB, 4),
    Settings(MIB, 16),
    Settings(MIB, 64),
    Settings(4 * MIB, 4),
    Settings(4 * MIB, 16),
)
STOP_AND_WAIT = Settings(16 * KIB, 1)
BEGIN_SECONDS, END_SECONDS = 3.0, 6.0
LEAST_RATIO = 0.9


@dataclass(frozen=True)
class Goodput:
    """Bytes a second; `short` where the job was done before it could be measured as all others are."""

    rate: float
    short: bool


class AdaptationBench:
    def __init__(self, folder: Path, memory: Path, entries: int, streams: int) -> None:
        self.folder, self.memory = folder, memory
        self.streams = streams
        self.source = folder / "source"
        self.runs = 0
        write_sample_store(str(self.source), entries=entries)

    def goodput(self, round_trip: float, rate: float, settings: Settings | None) -> Goodput:
        """Of a job with these settings, `auto` without."""
        chosen: dict[str, Any] = {"batch_bytes": "auto"}
        if settings is not None:
            chosen = {"batch_bytes": settings.batch_bytes, "window": settings.window}
        self.runs += 1
        target = self.memory / "target"
        shutil.rmtree(target, ignore_errors=True)
        with (
            receiver_process(target) as (_, receiver),
            shaped_link_process(receiver, round_trip=round_trip, rate=rate) as (port, reports),
        ):
            migration = kvbatch.migrate(
                self.source,
                f"kvbatch://127.0.0.1:{port}/copy",
                lane="batch",
                compression="none",
                target_compression="none",
                streams=self.streams,
                # What a window of the largest size takes must not be the limit.
                max_memory=1 << 30,
                state_dir=self.folder / f"state-{self.runs}",
                **chosen,
            )
            # Seconds count from the first byte on the link, a moment later.
            with contextlib.suppress(TimeoutError):
                migration.wait(END_SECONDS + 1)
            migration.cancel()
            with contextlib.suppress(kvbatch.StoppedError):
                migration.wait()
            carried = list(reports)
        shutil.rmtree(target, ignore_errors=True)
        return measure(carried)


def measure(carried: list[tuple[float, int]]) -> Goodput:
    """From reports of (time, bytes so far)."""
    total = carried[-1][1]
    first = next(moment for moment, bytes_ in carried if bytes_ > 0)
    last = next(moment for moment, bytes_ in carried if bytes_ == total) - first
    begin, end, short = BEGIN_SECONDS, END_SECONDS, last < END_SECONDS
    if short:
        begin, end = max(last / 2, min(begin, last - 1)), last
    return Goodput((bytes_at(carried, first + end) - bytes_at(carried, first + begin)) / (end - begin), short)


def bytes_at(carried: list[tuple[float, int]], moment: float) -> float:
    """Between two reports on the line between them."""
    behind = min(len(carried) - 1, max(1, bisect.bisect_left(carried, (moment, 0))))
    (earlier, few), (later, many) = carried[behind - 1], carried[behind]
    return few + (many - few) * min(1.0, max(0.0, (moment - earlier) / (later - earlier)))


def name_of(settings: Settings) -> str:
    return f"{settings.batch_bytes // KIB}KiB x {settings.window}"


def ratio_left_out(fixed: dict[str, list[float]], auto: list[float]) -> float:
    """Each round in turn is left out of the choice of the best setting, and is the one in which it is compared."""

    def ratio(left_out: int) -> float:
        def in_others(name: str) -> float:
            rates = fixed[name]
            return statistics.median(rates[:left_out] + rates[left_out + 1 :] or rates)

        return auto[left_out] / fixed[max(fixed, key=in_others)][left_out]

    return statistics.median(ratio(number) for number in range(len(auto)))


def cell(bench: AdaptationBench, round_trip: float, link: str, rounds: int) -> dict[str, Any]:
    tried: dict[str, Settings | None] = {**{name_of(settings): settings for settings in GRID}, "auto": None}
    runs: dict[str, list[Goodput]] = {name: [] for name in tried}
    for _ in range(rounds):
        for name, settings in tried.items():
            runs[name].append(bench.goodput(round_trip, RATES[link], settings))
    in_rounds = {name: [each.rate for each in goodputs] for name, goodputs in runs.items()}
    rates = {name: statistics.median(each) for name, each in in_rounds.items()}
    auto = rates.pop("auto")
    best = max(rates, key=lambda name: rates[name])
    left_out = ratio_left_out({name: in_rounds[name] for name in rates}, in_rounds["auto"])
    print(
        f"{1000 * round_trip:3.0f} ms, {link:10}: auto {auto / 1e6:7.1f} MB/s, best {rates[best] / 1e6:7.1f} MB/s "
        f"({best}), ratio {auto / rates[best]:.2f}, left out {left_out:.2f}",
        file=sys.stderr,
    )
    return {
        "round_trip_seconds": round_trip,
        "link": link,
        "fixed": rates,
        "auto": auto,
        "best": best,
        "ratio": auto / rates[best],
        "ratio_left_out": left_out,
        "rounds": in_rounds,
        "short": [name for name, goodputs in runs.items() if any(each.short for each in goodputs)],
    }


def over_a_round_trip(bench: AdaptationBench) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, settings in (("auto", None), ("stop_and_wait", STOP_AND_WAIT)):
        near, far = (bench.goodput(round_trip, 0.0, settings).rate for round_trip in (0.0, 0.01))
        figures |= {f"{name}_0_ms": near, f"{name}_10_ms": far, f"{name}_10_ms_to_0_ms": far / near}
    figures["stop_and_wait_to_auto_10_ms"] = figures["stop_and_wait_10_ms"] / figures["auto_10_ms"]
    return figures


def simulated_jump(round_trip: float) -> dict[str, float]:
    """`auto` to the best of the grid while a target takes ten times as long, and from three seconds behind that on."""
    usual = Machine(round_trip=round_trip)
    slow = dataclasses.replace(
        usual,
        apply_frame_seconds=10 * usual.apply_frame_seconds,
        apply_seconds_per_byte=10 * usual.apply_seconds_per_byte,
    )

    def run(settings: Settings | None) -> Simulation:
        return Simulation(lambda now: slow if 6 <= now < 11 else usual, fixed=settings).run(18)

    auto, fixed = run(None), [run(settings) for settings in GRID]

    def ratio(begin: float, end: float) -> float:
        return auto.goodput(begin, end) / max(each.goodput(begin, end) for each in fixed)

    return {"round_trip_seconds": round_trip, "during": ratio(6, 11), "after": ratio(14, 17)}


def bars(cells: Iterable[dict[str, Any]], round_trip: dict[str, float], simulated: Iterable[dict[str, float]]) -> Any:
    figures = {f"{1000 * each['round_trip_seconds']:.0f} ms, {each['link']}": each["ratio"] for each in cells}
    figures["10 ms to 0 ms"] = round_trip["auto_10_ms_to_0_ms"]
    for each in simulated:
        for when in ("during", "after"):
            figures[f"simulated jump, {1000 * each['round_trip_seconds']:.0f} ms, {when}"] = each[when]
    return {
        name: {"figure": figure, "bar": LEAST_RATIO, "kind": "at least", "reached": figure >= LEAST_RATIO}
        for name, figure in figures.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--entries", type=int, default=40_000_000, help="of 116 bytes")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="where the link has no limit")
    parser.add_argument("--link", choices=RATES, action="append", help="measure this only; may be given again")
    parser.add_argument("--directory", type=Path, help="the source lies here (default: the temporary directory)")
    parser.add_argument("--memory-directory", type=Path, default=Path("/dev/shm"), help="the targets lie here")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="kvbatch-adaptation-", dir=arguments.directory) as folder,
        tempfile.TemporaryDirectory(prefix="kvbatch-adaptation-", dir=arguments.memory_directory) as memory,
    ):
        bench = AdaptationBench(Path(folder), Path(memory), arguments.entries, arguments.streams)
        bench.goodput(0.0, 0.0, Settings())  # fills the page cache
        cells = [
            cell(bench, round_trip, link, 1 if RATES[link] else arguments.rounds)
            for link in arguments.link or RATES
            for round_trip in ROUND_TRIPS
        ]
        round_trip = over_a_round_trip(bench)
    simulated = [simulated_jump(each) for each in ROUND_TRIPS]
    result = {
        "entries": arguments.entries,
        "streams": arguments.streams,
        "machine": {"cores": len(os.sched_getaffinity(0))},
        "cells": cells,
        "round_trip": round_trip,
        "simulated": simulated,
        "bars": bars(cells, round_trip, simulated),
    }
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    for name, bar in result["bars"].items():
        print(f"{name:32} {bar['figure']:8.3f}  at least {bar['bar']}  {'ok' if bar['reached'] else 'MISSED'}")


if __name__ == "__main__":
    main()
