"""The data directories of two real Kvrocks servers, one of them in cluster mode."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from support.property_profile import load_property_profile

load_property_profile()


@pytest.fixture(scope="module", params=["standalone", "cluster"])
def fixture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def source(shared_fixtures: Path, tmp_path: Path, fixture: str) -> Path:
    folder = tmp_path / "unpacked"
    folder.mkdir()
    archive = shared_fixtures / f"kvrocks-{fixture}.tar.zst"
    subprocess.run(["tar", "--zstd", "-xf", archive, "-C", folder], check=True)
    [current] = folder.rglob("CURRENT")
    return current.parent


@pytest.fixture
def counts(shared_fixtures: Path, fixture: str) -> dict[str, tuple[int, str]]:
    """Entries and digest of ldb's scan, by family."""
    lines = (shared_fixtures / "kvrocks-counts.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["fixture"] == fixture]
    return {row["cf"]: (row["entries"], row["sha256_of_ldb_scan_hex"]) for row in rows}
