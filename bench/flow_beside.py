"""What a migration does to those who use the source and the target's disk: see bench/flow_control.py."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flow_bench import MIB, FlowBench, medians
from foreground import Record, foreground_process

import kvbatch

PHASE_SECONDS = 3.0
SOURCE_READ_RATE = "50MiB/s"


def receiver_target(port: int) -> str:
    return f"kvbatch://127.0.0.1:{port}/copy"


@contextlib.contextmanager
def migrating(bench: FlowBench, target: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`kvbatch migrate` of the long source, from its first range on; stopped at the end if it still runs."""
    command = [sys.executable, "-m", "kvbatch", "migrate", str(bench.source("long")), target]
    command += ["--progress", "json", "--json"]
    command += ["--state-dir", str(bench.new("state")), *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = process.stderr
        for line in lines:
            if json.loads(line)["event"] == "range":
                break
        else:
            raise RuntimeError(f"{command} ended at once, with {process.wait()}")
        reader = threading.Thread(target=lines.read)
        reader.start()
        yield process
        process.send_signal(signal.SIGINT)
        reader.join()
        if process.wait() not in (0, kvbatch.StoppedError.exit_code):
            raise RuntimeError(f"{command} ended with {process.returncode}")


def during(process: subprocess.Popen[str] | None = None) -> tuple[float, float]:
    """From now on for PHASE_SECONDS, or until the process ends."""
    begin = time.monotonic()
    if process is None:
        time.sleep(PHASE_SECONDS)
    else:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PHASE_SECONDS)
    return begin, time.monotonic()


def drop_from_page_cache(store: Path) -> None:
    for file in store.iterdir():
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bring_into_page_cache(store: Path) -> None:
    for file in store.iterdir():
        with file.open("rb", buffering=0) as opened:
            while opened.read(MIB):
                pass


PLACES = ("cached", "from_disk")
LIMITED = ("--max-source-read-rate", SOURCE_READ_RATE)
READS_BESIDE: dict[str, tuple[str, ...] | None] = {
    "idle": None,
    "limited": LIMITED,
    "limited, batch": ("--lane", "batch", *LIMITED),
    "unlimited": (),
    "unlimited, batch": ("--lane", "batch"),
}


def run_as_elsewhere(process: subprocess.Popen[str]) -> None:
    """It runs when nobody else wants the CPU: what this machine has for others is all that another machine leaves."""
    for thread in Path(f"/proc/{process.pid}/task").iterdir():
        os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))


def measure_reads(bench: FlowBench) -> dict[str, Any]:
    store, record_path = bench.source("long"), bench.new("record")
    phases: list[dict[tuple[str, str], tuple[float, float]]] = []
    with foreground_process("read", store, record_path):
        for _ in range(bench.rounds):
            phases.append({})
            for where, beside in itertools.product(PLACES, READS_BESIDE):
                arguments = READS_BESIDE[beside]
                if where == "cached":
                    bring_into_page_cache(store)
                with contextlib.ExitStack() as stack:
                    process = None
                    if arguments is not None:
                        receiver, port = stack.enter_context(bench.receiver(bench.memory))
                        run_as_elsewhere(receiver)
                        process = stack.enter_context(migrating(bench, receiver_target(port), *arguments))
                    if where == "from_disk":
                        drop_from_page_cache(store)
                    phases[-1][where, beside] = during(process)
    record = Record(record_path)
    rounds = []
    for each in phases:
        figures: dict[str, float] = {}
        for where in PLACES:
            for beside in READS_BESIDE:
                for since_due, name in ((False, "p99"), (True, "p99_since_due")):
                    milliseconds = record.percentile_ms(99, *each[where, beside], since_due=since_due)
                    figures[f"{where}, {beside}: {name}_ms"] = milliseconds
                    if beside != "idle":
                        idle = figures[f"{where}, idle: {name}_ms"]
                        figures[f"{where}, {beside}: {name}_to_idle"] = milliseconds / idle
        rounds.append(figures)
    return {"medians": medians(rounds), "rounds": rounds}


WRITES_BESIDE: dict[str, tuple[str, ...] | None] = {
    "alone": None,
    "files": ("--lane", "files"),
    "batch": ("--lane", "batch"),
    "files, directory": ("--lane", "files"),
    "batch, directory": ("--lane", "batch"),
}


@contextlib.contextmanager
def writing_target(bench: FlowBench, beside: str) -> Iterator[str]:
    """On the disk, behind a receiver or in a directory."""
    if "directory" not in beside:
        with bench.receiver(bench.folder) as (_, port):
            yield receiver_target(port)
        return
    folder = bench.new("target")
    folder.mkdir()
    yield str(folder / "copy")
    shutil.rmtree(folder)
    os.sync()


def measure_writes(bench: FlowBench) -> dict[str, Any]:
    bring_into_page_cache(bench.source("long"))
    store, record_path = bench.new("written"), bench.new("record")
    phases: list[dict[str, tuple[float, float]]] = []
    with foreground_process("write", store, record_path):
        for _ in range(bench.rounds):
            phases.append({})
            for beside, arguments in WRITES_BESIDE.items():
                if arguments is None:
                    phases[-1][beside] = during()
                    continue
                with writing_target(bench, beside) as target, migrating(bench, target, *arguments) as process:
                    begin, end = during(process)
                    # What the migration left to the disk is still its doing.
                    phases[-1][beside] = begin, end + 1.0
                    time.sleep(1.0)
    shutil.rmtree(store)
    record = Record(record_path)
    rounds = []
    for each in phases:
        figures = {}
        for beside, (begin, end) in each.items():
            stalls, milliseconds = record.stalls(begin, end)
            figures[f"{beside}: stalls"] = float(stalls)
            figures[f"{beside}: stalled_ms"] = milliseconds
            figures[f"{beside}: p99_ms"] = record.percentile_ms(99, begin, end, since_due=True)
        rounds.append(figures)
    return {
        "medians": medians(rounds),
        "rounds": rounds,
        "stalls_alone": sum(each["alone: stalls"] for each in rounds),
        "stalls": max(sum(each[f"{lane}: stalls"] for each in rounds) for lane in WRITES_BESIDE if lane != "alone"),
    }
