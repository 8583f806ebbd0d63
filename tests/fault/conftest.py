"""Fixtures of the fault tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.processes import Child, Processes
from support.route import Pieces, Route, make_source


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("fault") / "source")


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    running = Processes(tmp_path)
    yield running
    running.close()
    # Pytest keeps the directories of its last runs; these are not small.
    shutil.rmtree(tmp_path / "received", ignore_errors=True)


@pytest.fixture
def make_route(processes: Processes, source: Path, tmp_path: Path) -> Iterator[Callable[[Pieces], Route]]:
    routes: list[Route] = []

    def make(pieces: Pieces) -> Route:
        root = tmp_path / "received"
        routes.append(Route(processes, source, root, *processes.serve(root), pieces))
        return routes[-1]

    yield make
    for route in routes:
        route.link.close()


@pytest.fixture
def route(make_route: Callable[[Pieces], Route]) -> Route:
    """With a receiver of its own, which may be killed."""
    return make_route(Pieces())


@pytest.fixture(scope="session")
def lasting_receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Child, int]]:
    """One receiver that outlives everything that its senders do to it."""
    processes = Processes(tmp_path_factory.mktemp("lasting"))
    root = processes.directory / "received"
    yield root, *processes.serve(root)
    processes.close()


@pytest.fixture
def lasting_route(
    processes: Processes, source: Path, lasting_receiver: tuple[Path, Child, int], request: pytest.FixtureRequest
) -> Iterator[Route]:
    """To a receiver that other tests use too and that nobody may harm."""
    root, receiver, port = lasting_receiver
    said = len(receiver.lines)
    route = Route(processes, source, root, receiver, port, name=f"copy-{abs(hash(request.node.nodeid))}")
    yield route
    route.link.close()
    print("---- the lasting receiver said:", *receiver.lines[said:][-60:], sep="\n")
    assert receiver.alive, f"the receiver died: exit {receiver.process.poll()}"
    shutil.rmtree(route.copy, ignore_errors=True)
