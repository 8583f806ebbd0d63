from __future__ import annotations

import base64
import http.server
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kvbatch.errors import UsageError
from kvbatch.flow.source_check import SourceCheck

# Long enough for a loaded machine; what is waited for comes far earlier.
PATIENCE_SECONDS = 60


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def answer_of(check: Any, timeout: float = PATIENCE_SECONDS) -> str | None:
    """The first that is one."""
    with SourceCheck(check, interval=0.01, timeout=timeout) as source:
        wait_for(lambda: not (source.reason or "").endswith("has not answered yet"))
        return source.reason


class Answering(http.server.BaseHTTPRequestHandler):
    status = 200
    body = b""
    # Paths, and who asks as whom.
    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        type(self).asked.append((self.path, self.headers["Authorization"]))
        if self.path == "/redirected":
            self.send_response(302)
            self.send_header("Location", "/")
            self.end_headers()
            return
        self.send_response(type(self).status)
        self.end_headers()
        self.wfile.write(type(self).body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[type[Answering], str]]:
    class Handler(Answering):
        pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield Handler, f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_a_source_is_spared_until_the_first_answer() -> None:
    release = threading.Event()
    with SourceCheck(release.wait, interval=0.01) as source:
        assert source.reason is not None
        assert source.reason.endswith("wait has not answered yet")
        release.set()
        wait_for(lambda: source.reason is None)


def test_a_command_that_exits_with_0_is_ok() -> None:
    assert answer_of("exit 0") is None


def test_what_a_command_says_is_told() -> None:
    assert answer_of("echo busy; echo 'p99 is 40 ms' >&2; exit 3") == (
        "throttle check \"echo busy; echo 'p99 is 40 ms' >&2; exit 3\" exited with 3: busy p99 is 40 ms"
    )


def test_of_a_command_that_says_much_the_end_is_told() -> None:
    answer = answer_of("yes | head -c 3000000; echo enough; exit 1")
    assert answer is not None
    assert answer.endswith(" y y enough")
    assert len(answer) < 400


def test_a_command_that_does_not_exist_is_said_to() -> None:
    answer = answer_of("no-such-command --now")
    assert answer is not None
    assert answer.startswith("throttle check 'no-such-command --now' exited with 127, command not found: ")


def test_the_outcome_is_the_same_whatever_a_check_says_each_time() -> None:
    with SourceCheck("date +%N; exit 3", interval=0.01) as source:
        wait_for(lambda: source.outcome == "exited with 3")
        said = source.reason
        wait_for(lambda: source.reason != said)
        assert source.outcome == "exited with 3"


def test_a_command_killed_by_a_signal_is_not_ok() -> None:
    assert answer_of("kill -9 $$") == "throttle check 'kill -9 $$' died of 9"


def test_what_a_command_leaves_running_is_not_waited_for() -> None:
    assert answer_of("sleep 100 & exit 1") == "throttle check 'sleep 100 & exit 1' exited with 1"


def test_a_command_that_takes_too_long_is_not_ok_and_is_ended(tmp_path: Path) -> None:
    command = f"echo $$ > {tmp_path / 'pid'}; exec sleep 1000"
    with SourceCheck(command, interval=1000, timeout=0.5) as source:
        wait_for(lambda: (source.reason or "").endswith("gave no answer within 0.5 s"))
        pid = int((tmp_path / "pid").read_text())
        wait_for(lambda: not running(pid))


def test_a_command_that_closes_its_output_is_waited_for() -> None:
    assert answer_of("exec >&- 2>&-; sleep 0.1; exit 4") == (
        "throttle check 'exec >&- 2>&-; sleep 0.1; exit 4' exited with 4"
    )


