"""What a plan says of a target, whatever kind it is: as much as opening would, and nothing there is touched."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvbatch.errors import RefusedError
from kvbatch.options import MigrationOptions
from kvbatch.target_state import TargetState, examine_target
from support.sender import KEYED_WAYS, SmallSource
from support.stores import tree, write_store
from support.targets import TargetCase, finish


@pytest.fixture
def examine(target: TargetCase, any_source: SmallSource, tmp_path: Path) -> Callable[..., TargetState]:
    """Examines for the source's job with these fields changed, and checks that nothing else was."""

    def look(**change: Any) -> TargetState:
        before = tree(tmp_path)
        try:
            return examine_target(
                target.endpoint,
                dataclasses.replace(any_source.manifest, **change),
                MigrationOptions.checked(state_dir=tmp_path / "state"),
            )
        finally:
            assert tree(tmp_path) == before

    return look


@pytest.mark.parametrize("any_source", ["batch"], indirect=True)
@pytest.mark.parametrize("prepare", ["nothing", "directory", "store"])
@pytest.mark.parametrize("allow_nonempty", [False, True])
def test_an_empty_target_will_be_made(
    target: TargetCase, examine: Callable[..., TargetState], prepare: str, allow_nonempty: bool
) -> None:
    if prepare == "directory":
        target.path.mkdir(parents=True)
    elif prepare == "store":
        target.path.parent.mkdir(parents=True, exist_ok=True)
        write_store(target.path, {})
    state = examine(allow_nonempty=allow_nonempty)
    assert (state, str(state)) == (TargetState("empty"), "nothing that could be overwritten")


@pytest.mark.parametrize("moved", [0, 1, 3])
def test_an_unfinished_job_is_told_with_its_ranges(
    target: TargetCase, any_source: SmallSource, examine: Callable[..., TargetState], moved: int
) -> None:
    session = target.open(any_source.manifest)
    any_source.move(session, any_source.ranges[:moved])
    session.close()
    target.settle()
    state = examine()
    assert state == TargetState("resumable", moved, len(any_source.ranges), lane=any_source.manifest.lane)
    assert str(state) == f"resumes, {moved} of {len(any_source.ranges)} ranges complete"
    finish(target, any_source)


def test_a_job_whose_record_is_larger_than_a_batch_is_told(
    target: TargetCase, any_source: SmallSource, examine: Callable[..., TargetState]
) -> None:
    any_source.manifest = dataclasses.replace(any_source.manifest, source="/" + "long/" * 500_000)
    target.open(any_source.manifest).close()
    target.settle()
    assert examine() == TargetState("resumable", 0, len(any_source.ranges), lane=any_source.manifest.lane)


@pytest.mark.parametrize("any_source", KEYED_WAYS, indirect=True)
def test_a_job_that_is_open_is_told_by_its_receiver_and_in_use_in_a_directory(
    target: TargetCase, any_source: SmallSource, examine: Callable[..., TargetState]
) -> None:
    session = target.open(any_source.manifest)
    any_source.move(session, any_source.ranges[:1])
    if target.kind == "receiver":
        assert examine() == TargetState("resumable", 1, len(any_source.ranges), lane=any_source.manifest.lane)
        with pytest.raises(RefusedError, match="target is in use by job 'contract'"):
            examine(job="another")
    else:
        with pytest.raises(RefusedError, match="in use"):
            examine()
    session.close()
    finish(target, any_source)


def hold_data(target: TargetCase, source: SmallSource) -> None:
    write_store(target.path, {"default": {b"theirs": b"1"}})


def hold_letter(target: TargetCase, source: SmallSource) -> None:
    target.path.mkdir(parents=True)
    (target.path / "letter.txt").write_text("dear")


def be_file(target: TargetCase, source: SmallSource) -> None:
    target.path.parent.mkdir(parents=True, exist_ok=True)
    target.path.write_text("dear")


def hold_job(target: TargetCase, source: SmallSource) -> None:
    session = target.open(source.manifest)
    source.move(session, source.ranges[:1])
    session.close()
    target.settle()


@pytest.mark.parametrize("any_source", ["batch", "grafted"], indirect=True)
@pytest.mark.parametrize(
    ("prepare", "change"),
    [
        (hold_data, {}),
        (hold_letter, {}),
        (be_file, {}),
        (hold_job, {"job": "another"}),
        (hold_job, {"fingerprint": "0" * 32}),
        (hold_job, {"allow_nonempty": True}),
    ],
)
def test_what_opening_would_refuse_is_refused_in_the_same_words(
    target: TargetCase,
    any_source: SmallSource,
    examine: Callable[..., TargetState],
    prepare: Callable[[TargetCase, SmallSource], None],
    change: dict[str, Any],
) -> None:
    prepare(target, any_source)
    with pytest.raises(RefusedError) as examined:
        examine(**change)
    with pytest.raises(RefusedError) as opened:
        target.open(dataclasses.replace(any_source.manifest, **change))
    assert str(examined.value) == str(opened.value)


@pytest.mark.parametrize("any_source", ["batch"], indirect=True)
def test_other_data_is_told_where_it_is_allowed(
    target: TargetCase, source: SmallSource, examine: Callable[..., TargetState]
) -> None:
    hold_data(target, source)
    assert examine(allow_nonempty=True) == TargetState("nonempty")
