"""The source is read and nothing else, whatever happens."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from unittest.mock import patch

import pytest

import kvbatch
from support.mounts import read_only_disk, read_only_tree
from support.places import Place
from support.stores import kvbatch as run_kvbatch
from support.stores import numbered, read_store, tree, write_store

FAMILIES = {"default": numbered(3000), "other": numbered(200)}


def _backdated(source: Path) -> Path:
    """Old times, so that a touch within the clock's resolution shows."""
    for entry in [*source.rglob("*"), source]:
        os.utime(entry, ns=(10**18, 10**18))
    return source


@pytest.mark.parametrize("flush", [True, False], ids=["in files", "only in the WAL"])
def test_every_command_leaves_the_source_as_it_was(tmp_path: Path, place: Place, flush: bool) -> None:
    source = _backdated(write_store(tmp_path / "source", FAMILIES, flush=flush))
    before = tree(source)
    kvbatch.plan(source, place.endpoint())
    assert tree(source) == before
    kvbatch.migrate(source, place.endpoint()).wait()
    assert tree(source) == before
    assert kvbatch.verify(str(source), place.endpoint()).equal
    assert tree(source) == before
    write_store(place.path("differs"), {"default": numbered(10, value=b"else"), "other": {}})
    assert kvbatch.verify(str(source), place.endpoint("differs"), repair=True).equal
    assert tree(source) == before


@pytest.mark.parametrize("flush", [True, False], ids=["in files", "only in the WAL"])
def test_source_on_a_read_only_file_system(tmp_path: Path, place: Place, flush: bool) -> None:
    source = write_store(tmp_path / "source", FAMILIES, flush=flush)
    with read_only_disk(source):
        with pytest.raises(OSError, match="Read-only"):
            (source / "probe").touch()
        kvbatch.migrate(source, place.endpoint()).wait()
        assert kvbatch.verify(str(source), place.endpoint()).equal
    assert read_store(place.path()) == FAMILIES


@pytest.mark.parametrize("flush", [True, False], ids=["in files", "only in the WAL"])
def test_source_that_may_not_be_written_to(tmp_path: Path, place: Place, flush: bool) -> None:
    source = write_store(tmp_path / "source", FAMILIES, flush=flush)
    with read_only_tree(source) as capabilities:
        before = tree(source)
        for command in ("migrate", "verify"):
            done = run_kvbatch(command, source, place.endpoint(), without=capabilities)
            assert done.returncode == 0, done.stderr
        assert tree(source) == before
    assert read_store(place.path()) == FAMILIES


def test_source_without_a_lock_file(tmp_path: Path) -> None:
    """A checkpoint has none, and none may appear in it."""
    source = write_store(tmp_path / "source", FAMILIES)
    (source / "LOCK").unlink(missing_ok=True)
    before = tree(source)
    kvbatch.migrate(source, tmp_path / "target").wait()
    assert tree(source) == before
    assert read_store(tmp_path / "target") == FAMILIES


def test_source_is_free_again_after_the_job(tmp_path: Path) -> None:
    """Whoever still holds the migration, or its plan, does not hold the store."""
    source = write_store(tmp_path / "source", FAMILIES)
    plan = kvbatch.plan(source, tmp_path / "target")
    migration = kvbatch.migrate(source, tmp_path / "target")
    migration.wait()
    assert migration.job == plan.job
    assert not [path for path in _open_files() if path.is_relative_to(source)]
    kvbatch.migrate(tmp_path / "target", source, allow_nonempty=True).wait()


def test_source_is_free_again_after_a_refusal(tmp_path: Path) -> None:
    source = write_store(tmp_path / "source", FAMILIES)
    write_store(tmp_path / "target", {"default": {b"mine": b"1"}})
    with pytest.raises(kvbatch.RefusedError) as kept:
        kvbatch.migrate(source, tmp_path / "target").wait()
    assert "already holds data" in str(kept.value)
    assert not [path for path in _open_files() if path.is_relative_to(tmp_path / "target")]
    assert not [path for path in _open_files() if path.is_relative_to(source)]


def _open_files() -> list[Path]:
    return [Path(os.path.realpath(link)) for link in Path("/proc/self/fd").iterdir()]


def test_dry_run_and_plan_touch_neither_side(tmp_path: Path) -> None:
    folder = tmp_path / "stores"
    folder.mkdir()
    source = write_store(folder / "source", FAMILIES)
    before = tree(folder)
    for arguments in (["migrate", source, folder / "target", "--dry-run"], ["plan", source, folder / "target"]):
        done = run_kvbatch(*arguments)
        assert done.returncode == 0, done.stderr
        assert "default" in done.stdout
    assert tree(folder) == before


def test_target_shares_no_file_with_the_source(tmp_path: Path) -> None:
    """Writing to the copy must not reach the original."""
    source = write_store(tmp_path / "source", FAMILIES)
    kvbatch.migrate(source, tmp_path / "target").wait()
    inodes = {entry.stat().st_ino for entry in source.iterdir()}
    assert not inodes & {entry.stat().st_ino for entry in (tmp_path / "target").iterdir()}


def test_the_target_of_a_source_that_was_written_to_is_discarded_by_the_command_that_is_named(
    tmp_path: Path, place: Place
) -> None:
    source = write_store(tmp_path / "source", FAMILIES)
    with (
        patch("kvbatch.migration.fingerprint_directory", return_value="another"),
        pytest.raises(kvbatch.SourceError, match="was written to during the migration") as raised,
    ):
        kvbatch.migrate(source, place.endpoint()).wait()
    assert place.path().exists()
    assert raised.value.final, "the same command carries nothing on"
    program, *command = shlex.split(str(raised.value).split("`")[1])
    done = run_kvbatch(*command, "--yes")
    assert (program, done.returncode) == ("kvbatch", 0), done.stderr
    assert not place.path().exists()
