"""SST files that the sender builds: how they are cut, what they look like, and what becomes of a job in between."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import rocksdict

import kvbatch
from kvbatch._core.store import BuiltPiece
from kvbatch.target_local import LocalStream
from kvbatch.target_remote import RemoteStream
from support.places import Place
from support.stores import numbered, raw_options, read_store, write_store
from support.targets import settle
from support.tools import CRC32C, table_checksum, table_format_version, table_properties

ENTRIES = {"default": numbered(20_000), "users": numbered(3000, value=b"user-")}
SMALL: dict[str, Any] = {"lane": "sst", "sst_file_bytes": "64KiB", "batch_bytes": "16KiB", "graft_bytes": "1TiB"}


def test_several_files_for_a_range_stand_in_the_last_level_in_format_5(tmp_path: Path, place: Place) -> None:
    source = write_store(tmp_path / "source", ENTRIES)
    plan = kvbatch.plan(source, place.endpoint(), **SMALL)
    kvbatch.migrate(source, place.endpoint(), target_compression="none", **SMALL).wait()
    files = sorted(place.path().glob("*.sst"))
    assert len(files) > 2 * len(plan.ranges)
    assert max(file.stat().st_size for file in files) < 64 << 10
    assert {table_format_version(file) for file in files} == {5}
    assert {table_checksum(file) for file in files} == {CRC32C}
    properties = [table_properties(file) for file in files]
    assert sum(int(each["# entries"]) for each in properties) == sum(len(entries) for entries in ENTRIES.values())
    assert read_store(place.path()) == ENTRIES
    names = rocksdict.Rdict.list_cf(str(place.path()), raw_options())
    families = {name: raw_options() for name in names}
    store = rocksdict.Rdict(
        str(place.path()), raw_options(), column_families=families, access_type=rocksdict.AccessType.read_only()
    )
    assert {file["level"] for file in store.live_files()} == {6}
    store.close()


@pytest.mark.parametrize(("compression", "name"), [("none", "NoCompression"), ("lz4", "LZ4"), ("zstd", "ZSTD")])
def test_compressed_as_the_target_wants(tmp_path: Path, place: Place, compression: str, name: str) -> None:
    source = write_store(tmp_path / "source", ENTRIES)
    kvbatch.migrate(source, place.endpoint(), lane="sst", target_compression=compression).wait()
    assert {table_properties(file)["SST file compression algo"] for file in place.path().glob("*.sst")} == {name}
    assert read_store(place.path()) == ENTRIES


def test_a_range_that_holds_data_is_written_and_the_others_are_built(tmp_path: Path, place: Place) -> None:
    source = write_store(tmp_path / "source", ENTRIES)
    theirs = {b"key-00000007": b"theirs", b"key-00000007-only": b"theirs"}
    write_store(place.path(), {"default": theirs})
    migration = kvbatch.migrate(source, place.endpoint(), allow_nonempty=True, range_bytes="64KiB", **SMALL)
    assert len(migration.plan.ranges) > 3
    migration.wait()
    assert read_store(place.path()) == {**ENTRIES, "default": {**theirs, **ENTRIES["default"]}}


def test_a_job_that_was_stopped_goes_on_behind_its_last_whole_file(tmp_path: Path, place: Place) -> None:
    source = write_store(tmp_path / "source", {"default": numbered(300_000)})
    state = tmp_path / "state"
    stopped = kvbatch.migrate(source, place.endpoint(), state_dir=state, streams=1, range_bytes="1GiB", **SMALL)
    while not list(place.path().glob("*.sst")):
        time.sleep(0.001)
    stopped.cancel()
    with pytest.raises(kvbatch.StoppedError):
        stopped.wait()
    summary = kvbatch.migrate(source, place.endpoint(), state_dir=state, streams=1, range_bytes="1GiB", **SMALL).wait()
    assert summary.resumed
    assert summary.entries == 300_000
    assert read_store(place.path()) == {"default": numbered(300_000)}


def test_a_file_that_broke_in_its_last_bytes_is_not_sent_again(tmp_path: Path, place: Place) -> None:
    """They tell when it was made: a file that is built again ends in others."""
    entries = {b"%08d" % number: os.urandom(100) for number in range(20_000)}
    source = write_store(tmp_path / "source", {"default": entries})
    streams = (LocalStream, RemoteStream)
    options: dict[str, Any] = {"lane": "sst", "graft_bytes": "1TiB", "streams": 1, "batch_bytes": "64KiB"}
    with ExitStack() as patched:
        for stream in streams:
            patched.enter_context(patch.object(stream, "end_file", side_effect=kvbatch.SourceError("enough")))
        with pytest.raises(kvbatch.SourceError, match="enough"):
            kvbatch.migrate(source, place.endpoint(), **options).wait()
    settle()
    summary = kvbatch.migrate(source, place.endpoint(), **options).wait()
    assert summary.resumed
    assert 0 < summary.resent_bytes <= 2 * (64 << 10)
    assert read_store(place.path()) == {"default": entries}


def test_a_compressed_file_that_broke_goes_on_where_it_did(tmp_path: Path, place: Place) -> None:
    """A piece of it holds several times its size in keys and values."""
    entries = numbered(60_000, value=b"what shrinks to a fifth of it " * 6)
    source = write_store(tmp_path / "source", {"default": entries})
    options: dict[str, Any] = {"lane": "sst", "graft_bytes": "1TiB", "streams": 1, "batch_bytes": "64KiB"}
    options["target_compression"] = "lz4"
    held: list[int] = []

    def until_the_eighth(stream: Any, builder: Any, piece: BuiltPiece, *more: Any) -> bytes:
        held.append(piece.raw_bytes)
        if len(held) == 8:
            raise kvbatch.SourceError("enough")
        return put_piece[type(stream)](stream, builder, piece, *more)

    put_piece: dict[type, Callable[..., bytes]] = {kind: kind.put_piece for kind in (LocalStream, RemoteStream)}
    with ExitStack() as patched:
        for kind in put_piece:
            patched.enter_context(patch.object(kind, "put_piece", until_the_eighth))
        with pytest.raises(kvbatch.SourceError, match="enough"):
            kvbatch.migrate(source, place.endpoint(), **options).wait()
    assert held[-1] > 3 * 8 * (64 << 10)
    settle()
    summary = kvbatch.migrate(source, place.endpoint(), **options).wait()
    assert summary.resumed
    assert 0 < summary.resent_bytes <= held[-1] - held[-3]
    assert read_store(place.path()) == {"default": entries}


def test_a_damaged_file_is_named(tmp_path: Path, place: Place) -> None:
    source = write_store(tmp_path / "source", {"default": numbered(50_000)})
    [table] = source.glob("*.sst")
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    table.write_bytes(content)
    with pytest.raises(kvbatch.SourceError, match=table.name):
        kvbatch.migrate(source, place.endpoint(), **SMALL).wait()
