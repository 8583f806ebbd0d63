"""The control socket of a running job: what it takes, what it does not, and that nobody disturbs the job there."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvbatch import control_server
from kvbatch.control_protocol import MAX_REQUEST_BYTES, peer_uid, short_address
from kvbatch.control_server import ControlServer, controlled
from support.fake_job import FakeMigration

WAIT_SECONDS = 30.0
NOBODY = 65534


@pytest.fixture
def migration() -> FakeMigration:
    return FakeMigration("nightly", ends=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "jobs" / "nightly.sock"


@pytest.fixture
def server(migration: FakeMigration, path: Path) -> Iterator[ControlServer]:
    running = ControlServer(migration, path)
    running.start()
    yield running
    running.close()


def connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(WAIT_SECONDS)
    with short_address(path) as address:
        sock.connect(address)
    return sock


def read_all(sock: socket.socket) -> bytes:
    whole = b""
    # What was not read of a request that is too long resets the connection behind the answer.
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(1 << 16):
            whole += data
    return whole


def say(path: Path, line: bytes) -> dict[str, Any]:
    with connect(path) as sock:
        sock.sendall(line)
        answer = read_all(sock)
    assert answer.count(b"\n") == 1
    value: dict[str, Any] = json.loads(answer)
    return value


def ask(path: Path, verb: str, **changes: object) -> dict[str, Any]:
    more = {"changes": changes} if verb == "set" else {}
    return say(path, json.dumps({"request": verb, **more}).encode() + b"\n")


def test_every_answer_says_state_settings_and_progress_that_are_valid_then(
    server: ControlServer, migration: FakeMigration, path: Path
) -> None:
    answer = ask(path, "status")
    assert answer == {
        "ok": True,
        "state": "running",
        "settings": dataclasses.asdict(migration.settings),
        "progress": json.loads(json.dumps(dataclasses.asdict(migration.progress()))),
    }
    assert [ask(path, verb)["state"] for verb in ("pause", "pause", "status", "resume")] == [
        "paused", "paused", "paused", "running",
    ]  # fmt: skip
    answer = ask(path, "set", window=4, rate_limit="20MiB/s")
    assert (answer["settings"]["window"], answer["settings"]["rate_limit"]) == (4, "20MiB/s")
    assert migration.calls == ["pause", "pause", "resume", "set"]


def test_what_the_migration_does_not_take_is_told_and_nothing_else_happens(
    server: ControlServer, migration: FakeMigration, path: Path
) -> None:
    before = migration.settings
    answer = ask(path, "set", streams=0)
    assert answer == {"ok": False, "kind": "UsageError", "message": "cannot set streams to 0", "retryable": False}
    assert migration.settings == before
    answer = ask(path, "set", explode=1)
    assert (answer["kind"], "RuntimeError('a bug')" in answer["message"]) == ("KvbatchError", True)
    assert ask(path, "status")["ok"]


def test_a_job_that_was_told_to_stop_takes_nothing_else(
    server: ControlServer, migration: FakeMigration, path: Path
) -> None:
    assert ask(path, "cancel")["state"] == "stopping"
    for verb in ("pause", "resume", "set"):
        answer = ask(path, verb, window=3)
        assert (answer["kind"], f"too late to {verb}" in answer["message"]) == ("RefusedError", True)
        assert "kvbatch status nightly" in answer["message"]
    assert [ask(path, verb)["state"] for verb in ("cancel", "status")] == ["stopping", "stopping"]
    assert migration.calls == ["cancel", "cancel"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"\n", "no JSON"),
        (b"status\n", "no JSON"),
        (b"\xff\xfe{}\n", "no JSON"),
        (b"\0\n", "no JSON"),
        (b"[" * 60_000 + b"\n", "no JSON"),
        (b"9" * 60_000 + b"\n", "no JSON"),
        (b"[]\n", "no JSON object"),
        (b'"status"\n', "no JSON object"),
        (b"{}\n", "unknown request None"),
        (b'{"request":"explode"}\n', "unknown request 'explode'"),
        (b'{"request":["pause"]}\n', "unknown request"),
        (b'{"request":"pause","force":true}\n', "takes no 'force'"),
        (b'{"request":"pause","changes":{"window":1}}\n', "takes no 'changes'"),
        (b'{"request":"set"}\n', "nothing to set"),
        (b'{"request":"set","changes":{}}\n', "nothing to set"),
        (b'{"request":"set","changes":["window"]}\n', "numbers or text"),
        (b'{"request":"set","changes":{"window":true}}\n', "numbers or text"),
        (b'{"request":"set","changes":{"window":1e300}}\n', "numbers or text"),
        (b'{"request":"set","changes":{"window":{"a":1}}}\n', "numbers or text"),
        (b'{"request":"set","changes":{"window":null}}\n', "numbers or text"),
        (b'{"request":"set","changes":{"no such":1}}\n', "cannot set"),
        (b'{"request":"set","changes":{"self":1}}\n', "nightly could not do that"),
        (b"x" * (MAX_REQUEST_BYTES + 1), "longer than"),
        (b"x" * (4 * MAX_REQUEST_BYTES), "longer than"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_nonsense_is_answered_with_an_error_and_changes_nothing(
    server: ControlServer, migration: FakeMigration, path: Path, line: bytes, words: str
) -> None:
    before = migration.settings
    with connect(path) as sock:
        # More than the longest request may still be under way when the answer comes.
        try:
            sock.sendall(line)
        except (BrokenPipeError, ConnectionResetError):
            assert len(line) > MAX_REQUEST_BYTES
        answer = json.loads(read_all(sock))
    assert (answer["ok"], words in answer["message"]) == (False, True), answer
    assert migration.settings == before
    assert "pause" not in migration.calls
    assert ask(path, "status")["ok"]


def test_what_stands_behind_a_request_is_not_read(server: ControlServer, migration: FakeMigration, path: Path) -> None:
    assert say(path, b'{"request":"pause"}\n{"request":"cancel"}\n')["state"] == "paused"
    assert migration.calls == ["pause"]


def test_clients_that_are_slow_or_gone_keep_nobody_waiting(
    server: ControlServer, migration: FakeMigration, path: Path
) -> None:
    silent = connect(path)
    halfway = connect(path)
    halfway.sendall(b'{"request":')
    for data in (b"", b"{", b'{"request":"status"}\n'):
        with connect(path) as gone:
            gone.sendall(data)
    deaf = connect(path)
    deaf.sendall(b'{"request":"pause"}\n')
    assert ask(path, "resume")["ok"]
    halfway.sendall(b'"pause"}\n')
    assert json.loads(read_all(halfway))["state"] == "paused"
    assert "resume" in migration.calls
    for sock in (silent, halfway, deaf):
        sock.close()


def test_a_client_that_says_nothing_is_let_go(
    migration: FakeMigration, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_server, "_CLIENT_SECONDS", 0.05)
    server = ControlServer(migration, path)
    server.start()
    with connect(path) as sock:
        assert read_all(sock) == b""
    server.close()


def test_more_clients_than_it_takes_at_once_cost_the_oldest_their_turn(
    server: ControlServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_server, "_MAX_CLIENTS", 3)
    silent = [connect(path) for _ in range(8)]
    assert ask(path, "status")["ok"]
    assert read_all(silent[0]) == b""
    for sock in silent:
        sock.close()


def test_the_socket_is_its_owners_alone(server: ControlServer, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    with connect(path) as sock:
        assert peer_uid(sock) == os.geteuid()


def test_a_folder_that_was_open_to_others_is_closed(migration: FakeMigration, path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.parent.chmod(0o755)
    with controlled(migration, path, pytest.fail):
        assert path.parent.stat().st_mode & 0o777 == 0o700


ASK_AS_NOBODY = """
import os, socket, sys
os.setuid(65534)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
sock.settimeout(30)
sock.connect(sys.argv[1])
try:
    sock.sendall(b'{"request":"cancel"}\\n')
    print(sock.recv(100))
