"""Senders of SST files that break the rules: pieces that do not fit, ends that lie, files that are none."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import rocksdict

import kvbatch
from kvbatch._core.base import chain_file_piece, crc32c
from kvbatch._core.batch import RecordKind, encode_batch
from kvbatch._core.frame import FrameType
from kvbatch._core.store import SourceStore
from kvbatch.target import FILE_PIECE_BYTES
from support.stores import need_rocksdb, read_store
from support.tables import compacted, key_of, table_options_of
from support.targets import settle
from support.wire import RawPeer, WireFrame

Frame = tuple[FrameType, object, dict[str, Any]]
SETTLE_SECONDS = 10.0


@pytest.fixture(autouse=True, scope="module")
def _grafting() -> None:
    need_rocksdb((9, 10), "ingest files that a database wrote")


@dataclass(frozen=True)
class Graft:
    """A range that is a file of the source, and what an honest sender would say of it."""

    store: Path
    part: dict[str, Any]
    content: bytes
    totals: dict[str, Any]

    def key(self, number: int) -> bytes:
        """Some keys of the file, in their order."""
        return key_of(int(bytes.fromhex(self.part["start"])[4:]) + number)

    @property
    def begin(self) -> Frame:
        return FrameType.RANGE_BEGIN, b"", {"range": self.part["id"]}

    def piece(self, content: bytes | None = None, offset: int = 0, **header: Any) -> Frame:
        data = self.content if content is None else content
        return FrameType.FILE, data, {"range": self.part["id"], "raw_length": offset, **header}

    def end_file(self, content: bytes | None = None, **changes: Any) -> list[Frame]:
        """And the end of the range, which is answered with what became of the file."""
        data = self.content if content is None else content
        totals = {**self.totals, **changes}
        digest = chain_file_piece(bytes(16), 0, len(data), crc32c(data)).hex()
        end = {"entries": totals["entries"], "raw_bytes": totals["raw_bytes"], "digest": digest}
        return [(FrameType.FILE_END, totals, {}), (FrameType.RANGE_END, end, {}), (FrameType.DRAIN, b"", {})]

    def end(self) -> Frame:
        return FrameType.RANGE_END, {"entries": 0, "raw_bytes": 0, "digest": "00" * 16}, {}

    def data(self, *records: tuple[RecordKind, int, bytes, bytes]) -> Frame:
        return FrameType.DATA, encode_batch(list(records)), {"entries": len(records), "range": self.part["id"]}

    def honest(self) -> list[Frame]:
        """Up to the end of the file."""
        return [self.begin, self.piece(), self.end_file()[0]]

    def other(self, content: bytes, **totals: Any) -> list[Frame]:
        """Another file in its place."""
        return [self.begin, self.piece(content), *self.end_file(content, **totals)]

    def built(self, write: Callable[[rocksdict.SstFileWriter], None]) -> bytes:
        path = self.store.parent / "built.sst"
        writer = rocksdict.SstFileWriter(options=table_options_of())
        writer.open(str(path))
        write(writer)
        writer.finish()
        return path.read_bytes()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile-sst") / "source"
    opened = compacted(path)
    opened[key_of(7)] = b"over the first file"
    opened.flush()
    opened.close()
    return path


@pytest.fixture(scope="module")
def manifest(store: Path) -> dict[str, Any]:
    return kvbatch.plan(store, store.parent / "none", lane="sst", graft_bytes=1, job="job").manifest.to_json()


@pytest.fixture(scope="module")
def graft(store: Path, manifest: dict[str, Any]) -> Graft:
    part = [part for part in manifest["ranges"] if part["file"]][2]
    table = SourceStore(str(store)).table("default", part["file"])
    totals = {
        "entries": table.entries,
        "raw_bytes": table.raw_bytes,
        "last_key": table.largest.hex(),
        "graft": True,
    }
    return Graft(store, part, (store / part["file"]).read_bytes(), totals)


def open_job(peer: RawPeer, manifest: dict[str, Any]) -> WireFrame:
    assert peer.hello("control").type == FrameType.WELCOME
    return peer.request("open", name="job", manifest=manifest)


def finish_honestly(receiver: kvbatch.Receiver, store: Path) -> None:
    target = f"kvbatch://127.0.0.1:{receiver.port}/job"
    kvbatch.migrate(store, target, lane="sst", graft_bytes=1, job="job").wait()
    assert read_store(receiver.root / "job") == read_store(store)
    assert not (receiver.root / "job" / ".kvbatch").exists()


def check_nothing_spooled(target: Path) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    # But for the first pieces of a file, which who comes next is asked about.
    while left := [file for file in (target / ".kvbatch").iterdir() if file.suffix != ".partial"]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


def _outside(graft: Graft) -> list[Frame]:
    def write(writer: rocksdict.SstFileWriter) -> None:
        writer[key_of(0)] = b"outside"
        writer[graft.key(1)] = b"inside"

    return graft.other(graft.built(write), entries=2, last_key=graft.key(1).hex(), graft=False)


def _behind(graft: Graft) -> list[Frame]:
    def write(writer: rocksdict.SstFileWriter) -> None:
        writer[graft.key(1)] = b"inside"
        writer[b"zzz"] = b"outside"

    return graft.other(graft.built(write), entries=2, last_key=b"zzz".hex())


def _deletions(graft: Graft) -> list[Frame]:
    def write(writer: rocksdict.SstFileWriter) -> None:
        writer[graft.key(1)] = b"value"
        del writer[graft.key(2)]

    return graft.other(graft.built(write), entries=2, last_key=graft.key(1).hex())


def _with_sequence_numbers(graft: Graft) -> list[Frame]:
    """A file of a database that was never compacted."""
    path = graft.store.parent / "flushed"
    if not path.exists():
        store = rocksdict.Rdict(str(path), table_options_of())
        store[graft.key(1)] = b"one"
        store[graft.key(2)] = b"two"
        store.flush()
        store.close()
    [file] = path.glob("*.sst")
    return graft.other(file.read_bytes(), entries=2, last_key=graft.key(2).hex())


def _two_files(graft: Graft) -> list[Frame]:
    """The first is what the range begins with, and stays; the second one is looked at while the third comes."""
    values = read_store(graft.store)["default"]

    def of(*keys: bytes) -> list[Frame]:
        def write(writer: rocksdict.SstFileWriter) -> None:
            for key in keys:
                writer[key] = values[key]

        raw_bytes = sum(len(key) + len(values[key]) for key in keys)
        totals = {"entries": len(keys), "raw_bytes": raw_bytes, "last_key": keys[-1].hex(), "graft": False}
        return [graft.piece(graft.built(write)), (FrameType.FILE_END, totals, {})]

    return [graft.begin, *of(*map(graft.key, range(3))), *of(graft.key(1)), *of(graft.key(3))]


PUT = (RecordKind.PUT, 0)
STREAMS: list[tuple[str, Callable[[Graft], list[Frame]], str, str]] = [
    ("a piece before its range", lambda graft: [graft.piece()], "ProtocolError", "no range is open"),
    ("a piece of another range", lambda graft: [graft.begin, graft.piece(range=0)], "ProtocolError", "while range"),
    ("a file that begins further on", lambda graft: [graft.begin, graft.piece(offset=1)], "ProtocolError", "byte 0"),
    ("a piece left out", lambda graft: [graft.begin, graft.piece(graft.content[:10]),
     graft.piece(graft.content[20:], 20)], "ProtocolError", "byte 10 was due"),
    ("a piece twice", lambda graft: [graft.begin, graft.piece(graft.content[:10]), graft.piece(graft.content[:10])],
     "ProtocolError", "byte 10 was due"),
    ("a piece larger than pieces are", lambda graft: [graft.begin, graft.piece(b"x",
     payload_length=FILE_PIECE_BYTES + 1)], "ProtocolError", str(FILE_PIECE_BYTES)),
    ("an offset to begin at", lambda graft: [(FrameType.RANGE_BEGIN, {"offset": 10}, graft.begin[2])],
     "ProtocolError", "less of it is there"),
    ("the end of no file", lambda graft: [graft.begin, *graft.end_file()], "ProtocolError", "the end of no file"),
    ("the end of a file before its range", lambda graft: graft.end_file(), "ProtocolError", "no range is open"),
    ("a range that ends inside a file", lambda graft: [graft.begin, graft.piece(), graft.end()], "ProtocolError",
     "ends inside a file"),
    ("a second file behind a graft", lambda graft: [*graft.honest(), graft.piece()], "ProtocolError",
     "takes no file now"),
    ("a batch before the file", lambda graft: [graft.begin, graft.data((*PUT, graft.key(1), b"x")), graft.piece()],
     "ProtocolError", "takes no file now"),
    ("a batch inside a file", lambda graft: [graft.begin, graft.piece(graft.content[:10]),
     graft.data((*PUT, graft.key(1), b"x"))], "ProtocolError", "inside a file"),
    ("an end that is no JSON", lambda graft: [graft.begin, graft.piece(), (FrameType.FILE_END, b"\0\1", {})],
     "CorruptionError", "JSON"),
    ("an end that says nothing", lambda graft: [graft.begin, graft.piece(), (FrameType.FILE_END, {}, {})],
     "ProtocolError", "FILE_END"),
    ("an end of other types", lambda graft: [graft.begin, graft.piece(), *graft.end_file(entries="x")],
     "ProtocolError", "FILE_END"),
    ("a key that is no hex", lambda graft: [graft.begin, graft.piece(), *graft.end_file(last_key="xyz")],
     "ProtocolError", "FILE_END"),
    ("fewer entries than none", lambda graft: [graft.begin, graft.piece(), *graft.end_file(entries=-1)],
     "ProtocolError", "FILE_END"),
    ("more bytes than 64 bits count", lambda graft: [graft.begin, graft.piece(), *graft.end_file(raw_bytes=2**70)],
     "ProtocolError", "FILE_END"),
    ("one entry more", lambda graft: graft.other(graft.content, entries=graft.totals["entries"] + 1),
     "CorruptionError", "the sender says"),
    ("another last key", lambda graft: graft.other(graft.content, last_key=graft.key(1).hex()), "CorruptionError",
     "another key"),
    ("a file of the source's that is said to be built", lambda graft: graft.other(graft.content, graft=False),
     "CorruptionError", "ingest"),
    ("bytes that are no SST file", lambda graft: graft.other(b"nonsense" * 100), "CorruptionError", "does not open"),
    ("an empty file", lambda graft: graft.other(b""), "ProtocolError", ""),
    ("a file cut short", lambda graft: graft.other(graft.content[:-100]), "CorruptionError", "does not open"),
    ("keys before the range", _outside, "CorruptionError", "outside the range"),
    ("keys behind the range", _behind, "CorruptionError", "outside the range"),
    ("a file with deletions", _deletions, "CorruptionError", "deletions"),
    ("a file with sequence numbers", _with_sequence_numbers, "CorruptionError", ""),
    ("files in another order", _two_files, "CorruptionError", "does not follow"),
    ("a merge over a graft", lambda graft: [*graft.honest(), graft.data((RecordKind.MERGE, 0, graft.key(1), b"x"))],
     "CorruptionError", "batch"),
    ("a range deletion over a graft", lambda graft: [*graft.honest(), graft.data(
     (RecordKind.DELETE_RANGE, 0, graft.key(1), graft.key(3)))], "CorruptionError", "batch"),
    ("a key outside over a graft", lambda graft: [*graft.honest(), graft.data((*PUT, b"zzz", b"x"))],
     "CorruptionError", "keys"),
    ("keys out of order over a graft", lambda graft: [*graft.honest(), graft.data((*PUT, graft.key(2), b"x")),
     graft.data((RecordKind.DELETE, 0, graft.key(1), b""))], "CorruptionError", "keys"),
    ("a deletion without a graft", lambda graft: [graft.begin, graft.data((RecordKind.DELETE, 0, graft.key(1), b""))],
     "CorruptionError", "batch"),
    ("another digest behind a graft", lambda graft: [*graft.honest(), graft.end()], "CorruptionError", "digest"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("frames", "kind", "words"), [case[1:] for case in STREAMS], ids=[case[0].replace(" ", "-") for case in STREAMS]
)
def test_a_stream_that_breaks_the_rules_is_cut_off_and_the_job_goes_on(
    receiver: kvbatch.Receiver,
    graft: Graft,
    manifest: dict[str, Any],
    frames: Callable[[Graft], list[Frame]],
    kind: str,
    words: str,
) -> None:
    with RawPeer(receiver.port) as peer, RawPeer(receiver.port) as stream:
        session = open_job(peer, manifest).json["session"]
        assert stream.hello("stream", session=session, stream=0).type == FrameType.WELCOME
        for type_, payload, header in frames(graft):
            stream.send_frame(type_, payload, **header)
        *acks, error = stream.until_closed()
        assert {frame.type for frame in acks} <= {FrameType.ACK}
        assert error.type == FrameType.ERROR
        assert (error.json["kind"], words in error.json["message"]) == (kind, True), error.json
        check_nothing_spooled(receiver.root / "job")
    finish_honestly(receiver, graft.store)


@pytest.mark.parametrize("ended", [False, True], ids=["behind a file", "in the next range"])
def test_a_sender_that_pauses_hears_what_was_taken(
    receiver: kvbatch.Receiver, graft: Graft, manifest: dict[str, Any], ended: bool
) -> None:
    """Whatever frame it sent last: nothing more may come for as long as it likes."""
    frames = graft.honest()
    if ended:
        frames += [graft.end_file()[1], (FrameType.RANGE_BEGIN, b"", {"range": graft.part["id"] + 1})]
    with RawPeer(receiver.port) as peer, RawPeer(receiver.port) as stream:
        session = open_job(peer, manifest).json["session"]
        assert stream.hello("stream", session=session, stream=0, window=4).type == FrameType.WELCOME
        # At once, so that the receiver finds the next one there behind each but the last.
        stream.send(b"".join(stream.frame(type_, payload, **header) for type_, payload, header in frames))
        assert stream.read().json["frames"] == 1
    finish_honestly(receiver, graft.store)


def test_what_came_in_batches_of_a_graft_goes_on_in_batches(
    receiver: kvbatch.Receiver, graft: Graft, manifest: dict[str, Any]
) -> None:
    """A sender that did without the file and went away in between."""
    with RawPeer(receiver.port) as peer, RawPeer(receiver.port) as stream:
        session = open_job(peer, manifest).json["session"]
        assert stream.hello("stream", session=session, stream=0).type == FrameType.WELCOME
        key = graft.key(0)
        value = read_store(graft.store)["default"][key]
        for type_, payload, header in [graft.begin, graft.data((*PUT, key, value))]:
            stream.send_frame(type_, payload, **header)
        assert stream.read().json["frames"] == 1
    finish_honestly(receiver, graft.store)


def test_a_built_file_that_is_said_to_be_the_sources_own_is_told_by_verify(
    receiver: kvbatch.Receiver, graft: Graft, manifest: dict[str, Any]
) -> None:
    """Its sequence numbers are 0 like theirs. What a job's sender has put is the job's, file or batch."""

    def write(writer: rocksdict.SstFileWriter) -> None:
        writer[graft.key(1)] = b"1" + bytes(range(256))

    with RawPeer(receiver.port) as peer, RawPeer(receiver.port) as stream:
        session = open_job(peer, manifest).json["session"]
        assert stream.hello("stream", session=session, stream=0).type == FrameType.WELCOME
        for type_, payload, header in graft.other(graft.built(write), entries=1, last_key=graft.key(1).hex())[:3]:
            stream.send_frame(type_, payload, **header)
        assert stream.read().json["frames"] == 1
    settle()
    target = f"kvbatch://127.0.0.1:{receiver.port}/job"
    kvbatch.migrate(graft.store, target, lane="sst", graft_bytes=1, job="job").wait()
    assert not kvbatch.verify(graft.store, target).equal
    assert kvbatch.verify(graft.store, target, repair=True).keys_repaired > 0
    assert kvbatch.verify(graft.store, target).equal
