"""kill -9 at chosen moments of a job between two processes."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from kvbatch._core.store import RESERVED_COLUMN_FAMILY, describe_store
from support.link import Cut, Passing, Trap, data_frame, finish_answer, finish_request, open_request
from support.processes import WAIT_SECONDS, Child
from support.route import SOURCE_BYTES, Route, chance, check_done, check_equal
from support.stores import read_store, write_store


def _kill_sender_at(route: Route, when: object, *, forward: bool = True) -> None:
    """Runs the command until `when`; `forward`: the frame of that moment still arrives."""
    started: list[Child] = []

    def strike(passing: Passing) -> bytes:
        started[0].kill()
        if not forward:
            raise Cut
        return passing.data

    route.link.hook = trap = Trap(when, strike)  # type: ignore[arg-type]
    started.append(route.migrate())
    assert trap.struck.wait(WAIT_SECONDS)
    assert started[0].wait() == -9


def _kill_receiver(route: Route, passing: Passing) -> bytes:
    route.receiver.kill()
    return passing.data


@pytest.mark.parametrize("frame", [2, 250, 430])
def test_killed_sender_sends_one_window_again_at_most(lasting_route: Route, frame: int) -> None:
    _kill_sender_at(lasting_route, data_frame(frame))
    summary = lasting_route.migrate().result()
    check_done(summary, resumed=True)
    assert summary["resent_bytes"] <= lasting_route.pieces.windows
    check_equal(lasting_route.source, lasting_route.copy, read_back=frame == 250)


@pytest.mark.parametrize("frame", [1, 250, 430])
def test_killed_receiver_loses_unfinished_files_at_most(route: Route, frame: int) -> None:
    route.link.hook = trap = Trap(data_frame(frame), lambda passing: _kill_receiver(route, passing))
    sender = route.migrate()
    sender.until(trap.struck)
    route.start_receiver()
    summary = sender.result()
    check_done(summary, resumed=True)
    assert summary["resent_bytes"] <= route.pieces.windows + route.pieces.unfinished_files
    check_equal(route.source, route.copy, read_back=frame == 250)


def test_both_killed_at_once(route: Route) -> None:
    def strike(passing: Passing) -> bytes:
        route.receiver.kill()
        sender.kill()
        return passing.data

    route.link.hook = trap = Trap(data_frame(200), strike)
    sender = route.migrate()
    # Not `until`: the sender ends before the strike does.
    assert trap.struck.wait(WAIT_SECONDS)
    route.start_receiver()
    summary = route.migrate().result()
    check_done(summary, resumed=True)
    assert summary["resent_bytes"] <= route.pieces.windows + route.pieces.unfinished_files
    check_equal(route.source, route.copy)


@pytest.mark.parametrize("victim", ["sender", "receiver"])
def test_killed_while_writing_over_other_data(route: Route, victim: str) -> None:
    """Where the target held data, batches are written with their cursor: not even the receiver loses a file."""
    before = {name: dict.fromkeys(list(entries)[::300], b"old") for name, entries in read_store(route.source).items()}
    write_store(route.copy, before)

    def strike(passing: Passing) -> bytes:
        (route.receiver if victim == "receiver" else sender).kill()
        return passing.data

    route.link.hook = trap = Trap(data_frame(200), strike)
    sender = route.migrate("--allow-nonempty")
    assert trap.struck.wait(WAIT_SECONDS)
    if victim == "receiver":
        route.start_receiver()
    else:
        sender = route.migrate("--allow-nonempty")
    summary = sender.result()
    check_done(summary, resumed=True)
    assert summary["resent_bytes"] <= route.pieces.windows
    check_equal(route.source, route.copy, read_back=True)


def test_receiver_killed_while_it_makes_the_store(route: Route) -> None:
    draw = chance("birth")
    sender = None
    for delay in (0.0, draw.uniform(0, 0.01), draw.uniform(0, 0.03)):
        gone = threading.Event()

        def strike(passing: Passing, delay: float = delay, gone: threading.Event = gone) -> bytes:
            def act() -> None:
                route.receiver.kill()
                gone.set()

            # The receiver works on meanwhile, so that it dies between any two files of the new store.
            threading.Timer(delay, act).start()
            return passing.data

        route.link.hook = Trap(open_request, strike)
        sender = sender or route.migrate()
        sender.until(gone)
        route.start_receiver()
    assert sender is not None
    check_done(sender.result())
    check_equal(route.source, route.copy)


def test_lost_state_directory_costs_no_data(lasting_route: Route, tmp_path: Path) -> None:
    _kill_sender_at(lasting_route, data_frame(250))
    shutil.rmtree(tmp_path / "state")
    summary = lasting_route.migrate().result()
    check_done(summary, resumed=True)
    assert summary["batches"] < SOURCE_BYTES // lasting_route.pieces.batch_bytes * 3 // 4, "not all is sent again"
    check_equal(lasting_route.source, lasting_route.copy)


# -- the last step ----------------------------------------------------------------------------------------------------


def test_sender_killed_before_the_target_is_told_to_finish(lasting_route: Route) -> None:
    _kill_sender_at(lasting_route, finish_request, forward=False)
    families = [family.name for family in describe_store(str(lasting_route.copy))]
    assert RESERVED_COLUMN_FAMILY in families, "the target is not finished yet"
    summary = lasting_route.migrate().result()
    check_done(summary, resumed=True)
    assert summary["batches"] == 0
    check_equal(lasting_route.source, lasting_route.copy)


def test_sender_killed_before_it_hears_that_the_target_is_finished(lasting_route: Route) -> None:
    _kill_sender_at(lasting_route, finish_answer)
    check_equal(lasting_route.source, lasting_route.copy)
    again = lasting_route.migrate()
    check_done(again.result())
    assert "was finished before" in again.errors
    check_equal(lasting_route.source, lasting_route.copy)


def test_sender_killed_while_the_target_finishes(lasting_route: Route) -> None:
    """The sender is gone, the target ends the job or not: the same command ends well either way."""
    _kill_sender_at(lasting_route, finish_request)
    check_done(lasting_route.migrate().result())
    check_equal(lasting_route.source, lasting_route.copy)


def test_finished_target_is_known_again_after_a_run_that_found_no_receiver(route: Route) -> None:
    """What the killed run knew must outlive one that could not look."""
    _kill_sender_at(route, finish_answer)
    route.receiver.kill()
    assert route.migrate("--retries", 0).wait() == 75
    route.start_receiver()
    again = route.migrate()
    check_done(again.result())
    assert "was finished before" in again.errors


def test_finished_target_is_known_again_after_a_run_killed_at_its_start(lasting_route: Route) -> None:
    _kill_sender_at(lasting_route, finish_answer)
    _kill_sender_at(lasting_route, open_request, forward=False)
    again = lasting_route.migrate()
    check_done(again.result())
    assert "was finished before" in again.errors


def test_receiver_gone_for_good_behind_its_last_step(route: Route) -> None:
    """The target is whole, the answer lost, the sender gives up: the command is right later on."""

    def strike(passing: Passing) -> bytes:
        route.receiver.kill()
        raise Cut(everywhere=True)

    route.link.hook = trap = Trap(finish_answer, strike)
    sender = route.migrate("--retries", 0)
    sender.until(trap.struck)
    assert sender.wait() == 75
    check_equal(route.source, route.copy)
    route.start_receiver()
    check_done(route.migrate("--retries", 0).result())


def test_finished_job_asked_for_again_while_its_receiver_is_away(route: Route) -> None:
    first = route.migrate().result()
    route.receiver.kill()
    assert route.migrate("--retries", 0).wait() == 75
    route.start_receiver()
    again = route.migrate()
    assert again.result() == {**first, "finished_before": True}
    assert "was finished before" in again.errors


def test_state_lost_behind_the_last_step_leaves_a_whole_target(lasting_route: Route, tmp_path: Path) -> None:
    """Nobody knows of the job any more: the data there is not touched, and the message says how to look at it."""
    _kill_sender_at(lasting_route, finish_answer)
    shutil.rmtree(tmp_path / "state")
    again = lasting_route.migrate()
    assert again.wait() == 4
    assert "kvbatch verify" in again.errors
    check_equal(lasting_route.source, lasting_route.copy)


@pytest.mark.parametrize("answered", [False, True], ids=["before", "behind"])
def test_receiver_killed_at_its_last_step(route: Route, answered: bool) -> None:
    def strike(passing: Passing) -> bytes:
        route.receiver.kill()
        raise Cut(everywhere=True)

    route.link.hook = trap = Trap(finish_answer if answered else finish_request, strike)
    sender = route.migrate()
    sender.until(trap.struck)
    route.start_receiver()
    check_done(sender.result())
    check_equal(route.source, route.copy)