except ConnectionError as error:
    print(b"")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user too")
def test_another_user_is_not_heard_even_where_the_modes_let_him_in(migration: FakeMigration) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "jobs" / "nightly.sock"
        with controlled(migration, path, pytest.fail):
            for opened, mode in ((Path(directory), 0o755), (path.parent, 0o755), (path, 0o666)):
                opened.chmod(mode)
            done = subprocess.run(
                [sys.executable, "-c", ASK_AS_NOBODY, str(path)],
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
                # Nobody may not write what coverage would keep of it.
                env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")},
            )
            assert (done.stdout, done.stderr) == ("b''\n", "")
            assert migration.calls == []
            assert ask(path, "status")["ok"]


def test_a_path_too_long_for_an_address_is_reached(migration: FakeMigration, tmp_path: Path) -> None:
    path = tmp_path / ("long" * 40) / "jobs" / (64 * "j" + ".sock")
    assert len(str(path)) > 108
    with controlled(migration, path, pytest.fail):
        assert ask(path, "status")["ok"]
    assert not path.exists()


def test_the_socket_of_a_killed_process_gives_way(migration: FakeMigration, path: Path) -> None:
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_behind, short_address(path) as address:
        left_behind.bind(address)
    with pytest.raises(ConnectionRefusedError):
        connect(path)
    with controlled(migration, path, pytest.fail):
        assert ask(path, "status")["ok"]


def test_a_job_that_can_have_no_socket_goes_on_without(migration: FakeMigration, path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("dear")
    told: list[str] = []
    with controlled(migration, path, told.append):
        pass
    assert len(told) == 1
    assert "job nightly cannot be controlled" in told[0]
    assert str(path) in told[0]
    assert path.read_text() == "dear"


def test_after_its_end_nobody_listens_and_nothing_is_left(migration: FakeMigration, path: Path) -> None:
    server = ControlServer(migration, path)
    server.start()
    waiting = connect(path)
    server.close()
    server.close()
    assert read_all(waiting) == b""
    assert list(path.parent.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        connect(path)
    waiting.close()
