"""A state machine of everything that can come between a job and its end; at the end source and target are equal."""

from __future__ import annotations

import functools
import itertools
import random
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import rocksdict
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import kvbatch
from kvbatch._core.store import CAN_GRAFT
from support.places import quick_folder
from support.stores import raw_options, read_store, tree, write_store
from support.tables import table_options_of, write_in_last_level

WINDOW = 2
BATCH_BYTES = [4096, 8192, 20000]
SST_FILE_BYTES = 16384
# A file of the source that is moved as it is comes in a dozen pieces and more, so that most jobs stop inside of one.
GRAFT_BYTES = 64 << 10
PIECE_BYTES = 4096
WAYS = ["batches", "built files", "grafted files"] if CAN_GRAFT else ["batches", "built files"]
# What RocksDB leaves room for in a batch beside keys and values, generously.
FRAME_SLACK = 1024

_random = random.Random(5)
# About 700 kB in two families, moved in some eighty ranges: enough steps to stop between.
ENTRIES = {
    "default": {b"key-%04d" % number: _random.randbytes(100) for number in range(6000)},
    "other": {b"%d" % number: _random.randbytes(number % 400) for number in range(150)},
}


@functools.cache
def _sources() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="kvbatch-resume-sources-")


@functools.cache
def _source(grafts: bool) -> Path:
    """A store with these entries, to be copied. With grafts most of the first family stands in files of a last level,
    and some entries over them."""
    path = Path(_sources().name) / ("grafts" if grafts else "plain")
    if not grafts:
        return write_store(path, ENTRIES)
    store = rocksdict.Rdict(str(path), table_options_of(GRAFT_BYTES))
    entries = ENTRIES["default"]
    over = list(entries)[1000:1400:10]
    write_in_last_level(store, {key: b"old" * 30 if key in over else value for key, value in entries.items()})
    other = store.create_column_family("other", raw_options())
    for key, value in ENTRIES["other"].items():
        other[key] = value
    for key in over:
        store[key] = entries[key]
    store.flush()
    other.flush()
    del other
    store.close()
    return path


def _error_of(migration: kvbatch.Migration) -> kvbatch.KvbatchError | None:
    try:
        migration.wait(60)
    except kvbatch.KvbatchError as error:
        return error
    return None


