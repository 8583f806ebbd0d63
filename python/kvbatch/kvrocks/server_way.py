"""How a job goes to a running Kvrocks server: what of its options can be had there, and its ranges."""

from __future__ import annotations

from kvbatch._core.store import SourceStore
from kvbatch.errors import RefusedError, UsageError
from kvbatch.kvrocks.source import KvrocksSource, server_ranges
from kvbatch.lane_choice import Way, plan_read
from kvbatch.options import MigrationOptions
from kvbatch.ranges import KeyRange

__all__ = ["server_options", "server_way"]


def server_options(options: MigrationOptions) -> MigrationOptions:
    """With what a server leaves no choice of. Raises RefusedError for a lane that cannot serve, UsageError for an
    option that makes no sense there."""
    if options.lane in ("sst", "files"):
        raise RefusedError(
            f"--lane {options.lane}: a running Kvrocks server takes no files, and has no command that ingests some. "
            "Nothing was sent; leave --lane out"
        )
    if options.column_families or options.key_range != KeyRange():
        raise UsageError(
            "--cf and --range cut a Kvrocks directory where a key and its elements would part: choose with --slots or "
            "--namespace, or leave them out for all of it"
        )
    if options.allow_nonempty:
        raise UsageError(
            "--allow-nonempty is for directories. In a server elements of an earlier copy would come back: --overwrite "
            "has what is there deleted first"
        )
    if "streams" in options.model_fields_set and options.streams not in (0, 1):
        raise UsageError(
            f"--streams {options.streams}: a Kvrocks server writes one batch at a time, and more connections were "
            "slower than one; leave --streams out"
        )
    return options.model_copy(update={"streams": 1, "max_streams": 1})


def server_way(store: SourceStore, options: MigrationOptions, source: KvrocksSource) -> Way:
    ranges = server_ranges(list(plan_read(store, source.selection, options)), source)
    return Way("batch", "what a running Kvrocks server takes: APPLYBATCH", ranges)
