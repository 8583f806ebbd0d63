"""The link that other tests and the benchmarks rely on: never faster than it is told, and not much slower."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from support.shaped_link import ShapedLink, shaped_link_process

# How much longer than it should a thing may take on a machine that does something else meanwhile.
LENIENCY_SECONDS = 20


class Peer:
    """Listens; answers each connection with what comes, changed by `answer`."""

    def __init__(self, answer: Callable[[bytes], bytes] = bytes) -> None:
        self.answer = answer
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                while data := connection.recv(1 << 20):
                    connection.sendall(self.answer(data))
        except OSError:
            pass

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connected(
    stack: ExitStack, answer: Callable[[bytes], bytes] = bytes, *, round_trip: float = 0.0, rate: float = 0.0
) -> tuple[ShapedLink, socket.socket]:
    peer = stack.enter_context(closing(Peer(answer)))
    link = stack.enter_context(ShapedLink(peer.port, round_trip=round_trip, rate=rate))
    return link, stack.enter_context(connect(link))


def connect(link: ShapedLink) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), timeout=60)


def receive(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = connection.recv(length - len(data))
        assert piece, "the connection ended"
        data += piece
    return data


def exchange(connection: socket.socket, data: bytes, length: int) -> float:
    """Seconds until an answer of this length is here."""
    began = time.monotonic()
    sender = threading.Thread(target=connection.sendall, args=(data,))
    sender.start()
    receive(connection, length)
    sender.join()
    return time.monotonic() - began


def count(data: bytes) -> bytes:
    return b"." * (len(data) // 1000)


def test_bytes_arrive_as_they_are_both_ways(stack: ExitStack) -> None:
    link, connection = connected(stack, lambda data: data.swapcase(), round_trip=0.01)
    data = bytes(range(256)) * 20_000
    sender = threading.Thread(target=connection.sendall, args=(data,))
    sender.start()
    assert receive(connection, len(data)) == data.swapcase()
    sender.join()
    assert link.carried_bytes("up") == link.carried_bytes("down") == len(data)


@pytest.mark.parametrize("round_trip", [0.001, 0.02, 0.1])
def test_an_answer_takes_a_round_trip(stack: ExitStack, round_trip: float) -> None:
    _, connection = connected(stack, round_trip=round_trip)
    took = min(exchange(connection, b"ping", 4) for _ in range(5))
    assert round_trip <= took < round_trip + LENIENCY_SECONDS


def test_what_is_under_way_does_not_wait_for_answers(stack: ExitStack) -> None:
    _, connection = connected(stack, round_trip=0.4)
    took = exchange(connection, bytes(30_000_000), 30_000_000)
    # Thirty pieces one after the other would be 12 s.
    assert 0.4 <= took < 0.4 + 10


def test_a_rate_is_kept_to(stack: ExitStack) -> None:
    rate = 5_000_000
    _, connection = connected(stack, count, rate=rate)
    began = time.monotonic()
    connection.sendall(bytes(3_000_000))
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(1 << 20):
        pass
    assert 3_000_000 / rate <= time.monotonic() - began < 3_000_000 / rate + LENIENCY_SECONDS


def test_all_connections_share_a_rate(stack: ExitStack) -> None:
    link, connection = connected(stack, count, rate=5_000_000)
    other = stack.enter_context(connect(link))
    began = time.monotonic()
    threads = [threading.Thread(target=exchange, args=(each, bytes(1_500_000), 1)) for each in (connection, other)]
    for thread in threads:
        thread.start()
    for each, thread in zip((connection, other), threads, strict=True):
        thread.join()
        each.shutdown(socket.SHUT_WR)
        while each.recv(1 << 20):
            pass
    assert time.monotonic() - began >= 3_000_000 / 5_000_000


def test_a_slow_link_holds_its_sender_up(stack: ExitStack) -> None:
    link, connection = connected(stack, count, rate=100_000)
    connection.settimeout(0.5)
    # What stands in the sockets.
    assert send_until_held_up(connection) < 16 << 20
    link.shape(rate=0)  # so that closing has little to carry


def send_until_held_up(connection: socket.socket) -> int:
    sent = 0
    try:
        while sent < 64 << 20:
            sent += connection.send(bytes(1 << 20))
    except TimeoutError:
        pass
    return sent


def test_delay_and_rate_change_while_it_runs(stack: ExitStack) -> None:
    link, connection = connected(stack, round_trip=0.0)
    exchange(connection, b"ping", 4)
    link.shape(round_trip=0.3)
    assert exchange(connection, b"ping", 4) >= 0.3
    link.shape(round_trip=0.0, rate=1_000_000)
    # There and back; the way back begins with the first byte there.
    assert exchange(connection, bytes(400_000), 400_000) >= 0.4
    link.shape(rate=0)
    assert exchange(connection, bytes(400_000), 400_000) < LENIENCY_SECONDS


def test_a_stalled_direction_says_nothing_and_loses_nothing(stack: ExitStack) -> None:
    link, connection = connected(stack)
    exchange(connection, b"ping", 4)
    link.stall("down", 0.4)
    assert exchange(connection, b"ping", 4) >= 0.39
    assert exchange(connection, b"ping", 4) < LENIENCY_SECONDS


def test_a_cut_ends_what_there_is_and_lets_new_ones_through(stack: ExitStack) -> None:
    link, connection = connected(stack)
    exchange(connection, b"ping", 4)
    link.cut()
    assert connection.recv(1) == b""
    with connect(link) as again:
        assert receive_answer(again) == b"ping"


def receive_answer(connection: socket.socket) -> bytes:
    connection.sendall(b"ping")
    return receive(connection, 4)


def test_an_end_arrives_behind_what_is_under_way(stack: ExitStack) -> None:
    _, connection = connected(stack, round_trip=0.2)
    connection.sendall(b"all")
    connection.shutdown(socket.SHUT_WR)
    assert receive(connection, 3) == b"all"
    assert connection.recv(1) == b""


def test_a_link_to_nobody_closes_what_comes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with ShapedLink(port) as link, connect(link) as connection:
        assert connection.recv(1) == b""


def test_a_link_may_run_in_a_process_of_its_own(stack: ExitStack) -> None:
    peer = stack.enter_context(closing(Peer()))
    port, reports = stack.enter_context(shaped_link_process(peer.port, round_trip=0.05))
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        assert exchange(connection, bytes(1000), 1000) >= 0.05
    deadline = time.monotonic() + 60
    while not reports or reports[-1][1] < 1000:
        assert time.monotonic() < deadline
        time.sleep(0.01)
