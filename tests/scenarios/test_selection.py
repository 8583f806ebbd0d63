"""--cf and --range move what was asked for and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

import kvbatch
from support.capi_store import REVERSE_BYTEWISE, run_store_script
from support.places import Place
from support.stores import kvbatch as run_kvbatch
from support.stores import numbered, read_store, write_store

FAMILIES = {
    "default": {bytes([a, b]): b"%d" % b for a in range(0, 256, 5) for b in (0, 128, 255)} | {b"": b"empty"},
    "one": numbered(400),
    "two words": numbered(300, start=50),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("selection") / "source", FAMILIES)


@pytest.mark.parametrize(
    "key_range",
    ["..", "00..", "..00", "0a..", "..0a80", "0a80..0aff", "0a80..0a81", "0a81..0a82", "0afe..0b", "fa..", "ffff.."],
)
@pytest.mark.parametrize("range_bytes", ["64MiB", "100"], ids=["one range", "many ranges"])
def test_range_is_half_open_in_every_family(source: Path, place: Place, key_range: str, range_bytes: str) -> None:
    start, end = (bytes.fromhex(side) for side in key_range.split(".."))
    summary = kvbatch.migrate(source, place.endpoint(), key_range=key_range, range_bytes=range_bytes).wait()
    expected = {
        name: {key: value for key, value in entries.items() if start <= key and (not end or key < end)}
        for name, entries in FAMILIES.items()
    }
    assert read_store(place.path()) == expected
    assert summary.entries == sum(len(entries) for entries in expected.values())
    assert kvbatch.verify(str(source), place.endpoint(), key_range=key_range).equal


@pytest.mark.parametrize("families", [("one",), ("two words", "one"), ("default",), ("default", "two words")])
def test_only_the_families_asked_for(source: Path, place: Place, families: tuple[str, ...]) -> None:
    kvbatch.migrate(source, place.endpoint(), column_families=families).wait()
    # RocksDB has no store without a default family.
    assert read_store(place.path()) == {"default": {}, **{name: FAMILIES[name] for name in families}}


def test_families_and_range_together_by_command(source: Path, tmp_path: Path) -> None:
    key_range = f"{b'key-00000100'.hex()}..{b'key-00000200'.hex()}"
    arguments = ["--cf", "two words", "--cf", "one", "--range", key_range]
    done = run_kvbatch("migrate", source, tmp_path / "target", *arguments)
    assert done.returncode == 0, done.stderr
    kept = {key: value for key, value in FAMILIES["one"].items() if b"key-00000100" <= key < b"key-00000200"}
    assert len(kept) == 100
    assert read_store(tmp_path / "target") == {"default": {}, "one": kept, "two words": kept}


def test_range_of_a_reversed_family_runs_downwards(tmp_path: Path) -> None:
    entries = numbered(100)
    run_store_script(
        tmp_path / "source", [("put", key, value) for key, value in entries.items()], comparator=REVERSE_BYTEWISE
    )
    key_range = f"{b'key-00000060'.hex()}..{b'key-00000040'.hex()}"
    kvbatch.migrate(tmp_path / "source", tmp_path / "target", key_range=key_range).wait()
    kept = {key: value for key, value in entries.items() if b"key-00000040" < key <= b"key-00000060"}
    assert len(kept) == 20
    assert run_store_script(tmp_path / "target", comparator=REVERSE_BYTEWISE) == sorted(kept.items(), reverse=True)


def test_parts_that_are_moved_one_after_the_other_make_the_whole(source: Path, place: Place) -> None:
    kvbatch.migrate(source, place.endpoint(), column_families=("one",)).wait()
    for key_range in ("..0a", "0a..60", "60.."):
        kvbatch.migrate(
            source,
            place.endpoint(),
            column_families=("default", "two words"),
            key_range=key_range,
            allow_nonempty=True,
        ).wait()
    assert read_store(place.path()) == FAMILIES
    assert kvbatch.verify(str(source), place.endpoint()).equal


def test_another_selection_is_another_job(source: Path, tmp_path: Path) -> None:
    jobs = {
        kvbatch.plan(source, tmp_path / "target", **options).job
        for options in ({}, {"column_families": ("one",)}, {"key_range": "00.."}, {"column_families": ("default",)})
    }
    assert len(jobs) == 4
