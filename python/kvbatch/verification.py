"""Comparing two stores and repairing the keys that differ. docs/verify.md has the page."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from functools import partial

from kvbatch._core.store import SourceStore
from kvbatch.comparison import VerifyReport, compare
from kvbatch.endpoints import DirectoryEndpoint, check_apart, parse_endpoint
from kvbatch.errors import RefusedError, UsageError
from kvbatch.options import check_family_names
from kvbatch.ranges import KeyRange, parse_key_range
from kvbatch.repair import repair_keys

__all__ = ["verify"]


def verify(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    repair: bool = False,
    column_families: Sequence[str] = (),
    key_range: KeyRange | str | None = None,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Compares every entry of `source` with `target`, both directions, by digests of ranges.

    Both are read as they stand at rest. With `repair` the differing keys, and only those, are written to the target,
    and everything is compared again; very many differences take several such passes. `column_families` and `key_range`
    restrict both sides. `on_progress` gets entries compared and expected. Raises UsageError, RefusedError, SourceError,
    TransportError.
    """
    source_endpoint, target_endpoint = parse_endpoint(source), parse_endpoint(target)
    check_apart(source_endpoint, target_endpoint)
    if not isinstance(source_endpoint, DirectoryEndpoint):
        raise UsageError(f"{source_endpoint}: verify reads the source as a directory on this machine")
    wanted = KeyRange() if key_range is None else parse_key_range(key_range)
    once = partial(
        compare,
        source_endpoint,
        target_endpoint,
        tuple(check_family_names(column_families)),
        wanted,
        threads,
        repair,
        on_progress,
    )
    report, differences = once()
    if report.equal or not repair:
        return report
    if report.unfinished:
        raise RefusedError(
            f"{target_endpoint} is the target of an unfinished migration; run its `kvbatch migrate` again instead"
        )
    if report.families_extra:
        raise RefusedError(
            f"the target has column families that the source lacks ({', '.join(report.families_extra)}); drop them "
            "with the program they belong to"
        )
    if report.families_missing:
        options = " ".join(f"--cf {shlex.quote(name)}" for name in report.families_missing)
        raise RefusedError(
            f"the target lacks whole column families: bring them with `kvbatch migrate {options} --allow-nonempty "
            f"{shlex.quote(str(source))} {shlex.quote(str(target))}`, then verify again"
        )
    store = SourceStore(str(source_endpoint.path))
    again = report
    while differences:
        differing = again.keys_differing
        report.keys_repaired += repair_keys(store, target_endpoint, differences)
        again, differences = once()
        if again.keys_differing >= differing:
            break  # somebody else writes to the target, or its disk forgets
    report.equal = again.equal
    report.entries_target = again.entries_target
    return report
