"""Output that nobody reads, or that does not fit on its disk, is no bug and hurts no job."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.forked import Forked
from support.stores import kvbatch, kvbatch_command, numbered, read_store, write_store

ENTRIES = {"default": numbered(300)}
WAIT_SECONDS = 60
READER_GONE = 128 + 13


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_store(tmp_path / "source", ENTRIES)


def run(*arguments: object, out: str = "", err: str = "") -> subprocess.CompletedProcess[str]:
    """A command with these redirections, as a shell has them."""
    script = f'exec "$@" {out} {err}'
    command = ["bash", "-c", script, "bash", *kvbatch_command(arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)


def without_reader(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A command whose stdout is a pipe that nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with Forked(["-m", "kvbatch", *arguments], stdout=writing, stderr=subprocess.PIPE) as running:
            _, err = running.communicate(WAIT_SECONDS)
        return subprocess.CompletedProcess(running.args, running.wait(), "", err)
    finally:
        os.close(writing)


Arguments = Callable[[Path, Path], list[object]]
COMMANDS: dict[str, Arguments] = {
    "help": lambda source, target: ["--help"],
    "version": lambda source, target: ["--version"],
    "status": lambda source, target: ["status"],
    "status --json": lambda source, target: ["status", "--json"],
    "plan": lambda source, target: ["plan", source, target],
    "verify": lambda source, target: ["verify", source, source.parent / "same"],
    "serve": lambda source, target: ["serve", "--root", target, "--listen", "127.0.0.1:0"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_a_reader_that_is_gone_ends_the_command_without_a_word(
    source: Path, tmp_path: Path, command: Arguments
) -> None:
    write_store(tmp_path / "same", ENTRIES)
    done = without_reader(*command(source, tmp_path / "target"))
    assert done.returncode == READER_GONE
    assert [line for line in done.stderr.splitlines() if "Traceback" in line or "kvbatch:" in line] == []


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_a_full_disk_below_stdout_is_named(source: Path, tmp_path: Path, command: Arguments) -> None:
    write_store(tmp_path / "same", ENTRIES)
    done = run(*command(source, tmp_path / "target"), out="> /dev/full")
    assert done.returncode == 75
    assert "kvbatch: stdout cannot be written: No space left on device." in done.stderr
    assert "bug" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["table", "json"])
def test_a_job_whose_summary_could_not_be_printed_is_done_and_says_so_again(
    source: Path, tmp_path: Path, as_json: list[str]
) -> None:
    target = tmp_path / "target"
    done = run("migrate", source, target, *as_json, "--progress", "json", out="> /dev/full")
    assert done.returncode == 75
    *_, finished, failed = [json.loads(line) for line in done.stderr.splitlines()]
    assert (finished["event"], finished["state"]) == ("done", "done")
    assert (failed["event"], failed["advice"]) == ("error", "nothing is lost; carry on with")
    assert "No space left on device" in failed["message"]
    assert read_store(target) == ENTRIES
    again = kvbatch("migrate", source, target, "--json")
    assert (again.returncode, json.loads(again.stdout)["finished_before"]) == (0, True)


def test_a_job_whose_reader_is_gone_is_done(source: Path, tmp_path: Path) -> None:
    done = without_reader("migrate", source, tmp_path / "target", "--progress", "none")
    assert (done.returncode, done.stderr) == (READER_GONE, "")
    assert read_store(tmp_path / "target") == ENTRIES


def test_progress_that_does_not_fit_on_a_disk_keeps_no_job_up(source: Path, tmp_path: Path) -> None:
    done = run("migrate", source, tmp_path / "target", "--json", "--progress", "json", err="2> /dev/full")
    assert (done.returncode, json.loads(done.stdout)["entries"]) == (0, 300)
    assert read_store(tmp_path / "target") == ENTRIES


def test_progress_that_nobody_reads_any_more_ends_the_command_and_leaves_the_job_resumable(
    source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    script = f'("$@"; echo $? > {tmp_path}/code) 2>&1 | true'
    command = ["bash", "-c", script, "bash", *kvbatch_command(["migrate", source, target, "--progress", "json"])]
    subprocess.run(command, timeout=WAIT_SECONDS, check=True)
    assert int((tmp_path / "code").read_text()) == READER_GONE
    assert kvbatch("migrate", source, target).returncode == 0
    assert read_store(target) == ENTRIES


def test_streams_that_are_closed_from_the_start_take_no_file_of_a_store(source: Path, tmp_path: Path) -> None:
    done = run("migrate", source, tmp_path / "target", out=">&-", err="2>&-")
    # The result could not be printed, as to a full disk.
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    assert read_store(tmp_path / "target") == ENTRIES
    again = run("migrate", source, tmp_path / "target", "--progress=none", out=">&-")
    assert "kvbatch: stdout cannot be written: Bad file descriptor." in again.stderr
    assert run("status", "nobody", err="2>&-").stdout == "", "an error is no result"
