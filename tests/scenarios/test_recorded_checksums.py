"""Stores that record the checksums of their files: one that is not what RocksDB wrote is kept out of the target."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvbatch
from kvbatch._core.store import SourceStore, write_sample_store
from kvbatch.target import FILE_PIECE_BYTES
from support.places import Place, quick_folder
from support.sender import put_pieces
from support.stores import kvbatch as run_kvbatch
from support.stores import need_rocksdb, raw_options, read_store, write_store

# More than one memtable: files that were merged have sequence numbers of 0, and can be grafted.
ENTRIES, VALUE_BYTES = 20_000, 4000
# In a data block of each piece, but not in the first one of the file, which the planner reads.
IN_A_BLOCK = 100_000
LAST_PIECE = 6


@pytest.fixture(scope="module")
def recorded() -> Iterator[Path]:
    """SST files of many pieces, with the crc32c of each in the MANIFEST."""
    with quick_folder("kvbatch-recorded-") as folder:
        write_sample_store(str(folder / "source"), entries=ENTRIES, value_bytes=VALUE_BYTES, file_checksums=True)
        yield folder / "source"


@pytest.fixture
def source(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "source"))


@pytest.fixture(params=["files", "sst"])
def lane(request: pytest.FixtureRequest) -> str:
    if request.param == "sst":
        need_rocksdb((9, 10), "ingest files that a database wrote")
    return str(request.param)


def largest_table(source: Path) -> Path:
    table = max(source.glob("*.sst"), key=lambda file: file.stat().st_size)
    assert table.stat().st_size > (LAST_PIECE + 0.5) * FILE_PIECE_BYTES
    return table


def flip_a_byte(file: Path, offset: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        [byte] = opened.read(1)
        opened.seek(offset)
        opened.write(bytes([byte ^ 0x40]))


def has_arrived(table: Path, root: Path) -> bool:
    """Whether the file, which has another name where it was grafted, stands anywhere below `root`, where a receiver may
    still be clearing up."""
    size = table.stat().st_size
    for folder, _, names in os.walk(root):
        for name in fnmatch.filter(names, "*.sst"):
            with contextlib.suppress(FileNotFoundError):
                if Path(folder, name).stat().st_size == size:
                    return True
    return False


def test_a_file_that_is_as_it_was_written_passes(source: Path, place: Place, lane: str) -> None:
    assert SourceStore(str(source)).recorded_crc32c(largest_table(source).name) is not None
    migration = kvbatch.migrate(source, place.endpoint(), lane=lane)
    migration.wait()
    assert migration.plan.files_grafted > 0
    assert has_arrived(largest_table(source), place.root)
    assert kvbatch.verify(source, place.endpoint()).equal


@pytest.mark.parametrize("piece", [0, 3, LAST_PIECE])
def test_a_damaged_file_is_named_and_kept_out_until_it_is_restored(
    source: Path, place: Place, lane: str, piece: int
) -> None:
    table = largest_table(source)
    at = piece * FILE_PIECE_BYTES + IN_A_BLOCK
    flip_a_byte(table, at)
    for _ in range(2):
        with pytest.raises(kvbatch.SourceError, match=f"^{table} is damaged: .*restore") as failed:
            kvbatch.migrate(source, place.endpoint(), lane=lane).wait()
        assert not failed.value.retryable
        assert not has_arrived(table, place.root)
        assert lane == "sst" or not place.path().exists()
    flip_a_byte(table, at)
    summary = kvbatch.migrate(source, place.endpoint(), lane=lane).wait()
    assert summary.resumed
    assert kvbatch.verify(source, place.endpoint()).equal
    assert len(read_store(place.path())["default"]) == ENTRIES


def test_the_pieces_of_an_earlier_session_count(source: Path, place: Place) -> None:
    table = largest_table(source)
    flip_a_byte(table, IN_A_BLOCK)
    put_pieces(source, place, 2)
    with pytest.raises(kvbatch.SourceError, match=f"^{table} is damaged: "):
        kvbatch.migrate(source, place.endpoint(), lane="files").wait()
    assert not has_arrived(table, place.root)


def test_a_file_that_is_resumed_passes(source: Path, place: Place) -> None:
    put_pieces(source, place, 2)
    summary = kvbatch.migrate(source, place.endpoint(), lane="files").wait()
    assert summary.resumed
    assert kvbatch.verify(source, place.endpoint()).equal


def test_the_command_says_what_is_safe_and_what_to_do(source: Path, tmp_path: Path) -> None:
    table = largest_table(source)
    flip_a_byte(table, IN_A_BLOCK)
    command = ["migrate", source, tmp_path / "target", "--lane=files", "--json", "--progress=none"]
    done = run_kvbatch(*command)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{table} is damaged" in done.stderr
    assert "what was moved before is safe; restore that file" in done.stderr
    assert f"carry on with: kvbatch migrate {source} {tmp_path / 'target'}" in done.stderr
    flip_a_byte(table, IN_A_BLOCK)
    done = run_kvbatch(*command)
    assert done.returncode == 0, done.stderr


def test_a_link_moves_no_bytes_and_is_not_checked(source: Path, tmp_path: Path) -> None:
    table = largest_table(source)
    flip_a_byte(table, IN_A_BLOCK)
    kvbatch.migrate(source, tmp_path / "target", lane="files", link=True).wait()
    assert table.samefile(tmp_path / "target" / table.name)


def test_damage_in_a_blob_file_without_a_record_travels_and_verify_finds_it(tmp_path: Path, place: Place) -> None:
    options = raw_options()
    options.set_enable_blob_files(True)
    options.set_min_blob_size(100)
    source = write_store(tmp_path / "source", {"default": {b"key": bytes(50_000)}}, options=options)
    [blob] = source.glob("*.blob")
    assert SourceStore(str(source)).recorded_crc32c(blob.name) is None
    flip_a_byte(blob, 25_000)
    kvbatch.migrate(source, place.endpoint(), lane="files").wait()
    flip_a_byte(blob, 25_000)
    with pytest.raises(kvbatch.KvbatchError, match="Blob CRC mismatch"):
        kvbatch.verify(source, place.endpoint())
