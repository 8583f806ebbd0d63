"""Real RocksDB stores, written and read by a library that is not ours (rocksdict)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import rocksdict

from kvbatch._core.store import ROCKSDB_VERSION

Families = Mapping[str, Mapping[bytes, bytes]]


def raw_options() -> rocksdict.Options:
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    return options


def skip_unless_newer_stores_open() -> None:
    """rocksdict writes with the newest RocksDB, in formats that a build against an old installed one cannot read."""
    if int(ROCKSDB_VERSION.split(".")[0]) < 9:
        pytest.skip(f"this build's RocksDB {ROCKSDB_VERSION} cannot open what rocksdict writes")


def write_store(
    path: Path, families: Families, *, options: rocksdict.Options | None = None, flush: bool = True
) -> Path:
    """A store with these entries; without `flush` they stand in the WAL alone."""
    skip_unless_newer_stores_open()
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
        store.flush_wal(sync=False)
        shutil.copytree(written, path, ignore=shutil.ignore_patterns("LOCK"))
    store.close()
    if not flush:
        shutil.rmtree(written)
    return path


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


def kvbatch(*arguments: object, timeout: float = 120, **kwargs: object) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a process of its own."""
    return subprocess.run(
        kvbatch_command(arguments), capture_output=True, text=True, timeout=timeout, check=False, **kwargs
    )  # type: ignore[call-overload]


def kvbatch_command(arguments: Iterable[object]) -> list[str]:
    return [sys.executable, "-m", "kvbatch", *(str(argument) for argument in arguments)]
