"""Real Kvrocks directories into a running server, as the stand-in is one."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kvbatch
from kvbatch._core.batch import RecordKind, decode_batch, encode_batch
from kvbatch.errors import RefusedError, SourceError, TargetError, UsageError
from kvbatch.kvrocks.keys import (
    FAMILIES,
    KEYED_FAMILIES,
    metadata_key,
    namespace_prefix,
    parse_subkey,
    subkey_prefix,
)
from kvbatch.kvrocks.metadata import Type, parse_metadata
from support.kvrocks_standin import SMALL, TENANT_TOKEN, StandIn, check_copied, encode_command, talk
from support.stores import kvbatch as run
from support.stores import numbered, read_store, tree, write_store

Start = Callable[..., StandIn]


@pytest.mark.parametrize("options", [{}, SMALL], ids=["as a user would", "in many pieces"])
def test_a_directory_arrives_whole(source: Path, server: StandIn, options: dict[str, Any]) -> None:
    before = tree(source)
    summary = kvbatch.migrate(source, server.endpoint, **options).wait()
    assert tree(source) == before
    expected = read_store(source)
    assert summary.entries == sum(len(expected[name]) for name in KEYED_FAMILIES)
    assert (summary.lane, summary.resumed, summary.resent_bytes) == ("batch", False, 0)
    assert summary.wire_bytes > summary.raw_bytes
    if options:
        assert summary.ranges > len(KEYED_FAMILIES)
    check_copied(source, server)


class Recorder:
    """Passes one connection after the other on to a server and keeps what the clients said."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.said: list[bytearray] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            far = socket.create_connection(("127.0.0.1", self._upstream))
            self.said.append(bytearray())
            for source, sink, kept in ((near, far, self.said[-1]), (far, near, bytearray())):
                threading.Thread(target=self._pass_on, args=(source, sink, kept), daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        while data := source.recv(1 << 20):
            kept += data
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    def batches(self) -> list[bytes]:
        """In the order in which the connection that has them carried them."""
        found = []
        for said in self.said:
            rest = bytes(said)
            while (at := rest.find(b"APPLYBATCH\r\n$")) >= 0:
                length, _, rest = rest[at + len(b"APPLYBATCH\r\n$") :].partition(b"\r\n")
                found.append(rest[: int(length)])
                rest = rest[int(length) :]
        return found


@pytest.mark.parametrize("batch_bytes", ["16KiB", "1MiB"])
def test_metadata_comes_first_and_log_records_say_the_type(
    source: Path, server: StandIn, fixture: str, batch_bytes: str
) -> None:
    recorder = Recorder(server.port)
    endpoint = server.endpoint.replace(str(server.port), str(recorder.port))
    kvbatch.migrate(source, endpoint, **{**SMALL, "batch_bytes": batch_bytes}).wait()
    metadata = read_store(source)["metadata"]
    order: list[int] = []
    said = set()
    for batch in recorder.batches():
        log = b""
        for record, family, key, _ in decode_batch(batch):
            if record is RecordKind.LOG_DATA:
                assert key != log, "one that says nothing new"
                log = key
                continue
            assert log == LOGS.get(family) or log == element_log(metadata, key, encoded=fixture == "cluster")
            said.add((family, log))
            if family not in order[-1:]:
                order.append(family)
    assert order == [FAMILIES[name] for name in KEYED_FAMILIES]
    # Every type that has elements there, and garbage.
    assert {log for family, log in said if family == 0} == {b"0", b"2", b"3 7", b"4", b"5", b"6", b"7", b"9", b"11"}


LOGS = {1: b"1", 2: b"5", 5: b"8"}


def element_log(metadata: dict[bytes, bytes], key: bytes, *, encoded: bool) -> bytes:
    """What Kvrocks writes before an element of that type; `0` before garbage."""
    element = parse_subkey(key, encoded)
    value = metadata.get(metadata_key(element.namespace, element.user_key, encoded))
    found = None if value is None else parse_metadata(value)
    if found is None or found.version != element.version:
        return b"0"
    return b"3 7" if found.type is Type.LIST else str(int(found.type)).encode()


def test_plan_tells_what_it_finds_and_touches_nothing(source: Path, server: StandIn, fixture: str) -> None:
    sequence = server.ask("INFO", "replication")
    done = run("plan", source, server.endpoint, "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert server.ask("INFO", "replication") == sequence
    assert plan["target"] == server.shown
    assert plan["lane"] == "batch"
    assert plan["streams"] == 1
    assert sorted(plan["column_families"]) == sorted(KEYED_FAMILIES)
    assert [part["column_family"] for part in plan["ranges"]] == list(KEYED_FAMILIES)
    assert plan["target_state"]["kind"] == "empty"
    findings = {finding["what"]: finding for finding in plan["target_state"]["findings"]}
    assert findings.keys() == {"version", "batches", "clock"}
    assert {finding["kind"] for finding in findings.values()} == {"note"}
    shown = run("plan", source, server.endpoint)
    assert "Kvrocks unstable (5fccd57c)" in shown.stdout


@pytest.mark.parametrize("fixture", ["standalone"])
def test_what_is_odd_at_a_server_is_told_and_does_not_keep_the_job_from_running(source: Path, start: Start) -> None:
    server = start(password="")  # so without the token of tenant_a
    settings = {"clock": 7, "rocksdb.row_cache_size": 64, "used_db_size": 9, "max_db_size": 10}
    server.set(**settings)
    found = kvbatch.plan(source, server.shown).target_state
    assert found is not None
    warnings = {finding.what: finding.message for finding in found.findings if finding.kind == "warning"}
    assert warnings.keys() == {"clock", "row cache", "max-db-size", "namespace"}
    assert "7.0 s ahead of this machine's: keys with a time to live expire so much earlier there" in warnings["clock"]
    assert "no token for tenant_a" in warnings["namespace"]
    assert "room for 1 B is left" in warnings["max-db-size"]
    migration = kvbatch.migrate(source, server.shown)
    told = [event.data["message"] for event in migration.events() if event.kind == "warning"]
    migration.wait()
    assert [message.removeprefix(f"{server.shown}: ") for message in told] == list(warnings.values())
    check_copied(source, server)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"role": "slave"}, "it is a replica: send to its master"),
        ({"applybatch": "no"}, "it has no command APPLYBATCH: Kvrocks has it since 2.8"),
        ({"num_background_errors": 1}, "its RocksDB met an error and takes no writes"),
    ],
)
@pytest.mark.parametrize("fixture", ["standalone"])
def test_a_server_that_cannot_take_it_is_refused_before_the_first_byte(
    source: Path, server: StandIn, settings: dict[str, Any], said: str
) -> None:
    server.set(**settings)
    for act in (kvbatch.plan, lambda *where: kvbatch.migrate(*where).wait()):
        with pytest.raises(RefusedError, match=said):
            act(source, server.endpoint)
    server.stop()
    assert not any(read_store(server.directory).values())


