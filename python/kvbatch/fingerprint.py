"""The identity of an offline store: the same directory content gives the same fingerprint."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from kvbatch._core.store import wal_directory
from kvbatch.errors import SourceError

__all__ = ["fingerprint_directory"]

# The files that hold data or say which files do. LOG, LOCK, OPTIONS and IDENTITY change without the data changing.
_DATA_FILE = re.compile(r"CURRENT|MANIFEST-\d+|\d+\.(?:sst|ldb|blob|log)")


def fingerprint_directory(path: Path) -> str:
    """Hex digest over the names and sizes of a store's data files and the content of CURRENT.

    RocksDB never rewrites a data file under its old name, and every opening for writing makes a new MANIFEST, so a
    store that was written to has another fingerprint. Raises SourceError when the directory cannot be listed.
    """
    digest = hashlib.sha256()
    try:
        files = sorted(
            (entry.name, entry.stat().st_size)
            for directory in {path, Path(wal_directory(str(path)))}
            for entry in os.scandir(directory)
            if _DATA_FILE.fullmatch(entry.name)
        )
        digest.update((path / "CURRENT").read_bytes())
    except OSError as error:
        raise SourceError(f"list {path}: {error.strerror}") from error
    for name, size in files:
        digest.update(f"{name}\0{size}\n".encode())
    return digest.hexdigest()[:32]
