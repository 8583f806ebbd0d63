"""A Kvrocks directory into a running server, against a bare client that sends the same batches.

    PYTHONPATH=tests python bench/kvrocks_target.py --json out.json [--entries 4000000] [--rounds 4]
        [--directory DIRECTORY]

The server is the stand-in of the tests (tests/support/kvrocks_server.py), a process of its own that validates each
batch and writes it into a RocksDB with the WAL on. It is not Kvrocks, whose own work for a command it does not do: what
is compared is the sender. The bare client has all batches of 1 MiB in memory before it begins, made as kvbatch makes
them, keeps 8 in flight and does nothing but write to its socket and read the replies.

Every round sends each source in each way into a fresh server, over loopback and through a link with 10 ms of round
trip, which is a process too. A ratio is taken within a round; medians over the rounds are what is reported.

The sources: strings of 100 bytes, and hashes of 2 fields of 50 bytes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import kvbatch
from kvbatch._core.batch import RecordKind, encode_batch
from kvbatch._core.frame import BufferPool, Frame
from kvbatch._core.store import ColumnFamilyDescription, RangeReader, SourceStore, TargetStore
from kvbatch.kvrocks.keys import DEFAULT_NAMESPACE, FAMILIES, KEYED_FAMILIES, metadata_key, subkey_prefix
from support.kvrocks_standin import StandIn
from support.shaped_link import shaped_link_process

MIB = 1 << 20
IN_FLIGHT = 8
ROUND_TRIP = 0.010
_RECORDS = 20_000
_STRING, _HASH = bytes([0x81]) + bytes(8), bytes([0x82]) + bytes(8)

Record = tuple[RecordKind, int, bytes, bytes]


def strings(entries: int) -> Iterator[Record]:
    value = _STRING + b"0123456789" * 10
    for number in range(entries):
        yield RecordKind.PUT, FAMILIES["metadata"], metadata_key(DEFAULT_NAMESPACE, b"key:%012d" % number, False), value


def hashes(entries: int) -> Iterator[Record]:
    """Of three entries each."""
    for number in range(entries // 3):
        key, version = b"key:%012d" % number, (1 << 60) + number
        value = _HASH + version.to_bytes(8, "big") + (2).to_bytes(8, "big")
        yield RecordKind.PUT, FAMILIES["metadata"], metadata_key(DEFAULT_NAMESPACE, key, False), value
        prefix = subkey_prefix(DEFAULT_NAMESPACE, key, version, False)
        for field in (b"field1", b"field2"):
            yield RecordKind.PUT, FAMILIES["default"], prefix + field, b"0123456789" * 5


SOURCES = {"strings": strings, "hashes": hashes}


def make_source(path: Path, records: Iterator[Record]) -> Path:
    store = TargetStore(str(path), default_family=ColumnFamilyDescription("default"))
    for name in FAMILIES:
        store.ensure_family(ColumnFamilyDescription(name))
    batch: list[Record] = []
    for record in records:
        batch.append(record)
        if len(batch) == _RECORDS:
            store.write_batch(encode_batch(batch))
            batch = []
    store.write_batch(encode_batch(batch))
    store.flush()
    store.close()
    return path


def prebuilt(source: Path) -> list[bytes]:
    """All batches of a source, as kvbatch makes them."""
    store = SourceStore(str(source))
    frame = Frame(BufferPool(64 * MIB))
    batches = []
    for name in KEYED_FAMILIES:
        reader = RangeReader(store, name, None, None, target_family=FAMILIES[name])
        while reader.fill(frame, MIB).entries:
            batches.append(frame.raw())
    return batches


def send_bare(port: int, batches: list[bytes]) -> float:
    """Seconds, the connection included."""
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        replies = sock.makefile("rb")
        for number, batch in enumerate(batches):
            if number >= IN_FLIGHT:
                assert replies.readline() == b":%d\r\n" % len(batches[number - IN_FLIGHT])
            sock.sendall(b"*2\r\n$10\r\nAPPLYBATCH\r\n$%d\r\n" % len(batch))
            sock.sendall(batch)
            sock.sendall(b"\r\n")
        for batch in batches[-IN_FLIGHT:]:
            assert replies.readline() == b":%d\r\n" % len(batch)
    return time.perf_counter() - began


class Bench:
    def __init__(self, folder: Path, entries: int) -> None:
        self._folder = folder
        self._runs = 0
        self.sources = {name: make_source(folder / name, records(entries)) for name, records in SOURCES.items()}
        self.batches = {name: prebuilt(path) for name, path in self.sources.items()}

    @contextmanager
    def _server(self, round_trip: float) -> Iterator[int]:
        """Its port, or that of a link to it."""
        directory = self._folder / "server"
        shutil.rmtree(directory, ignore_errors=True)
        server = StandIn(directory, password="")
        try:
            link = (
                shaped_link_process(server.port, round_trip=round_trip) if round_trip else nullcontext((server.port, 0))
            )
            with link as (port, _):
                yield port
        finally:
            server.kill()

    def bare(self, name: str, round_trip: float) -> float:
        """Bytes of batches a second."""
        batches = self.batches[name]
        with self._server(round_trip) as port:
            return sum(map(len, batches)) / send_bare(port, batches)

    def kvbatch(self, name: str, round_trip: float) -> dict[str, float]:
        self._runs += 1
        with self._server(round_trip) as port:
            began = time.perf_counter()
            migration = kvbatch.migrate(
                self.sources[name], f"kvrocks://127.0.0.1:{port}", state_dir=self._folder / f"state-{self._runs}"
            )
            summary = migration.wait()
            seconds = time.perf_counter() - began
        return {
            "bytes_per_second": sum(map(len, self.batches[name])) / seconds,
            "entries_per_second": summary.entries / seconds,
            "seconds": seconds,
        }

    def round(self, name: str) -> dict[str, float]:
        bare, near = self.bare(name, 0.0), self.kvbatch(name, 0.0)
        far, bare_far = self.kvbatch(name, ROUND_TRIP), self.bare(name, ROUND_TRIP)
        return {
            "entries_per_second": near["entries_per_second"],
            "bare_megabytes_per_second": bare / 1e6,
            "megabytes_per_second": near["bytes_per_second"] / 1e6,
            "of_bare": near["bytes_per_second"] / bare,
            "far_entries_per_second": far["entries_per_second"],
            "far_bare_megabytes_per_second": bare_far / 1e6,
            "far_megabytes_per_second": far["bytes_per_second"] / 1e6,
            "far_of_near": far["bytes_per_second"] / near["bytes_per_second"],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--entries", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--directory", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
        bench = Bench(Path(folder), arguments.entries)
        result: dict[str, Any] = {"entries": arguments.entries, "rounds": arguments.rounds, "server": "stand-in"}
        for name in SOURCES:
            rounds = [bench.round(name) for _ in range(arguments.rounds)]
            result[name] = {figure: statistics.median(each[figure] for each in rounds) for figure in rounds[0]}
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
