"""Frames from anonymous memory by sendmsg, against frames from a memfd by sendfile: over loopback, and over a veth pair
between two network namespaces, in one run.

    python bench/memfd.py --json out.json [--frames 1000] [--rounds 5]

A sender fills a buffer with a packed batch of about 2 MiB, computes its crc32c and sends header and payload; a receiver
takes both into a buffer of its own, checks the crc32c and answers with one byte. So many frames are under way at once
as `migrate` has (--window), or as there are buffers. Sender and receiver are processes of their own, on connections as
kvbatch makes them. Every round measures each way once on each link; medians over the rounds are what is reported. CPU
seconds are user and system time of each process; what the kernel does in threads of its own is nobody's. A gigabyte is
one of payload.

sendmsg copies a frame, and the buffer is free when it returns. sendfile sends the pages themselves: until the receiver
has taken them, whoever writes into the buffer writes into the frame. So there is a ring of buffers, and each is filled
again only when its last frame was answered. `damaged_without_waiting` is the share of frames that arrive with a wrong
crc32c where a single buffer is filled again as soon as sendfile has returned.

The veth pair takes root and `ip`; without them that half is left out, which is said.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import mmap
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvbatch._core.base import crc32c
from kvbatch._core.frame import HEADER_BYTES, BufferPool, Frame, FrameHeader, FrameType
from kvbatch._core.store import RangeReader, SourceStore, StopReason, write_sample_store
from kvbatch.options import MIB
from kvbatch.protocol import tune

FRAME_BYTES = 2 * MIB
WINDOW = 16
# Some 12 MB, which the processor's cache holds: what is measured is not how they are read.
SOURCE_ENTRIES = 100_000


@dataclass(frozen=True)
class Way:
    """How frames go out: `in_flight` of them at once, from that many buffers in turns."""

    by_sendfile: bool
    buffers: int
    in_flight: int = WINDOW


WAYS = {
    # As the lane `batch` does it.
    "sendmsg": Way(by_sendfile=False, buffers=1),
    # What the larger ring alone costs.
    "sendmsg, 16 buffers": Way(by_sendfile=False, buffers=16),
    "sendfile, 16 buffers": Way(by_sendfile=True, buffers=16),
    "sendfile, 4 buffers": Way(by_sendfile=True, buffers=4, in_flight=4),
}
UNSAFE = Way(by_sendfile=True, buffers=1)


def packed_batches(source: Path) -> list[bytes]:
    """The full batches of a store."""
    frame = Frame(BufferPool(4 * FRAME_BYTES))
    reader = RangeReader(SourceStore(str(source)), "default", None, None)
    batches = []
    while reader.fill(frame, FRAME_BYTES).stop is StopReason.FULL:
        batches.append(frame.raw())
    return batches


# -- the sender, a process of its own ---------------------------------------------------------------------------------


class Buffers:
    def __init__(self, way: Way) -> None:
        self.fd = -1
        size = way.buffers * FRAME_BYTES
        if way.by_sendfile:
            self.fd = os.memfd_create("frames", os.MFD_CLOEXEC)
            os.ftruncate(self.fd, size)
            self._memory = memoryview(mmap.mmap(self.fd, size))
        else:
            self._memory = memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        self._count = way.buffers
        for number in range(way.buffers):
            self.fill(number, bytes(FRAME_BYTES))  # so that no page is missing later on

    def offset(self, number: int) -> int:
        return number % self._count * FRAME_BYTES

    def fill(self, number: int, batch: bytes) -> memoryview:
        at = self.offset(number)
        self._memory[at : at + len(batch)] = batch
        return self._memory[at : at + len(batch)]


def send_vectored(sock: socket.socket, header: bytes, payload: memoryview) -> None:
    parts = [memoryview(header), payload]
    while parts:
        sent = sock.sendmsg(parts)
        while parts and sent >= len(parts[0]):
            sent -= len(parts.pop(0))
        if parts:
            parts[0] = parts[0][sent:]


def send_file(sock: socket.socket, header: bytes, fd: int, offset: int, length: int) -> None:
    sock.sendall(header, socket.MSG_MORE)
    end = offset + length
    while offset < end:
        offset += os.sendfile(sock.fileno(), fd, offset, end - offset)


def send(address: tuple[str, int], way: Way, source: Path, frames: int) -> dict[str, float]:
    batches = packed_batches(source)
    buffers = Buffers(way)
    with socket.create_connection(address) as sock:
        tune(sock)
        cpu, began = time.process_time(), time.perf_counter()
        answered = sent_bytes = 0
        for number, batch in zip(range(frames), itertools.cycle(batches), strict=False):
            while number - answered >= way.in_flight:
                answered += len(sock.recv(way.in_flight))
            payload = buffers.fill(number, batch)
            header = FrameHeader(
                type=FrameType.DATA, payload_crc32c=crc32c(payload), raw_length=len(batch), payload_length=len(batch)
            ).encode()
            if way.by_sendfile:
                send_file(sock, header, buffers.fd, buffers.offset(number), len(batch))
            else:
                send_vectored(sock, header, payload)
            sent_bytes += len(batch)
        while answered < frames:
            answered += len(sock.recv(frames))
        return {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - cpu,
            "bytes": sent_bytes,
        }


# -- the receiver, a process of its own -------------------------------------------------------------------------------


def receive_into(sock: socket.socket, buffer: memoryview) -> bool:
    """Whether it came whole; the peer may be done."""
    while buffer and (received := sock.recv_into(buffer)):
        buffer = buffer[received:]
    return not buffer


def receive(host: str) -> dict[str, float]:
    with socket.create_server((host, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        sock, _ = listener.accept()
    tune(sock)
    header, payload = memoryview(bytearray(HEADER_BYTES)), memoryview(bytearray(FRAME_BYTES))
    cpu = time.process_time()
    frames = damaged = 0
    while receive_into(sock, header):
        told = FrameHeader.decode(bytes(header))
        taken = payload[: told.payload_length]
        if not receive_into(sock, taken):
            raise ConnectionError("the sender left in the middle of a frame")
        frames += 1
        damaged += crc32c(taken) != told.payload_crc32c
        sock.send(b"\0")
    return {"cpu_seconds": time.process_time() - cpu, "frames": frames, "damaged": damaged}


# -- the two of them on a link ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Link:
    """Where a receiver listens, and what the commands of both sides begin with."""

    host: str
    sender: tuple[str, ...] = ()
    receiver: tuple[str, ...] = ()

    def measure(self, way: Way, source: Path, frames: int) -> dict[str, float]:
        program = [sys.executable, __file__]
        with subprocess.Popen(
            [*self.receiver, *program, "--receive", self.host], stdout=subprocess.PIPE, text=True
        ) as receiver:
            assert receiver.stdout is not None
            port = receiver.stdout.readline().strip()
            order = json.dumps([self.host, int(port), way.by_sendfile, way.buffers, way.in_flight, str(source), frames])
            try:
                sent = json.loads(subprocess.check_output([*self.sender, *program, "--send", order], text=True))
            except BaseException:
                receiver.kill()
                raise
            received = json.loads(receiver.stdout.read())
        assert received["frames"] == frames, received
        gigabytes = sent["bytes"] / 1e9
        return {
            "megabytes_per_second": sent["bytes"] / sent["seconds"] / 1e6,
            "sender_cpu_seconds_per_gigabyte": sent["cpu_seconds"] / gigabytes,
            "receiver_cpu_seconds_per_gigabyte": received["cpu_seconds"] / gigabytes,
            "damaged": received["damaged"] / frames,
        }


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def veth_pair() -> Iterator[Link]:
    """Two network namespaces and a cable between them. CalledProcessError where that is not allowed."""
    names = [f"kvbatch-{os.getpid()}-{side}" for side in ("sender", "receiver")]
    addresses = ("192.0.2.1", "192.0.2.2")  # RFC 5737: nobody's
    with contextlib.ExitStack() as made:
        for name in names:
            ip("netns", "add", name)
            made.callback(ip, "netns", "del", name)
        ip("link", "add", "kvbatch0", "netns", names[0], "type", "veth", "peer", "kvbatch0", "netns", names[1])
        for name, address in zip(names, addresses, strict=True):
            ip("-netns", name, "address", "add", f"{address}/30", "dev", "kvbatch0")
            ip("-netns", name, "link", "set", "kvbatch0", "up")
        sender, receiver = (("ip", "netns", "exec", name) for name in names)
        yield Link(addresses[1], sender, receiver)


def links(made: contextlib.ExitStack) -> dict[str, Link]:
    found = {"loopback": Link("127.0.0.1")}
    if os.geteuid() != 0 or shutil.which("ip") is None:
        print("veth: left out; it takes root and `ip` (iproute2)", file=sys.stderr)
        return found
    try:
        found["veth"] = made.enter_context(veth_pair())
    except subprocess.CalledProcessError as error:
        print(f"veth: left out; {' '.join(error.cmd)}: {error.stderr.strip()}", file=sys.stderr)
    return found


def median(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {figure: statistics.median(each[figure] for each in rounds) for figure in rounds[0]}


def compare(frames: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="kvbatch-memfd-") as folder, contextlib.ExitStack() as made:
        source = Path(folder) / "source"
        write_sample_store(str(source), entries=SOURCE_ENTRIES)
        found = links(made)
        figures: dict[str, dict[str, list[dict[str, float]]]] = {
            link: {name: [] for name in [*WAYS, "unsafe"]} for link in found
        }
        for _ in range(rounds):
            for link, name in itertools.product(found, [*WAYS, "unsafe"]):
                figures[link][name].append(found[link].measure(WAYS.get(name, UNSAFE), source, frames))
    result: dict[str, Any] = {"frames": frames, "window": WINDOW, "links": {}, "rounds": figures}
    for link, ways in figures.items():
        for name in WAYS:
            assert not any(each["damaged"] for each in ways[name]), f"{link}, {name}: damaged frames"
        result["links"][link] = {
            **{name: median(ways[name]) for name in WAYS},
            "damaged_without_waiting": statistics.median(each["damaged"] for each in ways["unsafe"]),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--frames", type=int, default=1000, help="in a measurement, of 2 MiB each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--receive", metavar="HOST", help=argparse.SUPPRESS)
    parser.add_argument("--send", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.receive:
        print(json.dumps(receive(arguments.receive)))
        return
    if arguments.send:
        host, port, by_sendfile, buffers, in_flight, source, frames = arguments.send
        print(json.dumps(send((host, port), Way(by_sendfile, buffers, in_flight), Path(source), frames)))
        return
    result = compare(arguments.frames, arguments.rounds)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    for link, ways in result["links"].items():
        for name in WAYS:
            row = ways[name]
            print(
                f"{link:9} {name:21} {row['megabytes_per_second']:6.0f} MB/s, CPU s/GB:"
                f" sender {row['sender_cpu_seconds_per_gigabyte']:.3f},"
                f" receiver {row['receiver_cpu_seconds_per_gigabyte']:.3f}"
            )
        print(f"{link:9} damaged without waiting: {ways['damaged_without_waiting']:.0%} of the frames")


if __name__ == "__main__":
    main()
