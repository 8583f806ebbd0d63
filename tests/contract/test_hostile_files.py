"""Senders of files that break the rules: names that lead elsewhere, sizes that are not those announced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kvbatch
from kvbatch._core.batch import RecordKind, encode_batch
from kvbatch._core.frame import FrameType
from kvbatch.endpoints import ReceiverEndpoint
from kvbatch.manifest import Manifest
from kvbatch.target import FILE_PIECE_BYTES, FileSums
from kvbatch.target_remote import RemoteSession
from support.stores import numbered, read_store, tree, write_store
from support.wire import RawPeer, WireFrame

ENTRIES = {"default": numbered(300)}
Change = Callable[[list[dict[str, Any]]], None]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("hostile-files") / "source", ENTRIES)


def manifest_of(store: Path) -> dict[str, Any]:
    return kvbatch.plan(store, store.parent / "nowhere", lane="files", job="job").manifest.to_json()


def finish_honestly(receiver: kvbatch.Receiver, store: Path) -> None:
    kvbatch.migrate(store, f"kvbatch://127.0.0.1:{receiver.port}/job", lane="files", job="job").wait()
    assert read_store(receiver.root / "job") == ENTRIES


def open_job(receiver: kvbatch.Receiver, peer: RawPeer, manifest: dict[str, Any]) -> WireFrame:
    assert peer.hello("control").type == FrameType.WELCOME
    return peer.request("open", name="job", manifest=manifest)


# -- manifests --------------------------------------------------------------------------------------------------------


def _named(name: str) -> Change:
    return lambda ranges: ranges[-1].update(file=name)


def _sized(size: object) -> Change:
    return lambda ranges: ranges[-1].update(file_bytes=size)


def _twice(ranges: list[dict[str, Any]]) -> None:
    ranges[-1].update(file=ranges[-2]["file"])


def _no_current(ranges: list[dict[str, Any]]) -> None:
    next(part for part in ranges if part["file"] == "CURRENT").update(file="000099.sst")


def _two_manifests(ranges: list[dict[str, Any]]) -> None:
    ranges.append({**ranges[-1], "id": len(ranges), "file": "MANIFEST-999999"})


NAMES = [
    "", ".", "..", "../000008.sst", "/etc/passwd", "a/000008.sst", "000008.sst/..", "000008.sst\0", "000008.sst\n",
    "\n000008.sst", "000008.SST", "LOCK", "LOG", "kvbatch.json", "kvbatch.json.tmp", "000008.sst.partial", ".hidden",
    "000008.so", "CURRENT ", "CURRENT/", "x000008.sst", "OPTIONS-", "OPTIONS-1.dbtmp", "MANIFEST-1/../../x",
    "000008.sst" * 30, "\u0661\u0662.sst", "9" * 300 + ".sst",
]  # fmt: skip
MANIFESTS: list[tuple[str, Change]] = [
    *((f"name {name[:20]!r}", _named(name)) for name in NAMES),
    ("a file twice", _twice),
    ("no CURRENT", _no_current),
    ("two MANIFESTs", _two_manifests),
    ("a negative size", _sized(-1)),
    ("a size that no file can have", _sized(1 << 63)),
    ("a size that is no number", _sized("large")),
    ("a name that is no text", lambda ranges: ranges[-1].update(file=["x"])),
    ("a column family", lambda ranges: ranges[-1].update(column_family="default")),
    ("a bound", lambda ranges: ranges[-1].update(start="00")),
    ("an id left out", lambda ranges: ranges[-1].update(id=99)),
    ("no files", lambda ranges: ranges.clear()),
]


@pytest.mark.parametrize("change", [case[1] for case in MANIFESTS], ids=[case[0] for case in MANIFESTS])
def test_a_manifest_with_other_files_than_a_store_has_is_refused(
    receiver: kvbatch.Receiver, store: Path, change: Change
) -> None:
    manifest = manifest_of(store)
    change(manifest["ranges"])
    before = tree(receiver.root.parent)
    with RawPeer(receiver.port) as peer:
        error = open_job(receiver, peer, manifest)
    assert error.type == FrameType.ERROR
    assert (error.json["kind"], error.json["retryable"]) == ("CorruptionError", False), error.json
    assert tree(receiver.root.parent) == before
    finish_honestly(receiver, store)


@pytest.mark.parametrize("field", [{"allow_nonempty": True}, {"key_range": ["00", None]}], ids=str)
def test_a_manifest_of_files_with_a_selection_is_refused(
    receiver: kvbatch.Receiver, store: Path, field: dict[str, Any]
) -> None:
    with RawPeer(receiver.port) as peer:
        error = open_job(receiver, peer, {**manifest_of(store), **field})
    assert error.json["kind"] == "CorruptionError"
    finish_honestly(receiver, store)


# -- streams ----------------------------------------------------------------------------------------------------------

# The name of the file and what is sent of it: type, payload and header of each frame.
Frames = Callable[[int, bytes], list[tuple[FrameType, object, dict[str, Any]]]]


def _piece(part: int, content: bytes, offset: int = 0) -> tuple[FrameType, object, dict[str, Any]]:
    return FrameType.FILE, content, {"range": part, "raw_length": offset}


def _begin(part: int, **payload: Any) -> tuple[FrameType, object, dict[str, Any]]:
    return FrameType.RANGE_BEGIN, payload or b"", {"range": part}


def _end(size: int, digest: str = "00" * 16, entries: int = 0) -> tuple[FrameType, object, dict[str, Any]]:
    return FrameType.RANGE_END, {"entries": entries, "raw_bytes": size, "digest": digest}, {}


BATCH = encode_batch([(RecordKind.PUT, 0, b"key", b"value")])
FILE_END = {"entries": 0, "raw_bytes": 0, "last_key": "", "graft": False}
STREAMS: list[tuple[str, Frames, str, str]] = [
    ("a piece before its range", lambda part, content: [_piece(part, content)], "ProtocolError", "no range is open"),
    ("a piece of another range", lambda part, content: [_begin(part), _piece(part ^ 1, content)], "ProtocolError",
     "while range"),
    ("a piece longer than the file", lambda part, content: [_begin(part), _piece(part, content + b"x")],
     "ProtocolError", "as announced"),
    ("a piece shorter than it must be", lambda part, content: [_begin(part), _piece(part, content[:-1])],
     "ProtocolError", "as announced"),
    ("a piece behind the end", lambda part, content: [_begin(part), _piece(part, content),
     _piece(part, b"x", len(content))], "ProtocolError", "as announced"),
    ("a piece at another offset", lambda part, content: [_begin(part), _piece(part, content, 1)], "ProtocolError",
     "byte 0 was due"),
    ("a piece larger than pieces are", lambda part, _: [_begin(part), (FrameType.FILE, b"x", {"range": part,
     "raw_length": 0, "payload_length": FILE_PIECE_BYTES + 1})], "ProtocolError", str(FILE_PIECE_BYTES)),
    ("a file that ends before its end", lambda part, content: [_begin(part), _end(len(content))], "CorruptionError",
     "ends at byte 0"),
    ("another digest", lambda part, content: [_begin(part), _piece(part, content), _end(len(content))],
     "CorruptionError", "digest"),
    ("entries in a file", lambda part, content: [_begin(part), _piece(part, content), _end(len(content), entries=1)],
     "CorruptionError", "ends at byte"),
    ("an offset where nothing is", lambda part, _: [_begin(part, offset=FILE_PIECE_BYTES)], "ProtocolError",
     "cannot begin at byte"),
    ("a negative offset", lambda part, _: [_begin(part, offset=-1)], "ProtocolError", "cannot begin at byte"),
    ("an offset that is no number", lambda part, _: [_begin(part, offset="x")], "ProtocolError", "RANGE_BEGIN"),
    ("a batch", lambda part, _: [_begin(part), (FrameType.DATA, BATCH, {"entries": 1, "range": part})],
     "ProtocolError", "a batch for file"),
    ("the end of an SST file", lambda part, _: [_begin(part), (FrameType.FILE_END, FILE_END, {})], "ProtocolError",
     "FILE_END"),
    ("a file that is not there", lambda _, content: [_begin(4096)], "ProtocolError", "no range 4096"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("frames", "kind", "words"), [case[1:] for case in STREAMS], ids=[case[0].replace(" ", "-") for case in STREAMS]
)
def test_a_stream_of_files_that_breaks_the_rules_is_cut_off_and_the_job_goes_on(
    receiver: kvbatch.Receiver, store: Path, frames: Frames, kind: str, words: str
) -> None:
    manifest = manifest_of(store)
    table = next(part for part in manifest["ranges"] if part["file"].endswith(".sst"))
    content = (store / table["file"]).read_bytes()
    with RawPeer(receiver.port) as peer, RawPeer(receiver.port) as stream:
        session = open_job(receiver, peer, manifest).json["session"]
        assert stream.hello("stream", session=session, stream=0).type == FrameType.WELCOME
        for type_, payload, header in frames(table["id"], content):
            stream.send_frame(type_, payload, **header)
        *acks, error = stream.until_closed()
    assert {frame.type for frame in acks} <= {FrameType.ACK}
    assert error.type == FrameType.ERROR
    assert (error.json["kind"], words in error.json["message"]) == (kind, True), error.json
    finish_honestly(receiver, store)


def test_a_job_of_files_cannot_be_finished_before_they_are_there(receiver: kvbatch.Receiver, store: Path) -> None:
    with RawPeer(receiver.port) as peer:
        assert open_job(receiver, peer, manifest_of(store)).type == FrameType.REPLY
        error = peer.request("finish")
    assert (error.json["kind"], "is not complete" in error.json["message"]) == ("ProtocolError", True), error.json
    assert not (receiver.root / "job").exists()
    finish_honestly(receiver, store)


def test_files_that_are_no_store_do_not_become_the_target(
    receiver: kvbatch.Receiver, store: Path, tmp_path: Path
) -> None:
    """Each file as announced, its checksums right, and still no store: one bit of its MANIFEST was another."""
    other = tmp_path / "other"
    other.mkdir()
    for file in store.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    [manifest] = other.glob("MANIFEST-*")
    content = bytearray(manifest.read_bytes())
    content[20] ^= 1
    target = f"kvbatch://127.0.0.1:{receiver.port}/job"
    migration = kvbatch.plan(other, target, lane="files", job="job")
    assert migration.manifest.ranges
    manifest.write_bytes(content)
    with pytest.raises(kvbatch.KvbatchError):
        kvbatch.plan(other, target, lane="files", job="job")
    _send_by_hand(receiver, other, migration.manifest.to_json())
    assert not (receiver.root / "job").exists()


def _send_by_hand(receiver: kvbatch.Receiver, source: Path, manifest: dict[str, Any]) -> None:
    session = RemoteSession(ReceiverEndpoint("127.0.0.1", receiver.port, "job"), Manifest.from_json(manifest), 4)
    stream = session.stream(0)
    for part in session.reply.manifest.ranges:
        stream.begin(part)
        sums = FileSums()
        if part.file_bytes:
            with (source / part.file).open("rb") as file:
                sums = stream.put_file(file.fileno(), 0, part.file_bytes, part.file, sums)
        stream.end(0, part.file_bytes, sums.digest)
    stream.drain()
    stream.close()
    with pytest.raises(kvbatch.CorruptionError, match="are not the store that was announced"):
        session.finish()
    session.close()
