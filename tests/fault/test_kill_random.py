"""kill -9 of sender, receiver or both at random moments, over and over: the same command always ends equal.

KVBATCH_STRESS=N asks for N kills instead of the few of `make test`; KVBATCH_FAULT_SEED, printed when a test fails,
makes its choices again.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvbatch._core.frame import FrameType
from support.link import Cut, Passing, Trap, data_frame, ending, finish_answer, finish_request, open_request
from support.processes import WAIT_SECONDS, Child, Processes
from support.route import SOURCE_BYTES, Pieces, Route, chance, check_done, check_equal
from support.stores import read_store

KILLS = int(os.environ.get("KVBATCH_STRESS", "24"))
# Each test counts so many that did end a process, and fails with fewer.
KILLS_PER_JOB = 3
JOBS = -(-KILLS // KILLS_PER_JOB)
# Half as many again move files of the source as they are.
GRAFTING_JOBS = -(-JOBS // 2)
# Every third job runs in one process.
LOCAL_JOBS = JOBS // 3
LOCAL_GRAFTING_JOBS = GRAFTING_JOBS // 3
# Some of them have ended well before they can be killed.
RUNS_PER_LOCAL_JOB = 10 * KILLS_PER_JOB
# Every so many jobs are read back by another RocksDB.
READ_BACK = 5

_MOMENTS: dict[str, Callable[[Passing], bool]] = {
    "open": open_request,
    "finish": finish_request,
    "finish answer": finish_answer,
}
# Behind these the receiver makes a file the target's, and then records how far the range is.
_ENDS = {"file end": FrameType.FILE_END, "range end": FrameType.RANGE_END}


@dataclass
class _Kill:
    """Who dies, at which frame (None: by the clock), how long behind it, and how that frame fares."""

    victims: tuple[str, ...]
    moment: str
    when: Callable[[Passing], bool] | None
    fate: str
    delay: float

    @property
    def cuts(self) -> bool:
        """Whether the frame's connection ends with it; the clock strikes at none."""
        return self.when is not None and self.fate != "arrives"

    @staticmethod
    def drawn(draw: random.Random, route: Route) -> _Kill:
        victims = draw.choice([("sender",), ("receiver",), ("sender", "receiver"), ("receiver", "sender")])
        fate = draw.choice(["arrives", "is lost", "arrives in part"])
        moment = draw.choice(
            ["data"] * 6 + ["clock", *_MOMENTS, *(list(_ENDS) * 2 if route.pieces.lane == "sst" else [])]
        )
        if moment == "clock":
            # A sender takes about that long to start.
            return _Kill(victims, moment, None, fate, draw.uniform(0, 0.6))
        when = _MOMENTS.get(moment)
        if when is None:
            number = route.link.data_frames + 1 + draw.randrange(SOURCE_BYTES // route.pieces.frame_bytes // 2)
            if moment in _ENDS:
                moment, when = f"{moment} behind frame {number}", ending(_ENDS[moment], number)
            else:
                moment, when = f"data frame {number}", data_frame(number)
        return _Kill(
            victims, moment, when, fate, draw.choice([0.0, 0.0, draw.uniform(0, 0.005), draw.uniform(0, 0.05)])
        )


class _Job:
    """A job that is killed and carried on until it is done."""

    def __init__(self, route: Route, draw: random.Random, name: str) -> None:
        self.route = route
        self.draw = draw
        self.name = name
        self.kills = 0
        self._sender: Child | None = None
        self._allowed_resent = 0
        self._durable = False
        self._finishing = False

    def _watch(self, passing: Passing) -> None:
        """Learns from what comes by what a later run must know of."""
        if passing.direction == "down" and passing.frame.type == FrameType.ACK:
            self._durable = self._durable or bool(passing.frame.json["durable"])
        self._finishing = self._finishing or finish_request(passing)

    def _strike(self, kill: _Kill, done: threading.Event) -> None:
        for victim in kill.victims:
            child = self._sender if victim == "sender" else self.route.receiver
            assert child is not None
            self.kills += child.kill()
        done.set()

    def strike_once(self, kill: _Kill) -> bool:
        """Whether the moment came before the end of the job."""
        print("kill", kill)
        sprung, done = threading.Event(), threading.Event()

        def strike(passing: Passing) -> bytes:
            sprung.set()
            if kill.delay == 0.0:
                self._strike(kill, done)
            else:
                # The job goes on meanwhile, so that the kill falls between any two of its steps.
                threading.Timer(kill.delay, self._strike, (kill, done)).start()
            if not kill.cuts:
                return passing.data
            raise Cut(b"" if kill.fate == "is lost" else passing.data[: self.draw.randrange(len(passing.data))])

        trap = Trap(kill.when or (lambda passing: False), strike)

        def hook(passing: Passing) -> bytes:
            self._watch(passing)
            return trap(passing)

        self.route.link.hook = hook
        if self._sender is None:
            self._sender = self.route.migrate(name=self.name)
        if kill.when is None:
            self._sender.ended.wait(kill.delay)
            self._strike(kill, done)
        else:
            while not sprung.wait(0.05):
                if self._sender.ended.is_set() and not sprung.is_set():
                    return False
        assert done.wait(WAIT_SECONDS)
        pieces = self.route.pieces
        # A sender that lives on behind a cut connection connects again, and loses another window when it dies then.
        losses = 2 if kill.cuts and kill.delay > 0.0 else 1
        self._allowed_resent += losses * pieces.windows
        self._allowed_resent += pieces.unfinished_files if "receiver" in kill.victims else 0
        return True

    def revive(self, kill: _Kill) -> None:
        if "receiver" in kill.victims:
            self.route.start_receiver()
        # A sender may have ended well just before.
        if self._sender is not None and "sender" in kill.victims and self._sender.wait() == -9:
            self._sender = None

    def run(self, kills: int) -> None:
        """Kills so many processes, fewer when the job is done before, and lets the job come to its end."""
        while self.kills < kills:
            kill = _Kill.drawn(self.draw, self.route)
            if not self.strike_once(kill):
                break
            self.revive(kill)
        self.route.link.hook = lambda passing: passing.data
        sender = self._sender or self.route.migrate(name=self.name)
        summary = sender.result()
        check_done(summary)
        assert summary["resent_bytes"] <= self._allowed_resent
        if self._durable and not self._finishing:
            assert summary["resumed"]
        check_equal(self.route.source, self.route.root / self.name)


def test_all_jobs_together_are_killed_at_least_twenty_times() -> None:
    assert JOBS * KILLS_PER_JOB >= KILLS
    assert KILLS >= 20 or "KVBATCH_STRESS" in os.environ
    assert GRAFTING_JOBS * KILLS_PER_JOB >= KILLS // 2


def _numbered(jobs: int, grafting_jobs: int) -> list[tuple[int, bool]]:
    return [(number, False) for number in range(jobs)] + [(number, True) for number in range(grafting_jobs)]


@pytest.mark.parametrize(("number", "grafts"), _numbered(JOBS - LOCAL_JOBS, GRAFTING_JOBS - LOCAL_GRAFTING_JOBS))
def test_killed_over_and_over_ends_equal(make_route: Callable[[Pieces], Route], number: int, grafts: bool) -> None:
    draw = chance(f"remote {number} {grafts}")
    route = make_route(Pieces.drawn(draw, grafts=grafts))
    kills = 0
    while kills < KILLS_PER_JOB:
        job = _Job(route, draw, f"copy-{kills}-{len(route.processes.children)}")
        job.run(KILLS_PER_JOB - kills)
        kills += job.kills
    print("kills:", kills)
    if number % READ_BACK == 0:
        assert read_store(route.root / job.name) == read_store(route.source)


@pytest.mark.parametrize(("number", "grafts"), _numbered(LOCAL_JOBS, LOCAL_GRAFTING_JOBS))
def test_killed_in_one_process_ends_equal(
    processes: Processes, source: Path, tmp_path: Path, number: int, grafts: bool
) -> None:
    """At random moments behind the start of a range, of the whole job, or its end."""
    draw = chance(f"local {number} {grafts}")
    pieces = Pieces.drawn(draw, grafts=grafts)
    processes.environment.update(pieces.environment)
    kills = runs = name = 0
    while kills < KILLS_PER_JOB:
        assert runs < RUNS_PER_LOCAL_JOB, f"only {kills} of {runs} processes were still there to be killed"
        runs += 1
        word = draw.choice(['"job"', '"started"', '"started"', '"complete"', '"complete"'])
        countdown, delay, near = draw.randrange(6), draw.choice([0.0, draw.uniform(0, 0.1)]), threading.Event()

        def watch(line: str, word: str = word, near: threading.Event = near) -> None:
            nonlocal countdown
            if word in line:
                countdown -= 1
            if countdown <= 0 or '"done"' in line:
                near.set()

        target = tmp_path / "received" / f"copy-{name}"
        sender = processes.migrate(source, target, *pieces.arguments, on_line=watch)
        assert near.wait(WAIT_SECONDS)
        sender.ended.wait(delay)
        if sender.kill():
            kills += 1
        else:
            check_done(sender.result())
            check_equal(source, target)
            name += 1
    summary = processes.migrate(source, target, *pieces.arguments).result()
    check_done(summary)
    # The process is sender and receiver in one; nothing is under way but what stands in files.
    assert summary["resent_bytes"] <= kills * pieces.unfinished_files
    check_equal(source, target, read_back=number % READ_BACK == 0)
