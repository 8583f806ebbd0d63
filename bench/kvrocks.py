"""How fast `kvbatch inspect` counts a Kvrocks directory, of both layouts.

    python bench/kvrocks.py --json out.json [--keys 2000000] [--rounds 3]

The directories are made here: half of the keys are strings of 100 bytes, half are hashes of two fields; one hash in ten
has lost its metadata, so that its fields are garbage. They are compacted and in the page cache. Rates are millions of
entries a second. `read` is what reading the same entries into pages takes alone, without looking at them. Every round
measures each of these once, in a process of its own, and medians over the rounds are what is reported; each must count
what was written.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rocksdict

import kvbatch
from kvbatch._core.store import ROCKSDB_VERSION, EntryPages, SourceStore
from kvbatch.kvrocks.keys import DEFAULT_NAMESPACE, FAMILIES, METADATA, metadata_key, subkey_prefix
from kvbatch.kvrocks.metadata import HEADER_BYTES, Type

STRING = bytes([0x80 | Type.STRING]) + bytes(8)
HASH = bytes([0x80 | Type.HASH]) + bytes(8)
FIELDS = (b"field0", b"field1")
GARBAGE_EACH = 10
ENTRIES_PER_WRITE = 10_000

# name: the least that it must be, in millions of entries a second.
BARS = {"inspect_standalone": 2.0, "inspect_cluster": 2.0}


def entries_of(keys: int, slot_encoded: bool) -> Iterator[tuple[str, bytes, bytes]]:
    """Column family, key, value."""
    for number in range(keys):
        user_key = b"user:%010d" % (number * 2_654_435_761 % (1 << 32))
        key = metadata_key(DEFAULT_NAMESPACE, user_key, slot_encoded)
        if number % 2:
            yield METADATA, key, STRING + os.urandom(50) + bytes(50)
            continue
        version = 1 << 60 | number
        if number // 2 % GARBAGE_EACH:
            yield METADATA, key, HASH + version.to_bytes(8, "big") + len(FIELDS).to_bytes(8, "big")
        prefix = subkey_prefix(DEFAULT_NAMESPACE, user_key, version, slot_encoded)
        for field in FIELDS:
            yield "default", prefix + field, b"value of a field"


def make_directory(path: Path, keys: int, slot_encoded: bool) -> None:
    options = rocksdict.Options(raw_mode=True)
    table = rocksdict.BlockBasedOptions()
    table.set_format_version(5)  # as Kvrocks
    options.set_block_based_table_factory(table)
    store = rocksdict.Rdict(str(path), options)
    for name in list(FAMILIES)[1:]:
        store.create_column_family(name, options)
    handles = {name: store.get_column_family_handle(name) for name in ("default", METADATA)}
    entries = entries_of(keys, slot_encoded)
    while some := list(itertools.islice(entries, ENTRIES_PER_WRITE)):
        batch = rocksdict.WriteBatch(raw_mode=True)
        for name, key, value in some:
            batch.put(key, value, handles[name])
        store.write(batch)
    for name in handles:
        family = store.get_column_family(name)
        family.flush()
        family.compact_range(None, None)
        del family
    store.close()


def expected(keys: int) -> dict[str, int]:
    hashes = -(-keys // 2)
    garbage = -(-hashes // GARBAGE_EACH)
    return {
        "keys": keys - garbage,
        "subkeys": len(FIELDS) * (hashes - garbage),
        "garbage": len(FIELDS) * garbage,
    }


def peak_rss() -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def inspect(path: str, keys: int) -> dict[str, float]:
    inspect_store = kvbatch.inspect  # its import is nothing that is measured
    began = time.perf_counter()
    found = inspect_store(path)
    seconds = time.perf_counter() - began
    assert found.kvrocks is not None
    total = found.kvrocks.total().to_json()
    assert {name: total[name] for name in expected(keys)} == expected(keys), total
    return {"rate": sum(expected(keys).values()) / seconds / 1e6, "peak_rss": peak_rss()}


def read(path: str, keys: int) -> dict[str, float]:
    store = SourceStore(path)
    began = time.perf_counter()
    entries = 0
    for family in (METADATA, "default"):
        pages = EntryPages(store, family, head_bytes=HEADER_BYTES)
        while (page := pages.next()) is not None:
            entries += len(page)
    seconds = time.perf_counter() - began
    assert entries == sum(expected(keys).values())
    return {"rate": entries / seconds / 1e6, "peak_rss": peak_rss()}


def measure(folder: Path, keys: int, rounds: int) -> dict[str, Any]:
    layouts = {"standalone": False, "cluster": True}
    for layout, slot_encoded in layouts.items():
        make_directory(folder / layout, keys, slot_encoded)
    measured: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for work, layout in itertools.product((read, inspect), layouts):
            with multiprocessing.get_context("spawn").Pool(1) as process:
                figures = process.apply(work, (str(folder / layout), keys))
            measured.setdefault(f"{work.__name__}_{layout}", []).append(figures)
    return {
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "rocksdb": ROCKSDB_VERSION},
        "entries": sum(expected(keys).values()),
        "figures": {name: statistics.median(each["rate"] for each in rows) for name, rows in measured.items()},
        "peak_rss": {name: max(each["peak_rss"] for each in rows) for name, rows in measured.items()},
        "rounds": measured,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--keys", type=int, default=2_000_000, help="in each directory")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kvbatch-kvrocks-") as folder:
        result = measure(Path(folder), arguments.keys, arguments.rounds)
    figures = result["figures"]
    result["bars"] = {
        name: {"figure": figures[name], "kind": "at least", "bar": bar, "reached": figures[name] >= bar}
        for name, bar in BARS.items()
    }
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    for name, figure in figures.items():
        print(f"{name:20} {figure:6.2f} M entries/s, peak memory {result['peak_rss'][name] >> 20} MiB")
    for name, bar in result["bars"].items():
        print(f"{name:20} {bar['figure']:6.2f}  {bar['kind']} {bar['bar']}  {'ok' if bar['reached'] else 'MISSED'}")


if __name__ == "__main__":
    main()
