"""`kvbatch demo`: the whole way once, with a receiver in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvbatch._core.store import write_sample_store
from kvbatch.comparison import VerifyReport
from kvbatch.errors import KvbatchError, RefusedError
from kvbatch.events import Summary
from kvbatch.migration import Migration
from kvbatch.options import MigrationOptions
from kvbatch.units import format_bytes, format_count, format_seconds
from kvbatch.verification import verify

__all__ = ["DemoReport", "receiver_process", "run_demo"]


@dataclass(frozen=True, slots=True)
class DemoReport:
    make_seconds: float
    verify_seconds: float
    summary: Summary
    verified: VerifyReport

    @property
    def equal(self) -> bool:
        return self.verified.equal

    def to_json(self) -> dict[str, Any]:
        return {
            "make_seconds": self.make_seconds,
            "verify_seconds": self.verify_seconds,
            "migrate": self.summary.to_json(),
            "verify": self.verified.to_json(),
        }

    def rows(self) -> list[tuple[str, str]]:
        summary, verified = self.summary, self.verified
        verify_rate = verified.entries_source / self.verify_seconds
        return [
            ("made a store", f"{verified.entries_source:,} entries in {format_seconds(self.make_seconds)}"),
            (
                "migrated over loopback",
                f"{format_bytes(summary.raw_bytes)} in {summary.seconds:.2f} s: "
                f"{format_count(summary.entries_per_second)} entries/s",
            ),
            ("sender's peak memory", format_bytes(summary.peak_rss_bytes)),
            ("verified", f"in {self.verify_seconds:.2f} s: {format_count(verify_rate)} entries/s"),
            ("source and target are equal", "yes" if verified.equal else "NO"),
            *((f'digest of "{family}"', digest) for family, digest in verified.digests.items()),
        ]


@contextmanager
def receiver_process(root: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A receiver on a free loopback port in a process of its own: (process, port). Ended with SIGTERM."""
    command = [sys.executable, "-m", "kvbatch", "serve", "--root", str(root), "--listen", "127.0.0.1:0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("listening on "):
                raise KvbatchError("the receiver did not start")
            yield process, int(line.split(",")[0].rpartition(":")[2])
        finally:
            process.terminate()


def _stop(migration: Migration) -> None:
    """Whatever ended the demo, its directory may go once nothing writes there."""
    migration.cancel()
    with suppress(KvbatchError):
        migration.wait()


def run_demo(entries: int, directory: Path | None = None) -> DemoReport:
    """Works in `directory`, which is kept, or in a temporary one. Raises RefusedError when the store exists there."""
    with ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kvbatch-demo-")))
        directory.mkdir(parents=True, exist_ok=True)
        source = directory / "source"
        if source.exists():
            raise RefusedError(
                f"{source} exists already, and the demo makes a store of its own there. Nothing was written; give "
                "another --directory, or remove this one"
            )
        began = time.monotonic()
        write_sample_store(str(source), entries=entries)
        made = time.monotonic()
        _, port = stack.enter_context(receiver_process(directory / "received"))
        target = f"kvbatch://127.0.0.1:{port}/copy"
        options = MigrationOptions.checked(state_dir=directory / "state")
        migration = Migration(str(source), target, options).start()
        stack.callback(_stop, migration)
        summary = migration.wait()
        migrated = time.monotonic()
        verified = verify(str(source), target)
        return DemoReport(made - began, time.monotonic() - migrated, summary, verified)
