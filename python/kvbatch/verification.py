"""Comparing two stores and repairing the keys that differ. docs/verify.md has the page."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

from kvbatch._core.store import SourceStore
from kvbatch.comparison import Meter, Readers, VerifyReport, compare
from kvbatch.endpoints import DirectoryEndpoint, KvrocksEndpoint, check_apart, parse_endpoint
from kvbatch.errors import KvbatchError, RefusedError, StoppedError, UsageError
from kvbatch.events import Event, EventBus, Progress
from kvbatch.kept_options import option_words, options_to_json
from kvbatch.kvrocks.keys import KEYED_FAMILIES
from kvbatch.kvrocks.selection import find_selection
from kvbatch.kvrocks.slots import Slots
from kvbatch.logs import Logger
from kvbatch.options import SELECTING, VerifyOptions, default_state_dir
from kvbatch.ranges import KeyRange
from kvbatch.repair import repair_keys
from kvbatch.shell_words import join_words
from kvbatch.state import JobState, existing_state, state_after
from kvbatch.stopping import StopRequest
from kvbatch.store_reader import unfinished_source

__all__ = ["Verification", "verify"]

log = Logger("kvbatch.state")

# Of a key that is kept in the state directory, which stays small.
_KEPT_KEY_CHARACTERS = 256


class Verification:
    """A comparison and the repair that may follow. `run` is called once; the rest may be called from any thread."""

    def __init__(
        self,
        source: str | os.PathLike[str],
        target: str | os.PathLike[str],
        *,
        repair: bool,
        column_families: Sequence[str],
        key_range: KeyRange | str | None,
        slots: Slots | str | None = None,
        namespace: str | None = None,
        threads: int | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        state_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        """Raises UsageError or RefusedError; both stores are opened by `run`."""
        endpoint, compared = parse_endpoint(source), parse_endpoint(target)
        check_apart(endpoint, compared)
        if not isinstance(endpoint, DirectoryEndpoint):
            raise UsageError(f"{endpoint}: verify reads the source as a directory on this machine")
        if on_progress is not None and not callable(on_progress):
            raise UsageError(f"on_progress {on_progress!r}: give a function of one argument, a Progress, or None")
        self._options = VerifyOptions.checked(
            repair=repair,
            column_families=column_families,
            key_range=key_range,
            slots=slots,
            namespace=namespace,
            threads=threads,
            state_dir=state_dir,
        )
        if isinstance(compared, KvrocksEndpoint):
            words = join_words(option_words({**self._selecting(), "column_families": list(KEYED_FAMILIES)}))
            raise UsageError(
                f"{compared}: a running server cannot be read entry by entry. Have it make a backup (BGSAVE) and "
                f"compare with that, the directory `backup` beside its `db`: kvbatch verify {words} SOURCE BACKUP"
            )
        self._source, self._target = endpoint, compared
        self._on_progress = on_progress
        self._bus = EventBus()
        self._meter = Meter(self._tell)
        self._stop = StopRequest()
        self._repair_began = False

    def events(self) -> Iterator[Event]:
        """`sample` about twice a second, then `done`."""
        return self._bus.subscribe()

    def cancel(self) -> None:
        """Makes `run` raise StoppedError once the ranges that are being read come to their end."""
        self._stop.make()

    def run(self) -> VerifyReport:
        try:
            report = self._run()
        except BaseException as error:
            self._bus.publish("done", state=state_after(error), error=str(error))
            raise
        self._keep(report)
        self._bus.publish("done", state=JobState.DONE, **report.to_json())
        return report

    def _keep(self, report: VerifyReport) -> None:
        """For `kvbatch report` of the job that this source and target belong to. Where that fails it is told, and the
        outcome stays what it is."""
        found = report.to_json()
        for difference in found["samples"]:
            difference["key"] = difference["key"][:_KEPT_KEY_CHARACTERS]
        verification = {
            **found,
            "time": time.time(),
            **self._selecting(),
        }
        try:
            with existing_state(self._options.state_dir or default_state_dir()) as state:
                if state is not None:
                    state.keep_verification(str(self._source), str(self._target), verification)
        except (UsageError, OSError) as error:
            message = f"{error}. `kvbatch report` will not show this verify; its result is not affected"
            log.warning("state directory lost", message=message)
            self._bus.publish("warning", message=message)

    def _run(self) -> VerifyReport:
        try:
            report, differences = self._compare()
            if self._options.repair and not report.equal:
                self._check_repairable(report)
                self._repair_keys(report, differences)
            return report
        except KvbatchError as error:
            # A connection that was interrupted looks broken.
            if self._stop.made:
                kept = "what was repaired so far stays, run it again" if self._repair_began else "nothing was changed"
                raise StoppedError(f"verify was stopped on request; {kept}") from error
            raise

    def _selecting(self) -> dict[str, Any]:
        """The options that say what is compared, as they are kept."""
        kept = options_to_json(self._options)
        return {name: kept[name] for name in SELECTING}

    def _tell(self, progress: Progress) -> None:
        self._bus.publish("sample", **dataclasses.asdict(progress))
        if self._on_progress is not None:
            self._on_progress(progress)

    def _compare(self) -> tuple[VerifyReport, dict[str, list[bytes]]]:
        with (
            closing(Readers(self._source, self._stop, self._options.families_to_open)) as source,
            closing(Readers(self._target, self._stop, of_target=True)) as target,
        ):
            if source.first.unfinished():
                raise unfinished_source(self._source)
            return compare(
                source,
                target,
                find_selection(source.store, self._options),
                self._meter,
                all_families=not self._options.column_families,
                threads=self._options.threads,
                keep=self._options.repair,
            )

    def _check_repairable(self, report: VerifyReport) -> None:
        """Raises RefusedError."""
        if report.unfinished:
            raise RefusedError(
                f"{self._target} is the target of an unfinished migration; run its `kvbatch migrate` again instead"
            )
        if report.families_extra:
            raise RefusedError(
                f"the target has column families that the source lacks ({', '.join(report.families_extra)}); drop them "
                "with the program they belong to"
            )
        if report.families_missing:
            options = option_words({**self._selecting(), "column_families": report.families_missing})
            command = ["kvbatch", "migrate", *options, "--allow-nonempty", str(self._source), str(self._target)]
            raise RefusedError(
                f"the target lacks whole column families: bring them with `{join_words(command)}`, then verify again"
            )

    def _repair_keys(self, report: VerifyReport, differences: dict[str, list[bytes]]) -> None:
        """Repairs and compares until nothing differs; the outcome goes into the report of the first comparison."""
        store = SourceStore(str(self._source.path))
        self._repair_began = True
        again = report
        while differences:
            differing = again.keys_differing
            report.keys_repaired += repair_keys(store, self._target, differences, self._stop)
            self._stop.check()
            again, differences = self._compare()
            if again.keys_differing >= differing:
                break  # somebody else writes to the target, or its disk forgets
        report.equal = again.equal
        report.entries_target = again.entries_target


def verify(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    repair: bool = False,
    column_families: Sequence[str] = (),
    key_range: KeyRange | str | None = None,
    slots: Slots | str | None = None,
    namespace: str | None = None,
    threads: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    state_dir: str | os.PathLike[str] | None = None,
) -> VerifyReport:
    """Compares every entry of `source` with `target`, both directions, by digests of ranges.

    Both are read as they stand at rest. With `repair` the differing keys, and only those, are written to the target,
    and everything is compared again; very many differences take several such passes. `column_families`, `key_range`
    and, of a Kvrocks directory, `slots` and `namespace` restrict both sides. `on_progress` is called about twice a
    second and at the end of each comparison, in the calling thread: entries and bytes are those of the source, ranges
    that differ count twice. Where `state_dir` (None: the XDG state directory) knows a job of this source and target,
    its report shows the result from now on. Raises UsageError, RefusedError, SourceError, TargetError, TransportError.
    """
    return Verification(
        source,
        target,
        repair=repair,
        column_families=column_families,
        key_range=key_range,
        slots=slots,
        namespace=namespace,
        threads=threads,
        on_progress=on_progress,
        state_dir=state_dir,
    ).run()
