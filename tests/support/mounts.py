"""Small and read-only file systems for tests, in a mount namespace that ends with this process."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_CLONE_NEWNS = 0x00020000


@functools.cache
def enter_private_namespace() -> str | None:
    """Takes this thread, and all that it starts from now on, into a mount namespace of their own; why not, if not.

    To be called before any store is opened: RocksDB's background threads live on and must see the same mounts.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        return f"no private mount namespace here: {os.strerror(ctypes.get_errno())}"
    done = subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"no private mounts here: {done.stderr.strip()}"


def _mount(*arguments: object) -> None:
    if (reason := enter_private_namespace()) is not None:
        pytest.skip(reason)
    command = ["mount", *(str(argument) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system of `size` (as tmpfs takes it) at `path`; skips the test where mounting is not allowed."""
    path.mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={size}", "none", path)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def resize_disk(path: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", path], check=True)


@contextmanager
def read_only(path: Path) -> Iterator[Path]:
    """`path` as a read-only file system, for root too; skips the test where mounting is not allowed."""
    _mount("--bind", path, path)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", path], check=True)
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)
