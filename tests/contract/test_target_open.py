"""Opening a job at a target, whatever kind it is: who gets in, and what is told (kvbatch/target.py)."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from kvbatch._core.store import RESERVED_COLUMN_FAMILY
from kvbatch.errors import CorruptionError, ProtocolError, RefusedError
from kvbatch.ranges import Range
from support.sender import KEYED_WAYS, SmallSource
from support.stores import read_store, tree, write_store
from support.targets import ENTRIES, TargetCase, finish


def test_a_new_job_is_opened_without_cursors(target: TargetCase, source: SmallSource) -> None:
    session = target.open(source.manifest)
    reply = session.reply
    session.close()
    assert not reply.resumed
    assert reply.cursors == ()
    assert reply.manifest.ranges == source.ranges
    assert reply.family_ids.keys() == {"default", "users"}
    assert len(reply.identity) == 36
    assert reply.max_frame_bytes >= 1 << 20


def test_open_again_tells_the_same_store_and_job(target: TargetCase, source: SmallSource) -> None:
    first = target.open(source.manifest)
    first.close()
    target.settle()
    second = target.open(source.manifest)
    second.close()
    assert second.reply.resumed
    assert second.reply.identity == first.reply.identity
    assert second.reply.family_ids == first.reply.family_ids


@pytest.mark.parametrize("any_source", KEYED_WAYS, indirect=True)
def test_the_plan_of_the_first_open_counts(target: TargetCase, any_source: SmallSource) -> None:
    target.open(any_source.manifest).close()
    target.settle()
    other_plan = dataclasses.replace(
        any_source.manifest, ranges=(Range(0, "default", None, None), Range(1, "users", None, None))
    )
    session = target.open(other_plan)
    session.close()
    assert session.reply.manifest.ranges == any_source.ranges


@pytest.mark.parametrize("any_source", KEYED_WAYS, indirect=True)
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"job": "another"}, ["job", "'contract'", "'another'"]),
        ({"fingerprint": "0" * 32}, ["source fingerprint", "0" * 32]),
        ({"allow_nonempty": True}, ["allow_nonempty", "theirs False", "ours True"]),
    ],
)
def test_a_job_that_does_not_continue_the_targets_is_refused_by_field(
    target: TargetCase, any_source: SmallSource, change: dict[str, Any], named: list[str]
) -> None:
    session = target.open(any_source.manifest)
    durable = any_source.move(session, any_source.ranges[:1])
    session.close()
    target.settle()
    with pytest.raises(RefusedError) as refused:
        target.open(dataclasses.replace(any_source.manifest, **change))
    assert all(word in str(refused.value) for word in named)
    resumed = target.open(any_source.manifest)
    resumed.close()
    [cursor] = resumed.reply.cursors
    assert (cursor.range, cursor.complete, cursor.raw_bytes) == (0, True, durable[-1].raw_bytes)


def test_a_target_with_data_is_refused_and_left_alone(target: TargetCase, source: SmallSource) -> None:
    write_store(target.path, {"default": {b"theirs": b"1"}})
    before = tree(target.path)
    with pytest.raises(RefusedError, match="already holds data"):
        target.open(source.manifest)
    assert tree(target.path) == before


def test_a_directory_of_something_else_is_refused_and_left_alone(target: TargetCase, source: SmallSource) -> None:
    target.path.mkdir(parents=True)
    (target.path / "letter.txt").write_text("dear")
    before = tree(target.path)
    with pytest.raises(RefusedError, match=r"letter\.txt"):
        target.open(source.manifest)
    assert tree(target.path) == before


def test_a_file_is_refused_and_left_alone(target: TargetCase, source: SmallSource) -> None:
    target.path.parent.mkdir(parents=True, exist_ok=True)
    target.path.write_text("dear")
    with pytest.raises(RefusedError, match="is a file"):
        target.open(source.manifest)
    assert target.path.read_text() == "dear"


@pytest.mark.parametrize("prepare", ["nothing", "directory", "store"])
def test_an_empty_target_is_taken(target: TargetCase, source: SmallSource, prepare: str) -> None:
    if prepare == "directory":
        target.path.mkdir(parents=True)
    elif prepare == "store":
        target.path.parent.mkdir(parents=True, exist_ok=True)
        write_store(target.path, {})
    finish(target, source)
    assert read_store(target.path) == ENTRIES


@pytest.mark.parametrize("any_source", KEYED_WAYS, indirect=True)
def test_allow_nonempty_keeps_the_other_keys(target: TargetCase, any_source: SmallSource) -> None:
    target.path.parent.mkdir(parents=True, exist_ok=True)
    write_store(target.path, {"default": {b"aaa": b"kept", b"key-00000005": b"old", b"zzz": b"kept"}})
    any_source.manifest = dataclasses.replace(any_source.manifest, allow_nonempty=True)
    finish(target, any_source)
    assert read_store(target.path) == {
        "default": {b"aaa": b"kept", **ENTRIES["default"], b"zzz": b"kept"},
        "users": ENTRIES["users"],
    }


def test_a_manifest_that_names_the_reserved_family_is_refused(target: TargetCase, source: SmallSource) -> None:
    family = type(source.manifest.families[0])(RESERVED_COLUMN_FAMILY)
    hostile = dataclasses.replace(source.manifest, families=(*source.manifest.families, family))
    with pytest.raises((RefusedError, CorruptionError, ProtocolError)):
        target.open(hostile)
    finish(target, source)
    assert read_store(target.path) == ENTRIES
