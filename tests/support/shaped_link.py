"""A network with a round trip and a rate, between a sender and a receiver on one machine; it needs no root.

    python -m support.shaped_link PORT [--round-trip SECONDS] [--rate BYTES] [--report SECONDS]

carries what comes to a port of its own, which it prints, to PORT, until its standard input ends. With `--report` it
prints every so many seconds the time (monotonic) and the bytes that have gone up so far.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

__all__ = ["REPORT_SECONDS", "ShapedLink", "shaped_link_process"]

# "up" goes to the receiver.
Direction = Literal["up", "down"]

REPORT_SECONDS = 0.05
_PIECE_BYTES = 1 << 20
# A rate is kept over pieces that take so long, the shortest that sleeping does well.
_PIECE_SECONDS = 0.005
# What a slow link holds up stands in the sender's socket, as with a real one, but for this.
_RECEIVE_BYTES = 256 << 10
# A link under way holds rate times delay. One without a rate is taken to carry so much, and this much more waits for a
# receiver that does not take it.
_UNLIMITED_RATE = 1.5e9
_QUEUED_BYTES = 4 << 20
# Of what others do on this machine meanwhile, so much is not the link's fault.
_MADE_UP_SECONDS = 0.1
# How often a pause looks whether the link was closed.
_LOOK_SECONDS = 0.1


@dataclass
class _Way:
    """One direction: what all its connections share."""

    delay_seconds: float
    rate: float  # bytes a second, 0 for no limit
    lock: threading.Lock = field(default_factory=threading.Lock)
    free_at: float = 0.0  # when the link has sent all that it was given
    stalled_until: float = 0.0
    carried_bytes: int = 0

    @property
    def piece_bytes(self) -> int:
        return max(1, min(_PIECE_BYTES, int(self.rate * _PIECE_SECONDS))) if self.rate else _PIECE_BYTES

    @property
    def queue_bytes(self) -> int:
        return _QUEUED_BYTES + int((self.rate or _UNLIMITED_RATE) * self.delay_seconds)

    def reserve(self, length: int, ready_at: float) -> float:
        """When the link will have sent so many more bytes, which would have been there at `ready_at` had this machine
        nothing else to do. Time in which there was nothing to send is lost: there is no burst."""
        with self.lock:
            begin = max(self.free_at, ready_at, time.monotonic() - _MADE_UP_SECONDS)
            self.free_at = begin + (length / self.rate if self.rate else 0.0)
            return self.free_at


class ShapedLink:
    """Listens on `port` and carries bytes to and from `upstream`: each way with half of `round_trip` seconds of delay
    and at `rate` bytes a second, which all connections share. Both may be changed while it runs; what is under way
    stays as it was. A rate of 0 is no limit."""

    def __init__(self, upstream: int, *, round_trip: float = 0.0, rate: float = 0.0) -> None:
        self._upstream = upstream
        self._ways: dict[Direction, _Way] = {way: _Way(round_trip / 2, rate) for way in ("up", "down")}
        self._closed = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket()
        if rate:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def shape(self, *, round_trip: float | None = None, rate: float | None = None) -> None:
        """Another round trip or rate for what comes from now on."""
        for way in self._ways.values():
            with way.lock:
                if round_trip is not None:
                    way.delay_seconds = round_trip / 2
                if rate is not None:
                    way.rate = rate
                    way.free_at = 0.0

    def stall(self, direction: Direction, seconds: float) -> None:
        """Nothing arrives in this direction for so long; nothing is lost."""
        self._ways[direction].stalled_until = time.monotonic() + seconds

    def carried_bytes(self, direction: Direction) -> int:
        """What has arrived."""
        return self._ways[direction].carried_bytes

    def cut(self) -> None:
        """Ends every connection; new ones are let through."""
        for end in list(self._sockets):
            _shut(end)

    def close(self) -> None:
        self._closed.set()
        _shut(self._listener)
        self._listener.close()
        self._threads[0].join()
        self.cut()
        for thread in self._threads:
            thread.join()
        for end in self._sockets:
            end.close()

    def __enter__(self) -> ShapedLink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._upstream))
            except OSError:
                near.close()
                continue
            self._sockets += [near, far]
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, sink, direction in ((near, far, "up"), (far, near, "down")):
                _Pump(self, source, sink, self._ways[direction]).start()  # type: ignore[index]

    def _pause_until(self, moment: float) -> None:
        while (left := moment - time.monotonic()) > 0:
            if self._closed.is_set():
                raise OSError("closed")
            time.sleep(min(left, _LOOK_SECONDS))


class _Pump:
    """Carries one direction of one connection: one thread takes bytes in at the rate of the link, the other hands them
    out when they have been under way long enough."""

    def __init__(self, link: ShapedLink, source: socket.socket, sink: socket.socket, way: _Way) -> None:
        self._link, self._source, self._sink, self._way = link, source, sink, way
        self._changed = threading.Condition()
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued_bytes = 0
        self._broken = False

    def start(self) -> None:
        self._link._start(self._take_in)
        self._link._start(self._hand_out)

    def _take_in(self) -> None:
        way, piece = self._way, b"?"
        sent_at = time.monotonic()
        with contextlib.suppress(OSError):
            while piece:
                asked_at = time.monotonic()
                sent_at = sent_at if way.rate else asked_at
                piece = self._source.recv(way.piece_bytes)
                if way.rate:
                    # A pause that took too long is made up for, waiting for the sender is not.
                    sent_at = way.reserve(len(piece), sent_at + time.monotonic() - asked_at)
                    self._link._pause_until(sent_at)
                with self._changed:
                    # An idle queue takes any piece.
                    while self._queue and self._queued_bytes + len(piece) > way.queue_bytes and not self._broken:
                        self._changed.wait()
                    if self._broken:
                        return
                    self._queue.append((time.monotonic() + way.delay_seconds, piece))
                    self._queued_bytes += len(piece)
                    self._changed.notify_all()
        # An error, unlike an end, does not wait for what is under way.
        if piece:
            self._break()

    def _hand_out(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                with self._changed:
                    while not self._queue and not self._broken:
                        self._changed.wait()
                    if self._broken:
                        break
                    due, piece = self._queue[0]
                self._link._pause_until(due)
                self._link._pause_until(self._way.stalled_until)
                if not piece:  # the source has said all
                    self._sink.shutdown(socket.SHUT_WR)
                    return
                # Before, so that who has received it all finds it counted.
                with self._way.lock:
                    self._way.carried_bytes += len(piece)
                self._sink.sendall(piece)
                with self._changed:
                    self._queue.popleft()
                    self._queued_bytes -= len(piece)
                    self._changed.notify_all()
        self._break()

    def _break(self) -> None:
        with self._changed:
            self._broken = True
            self._changed.notify_all()
        _shut(self._source)
        _shut(self._sink)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def shaped_link_process(
    upstream: int, *, round_trip: float = 0.0, rate: float = 0.0, report_seconds: float = REPORT_SECONDS
) -> Iterator[tuple[int, deque[tuple[float, int]]]]:
    """A link in a process of its own, which does not take the sender's GIL: its port, and its reports so far."""
    arguments = [str(upstream), f"--round-trip={round_trip}", f"--rate={rate}", f"--report={report_seconds}"]
    command = [sys.executable, "-m", "support.shaped_link", *arguments]
    tests = Path(__file__).resolve().parent.parent
    reports: deque[tuple[float, int]] = deque()
    with subprocess.Popen(
        command, cwd=tests, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        lines = process.stdout

        def read() -> None:
            for line in lines:
                moment, carried = line.split()
                reports.append((float(moment), int(carried)))

        port = int(lines.readline())
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield port, reports
        finally:
            process.stdin.close()
            reader.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("upstream", type=int, metavar="PORT")
    parser.add_argument("--round-trip", type=float, default=0.0, help="seconds")
    parser.add_argument("--rate", type=float, default=0.0, help="bytes a second each way, 0 for no limit")
    parser.add_argument("--report", type=float, metavar="SECONDS")
    arguments = parser.parse_args()
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    with ShapedLink(arguments.upstream, round_trip=arguments.round_trip, rate=arguments.rate) as link:
        print(link.port, flush=True)
        while not ended.wait(arguments.report):
            if arguments.report is not None:
                print(time.monotonic(), link.carried_bytes("up"), flush=True)


if __name__ == "__main__":
    main()
