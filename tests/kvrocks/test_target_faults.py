"""What befalls a job on its way to a server: nothing is lost, and it goes on by itself or with the same command."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kvbatch
from kvbatch.errors import (
    CorruptionError,
    NoSpaceError,
    ProtocolError,
    RefusedError,
    TransportError,
    UnavailableError,
    UsageError,
)
from kvbatch.kvrocks.keys import KEYED_FAMILIES
from support.kvrocks_standin import StandIn, check_copied
from support.processes import Processes
from support.stores import read_store

Start = Callable[..., StandIn]

WINDOW, BATCH_BYTES = 4, 16 << 10
SMALL: dict[str, Any] = {"range_bytes": "256KiB", "batch_bytes": BATCH_BYTES, "window": WINDOW}
LARGEST_ENTRY_BYTES = 700_100
# What one break can cost: a window of batches, one of which may hold the largest entry.
RESENT_BYTES = WINDOW * BATCH_BYTES + LARGEST_ENTRY_BYTES


@pytest.fixture(scope="module")
def fixture() -> str:
    return "standalone"


def migrate(source: Path, server: StandIn, **options: Any) -> tuple[kvbatch.Summary, list[str]]:
    """The summary, and what it was retried for."""
    migration = kvbatch.migrate(source, server.endpoint, **{**SMALL, **options})
    retries = [event.data["error"] for event in migration.events() if event.kind == "retry"]
    return migration.wait(), retries


@pytest.mark.parametrize(
    ("fault", "error", "exit_code", "said"),
    [
        ("readonly", UnavailableError, 75, "it is a replica, and takes no writes.*SLAVEOF NO ONE"),
        ("noauth", UsageError, 2, "give its requirepass, as kvrocks://:PASSWORD@host:port"),
        ("full", UnavailableError, 75, "raise the limit there .CONFIG SET max-db-size"),
        ("space", UnavailableError, 75, "raise the limit there .CONFIG SET max-db-size"),
        ("disk", NoSpaceError, 75, "the disk of the target kvrocks://.* is full.*make room on that disk"),
        ("nonsense", ProtocolError, 1, r"answered 1 to a batch of \d+ bytes"),
    ],
)
def test_what_does_not_pass_by_itself_ends_the_job_which_goes_on_later(
    source: Path, server: StandIn, fault: str, error: type[kvbatch.KvbatchError], exit_code: int, said: str
) -> None:
    server.fail(fault, after=20)
    with pytest.raises(error, match=said) as raised:
        migrate(source, server)
    assert (raised.value.exit_code, raised.value.retryable) == (exit_code, False)
    summary, retries = migrate(source, server)
    assert (summary.resumed, retries) == (True, [])
    assert summary.resent_bytes <= RESENT_BYTES
    check_copied(source, server)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("loading", "it does not serve yet"),
        ("cut", "kvrocks://"),
        ("protocol", "its proto-max-bulk-len was lowered"),
    ],
)
def test_what_passes_is_tried_again(source: Path, server: StandIn, fault: str, said: str) -> None:
    server.fail(fault, after=20)
    server.fail(fault, after=60)
    summary, retries = migrate(source, server)
    assert len(retries) == 2
    assert all(said in error for error in retries)
    assert summary.resent_bytes <= 2 * RESENT_BYTES
    check_copied(source, server)


def test_a_reply_that_takes_ten_seconds_is_waited_for(source: Path, server: StandIn) -> None:
    server.fail("slow", after=20)
    summary, retries = migrate(source, server)
    assert summary.seconds > 10
    assert (retries, summary.resent_bytes) == ([], 0)
    check_copied(source, server)


def test_a_reply_that_does_not_come_within_the_time_out_is_a_broken_connection(source: Path, server: StandIn) -> None:
    server.fail("slow", after=20)
    with pytest.raises(TransportError, match=r"said nothing for \d s"):
        migrate(source, server, peer_timeout=1, retries=0)
    summary, _ = migrate(source, server)
    assert summary.resumed
    check_copied(source, server)


def test_after_corruption_nothing_more_is_sent(source: Path, server: StandIn) -> None:
    server.fail("corrupt", after=20)
    with pytest.raises(CorruptionError, match="it takes no write of anybody from now on") as raised:
        migrate(source, server)
    assert (raised.value.retryable, raised.value.final) == (False, True)
    sequence = server.ask("INFO", "replication")
    for overwrite in (False, True):
        with pytest.raises(RefusedError, match=r"sends nothing more: .*Corruption: bad WriteBatch Put"):
            migrate(source, server, overwrite=overwrite)
    assert server.ask("INFO", "replication") == sequence
    with pytest.raises(RefusedError, match="sends nothing more"):
        kvbatch.plan(source, server.endpoint)


def test_a_subkey_does_not_come_before_its_metadata(source: Path, server: StandIn) -> None:
    """Batches behind one that was refused are taken, but none of them has subkeys."""
    server.fail("readonly", after=1)
    with pytest.raises(UnavailableError):
        migrate(source, server, window=1024, range_bytes="1GiB")
    server.stop()
    found = read_store(server.directory)
    assert not any(found[name] for name in KEYED_FAMILIES[1:])


def test_a_server_that_dies_and_comes_back_is_gone_on_with(source: Path, server: StandIn) -> None:
    server.fail("exit", after=20)

    def bring_back() -> None:
        server.wait()
        server.start()

    helper = threading.Thread(target=bring_back)
    helper.start()
    summary, retries = migrate(source, server)
    helper.join()
    assert retries
    assert summary.resent_bytes <= RESENT_BYTES
    check_copied(source, server)


def test_a_server_that_stays_away_leaves_the_job_resumable(source: Path, server: StandIn) -> None:
    server.fail("exit", after=20)
    with pytest.raises(TransportError):
        migrate(source, server, retries=1)
    server.wait()
    server.start()
    summary, _ = migrate(source, server)
    assert summary.resumed
    check_copied(source, server)


def test_a_stall_of_the_server_holds_the_job_until_it_is_over(source: Path, server: StandIn) -> None:
    migration = kvbatch.migrate(source, server.endpoint, **SMALL, rate_limit="2MiB/s")
    throttles = []
    for event in migration.events():
        if event.kind == "range" and event.data["state"] == "started" and event.data["range"] == 0:
            server.set(**{"level0_file_limit_stop[metadata]": 1})
        if event.kind == "throttle":
            throttles.append(event.data["reason"])
    migration.wait()
    assert "target-stall" in throttles
    check_copied(source, server)


# -- kill -9 ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    running = Processes(tmp_path)
    yield running
    running.close()


@pytest.fixture
def draw() -> random.Random:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    return random.Random(seed)


OPTIONS = ("--batch-size", "16KiB", "--window", WINDOW, "--rate-limit", "2MiB/s")


def test_a_sender_killed_at_random_moments_ends_well(
    source: Path, server: StandIn, processes: Processes, draw: random.Random
) -> None:
    kills = 0
    for _ in range(5):
        sender = processes.migrate(source, server.endpoint, *OPTIONS)
        # A sender takes about half a second to start, and moves the directory in more than a second.
        time.sleep(draw.uniform(0.3, 1.0))
        kills += sender.kill()
    assert kills >= 2
    summary = processes.migrate(source, server.endpoint, *OPTIONS).result()
    assert summary["resent_bytes"] <= kills * RESENT_BYTES
    check_copied(source, server)


def test_a_server_killed_at_random_moments_is_gone_on_with(
    source: Path, server: StandIn, processes: Processes, draw: random.Random
) -> None:
    sender = processes.migrate(source, server.endpoint, *OPTIONS, "--retries", 50)
    kills = 0
    while kills < 4 and sender.alive:
        time.sleep(draw.uniform(0.2, 1.0))
        server.kill()
        server.start()
        kills += 1
    summary = sender.result()
    assert kills >= 2
    assert summary["resent_bytes"] <= kills * RESENT_BYTES
    check_copied(source, server)