def test_the_end_of_a_job_ends_the_command(tmp_path: Path) -> None:
    source = SourceCheck(f"echo $$ > {tmp_path / 'pid'}; exec sleep 1000", timeout=1000).start()
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
    source.close()
    wait_for(lambda: not running(int((tmp_path / "pid").read_text())))


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_comes_back_by_itself(tmp_path: Path) -> None:
    calm = tmp_path / "calm"
    with SourceCheck(f"test -e {calm}", interval=0.01) as source:
        wait_for(lambda: (source.reason or "").endswith("exited with 1"))
        calm.touch()
        wait_for(lambda: source.reason is None)
        calm.unlink()
        wait_for(lambda: (source.reason or "").endswith("exited with 1"))


def test_a_url_that_answers_2xx_is_ok(server: tuple[type[Answering], str]) -> None:
    handler, url = server
    assert answer_of(url) is None
    handler.status = 204
    assert answer_of(url) is None


def test_redirections_are_followed(server: tuple[type[Answering], str]) -> None:
    assert answer_of(f"{server[1]}/redirected") is None


def test_what_a_url_answers_is_told_without_its_secrets(server: tuple[type[Answering], str]) -> None:
    handler, url = server
    handler.status, handler.body = 503, b"replication lag 12 s\n"
    assert answer_of(f"{url}/health?token=secret") == f"throttle check {url}/health answered 503: replication lag 12 s"


def test_a_password_in_a_url_is_not_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    answer = answer_of(f"http://operator:secret@127.0.0.1:{port}/")
    assert answer is not None
    assert "secret" not in answer


def test_user_and_password_of_a_url_are_sent_but_nowhere_else(server: tuple[type[Answering], str]) -> None:
    handler, url = server
    handler.asked = asked = []
    assert answer_of(f"{url.replace('//', '//operator:p%40ss@')}/redirected") is None
    credentials = base64.b64encode(b"operator:p@ss").decode()
    assert asked[:2] == [("/redirected", f"Basic {credentials}"), ("/", None)]


def test_a_url_that_nobody_serves_is_not_ok() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    answer = answer_of(f"http://127.0.0.1:{port}/")
    assert answer is not None
    assert "Connection refused" in answer


def test_a_url_that_says_nothing_is_not_ok() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert answer_of(f"http://127.0.0.1:{port}/", timeout=0.2) == (
            f"throttle check http://127.0.0.1:{port}/ gave no answer within 0.2 s"
        )


def test_a_callable_that_would_end_the_program_is_asked_again() -> None:
    asked = []

    def check() -> bool:
        asked.append(len(asked))
        if len(asked) == 1:
            sys.exit(3)
        return True

    with SourceCheck(check, interval=0.01) as source:
        wait_for(lambda: source.reason is None)
    assert len(asked) >= 2


def test_a_callable_is_ok_by_its_truth() -> None:
    def replicas_keep_up() -> int:
        return 1

    def replicas_lag() -> str:
        return ""

    assert answer_of(replicas_keep_up) is None
    answer = answer_of(replicas_lag)
    assert answer is not None
    assert answer.endswith("replicas_lag answered ''")


def test_a_callable_that_raises_is_not_ok() -> None:
    def probe() -> bool:
        raise OSError("no route")

    answer = answer_of(probe)
    assert answer is not None
    assert answer.endswith("probe failed: OSError: no route")


def test_a_callable_that_hangs_is_not_ok_and_may_come_back() -> None:
    release = threading.Event()
    answers = iter([True])

    def probe() -> bool:
        if next(answers, False):
            return True
        return release.wait()

    with SourceCheck(probe, interval=0.01, timeout=0.2) as source:
        wait_for(lambda: (source.reason or "").endswith("gave no answer within 0.2 s"))
        release.set()
        wait_for(lambda: source.reason is None)


@pytest.mark.parametrize("check", ["", "  ", None, 7, "http://", "https:///path"])
def test_what_is_no_check_is_wrong_usage(check: Any) -> None:
    with pytest.raises(UsageError, match="throttle check"):
        SourceCheck(check)
