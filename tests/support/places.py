"""Where a target may stand, so that one test serves both ways."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import kvbatch


@dataclass(frozen=True)
class Place:
    """A root for targets, reached as directories or through a receiver."""

    root: Path
    receiver: kvbatch.Receiver | None = None

    def endpoint(self, name: str = "target") -> str:
        if self.receiver is None:
            return str(self.root / name)
        return f"kvbatch://127.0.0.1:{self.receiver.port}/{name}"

    def path(self, name: str = "target") -> Path:
        return self.root / name

    def check_full_disk(self, message: str) -> None:
        """That it says whose disk is full, and where the target stands on it."""
        whose, _, rest = message.partition(" is full: ")
        assert whose == f"the disk of the target {self.endpoint()}"
        if self.receiver is not None:
            assert rest.startswith(f"at the receiver 127.0.0.1:{self.receiver.port}: ")
            assert str(self.root) in rest
        assert "make room on that disk and run the same command again" in rest


_MEMORY = Path("/dev/shm")
_ENOUGH_BYTES = 2 << 30


@contextmanager
def quick_folder(prefix: str) -> Iterator[Path]:
    """An empty folder, in memory where there is room: many small stores mostly wait for a disk's syncs."""
    roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ENOUGH_BYTES
    with TemporaryDirectory(prefix=prefix, dir=_MEMORY if roomy else None, ignore_cleanup_errors=True) as folder:
        yield Path(folder)
