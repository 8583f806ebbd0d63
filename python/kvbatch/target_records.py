"""The records of an unfinished job, read without opening its store for writing."""

from __future__ import annotations

from pathlib import Path

from kvbatch._core.batch import decode_batch
from kvbatch._core.frame import BufferPool, Frame
from kvbatch._core.store import RESERVED_COLUMN_FAMILY, RangeReader, SourceStore, StopReason
from kvbatch.options import MIB

__all__ = ["read_records"]

_MAX_RECORD_BYTES = 1 << 30


def read_records(path: Path) -> dict[bytes, bytes]:
    """What stands in the reserved column family of the store at `path`. Layout: docs/resume.md."""
    store = SourceStore(str(path), [RESERVED_COLUMN_FAMILY])
    reader = RangeReader(store, RESERVED_COLUMN_FAMILY, None, None)
    frame = Frame(BufferPool(_MAX_RECORD_BYTES))
    records: dict[bytes, bytes] = {}
    while True:
        filled = reader.fill(frame, MIB)
        while filled.stop is StopReason.LARGE_ENTRY:
            frame.release()
            filled = reader.fill_large(frame, filled.needed_bytes)
        records.update({key: value for _, _, key, value in decode_batch(frame.raw())})
        if filled.stop is StopReason.END:
            return records
