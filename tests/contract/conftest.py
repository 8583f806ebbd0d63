"""Targets and sources that every endpoint's contract is checked with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import kvbatch
from kvbatch.endpoints import DirectoryEndpoint, ReceiverEndpoint
from kvbatch.target_local import LocalSession
from kvbatch.target_remote import RemoteSession
from support.sender import SmallSource
from support.stores import write_store
from support.targets import BOUNDS, ENTRIES, TargetCase


@pytest.fixture(params=["directory", "receiver"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TargetCase]:
    if request.param == "directory":
        path = tmp_path / "target"
        yield TargetCase(
            "directory", DirectoryEndpoint(path), path, lambda manifest: LocalSession(path, manifest, 1 << 20)
        )
        return
    with kvbatch.serve(tmp_path / "root") as receiver:
        receiving = ReceiverEndpoint("127.0.0.1", receiver.port, "target")
        # With a window of one a put returns when its batch is applied, as in a directory.
        yield TargetCase(
            "receiver", receiving, tmp_path / "root" / "target", lambda manifest: RemoteSession(receiving, manifest, 1)
        )


@pytest.fixture(scope="session")
def source_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written once: no test writes to it."""
    return write_store(tmp_path_factory.mktemp("contract") / "source", ENTRIES)


@pytest.fixture
def source(source_store: Path) -> SmallSource:
    return SmallSource(source_store, BOUNDS)
