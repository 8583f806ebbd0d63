"""A program that ends while kvbatch runs in its background keeps its own exit code and says nothing of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import kvbatch
from kvbatch._core.store import write_sample_store

ENTRIES = 400_000
WAIT_SECONDS = 60

_MIGRATE = """
import itertools, sys, kvbatch
source, target, state = sys.argv[1:4]
migration = kvbatch.migrate(source, target, state_dir=state, batch_bytes="16KiB", range_bytes="2MiB")
started = (event for event in migration.events() if event.kind == "range")
"""
# A few ranges are under way, more are waiting.
_RUNNING = _MIGRATE + "next(itertools.islice(started, 3, None))\n"
_SERVING = """
import socket, sys, kvbatch
receiver = kvbatch.serve(sys.argv[1])
"""


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program-end") / "source"
    write_sample_store(str(path), entries=ENTRIES)
    return path


@pytest.mark.parametrize(
    ("remote", "ending", "code", "said"),
    [
        (False, "sys.exit(3)", 3, ""),
        (True, "sys.exit(3)", 3, ""),
        (False, "raise LookupError('its own')", 1, "LookupError: its own"),
    ],
    ids=["directory", "receiver", "error"],
)
def test_a_running_migration_is_cut_off_and_resumable(
    source: Path, receiver: kvbatch.Receiver, tmp_path: Path, remote: bool, ending: str, code: int, said: str
) -> None:
    target = f"kvbatch://127.0.0.1:{receiver.port}/copy" if remote else str(tmp_path / "copy")
    done = run(_RUNNING + ending, source, target, tmp_path / "state")
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.strip().endswith(said) if said else done.stderr == ""
    summary = kvbatch.migrate(source, target, state_dir=tmp_path / "state").wait(WAIT_SECONDS)
    assert summary.entries == ENTRIES
    assert summary.resumed, "it was done before the program ended: the test needs a larger source"
    assert kvbatch.verify(source, target).equal


def test_a_program_that_ends_at_once(source: Path, tmp_path: Path) -> None:
    done = run(_MIGRATE + "sys.exit(3)", source, tmp_path / "copy", tmp_path / "state")
    assert (done.returncode, done.stderr) == (3, "")
    assert kvbatch.migrate(source, tmp_path / "copy", state_dir=tmp_path / "state").wait(WAIT_SECONDS)


def test_a_migration_to_a_receiver_of_the_same_program(source: Path, tmp_path: Path) -> None:
    script = "import kvbatch, sys\nreceiver = kvbatch.serve(sys.argv[4])\nsys.argv[2] += f':{receiver.port}/copy'\n"
    done = run(
        script + _RUNNING + "sys.exit(3)", source, "kvbatch://127.0.0.1", tmp_path / "state", tmp_path / "received"
    )
    assert (done.returncode, done.stderr) == (3, "")
    assert (tmp_path / "received/copy/CURRENT").exists()


@pytest.mark.parametrize(
    "peers",
    [
        "",
        "peer = socket.create_connection(('127.0.0.1', receiver.port))\n",
        "from kvbatch.protocol import connect\npeer, _ = connect('127.0.0.1', receiver.port, 'control')\n",
    ],
    ids=["no peer", "silent peer", "idle peer"],
)
def test_a_receiver_lets_its_program_end(tmp_path: Path, peers: str) -> None:
    done = run(_SERVING + peers + "sys.exit(3)", tmp_path / "received")
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


def test_a_receiver_in_the_main_thread_that_is_interrupted(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys, threading, kvbatch\n"
        "from kvbatch.protocol import connect\n"
        "receiver = kvbatch.Receiver(sys.argv[1])\n"
        "def interrupt():\n"
        "    connect('127.0.0.1', receiver.port, 'control')\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=interrupt).start()\n"
        "try:\n"
        "    receiver.serve_forever()\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(3)\n"
    )
    done = run(script, tmp_path / "received")
    assert (done.returncode, done.stderr) == (3, "")


def test_a_forked_child_leaves_its_parents_receiver_alone(tmp_path: Path) -> None:
    script = _SERVING + (
        "import os\n"
        "from kvbatch.protocol import connect\n"
        "peer, _ = connect('127.0.0.1', receiver.port, 'control')\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    sys.exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert not peer.connection.wait_readable(200), 'the child closed it'\n"
        "connect('127.0.0.1', receiver.port, 'control')\n"
    )
    done = run(script, tmp_path / "received")
    assert (done.returncode, done.stderr) == (0, "")
