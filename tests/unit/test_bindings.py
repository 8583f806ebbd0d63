# Wrong types are what this is about.
# mypy: disable-error-code="arg-type, list-item"
"""What the compiled core raises for arguments that make no sense: never a crash, never a wrong answer."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvbatch._core import base, batch, frame, store, wire
from kvbatch._core.codec import Codec
from kvbatch.errors import ClosedError, CorruptionError, KvbatchError, ProtocolError, TargetError, UsageError
from support.stores import numbered, write_store

PUT = (batch.RecordKind.PUT, 0, b"key", b"value")


def in_a_process_of_its_own(code: str) -> str:
    """For what would take the tests down with it if it went wrong; what it printed."""
    imports = "from kvbatch._core import frame, store\nfrom kvbatch.errors import KvbatchError\n"
    script = imports + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: base.crc32c("text"), TypeError),
        (lambda: base.xxh3_64("text"), TypeError),
        (lambda: base.xxh3_64(bytearray(b"x")), TypeError),
        (lambda: base.entry_digest(b"k", None), TypeError),
        (lambda: base.sum_digests([b"short"]), ValueError),
        (lambda: base.sum_digests([bytes(17)]), ValueError),
        (lambda: base.sum_digests(None), TypeError),
        (lambda: batch.decode_batch(b""), CorruptionError),
        (lambda: batch.decode_batch("text"), TypeError),
        (lambda: batch.validate_batch(b"\0" * 11), CorruptionError),
        (lambda: batch.validate_batch(b"\0" * 8 + b"\1\0\0\0"), CorruptionError),
        (lambda: batch.validate_batch(batch.encode_batch([PUT]), {1}), CorruptionError),
        (lambda: batch.validate_batch(batch.encode_batch([PUT]), {-1}), TypeError),
        (lambda: batch.encode_batch([(99, 0, b"k", b"v")]), TypeError),
        (lambda: batch.encode_batch([(batch.RecordKind.PUT, -1, b"k", b"v")]), TypeError),
        (lambda: batch.encode_batch([(batch.RecordKind.PUT, 1 << 32, b"k", b"v")]), TypeError),
        (lambda: batch.encode_batch([(batch.RecordKind.PUT, 0, "k", b"v")]), TypeError),
        (lambda: frame.BufferPool(-1), TypeError),
        (lambda: frame.FrameHeader.decode(b""), ProtocolError),
        (lambda: frame.FrameHeader.decode(b"\0" * 64), ProtocolError),
        (lambda: frame.FrameHeader.decode(None), TypeError),
        (lambda: frame.FrameHeader(type=99), TypeError),
        (lambda: frame.FrameLimits(max_data_bytes=-1), TypeError),
        (lambda: store.Cursor(-1), TypeError),
        (lambda: store.Cursor(0, digest=b"short"), ValueError),
        (lambda: store.Cursor(0, entries=1 << 64), TypeError),
        (lambda: store.check_compression("rar"), UsageError),
        (lambda: store.SourceStore("/nowhere/at/all"), UsageError),
        (lambda: store.SourceStore(b"/bytes"), TypeError),
        (lambda: store.digest_key_parts(np.zeros(3, np.uint8), [[0, 1, 2, 4]]), UsageError),
        (lambda: store.digest_key_parts(np.zeros(3, np.uint8), [[0, 1, 2]]), ValueError),
        (lambda: store.digest_key_parts(np.zeros((3, 1), np.uint8), [[0, 1, 2, 3]]), ValueError),
        (lambda: store.digest_key_parts(np.zeros(3, np.int64), [[0, 1, 2, 3]]), TypeError),
        (lambda: store.digest_key_parts(b"abc", [[0, 1, 2, 3]]), TypeError),
        (lambda: store.describe_store("/nowhere/at/all"), KvbatchError),
        (lambda: store.TargetStore("/nowhere/at/all", create=False), KvbatchError),
        (lambda: wire.Connection("fd", "peer"), TypeError),
        (lambda: wire.FramesInFlight().add(b"short", 1), ValueError),
        (lambda: wire.FramesInFlight().add(bytes(16), -1), TypeError),
        (lambda: wire.FramesInFlight().take(0), ValueError),
        (lambda: wire.FramesInFlight().take(1), ValueError),
        (lambda: wire.FramesInFlight().take(-1), TypeError),
        (lambda: wire.FramesInFlight().take(1 << 70), TypeError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else f"line-{value.__code__.co_firstlineno}",
)
def test_bad_arguments_raise(call: Callable[[], Any], error: type[Exception], request: pytest.FixtureRequest) -> None:
    with pytest.raises(error):
        call()


@pytest.mark.parametrize(
    "call",
    [
        "store.RangeReader(None, 'default', None, None)",
        "store.RangeApplier(None, 0, None, None, store.ApplyMode.INGEST, store.Cursor(0))",
        "frame.Frame(None)",
        "frame.FrameHeader.decode(b'', None)",
        "store.ColumnFamilyDescription(None)",
        "store.EntryPages(None, 'default')",
        "store.family_shape(None, 'default')",
    ],
)
def test_none_for_an_object_is_a_type_error(call: str) -> None:
    printed = in_a_process_of_its_own(
        f"""
        try:
            {call}
        except TypeError:
            print("refused")
        """
    )
    assert printed == "refused"


@pytest.fixture
def source(tmp_path: Path) -> store.SourceStore:
    return store.SourceStore(str(write_store(tmp_path / "source", {"default": numbered(100)})))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda source: source.figures("nobody"), UsageError),
        (lambda source: source.first_and_last_key("nobody"), UsageError),
        (lambda source: source.seek("nobody", b""), UsageError),
        (lambda source: source.approximate_sizes("nobody", b"", []), UsageError),
        (lambda source: source.digest_range("nobody", None, None), UsageError),
        (lambda source: source.digest_range("default", "text", None), TypeError),
        (lambda source: source.digest_range("default", None, None, -1), TypeError),
        (lambda source: source.list_entries("nobody", None, None, 10), UsageError),
        (lambda source: store.SourceStore(source.path, ["nobody"]), UsageError),
        (lambda source: store.EntryPages(source, "nobody"), UsageError),
        (lambda source: store.EntryPages(source, "default", max_entries=0), ValueError),
        (lambda source: store.EntryPages(source, "default", max_key_bytes=0), ValueError),
        (lambda source: store.EntryPages(source, "default", head_bytes=-1), TypeError),
        (lambda source: store.EntryPages(source, "default").next().key(100), IndexError),
        (lambda source: store.EntryPages(source, "default").next().key(-1), TypeError),
        (lambda source: store.family_shape(source, "nobody"), UsageError),
        (lambda source: store.RangeReader(source, "nobody", None, None), UsageError),
        (lambda source: store.RangeReader(source, "default", None, None, digest=b""), ValueError),
        (lambda source: store.RangeReader(source, "default", None, None, target_family=-1), TypeError),
    ],
)
def test_a_source_that_is_asked_for_nonsense_raises(
    source: store.SourceStore, call: Callable[[store.SourceStore], Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        call(source)
    assert source.seek("default", b"") == b"key-00000000"


def test_pages_outlive_their_store_and_stay_as_they_are(tmp_path: Path) -> None:
    entries = numbered(100)
    pages = store.EntryPages(store.SourceStore(str(write_store(tmp_path / "mine", {"default": entries}))), "default")
    page = pages.next()
    assert page is not None
    keys, offsets = page.keys, page.key_offsets
    del page, pages
    assert keys.tobytes() == b"".join(entries)
    assert offsets.tolist() == [12 * number for number in range(101)]
    with pytest.raises(ValueError, match="read-only"):
        keys[0] = 1


def test_a_frame_larger_than_its_pool_is_refused(source: store.SourceStore) -> None:
    reader = store.RangeReader(source, "default", None, None)
    with pytest.raises(UsageError, match="memory budget"):
        reader.fill(frame.Frame(frame.BufferPool(1000)), 1 << 20, Codec.NONE)


def test_a_closed_pool_wakes_who_asks(source: store.SourceStore) -> None:
    pool = frame.BufferPool(1 << 20)
    pool.close()
    with pytest.raises(ClosedError):
        store.RangeReader(source, "default", None, None).fill(frame.Frame(pool), 4096, Codec.NONE)


def test_memory_comes_back_to_the_pool(source: store.SourceStore) -> None:
    pool = frame.BufferPool(1 << 20)
    filled = frame.Frame(pool)
    store.RangeReader(source, "default", None, None).fill(filled, 4096, Codec.NONE)
    assert 4096 <= pool.leased_bytes <= pool.max_bytes
    filled.release()
    assert (pool.leased_bytes, pool.waiting) == (0, 0)
    del filled


def test_a_store_that_was_closed_says_so(tmp_path: Path) -> None:
    target = store.TargetStore(str(tmp_path / "target"))
    target.close()
    target.close()
    family = store.ColumnFamilyDescription("default")
    for call in (
        target.flush,
        target.sync_wal,
        lambda: target.put_record(b"a", b"b"),
        lambda: target.ensure_family(family),
        lambda: target.has_data("default"),
        lambda: target.identity,
    ):
        with pytest.raises((TargetError, UsageError)):
            call()


@pytest.mark.parametrize("call", ["applier.finish(0, 0, bytes(16))", "applier.apply(filled)", "applier.flush()"])
def test_an_applier_outlives_its_store_without_harm(tmp_path: Path, call: str) -> None:
    write_store(tmp_path / "source", {"default": numbered(100)})
    printed = in_a_process_of_its_own(
        f"""
        filled = frame.Frame(frame.BufferPool(1 << 20))
        store.RangeReader(store.SourceStore({str(tmp_path / "source")!r}), "default", None, None).fill(filled, 4096)
        target = store.TargetStore({str(tmp_path / "target")!r})
        family = target.ensure_family(store.ColumnFamilyDescription("default"))
        applier = store.RangeApplier(target, family, None, None, store.ApplyMode.INGEST, store.Cursor(0))
        if "flush" in {call!r}:
            applier.apply(filled)
        target.close()
        try:
            {call}
            applier.drain()
        except KvbatchError:
            print("refused")
        """
    )
    assert printed == "refused"


def test_a_family_that_is_not_there_has_no_applier(tmp_path: Path) -> None:
    target = store.TargetStore(str(tmp_path / "target"))
    with pytest.raises(UsageError, match="77"):
        store.RangeApplier(target, 77, None, None, store.ApplyMode.INGEST, store.Cursor(0))
    target.close()


def test_a_connection_that_was_shut_down_raises(source: store.SourceStore) -> None:
    near, far = socket.socketpair()
    connection = wire.Connection(near.detach(), "peer")
    connection.shutdown()
    with pytest.raises(KvbatchError):
        connection.send_control(frame.FrameType.HELLO, b"")
    with pytest.raises(KvbatchError):
        connection.receive(frame.Frame(frame.BufferPool(1 << 20)))
    far.close()


def test_checksums_of_known_input() -> None:
    # RFC 3720, B.4.
    assert base.crc32c(b"123456789") == 0xE3069283
    assert base.crc32c(bytes(32)) == 0x8A9136AA
    assert base.crc32c(memoryview(b"123456789")[2:5]) == base.crc32c(b"345")
    # XXH3 of nothing, from its reference implementation.
    assert base.xxh3_64(b"") == 0x2D06800538D394C2
    assert base.sum_digests([]) == bytes(16)
    one, two = base.entry_digest(b"a", b"1"), base.entry_digest(b"b", b"2")
    assert base.sum_digests([one, two]) == base.sum_digests([two, one])
    assert base.sum_digests([one, base.entry_digest(b"a1", b"")]) != base.sum_digests(
        [one, base.entry_digest(b"", b"a1")]
    )


def test_an_ack_takes_the_oldest_frames() -> None:
    in_flight = wire.FramesInFlight()
    for number in range(1, 4):
        in_flight.add(bytes([number] * 16), 10 * number)
    digest, raw_bytes, age = in_flight.take(2)
    assert (digest, raw_bytes) == (bytes([2] * 16), 30)
    assert age >= 0
    assert (in_flight.frames, in_flight.raw_bytes) == (1, 30)


def test_what_is_left_when_the_interpreter_ends_goes_quietly(tmp_path: Path) -> None:
    """Readers and stores let go of the GIL when they go, and of each other."""
    path = str(tmp_path / "store")
    store.write_sample_store(path, entries=1000)
    assert (
        in_a_process_of_its_own(f"""
            import threading, time
            source = store.SourceStore({path!r})
            reader = store.RangeReader(source, "default", None, None)
            del source

            def read():
                mine = store.RangeReader(store.SourceStore({path!r}), "default", None, None)
                ready.set()
                time.sleep(60)

            ready = threading.Event()
            threading.Thread(target=read, daemon=True).start()
            ready.wait()
            print("ending")
            """)
        == "ending"
    )
