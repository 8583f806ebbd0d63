"""The data directories of two real Kvrocks servers, one of them in cluster mode, and stand-ins for servers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.kvrocks_standin import StandIn
from support.kvrocks_store import unpack
from support.property_profile import load_property_profile

load_property_profile()


@pytest.fixture(scope="module", params=["standalone", "cluster"])
def fixture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def source(shared_fixtures: Path, tmp_path: Path, fixture: str) -> Path:
    return unpack(shared_fixtures / f"kvrocks-{fixture}.tar.zst", tmp_path / "unpacked")


@pytest.fixture
def counts(shared_fixtures: Path, fixture: str) -> dict[str, tuple[int, str]]:
    """Entries and digest of ldb's scan, by family."""
    lines = (shared_fixtures / "kvrocks-counts.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["fixture"] == fixture]
    return {row["cf"]: (row["entries"], row["sha256_of_ldb_scan_hex"]) for row in rows}


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


@pytest.fixture
def server(start: Callable[..., StandIn], fixture: str) -> StandIn:
    """Of the kind of the source."""
    return start(cluster=fixture == "cluster")
