"""Who has a store at a receiver open for a moment more, as its peer has gone only now, is waited for."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import kvbatch
import kvbatch.receiver_visitors
from kvbatch.endpoints import ReceiverEndpoint
from kvbatch.protocol import connect
from kvbatch.store_reader import ReceiverReader
from support.stores import numbered, read_store, write_store


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_store(tmp_path / "source", {"default": numbered(100)})


def _leave_later(peer_close: object) -> threading.Timer:
    assert callable(peer_close)
    timer = threading.Timer(0.3, peer_close)
    timer.start()
    return timer


def test_repair_waits_for_who_reads(source: Path, tmp_path: Path) -> None:
    copy = write_store(tmp_path / "root" / "copy", {"default": numbered(90)})
    with kvbatch.Receiver(tmp_path / "root") as receiver:
        reader = ReceiverReader(ReceiverEndpoint("127.0.0.1", receiver.port, "copy"))
        leaving = _leave_later(reader.close)
        report = kvbatch.verify(source, f"kvbatch://127.0.0.1:{receiver.port}/copy", repair=True)
        leaving.join()
    assert report.equal
    assert read_store(copy) == read_store(source)


def test_reader_and_job_wait_for_a_repair(source: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "root" / "copy", {"default": numbered(100)})
    with kvbatch.Receiver(tmp_path / "root") as receiver:
        target = f"kvbatch://127.0.0.1:{receiver.port}/copy"

        def repairing() -> threading.Timer:
            peer, _ = connect("127.0.0.1", receiver.port, "control")
            peer.request("repair", name="copy")
            return _leave_later(peer.close)

        leaving = repairing()
        assert kvbatch.verify(source, target).equal
        leaving.join()
        leaving = repairing()
        summary = kvbatch.migrate(source, target, allow_nonempty=True, state_dir=tmp_path / "state").wait()
        leaving.join()
    assert summary.state == "done"


def test_who_stays_is_named(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvbatch.receiver_visitors, "LEAVING_SECONDS", 0.1)
    write_store(tmp_path / "root" / "copy", {"default": numbered(90)})
    with kvbatch.Receiver(tmp_path / "root") as receiver:
        target = f"kvbatch://127.0.0.1:{receiver.port}/copy"
        reader = ReceiverReader(ReceiverEndpoint("127.0.0.1", receiver.port, "copy"))
        with pytest.raises(kvbatch.RefusedError, match="this process is reading it"):
            kvbatch.verify(source, target, repair=True)
        reader.close()
