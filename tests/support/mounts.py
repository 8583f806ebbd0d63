"""Small and read-only file systems for tests, in a mount namespace that ends with this process."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# From sched.h and sys/mount.h.
_CLONE_NEWNS = 0x00020000
_MS_RDONLY = 1
_MS_REMOUNT = 32
_MS_BIND = 4096
_MS_REC = 16384
_MS_PRIVATE = 1 << 18
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _mount(path: Path, flags: int, *, source: str = "none", kind: str | None = None, options: str = "") -> None:
    """mount(2)."""
    answer = _libc.mount(
        source.encode(), os.fsencode(path), kind.encode() if kind else None, ctypes.c_ulong(flags), options.encode()
    )
    _check(answer, f"mount at {path}")


def _unmount(path: Path) -> None:
    _check(_libc.umount2(os.fsencode(path), _MNT_DETACH), f"unmount {path}")


@functools.cache
def enter_private_namespace() -> str | None:
    """Takes this thread, and all that it starts from now on, into a mount namespace of their own; why not, if not.

    To be called before any store is opened: RocksDB's background threads live on and must see the same mounts.
    """
    try:
        _check(_libc.unshare(_CLONE_NEWNS), "private mount namespace")
        _mount(Path("/"), _MS_REC | _MS_PRIVATE)
    except OSError as error:
        # In a chroot / need not be a mount point. What is mounted below may then be seen outside of it, until it is
        # unmounted, which is seen outside as well.
        return None if error.errno == errno.EINVAL else error.strerror
    return None


def _mount_or_skip(path: Path, flags: int, **more: str) -> None:
    reason = enter_private_namespace()
    if reason is None:
        try:
            _mount(path, flags, **more)
            return
        except OSError as error:
            reason = error.strerror
    pytest.skip(f"this process may not mount: {reason}")


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system of `size` (as tmpfs takes it) at `path`; skips the test where mounting is not allowed."""
    path.mkdir(exist_ok=True)
    _mount_or_skip(path, 0, kind="tmpfs", options=f"size={size}")
    try:
        yield path
    finally:
        _unmount(path)


def resize_disk(path: Path, size: str) -> None:
    _mount(path, _MS_REMOUNT, kind="tmpfs", options=f"size={size}")


# What a command must lay down to meet the obstacle: numbers of linux/capability.h.
Capabilities = frozenset[int]
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2


@contextmanager
def read_only_disk(path: Path) -> Iterator[Capabilities]:
    """`path` as a read-only file system, for root too; skips the test where mounting is not allowed."""
    _mount_or_skip(path, _MS_BIND, source=str(path))
    try:
        _mount(path, _MS_REMOUNT | _MS_BIND | _MS_RDONLY)
        yield frozenset()
    finally:
        _unmount(path)


@contextmanager
def read_only_tree(path: Path) -> Iterator[Capabilities]:
    """`path` and all below it without the permission to write, which root needs as well without what this yields."""
    with _without(path, 0o222) as capabilities:
        yield capabilities


@contextmanager
def unreadable_tree(path: Path) -> Iterator[Capabilities]:
    """The same without any permission."""
    with _without(path, 0o777) as capabilities:
        yield capabilities


@contextmanager
def _without(path: Path, permissions: int) -> Iterator[Capabilities]:
    modes = {entry: entry.stat().st_mode for entry in [path, *path.rglob("*")]}
    for entry, mode in modes.items():
        entry.chmod(mode & ~permissions)
    try:
        yield frozenset({_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH})
    finally:
        for entry, mode in modes.items():
            entry.chmod(mode)
