"""A full disk under the state directory costs the job's history, never the job."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import kvbatch
from support.forked import Forked
from support.link import Hold, Link, data_frame
from support.mounts import small_disk
from support.stores import kvbatch as run_kvbatch
from support.stores import numbered, read_store, write_store

ENTRIES = {"default": numbered(20_000)}
WAIT_SECONDS = 60


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_store(tmp_path / "source", ENTRIES)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    filler = disk / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:  # noqa: PT012
        while True:
            file.write(bytes(512))
    yield
    filler.unlink()


def test_a_disk_that_fills_up_during_a_run(source: Path, receiver: kvbatch.Receiver, tmp_path: Path) -> None:
    hold = Hold(data_frame(3))
    with small_disk(tmp_path / "state", "512k") as state, Link(receiver.port, hold) as link:
        command = ["migrate", source, f"kvbatch://127.0.0.1:{link.port}/copy", "--state-dir", state]
        options = ["--job", "nightly", "--batch-size", "16KiB", "--progress", "json", "--json"]
        with Forked(["-m", "kvbatch", *command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
            assert hold.reached.wait(WAIT_SECONDS)
            with filled(state):
                hold.release.set()
                out, err = running.communicate(timeout=WAIT_SECONDS)
        assert running.returncode == 0, err
        assert json.loads(out)["entries"] == len(ENTRIES["default"])
        events = [json.loads(line) for line in err.splitlines()]
        warnings = [event["message"] for event in events if event["event"] == "warning"]
        assert len(warnings) == 1, warnings
        assert str(state) in warnings[0]
        assert "full" in warnings[0]
        assert run_kvbatch("status", "nightly", "--state-dir", state).returncode == 0, "there is room again"
    assert read_store(receiver.root / "copy") == ENTRIES


def test_a_disk_that_is_full_from_the_start_is_wrong_usage(source: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "state", "64k") as state, filled(state):
        done = run_kvbatch("migrate", source, tmp_path / "copy", "--state-dir", state)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"the state directory {state} cannot be used" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "copy").exists()
