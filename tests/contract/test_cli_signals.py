"""serve, and what signals do to it and to a running migration."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import kvbatch
from kvbatch import cli
from kvbatch._core.frame import FrameType
from kvbatch.endpoints import ReceiverEndpoint
from kvbatch.target_remote import RemoteSession
from support.forked import Forked
from support.link import Hold, Link, data_frame
from support.sender import SmallSource
from support.stores import kvbatch as command_line
from support.stores import kvbatch_command, numbered, read_store, write_store
from support.targets import BOUNDS, ENTRIES
from support.wire import RawPeer

WAIT_SECONDS = 20


@contextmanager
def process(*arguments: object) -> Iterator[Forked]:
    with Forked(["-m", "kvbatch", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        try:
            yield running
        finally:
            running.kill()


def port_of(server: Forked) -> int:
    assert server.stdout is not None
    line = server.stdout.readline()
    found = re.match(r"listening on 127\.0\.0\.1:(\d+), root /", line)
    assert found, line
    return int(found[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_serve_ends_with_0_keeps_what_was_applied_and_goes_on_when_it_is_back(tmp_path: Path, number: int) -> None:
    source = SmallSource(write_store(tmp_path / "source", ENTRIES), BOUNDS)
    root = tmp_path / "root"
    with process("serve", "--root", root, "--listen", "127.0.0.1:0") as server:
        session = RemoteSession(ReceiverEndpoint("127.0.0.1", port_of(server), "copy"), source.manifest, 1)
        stream = session.stream(0)
        totals = source.put(session, stream, source.ranges[0], limit=2)
        server.send_signal(number)
        out, err = server.communicate(timeout=WAIT_SECONDS)
    assert server.returncode == 0, err
    assert out == ""
    assert "Traceback" not in err
    with pytest.raises(kvbatch.TransportError):
        stream.drain()
    with kvbatch.serve(root) as receiver:
        session = RemoteSession(ReceiverEndpoint("127.0.0.1", receiver.port, "copy"), source.manifest, 8)
        assert [(cursor.range, cursor.entries) for cursor in session.reply.cursors] == [(0, totals.entries)]
        source.move(session)
        session.finish()
        session.close()
    assert read_store(root / "copy") == ENTRIES


def test_serve_ends_while_peers_are_connected_and_silent(tmp_path: Path) -> None:
    with process("serve", "--root", tmp_path / "root", "--listen", "127.0.0.1:0") as server:
        port = port_of(server)
        with RawPeer(port) as silent, RawPeer(port) as greeted:
            greeted.hello("control")
            server.send_signal(signal.SIGTERM)
            _, err = server.communicate(timeout=WAIT_SECONDS)
            assert silent.until_closed() == greeted.until_closed() == []
    assert (server.returncode, "Traceback" in err) == (0, False)


def test_a_port_that_is_taken_is_wrong_usage(receiver: kvbatch.Receiver, tmp_path: Path) -> None:
    done = command_line("serve", "--root", tmp_path / "second", "--listen", f"127.0.0.1:{receiver.port}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"127.0.0.1:{receiver.port}" in done.stderr
    assert not (tmp_path / "second").exists()


def test_a_root_that_cannot_be_made_leaves_the_port_free(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("dear")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(kvbatch.UsageError, match="file is a file"):
        kvbatch.Receiver(tmp_path / "file", "127.0.0.1", port)
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_insecure_listens_everywhere(tmp_path: Path) -> None:
    with process("serve", "--root", tmp_path, "--listen", "0.0.0.0:0", "--insecure") as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("listening on 0.0.0.0:")
        server.send_signal(signal.SIGTERM)
        assert server.wait(WAIT_SECONDS) == 0


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "", "192.168.1.2", "::", "::1:2", "localhost.example.com", "127.example.com"]
)
def test_only_loopback_is_served_without_insecure(tmp_path: Path, host: str) -> None:
    with pytest.raises(kvbatch.RefusedError, match="--insecure"):
        kvbatch.Receiver(tmp_path / "root", host)
    assert not (tmp_path / "root").exists()


def test_an_ipv6_address_is_printed_as_it_is_typed(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    write_store(tmp_path / "source", {"default": numbered(10)})
    with process("serve", "--root", tmp_path / "root", "--listen", "[::1]:0") as server:
        assert server.stdout is not None
        found = re.match(r"listening on (\[::1\]:\d+), ", server.stdout.readline())
        assert found
        assert kvbatch.migrate(tmp_path / "source", f"kvbatch://{found[1]}/copy").wait(WAIT_SECONDS).entries == 10
        server.send_signal(signal.SIGTERM)
        assert server.wait(WAIT_SECONDS) == 0


# -- a migration that is told to stop ---------------------------------------------------------------------------------


@pytest.fixture
def stuck(receiver: kvbatch.Receiver) -> Iterator[tuple[Link, Hold]]:
    """A way to the receiver that lets some acks through and then nothing until it is released."""
    hold = Hold(lambda passing: passing.frame.type == FrameType.ACK and passing.number > 3)
    with Link(receiver.port, hold) as link:
        yield link, hold


@pytest.mark.parametrize(
    ("number", "lane"),
    [(signal.SIGINT, "batch"), (signal.SIGTERM, "batch"), (signal.SIGINT, "sst"), (signal.SIGTERM, "files")],
)
def test_an_interrupted_migration_is_75_with_the_command_that_then_finishes_it(
    receiver: kvbatch.Receiver, stuck: tuple[Link, Hold], tmp_path: Path, number: int, lane: str
) -> None:
    link, hold = stuck
    entries = {"default": numbered(5000), "users": numbered(100)}
    source = write_store(tmp_path / "source", entries)
    target = f"kvbatch://127.0.0.1:{link.port}/copy"
    options = ("--job", "nightly", "--streams", "1", "--batch-size", "4KiB", "--window", "1", "--json", "--lane", lane)
    command = ("migrate", source, target, *options, "--progress", "json")
    with process(*command) as running:
        assert running.stderr is not None
        started = next(line for line in running.stderr if '"started"' in line)
        assert json.loads(started)["event"] == "range"
        running.send_signal(number)
        out, err = running.communicate(timeout=WAIT_SECONDS)
    assert running.returncode == 75, err
    assert out == ""
    assert "Traceback" not in err
    events = [json.loads(line) for line in err.splitlines()]
    # Between the words that it stops and that it stopped it may tell how it is held up, and what became durable.
    told = [event["event"] for event in events if event["event"] not in {"sample", "throttle", "range"}]
    assert told[-3:] == ["warning", "done", "error"]
    assert (events[-2]["state"], events[-2]["error"]) == ("stopped", events[-1]["message"])
    assert events[-1]["advice"] == "carry on with"
    assert shlex.split(events[-1]["command"]) == ["kvbatch", *map(str, command)]
    shown = json.loads(command_line("status", "nightly", "--json").stdout)
    assert (shown["state"], shown["pid"], shown["summary"]) == ("stopped", None, None)

    hold.release.set()
    again = command_line(*command)
    assert again.returncode == 0, again.stderr
    summary = json.loads(again.stdout)
    assert (summary["resumed"], summary["entries"]) == (True, 5100)
    assert read_store(receiver.root / "copy") == entries


@pytest.mark.parametrize("nohup", [False, True])
def test_the_end_of_the_terminal_stops_a_migration_as_ctrl_c_does_but_not_under_nohup(
    receiver: kvbatch.Receiver, stuck: tuple[Link, Hold], tmp_path: Path, nohup: bool
) -> None:
    link, hold = stuck
    source = write_store(tmp_path / "source", {"default": numbered(5000)})
    options = ("--streams", "1", "--batch-size", "4KiB", "--window", "1", "--json", "--progress", "json")
    command = kvbatch_command(["migrate", source, f"kvbatch://127.0.0.1:{link.port}/copy", *options])
    with subprocess.Popen(
        ["nohup", *command] if nohup else command,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        assert running.stderr is not None
        next(line for line in running.stderr if '"started"' in line)
        running.send_signal(signal.SIGHUP)
        if nohup:
            hold.release.set()
        out, err = running.communicate(timeout=WAIT_SECONDS)
    if nohup:
        assert (running.returncode, json.loads(out)["entries"]) == (0, 5000), err
    else:
        assert (running.returncode, json.loads(err.splitlines()[-1])["advice"]) == (75, "carry on with")


def test_what_was_set_is_part_of_the_command_that_carries_on(tmp_path: Path) -> None:
    """A job that somebody slowed down is not to come back at full speed."""
    source = write_store(tmp_path / "source", {"default": numbered(20_000)})
    begun = ("migrate", source, tmp_path / "copy", "--batch-size", "4KiB", "--streams=1", "--rate-limit", "64KiB/s")
    with process(*begun, "--job", "nightly", "--compression", "none", "--progress", "json") as running:
        assert running.stderr is not None
        next(line for line in running.stderr if '"started"' in line)
        changed = command_line("set", "nightly", "--rate-limit", "128KiB/s", "--streams", "2", "--compression", "auto")
        assert changed.returncode == 0, changed.stderr
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=WAIT_SECONDS)
    assert running.returncode == 75, err
    told = shlex.split(json.loads(err.splitlines()[-1])["command"])
    kept = json.loads(command_line("status", "nightly", "--json").stdout)["carry_on"]
    for words in (told, shlex.split(kept)):
        assert words[:2] == ["kvbatch", "migrate"]
        assert {str(source), str(tmp_path / "copy"), "--batch-size"} <= set(words)
        assert [words[at + 1] for at, word in enumerate(words) if word == "--rate-limit"] == ["128KiB/s"]
        # What was set back to what is the default needs no word.
        assert ("--streams=1" in words, "--compression" in words) == (False, False)
    # Either of them is a command, and what was set by none is left out.
    done = command_line(*told[1:], "--rate-limit", "0")
    assert done.returncode == 0, done.stderr
    assert read_store(tmp_path / "copy") == {"default": numbered(20_000)}


class _Interrupted(io.RawIOBase):
    """A terminal where the user presses Ctrl-C while the first line is written."""

    def __init__(self) -> None:
        self.taken = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if not self.taken:
            signal.raise_signal(signal.SIGINT)
        self.taken += bytes(data)
        return len(data)


def test_an_interrupt_in_the_middle_of_a_line_waits_for_its_end() -> None:
    terminal = _Interrupted()
    stream = io.TextIOWrapper(io.BufferedWriter(terminal))
    stopped = threading.Event()

    def stop() -> None:
        print("stopping", file=stream, flush=True)
        stopped.set()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with cli._StopOnSignals(stop):
            print("a line", file=stream, flush=True)
            assert stopped.wait(WAIT_SECONDS)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert terminal.taken == b"a line\nstopping\n"


# -- a command that did not begin yet, or that leaves nothing behind --------------------------------------------------


@pytest.fixture
def silence() -> Iterator[socket.socket]:
    """A receiver that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_SECONDS)
        yield listener


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("imported", ["shlex", "typer", "kvbatch._core", None])
@pytest.mark.parametrize(
    "program", [("-m", "kvbatch"), (Path(sys.executable).with_name("kvbatch"),)], ids=["m", "script"]
)
def test_whoever_stops_a_plan_sees_no_traceback(
    silence: socket.socket, tmp_path: Path, program: tuple[object, ...], imported: str | None, number: int
) -> None:
    """While modules are imported, and (None) while it waits. What coverage imports stands there before the program."""
    source = write_store(tmp_path / "source", {"default": numbered(10)})
    target = f"kvbatch://127.0.0.1:{silence.getsockname()[1]}/copy"
    command = [sys.executable, "-X", "importtime", *program, "plan", source, target]
    with subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr is not None
        if imported is None:
            silence.accept()
        else:
            assert any(line.split()[-1] == imported for line in running.stderr)
        running.send_signal(number)
        out, err = running.communicate(timeout=WAIT_SECONDS)
    assert running.returncode == -number
    assert out == ""
    assert [line for line in err.splitlines() if not line.startswith("import time:")] == []


