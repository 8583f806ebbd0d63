"""Made-up histories of jobs, as a report shows them."""

from __future__ import annotations

import math
from typing import Any

from kvbatch.events import Event
from kvbatch.samples import HistoryWriter
from kvbatch.state import JobState, StateStore

__all__ = ["START", "write_history"]

START = 1_700_000_000.0
MIB = 1 << 20
OPTIONS = {
    "lane": "batch",
    "streams": 4,
    "max_memory": 256 * MIB,
    "batch_bytes": 2 * MIB,
    "window": 16,
    "column_families": [],
    "key_range": "..",
    "allow_nonempty": False,
    "job": None,
}


def write_history(
    state: StateStore,
    job: str,
    *,
    seconds: int = 600,
    ranges: int = 40,
    runs: int = 2,
    wire: bool = True,
    source: str = "/data/source",
    target: str = "kvbatch://127.0.0.1:7720/copy",
    message: str = "the disk of the target is nearly full",
    reasons: tuple[str, ...] = ("window", "rate-limit", "target-stall"),
) -> None:
    """A job of `runs` runs of `seconds` each, an hour apart: its rate swells and sinks, its target stalls once a run,
    and each run but the last ends with a retry and leaves the last range that it began unfinished."""
    state.start(job, source, target, "f" * 32)
    state.note_opened(job, OPTIONS, identity="", fingerprint="f" * 32)
    done_bytes = 0
    for run in range(runs):
        writer = HistoryWriter(state, job)
        began = START + run * (seconds + 3600)
        writer.note(
            Event(
                "job",
                began,
                {"job": job, "lane": "batch", "lane_reason": "asked for", "ranges": ranges, "resumed": run > 0},
            )
        )
        throttled = dict.fromkeys(reasons, 0.0)
        for second in range(1, seconds + 1):
            part = second / seconds
            stalled = 0.45 < part < 0.55
            rate = (6 if stalled else 120 + 40 * math.sin(18 * part)) * MIB
            done_bytes += int(rate)
            for number, reason in enumerate(reasons):
                throttled[reason] += (0.8 if stalled else 0.05) if number == len(reasons) - 1 else 0.1 * part
            writer.sample(
                began + second,
                {
                    "seconds": float(second),
                    "entries": done_bytes // 116,
                    "raw_bytes": done_bytes,
                    "durable_bytes": done_bytes,
                    "wire_bytes": int(second * 70 * MIB) if wire else 0,
                    "entries_per_second": rate / 116,
                    "bytes_per_second": rate,
                    "batch_bytes": int(2 * MIB / (4 if stalled else 1)),
                    "window": 4 if stalled else 16,
                    "round_trip_seconds": (0.4 if stalled else 0.02 + 0.004 * math.sin(40 * part)) if wire else None,
                    "apply_seconds": (0.35 if stalled else 0.006) if wire else None,
                    "rss_bytes": int((120 + 60 * part) * MIB),
                    "streams": 4,
                    "state": "running",
                    "throttle": reasons[-1] if stalled and reasons else None,
                    "compression": "lz4" if wire else "none",
                    "compression_ratio": 1.6 if wire else 1.0,
                    "stage_seconds": {"read": 0.6 * second, "network": 0.1 * second, "apply": 0.4 * second},
                    "bottleneck": "read",
                    "throttled_seconds": dict(throttled),
                    "ranges_complete": ranges * (run + 1) // runs,
                    "ranges": ranges,
                },
            )
        first, beyond = ranges * run // runs, ranges * (run + 1) // runs
        for number in range(first, beyond):
            at = began + seconds * (number - first) / max(1, beyond - first)
            writer.note(Event("range", at, {"range": number, "state": "started"}))
            done: dict[str, Any] = {"range": number, "state": "complete"}
            # The last of a run is finished by the next one.
            if number < beyond - 1 or run == runs - 1:
                writer.note(Event("range", at + 2.5 * seconds / (beyond - first), done))
            else:
                writer.note(Event("range", began + seconds + 3601, {"range": number, "state": "started"}))
                writer.note(Event("range", began + seconds + 3620, done))
        writer.note(Event("warning", began + seconds / 2, {"message": message}))
        if run < runs - 1:
            writer.note(Event("retry", began + seconds, {"attempt": 1, "wait_seconds": 0.4, "error": message}))
            writer.note(Event("done", began + seconds, {"state": "stopped", "error": message}))
        writer.flush()
    state.update(job, state=JobState.DONE)
