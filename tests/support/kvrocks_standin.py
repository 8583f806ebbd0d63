"""The stand-in for a Kvrocks server as a process of a test, and plain talk to any server."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from kvbatch.kvrocks.keys import FAMILIES, KEYED_FAMILIES
from support.stores import Families, read_store

__all__ = ["PASSWORD", "SMALL", "TENANT_TOKEN", "StandIn", "check_copied", "encode_command", "talk"]

_TESTS = Path(__file__).resolve().parent.parent
PASSWORD = "root pw/@"
TENANT_TOKEN = "pw_a"
# Options with which each family of a recorded directory has several ranges, each of several batches, and large entries
# batches of their own.
SMALL: dict[str, Any] = {"range_bytes": "256KiB", "batch_bytes": "16KiB", "window": 3}


def encode_command(*words: str | bytes) -> bytes:
    parts = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def talk(sock: socket.socket, request: bytes) -> bytes:
    """What comes back until nothing comes for a moment more."""
    sock.sendall(request)
    sock.settimeout(10)
    answer = sock.recv(1 << 20)
    sock.settimeout(0.05)
    try:
        while more := sock.recv(1 << 20):
            answer += more
    except TimeoutError:
        pass
    return answer


class StandIn:
    """A server at `directory`; `password`: its requirepass, with which it has the namespace tenant_a too."""

    def __init__(self, directory: Path, *, cluster: bool = False, password: str = PASSWORD, port: int = 0) -> None:
        self.directory = directory
        self.password = password
        self._arguments = ["--cluster"] if cluster else []
        if password:
            self._arguments += ["--password", password]
            self._arguments += [] if cluster else ["--token", f"tenant_a={TENANT_TOKEN}"]
        self.port = port
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Also again, at the port that it had."""
        command = [sys.executable, "-m", "support.kvrocks_server", str(self.directory), f"--port={self.port}"]
        self._process = subprocess.Popen(
            [*command, *self._arguments], cwd=_TESTS, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            errors = self._process.communicate()[1]
            self._process = None
            raise RuntimeError(errors)
        self.port = int(line)

    @property
    def endpoint(self) -> str:
        return f"kvrocks://:{PASSWORD.replace('/', '%2F').replace('@', '%40')}@127.0.0.1:{self.port}"

    @property
    def shown(self) -> str:
        """The endpoint as it may be shown."""
        return f"kvrocks://127.0.0.1:{self.port}"

    def connect(self, *, authenticated: bool = True) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port))
        if self.password and authenticated:
            assert talk(sock, encode_command("AUTH", self.password)) == b"+OK\r\n"
        return sock

    def ask(self, *words: str | bytes) -> bytes:
        with self.connect() as sock:
            return talk(sock, encode_command(*words))

    def fail(self, kind: str, *, after: int = 0, times: int = 1) -> None:
        """Has the replies to APPLYBATCH behind `after` more be faults."""
        assert self.ask("STANDIN", "FAULT", kind, str(after), str(times)) == b"+OK\r\n"

    def set(self, **settings: object) -> None:
        for name, value in settings.items():
            assert self.ask("STANDIN", "SET", name.replace("__", "-"), str(value)) == b"+OK\r\n"

    def wait(self) -> None:
        """Until it has ended by itself."""
        assert self._process is not None
        self._process.wait(30)
        self._close_pipes()

    def stop(self) -> None:
        """In good order, so that its store can be read."""
        if self._process is not None:
            self._process.terminate()
            self.wait()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self.wait()

    def _close_pipes(self) -> None:
        assert self._process is not None
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()
        self._process = None


def check_copied(source: Path, server: StandIn, *, selected: Families | None = None) -> None:
    """Ends the server. What its store holds is what the source holds, or what of that is `selected`, in the families
    that are sent, and nothing else."""
    server.stop()
    expected = read_store(source) if selected is None else selected
    found = read_store(server.directory)
    assert list(found) == list(FAMILIES)
    assert {name: found[name] == expected[name] for name in KEYED_FAMILIES} == dict.fromkeys(KEYED_FAMILIES, True)
    assert not any(found[name] for name in FAMILIES.keys() - set(KEYED_FAMILIES))
