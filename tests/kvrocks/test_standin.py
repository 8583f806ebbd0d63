"""The stand-in answers as a real server was recorded to."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.kvrocks_standin import StandIn, encode_command, talk

Start = Callable[..., StandIn]

# Of the recordings those that a target is asked. What the others ask a stand-in does not know.
TRANSCRIPTS = {"applybatch-standalone": False, "applybatch-as-namespace-user": False, "applybatch-cluster": True}
NOT_KNOWN = {"pollupdates"}
# Figures of that server and that moment, and what is of its machine.
_VARYING = re.compile(rb"(?<=:)[^\r]*|\d+")


def recorded(file: Path) -> Any:
    return json.loads(subprocess.run(["zstd", "-dc", file], stdout=subprocess.PIPE, check=True).stdout)


def varies(note: str) -> bool:
    return note.startswith("info ") or note in ("time", "cluster nodes")


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_what_was_recorded_comes_byte_for_byte(shared_fixtures: Path, start: Start, name: str) -> None:
    transcript = recorded(shared_fixtures / "kvrocks-transcripts.json.zst")[name]
    server = start(cluster=TRANSCRIPTS[name], password="" if TRANSCRIPTS[name] else "rootpw")
    compared = 0
    with server.connect(authenticated=False) as sock:
        for exchange in transcript:
            if exchange["note"] in NOT_KNOWN or exchange["note"] == "cluster nodes":
                continue
            request, expected = (base64.b64decode(exchange[part]) for part in ("request", "reply"))
            answer = talk(sock, request)
            if varies(exchange["note"]):
                answer, expected = (_VARYING.sub(b"#", each) for each in (answer, expected))
            assert answer == expected, exchange["note"]
            compared += 1
    assert compared >= len(transcript) - len(NOT_KNOWN) - 1


def test_a_malformed_batch_does_what_it_did_to_the_real_server(shared_fixtures: Path, start: Start) -> None:
    recordings = json.loads((shared_fixtures / "kvrocks-malformed-batches.json").read_text())
    for number, (name, recording) in enumerate(recordings.items()):
        server = start(f"server-{number}", password="")
        with server.connect() as sock:
            for exchange in recording["exchange"]:
                request, expected = (base64.b64decode(exchange[part]) for part in ("request", "reply"))
                assert talk(sock, request) == expected, (name, exchange["note"])
        server.stop()
        if recording["server_restarts"]:
            server.start()
            assert server.ask("SET", "x", "y") == b"+OK\r\n"
            server.stop()
        else:
            with pytest.raises(RuntimeError, match="Corruption"):
                server.start()


def test_a_bulk_that_is_too_long_ends_the_connection(start: Start) -> None:
    server = start(password="")
    server.set(**{"proto__max__bulk__len": 1 << 20})
    with server.connect() as sock:
        answer = talk(sock, encode_command("APPLYBATCH", bytes((1 << 20) + 1)))
        assert answer == b"-ERR Protocol error: invalid bulk length\r\n"
        assert sock.recv(1) == b""


def test_a_command_that_is_cut_is_none(start: Start) -> None:
    server = start(password="")
    command = encode_command("SET", "x", "y")
    for length in range(1, len(command)):
        with server.connect() as sock:
            sock.sendall(command[:length])
    assert server.ask("GET", "x") == b"$-1\r\n"


def test_what_was_written_is_there_after_a_kill(start: Start) -> None:
    server = start(password="")
    assert server.ask("SET", "x", "y") == b"+OK\r\n"
    server.kill()
    server.start()
    assert server.ask("GET", "x") == b"$1\r\ny\r\n"
    assert server.ask("SCAN", "0") == b"*2\r\n$1\r\n0\r\n*1\r\n$1\r\nx\r\n"
    assert b"master_repl_offset:1\r\n" in server.ask("INFO", "replication")
