"""The commands that control jobs and show them: what they print, their exit codes, and what they ask."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kvbatch.endpoints import parse_endpoint
from kvbatch.state import JobState, StateStore, control_path, sent_path
from kvbatch.status_view import _cut
from kvbatch.target_local import LocalSession
from support.fake_job import ERROR, OPTION_WORDS, FakeJob, record_job
from support.forked import Forked
from support.sender import SmallSource
from support.stores import kvbatch, read_store, write_store
from support.targets import ENTRIES, TargetCase

WAIT_SECONDS = 60.0


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


def control(state_dir: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return kvbatch(*arguments, "--state-dir", state_dir, stdin=subprocess.DEVNULL)


def one_object(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def test_a_running_job_is_paused_changed_resumed_and_stopped(state_dir: Path) -> None:
    with FakeJob(state_dir) as migration:
        paused = control(state_dir, "pause", "nightly")
        assert paused.stdout == f"job nightly is paused; `kvbatch resume nightly --state-dir {state_dir}` goes on\n"
        assert control(state_dir, "resume", "nightly").stdout == "job nightly is running\n"
        done = control(state_dir, "set", "nightly", "--window", 4, "--rate-limit", "20MiB/s", "--streams", 3)
        assert done.stderr == ""
        rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in done.stdout.splitlines())
        assert (rows["state"], rows["setting window"], rows["setting streams"]) == ("running", "4", "3")
        assert (rows["setting batch bytes"], rows["setting source read rate"]) == ("auto", "none")
        changed = one_object(control(state_dir, "set", "nightly", "--batch-size", "1MiB", "--window", "auto", "--json"))
        assert (changed["settings"]["batch_bytes"], changed["settings"]["window"]) == ("1MiB", "auto")
        status = one_object(control(state_dir, "status", "nightly", "--json"))
        assert status["settings"] == {**changed["settings"]}
        assert (status["state"], status["pid"], status["percent"]) == ("running", os.getpid(), 30.0)
        stopped = control(state_dir, "cancel", "nightly")
        assert stopped.returncode == 0
        assert stopped.stdout == (
            "job nightly: stopped on request; nothing is lost. Carry it on with: kvbatch migrate /data/source "
            f"/data/copy {OPTION_WORDS} --job nightly --state-dir {state_dir}\n"
        )
        assert migration.calls == ["pause", "resume", "set", "set", "cancel"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["pause", "nobody"], 2, "no job 'nobody'"),
        (["set", "nightly"], 2, "--max-source-read-rate"),
        (["set", "nightly", "--streams", "many"], 2, "--streams 'many': give auto, or a whole number from 1 to 64"),
        (["pause", "nightly"], 4, f"kvbatch migrate /data/source /data/copy {OPTION_WORDS} --job nightly"),
        (["resume", "nightly"], 4, f"kvbatch migrate /data/source /data/copy {OPTION_WORDS} --job nightly"),
        (["set", "nightly", "--window", "4"], 4, "job nightly is stopped"),
        (["cancel", "nightly"], 4, "kvbatch cancel --discard nightly"),
        (["cancel", "nightly", "--yes"], 2, "--discard"),
        (["cancel", "nightly", "--discard"], 2, "kvbatch cancel --discard --yes nightly"),
        (["cancel", "weekly", "--discard"], 4, "job weekly is done"),
        (["cancel", "nobody", "--discard", "--yes"], 2, "no job 'nobody'"),
        (["status", "nobody"], 2, "no job 'nobody'"),
        (["status", "--interval", "1"], 2, "--watch"),
        (["status", "--watch", "--json"], 2, "--watch"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_makes_no_sense_ends_with_its_exit_code(
    state_dir: Path, arguments: list[str], code: int, words: str
) -> None:
    record_job(state_dir, "nightly", JobState.STOPPED)
    record_job(state_dir, "weekly", JobState.DONE)
    done = control(state_dir, *arguments)
    assert (done.returncode, done.stdout, words in done.stderr) == (code, "", True), done.stderr
    listed = one_object(control(state_dir, "status", "--json"))["jobs"]
    assert sorted(job["job"] for job in listed) == ["nightly", "weekly"]


def test_the_list_says_of_every_job_where_it_stands(state_dir: Path) -> None:
    for state in (JobState.STOPPED, JobState.FAILED, JobState.DONE, "interrupted"):
        record_job(state_dir, f"was-{state}", state)
    with FakeJob(state_dir, "is-running"):
        lines = control(state_dir, "status").stdout.splitlines()
        listed = one_object(control(state_dir, "status", "--json"))["jobs"]
    rows = {cells[0]: cells[1:] for cells in (re.split(r"\s{2,}", line) for line in lines[1:])}
    rate = "100/s, 9.77 KiB/s"
    assert rows["is-running"] == [
        "running",
        "30 %",
        "25 %",
        "600",
        rate,
        "14.0 s",
        "window",
        "/data/source",
        "/data/copy",
    ]
    assert rows["was-done"] == ["done", "100 %", "500", "50/s, 4.88 KiB/s", "/data/source", "/data/copy"]
    assert rows["was-interrupted"] == ["interrupted", "25 %", "500", "30.0 s", "/data/source", "/data/copy"]
    assert rows["was-stopped"] == ["stopped", "25 %", "500", "30.0 s", "/data/source", "/data/copy", ERROR]
    assert {job["job"]: job["error"] for job in listed}["was-failed"] == ERROR


def test_a_job_that_ended_says_nothing_of_what_no_stream_of_it_has(state_dir: Path) -> None:
    record_job(state_dir, "nightly", JobState.DONE)
    lines = control(state_dir, "status", "nightly").stdout.splitlines()
    assert "auto" not in [re.split(r"\s{2,}", line)[1] for line in lines]
    status = one_object(control(state_dir, "status", "nightly", "--json"))
    assert status["progress"]["state"] == "done"


@pytest.mark.parametrize("state", [JobState.STOPPED, JobState.FAILED, "interrupted", JobState.DONE])
def test_a_job_that_nobody_runs_says_what_carries_it_on(state_dir: Path, state: str) -> None:
    record_job(state_dir, "nightly", state)
    shown = control(state_dir, "status", "nightly").stdout
    status = one_object(control(state_dir, "status", "nightly", "--json"))
    if state == JobState.DONE:
        assert ("carry on" in shown, status["carry_on"], status["carry_on_note"]) == (False, None, None)
        return
    command = f"kvbatch migrate /data/source /data/copy {OPTION_WORDS} --job nightly --state-dir {state_dir}"
    assert (f"carry on with  {command}\n" in re.sub(" {2,}", "  ", shown), status["carry_on"]) == (True, command), shown


# -- discard ----------------------------------------------------------------------------------------------------------


def begin(target: TargetCase, source: SmallSource, state_dir: Path) -> None:
    """An unfinished job that no process runs, as a stopped `migrate` leaves it."""
    session = target.open(source.manifest)
    source.move(session, source.ranges[:1])
    session.close()
    target.settle()
    record_job(
        state_dir,
        "contract",
        JobState.STOPPED,
        source=str(source.path),
        target=str(target.endpoint),
        fingerprint=source.manifest.fingerprint,
    )
    sent_path(state_dir, "contract").parent.mkdir(exist_ok=True)
    sent_path(state_dir, "contract").write_bytes(bytes(48))


@pytest.mark.parametrize("source_way", ["batch", "files"])
def test_a_stopped_job_is_discarded_with_its_record(
    target: TargetCase, source_store: Path, state_dir: Path, source_way: str, tmp_path: Path
) -> None:
    source = SmallSource(source_store, [("default", None, None), ("users", None, None)], way=source_way)
    begin(target, source, state_dir)
    done = control(state_dir, "cancel", "contract", "--discard", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"job contract was discarded: what it had written at {target.endpoint} was removed\n"
    assert [entry for entry in target.path.parent.iterdir() if "target" in entry.name] == []
    assert one_object(control(state_dir, "status", "--json")) == {"jobs": []}
    assert list((state_dir / "jobs").iterdir()) == []


def test_a_target_that_somebody_else_finished_stays_and_the_record_goes(
    target: TargetCase, source: SmallSource, state_dir: Path
) -> None:
    begin(target, source, state_dir)
    session = target.open(source.manifest)
    source.move(session)
    session.finish()
    session.close()
    target.settle()
    done = control(state_dir, "cancel", "contract", "--discard", "--yes", "--json")
    assert one_object(done)["outcome"] == "store"
    assert read_store(target.path) == ENTRIES
    assert one_object(control(state_dir, "status", "--json")) == {"jobs": []}
    assert list((state_dir / "jobs").iterdir()) == []


def test_a_receiver_that_does_not_answer_leaves_all_as_it_is(source: SmallSource, state_dir: Path) -> None:
    record_job(state_dir, "nightly", JobState.STOPPED, target="kvbatch://127.0.0.1:1/copy")
    done = control(state_dir, "cancel", "nightly", "--discard", "--yes")
    assert done.returncode == 75
    assert "try again with: kvbatch cancel nightly --discard --yes" in done.stderr
    assert control(state_dir, "status", "nightly").returncode == 0


def test_a_running_job_is_stopped_before_it_is_discarded(state_dir: Path) -> None:
    with FakeJob(state_dir) as migration:
        discarded = one_object(control(state_dir, "cancel", "nightly", "--discard", "--yes", "--json"))
        assert migration.calls == ["cancel"]
    assert (discarded["job"], discarded["target"], discarded["outcome"]) == ("nightly", "/data/copy", "nothing")
    assert "nothing of it stood at /data/copy" in discarded["message"]
    assert not control_path(state_dir, "nightly").exists()


def test_entries_among_other_data_stay_and_the_message_says_so(tmp_path: Path, state_dir: Path) -> None:
    path = write_store(tmp_path / "target", {"default": {b"a-theirs": b"1"}})
    source = SmallSource(
        write_store(tmp_path / "source", ENTRIES), [("default", None, None), ("users", None, None)],
        options={"allow_nonempty": True},
    )  # fmt: skip
    target = TargetCase("directory", parse_endpoint(path), path, lambda manifest: LocalSession(path, manifest, 1 << 20))
    begin(target, source, state_dir)
    done = control(state_dir, "cancel", "contract", "--discard", "--yes")
    assert "The entries that it had written there stay" in done.stdout
    assert read_store(path) == {"default": {b"a-theirs": b"1", **ENTRIES["default"]}, "users": {}}


# -- on a terminal ----------------------------------------------------------------------------------------------------


class Terminal:
    """A command with a terminal for all that it reads and writes."""

    def __init__(self, *arguments: object, **environment: str) -> None:
        self.said = ""
        self._master, slave = pty.openpty()
        self.process = Forked(
            ["-m", "kvbatch", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "200", **environment},
        )
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def until(self, words: str) -> None:
        while words not in self.said:
            assert self._read(), f"it ended without saying {words!r}: {self.said}"

    def _read(self) -> bool:
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:  # nobody has the other side any more
            return False
        self.said += data.decode()
        return bool(data)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> int:
        while self._read():
            pass
        return self.process.wait(WAIT_SECONDS)


@pytest.mark.parametrize(
    ("answer", "code", "kept"),
    [("y\n", 0, False), ("n\n", 75, True), ("\n", 75, True), pytest.param("\4", 75, True, id="Ctrl-D")],
)
def test_discard_asks(source: SmallSource, tmp_path: Path, state_dir: Path, answer: str, code: int, kept: bool) -> None:
    path = tmp_path / "target"
    target = TargetCase("directory", parse_endpoint(path), path, lambda manifest: LocalSession(path, manifest, 1 << 20))
    begin(target, source, state_dir)
    with Terminal("cancel", "contract", "--discard", "--state-dir", state_dir) as terminal:
        terminal.until("?")
        assert f"Remove what job contract wrote at {path}" in terminal.said
        terminal.type(answer)
        assert (terminal.end(), path.exists()) == (code, kept), terminal.said
        assert ("nothing was done" in terminal.said) == kept


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_list_is_watched_in_place_until_a_signal_comes(state_dir: Path, number: signal.Signals) -> None:
    with FakeJob(state_dir), Terminal("status", "--watch", "--interval", 0.1, "--state-dir", state_dir) as terminal:
        terminal.until("nightly")
        terminal.until("\x1b[1A")  # up again, over what was shown
        assert "\x1b[32mrunning" in terminal.said
        terminal.process.send_signal(number)
        assert terminal.end() == -number
        assert terminal.said.endswith("\x1b[?25h"), "the cursor is shown again"


LONG_PATH = "/data/" + "far/" * 30
LONG_ERROR = "the target said no, " * 10


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
@pytest.mark.parametrize("watch", [False, True])
def test_a_list_is_as_wide_as_the_terminal_and_its_job_ids_are_whole(
    state_dir: Path, columns: int, watch: bool
) -> None:
    failed = "f0123456789b"
    record_job(state_dir, failed, JobState.FAILED, source=LONG_PATH, target=LONG_PATH)
    with closing(StateStore(state_dir)) as store:
        store.update(failed, error=LONG_ERROR)
    more = ("--watch", "--interval", 0.1) if watch else ()
    with (
        FakeJob(state_dir, "170e0123456789ab"),
        Terminal("status", *more, "--state-dir", state_dir, COLUMNS=str(columns)) as terminal,
    ):
        if watch:
            terminal.until("\x1b[1A")
            terminal.process.send_signal(signal.SIGINT)
        terminal.end()
        # As it stood first.
        shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.said.partition("\x1b[1A")[0])
    lines = [line.rstrip() for line in shown.splitlines() if line.strip()]
    assert max(map(len, lines)) <= columns, shown
    ids = [line.split()[0] for line in lines if line.split()[0] in (failed, "170e0123456789ab")]
    assert sorted(ids) == ["170e0123456789ab", failed], shown
    [error] = [line for line in lines if "the t" in line]
    assert error.split()[:2] == [failed, "failed"]
    assert error.endswith("…")


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "a long…"), ("latin-1", "a lo..."), ("ascii", "a lo...")])
def test_a_cut_is_marked_by_what_the_terminal_can_show(
    monkeypatch: pytest.MonkeyPatch, encoding: str, shown: str
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert _cut("a long path", 7) == shown


def test_what_stdout_cannot_encode_is_shown_all_the_same(state_dir: Path) -> None:
    record_job(state_dir, "nightly", JobState.FAILED, source="/data/ключ")
    done = subprocess.run(  # not forked: Python reads the variable when it starts
        [sys.executable, "-m", "kvbatch", "status", "--state-dir", state_dir],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert rb"/data/\u043a\u043b\u044e\u0447" in done.stdout


def test_no_colour_where_none_is_wanted(state_dir: Path) -> None:
    arguments = ("status", "--watch", "--interval", 0.1, "--state-dir", state_dir)
    with FakeJob(state_dir), Terminal(*arguments, NO_COLOR="1") as terminal:
        terminal.until("running")
        terminal.process.send_signal(signal.SIGINT)
        terminal.end()
        assert "\x1b[32m" not in terminal.said


def test_a_list_that_is_watched_in_lines_says_when_no_job_runs(state_dir: Path) -> None:
    record_job(state_dir, "nightly", JobState.STOPPED)
    command = ["-m", "kvbatch", "status", "--watch", "--interval", "0.1", "--state-dir", state_dir]
    with Forked(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert watching.stderr.readline().startswith("no job runs")
        with FakeJob(state_dir, "weekly"):
            assert "job weekly: running" in watching.stdout.readline()
        # Not at every look.
        assert watching.stderr.readline().startswith("no job runs")
        watching.send_signal(signal.SIGINT)
        assert (watching.wait(), watching.stderr.read()) == (-signal.SIGINT, "")


def test_a_job_is_watched_in_lines_until_nobody_runs_it(state_dir: Path) -> None:
    job = FakeJob(state_dir)
    migration = job.__enter__()
    command = ["-m", "kvbatch", "status", "nightly", "--watch", "--interval", "0.1", "--state-dir", state_dir]
    with Forked(command, stdout=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        line = watching.stdout.readline()
        assert re.fullmatch(
            r"\S+ job nightly: running, 30 %, 600 entries, 25 % durable, 100/s, 9\.77 KiB/s, 14\.0 s left, "
            r"held back by window\n",
            line,
        )
        migration.pause()
        while "paused" not in line:
            line = watching.stdout.readline()
            assert line, "it ended while the job was running"
        job.__exit__(None, None, None)
        *_, last = watching.stdout
        assert re.fullmatch(
            r"\S+ job nightly: stopped, 25 %, 500 entries, 30\.0 s left, stopped on request; .*\n", last
        )
        assert watching.wait(WAIT_SECONDS) == 0
