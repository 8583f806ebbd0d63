"""How long a job will take: from a short look at how fast this machine reads the source, and at the link."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

from kvbatch._core.base import file_crc32c
from kvbatch._core.frame import FrameType
from kvbatch._core.store import SourceStore, SstBuilder
from kvbatch.endpoints import Endpoint, is_elsewhere
from kvbatch.errors import KvbatchError
from kvbatch.lane_choice import bytes_read
from kvbatch.migration_plan import Plan
from kvbatch.options import MIB, MigrationOptions
from kvbatch.protocol import connect
from kvbatch.source_image import open_source_file

__all__ = ["Calibration", "calibrate", "estimate_seconds"]

_SAMPLE_SECONDS = 0.05
_FILE_SAMPLE_BYTES = 32 * MIB
_PIECE_BYTES = MIB
# Sending, receiving and keeping a byte costs both sides together about that much CPU time, whatever lane it came by
# (docs/lanes.md, what the lanes cost); a disk or network that is slower than that is not looked at here.
_MOVE_SECONDS_PER_BYTE = 0.6e-9
# Connecting, planning, opening and finishing the target.
_FIXED_SECONDS = 0.1
_PROBE_BYTES = (0, 64 << 10, 512 << 10, 4 * MIB)
_PROBE_SECONDS = 0.2
# What a probe reaches where its own JSON is the limit says nothing about the link.
_FASTEST_PROBE = 200e6


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured. Seconds are CPU seconds of one core.

    file_seconds_per_byte    reading a file's bytes and computing their crc32c
    entry_seconds_per_byte   reading entries and building SST files of them, by bytes of keys and values
    link_bytes_per_second    what the link to the receiver takes; infinite where there is none, where it is faster than
                             what measures it, and where nobody answers
    """

    file_seconds_per_byte: float
    entry_seconds_per_byte: float
    link_bytes_per_second: float = math.inf


def calibrate(store: SourceStore, plan: Plan, target: Endpoint) -> Calibration:
    """Takes about a third of a second; changes nothing. Raises SourceError."""
    file_rate = _file_seconds_per_byte(store, plan)
    entry_rate = _entry_seconds_per_byte(store, plan)
    return Calibration(file_rate, entry_rate, _link_bytes_per_second(target))


def _file_seconds_per_byte(store: SourceStore, plan: Plan) -> float:
    part = max(plan.ranges, key=lambda part: part.file_bytes, default=None)
    if part is None or not part.file:
        return 0.0
    path = Path(store.path) / part.file
    size = min(part.file_bytes, _FILE_SAMPLE_BYTES)
    began = time.perf_counter()
    with open_source_file(path) as fd:
        file_crc32c(fd, 0, size, str(path))
    return (time.perf_counter() - began) / max(1, size)


def _entry_seconds_per_byte(store: SourceStore, plan: Plan) -> float:
    """Of the largest range that is not moved by a file."""
    read = [part for part in plan.ranges if not part.file]
    part = max(read, key=lambda part: part.estimated_bytes, default=None)
    if part is None:
        return 0.0
    family = next(family for family in plan.manifest.families if family.name == part.column_family)
    began = time.perf_counter()
    builder = SstBuilder(store, part.column_family, part.start, part.end, target=family, file_bytes=1 << 40)
    while True:
        piece = builder.build(_PIECE_BYTES)
        seconds = time.perf_counter() - began
        # A large entry takes memory that a plan has not.
        if piece.ends_range or piece.needed_bytes or seconds >= _SAMPLE_SECONDS:
            return seconds / max(1, piece.raw_bytes)


def _link_bytes_per_second(target: Endpoint) -> float:
    if not is_elsewhere(target):
        return math.inf
    rate = round_trip = 0.0
    try:
        peer, _ = connect(target.host, target.port, "control")
        try:
            deadline = time.perf_counter() + _PROBE_SECONDS
            for size in _PROBE_BYTES:
                request = b'{"operation":"probe","padding":"%s"}' % (b"x" * size)
                began = time.perf_counter()
                peer.connection.send_control(FrameType.REQUEST, request)
                peer.receive(FrameType.REPLY)
                seconds = time.perf_counter() - began
                if size == 0:
                    round_trip = seconds
                else:
                    rate = size / max(1e-6, seconds - round_trip)
                if time.perf_counter() >= deadline:
                    break
        finally:
            peer.close()
    except KvbatchError:
        return math.inf  # the target's state says who does not answer, and why
    return rate if 0 < rate < _FASTEST_PROBE else math.inf


def estimate_seconds(plan: Plan, measured: Calibration, target: Endpoint, options: MigrationOptions) -> float:
    """What is left of a planned job. Both sides share this machine's cores unless the receiver is on another one."""
    file_bytes = sum(part.file_bytes for part in plan.ranges)
    read_bytes = bytes_read(plan.ranges)
    work = file_bytes * (measured.file_seconds_per_byte + _MOVE_SECONDS_PER_BYTE)
    work += read_bytes * (measured.entry_seconds_per_byte + _MOVE_SECONDS_PER_BYTE)
    cores = len(os.sched_getaffinity(0))
    if is_elsewhere(target):
        cores *= 2
    cores = min(cores, 2 * options.expected_streams)
    seconds = max(work / cores, (file_bytes + read_bytes) / measured.link_bytes_per_second)
    state = plan.target_state
    if state is not None and state.kind == "finished":
        return 0.0
    left = 1 - state.ranges_complete / state.ranges if state is not None and state.ranges else 1.0
    return _FIXED_SECONDS + seconds * left
