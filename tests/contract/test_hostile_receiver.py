"""A sender whose receiver talks nonsense, lies or goes away: it ends with the right error, and it never hangs."""

from __future__ import annotations

import errno
import json
import re
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kvbatch
from kvbatch._core.frame import FrameType
from support.link import Cut, Hook, Link, Passing, Trap, finish_answer, unchanged
from support.stores import kvbatch as command_line
from support.stores import numbered, read_store, write_store
from support.wire import RawPeer, encode_frame, fake_receiver, patch_header, read_frame

ENTRIES = {"default": numbered(2000), "users": numbered(500)}
WELCOME = {"software": "kvbatch 0", "protocol": 1, "role": "receiver", "max_frame_bytes": 1 << 27}
WAIT_SECONDS = 20
Converse = Callable[[socket.socket], None]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("hostile") / "source", ENTRIES)


def migrate(source: Path, port: int, **options: Any) -> kvbatch.Summary:
    options = {"retries": 0, "batch_bytes": 4096, "window": 2, **options}
    return kvbatch.migrate(source, f"kvbatch://127.0.0.1:{port}/copy", **options).wait(timeout=WAIT_SECONDS)


# -- a receiver that never was one ------------------------------------------------------------------------------------


def says(*answers: bytes) -> Converse:
    """Answers each frame with the next of these, then closes."""

    def converse(sock: socket.socket) -> None:
        for answer in answers:
            read_frame(sock)
            sock.sendall(answer)

    return converse


def welcome(payload: object = WELCOME, **header: Any) -> bytes:
    return encode_frame(FrameType.WELCOME, payload, **header)


def reply(payload: object, type_: FrameType = FrameType.REPLY) -> bytes:
    return encode_frame(type_, payload, sequence=1)


def error(kind: str, message: str = "so it is", *, retryable: bool = False) -> bytes:
    return encode_frame(FrameType.ERROR, {"kind": kind, "message": message, "retryable": retryable})


HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n" + b" " * 64
ANSWERS: list[tuple[str, Converse, type[kvbatch.KvbatchError], int]] = [
    ("closes at once", lambda sock: None, kvbatch.TransportError, 75),
    ("closes behind HELLO", says(b""), kvbatch.TransportError, 75),
    ("closes inside a header", says(welcome()[:20]), kvbatch.TransportError, 75),
    ("closes inside a payload", says(welcome()[:-1]), kvbatch.TransportError, 75),
    ("speaks HTTP", says(HTTP), kvbatch.ProtocolError, 1),
    ("flips a bit in the header", says(welcome()[:20] + b"\xff" + welcome()[21:]), kvbatch.CorruptionError, 1),
    ("flips a bit in the payload", says(welcome()[:-1] + b"\xff"), kvbatch.CorruptionError, 1),
    ("announces 2^63 bytes", says(patch_header(welcome(), 48, struct.pack("<Q", 1 << 63))), kvbatch.ProtocolError, 1),
    ("speaks version 9", says(patch_header(welcome(), 4, b"\x09")), kvbatch.ProtocolError, 1),
    ("sends an unknown type", says(patch_header(welcome(), 5, b"\x63")), kvbatch.ProtocolError, 1),
    ("welcomes out of order", says(welcome(sequence=1)), kvbatch.ProtocolError, 1),
    ("answers HELLO with REPLY", says(encode_frame(FrameType.REPLY, {})), kvbatch.ProtocolError, 1),
    ("answers HELLO with data", says(encode_frame(FrameType.DATA, b"x")), kvbatch.ProtocolError, 1),
    ("answers HELLO with empty data", says(encode_frame(FrameType.DATA)), kvbatch.ProtocolError, 1),
    ("welcomes without JSON", says(welcome(b"\xff{")), kvbatch.CorruptionError, 1),
    ("welcomes with a list", says(welcome([1])), kvbatch.CorruptionError, 1),
    ("welcomes with deep JSON", says(welcome(b"[" * 100_000)), kvbatch.CorruptionError, 1),
    ("names no frame limit", says(welcome({}), reply({})), kvbatch.ProtocolError, 1),
    ("answers open with nothing", says(welcome(), reply({})), kvbatch.ProtocolError, 1),
    ("answers open with ACK", says(welcome(), reply({}, FrameType.ACK)), kvbatch.ProtocolError, 1),
    ("closes behind open", says(welcome(), b""), kvbatch.TransportError, 75),
    ("refuses", says(error("RefusedError")), kvbatch.RefusedError, 4),
    ("has no space", says(error("NoSpaceError")), kvbatch.NoSpaceError, 75),
    ("sends an error of no known kind", says(error("TeapotError")), kvbatch.KvbatchError, 1),
    ("sends an error kind that is no error", says(error("__import__")), kvbatch.KvbatchError, 1),
    ("sends an empty error", says(encode_frame(FrameType.ERROR, {})), kvbatch.KvbatchError, 1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("converse", "kind", "exit_code"),
    [case[1:] for case in ANSWERS],
    ids=[case[0].replace(" ", "-") for case in ANSWERS],
)
def test_a_receiver_that_talks_nonsense_ends_the_job(
    source: Path, converse: Converse, kind: type[kvbatch.KvbatchError], exit_code: int
) -> None:
    with fake_receiver(converse) as port, pytest.raises(kvbatch.KvbatchError) as raised:
        migrate(source, port)
    assert isinstance(raised.value, kind)
    assert type(raised.value).exit_code == exit_code


def test_nobody_listens(source: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    said = f"connect to 127.0.0.1:{port}: Connection refused. Start the receiver there, or correct host and port"
    with pytest.raises(kvbatch.TransportError, match=f"^{re.escape(said)}$"):
        migrate(source, port)


@pytest.mark.parametrize(
    ("error", "advised"),
    [
        (TimeoutError("timed out"), True),
        (OSError(errno.EHOSTUNREACH, "No route to host"), True),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), True),
        (OSError(errno.EMFILE, "Too many open files"), False),
    ],
    ids=["timed-out", "no-route", "no-network", "own-fault"],
)
def test_a_receiver_that_is_not_reached_is_told_with_what_to_do(
    source: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, advised: bool
) -> None:
    def fail(*arguments: Any, **named: Any) -> Any:
        raise error

    monkeypatch.setattr("kvbatch.protocol.socket.create_connection", fail)
    with pytest.raises(kvbatch.TransportError) as raised:
        migrate(source, 7720)
    advice = ". Start the receiver there, or correct host and port" if advised else ""
    assert str(raised.value) == f"connect to 127.0.0.1:7720: {error.strerror or error}{advice}"


def deny(error_number: int) -> Callable[..., Any]:
    """A resolver that has this to say of every name."""

    def resolve(*arguments: Any) -> Any:
        raise socket.gaierror(error_number, "so the resolver says")

    return resolve


