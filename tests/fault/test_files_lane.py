"""The lane `files` when something dies, breaks or bends: it goes on inside the file, and ends equal."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kvbatch
from kvbatch._core.frame import FrameType
from kvbatch._core.store import write_sample_store
from kvbatch.target import FILE_PIECE_BYTES
from support.link import Cut, Passing, Trap, data_frame, finish_answer, finish_request, flipped, open_request
from support.places import quick_folder
from support.processes import Child, Processes
from support.route import Route, chance, cut_while_it_is_sent
from support.stores import read_store

ENTRIES = 500_000
# One SST file of about 60 MB makes that many pieces.
PIECES = 8
# What a stream may have under way: in the sockets' buffers of both sides and in the link.
UNDER_WAY = 4 * FILE_PIECE_BYTES


@pytest.fixture(scope="session")
def large_source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with quick_folder("kvbatch-files-") as folder:
        write_sample_store(str(folder / "source"), entries=ENTRIES)
        assert max(file.stat().st_size for file in (folder / "source").iterdir()) > (PIECES - 1) * FILE_PIECE_BYTES
        yield folder / "source"


@pytest.fixture
def files_route(large_source: Path) -> Iterator[Route]:
    with quick_folder("kvbatch-files-") as folder:
        processes = Processes(folder)
        root = folder / "received"
        route = Route(processes, large_source, root, *processes.serve(root))
        yield route
        route.link.close()
        processes.close()


def start(route: Route) -> Child:
    return route.migrate("--lane=files")


def check_copy(route: Route) -> None:
    report = kvbatch.verify(str(route.source), str(route.copy))
    assert report.equal, report
    assert report.entries_source == ENTRIES
    assert [entry.name for entry in route.root.iterdir()] == [route.name], "the staging directory is still there"


@pytest.mark.parametrize("piece", [1, 3, PIECES - 1])
@pytest.mark.parametrize("victim", ["sender", "receiver"])
def test_kill_in_the_middle_of_a_file(files_route: Route, victim: str, piece: int) -> None:
    route = files_route
    sender = start(route)

    def strike(passing: Passing) -> bytes:
        (sender if victim == "sender" else route.receiver).kill()
        return passing.data

    trap = route.link.hook = Trap(data_frame(piece), strike)
    assert trap.struck.wait(60)
    if victim == "receiver":
        route.start_receiver()
    else:
        sender.wait()
        sender = start(route)
    summary = sender.result()
    assert summary["resumed"]
    assert summary["entries"] == ENTRIES
    assert summary["resent_bytes"] <= 2 * UNDER_WAY
    check_copy(route)


@pytest.mark.parametrize("number", range(3))
def test_cut_over_and_over(files_route: Route, number: int) -> None:
    draw = chance(f"files cuts {number}")
    cuts, due = 4, draw.randrange(1, 4)

    def hook(passing: Passing) -> bytes:
        nonlocal cuts, due
        if cuts and data_frame(due)(passing):
            cuts -= 1
            due = passing.number + draw.randrange(1, 4)
            raise Cut(passing.data[: draw.randrange(len(passing.data))], everywhere=draw.random() < 0.5)
        return passing.data

    files_route.link.hook = hook
    summary = start(files_route).result()
    assert summary["resumed"]
    assert summary["resent_bytes"] <= 4 * UNDER_WAY
    check_copy(files_route)


@pytest.mark.parametrize("moment", [open_request, finish_request, finish_answer], ids=["open", "finish", "answer"])
def test_control_connection_cut(files_route: Route, moment: Callable[[Passing], bool]) -> None:
    def strike(passing: Passing) -> bytes:
        raise Cut(passing.data[:10])

    trap = files_route.link.hook = Trap(moment, strike)
    summary = start(files_route).result()
    assert trap.struck.is_set()
    assert summary["state"] == "done"
    check_copy(files_route)


def test_a_bit_flipped_in_flight_is_noticed_and_sent_again(files_route: Route) -> None:
    files_route.link.hook = Trap(
        lambda passing: passing.frame.type == FrameType.FILE and passing.number == 3,
        lambda passing: flipped(passing.data, 8 * len(passing.data) - 6),
    )
    sender = start(files_route)
    summary = sender.result()
    assert "crc32c" in sender.errors
    assert summary["resumed"]
    assert summary["resent_bytes"] <= UNDER_WAY
    check_copy(files_route)


def test_a_source_file_cut_while_it_is_sent_is_named_and_the_job_goes_on_when_it_is_back(files_route: Route) -> None:
    route = files_route
    [table] = route.copy_source().glob("*.sst")
    cut_while_it_is_sent(route, table, data_frame(1), "--lane=files")
    assert not route.copy.exists()
    summary = start(route).result()
    assert summary["resumed"]
    check_copy(route)


@pytest.mark.parametrize("away", [False, True], ids=["waits", "comes back"])
def test_a_receiver_killed_before_it_takes_its_record_out_of_the_store(files_route: Route, away: bool) -> None:
    """The next receiver does it, whether the sender still waits or somebody runs the same command later on."""
    route = files_route
    route.receiver.close()
    route.receiver, _ = route.processes.serve(route.root, route.port, dying_at_the_end=True)
    sender = route.migrate("--lane=files", *(["--retries=0"] if away else []))
    assert route.receiver.wait() == -signal.SIGKILL
    assert (route.copy / "kvbatch.json").exists()
    if away:
        assert sender.wait() == 75
    route.start_receiver()
    summary = (start(route) if away else sender).result()
    assert summary["finished_before"] is away
    assert not (route.copy / "kvbatch.json").exists()
    check_copy(route)


@pytest.mark.parametrize("lane", ["files", "auto"])
def test_a_migration_to_a_directory_killed_before_it_takes_its_record_out_of_the_store(
    files_route: Route, lane: str
) -> None:
    """`auto` chooses another lane for what is no empty place any more."""
    route = files_route
    command = (route.source, route.copy, "--json", "--state-dir", route.processes.directory / "state")
    assert route.processes.dying_at_the_end("migrate", *command, "--lane=files").wait() == -signal.SIGKILL
    left = (route.copy / "kvbatch.json").read_bytes()
    planned = route.processes.kvbatch("plan", *command, f"--lane={lane}").result()
    assert planned["target_state"]["kind"] == "finished"
    assert (route.copy / "kvbatch.json").read_bytes() == left, "a plan changes nothing"
    assert route.processes.kvbatch("migrate", *command, f"--lane={lane}").result()["finished_before"]
    assert not (route.copy / "kvbatch.json").exists()
    check_copy(route)


def test_a_record_of_another_job_in_a_store_is_not_touched(files_route: Route) -> None:
    route = files_route
    state = ("--state-dir", route.processes.directory / "state")
    command = ("migrate", route.source, route.copy, "--lane=files", *state)
    assert route.processes.dying_at_the_end(*command).wait() == -signal.SIGKILL
    assert route.processes.kvbatch(*command, "--job=another").wait() == 4
    assert (route.copy / "kvbatch.json").exists()
    (route.copy / "kvbatch.json").write_text("{}")
    route.processes.kvbatch(*command).wait()
    assert (route.copy / "kvbatch.json").read_text() == "{}"


def test_killed_by_the_clock(files_route: Route) -> None:
    """At any step of either side: a sender takes about half a second to start, and as long to move it all."""
    route = files_route
    draw = chance("files clock")
    kills = runs = 0
    while kills < 3:
        assert runs < 30, f"only {kills} of {runs} jobs had not ended when somebody was to be killed"
        runs += 1
        route.name = f"copy-{runs}"
        sender = start(route)
        sender.ended.wait(draw.uniform(0.2, 1.2))
        victims = draw.choice([("sender",), ("receiver",), ("sender", "receiver"), ("receiver", "sender")])
        under_way = sender.alive
        for victim in victims:
            (sender if victim == "sender" else route.receiver).kill()
        kills += under_way
        if "receiver" in victims:
            route.start_receiver()
        print("killed", victims, "under way", under_way)
        summary = (start(route) if "sender" in victims else sender).result()
        assert summary["entries"] == ENTRIES
        assert summary["resent_bytes"] <= 2 * UNDER_WAY
        assert kvbatch.verify(str(route.source), str(route.copy)).equal
        shutil.rmtree(route.copy)
    assert not list(route.root.iterdir()), "a staging directory is still there"


def test_kill_of_both_over_and_over(files_route: Route) -> None:
    route = files_route
    draw = chance("files kills")
    for _ in range(4):
        sender = start(route)
        due = route.link.data_frames + draw.randrange(1, 4)

        def strike(passing: Passing, sender: Child = sender) -> bytes:
            sender.kill()
            route.receiver.kill()
            raise Cut(passing.data[: draw.randrange(len(passing.data))], everywhere=True)

        trap = route.link.hook = Trap(data_frame(due), strike)
        trap.struck.wait(60)
        sender.wait()
        route.start_receiver()
    summary = start(route).result()
    assert summary["resumed"]
    check_copy(route)
    assert read_store(route.copy).keys() == {"default"}
