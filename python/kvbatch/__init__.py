"""kvbatch moves raw key-values between RocksDB stores as checksummed batches, with resume and proof of equality."""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, whose import takes longer than all of this
if TYPE_CHECKING:
    from kvbatch.api import migrate, plan, report, serve, verify
    from kvbatch.comparison import Difference, VerifyReport
    from kvbatch.control_client import JobControl, control
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
        UnavailableError,
        UsageError,
    )
    from kvbatch.events import Event, Progress, Summary
    from kvbatch.inspection import Inspection, inspect
    from kvbatch.job_discard import Discarded, discard
    from kvbatch.job_status import JobStatus
    from kvbatch.metrics_listener import MetricsListener, serve_metrics
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
    "Discarded",
    "Event",
    "GapError",
    "Inspection",
    "JobControl",
    "JobStatus",
    "KeyRange",
    "KvbatchError",
    "MetricsListener",
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
    "UnavailableError",
    "UsageError",
    "VerifyReport",
    "__version__",
    "control",
    "discard",
    "inspect",
    "migrate",
    "plan",
    "report",
    "serve",
    "serve_metrics",
    "verify",
]

# The modules that the exports come from.
_HOMES = (
    "api",
    "comparison",
    "control_client",
    "errors",
    "events",
    "job_discard",
    "job_status",
    "metrics_listener",
    "migration",
    "migration_plan",
    "options",
    "ranges",
    "server",
    "version",
    "inspection",  # last: numpy comes with it
)

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Imports an export when it is asked for first. That takes half a second, and before it begins the program has
        to have its say about signals (kvbatch.__main__), which this package comes before."""
        if name in __all__:
            from importlib import import_module

            for home in _HOMES:
                module = import_module(f"kvbatch.{home}")
                if name in module.__all__:
                    globals()[name] = getattr(module, name)
                    return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