def test_a_server_of_the_other_kind_is_refused(source: Path, start: Start, fixture: str) -> None:
    server = start(cluster=fixture != "cluster")
    with pytest.raises(RefusedError, match=r"the source has keys with.* slots .*send to a server of the source's own"):
        kvbatch.plan(source, server.endpoint)


@pytest.mark.parametrize("fixture", ["cluster"])
def test_a_cluster_without_a_topology_is_told_of(source: Path, server: StandIn) -> None:
    server.set(topology="none")
    found = kvbatch.plan(source, server.endpoint).target_state
    assert found is not None
    assert "CLUSTERX SETNODES" in next(finding.message for finding in found.findings if finding.what == "topology")


@pytest.mark.parametrize("fixture", ["standalone"])
@pytest.mark.parametrize(
    ("options", "kind_of_error", "said"),
    [
        ({"lane": "sst"}, RefusedError, "takes no files"),
        ({"lane": "files"}, RefusedError, "takes no files"),
        ({"column_families": ("metadata",)}, UsageError, "--cf and --range"),
        ({"key_range": "61..62"}, UsageError, "--cf and --range"),
        ({"allow_nonempty": True}, UsageError, "--overwrite"),
        ({"streams": 4}, UsageError, "leave --streams out"),
    ],
)
def test_options_that_a_server_leaves_no_room_for(
    source: Path, server: StandIn, options: dict[str, Any], kind_of_error: type[Exception], said: str
) -> None:
    with pytest.raises(kind_of_error, match=said):
        kvbatch.plan(source, server.endpoint, **options)


def test_only_a_kvrocks_directory_is_sent(tmp_path: Path, start: Start) -> None:
    source = write_store(tmp_path / "source", {"default": numbered(10)})
    with pytest.raises(RefusedError, match="is no Kvrocks directory"):
        kvbatch.plan(source, start().endpoint)


def test_overwrite_is_for_servers(tmp_path: Path) -> None:
    source = write_store(tmp_path / "source", {"default": numbered(10)})
    with pytest.raises(UsageError, match="--overwrite is for kvrocks:// targets"):
        kvbatch.migrate(source, tmp_path / "target", overwrite=True)


def test_a_server_is_not_verified_and_what_to_do_is_said(tmp_path: Path) -> None:
    source = write_store(tmp_path / "source", {"default": numbered(10)})
    with pytest.raises(UsageError, match=r"BGSAVE.*kvbatch verify --cf metadata --cf default --cf zset_score"):
        kvbatch.verify(source, "kvrocks://127.0.0.1:1")


