"""Peers that open a job like any sender and then break the order, the batches or the requests."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import kvbatch
from kvbatch._core.batch import RecordKind, encode_batch
from kvbatch._core.codec import Codec
from kvbatch._core.frame import FrameType
from kvbatch.endpoints import ReceiverEndpoint
from kvbatch.target_remote import RemoteSession
from support.sender import SmallSource
from support.stores import read_store
from support.targets import ENTRIES, TargetCase, finish
from support.wire import RawPeer, WireFrame, encode_frame, patch_header

PUT = [(RecordKind.PUT, 0, b"key-00000001", b"value")]
GOOD = encode_batch(PUT)
Send = Callable[[RawPeer], None]


@contextmanager
def control(receiver: kvbatch.Receiver) -> Iterator[RawPeer]:
    with RawPeer(receiver.port) as peer:
        assert peer.hello("control").type == FrameType.WELCOME
        yield peer


def open_job(peer: RawPeer, source: SmallSource, name: object = "job", **changes: Any) -> WireFrame:
    return peer.request("open", name=name, manifest={**source.manifest.to_json(), **changes})


def finish_honestly(receiver: kvbatch.Receiver, source: SmallSource) -> None:
    endpoint = ReceiverEndpoint("127.0.0.1", receiver.port, "job")
    path = receiver.root / "job"
    finish(TargetCase("receiver", endpoint, path, lambda manifest: RemoteSession(endpoint, manifest, 8)), source)
    assert read_store(path) == ENTRIES


# -- streams ----------------------------------------------------------------------------------------------------------


def frames(*parts: tuple[FrameType, object, dict[str, Any]]) -> Send:
    def send(peer: RawPeer) -> None:
        for type_, payload, header in parts:
            peer.send_frame(type_, payload, **header)

    return send


BEGIN = (FrameType.RANGE_BEGIN, b"", {"range": 0})


def data(payload: bytes, *, entries: int = 1, **header: Any) -> Send:
    """A range that begins with this batch."""
    return frames(BEGIN, (FrameType.DATA, payload, {"entries": entries, "range": 0, **header}))


def flipped_data(peer: RawPeer) -> None:
    frames(BEGIN)(peer)
    frame = peer.frame(FrameType.DATA, GOOD, entries=1)
    peer.send(frame[:-1] + bytes([frame[-1] ^ 1]))


def unknown_type(peer: RawPeer) -> None:
    peer.send(patch_header(peer.frame(FrameType.DRAIN), 5, b"\x0e"))


def huge(peer: RawPeer) -> None:
    frames(BEGIN)(peer)
    peer.send(patch_header(peer.frame(FrameType.DATA, GOOD), 40, struct.pack("<QQ", 1 << 63, 1 << 63)))


def batch(*records: tuple[RecordKind, int, bytes, bytes]) -> bytes:
    return encode_batch(list(records))


# Whoever has shaken hands speaks the protocol: a header of theirs that makes no sense was damaged on the way.
STREAMS: list[tuple[str, Send, str, str]] = [
    ("data before begin", frames((FrameType.DATA, GOOD, {"entries": 1})), "ProtocolError", "no range is open"),
    ("end before begin", frames((FrameType.RANGE_END, {"entries": 0, "raw_bytes": 0, "digest": "00" * 16}, {})),
     "ProtocolError", "no range is open"),
    ("begin twice", frames(BEGIN, BEGIN), "ProtocolError", "still open"),
    ("a range that is not there", frames((FrameType.RANGE_BEGIN, b"", {"range": 2**32 - 1})), "ProtocolError",
     "no range 4294967295"),
    ("data of another range", data(GOOD, range=1), "ProtocolError", "data of range 1 while range 0"),
    ("a frame number left out", data(GOOD, sequence=3), "ProtocolError", "out of order"),
    ("a frame number repeated", data(GOOD, sequence=1), "ProtocolError", "out of order"),
    ("a second HELLO", frames((FrameType.HELLO, {"role": "stream"}, {})), "ProtocolError", "HELLO on a stream"),
    ("a request", frames((FrameType.REQUEST, {"operation": "finish"}, {})), "ProtocolError", "REQUEST on a stream"),
    ("an ack", frames((FrameType.ACK, {"frames": 1}, {})), "ProtocolError", "ACK on a stream"),
    ("an unknown type", unknown_type, "ProtocolError", "unknown frame type 14"),
    ("a length of 2^63", huge, "ProtocolError", str(1 << 63)),
    ("a flipped bit", flipped_data, "CorruptionError", "crc32c"),
    ("an empty batch frame", data(b""), "CorruptionError", "batch"),
    ("a batch cut short", data(GOOD[:-1]), "CorruptionError", "batch"),
    ("a batch with more behind it", data(GOOD + b"\0"), "CorruptionError", "batch"),
    ("a batch that counts one more", data(GOOD[:8] + b"\2" + GOOD[9:], entries=2), "CorruptionError", "batch"),
    ("an unknown record tag", data(GOOD[:12] + b"\x7f" + GOOD[13:]), "CorruptionError", "batch"),
    ("a key length past the end", data(GOOD[:13] + b"\xff" + GOOD[14:]), "CorruptionError", "batch"),
    ("a header that counts other entries", data(GOOD, entries=7), "CorruptionError", "entries"),
    ("a delete", data(batch((RecordKind.DELETE, 0, b"key-00000001", b""))), "CorruptionError", "batch"),
    ("a range delete", data(batch((RecordKind.DELETE_RANGE, 0, b"a", b"z"))), "CorruptionError", "batch"),
    ("a merge", data(batch((RecordKind.MERGE, 0, b"key-00000001", b"x"))), "CorruptionError", "batch"),
    ("another family", data(batch((RecordKind.PUT, 1, b"key-00000001", b"x"))), "CorruptionError", "batch"),
    ("a family that is not there", data(batch((RecordKind.PUT, 9, b"key-00000001", b"x"))), "CorruptionError", "batch"),
    ("a key outside the range", data(batch((RecordKind.PUT, 0, b"key-00000300", b"x"))), "CorruptionError", "keys"),
    ("keys out of order", data(batch(*PUT, (RecordKind.PUT, 0, b"key-00000000", b"x")), entries=2), "CorruptionError",
     "keys"),
    ("the same key twice", data(batch(*PUT, *PUT), entries=2), "CorruptionError", "keys"),
    ("garbage for lz4", data(b"\xff" * 40, codec=Codec.LZ4, raw_length=4000), "CorruptionError", "lz4"),
    ("garbage for zstd", data(b"\xff" * 40, codec=Codec.ZSTD, raw_length=4000), "CorruptionError", "zstd"),
    ("totals that are no JSON", frames(BEGIN, (FrameType.RANGE_END, b"\0\1", {})), "CorruptionError", "JSON"),
    ("no totals", frames(BEGIN, (FrameType.RANGE_END, {}, {})), "ProtocolError", "RANGE_END"),
    ("totals of other types", frames(BEGIN, (FrameType.RANGE_END, {"entries": "1", "raw_bytes": [], "digest": 5}, {})),
     "ProtocolError", "RANGE_END"),
    ("negative totals", frames(BEGIN, (FrameType.RANGE_END, {"entries": -1, "raw_bytes": -1, "digest": "00" * 16}, {})),
     "ProtocolError", "RANGE_END"),
    ("a digest too short", frames(BEGIN, (FrameType.RANGE_END, {"entries": 0, "raw_bytes": 0, "digest": "00"}, {})),
     "ProtocolError", "RANGE_END"),
    ("a huge total", frames(BEGIN, (FrameType.RANGE_END, {"entries": 2**70, "raw_bytes": 0, "digest": "00" * 16}, {})),
     "ProtocolError", "RANGE_END"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("send", "kind", "words"), [case[1:] for case in STREAMS], ids=[case[0].replace(" ", "-") for case in STREAMS]
)
def test_a_stream_that_breaks_the_rules_is_cut_off_and_the_job_goes_on(
    receiver: kvbatch.Receiver, source: SmallSource, send: Send, kind: str, words: str
) -> None:
    with control(receiver) as peer, RawPeer(receiver.port) as stream:
        session = open_job(peer, source).json["session"]
        assert stream.hello("stream", session=session, stream=0).type == FrameType.WELCOME
        send(stream)
        *acks, error = stream.until_closed()
    assert {frame.type for frame in acks} <= {FrameType.ACK}
    assert error.type == FrameType.ERROR
    assert (error.json["kind"], words in error.json["message"]) == (kind, True), error.json
    finish_honestly(receiver, source)


WINDOWS = [None, "wide", "8", [8], {}, 0, -1, 1025, 1 << 70, 2.5, True]


@pytest.mark.parametrize("window", WINDOWS, ids=repr)
def test_a_window_that_is_none_ends_the_stream(receiver: kvbatch.Receiver, source: SmallSource, window: object) -> None:
    """With frames unacknowledged; they are kept."""
    with control(receiver) as peer, RawPeer(receiver.port) as stream:
        session = open_job(peer, source).json["session"]
        assert stream.hello("stream", session=session, stream=0, window=8).type == FrameType.WELCOME
        data(batch((RecordKind.PUT, 0, b"key-00000000", b"value-0")))(stream)
        stream.send_frame(FrameType.HEARTBEAT, {"window": window})
        *_, error = stream.until_closed()
        assert (error.type, error.json["kind"]) == (FrameType.ERROR, "ProtocolError")
        assert "HEARTBEAT: a window is a whole number from 1 to 1024" in error.json["message"]
    finish_honestly(receiver, source)


def test_a_window_counts_from_the_heartbeat_on_that_says_it(receiver: kvbatch.Receiver, source: SmallSource) -> None:
    with control(receiver) as peer, RawPeer(receiver.port) as stream:
        session = open_job(peer, source).json["session"]
        assert stream.hello("stream", session=session, stream=0, window=1).type == FrameType.WELCOME
        for window in (1024, 1, 1024):
            stream.send_frame(FrameType.HEARTBEAT, {"window": window})
            answer = stream.read()
            assert (answer.type, answer.json["frames"], "health" in answer.json) == (FrameType.ACK, 0, True)
    finish_honestly(receiver, source)


@pytest.mark.parametrize("window", WINDOWS, ids=repr)
def test_a_stream_without_a_window_is_refused(receiver: kvbatch.Receiver, source: SmallSource, window: object) -> None:
    with control(receiver) as peer, RawPeer(receiver.port) as stream:
        session = open_job(peer, source).json["session"]
        error = stream.hello("stream", session=session, window=window)
        assert (error.type, error.json["kind"]) == (FrameType.ERROR, "ProtocolError")
    finish_honestly(receiver, source)


def test_a_stream_cut_inside_a_frame_keeps_what_was_whole(receiver: kvbatch.Receiver, source: SmallSource) -> None:
    with control(receiver) as peer, RawPeer(receiver.port) as stream:
        session = open_job(peer, source).json["session"]
        stream.hello("stream", session=session, stream=0)
        data(batch((RecordKind.PUT, 0, b"key-00000000", b"value-0")))(stream)
        assert stream.read().json["frames"] == 1
        stream.send(stream.frame(FrameType.DATA, GOOD, entries=1)[:-1])
    finish_honestly(receiver, source)


# -- control ----------------------------------------------------------------------------------------------------------

BAD_MANIFESTS: list[tuple[str, dict[str, Any]]] = [
    ("another version", {"version": 2}),
    ("a list for a version", {"version": [1]}),
    ("families that are a string", {"families": "default"}),
    ("families of numbers", {"families": [1, 2]}),
    ("a family without a name", {"families": [{}]}),
    ("ranges that are an object", {"ranges": {"a": 1}}),
    ("a range of another family", {"ranges": [{"id": 0, "column_family": "x", "start": None, "end": None,
                                               "estimated_bytes": 0, "estimated_entries": 0}]}),
    ("range ids with a hole", {"ranges": [{"id": 5, "column_family": "users", "start": None, "end": None,
                                           "estimated_bytes": 0, "estimated_entries": 0}]}),
    ("a start that is no hex", {"key_range": ["xyz", None]}),
    ("a key range of three", {"key_range": [None, None, None]}),
    ("a selection of nothing", {"selection": []}),
    ("a selection of another family", {"selection": [{"column_families": ["x"], "key_ranges": [["61", "62"]]}]}),
    ("file sizes below zero", {"sst_file_bytes": -1}),
    ("infinite file sizes", {"sst_file_bytes": float("inf")}),
    ("file sizes past 64 bits", {"sst_file_bytes": 1 << 70}),
    ("written ranges that are a number", {"written_ranges": 3}),
]  # fmt: skip


@pytest.mark.parametrize(
    "change", [case[1] for case in BAD_MANIFESTS], ids=[case[0].replace(" ", "-") for case in BAD_MANIFESTS]
)
def test_a_malformed_manifest_is_refused_and_nothing_is_made(
    receiver: kvbatch.Receiver, source: SmallSource, change: dict[str, Any]
) -> None:
    with control(receiver) as peer:
        error = open_job(peer, source, **change)
        assert peer.until_closed() == []
    assert error.type == FrameType.ERROR
    assert error.json["kind"] in ("CorruptionError", "ProtocolError")
    assert not (receiver.root / "job").exists()
    finish_honestly(receiver, source)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../job", "a/../../job", "/tmp/job", "a//b", ".hidden", "a\0b", "link", "link/below"]
)
def test_a_name_that_leads_out_of_the_root_is_refused(
    receiver: kvbatch.Receiver, source: SmallSource, tmp_path: Path, name: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (receiver.root / "link").symlink_to(outside)
    with control(receiver) as peer:
        error = open_job(peer, source, name=name)
    assert (error.type, error.json["kind"]) == (FrameType.ERROR, "RefusedError")
    assert list(outside.iterdir()) == []
    assert [entry.name for entry in receiver.root.iterdir()] == ["link"]


@pytest.mark.parametrize("operation", ["inspect", "repair", "discard"])
@pytest.mark.parametrize("name", ["../outside", "link"])
def test_no_store_outside_of_the_root_is_read_repaired_or_discarded(
    receiver: kvbatch.Receiver, source: SmallSource, operation: str, name: str
) -> None:
    (receiver.root / "link").symlink_to(source.path)
    with control(receiver) as peer:
        error = peer.request(operation, name=name, job="contract", fingerprint=source.manifest.fingerprint)
    assert (error.type, error.json["kind"]) == (FrameType.ERROR, "RefusedError")


REQUESTS: list[tuple[str, object, dict[str, Any], str]] = [
    ("no operation", None, {}, "ProtocolError"),
    ("an unknown operation", "destroy", {}, "ProtocolError"),
    ("an operation that is a list", ["open"], {}, "ProtocolError"),
    ("open without anything", "open", {}, "ProtocolError"),
    ("open with a number for a name", "open", {"name": 5, "manifest": {}}, "CorruptionError"),
    ("open with null for a manifest", "open", {"name": "job", "manifest": None}, "CorruptionError"),
    ("finish without a job", "finish", {}, "ProtocolError"),
    ("digest without a store", "digest", {"column_family": "default", "start": None, "end": None, "run_entries": 0},
     "ProtocolError"),
    ("list without a store", "list", {"column_family": "default", "start": None, "end": None, "max_key_bytes": 9},
     "ProtocolError"),
    ("examine without anything", "examine", {}, "ProtocolError"),
    ("examine with null for a manifest", "examine", {"name": "job", "manifest": None}, "CorruptionError"),
    ("discard without anything", "discard", {}, "ProtocolError"),
    ("discard of no job", "discard", {"name": "job", "fingerprint": ""}, "ProtocolError"),
    ("discard of a list", "discard", {"name": ["job"], "job": "contract", "fingerprint": ""}, "ProtocolError"),
    ("settle without a job", "settle", {}, "ProtocolError"),
    ("inspect without a name", "inspect", {}, "ProtocolError"),
    ("inspect with a list for a name", "inspect", {"name": ["job"]}, "ProtocolError"),
    ("repair of a number", "repair", {"name": 1.5}, "ProtocolError"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("operation", "arguments", "kind"),
    [case[1:] for case in REQUESTS],
    ids=[case[0].replace(" ", "-") for case in REQUESTS],
)
def test_a_request_that_makes_no_sense_is_answered_with_an_error(
    receiver: kvbatch.Receiver, source: SmallSource, operation: object, arguments: dict[str, Any], kind: str
) -> None:
    with control(receiver) as peer:
        error = peer.request(operation, **arguments)
        assert peer.until_closed() == []
    assert (error.type, error.json["kind"]) == (FrameType.ERROR, kind)
    assert list(receiver.root.iterdir()) == []
    finish_honestly(receiver, source)


@pytest.mark.parametrize(
    "change",
    [
        {"column_family": "none"},
        {"column_family": 3},
        {"start": "zz"},
        {"end": 5},
        {"run_entries": -1},
        {"run_entries": "x"},
    ],
    ids=str,
)
def test_a_malformed_digest_request_is_answered_with_an_error(
    receiver: kvbatch.Receiver, source: SmallSource, change: dict[str, Any]
) -> None:
    finish_honestly(receiver, source)
    with control(receiver) as peer:
        assert peer.request("inspect", name="job").type == FrameType.REPLY
        asked = {"column_family": "default", "start": None, "end": None, "run_entries": 0, **change}
        error = peer.request("digest", **asked)
        assert peer.until_closed() == []
    assert error.type == FrameType.ERROR
    assert error.json["kind"] in ("ProtocolError", "UsageError")


def test_two_jobs_cannot_have_one_name_at_once(receiver: kvbatch.Receiver, source: SmallSource) -> None:
    with control(receiver) as first, control(receiver) as second:
        assert open_job(first, source).type == FrameType.REPLY
        error = open_job(second, source, job="another")
        assert (error.json["kind"], "in use by job 'contract'" in error.json["message"]) == ("RefusedError", True)
        # The first is not disturbed.
        assert first.request("finish").json["kind"] == "ProtocolError"
    finish_honestly(receiver, source)


def test_repair_takes_batches_for_known_families_only(receiver: kvbatch.Receiver, source: SmallSource) -> None:
    finish_honestly(receiver, source)
    with control(receiver) as peer:
        assert peer.request("repair", name="job").json["family_ids"].keys() == {"default", "users"}
        peer.send_frame(FrameType.DATA, batch((RecordKind.PUT, 9, b"a", b"b")), entries=1)
        [error] = peer.until_closed()
    assert error.json["kind"] == "CorruptionError"
    assert read_store(receiver.root / "job") == ENTRIES


def test_a_store_that_a_job_writes_is_not_read_or_repaired(receiver: kvbatch.Receiver, source: SmallSource) -> None:
    with control(receiver) as peer:
        open_job(peer, source)
        for operation in ("inspect", "repair"):
            with control(receiver) as other:
                error = other.request(operation, name="job")
            assert (error.json["kind"], "in use" in error.json["message"]) == ("RefusedError", True)
    finish_honestly(receiver, source)


def test_encode_frame_makes_what_the_receiver_takes(receiver: kvbatch.Receiver) -> None:
    """The frames of these tests are right but for what a test makes wrong."""
    with RawPeer(receiver.port) as peer:
        peer.send(encode_frame(FrameType.HELLO, {"role": "control"}))
        assert peer.read().type == FrameType.WELCOME
