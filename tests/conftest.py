"""Fixtures for every test."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvbatch

SHARED_FIXTURES = Path(__file__).resolve().parent.parent.parent / "shared" / "fixtures"


def pytest_collection_finish() -> None:
    """Thousands of collected tests stay until the end: the collector of garbage is not to go through them each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _private_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the state of whoever runs it; child processes inherit this."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg-state"))


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[kvbatch.Receiver]:
    with kvbatch.serve(tmp_path / "received") as running:
        yield running


@pytest.fixture
def shared_fixtures() -> Path:
    if not SHARED_FIXTURES.is_dir():
        pytest.skip(f"the shared fixtures are not beside this checkout ({SHARED_FIXTURES})")
    return SHARED_FIXTURES
