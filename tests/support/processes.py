"""Real `kvbatch` processes that tests kill, stop and start again; their logs are shown when a test fails."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.forked import Forked

__all__ = ["Child", "Processes", "interrupt"]

WAIT_SECONDS = 90.0
_TERMINATE_SECONDS = 10.0
_LOG_LINES = 60
_SMALL_PIECES = Path(__file__).with_name("small_pieces.py")
_DIES_AT_THE_END = Path(__file__).with_name("dies_at_the_end.py")


class Child:
    """A process whose stderr is read as it comes. `on_line` is called in the reading thread."""

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: Mapping[str, str],
        on_line: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.name = name
        self.command = command
        self.lines: list[str] = []
        self._coming: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.ended = threading.Event()
        self._on_line = on_line
        self.process = Forked(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment}
        )
        self._stdout: str | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            self._coming.put(self.lines[-1])
            self._on_line(self.lines[-1])
        self.process.wait()
        self.ended.set()
        self._coming.put(None)

    def expect(self, text: str) -> None:
        """Waits for a line with `text` behind those that earlier calls went through."""
        while (line := self._coming.get(timeout=WAIT_SECONDS)) is not None:
            if text in line:
                return
        raise AssertionError(f"{self.name} ended without saying {text!r}: {self.errors[-2000:]}")

    def first_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> bool:
        """kill -9, and gone when this returns; whether that is what ended it. From any thread."""
        ended_before = not self.alive
        self.process.kill()
        return self.process.wait(WAIT_SECONDS) == -signal.SIGKILL and not ended_before

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = WAIT_SECONDS) -> int:
        """The exit code, with everything read that it said."""
        code = self.process.wait(timeout)
        self._reader.join(timeout)
        return code

    def until(self, event: threading.Event) -> None:
        """Waits for what must happen before this process ends."""
        while not event.wait(0.05):
            assert self.alive or event.is_set(), f"{self.name} ended before that: {self.errors[-2000:]}"

    @property
    def stdout(self) -> str:
        if self._stdout is None:
            assert self.process.stdout is not None
            self._stdout = self.process.stdout.read()
        return self._stdout

    @property
    def errors(self) -> str:
        return "\n".join(self.lines)

    def result(self) -> dict[str, Any]:
        """The one JSON object of `--json`, of a process that must have ended well."""
        code = self.wait()
        assert code == 0, f"{self.name} ended with {code}: {self.errors[-2000:]}"
        value: dict[str, Any] = json.loads(self.stdout)
        return value

    def close(self) -> None:
        """Ends it, with SIGTERM if it listens to that. Idempotent."""
        if self.alive:
            self.signal(signal.SIGCONT)
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_TERMINATE_SECONDS)
            self.kill()
        self.wait()
        _ = self.stdout
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


@dataclass
class Processes:
    """Starts processes for one test and leaves none behind."""

    directory: Path
    environment: dict[str, str] = field(default_factory=dict)
    children: list[Child] = field(default_factory=list)

    def start(self, what: str, command: list[str], **more: Any) -> Child:
        child = Child(f"{what} {len(self.children)}", command, self.environment, **more)
        self.children.append(child)
        return child

    def kvbatch(self, *arguments: object) -> Child:
        return self.start(str(arguments[0]), ["-m", "kvbatch", *map(str, arguments)])

    def dying_at_the_end(self, *arguments: object) -> Child:
        return self.start(str(arguments[0]), [str(_DIES_AT_THE_END), *map(str, arguments)])

    def serve(self, root: Path, port: int = 0, *, dying_at_the_end: bool = False) -> tuple[Child, int]:
        """A receiver that listens, and its port."""
        start = self.dying_at_the_end if dying_at_the_end else self.kvbatch
        child = start("serve", "--root", root, "--listen", f"127.0.0.1:{port}")
        line = child.first_line()
        assert line.startswith("listening on "), f"the receiver did not start: {child.errors}"
        return child, int(line.split(",")[0].rpartition(":")[2])

    def migrate(
        self,
        source: Path,
        target: object,
        *arguments: object,
        state: str = "state",
        on_line: Callable[[str], None] = lambda line: None,
    ) -> Child:
        """`kvbatch migrate` with small ranges and files; its stderr is one JSON event a line."""
        command = [str(_SMALL_PIECES), "migrate", str(source), str(target), "--json"]
        command += ["--progress", "json", "--state-dir", str(self.directory / state), *map(str, arguments)]
        return self.start("migrate", command, on_line=on_line)

    def close(self) -> None:
        for child in self.children:
            child.close()
        # pytest shows what is printed here for tests that failed.
        for child in self.children:
            print(f"---- {child.name}: exit {child.process.returncode}: {' '.join(child.command)}")
            print("\n".join(child.lines[-_LOG_LINES:]), child.stdout[-2000:])


def interrupt(source: Path, target: str, *arguments: str) -> list[str]:
    """Kills a migration once something of it is durable; its command."""
    command = ["-m", "kvbatch", "migrate", str(source), target, *arguments, "--json", "--progress", "json"]
    child = Child("migrate", [*command, "--rate-limit", "256KiB/s", "--batch-size", "4KiB", "--streams", "1"], {})
    child.expect('"state": "complete"')
    assert child.kill()
    return command
