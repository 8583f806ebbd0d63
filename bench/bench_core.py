"""Each stage of the way alone, on one thread. Every benchmark checks its answer too.

`extra_info` of each result has the entries or bytes of one call, so that rates can be told from the times.
"""

from __future__ import annotations

import shutil
import socket
import threading
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from kvbatch._core.base import crc32c, sum_digests
from kvbatch._core.batch import validate_batch
from kvbatch._core.codec import Codec
from kvbatch._core.frame import BufferPool, Frame, FrameLimits
from kvbatch._core.store import (
    ApplyMode,
    ColumnFamilyDescription,
    Cursor,
    RangeApplier,
    RangeReader,
    SourceStore,
    StopReason,
    TargetStore,
    write_sample_store,
)
from kvbatch._core.wire import Connection
from kvbatch.options import AUTO_BATCH_BYTES, MIB

pytestmark = pytest.mark.benchmark(min_rounds=5)

ENTRIES = 500_000


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SourceStore:
    """Entries of 16 + 100 bytes, sorted into the last level."""
    path = tmp_path_factory.mktemp("bench") / "source"
    write_sample_store(str(path), entries=ENTRIES)
    return SourceStore(str(path))


def packed(source: SourceStore, codec: Codec = Codec.NONE) -> list[Frame]:
    """The whole store in frames."""
    pool = BufferPool(1024 * MIB)
    reader = RangeReader(source, "default", None, None)
    frames = []
    stop = StopReason.FULL
    while stop is not StopReason.END:
        frame = Frame(pool)
        stop = reader.fill(frame, AUTO_BATCH_BYTES, codec).stop
        frames.append(frame)
    return frames


@pytest.mark.parametrize("codec", list(Codec), ids=lambda codec: codec.name.lower())
def bench_iterate_and_pack(benchmark: BenchmarkFixture, source: SourceStore, codec: Codec) -> None:
    frame = Frame(BufferPool(64 * MIB))

    def pack() -> int:
        reader = RangeReader(source, "default", None, None)
        entries = 0
        stop = StopReason.FULL
        while stop is not StopReason.END:
            filled = reader.fill(frame, AUTO_BATCH_BYTES, codec)
            entries += filled.entries
            stop = filled.stop
        return entries

    benchmark.extra_info["entries"] = ENTRIES
    assert benchmark(pack) == ENTRIES


def bench_validate(benchmark: BenchmarkFixture, source: SourceStore) -> None:
    batch = packed(source)[0].raw()
    entries = validate_batch(batch, {0}, True)
    benchmark.extra_info["entries"] = entries
    assert benchmark(validate_batch, batch, {0}, True) == entries > 10_000


@pytest.mark.parametrize("codec", [Codec.LZ4, Codec.ZSTD], ids=lambda codec: codec.name.lower())
def bench_decompress(benchmark: BenchmarkFixture, source: SourceStore, codec: Codec) -> None:
    """Over a socket pair, since a received frame is what is decompressed; what it costs beyond bench_send_and_receive
    is the codec's."""
    frame, plain = packed(source, codec)[0], packed(source)[0].raw()
    assert frame.codec == codec
    left, right = connections()
    received = Frame(BufferPool(64 * MIB))

    def move() -> bytes:
        sender = threading.Thread(target=left.send, args=(frame,))
        sender.start()
        right.receive(received)
        sender.join()
        return received.raw()

    benchmark.extra_info["bytes"] = len(plain)
    assert benchmark(move) == plain


def bench_send_and_receive(benchmark: BenchmarkFixture, source: SourceStore) -> None:
    frames = packed(source)
    left, right = connections()
    received = Frame(BufferPool(64 * MIB))

    def send() -> None:
        for frame in frames:
            left.send(frame)

    def move() -> int:
        sender = threading.Thread(target=send)
        sender.start()
        moved = 0
        for _ in frames:
            right.receive(received)
            moved += received.raw_length
        sender.join()
        return moved

    total = sum(frame.raw_length for frame in frames)
    benchmark.extra_info["bytes"] = total
    assert benchmark(move) == total


def connections() -> tuple[Connection, Connection]:
    left, right = socket.socketpair()
    return (
        Connection(left.detach(), "left", FrameLimits()),
        Connection(right.detach(), "right", FrameLimits()),
    )


def bench_crc32c(benchmark: BenchmarkFixture) -> None:
    data = bytes(range(256)) * 4096
    benchmark.extra_info["bytes"] = len(data)
    assert benchmark(crc32c, data) == crc32c(bytearray(data))


@pytest.mark.parametrize("compression", ["none", "lz4"])
@pytest.mark.parametrize("mode", list(ApplyMode), ids=lambda mode: mode.name.lower())
def bench_apply(
    benchmark: BenchmarkFixture, source: SourceStore, tmp_path: Path, mode: ApplyMode, compression: str
) -> None:
    """Ready frames into a new store, durable at the end."""
    frames = packed(source)
    path = tmp_path / "target"

    def fresh() -> tuple[tuple[TargetStore, int], dict[str, object]]:
        shutil.rmtree(path, ignore_errors=True)
        store = TargetStore(str(path))
        return (store, store.ensure_family(ColumnFamilyDescription("default", compression=compression))), {}

    def apply(store: TargetStore, family: int) -> int:
        applier = RangeApplier(store, family, None, None, mode, Cursor(0))
        for frame in frames:
            applier.apply(frame)
        applied = applier.applied
        applier.finish(applied.entries, applied.raw_bytes, applied.digest)
        applier.drain()
        durable = applier.take_durable()
        del applier
        store.close()
        assert durable is not None
        return durable.entries

    benchmark.extra_info["entries"] = ENTRIES
    assert benchmark.pedantic(apply, setup=fresh, rounds=5) == ENTRIES


def bench_digest(benchmark: BenchmarkFixture, source: SourceStore) -> None:
    """What verify does with each entry."""
    [whole] = source.digest_range("default", None, None)
    parts = source.digest_range("default", None, None, ENTRIES // 7)
    assert sum_digests([part.digest for part in parts]) == whole.digest
    benchmark.extra_info["entries"] = ENTRIES
    [run] = benchmark(source.digest_range, "default", None, None)
    assert (run.entries, run.digest) == (ENTRIES, whole.digest)