@pytest.mark.parametrize(
    ("answer", "said"), [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "says"), (b"$3\r\nx:1\r\n", "no Kvrocks server")]
)
@pytest.mark.parametrize("fixture", ["standalone"])
def test_what_is_no_server_of_this_kind_is_told(source: Path, answer: bytes, said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def serve() -> None:
            connection, _ = other.accept()
            while connection.recv(1000):
                connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises((RefusedError, TargetError), match=said):
            kvbatch.plan(source, f"kvrocks://127.0.0.1:{other.getsockname()[1]}")


# -- what stands there ------------------------------------------------------------------------------------------------


def put_remains(server: StandIn, *, encoded: bool, namespace: bytes = b"__namespace") -> None:
    """A subkey without metadata, as an earlier copy leaves it behind when its metadata is deleted."""
    key = subkey_prefix(namespace, b"t:hash:0", 7, encoded) + b"gone"
    batch = encode_batch([(RecordKind.PUT, FAMILIES["default"], key, b"1")])
    assert server.ask("APPLYBATCH", batch) == b":%d\r\n" % len(batch)


def test_keys_that_stand_there_are_refused_and_go_with_overwrite(source: Path, server: StandIn, fixture: str) -> None:
    assert server.ask("SET", "x", "y") == b"+OK\r\n"
    put_remains(server, encoded=fixture == "cluster")
    for act in (kvbatch.plan, lambda *where: kvbatch.migrate(*where).wait()):
        with pytest.raises(RefusedError, match=r"already holds keys in __namespace\. .*--overwrite"):
            act(source, server.endpoint)
    assert server.ask("GET", "x") == b"$1\r\ny\r\n"
    plan = kvbatch.plan(source, server.endpoint, overwrite=True)
    assert plan.target_state is not None
    assert plan.target_state.kind == "overwritten"
    assert server.ask("GET", "x") == b"$1\r\ny\r\n"
    kvbatch.migrate(source, server.endpoint, overwrite=True).wait()
    check_copied(source, server)


@pytest.mark.parametrize("fixture", ["standalone"])
def test_keys_of_another_namespace_of_the_source_are_seen_through_its_token(source: Path, server: StandIn) -> None:
    with server.connect(authenticated=False) as sock:
        assert talk(sock, encode_command("AUTH", TENANT_TOKEN) + encode_command("SET", "x", "y")) == b"+OK\r\n+OK\r\n"
    with pytest.raises(RefusedError, match="already holds keys in tenant_a"):
        kvbatch.plan(source, server.endpoint)


def test_what_no_client_sees_is_told_of_and_goes_with_overwrite(source: Path, server: StandIn, fixture: str) -> None:
    put_remains(server, encoded=fixture == "cluster")
    found = kvbatch.plan(source, server.endpoint).target_state
    assert found is not None
    assert "pass --overwrite" in next(each.message for each in found.findings if each.what == "remains")
    kvbatch.migrate(source, server.endpoint, overwrite=True).wait()
    check_copied(source, server)


@pytest.mark.parametrize("fixture", ["standalone"])
def test_what_is_no_part_of_the_source_stays_there(source: Path, server: StandIn) -> None:
    """Namespaces that sort around those of the source, and what is like the beginning of one."""
    kept = {
        name: namespace_prefix(name) + b"key" for name in (b"", b"__namespacf", b"__namespacd", b"tenant_", b"x" * 200)
    }
    records = [(RecordKind.PUT, FAMILIES["metadata"], key, b"\x81" + bytes(8)) for key in kept.values()]
    server.ask("APPLYBATCH", encode_batch(records))
    kvbatch.migrate(source, server.endpoint, overwrite=True).wait()
    server.stop()
    found = read_store(server.directory)["metadata"]
    assert found.keys() - read_store(source)["metadata"].keys() == set(kept.values())


# -- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fixture", ["cluster"])
def test_batches_keep_below_what_the_server_takes(source: Path, server: StandIn) -> None:
    server.set(**{"proto-max-bulk-len": 1 << 20})
    recorder = Recorder(server.port)
    endpoint = server.endpoint.replace(str(server.port), str(recorder.port))
    kvbatch.migrate(source, endpoint, batch_bytes="8MiB").wait()
    assert (1 << 19) < max(map(len, recorder.batches())) <= 1 << 20
    check_copied(source, server)


@pytest.mark.parametrize("fixture", ["standalone"])
def test_an_entry_that_the_server_does_not_take_is_named_with_what_to_raise(source: Path, server: StandIn) -> None:
    server.set(**{"proto-max-bulk-len": 512 << 10})
    with pytest.raises(SourceError, match=r"takes 68\d.* KiB, more than the server's proto-max-bulk-len 524288 takes"):
        kvbatch.migrate(source, server.endpoint).wait()
    server.set(**{"proto-max-bulk-len": 2 << 20})
    assert kvbatch.migrate(source, server.endpoint).wait().resumed
    check_copied(source, server)