class Resume(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.cleanup = ExitStack()
        self.folder = self.cleanup.enter_context(quick_folder("kvbatch-resume-"))
        self.cleanup.enter_context(patch("kvbatch.job_stream.FILE_PIECE_BYTES", PIECE_BYTES))
        self.source = self.folder / "source"
        self.state = self.folder / "state"
        self.receiver: kvbatch.Receiver | None = None
        self.remote = False
        self.finished = False
        # What may be sent again at most, by the interruptions so far.
        self.allowed_resent = 0

    @initialize(remote=st.booleans(), way=st.sampled_from(WAYS))
    def choose_the_way(self, remote: bool, way: str) -> None:
        self.remote = remote
        self.grafts = way == "grafted files"
        self.options = {"lane": "batch" if way == "batches" else "sst", "graft_bytes": 1 if self.grafts else 1 << 40}
        shutil.copytree(_source(self.grafts), self.source)
        self.source_tree = tree(self.source)
        if remote:
            self._serve()

    def _serve(self) -> None:
        self.receiver = kvbatch.serve(self.folder / "root")

    def _target(self) -> str:
        if self.receiver is None:
            return str(self.folder / "root" / "target")
        return f"kvbatch://127.0.0.1:{self.receiver.port}/target"

    def _migrate(self, **options: Any) -> kvbatch.Migration:
        # The receiver's port may differ from run to run: the job is told by its name.
        chosen = {
            "job": "resume",
            "state_dir": self.state,
            "window": WINDOW,
            "range_bytes": 8192,
            "max_ranges": 200,
            "sst_file_bytes": SST_FILE_BYTES,
            "batch_bytes": 4096,
            "retries": 0,
            **self.options,
            **options,
        }
        return kvbatch.Migration(str(self.source), self._target(), kvbatch.MigrationOptions.checked(**chosen))

    def _run_for(self, events: int, **options: Any) -> kvbatch.Migration:
        """Starts it, anew when it is finished already, and comes back after so many events, or at its end."""
        if self.finished:
            shutil.rmtree(self.folder / "root" / "target")
            shutil.rmtree(self.state, ignore_errors=True)
            self.finished = False
            self.allowed_resent = 0
        migration = self._migrate(**options)
        seen = migration.events()
        migration.start()
        for _ in itertools.islice(seen, events):
            pass
        return migration

    def _interrupted(self, streams: int, batch_bytes: int) -> None:
        """One window a stream: nobody dies here without a word. Of a file that is built again the whole piece counts in
        which what the target kept of it ends."""
        self.allowed_resent += streams * (WINDOW + 1) * (batch_bytes + FRAME_SLACK)

    def _end(self, migration: kvbatch.Migration, streams: int, batch_bytes: int) -> None:
        """Waits; the job may as well have been quicker than what was to stop it."""
        error = _error_of(migration)
        if error is None:
            self._check_finished(migration.wait())
        elif isinstance(error, kvbatch.RefusedError):
            # The target was finished before, and the sender lost its record of that, or never got the answer.
            assert "already holds data" in str(error)
            self._check_content()
            self.finished = True
        else:
            assert error.resumable or error.retryable, repr(error)
            self._interrupted(streams, batch_bytes)

    def _check_content(self) -> None:
        assert read_store(self.folder / "root" / "target") == ENTRIES

    def _check_finished(self, summary: kvbatch.Summary) -> None:
        self.finished = True
        assert summary.state == "done"
        assert summary.entries == sum(len(entries) for entries in ENTRIES.values())
        assert summary.resent_bytes <= self.allowed_resent
        self._check_content()

    @rule(events=st.integers(0, 160), streams=st.integers(1, 3), batch_bytes=st.sampled_from(BATCH_BYTES))
    def run_and_cancel(self, events: int, streams: int, batch_bytes: int) -> None:
        migration = self._run_for(events, streams=streams, batch_bytes=batch_bytes)
        migration.cancel()
        self._end(migration, streams, batch_bytes)

    @precondition(lambda self: self.remote)
    @rule(events=st.integers(0, 160), streams=st.integers(1, 3), batch_bytes=st.sampled_from(BATCH_BYTES))
    def run_and_stop_the_receiver(self, events: int, streams: int, batch_bytes: int) -> None:
        assert self.receiver is not None
        migration = self._run_for(events, streams=streams, batch_bytes=batch_bytes)
        self.receiver.stop()
        self._end(migration, streams, batch_bytes)
        self._serve()

    @rule()
    def lose_the_senders_state(self) -> None:
        shutil.rmtree(self.state, ignore_errors=True)

    # No precondition may ask whether the job is finished: that is a matter of speed, and would make examples flaky.
    @rule()
    def another_source_of_that_name_is_refused(self) -> None:
        """A source that changed is another one; the job's own carries on behind it."""
        started = (self.folder / "root" / "target" / "CURRENT").exists() and not self.finished
        kept = self.folder / "kept"
        self.source.rename(kept)
        write_store(self.source, {"default": {b"changed": b"1"}, "other": {}})
        try:
            if started:
                files = self._files()
                refused = _error_of(self._migrate().start())
                assert isinstance(refused, kvbatch.RefusedError), "it went on with the job of another source"
                assert "fingerprint" in str(refused) or "already holds data" in str(refused)
                assert self._files() >= files, "files of the target are gone"
        finally:
            shutil.rmtree(self.source)
            kept.rename(self.source)

    def _files(self) -> set[tuple[str, int]]:
        target = self.folder / "root" / "target"
        return {(file.name, file.stat().st_size) for file in target.glob("*.sst")}

    def _run_to_the_end(self) -> None:
        """And once more behind it: done already, or refused when the sender forgot it; never written again."""
        for _ in range(2):
            files = self._files() if self.finished else set()
            self._end(self._migrate().start(), 4, 4096)
            assert self.finished
            assert files <= self._files()

    @invariant()
    def source_is_untouched(self) -> None:
        assert tree(self.source) == self.source_tree

    def teardown(self) -> None:
        try:
            self._run_to_the_end()
            assert kvbatch.verify(str(self.source), self._target()).equal
        finally:
            if self.receiver is not None:
                self.receiver.stop()
            self.cleanup.close()


TestResume = Resume.TestCase
# An example is a whole life of a job: fewer of them than of others.
TestResume.settings = settings(max_examples=max(1, settings().max_examples * 3 // 8), stateful_step_count=8)