@pytest.mark.parametrize(
    ("error_number", "kind", "retries"),
    [
        (socket.EAI_NONAME, kvbatch.UsageError, 0),
        (socket.EAI_NODATA, kvbatch.UsageError, 0),
        (socket.EAI_AGAIN, kvbatch.TransportError, 1),
        (socket.EAI_FAIL, kvbatch.TransportError, 1),
    ],
)
def test_a_host_that_does_not_exist_is_wrong_usage_and_a_resolver_at_fault_is_tried_again(
    source: Path, monkeypatch: pytest.MonkeyPatch, error_number: int, kind: type[Exception], retries: int
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", deny(error_number))
    migration = kvbatch.migrate(source, "kvbatch://nowhere.example/copy", retries=1)
    events = list(migration.events())
    with pytest.raises(kvbatch.KvbatchError, match=r"nowhere\.example.*so the resolver says") as raised:
        migration.wait(timeout=WAIT_SECONDS)
    assert isinstance(raised.value, kind)
    assert [event.kind for event in events].count("retry") == retries
    with pytest.raises(kind):
        kvbatch.verify(source, "kvbatch://nowhere.example/copy")


def test_a_host_that_was_reached_before_is_not_taken_for_a_wrong_name(
    receiver: kvbatch.Receiver, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(source, receiver.port)
    monkeypatch.setattr(socket, "getaddrinfo", deny(socket.EAI_NONAME))
    with pytest.raises(kvbatch.TransportError):
        kvbatch.verify(source, f"kvbatch://127.0.0.1:{receiver.port}/copy")


@pytest.mark.parametrize(
    ("answers", "expected"), [([], r"within 0\.2 s: .* may be no kvbatch receiver"), ([welcome()], "time-out")]
)
def test_a_receiver_that_falls_silent_is_given_up(
    source: Path, monkeypatch: pytest.MonkeyPatch, answers: list[bytes], expected: str
) -> None:
    monkeypatch.setattr("kvbatch.protocol._WELCOME_MILLISECONDS", 200)
    with fake_receiver(FallsSilent(*answers)) as port, pytest.raises(kvbatch.TransportError, match=expected):
        migrate(source, port, peer_timeout=1)


class FallsSilent:
    """Answers as told, then takes what comes and says nothing."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = says(*answers)
        self.is_silent = threading.Event()

    def __call__(self, sock: socket.socket) -> None:
        self._answers(sock)
        self.is_silent.set()
        while sock.recv(1 << 16):
            pass


@pytest.mark.parametrize("answers", [[], [welcome()]], ids=["does not greet", "does not open"])
@pytest.mark.parametrize("way", ["cancel", "control"])
def test_a_stop_ends_the_waiting_for_a_receiver_that_does_not_answer(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: list[bytes], way: str
) -> None:
    # Only the stop can end it within the test's patience.
    monkeypatch.setattr("kvbatch.protocol._WELCOME_MILLISECONDS", 1_000 * 10 * WAIT_SECONDS)
    silent = FallsSilent(*answers)
    with fake_receiver(silent) as port:
        job = kvbatch.migrate(source, f"kvbatch://127.0.0.1:{port}/copy", retries=0, state_dir=tmp_path / "state")
        assert silent.is_silent.wait(WAIT_SECONDS)
        if way == "cancel":
            job.cancel()
        else:
            stopped = kvbatch.control(job.job, tmp_path / "state").cancel(WAIT_SECONDS)
            assert (stopped.state, stopped.runs) == ("stopped", False)
        with pytest.raises(kvbatch.StoppedError, match="stopped on request"):
            job.wait(timeout=WAIT_SECONDS)


def test_nonsense_on_the_command_line_is_a_message_and_an_exit_code(source: Path) -> None:
    with fake_receiver(says(HTTP)) as port:
        done = command_line("migrate", source, f"kvbatch://127.0.0.1:{port}/copy", "--retries", 0)
    assert (done.returncode, done.stdout) == (1, "")
    assert "does not speak kvbatch" in done.stderr
    assert "HTTP/1.1 400" in done.stderr
    assert "Traceback" not in done.stderr


# -- a receiver that turns bad in the middle --------------------------------------------------------------------------


def rewrite_first(type_: FrameType, change: Callable[[Any], object]) -> Hook:
    """Gives the JSON of the receiver's first frame of a type to `change`, and sends what it returns instead. An ack is
    the first that speaks for frames."""

    def due(passing: Passing) -> bool:
        frame = passing.frame
        return (
            passing.direction == "down" and frame.type == type_ and (type_ != FrameType.ACK or frame.json["frames"] > 0)
        )

    def rewrite(passing: Passing) -> bytes:
        return encode_frame(type_, change(passing.frame.json), sequence=passing.frame.header.sequence)

    return Trap(due, rewrite)


def ack(**changes: object) -> tuple[FrameType, Callable[[Any], object]]:
    return FrameType.ACK, lambda value: {**value, **changes}


def opened(**changes: object) -> tuple[FrameType, Callable[[Any], object]]:
    return FrameType.REPLY, lambda value: {**value, **changes}


CURSOR = {"range": 0, "complete": False, "entries": 1, "raw_bytes": 1, "digest": "00" * 16, "last_key": "00"}
LIES: list[tuple[str, FrameType, Callable[[Any], object], type[kvbatch.KvbatchError]]] = [
    ("another digest", *ack(digest="11" * 16), kvbatch.CorruptionError),
    ("a digest that is no hex", *ack(digest="zz"), kvbatch.CorruptionError),
    ("no digest", *ack(digest=None), kvbatch.CorruptionError),
    ("more frames than were sent", *ack(frames=1 << 40), kvbatch.ProtocolError),
    ("minus one frame", *ack(frames=-1), kvbatch.ProtocolError),
    ("frames that are a list", *ack(frames=[1]), kvbatch.ProtocolError),
    ("an ack of nothing", FrameType.ACK, lambda value: {}, kvbatch.ProtocolError),
    ("an ack that is a list", FrameType.ACK, lambda value: [value], kvbatch.CorruptionError),
    ("cursors that are a number", *ack(durable=3), kvbatch.ProtocolError),
    ("a cursor without a key", *ack(durable=[{**CURSOR, "last_key": None}]), kvbatch.ProtocolError),
    ("a cursor with a short digest", *ack(durable=[{**CURSOR, "digest": "00"}]), kvbatch.ProtocolError),
    ("a cursor of a negative range", *ack(durable=[{**CURSOR, "range": -1}]), kvbatch.ProtocolError),
    ("a cursor of a range that is not there", *ack(durable=[{**CURSOR, "range": 77}]), kvbatch.ProtocolError),
    ("apply seconds that are a word", *ack(apply_seconds="long"), kvbatch.ProtocolError),
    ("apply seconds below zero", *ack(apply_seconds=-1), kvbatch.ProtocolError),
    ("apply seconds that are no number", *ack(apply_seconds=float("nan")), kvbatch.ProtocolError),
    ("endless apply seconds", *ack(apply_seconds=float("inf")), kvbatch.ProtocolError),
    ("a queue of a word", *ack(queued="all"), kvbatch.ProtocolError),
    ("a queue below zero", *ack(queued=-1), kvbatch.ProtocolError),
    ("a queue past 64 bits", *ack(queued=1 << 70), kvbatch.ProtocolError),
    ("health that is a list", *ack(health=[1]), kvbatch.ProtocolError),
    ("health of words", *ack(health={"l0_files": "some"}), kvbatch.ProtocolError),
    ("health past 64 bits", *ack(health={"pending_compaction_bytes": 10**400}), kvbatch.ProtocolError),
    ("no manifest", *opened(manifest=None), kvbatch.KvbatchError),
    ("no ids", *opened(family_ids={}), kvbatch.ProtocolError),
    ("ids that are strings", *opened(family_ids={"default": "x", "users": "y"}), kvbatch.ProtocolError),
    ("ids past 32 bits", *opened(family_ids={"default": 1 << 40, "users": 1}), kvbatch.ProtocolError),
    ("cursors that are an object", *opened(cursors={"a": 1}), kvbatch.ProtocolError),
    ("a first cursor of a range that is not there", *opened(cursors=[{**CURSOR, "range": 77}]), kvbatch.ProtocolError),
    ("a frame limit that is a string", FrameType.WELCOME, lambda value: {**value, "max_frame_bytes": "much"},
     kvbatch.ProtocolError),
]  # fmt: skip


@pytest.mark.parametrize(
    ("type_", "change", "kind"), [case[1:] for case in LIES], ids=[case[0].replace(" ", "-") for case in LIES]
)
def test_a_receiver_that_lies_is_found_out_and_the_job_goes_on_with_an_honest_one(
    receiver: kvbatch.Receiver, source: Path, type_: FrameType, change: Callable[[Any], object], kind: type[Exception]
) -> None:
    with Link(receiver.port, rewrite_first(type_, change)) as link:
        with pytest.raises(kvbatch.KvbatchError) as raised:
            migrate(source, link.port)
        link.hook = unchanged
        summary = migrate(source, link.port)
    assert isinstance(raised.value, kind), raised.value
    assert summary.entries == 2500
    assert read_store(receiver.root / "copy") == ENTRIES


def test_one_broken_answer_is_retried(receiver: kvbatch.Receiver, source: Path) -> None:
    with Link(receiver.port, rewrite_first(*ack(digest="11" * 16))) as link:
        migration = kvbatch.migrate(source, f"kvbatch://127.0.0.1:{link.port}/copy", retries=2, batch_bytes=4096)
        events = list(migration.events())
        summary = migration.wait(timeout=WAIT_SECONDS)
    [retry] = [event.data for event in events if event.kind == "retry"]
    assert retry.keys() == {"attempt", "retry", "retries", "wait_seconds", "error"}
    assert "digest" in retry["error"]
    assert summary.entries == 2500
    assert read_store(receiver.root / "copy") == ENTRIES


@pytest.mark.parametrize("retries", [0, 1])
def test_a_job_is_tried_again_as_often_as_is_said_in_a_row_without_progress(
    receiver: kvbatch.Receiver, source: Path, retries: int
) -> None:
    """What became durable before the failure is no reason for an attempt that nobody was told of."""
    broken, tried_again = False, 0

    def hook(passing: Passing) -> bytes:
        nonlocal broken, tried_again
        tried_again += broken and passing.frame.type == FrameType.HELLO
        broken = broken or passing.number >= 12
        if broken:
            raise Cut(everywhere=True)
        return passing.data

    with Link(receiver.port, hook) as link:
        migration = kvbatch.migrate(
            source, f"kvbatch://127.0.0.1:{link.port}/copy", retries=retries, batch_bytes=4096, streams=1, max_ranges=4,
            range_bytes=4096, window=1, compression="none",
        )  # fmt: skip
        events = list(migration.events())
        with pytest.raises(kvbatch.TransportError):
            migration.wait(timeout=WAIT_SECONDS)
    assert migration.progress().durable_entries > 0
    told = [(event.data["attempt"], event.data["retry"]) for event in events if event.kind == "retry"]
    assert told == [(number, number) for number in range(1, retries + 1)]
    assert tried_again == retries


def test_an_answer_to_finish_that_was_lost_is_made_up_for(receiver: kvbatch.Receiver, source: Path) -> None:
    """The target is whole and has no trace of the job any more; the same command must see that and say done."""
    finished = False

    def cut_from_there_on(passing: Passing) -> bytes:
        nonlocal finished
        finished = finished or finish_answer(passing)
        if finished:
            raise Cut
        return passing.data

    with Link(receiver.port, cut_from_there_on) as link:
        with pytest.raises(kvbatch.TransportError):
            migrate(source, link.port)
        assert finished
        link.hook = unchanged
        summary = migrate(source, link.port)
    assert (summary.entries, summary.state, summary.finished_before) == (2500, "done", True)
    assert read_store(receiver.root / "copy") == ENTRIES


def test_a_run_that_lost_the_answer_to_finish_does_not_say_that_another_one_finished(
    receiver: kvbatch.Receiver, source: Path
) -> None:
    def cut(passing: Passing) -> bytes:
        raise Cut

    with Link(receiver.port, Trap(finish_answer, cut)) as link:
        migration = kvbatch.migrate(source, f"kvbatch://127.0.0.1:{link.port}/copy")
        events = list(migration.events())
        summary = migration.wait(timeout=WAIT_SECONDS)
    assert (summary.entries, summary.finished_before) == (2500, False)
    assert not [event for event in events if event.kind == "warning"]


@pytest.mark.parametrize("answer", [{}, {"runs": 5}, {"runs": [[1, 2]]}, {"runs": [[1, 2, "zz", ""]]}], ids=json.dumps)
def test_verify_with_a_receiver_that_talks_nonsense_ends_with_a_protocol_error(
    receiver: kvbatch.Receiver, source: Path, answer: dict[str, Any]
) -> None:
    migrate(source, receiver.port)

    def rewrite(passing: Passing) -> bytes:
        if passing.direction == "down" and passing.frame.type == FrameType.REPLY and "runs" in passing.frame.json:
            return encode_frame(FrameType.REPLY, answer, sequence=passing.frame.header.sequence)
        return passing.data

    with Link(receiver.port, rewrite) as link, pytest.raises(kvbatch.ProtocolError):
        kvbatch.verify(str(source), f"kvbatch://127.0.0.1:{link.port}/copy")


@pytest.mark.parametrize(
    "answer",
    [{}, {"kind": "full", "ranges_complete": 0, "ranges": 0}, {"kind": [], "ranges_complete": 0, "ranges": 0},
     {"kind": "resumable", "ranges_complete": None, "ranges": 1}],
    ids=json.dumps,
)  # fmt: skip
def test_a_plan_with_a_receiver_that_talks_nonsense_ends_with_a_protocol_error(
    source: Path, answer: dict[str, Any]
) -> None:
    with fake_receiver(says(welcome(), reply(answer))) as port, pytest.raises(kvbatch.ProtocolError):
        kvbatch.plan(source, f"kvbatch://127.0.0.1:{port}/copy")


def test_the_link_passes_everything_on(receiver: kvbatch.Receiver) -> None:
    with Link(receiver.port) as link, RawPeer(link.port) as peer:
        assert peer.hello("control").type == FrameType.WELCOME
