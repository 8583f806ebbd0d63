"""Discarding takes back what an unfinished job wrote, whatever kind of target it is, and nothing else."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import rocksdict

from kvbatch import Receiver, target_discard
from kvbatch.endpoints import DirectoryEndpoint, ReceiverEndpoint
from kvbatch.errors import KvbatchError, RefusedError, TargetError, TransportError
from kvbatch.job_discard import discard_target
from kvbatch.manifest import Manifest
from kvbatch.ranges import KeyRange, Selection
from kvbatch.target_discard import DiscardOutcome, JobIdentity
from kvbatch.target_files import goes_by_files
from kvbatch.target_local import LocalSession
from kvbatch.target_remote import RemoteSession
from kvbatch.target_staging import staged_manifest, staging_path
from support.sender import KEYED_WAYS, SmallSource
from support.stores import numbered, raw_options, read_store, tree, write_store
from support.targets import ENTRIES, TargetCase, finish

OTHER = {"default": {b"a-theirs": b"1"}, "users": {b"a-theirs": b"2"}}


def identity_of(source: SmallSource) -> JobIdentity:
    return JobIdentity(source.manifest.job, source.manifest.fingerprint)


def begin(target: TargetCase, source: SmallSource, moved: int = 1) -> None:
    """Leaves an unfinished job with its first ranges."""
    session = target.open(source.manifest)
    source.move(session, source.ranges[:moved])
    session.close()
    target.settle()


def place_of(target: TargetCase, source: SmallSource) -> Path:
    """Where the unfinished job's files stand."""
    return staging_path(target.path) if source.manifest.lane == "files" else target.path


@pytest.mark.parametrize("moved", [0, 1, 3])
def test_an_unfinished_target_is_removed_and_the_job_can_begin_anew(
    target: TargetCase, any_source: SmallSource, moved: int
) -> None:
    begin(target, any_source, moved)
    assert place_of(target, any_source).exists()
    assert discard_target(target.endpoint, identity_of(any_source)) is DiscardOutcome.REMOVED
    assert not place_of(target, any_source).exists()
    assert not target.path.exists()
    assert discard_target(target.endpoint, identity_of(any_source)) is DiscardOutcome.NOTHING
    finish(target, any_source)
    assert read_store(target.path) == ENTRIES


def test_the_source_is_not_touched_even_where_its_files_are_linked(
    any_source: SmallSource, tmp_path: Path, target: TargetCase
) -> None:
    before = tree(any_source.path)
    begin(target, any_source)
    discard_target(target.endpoint, identity_of(any_source))
    assert tree(any_source.path) == before


@pytest.mark.parametrize("stands_there", ["nothing", "directory", "empty store"])
def test_where_nothing_of_the_job_stands_nothing_is_removed(
    target: TargetCase, source: SmallSource, stands_there: str, tmp_path: Path
) -> None:
    if stands_there == "directory":
        target.path.mkdir(parents=True)
    elif stands_there == "empty store":
        target.path.parent.mkdir(exist_ok=True)
        write_store(target.path, {})
    before = tree(tmp_path)
    assert discard_target(target.endpoint, identity_of(source)) is DiscardOutcome.NOTHING
    assert tree(tmp_path) == before


def refused(target: TargetCase, identity: JobIdentity, words: str, root: Path) -> None:
    before = tree(root)
    with pytest.raises(RefusedError, match=words) as raised:
        discard_target(target.endpoint, identity)
    assert "Nothing was changed" in str(raised.value)
    assert tree(root) == before


def test_a_finished_store_is_left_alone(target: TargetCase, any_source: SmallSource, tmp_path: Path) -> None:
    finish(target, any_source)
    target.settle()
    before = tree(target.path)
    assert discard_target(target.endpoint, identity_of(any_source)) is DiscardOutcome.STORE
    assert tree(target.path) == before
    assert read_store(target.path) == ENTRIES


@pytest.mark.parametrize("field", ["job", "fingerprint"])
def test_another_jobs_target_is_left_alone(
    target: TargetCase, any_source: SmallSource, tmp_path: Path, field: str
) -> None:
    begin(target, any_source)
    identity = dataclasses.replace(identity_of(any_source), **{field: "another"})
    refused(target, identity, "holds the unfinished", tmp_path)
    finish(target, any_source)
    assert read_store(target.path) == ENTRIES