def test_an_interrupt_that_the_caller_ignores_stays_ignored(tmp_path: Path) -> None:
    """So a shell starts what it runs in the background."""
    source = write_store(tmp_path / "source", {"default": numbered(10)})
    script = "import signal, subprocess, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    script += (
        "sys.exit(subprocess.run([sys.executable, '-X', 'importtime', '-m', 'kvbatch', *sys.argv[1:]]).returncode)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, "plan", str(source), str(tmp_path / "copy")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as running:
        assert running.stderr is not None
        assert any(line.split()[-1] == "typer" for line in running.stderr)
        os.killpg(running.pid, signal.SIGINT)
        out, _ = running.communicate(timeout=WAIT_SECONDS)
    assert running.returncode == 0
    assert "nothing that could be overwritten" in out


# -- a demo that is told to stop --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["source/CURRENT", "received/copy/CURRENT"], ids=["makes", "migrates"])
def test_a_demo_that_is_stopped_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, moment: str
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with process("demo", "--entries", "500000", "--json") as demo:
        deadline = time.monotonic() + WAIT_SECONDS
        while not list(tmp_path.glob(f"kvbatch-demo-*/{moment}")):
            assert demo.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        demo.send_signal(number)
        demo.send_signal(number)
        out, err = demo.communicate(timeout=WAIT_SECONDS)
    assert (demo.returncode, out, err) == (75, "", "kvbatch: stopped on request\n")
    assert not list(tmp_path.glob("kvbatch-demo-*"))


