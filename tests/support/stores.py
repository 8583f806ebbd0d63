"""Real RocksDB stores, written and read by a library that is not ours (rocksdict)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import pytest
import rocksdict

from kvbatch._core.store import ROCKSDB_VERSION
from support.forked import run_forked

Families = Mapping[str, Mapping[bytes, bytes]]


# As numbers, to compare: (7, 8, 3).
ROCKSDB = tuple(int(part) for part in ROCKSDB_VERSION.split("."))
# The newest that this build reads. rocksdict has a newer RocksDB, which would write its own newest.
TABLE_FORMAT = 6 if ROCKSDB >= (8, 6) else 5


def need_rocksdb(version: tuple[int, int], what: str) -> None:
    """Skips the test on a build against an older RocksDB, which does not do `what`."""
    if version > ROCKSDB:
        pytest.skip(f"this build's RocksDB {ROCKSDB_VERSION} does not {what}: RocksDB {version[0]}.{version[1]} does")


def table_options() -> rocksdict.BlockBasedOptions:
    table = rocksdict.BlockBasedOptions()
    table.set_format_version(TABLE_FORMAT)
    return table


def raw_options() -> rocksdict.Options:
    """For stores that this build can read."""
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table_options())
    return options


def write_store(
    path: Path, families: Families, *, options: rocksdict.Options | None = None, flush: bool = True
) -> Path:
    """A store with these entries; without `flush` they stand in the WAL alone."""
    # rocksdict flushes when it closes a store, so the WAL is kept by copying the directory before.
    written = path if flush else path.with_name(path.name + ".open")
    store = rocksdict.Rdict(str(written), options or raw_options())
    for name, entries in families.items():
        family = store if name == "default" else store.create_column_family(name, options or raw_options())
        for key, value in entries.items():
            family[key] = value
        if flush:
            family.flush()
    if not flush:
        copy_open_store(store, written, path)
    store.close()
    if not flush:
        shutil.rmtree(written)
    return path


def copy_open_store(store: rocksdict.Rdict, written: Path, path: Path) -> None:
    """Copies the store, open at `written`, as a kill would leave it: its newest entries in the WAL alone."""
    store.flush_wal(sync=False)
    shutil.copytree(written, path, ignore=shutil.ignore_patterns("LOCK"))


def read_store(path: Path) -> dict[str, dict[bytes, bytes]]:
    """Every entry of every column family, opened read-only."""
    names = rocksdict.Rdict.list_cf(str(path), raw_options())
    store = rocksdict.Rdict(
        str(path),
        raw_options(),
        column_families={name: raw_options() for name in names},
        access_type=rocksdict.AccessType.read_only(),
    )
    entries: dict[str, dict[bytes, bytes]] = {}
    for name in names:
        family = store.get_column_family(name)
        entries[name] = {bytes(key): bytes(value) for key, value in family.items()}
        del family
    store.close()
    return entries


def numbered(count: int, *, start: int = 0, value: bytes = b"value-") -> dict[bytes, bytes]:
    return {f"key-{number:08}".encode(): value + str(number).encode() for number in range(start, start + count)}


def tree(path: Path) -> dict[str, tuple[int, int, int]]:
    """Size, mtime in ns and mode of everything below `path`: equal trees were not touched."""
    return {
        str(entry.relative_to(path)): (entry.lstat().st_size, entry.lstat().st_mtime_ns, entry.lstat().st_mode)
        for entry in [path, *path.rglob("*")]
    }


def kvbatch(
    *arguments: object,
    timeout: float = 120,
    stdin: int | None = None,
    cwd: Path | None = None,
    without: Collection[int] = (),
) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a process of its own, without the capabilities of those numbers."""
    return run_forked(["-m", "kvbatch", *arguments], timeout=timeout, stdin=stdin, cwd=cwd, without=without)


def kvbatch_command(arguments: Iterable[object]) -> list[str]:
    return [sys.executable, "-m", "kvbatch", *(str(argument) for argument in arguments)]