@pytest.mark.parametrize("name", ["letters", ".hidden", "kvbatch.json.bak"])
def test_a_file_of_somebody_else_keeps_everything(
    target: TargetCase, any_source: SmallSource, tmp_path: Path, name: str
) -> None:
    begin(target, any_source)
    place = place_of(target, any_source)
    (place / name).mkdir() if name == ".hidden" else (place / name).write_text("dear")
    refused(target, identity_of(any_source), re.escape(repr(name)), tmp_path)


@pytest.mark.parametrize("what", ["another family", "entries before the range", "entries behind the range", "default"])
def test_entries_of_somebody_else_keep_everything(
    target: TargetCase, source: SmallSource, tmp_path: Path, what: str
) -> None:
    """Whoever opens whatever a store holds can write into an unfinished one."""
    part = SmallSource(source.path, [("users", b"key-00000010", b"key-00000200")])
    [users] = [family for family in source.manifest.families if family.name == "users"]
    selection = Selection(KeyRange(b"key-00000010", b"key-00000200"))
    part.manifest = dataclasses.replace(part.manifest, selection=selection, families=(users,), ranges=part.ranges)
    begin(target, part)
    names = rocksdict.Rdict.list_cf(str(target.path), raw_options())
    store = rocksdict.Rdict(str(target.path), raw_options(), column_families={name: raw_options() for name in names})
    if what == "another family":
        store.create_column_family("letters", raw_options())
    elif what == "default":
        store[b"key-00000100"] = b"theirs"
    else:
        users_family = store.get_column_family("users")
        users_family[b"key-00000001" if "before" in what else b"key-00000200"] = b"theirs"
        del users_family
    store.close()
    (target.path / "rocksdict-config.json").unlink()  # which is not its either
    family = {"another family": "letters", "default": "default"}.get(what, "users")
    refused(target, identity_of(part), f'column family "{family}"', tmp_path)


@pytest.mark.parametrize("any_source", KEYED_WAYS, indirect=True)
def test_a_target_that_may_have_held_other_data_loses_the_cursors_alone(
    target: TargetCase, any_source: SmallSource
) -> None:
    target.path.parent.mkdir(exist_ok=True)
    write_store(target.path, OTHER)
    any_source.manifest = dataclasses.replace(any_source.manifest, allow_nonempty=True)
    begin(target, any_source)
    written = read_store(target.path)
    assert written.pop("__kvbatch__")
    assert discard_target(target.endpoint, identity_of(any_source)) is DiscardOutcome.CURSORS
    assert read_store(target.path) == written
    assert written["users"][b"a-theirs"] == b"2"
    assert len(written["default"]) > len(OTHER["default"])


def test_a_target_that_cannot_be_read_is_left_alone(target: TargetCase, source: SmallSource, tmp_path: Path) -> None:
    begin(target, source)
    for table in target.path.glob("*.sst"):
        table.unlink()
    before = tree(tmp_path)
    with pytest.raises(TargetError, match=r"cannot be read.*Nothing was changed"):
        discard_target(target.endpoint, identity_of(source))
    assert tree(tmp_path) == before


def test_a_store_that_somebody_has_open_is_left_alone(target: TargetCase, source: SmallSource, tmp_path: Path) -> None:
    begin(target, source)
    names = rocksdict.Rdict.list_cf(str(target.path), raw_options())
    store = rocksdict.Rdict(str(target.path), raw_options(), column_families={name: raw_options() for name in names})
    try:
        refused_or_in_use(target, source)
    finally:
        store.close()
    (target.path / "rocksdict-config.json").unlink()
    assert discard_target(target.endpoint, identity_of(source)) is DiscardOutcome.REMOVED


def refused_or_in_use(target: TargetCase, source: SmallSource) -> None:
    with pytest.raises(RefusedError, match="in use"):
        discard_target(target.endpoint, identity_of(source))
    assert (target.path / "CURRENT").exists()


@pytest.fixture
def directory(tmp_path: Path) -> TargetCase:
    path = tmp_path / "target"
    return TargetCase(
        "directory", DirectoryEndpoint(path), path, lambda manifest: LocalSession(path, manifest, 1 << 20)
    )


