"""Fixtures for what concerns Kvrocks: its directories, and servers that take them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.kvrocks_standin import StandIn, unpack


@pytest.fixture(params=["standalone", "cluster"])
def kind(request: pytest.FixtureRequest) -> str:
    """Of a server, and of the directory that it wrote."""
    return str(request.param)


@pytest.fixture
def real_directory(shared_fixtures: Path, tmp_path: Path, kind: str) -> Path:
    return unpack(shared_fixtures / f"kvrocks-{kind}.tar.zst", tmp_path / "unpacked")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., StandIn]]:
    """Starts a stand-in, which is ended with the test."""
    running: list[StandIn] = []

    def start_one(name: str = "server", **options: object) -> StandIn:
        running.append(StandIn(tmp_path / name, **options))  # type: ignore[arg-type]
        return running[-1]

    yield start_one
    for server in running:
        server.kill()
