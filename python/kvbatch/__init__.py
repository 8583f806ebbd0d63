"""kvbatch moves raw key-values between RocksDB stores as checksummed batches, with resume and proof of equality."""

from kvbatch.api import migrate, plan, serve, verify
from kvbatch.comparison import Difference, VerifyReport
from kvbatch.errors import (
    ClosedError,
    CorruptionError,
    GapError,
    KvbatchError,
    NoSpaceError,
    ProtocolError,
    RefusedError,
    SourceError,
    StoppedError,
    TargetError,
    TransportError,
    UsageError,
)
from kvbatch.events import Event, Progress, Summary
from kvbatch.migration import Migration
from kvbatch.migration_plan import Plan
from kvbatch.options import MigrationOptions
from kvbatch.ranges import KeyRange, Range
from kvbatch.server import Receiver
from kvbatch.version import __version__

__all__ = [
    "ClosedError",
    "CorruptionError",
    "Difference",
    "Event",
    "GapError",
    "KeyRange",
    "KvbatchError",
    "Migration",
    "MigrationOptions",
    "NoSpaceError",
    "Plan",
    "Progress",
    "ProtocolError",
    "Range",
    "Receiver",
    "RefusedError",
    "SourceError",
    "StoppedError",
    "Summary",
    "TargetError",
    "TransportError",
    "UsageError",
    "VerifyReport",
    "__version__",
    "migrate",
    "plan",
    "serve",
    "verify",
]
