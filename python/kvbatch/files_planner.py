"""What the lane `files` moves, and where it cannot serve."""

from __future__ import annotations

import os
from pathlib import Path

from kvbatch._core.store import SourceStore
from kvbatch.endpoints import DirectoryEndpoint, Endpoint
from kvbatch.errors import RefusedError, UsageError
from kvbatch.options import MigrationOptions
from kvbatch.ranges import KeyRange, Range
from kvbatch.source_image import check_one_directory, image_ranges

__all__ = ["check_link", "plan_files"]


def plan_files(source: DirectoryEndpoint, store: SourceStore, options: MigrationOptions) -> tuple[Range, ...]:
    """A range for each file of the store. Raises RefusedError where the lane cannot serve."""
    _check_serves(source, options)
    return tuple(image_ranges(store))


def _check_serves(source: DirectoryEndpoint, options: MigrationOptions) -> None:
    """Raises RefusedError, naming the condition, where the lane `files` cannot serve."""
    other = "Nothing was changed; use --lane sst or --lane batch"
    if options.column_families:
        raise RefusedError(
            "the lane `files` moves whole stores, and --cf was given: a store's MANIFEST speaks of the files of all "
            f"column families, so those of one cannot be taken out of it. {other}"
        )
    if options.key_range != KeyRange():
        raise RefusedError(
            f"the lane `files` moves whole stores, and --range was given: a file holds what it holds. {other}"
        )
    if options.allow_nonempty:
        raise RefusedError(
            "the lane `files` makes the target's files its own, and --allow-nonempty was given: no file of a store can "
            "be put into another one. Nothing was changed; use --lane batch"
        )
    if options.target_compression != "auto":
        raise RefusedError(
            "the lane `files` moves files as they are, and --target-compression "
            f"{options.target_compression} was given. {other}"
        )
    check_one_directory(source.path)


def check_link(source: DirectoryEndpoint, target: Endpoint, options: MigrationOptions) -> None:
    """Raises UsageError or RefusedError, naming the condition, where files cannot be linked."""
    if not options.link:
        return
    if options.lane != "files":
        raise UsageError("--link makes hard links of a store's files: it goes with --lane files only")
    if not isinstance(target, DirectoryEndpoint):
        raise RefusedError(
            f"--link: {target} stands behind a receiver, where files of this machine cannot be linked to. Nothing was "
            "changed; migrate without --link"
        )
    standing = Path(os.path.realpath(target.path)).parent
    while not standing.exists():
        standing = standing.parent
    if standing.stat().st_dev != source.path.stat().st_dev:
        raise RefusedError(
            f"--link: {source} and {target} lie on different file systems. Nothing was changed; migrate without --link"
        )
