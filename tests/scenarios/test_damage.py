"""A damaged source: exit 1 naming the file, and the same command carries on once the file is mended."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import rocksdict

import kvbatch
from support.places import Place
from support.stores import kvbatch as run_kvbatch
from support.stores import need_rocksdb, raw_options, read_store, write_store
from support.tables import compacted

FILES = 4
_random = random.Random(11)
ENTRIES = {f"key-{number:05}".encode(): _random.randbytes(200) for number in range(4000)}


def _source(path: Path) -> Path:
    """Entries in several files, one behind the other in key order."""
    options = raw_options()
    options.set_disable_auto_compactions(True)
    options.set_compression_type(rocksdict.DBCompressionType.none())
    store = rocksdict.Rdict(str(path), options)
    keys = list(ENTRIES)
    for part in range(FILES):
        for key in keys[part * len(keys) // FILES : (part + 1) * len(keys) // FILES]:
            store[key] = ENTRIES[key]
        store.flush()
    store.close()
    return path


def _flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x40
    file.write_bytes(content)


def _zero_a_page(file: Path) -> None:
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4096] = bytes(4096)
    file.write_bytes(content)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def _spoil_the_footer(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-8:] = b"nonsense"
    file.write_bytes(content)


def _remove(file: Path) -> None:
    file.unlink()


def _files(source: Path) -> list[Path]:
    return sorted(source.glob("*.sst"))


@pytest.mark.parametrize("position", [0, FILES // 2, FILES - 1], ids=["first", "middle", "last"])
@pytest.mark.parametrize("damage", [_flip_a_byte, _zero_a_page])
def test_damaged_block_is_named_and_the_job_carries_on_once_it_is_mended(
    tmp_path: Path, place: Place, damage: Callable[[Path], None], position: int
) -> None:
    source = _source(tmp_path / "source")
    file = _files(source)[position]
    shutil.copy2(file, tmp_path / "kept")
    damage(file)
    options = {"batch_bytes": "16KiB", "sst_file_bytes": "64KiB", "range_bytes": "256KiB"}
    with pytest.raises(kvbatch.SourceError) as failed:
        kvbatch.migrate(source, place.endpoint(), **options).wait()
    assert str(file) in str(failed.value)
    assert failed.value.exit_code == 1
    assert not failed.value.retryable

    shutil.copy2(tmp_path / "kept", file)
    summary = kvbatch.migrate(source, place.endpoint(), **options).wait()
    assert summary.resumed
    assert summary.entries == len(ENTRIES)
    assert read_store(place.path()) == {"default": ENTRIES}


@pytest.mark.parametrize("lane", ["sst", "files"])
@pytest.mark.parametrize("damage", [_flip_a_byte, _zero_a_page])
def test_damage_in_a_file_that_is_moved_as_it_is_is_found_at_the_target(
    tmp_path: Path, place: Place, damage: Callable[[Path], None], lane: str
) -> None:
    """Nobody reads its entries on the way: the blocks' own checksums tell."""
    source = tmp_path / "source"
    compacted(source).close()
    expected = read_store(source)
    if lane == "sst":
        need_rocksdb((9, 10), "ingest files that a database wrote")
    file = _files(source)[2]
    shutil.copy2(file, tmp_path / "kept")
    damage(file)
    options = {"lane": lane, "graft_bytes": 1, "streams": 1}
    with pytest.raises(kvbatch.SourceError, match=f"the file {file.name} of the source is damaged") as failed:
        kvbatch.migrate(source, place.endpoint(), **options).wait()
    assert failed.value.exit_code == 1
    assert not failed.value.retryable
    with pytest.raises(kvbatch.SourceError, match=file.name):
        kvbatch.migrate(source, place.endpoint(), **options).wait()

    shutil.copy2(tmp_path / "kept", file)
    summary = kvbatch.migrate(source, place.endpoint(), **options).wait()
    assert summary.resumed
    assert read_store(place.path()) == expected


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_cut, "is damaged: .*mismatch.* Mend that file or restore it in place"),
        (_spoil_the_footer, "is damaged: .*000.*. Mend that file or restore it in place"),
        (_remove, "is missing and the store lists it. Restore it in place"),
    ],
)
def test_unusable_file_is_named_before_anything_is_written(
    tmp_path: Path, place: Place, damage: Callable[[Path], None], said: str
) -> None:
    """In words of which file to restore: RocksDB's own blame the MANIFEST."""
    source = _source(tmp_path / "source")
    file = _files(source)[1]
    damage(file)
    with pytest.raises(kvbatch.SourceError) as failed:
        kvbatch.migrate(source, place.endpoint()).wait()
    assert re.fullmatch(f"{re.escape(str(file))} {said}", str(failed.value), re.DOTALL), failed.value
    assert "MANIFEST" not in str(failed.value)
    assert not place.path().exists() or not list(place.path().glob("*.sst"))


