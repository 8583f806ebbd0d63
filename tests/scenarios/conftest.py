"""Fixtures of the scenarios."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import kvbatch
from support.mounts import enter_private_namespace
from support.places import Place, quick_folder

# While tests are collected no store is open yet.
enter_private_namespace()


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with quick_folder("kvbatch-scenario-") as folder:
        yield folder


@pytest.fixture(params=["directory", "receiver"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Both ways to a target."""
    root = tmp_path / "place"
    if request.param == "directory":
        yield Place(root)
        return
    with kvbatch.serve(root) as receiver:
        yield Place(root, receiver)
