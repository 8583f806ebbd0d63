"""Fixtures for every test."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from coverage import Coverage

import kvbatch
from support.forked import end_forking

SHARED_FIXTURES = Path(__file__).resolve().parent.parent.parent / "shared" / "fixtures"


# Folders, modules and tests that go again, and for long, through lines that others cover: to count lines takes half of
# Python's speed.
_NOT_COUNTED = {
    "fault", "property",
    "test_batch_controller", "test_built_files", "test_disk_full", "test_files_lane", "test_files_of_families",
    "test_flow_processes", "test_graft", "test_graft_conditions", "test_graft_exact", "test_memory", "test_odd_input",
    "test_real_directories", "test_recorded_checksums", "test_refusals", "test_refused_stores", "test_selection",
    "test_source_formats", "test_source_untouched", "test_split", "test_verify",
    "test_a_week_stays_small_covers_the_week_and_keeps_the_newest_minutes",
    "test_the_history_reaches_from_the_beginning_to_the_end_however_long",
}  # fmt: skip


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    # A worker of pytest-xdist has two, as every process begins one; pytest-cov's own marker knows of one.
    resting: list[Coverage] = []
    if not _NOT_COUNTED.isdisjoint((item.path.parent.name, item.path.stem, item.name)):
        while running := Coverage.current():
            running.stop()
            resting.append(running)
    try:
        return (yield)
    finally:
        for one in reversed(resting):
            one.start()


def pytest_collection_finish() -> None:
    """Thousands of collected tests stay until the end: the collector of garbage is not to go through them each time."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    end_forking()


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