# -- a verification that is told to stop ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("progress", ["bar", "plain", "none"])
def test_an_interrupted_verification_is_75_and_one_line(
    receiver: kvbatch.Receiver, tmp_path: Path, number: int, progress: str
) -> None:
    """Although the receiver owes an answer."""
    source = write_store(tmp_path / "source", ENTRIES)
    write_store(receiver.root / "copy", ENTRIES)
    hold = Hold(lambda passing: passing.direction == "down" and passing.operation == "digest")
    with (
        Link(receiver.port, hold) as link,
        process("verify", source, f"kvbatch://127.0.0.1:{link.port}/copy", "--json", "--progress", progress) as running,
    ):
        assert hold.reached.wait(WAIT_SECONDS)
        running.send_signal(number)
        out, err = running.communicate(timeout=WAIT_SECONDS)
    assert (running.returncode, out) == (75, "")
    # A bar leaves its line.
    assert err.lstrip("\n") == "kvbatch: verify was stopped on request; nothing was changed\n"


def test_an_interrupted_repair_says_that_what_was_repaired_stays(receiver: kvbatch.Receiver, tmp_path: Path) -> None:
    entries = {"default": numbered(4000, value=b"v" * 1000)}
    source = write_store(tmp_path / "source", entries)
    write_store(receiver.root / "copy", {"default": {}})
    hold = Hold(data_frame(2))
    with Link(receiver.port, hold) as link:
        command = ("verify", "--repair", source, f"kvbatch://127.0.0.1:{link.port}/copy")
        with process(*command) as running:
            assert hold.reached.wait(WAIT_SECONDS)
            running.send_signal(signal.SIGTERM)
            hold.release.set()
            out, err = running.communicate(timeout=WAIT_SECONDS)
        assert (running.returncode, out) == (75, "")
        assert err == "kvbatch: verify was stopped on request; what was repaired so far stays, run it again\n"
        assert read_store(receiver.root / "copy")["default"]
        assert command_line(*command).returncode == 0
    assert read_store(receiver.root / "copy") == entries
