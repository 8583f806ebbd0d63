"""Where jobs stand at servers, in the state directory."""

from __future__ import annotations

import dataclasses
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from kvbatch._core.store import ColumnFamilyDescription, Cursor
from kvbatch.errors import TargetError
from kvbatch.kvrocks.kept_cursors import KeptCursors, find_kept
from kvbatch.manifest import Manifest
from kvbatch.ranges import KeyRange, Range, Selection
from kvbatch.state import StateStore

SERVER = "kvrocks://127.0.0.1:6666"
MANIFEST = Manifest(
    job="one",
    source="/data/db",
    fingerprint="f",
    lane="batch",
    selection=Selection(),
    families=(ColumnFamilyDescription("metadata"),),
    ranges=(Range(0, "metadata", None, b"\xff"), Range(1, "metadata", b"\xff", None)),
)
FIRST = Cursor(0, complete=True, entries=7, raw_bytes=70, digest=b"0123456789abcdef", last_key=b"a\0\xff")
SECOND = Cursor(1, entries=5, raw_bytes=50, digest=bytes(16), last_key=b"\xff\xff")


def test_nothing_is_kept_of_a_job_that_nobody_began(tmp_path: Path) -> None:
    assert find_kept(tmp_path / "none", "one") is None
    assert not (tmp_path / "none").exists()
    with closing(KeptCursors(tmp_path, "one")) as kept:
        assert kept.find() is None


def test_what_is_kept_is_found_by_whoever_comes_next(tmp_path: Path) -> None:
    with closing(KeptCursors(tmp_path, "one")) as kept:
        kept.begin(SERVER, MANIFEST, 1000)
        kept.note([Cursor(0, entries=3, raw_bytes=30, last_key=b"a")])
        kept.note([FIRST, SECOND])
    found = find_kept(tmp_path, "one")
    assert found is not None
    assert (found.target, found.sequence, found.broken, found.finished) == (SERVER, 1000, "", False)
    # A description has no equality of its own.
    assert found.manifest.to_json() == MANIFEST.to_json()
    assert found.cursors == (FIRST, SECOND)
    assert found.least_sequence == 1012
    assert find_kept(tmp_path, "other") is None


def test_a_kept_job_is_of_one_source_one_selection_and_one_target(tmp_path: Path) -> None:
    with closing(KeptCursors(tmp_path, "one")) as kept:
        kept.begin(SERVER, MANIFEST, 1000)
        found = kept.find()
    assert found is not None
    assert found.is_of(SERVER, MANIFEST)
    assert not found.is_of("kvrocks://127.0.0.1:6667", MANIFEST)
    assert not found.is_of(SERVER, dataclasses.replace(MANIFEST, fingerprint="g"))
    assert not found.is_of(SERVER, dataclasses.replace(MANIFEST, selection=Selection(KeyRange(b"a"))))


def test_a_job_that_begins_anew_has_nothing_of_the_last_one(tmp_path: Path) -> None:
    with closing(KeptCursors(tmp_path, "one")) as kept:
        kept.begin(SERVER, MANIFEST, 1000)
        kept.note([FIRST])
        kept.note_broken("it says so")
        kept.note_finished()
        before = kept.find()
        kept.begin(SERVER, MANIFEST, 2000)
        after = kept.find()
    assert before is not None
    assert (before.broken, before.finished) == ("it says so", True)
    assert after is not None
    assert (after.broken, after.finished, after.cursors, after.least_sequence) == ("", False, (), 2000)


def test_what_is_kept_goes_with_the_record_of_the_job(tmp_path: Path) -> None:
    with closing(StateStore(tmp_path)) as state, closing(KeptCursors(tmp_path, "one")) as kept:
        for job in ("one", "other"):
            state.start(job, "/data/db", SERVER, "f")
        kept.begin(SERVER, MANIFEST, 1000)
        kept.note([FIRST])
        state.forget("other")
        assert kept.find() is not None
        state.forget("one")
        assert kept.find() is None
        with state.transaction() as database:
            assert database.execute("SELECT count(*) FROM server_cursors").fetchone()[0] == 0


def test_a_database_of_an_earlier_release_gets_what_it_lacks(tmp_path: Path) -> None:
    with closing(StateStore(tmp_path)) as state:
        state.start("one", "/data/db", SERVER, "f")
    with closing(sqlite3.connect(tmp_path / "kvbatch.sqlite3")) as database:
        for drop in ("TRIGGER forget_server", "TABLE server_jobs", "TABLE server_cursors"):
            database.execute(f"DROP {drop}")
        database.execute("PRAGMA user_version = 1")
    with closing(KeptCursors(tmp_path, "one")) as kept:
        kept.begin(SERVER, MANIFEST, 1000)
        assert kept.find() is not None
    with closing(StateStore(tmp_path)) as state:
        assert state.find("one") is not None


def test_what_cannot_be_kept_ends_the_job_which_goes_on_from_what_was(tmp_path: Path) -> None:
    with closing(KeptCursors(tmp_path, "one")) as kept:
        kept.begin(SERVER, MANIFEST, 1000)
        kept.note([FIRST])
        with closing(sqlite3.connect(tmp_path / "kvbatch.sqlite3")) as database:
            database.execute("ALTER TABLE server_cursors RENAME TO gone")
            with pytest.raises(TargetError, match=r"cannot be kept any more: no such table.*is where it goes on"):
                kept.note([SECOND])
            database.execute("ALTER TABLE gone RENAME TO server_cursors")
        found = kept.find()
    assert found is not None
    assert found.cursors == (FIRST,)