@pytest.mark.parametrize("any_source", KEYED_WAYS, indirect=True)
def test_a_link_to_the_directory_stays(any_source: SmallSource, directory: TargetCase, tmp_path: Path) -> None:
    begin(directory, any_source)
    real = tmp_path / "elsewhere"
    directory.path.rename(real)
    directory.path.symlink_to(real)
    assert discard_target(directory.endpoint, identity_of(any_source)) is DiscardOutcome.REMOVED
    assert (directory.path.is_symlink(), list(real.iterdir())) == (True, [])


def test_a_job_that_is_finished_while_it_is_looked_at_is_left_alone(
    any_source: SmallSource, directory: TargetCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has the store between the look and the lock."""
    begin(directory, any_source)
    looks = {"sst": "_recorded_manifest", "batch": "_recorded_manifest", "files": "staged_manifest"}
    name = f"kvbatch.target_discard.{looks[any_source.manifest.lane]}"
    look = {"_recorded_manifest": target_discard._recorded_manifest, "staged_manifest": staged_manifest}[
        looks[any_source.manifest.lane]
    ]

    def look_and_finish(path: Path) -> Manifest | None:
        found = look(path)
        monkeypatch.undo()
        finish(directory, any_source)
        return found

    monkeypatch.setattr(name, look_and_finish)
    with pytest.raises(RefusedError, match="just finished"):
        discard_target(directory.endpoint, identity_of(any_source))
    assert read_store(directory.path) == ENTRIES


def test_a_session_that_a_receiver_has_open_is_not_discarded_and_one_whose_sender_is_gone_is(
    receiver: Receiver, source: SmallSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = ReceiverEndpoint("127.0.0.1", receiver.port, "target")
    session = RemoteSession(endpoint, source.manifest, 1)
    with pytest.raises(RefusedError, match="in use by job 'contract'"):
        discard_target(endpoint, JobIdentity("another", source.manifest.fingerprint))
    with monkeypatch.context() as patch:
        patch.setattr("kvbatch.server.LEAVING_SECONDS", 0.1)
        with pytest.raises(RefusedError, match=r"written by another sender.*that one goes on"):
            discard_target(endpoint, identity_of(source))
        # A machine that is gone acknowledges nothing.
        patch.setattr("kvbatch.server._GONE_SECONDS", 0.2)
        time.sleep(0.5)
        other = RemoteSession(endpoint, source.manifest, 1, sender="another")
        with pytest.raises(TransportError):
            session.finish()
    session = other
    # Now: the receiver may not know yet.
    session.close()
    assert discard_target(endpoint, identity_of(source)) is DiscardOutcome.REMOVED
    assert list(receiver.root.iterdir()) == []


class KilledError(Exception):
    pass


@pytest.mark.parametrize("unlinks", range(0, 30, 3))
def test_a_discard_that_was_killed_is_ended_by_the_next_and_refused_to_others(
    any_source: SmallSource, directory: TargetCase, monkeypatch: pytest.MonkeyPatch, unlinks: int
) -> None:
    target, endpoint = directory, directory.endpoint
    begin(target, any_source)
    left = unlinks

    def dying(act: Callable[..., None]) -> Callable[..., None]:
        def unlink(self: Path, *, missing_ok: bool = False) -> None:
            nonlocal left
            if left == 0:
                raise KilledError
            left -= 1
            act(self, missing_ok=missing_ok)

        return unlink

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", dying(Path.unlink))
        try:
            discard_target(endpoint, identity_of(any_source))
        except KilledError:
            killed = True
        else:
            killed = False
    if not killed:
        assert not place_of(target, any_source).exists()
        return
    # Another job finds it claimed; what it is told depends on how far the first came.
    other = dataclasses.replace(any_source.manifest, job="another", fingerprint="f" * 32)
    with pytest.raises(KvbatchError):
        target.open(other)
    with pytest.raises(RefusedError, match=r"another|discarded"):
        discard_target(endpoint, dataclasses.replace(identity_of(any_source), job="another"))
    assert discard_target(endpoint, identity_of(any_source)) is DiscardOutcome.REMOVED
    assert not place_of(target, any_source).exists()
    assert not goes_by_files(target.path, dataclasses.replace(any_source.manifest, lane="batch"))


def test_a_target_inside_of_another_is_not_its(target: TargetCase, source: SmallSource) -> None:
    begin(target, source)
    write_store(target.path / "inner", {"default": numbered(3)})
    with pytest.raises(RefusedError, match="'inner'"):
        discard_target(target.endpoint, identity_of(source))
    assert read_store(target.path / "inner") == {"default": numbered(3)}
