"""Debian's ldb and sst_dump (RocksDB 7.8): what an older RocksDB makes of a store."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest


def _run(*command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is missing: it comes with the package rocksdb-tools")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ldb(path: Path, *arguments: str) -> str:
    """The store's own OPTIONS file may be of a newer RocksDB and say more than this one knows."""
    return _run("ldb", f"--db={path}", "--ignore_unknown_options", *arguments)


def ldb_scan(path: Path, family: str = "default") -> str:
    """Every entry as `0xKEY : 0xVALUE`, a line each, opened without the store's own options."""
    return ldb(path, "--try_load_options=false", f"--column_family={family}", "scan", "--hex")


def as_ldb_scan(entries: Mapping[bytes, bytes]) -> str:
    """What `ldb_scan` prints for these."""
    return "".join(f"0x{key.hex().upper()} : 0x{value.hex().upper()}\n" for key, value in sorted(entries.items()))


def ldb_families(path: Path) -> list[str]:
    listed = ldb(path, "list_column_families")
    return re.findall(r"[{,] ?(.*?)(?=, |\})", listed[listed.index("{") :])


def table_properties(file: Path) -> dict[str, str]:
    shown = _run("sst_dump", f"--file={file}", "--show_properties", "--command=none")
    return dict(re.findall(r"^ *(.+?): (.*?)$", shown, flags=re.MULTILINE))


CRC32C = 1


def table_checksum(file: Path) -> int:
    """The first of the 53 bytes of a block-based table's footer says what blocks are checked by (RocksDB's
    ChecksumType)."""
    return file.read_bytes()[-53]


def table_format_version(file: Path) -> int:
    """The last 12 bytes of a block-based table are its format version and a magic number (little-endian)."""
    version, magic = struct.unpack("<IQ", file.read_bytes()[-12:])
    assert magic == 0x88E241B785F4CFF7, f"{file} is no block-based table"
    return int(version)
