"""What one stream counts."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["StreamCounters"]


@dataclass(slots=True)
class StreamCounters:
    """Written by one stream, read by the monitor; but `wire_bytes`, which the connection counts and only sums hold."""

    entries: int = 0
    raw_bytes: int = 0
    batches: int = 0
    wire_bytes: int = 0
    payload_bytes: int = 0
    sent_raw_bytes: int = 0  # what `payload_bytes` hold
    read_seconds: float = 0.0
    compress_seconds: float = 0.0
    network_seconds: float = 0.0
    apply_seconds: float = 0.0
    applied_frames: int = 0

    def add(self, entries: int, raw_bytes: int, batches: int = 1) -> None:
        self.entries += entries
        self.raw_bytes += raw_bytes
        self.batches += batches

    def include(self, other: StreamCounters) -> None:
        # Spelled out: going over the fields takes ten times as long, and every sample does it for each stream.
        self.entries += other.entries
        self.raw_bytes += other.raw_bytes
        self.batches += other.batches
        self.wire_bytes += other.wire_bytes
        self.payload_bytes += other.payload_bytes
        self.sent_raw_bytes += other.sent_raw_bytes
        self.read_seconds += other.read_seconds
        self.compress_seconds += other.compress_seconds
        self.network_seconds += other.network_seconds
        self.apply_seconds += other.apply_seconds
        self.applied_frames += other.applied_frames