def test_command_ends_with_1_and_says_how_to_carry_on(tmp_path: Path) -> None:
    source = _source(tmp_path / "source")
    file = _files(source)[2]
    shutil.copy2(file, tmp_path / "kept")
    _flip_a_byte(file)
    command = ["migrate", source, tmp_path / "target", "--json", "--progress", "none"]
    done = run_kvbatch(*command)
    assert done.returncode == 1
    assert done.stdout == ""
    assert str(file) in done.stderr
    assert f"kvbatch migrate {source} {tmp_path / 'target'}" in done.stderr
    assert "Traceback" not in done.stderr
    shutil.copy2(tmp_path / "kept", file)
    done = run_kvbatch(*command)
    assert done.returncode == 0, done.stderr
    assert read_store(tmp_path / "target") == {"default": ENTRIES}


def test_damaged_source_is_named_by_verify_too(tmp_path: Path, place: Place) -> None:
    source = _source(tmp_path / "source")
    kvbatch.migrate(source, place.endpoint()).wait()
    _flip_a_byte(_files(source)[1])
    with pytest.raises(kvbatch.SourceError, match=_files(source)[1].name) as failed:
        kvbatch.verify(str(source), place.endpoint())
    assert str(failed.value).startswith(f"the source {source} cannot be read: ")
    assert str(failed.value).endswith(
        "restore it in place. The target is not at fault; verify again once this is mended"
    )


def test_damaged_target_is_not_equal(tmp_path: Path, place: Place) -> None:
    source = _source(tmp_path / "source")
    kvbatch.migrate(source, place.endpoint()).wait()
    file = _files(place.path())[0]
    _flip_a_byte(file)
    with pytest.raises(kvbatch.TargetError, match=file.name) as failed:
        kvbatch.verify(str(source), place.endpoint())
    assert "the source is not at fault" in str(failed.value)


def test_damaged_wal_is_an_error_and_no_shorter_copy(tmp_path: Path) -> None:
    """RocksDB's default recovery would silently end at the damage."""
    source = write_store(tmp_path / "source", {"default": ENTRIES}, flush=False)
    [wal] = [log for log in source.glob("*.log") if log.stat().st_size > 0]
    _flip_a_byte(wal)
    with pytest.raises(kvbatch.SourceError) as failed:
        kvbatch.migrate(source, tmp_path / "target").wait()
    assert "orrupt" in str(failed.value)
    assert not (tmp_path / "target").exists()


def test_wal_that_was_cut_by_a_crash_is_read_up_to_the_cut(tmp_path: Path) -> None:
    source = write_store(tmp_path / "source", {"default": ENTRIES}, flush=False)
    [wal] = [log for log in source.glob("*.log") if log.stat().st_size > 0]
    wal.write_bytes(wal.read_bytes()[: wal.stat().st_size // 2])
    kvbatch.migrate(source, tmp_path / "target").wait()
    found = read_store(tmp_path / "target")["default"]
    assert found == dict(list(ENTRIES.items())[: len(found)])
    assert len(ENTRIES) // 3 < len(found) < len(ENTRIES) * 2 // 3
