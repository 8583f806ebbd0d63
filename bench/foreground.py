"""What a machine is busy with beside a migration, each a process of its own; bench/flow_control.py starts them.

    python bench/foreground.py read STORE RECORD [--rate 2000]
        gets of random keys of a store that it has open for reading, as a server of it would
    python bench/foreground.py write STORE RECORD [--rate 200]
        batches of 100 KiB into a store of its own, and whether RocksDB held it up
    python bench/foreground.py scrape [URL]...
        fetches each at once and then once a second

They print `ready` when they begin and end with their standard input. Requests come at a steady rate, `--rate` a second:
one that is late does not make the next one later. RECORD is JSON, written at the end: of each request when it was due,
when it began and when it ended, in seconds of the monotonic clock; of a writer also `stalls`: rows of time, delays and
stops that RocksDB counted so far, and the microseconds that it held writers up.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import random
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import rocksdict

_READ_KEYS = 100_000
_WRITE_KEYS = 200_000
_VALUE_BYTES = 1024
_ENTRIES_PER_WRITE = 100
# Small, so that a store of this size is flushed and compacted all the time, as a large one is.
_WRITE_BUFFER_BYTES = 8 << 20
_STALL_SECONDS = 0.25


class Record:
    """The requests of one of these processes, read after its end."""

    def __init__(self, path: Path) -> None:
        record = json.loads(path.read_text())
        self._requests: list[tuple[float, float, float]] = record["requests"]
        self._stalls: list[tuple[float, int, int]] = record["stalls"]

    def percentile_ms(self, percent: int, begin: float, end: float, *, since_due: bool) -> float:
        """Of the requests that were due in this time: how long they took, from when they were due or from when they
        began."""
        took = [ended - (due if since_due else began) for due, began, ended in self._requests if begin <= due < end]
        return 1000 * statistics.quantiles(took, n=100)[percent - 1]

    def stalls(self, begin: float, end: float) -> tuple[int, float]:
        """Of a writer: delays and stops in this time, and the milliseconds that they took."""
        rows = [row for row in self._stalls if begin <= row[0] < end]
        return rows[-1][1] - rows[0][1], (rows[-1][2] - rows[0][2]) / 1000


@contextlib.contextmanager
def foreground_process(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, __file__, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{command} did not start")
        try:
            yield process
        finally:
            process.stdin.close()
            process.wait()


def input_ended() -> threading.Event:
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    return ended


def steadily(rate: float, request: Callable[[], object]) -> list[tuple[float, float, float]]:
    """Makes requests until the input ends: when each was due, began and ended."""
    requests: list[tuple[float, float, float]] = []
    ended = input_ended()
    gc.disable()
    print("ready", flush=True)
    due = time.monotonic()
    while not ended.is_set():
        due += 1 / rate
        if (wait := due - time.monotonic()) > 0:
            time.sleep(wait)
        began = time.monotonic()
        request()
        requests.append((due, began, time.monotonic()))
    return requests


def read(path: str, record: Path, rate: float) -> None:
    store = rocksdict.Rdict(path, rocksdict.Options(raw_mode=True), access_type=rocksdict.AccessType.read_only())
    keys = some_keys(store)
    generator = random.Random(1)

    def get() -> None:
        if store.get(generator.choice(keys)) is None:
            raise KeyError("a key of the store is gone")

    record.write_text(json.dumps({"requests": steadily(rate, get), "stalls": []}))
    store.close()


def some_keys(store: rocksdict.Rdict) -> list[bytes]:
    """All over a store whose keys are hexadecimal numbers."""
    generator = random.Random(0)
    keys = []
    iterator = store.iter()
    for _ in range(_READ_KEYS):
        iterator.seek(b"%016x" % generator.getrandbits(64))
        if iterator.valid():
            keys.append(iterator.key())
    return keys


def write(path: str, record: Path, rate: float) -> None:
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.enable_statistics()
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    store = rocksdict.Rdict(path, options)
    generator = random.Random(1)
    value = generator.randbytes(_VALUE_BYTES)
    stalls: list[tuple[float, int, int]] = []

    def put() -> None:
        batch = rocksdict.WriteBatch(raw_mode=True)
        for _ in range(_ENTRIES_PER_WRITE):
            batch.put(b"%016x" % generator.randrange(_WRITE_KEYS), value)
        store.write(batch)

    def watch() -> None:
        while True:
            stalls.append((time.monotonic(), *stalls_so_far(store, options)))
            time.sleep(_STALL_SECONDS)

    threading.Thread(target=watch, daemon=True).start()
    requests = steadily(rate, put)
    record.write_text(json.dumps({"requests": requests, "stalls": stalls[:]}))


def stalls_so_far(store: rocksdict.Rdict, options: rocksdict.Options) -> tuple[int, int]:
    text = store.property_value("rocksdb.cf-write-stall-stats") or ""
    counts = [int(count) for count in re.findall(r"total-(?:delays|stops): (\d+)", text)]
    if len(counts) != 2:
        raise RuntimeError(f"RocksDB tells of its stalls in another way: {text!r}")
    stalled = re.search(r"rocksdb\.stall\.micros COUNT : (\d+)", options.get_statistics() or "")
    if stalled is None:
        raise RuntimeError("RocksDB does not tell how long it stalled")
    return sum(counts), int(stalled[1])


def scrape(urls: list[str]) -> None:
    ended = input_ended()
    print("ready", flush=True)
    while True:
        for url in urls:
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1.0) as answer:
                answer.read()
        if ended.wait(1.0):
            break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, rate in (("read", 2000.0), ("write", 200.0)):
        command = commands.add_parser(name)
        command.add_argument("store")
        command.add_argument("record", type=Path)
        command.add_argument("--rate", type=float, default=rate, help="requests a second")
    commands.add_parser("scrape").add_argument("urls", nargs="*", metavar="URL")
    arguments = parser.parse_args()
    if arguments.command == "scrape":
        scrape(arguments.urls)
    elif arguments.command == "read":
        read(arguments.store, arguments.record, arguments.rate)
    else:
        write(arguments.store, arguments.record, arguments.rate)


if __name__ == "__main__":
    main()
