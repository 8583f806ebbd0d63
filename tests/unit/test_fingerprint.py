from __future__ import annotations

import os
from pathlib import Path

import pytest
import rocksdict

from kvbatch.errors import SourceError
from kvbatch.fingerprint import fingerprint_directory
from support.stores import numbered, raw_options, write_store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(tmp_path / "store", {"default": numbered(100), "users": numbered(10)})


def test_the_same_content_has_the_same_fingerprint(store: Path) -> None:
    first = fingerprint_directory(store)
    assert len(first) == 32
    assert fingerprint_directory(store) == first


@pytest.mark.parametrize("name", ["LOG", "LOG.old.1700000000", "LOCK", "IDENTITY", "OPTIONS-000099", "notes.txt"])
def test_files_that_hold_no_data_do_not_count(store: Path, name: str) -> None:
    first = fingerprint_directory(store)
    (store / name).write_text("something else")
    assert fingerprint_directory(store) == first


@pytest.mark.parametrize("name", ["000999.sst", "000999.ldb", "000999.blob", "000999.log", "MANIFEST-000999"])
def test_a_new_data_file_counts(store: Path, name: str) -> None:
    first = fingerprint_directory(store)
    (store / name).write_text("")
    assert fingerprint_directory(store) != first


def test_each_data_file_counts(store: Path) -> None:
    first = fingerprint_directory(store)
    files = [file for pattern in ("*.sst", "*.log", "MANIFEST-*") for file in store.glob(pattern)]
    assert len(files) >= 3
    for file in files:
        size = file.stat().st_size
        with file.open("ab") as grown:
            grown.write(b"x")
        assert fingerprint_directory(store) != first, file
        os.truncate(file, size)
        assert fingerprint_directory(store) == first
        file.rename(file.with_name("gone"))
        assert fingerprint_directory(store) != first, file
        (store / "gone").rename(file)


def test_the_manifest_that_current_names_counts(store: Path) -> None:
    first = fingerprint_directory(store)
    current = (store / "CURRENT").read_bytes()
    (store / "CURRENT").write_bytes(current.replace(b"MANIFEST-", b"MANIFEST-9"))
    try:
        changed = fingerprint_directory(store)
    except SourceError:
        return
    assert changed != first


def test_one_write_changes_it(store: Path) -> None:
    first = fingerprint_directory(store)
    owner = rocksdict.Rdict(str(store), raw_options(), column_families={"users": raw_options()})
    owner[b"one"] = b"more"
    owner.close()
    assert fingerprint_directory(store) != first


def test_a_directory_that_cannot_be_listed_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="none"):
        fingerprint_directory(tmp_path / "none")
