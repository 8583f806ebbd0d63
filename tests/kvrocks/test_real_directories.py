"""The data directories of two real Kvrocks servers, with unflushed WAL, migrate whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import kvbatch
from support.places import Place
from support.stores import read_store, tree
from support.tools import ldb_families, ldb_scan, table_format_version

FAMILIES = ["default", "metadata", "zset_score", "pubsub", "propagate", "stream", "search"]


@pytest.fixture(params=["directory", "receiver"])
def place(request: pytest.FixtureRequest, tmp_path: Path, receiver: kvbatch.Receiver) -> Place:
    return Place(receiver.root, receiver if request.param == "receiver" else None)


@pytest.mark.parametrize(
    "options",
    [{}, {"range_bytes": "64KiB", "batch_bytes": "8KiB", "sst_file_bytes": "128KiB", "compression": "zstd"}],
    ids=["as a user would", "in many pieces"],
)
def test_directory_migrates_whole(
    source: Path, counts: dict[str, tuple[int, str]], place: Place, options: dict[str, str]
) -> None:
    before = tree(source)
    summary = kvbatch.migrate(source, place.endpoint(), **options).wait()
    assert summary.entries == sum(entries for entries, _ in counts.values())
    if options:
        assert summary.ranges > len(FAMILIES)
    assert tree(source) == before

    found = read_store(place.path())
    assert {name: len(entries) for name, entries in found.items()} == {name: n for name, (n, _) in counts.items()}
    for name, (_, digest) in counts.items():
        assert hashlib.sha256(ldb_scan(place.path(), name).encode()).hexdigest() == digest
    report = kvbatch.verify(str(source), place.endpoint())
    assert report.equal
    assert report.entries_source == report.entries_target == summary.entries
    assert set(report.digests) == set(FAMILIES)


def test_families_keep_their_names_and_order(source: Path, tmp_path: Path) -> None:
    """Kvrocks numbers them: another order would be other ids."""
    kvbatch.migrate(source, tmp_path / "target").wait()
    assert ldb_families(tmp_path / "target") == ldb_families(source) == FAMILIES
    assert {table_format_version(file) for file in (tmp_path / "target").glob("*.sst")} == {5}


def test_plan_names_every_family_and_about_the_right_count(
    source: Path, tmp_path: Path, counts: dict[str, tuple[int, str]]
) -> None:
    plan = kvbatch.plan(source, tmp_path / "target")
    assert list(plan.column_families) == FAMILIES
    expected = sum(entries for entries, _ in counts.values())
    assert expected / 2 < plan.estimated_entries < expected * 2
