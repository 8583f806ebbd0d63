"""Jobs to a server: stopped and gone on with, done, set back, and what is shown and kept of them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kvbatch
from kvbatch.errors import RefusedError, StoppedError, TransportError
from kvbatch.kvrocks.keys import KEYED_FAMILIES
from kvbatch.kvrocks.target import KvrocksSession
from kvbatch.state import find_job
from support.kvrocks_standin import PASSWORD, SMALL, StandIn, check_copied
from support.stores import kvbatch as run
from support.stores import read_store

Start = Callable[..., StandIn]


def stop_in_the_middle(source: Path, endpoint: str, **options: Any) -> None:
    migration = kvbatch.migrate(source, endpoint, **SMALL, rate_limit="1MiB/s", **options)
    for event in migration.events():
        if event.kind == "range" and event.data["state"] == "complete":
            break
    migration.cancel()
    with pytest.raises(StoppedError):
        migration.wait()


def test_a_job_that_was_stopped_goes_on_where_it_was(source: Path, server: StandIn) -> None:
    stop_in_the_middle(source, server.endpoint)
    found = kvbatch.plan(source, server.endpoint, **SMALL).target_state
    assert found is not None
    assert found.kind == "resumable"
    assert 0 < found.ranges_complete < found.ranges
    summary = kvbatch.migrate(source, server.endpoint, **SMALL).wait()
    assert summary.resumed
    assert summary.entries == sum(len(read_store(source)[name]) for name in KEYED_FAMILIES)
    # What was under way when it was stopped was waited for.
    assert summary.resent_bytes == 0
    check_copied(source, server)


@pytest.mark.parametrize("fixture", ["standalone"])
def test_a_job_that_is_done_is_not_done_again(source: Path, server: StandIn) -> None:
    first = kvbatch.migrate(source, server.endpoint).wait()
    sequence = server.ask("INFO", "replication")
    migration = kvbatch.migrate(source, server.endpoint)
    [told] = [event.data["message"] for event in migration.events() if event.kind == "warning"]
    assert told.startswith(f"job {first.job} was finished before; nothing was moved; ")
    again = migration.wait()
    assert (again.finished_before, again.entries) == (True, first.entries)
    found = kvbatch.plan(source, server.endpoint).target_state
    assert found is not None
    assert (found.kind, str(found).count("--overwrite")) == ("finished", 1)
    assert server.ask("INFO", "replication") == sequence
    assert not kvbatch.migrate(source, server.endpoint, overwrite=True).wait().finished_before
    check_copied(source, server)


@pytest.mark.parametrize("fixture", ["standalone"])
def test_a_server_that_was_emptied_gets_a_finished_job_again(source: Path, start: Start, server: StandIn) -> None:
    kvbatch.migrate(source, server.endpoint).wait()
    server.kill()
    empty = start("empty", port=server.port)
    assert not kvbatch.migrate(source, empty.endpoint).wait().finished_before
    check_copied(source, empty)


@pytest.mark.parametrize("fixture", ["standalone"])
def test_a_server_that_was_set_back_is_not_gone_on_with(
    source: Path, start: Start, server: StandIn, tmp_path: Path
) -> None:
    stop_in_the_middle(source, server.endpoint, job="one", state_dir=tmp_path / "state")
    server.kill()
    empty = start("empty", port=server.port)
    command = ["migrate", source, empty.endpoint, "--job", "one", "--state-dir", tmp_path / "state"]
    done = run(*command)
    assert done.returncode == 4
    assert "set back" in done.stderr
    assert "kvbatch cancel --discard one" in done.stderr
    discarded = kvbatch.discard("one", tmp_path / "state")
    assert discarded.outcome == "entries"
    assert f"what it had sent stays at {empty.shown}" in str(discarded)
    assert run(*command, "--overwrite").returncode == 0
    check_copied(source, empty)


@pytest.mark.parametrize("fixture", ["standalone"])
def test_one_name_is_one_job_at_one_server(source: Path, start: Start, server: StandIn) -> None:
    other = start("other")
    stop_in_the_middle(source, server.endpoint, job="one")
    with pytest.raises(RefusedError, match=rf"job one stands unfinished at {server.shown}.* another --job"):
        kvbatch.migrate(source, other.endpoint, job="one").wait()
    kvbatch.migrate(source, server.endpoint, job="one").wait()
    check_copied(source, server)
    # Once it is done, the name is free.
    kvbatch.migrate(source, other.endpoint, job="one").wait()
    check_copied(source, other)


@pytest.mark.parametrize("fixture", ["standalone"])
def test_the_password_is_shown_and_kept_nowhere(source: Path, server: StandIn, tmp_path: Path) -> None:
    state = tmp_path / "state"
    said = ""
    for endpoint, code in ((server.endpoint.replace("root", "toor"), 2), (server.shown, 2), (server.endpoint, 0)):
        done = run("migrate", source, endpoint, "--state-dir", state, "--progress", "json")
        assert done.returncode == code, done.stderr
        said += done.stdout + done.stderr
    server.kill()
    done = run("migrate", source, server.endpoint, "--state-dir", state, "--job", "x", "--retries", 0, "--debug")
    assert done.returncode == 75
    assert f"try again with: kvbatch migrate {source} kvrocks://:PASSWORD@127.0.0.1:{server.port}" in done.stderr
    said += done.stdout + done.stderr + run("status", "--state-dir", state, "--json").stdout
    kept = b"".join(file.read_bytes() for file in state.rglob("*") if file.is_file())
    for secret in (PASSWORD, PASSWORD.replace("/", "%2F").replace("@", "%40"), "toor", "pw/"):
        assert secret not in said
        assert secret.encode() not in kept


@pytest.mark.parametrize("fixture", ["standalone"])
def test_a_job_is_recorded_like_any_other(source: Path, server: StandIn, tmp_path: Path) -> None:
    summary = kvbatch.migrate(source, server.endpoint, state_dir=tmp_path / "state").wait()
    record = find_job(tmp_path / "state", summary.job)
    assert record is not None
    assert (record.state, record.target) == ("done", server.shown)
    assert record.summary is not None
    assert record.summary["entries"] == summary.entries


@pytest.mark.parametrize("fixture", ["standalone"])
def test_a_job_that_was_finished_unheard_is_not_overwritten(
    source: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command after a kill behind the last step: clients may have written since."""
    finish = KvrocksSession.finish

    def finish_and_die(session: KvrocksSession) -> None:
        finish(session)
        raise TransportError("killed", retryable=False)

    with monkeypatch.context() as patched:
        patched.setattr(KvrocksSession, "finish", finish_and_die)
        with pytest.raises(TransportError):
            kvbatch.migrate(source, server.endpoint, overwrite=True).wait()
    assert server.ask("SET", "x", "y") == b"+OK\r\n"
    assert kvbatch.migrate(source, server.endpoint, overwrite=True).wait().finished_before
    assert server.ask("GET", "x") == b"$1\r\ny\r\n"


def test_a_stop_ends_the_waiting_for_a_server_that_says_nothing(source: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        migration = kvbatch.migrate(source, f"kvrocks://127.0.0.1:{port}")
        connection, _ = silent.accept()
        with connection:
            assert connection.recv(100)
            migration.cancel()
            with pytest.raises(StoppedError):
                migration.wait(10)
