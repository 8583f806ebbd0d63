"""Senders that meet at one receiver, a receiver that is told to stop, and repairs that are killed."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import rocksdict

import kvbatch
from kvbatch.endpoints import ReceiverEndpoint
from kvbatch.target_remote import RemoteSession
from support.link import Cut, Hold, Passing, Trap, data_frame
from support.processes import WAIT_SECONDS, Child, Processes
from support.route import Pieces, Route, chance, check_done, check_equal
from support.sender import SmallSource
from support.stores import kvbatch as run_kvbatch
from support.stores import numbered, raw_options, read_store, write_store

# -- SIGTERM ----------------------------------------------------------------------------------------------------------


def test_receiver_that_is_terminated_keeps_what_it_applied(route: Route) -> None:
    """What was acknowledged is durable then: only the window is sent again."""

    def strike(passing: Passing) -> bytes:
        route.receiver.signal(signal.SIGTERM)
        assert route.receiver.wait() == 0
        return passing.data

    route.link.hook = trap = Trap(data_frame(200), strike)
    sender = route.migrate()
    assert trap.struck.wait(WAIT_SECONDS)
    route.start_receiver()
    summary = sender.result()
    check_done(summary, resumed=True)
    assert summary["resent_bytes"] <= route.pieces.windows
    check_equal(route.source, route.copy, read_back=True)


def test_sender_that_is_terminated_ends_with_75_and_its_command(lasting_route: Route) -> None:
    lasting_route.link.hook = hold = Hold(data_frame(200))
    sender = lasting_route.migrate()
    sender.until(hold.reached)
    sender.signal(signal.SIGTERM)
    sender.expect("stopping; the job stays resumable")
    hold.release.set()
    assert sender.wait() == 75
    assert json.loads(sender.lines[-1])["command"].startswith("kvbatch migrate ")
    summary = lasting_route.migrate().result()
    check_done(summary, resumed=True)
    assert summary["resent_bytes"] <= lasting_route.pieces.windows
    check_equal(lasting_route.source, lasting_route.copy)


# -- two senders ------------------------------------------------------------------------------------------------------


def test_second_sender_of_the_same_job_and_state_is_refused(lasting_route: Route) -> None:
    lasting_route.link.hook = hold = Hold(data_frame(100))
    first = lasting_route.migrate()
    first.until(hold.reached)
    second = lasting_route.migrate()
    assert second.wait() == 4
    assert "run by another process" in second.errors
    hold.release.set()
    check_done(first.result(), resumed=False)
    check_equal(lasting_route.source, lasting_route.copy)


def test_a_second_sender_from_another_place_is_refused_until_the_first_is_gone(lasting_route: Route) -> None:
    """Without a state directory in common the receiver decides: who is at it stays."""

    def second() -> Child:
        # Past the link, which stands still.
        return lasting_route.processes.migrate(
            lasting_route.source, lasting_route.direct_endpoint(), *lasting_route.pieces.arguments, "--job", "twice",
            state="there",
        )  # fmt: skip

    lasting_route.link.hook = hold = Hold(data_frame(100))
    first = lasting_route.migrate("--job", "twice", state="here")
    first.until(hold.reached)
    refused = second()
    assert refused.wait() == 4
    assert "is being written by another sender of job 'twice'" in refused.errors
    assert first.kill(), "it was not disturbed"
    # At once: the receiver may not have heard of it yet.
    check_done(second().result(), resumed=True)
    hold.release.set()
    check_equal(lasting_route.source, lasting_route.copy)


def test_two_jobs_into_two_directories_of_one_receiver(lasting_route: Route, tmp_path: Path) -> None:
    other = write_store(tmp_path / "other", {"default": numbered(30_000), "more": numbered(5_000)})
    first = lasting_route.migrate()
    second = lasting_route.processes.migrate(
        other, lasting_route.endpoint(f"deep/{lasting_route.name}"), *lasting_route.pieces.arguments, state="other"
    )
    check_done(first.result(), resumed=False)
    summary = second.result()
    assert (summary["entries"], summary["resumed"]) == (35_000, False)
    check_equal(lasting_route.source, lasting_route.copy)
    assert read_store(lasting_route.root / "deep" / lasting_route.name) == read_store(other)


def test_two_jobs_into_one_directory(lasting_route: Route, tmp_path: Path) -> None:
    other = write_store(tmp_path / "other", {"default": numbered(1000, value=b"other")})
    lasting_route.link.hook = hold = Hold(data_frame(100))
    first = lasting_route.migrate()
    first.until(hold.reached)
    # Past the link, which stands still.
    second = lasting_route.processes.migrate(other, lasting_route.direct_endpoint(), state="other")
    assert second.wait() == 4
    assert f"{lasting_route.name} is in use by job" in second.errors
    hold.release.set()
    check_done(first.result(), resumed=False)
    check_equal(lasting_route.source, lasting_route.copy)


def test_another_job_does_not_continue_an_interrupted_one(lasting_route: Route, tmp_path: Path) -> None:
    other = write_store(tmp_path / "other", {"default": numbered(1000, value=b"other")})
    started: list[Child] = []

    def strike(passing: Passing) -> bytes:
        started[0].kill()
        raise Cut(everywhere=True)

    lasting_route.link.hook = trap = Trap(data_frame(200), strike)
    started.append(lasting_route.migrate())
    assert trap.struck.wait(WAIT_SECONDS)
    second = lasting_route.processes.migrate(other, lasting_route.endpoint(), state="other")
    assert second.wait() == 4
    assert "No entry was changed" in second.errors or "in use by job" in second.errors
    check_done(lasting_route.migrate().result(), resumed=True)
    check_equal(lasting_route.source, lasting_route.copy)


def test_job_taken_over_while_it_finishes(route: Route, tmp_path: Path) -> None:
    """A sender whose connection broke is back at once, while the receiver still is at the last step of its job."""
    draw = chance("taken over")
    small = SmallSource(write_store(tmp_path / "small", {"default": numbered(600)}), [("default", None, None)])
    expected = read_store(small.path)
    for round_ in range(20):
        endpoint = ReceiverEndpoint("127.0.0.1", route.port, f"copy-{round_}")
        first = RemoteSession(endpoint, small.manifest, 4)
        small.move(first)

        def end(session: RemoteSession = first) -> None:
            with contextlib.suppress(kvbatch.KvbatchError):
                session.finish()

        finishing = threading.Thread(target=end)
        finishing.start()
        finishing.join(draw.uniform(0, 0.005))
        try:
            second = RemoteSession(endpoint, small.manifest, 4)
        except (kvbatch.RefusedError, kvbatch.TransportError):
            pass  # it found a finished target, or one that is being finished
        else:
            small.move(second)
            second.finish()
            second.close()
        finishing.join()
        first.close()
        assert route.receiver.alive, f"the receiver died: exit {route.receiver.process.poll()}"
        assert read_store(route.root / endpoint.name) == expected


# -- repairs ----------------------------------------------------------------------------------------------------------


def _damaged_copy(source: Path, copy: Path) -> Path:
    """A third of the keys wrong, missing, or too many."""
    shutil.copytree(source, copy)
    store = rocksdict.Rdict(
        str(copy), raw_options(), column_families={name: raw_options() for name in ("users", "empty")}
    )
    users = store.get_column_family("users")
    for number in range(0, 20_000, 3):
        key = b"%08d-user" % number
        if number % 2:
            users[key] = b"wrong"
        else:
            del users[key]
        users[key + b"-extra"] = b"of nobody"
    del users
    store.close()
    return copy


@pytest.mark.parametrize("remote", [False, True], ids=["directory", "receiver"])
def test_killed_repair_is_done_by_the_next(
    processes: Processes, source: Path, tmp_path: Path, remote: bool, make_route: Callable[[Pieces], Route]
) -> None:
    copy = _damaged_copy(source, tmp_path / "received" / "copy")
    target = str(copy)
    killed: list[Child] = []
    if remote:
        route = make_route(Pieces())
        target = route.endpoint()

        def strike(passing: Passing) -> bytes:
            killed[0].kill()
            return passing.data

        route.link.hook = Trap(data_frame(1), strike)
    killed.append(processes.kvbatch("verify", source, target, "--repair"))
    if not remote:
        # The repair is under way once it holds the store.
        while killed[0].alive and not (copy / ".kvbatch").exists():
            threading.Event().wait(0.001)
        killed[0].kill()
    assert killed[0].wait() == -9
    again = run_kvbatch("verify", source, target, "--repair")
    assert again.returncode == 0, again.stderr
    assert kvbatch.verify(str(source), str(copy)).equal
    assert read_store(copy) == read_store(source)


def test_receiver_killed_in_a_repair(route: Route) -> None:
    copy = _damaged_copy(route.source, route.copy)

    def strike(passing: Passing) -> bytes:
        route.receiver.kill()
        return passing.data

    route.link.hook = Trap(data_frame(1), strike)
    first = run_kvbatch("verify", route.source, route.endpoint(), "--repair")
    assert first.returncode == 75
    route.start_receiver()
    again = run_kvbatch("verify", route.source, route.endpoint(), "--repair")
    assert again.returncode == 0, again.stderr
    assert read_store(copy) == read_store(route.source)
