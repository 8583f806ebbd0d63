"""A stand-in for a Kvrocks server: RESP2, APPLYBATCH into a RocksDB of its seven column families, and faults on demand.

    python -m support.kvrocks_server DIRECTORY [--port PORT] [--password PASSWORD] [--token NAMESPACE=TOKEN] [--cluster]

prints its port and runs until SIGTERM. It answers as the real one was recorded to (kvrocks-transcripts.json.zst,
kvrocks-malformed-batches.json), errors included: batches go through kvbatch's own validator, and after one that would
have broken the real server it takes no write any more, and where the real one did not start again, it does not either.

STANDIN is its own command, which needs no password:
    STANDIN FAULT KIND AFTER TIMES  what comes instead of the reply to APPLYBATCH, AFTER more of them, TIMES times:
        readonly, noauth, full, space, disk, loading   the server's own errors
        slow      the batch is applied, and answered after 10 s
        cut       the connection ends within the batch
        protocol  an error, and the connection ends
        exit      the process ends as by kill -9, before the batch is applied
        corrupt   the error of a batch that broke the server
        nonsense  a reply that is none
    STANDIN SET NAME VALUE              a field of INFO or a parameter of CONFIG GET; `clock` is the seconds it is ahead
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from kvbatch._core.batch import RecordKind, encode_batch
from kvbatch._core.store import ColumnFamilyDescription, SourceStore, TargetStore
from kvbatch.errors import CorruptionError
from kvbatch.kvrocks.keys import DEFAULT_NAMESPACE, FAMILIES, METADATA, MetadataKey, metadata_key, parse_metadata_key
from kvbatch.kvrocks.metadata import Type, parse_metadata
from kvbatch.kvrocks.slots import slot_of
from support.stores import read_store

__all__ = ["main"]

_SLOW_SECONDS = 10.0
_HEADER = struct.Struct("<QI")
_STRING_HEADER = bytes([0x80 | Type.STRING]) + bytes(8)
# RocksDB's words for what the validator finds; those after which the real server did not start again.
_FATAL = (
    ("past the end in the record", b"Corruption: bad WriteBatch Put"),
    ("its header counts", b"Corruption: WriteBatch has wrong count"),
    ("unknown record tag", b"Corruption: unknown WriteBatch tag"),
)
_UNTIL_RESTART = (
    ("shorter than its header", b"Corruption: malformed WriteBatch (too small)"),
    ("names column family id", b"Invalid argument: Invalid column family specified in write batch"),
    ("merge", b"Invalid argument: Merge requires `ColumnFamilyOptions::merge_operator != nullptr`"),
)
_FAULTS = {
    b"readonly": b"-READONLY You can't write against a read only slave.",
    b"noauth": b"-NOAUTH Authentication required.",
    b"full": b"-ERR write command not allowed when reached max-db-size.",
    b"space": b"-ERR reach space limit",
    b"disk": b"-ERR IO error: No space left on device: While appending to file: 000012.log: No space left on device",
    b"loading": b"-LOADING kvrocks is restoring the db from backup",
    b"protocol": b"-ERR Protocol error: invalid bulk length",
    b"corrupt": b"-ERR Corruption: bad WriteBatch Put",
    b"nonsense": b":1",
}
# Of INFO rocksdb, by column family and at its end.
_STALLS = (
    "level0_file_limit_slowdown", "level0_file_limit_stop", "pending_compaction_bytes_slowdown",
    "pending_compaction_bytes_stop", "level0_file_limit_stop_with_ongoing_compaction",
    "level0_file_limit_slowdown_with_ongoing_compaction", "memtable_count_limit_slowdown", "memtable_count_limit_stop",
)  # fmt: skip
_ROCKSDB = (
    "block_cache_data_hit", "block_cache_data_miss", "block_cache_filter_hit", "block_cache_filter_miss",
    "block_cache_hit", "block_cache_index_hit", "block_cache_index_miss", "block_cache_miss", "all_mem_tables",
    "cur_mem_tables", "snapshots", "num_immutable_tables", "num_running_flushes", "memtable_flush_pending",
    "compaction_pending", "num_running_compactions", "num_live_versions", "num_super_version", "num_background_errors",
    "flush_count", "compaction_count", "put_per_sec", "get_per_sec", "seek_per_sec", "next_per_sec", "prev_per_sec",
)  # fmt: skip


@dataclass
class _Fault:
    kind: bytes
    after: int
    times: int


class _BrokenError(Exception):
    """The server takes no writes, and says this."""


class _ClosedError(Exception):
    """The connection is at its end."""


@dataclass
class _Client:
    """What a connection remembers."""

    namespace: bytes | None  # None before AUTH
    in_multi: bool = False


@dataclass
class _Server:
    directory: Path
    port: int
    password: str
    tokens: dict[str, str]
    cluster: bool
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.faults: list[_Fault] = []
        # Beside the store, which holds nothing of ours.
        self.broken_file = self.directory.with_name(self.directory.name + ".broken")
        if self.broken_file.exists():
            raise SystemExit("Fatal: Corruption in the write-ahead log")
        self.broken = b""
        self.started = time.time()
        self.sequence = SourceStore(str(self.directory)).latest_sequence if self.directory.exists() else 0
        self.store = TargetStore(str(self.directory), default_family=ColumnFamilyDescription("default"))
        ids = [self.store.ensure_family(ColumnFamilyDescription(name)) for name in FAMILIES]
        assert ids == list(FAMILIES.values())

    # -- what is written and read -------------------------------------------------------------------------------------

    def write(self, batch: bytes) -> None:
        with self.lock:
            if self.broken:
                raise _BrokenError
            try:
                self.store.write_batch(batch)
            except CorruptionError as error:
                self._break(str(error))
                raise _BrokenError from error
            self.sequence += _HEADER.unpack_from(batch)[1]

    def _break(self, found: str) -> None:
        for fatal, table in ((True, _FATAL), (False, _UNTIL_RESTART)):
            for part, words in table:
                if part in found:
                    self.broken = b"-ERR " + words
                    if fatal:
                        self.broken_file.touch()
                    return
        raise AssertionError(f"a batch that the validator refuses for what no recording shows: {found}")

    def break_by_fault(self) -> None:
        self.broken = _FAULTS[b"corrupt"]
        self.broken_file.touch()

    def live(self, namespace: bytes) -> dict[bytes, bytes]:
        """Metadata by user key, of the keys that a client sees."""
        now = round(1000 * time.time())
        entries = read_store(self.directory)[METADATA]
        parsed = ((parse_metadata_key(key, self.cluster), value) for key, value in entries.items())
        return {
            key.user_key: value
            for key, value in parsed
            if key.namespace == namespace and parse_metadata(value).is_live(now) and _is_found(key)
        }

    def take_fault(self) -> bytes:
        with self.lock:
            for fault in self.faults:
                if fault.after > 0:
                    fault.after -= 1
                elif fault.times > 0:
                    fault.times -= 1
                    return fault.kind
        return b""

    # -- what it says of itself ---------------------------------------------------------------------------------------

    def info(self, section: str) -> bytes:
        fields = getattr(self, f"_info_{section}")()
        lines = [f"# {'RocksDB' if section == 'rocksdb' else section.capitalize()}"]
        lines += [each if isinstance(each, str) else f"{each[0]}:{self.settings.get(*each)}" for each in fields]
        return "".join(f"{line}\r\n" for line in lines).encode()

    def _info_server(self) -> list[tuple[str, str] | str]:
        mode = "cluster" if self.cluster else "standalone"
        uptime = int(time.time() - self.started)
        return [
            ("version", "unstable"), ("kvrocks_version", "unstable"), ("redis_version", "4.0.0"),
            ("git_sha1", "5fccd57c"), ("kvrocks_git_sha1", "5fccd57c"), ("redis_mode", mode), ("kvrocks_mode", mode),
            ("os", "Linux"), ("gcc_version", "12.2.0"), ("arch_bits", "64"), ("process_id", str(os.getpid())),
            ("tcp_port", str(self.port)), ("uptime_in_seconds", str(uptime)), ("uptime_in_days", str(uptime // 86400)),
        ]  # fmt: skip

    def _info_replication(self) -> list[tuple[str, str] | str]:
        return [("role", "master"), ("connected_slaves", "0"), ("master_repl_offset", str(self.sequence))]

    def _info_persistence(self) -> list[tuple[str, str] | str]:
        return [("loading", "0")]

    def _info_keyspace(self) -> list[tuple[str, str] | str]:
        return [
            "# WARN: DBSIZE SCAN never performed yet", "db0:keys=0,expires=0,avg_ttl=0,expired=0",
            ("sequence", str(self.sequence)), ("used_db_size", "4253379"), ("max_db_size", "0"), "used_percent: 0%",
            ("disk_capacity", "270553174016"), ("used_disk_size", "192009023488"), "used_disk_percent: 70.9691%",
        ]  # fmt: skip

    def _info_stats(self) -> list[tuple[str, str] | str]:
        names = "total_connections_received total_commands_processed instantaneous_ops_per_sec total_net_input_bytes "
        names += "total_net_output_bytes instantaneous_input_kbps instantaneous_output_kbps sync_full sync_partial_ok "
        names += "sync_partial_err keyspace_hits keyspace_misses pubsub_channels pubsub_patterns"
        return [(name, "0") for name in names.split()]

    def _info_rocksdb(self) -> list[tuple[str, str] | str]:
        fields: list[tuple[str, str] | str] = [("block_cache_usage", "0")]
        for family in FAMILIES:
            first = ["block_cache_pinned_usage"] if family == "default" else []
            for name in (*first, "estimate_keys", "index_and_filter_cache_usage", *_STALLS):
                some = name == "estimate_keys" and self.store.has_data(family)
                fields.append((f"{name}[{family}]", "1" if some else "0"))
        return [*fields, *((name, "0") for name in _ROCKSDB), ("is_bgsaving", "no"), ("is_compacting", "no")]

    def configuration(self, pattern: str) -> list[str]:
        known = {
            "cluster-enabled": "yes" if self.cluster else "no", "max-db-size": "0", "migrate-batch-rate-limit-mb": "16",
            "migrate-batch-size-kb": "16", "migrate-pipeline-size": "16", "migrate-sequence-gap": "10000",
            "migrate-speed": "4096", "migrate-type": "redis-command", "proto-max-bulk-len": "536870912",
            "rocksdb.row_cache_size": "0", "rocksdb.wal_compression": "no", "rocksdb.wal_size_limit_mb": "16384",
            "rocksdb.wal_ttl_seconds": "10800",
        }  # fmt: skip
        matching = re.compile(re.escape(pattern).replace(r"\*", ".*"))
        found = {name: self.settings.get(name, value) for name, value in known.items() if matching.fullmatch(name)}
        return [word for pair in found.items() for word in pair]

    @property
    def bulk_bytes(self) -> int:
        return int(self.configuration("proto-max-bulk-len")[1])


def _is_found(key: MetadataKey) -> bool:
    """A server looks for a key where its slot should be."""
    return key.slot in (None, slot_of(key.user_key))


Reply = bytes | str | int | None | list["Reply"]  # type: ignore[misc]


def _encode(reply: Reply) -> bytes:
    """Bytes are bulks, text is sent as it is, with its first character."""
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, str):
        return reply.encode() + b"\r\n"
    return b"*%d\r\n" % len(reply) + b"".join(map(_encode, reply))


class _Connection:
    def __init__(self, server: _Server, sock: socket.socket) -> None:
        self._server = server
        self._sock = sock
        self._file: BinaryIO = sock.makefile("rb", buffering=1 << 16)
        self._client = _Client(None if server.password else DEFAULT_NAMESPACE)
        self._fault = b""

    def run(self) -> None:
        try:
            while True:
                self._sock.sendall(self._answer(self._read()))
        except (_ClosedError, OSError):
            pass
        finally:
            self._sock.close()

    def _read(self) -> list[bytes]:
        words: list[bytes] = []
        for _ in range(self._read_number()):
            length = self._read_number()
            if length > self._server.bulk_bytes:
                self._end_with(_FAULTS[b"protocol"])
            self._look_for_cut(words)
            words.append(self._read_whole(length + 2)[:-2])
        return words

    def _read_number(self) -> int:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise _ClosedError
        return int(line[1:])

    def _read_whole(self, length: int) -> bytes:
        """What has come of a command when the connection ends is no command."""
        found = self._file.read(length)
        if len(found) < length:
            raise _ClosedError
        return found

    def _look_for_cut(self, words: list[bytes]) -> None:
        """A fault may be due before the batch has come."""
        if [word.upper() for word in words] != [b"APPLYBATCH"]:
            return
        self._fault = self._server.take_fault()
        if self._fault == b"cut":
            self._sock.shutdown(socket.SHUT_RDWR)
            raise _ClosedError
        if self._fault == b"exit":
            os.kill(os.getpid(), signal.SIGKILL)

    def _end_with(self, error: bytes) -> None:
        self._sock.sendall(error + b"\r\n")
        # What is under way is read, so that closing does not take the error along.
        self._sock.shutdown(socket.SHUT_WR)
        while self._sock.recv(1 << 20):
            pass
        raise _ClosedError

    def _answer(self, words: list[bytes]) -> bytes:
        name, arguments = words[0].decode().lower(), words[1:]
        command: Callable[[list[bytes]], Reply] | None = getattr(self, f"_on_{name}", None)
        if name not in ("auth", "hello", "standin") and self._client.namespace is None:
            return _encode("-NOAUTH Authentication required.")
        if command is None:
            return _encode(f"-ERR unknown command `{name}`, with args beginning with: ") + b"".join(arguments)
        try:
            return _encode(command(arguments))
        except _BrokenError:
            return self._server.broken + b"\r\n"

    def _on_auth(self, arguments: list[bytes]) -> Reply:
        if not self._server.password:
            return "-ERR Client sent AUTH, but no password is set"
        if len(arguments) != 1:
            return "-ERR wrong number of arguments"
        given = arguments[0].decode()
        namespaces = {self._server.password: DEFAULT_NAMESPACE}
        namespaces |= {token: namespace.encode() for namespace, token in self._server.tokens.items()}
        if given not in namespaces:
            return "-ERR Invalid password"
        self._client.namespace = namespaces[given]
        return "+OK"

    def _on_hello(self, arguments: list[bytes]) -> Reply:
        mode = b"cluster" if self._server.cluster else b"standalone"
        fields = [b"server", b"redis", b"version", b"4.0.0", b"proto", 2, b"mode", mode, b"role", b"master", b"modules"]
        return "\r\n".join(["*12", *(_encode(each).decode().rstrip() for each in fields), "*-1"])

    def _on_ping(self, arguments: list[bytes]) -> Reply:
        return "+PONG"

    def _on_time(self, arguments: list[bytes]) -> Reply:
        now = time.time() + float(self._server.settings.get("clock", 0))
        return [str(int(now)).encode(), str(int(1e6 * (now % 1))).encode()]

    def _on_info(self, arguments: list[bytes]) -> Reply:
        return self._server.info(arguments[0].decode().lower())

    def _on_role(self, arguments: list[bytes]) -> Reply:
        if self._server.settings.get("role") == "slave":
            return [b"slave", b"127.0.0.1", b"6666", b"connected", str(self._server.sequence).encode()]
        return [b"master", str(self._server.sequence).encode(), []]

    def _on_config(self, arguments: list[bytes]) -> Reply:
        if self._client.namespace != DEFAULT_NAMESPACE:
            return "-ERR admin permission required to perform the command"
        return [word.encode() for word in self._server.configuration(arguments[1].decode())]

    def _on_command(self, arguments: list[bytes]) -> Reply:
        known = self._server.settings.get("applybatch", "yes") == "yes"
        return [[arguments[1].lower(), -2, [b"write"], 0, 0, 0] if known else None]

    def _on_namespace(self, arguments: list[bytes]) -> Reply:
        if not self._server.password:
            return "-ERR forbidden to add namespace when requirepass was empty"
        pairs = [*self._server.tokens.items(), (DEFAULT_NAMESPACE.decode(), self._server.password)]
        return [word.encode() for pair in pairs for word in pair]

    def _on_cluster(self, arguments: list[bytes]) -> Reply:
        if arguments[0].upper() == b"KEYSLOT":
            return slot_of(arguments[1])
        if self._server.settings.get("topology") == "none":
            return "-CLUSTERDOWN The cluster is not initialized"
        lines = ["state:ok", "slots_assigned:16384", "slots_ok:16384", "slots_pfail:0", "slots_fail:0", "known_nodes:1"]
        lines += ["size:1", "current_epoch:1", "my_epoch:1"]
        return "".join(f"cluster_{line}\r\n" for line in lines).encode()

    def _on_clusterx(self, arguments: list[bytes]) -> Reply:
        return b"1"

    def _on_dbsize(self, arguments: list[bytes]) -> Reply:
        return 0

    def _on_scan(self, arguments: list[bytes]) -> Reply:
        """Cursors are places in the keys as they are; those of the real one are something else, and end with 0 too."""
        assert self._client.namespace is not None
        first = int(arguments[0])
        behind = first + (int(arguments[2]) if len(arguments) > 1 else 10)
        keys = sorted(self._server.live(self._client.namespace))
        return [str(behind if behind < len(keys) else 0).encode(), keys[first:behind]]

    def _on_multi(self, arguments: list[bytes]) -> Reply:
        self._client.in_multi = True
        return "+OK"

    def _on_discard(self, arguments: list[bytes]) -> Reply:
        self._client.in_multi = False
        return "+OK"

    def _on_get(self, arguments: list[bytes]) -> Reply:
        assert self._client.namespace is not None
        value = self._server.live(self._client.namespace).get(arguments[0])
        return None if value is None else value[len(_STRING_HEADER) :]

    def _on_set(self, arguments: list[bytes]) -> Reply:
        assert self._client.namespace is not None
        key = metadata_key(self._client.namespace, arguments[0], self._server.cluster)
        put = (RecordKind.PUT, FAMILIES[METADATA], key, _STRING_HEADER + arguments[1])
        self._server.write(encode_batch([put]))
        return "+OK"

    def _on_applybatch(self, arguments: list[bytes]) -> Reply:
        if self._client.in_multi:
            return "-ERR Can't execute applybatch in MULTI"
        if len(arguments) > 2:
            return "-ERR wrong number of arguments"
        if len(arguments) == 2 and arguments[1].upper() != b"LOWPRI":
            return "-ERR only support LOWPRI option"
        fault, self._fault = self._fault, b""
        if fault == b"protocol":
            self._end_with(_FAULTS[fault])
        if fault == b"corrupt":
            self._server.break_by_fault()
        elif fault in _FAULTS:
            return _FAULTS[fault].decode()
        self._server.write(arguments[0])
        if fault == b"slow":
            time.sleep(_SLOW_SECONDS)
        return len(arguments[0])

    def _on_standin(self, arguments: list[bytes]) -> Reply:
        with self._server.lock:
            if arguments[0] == b"SET":
                self._server.settings[arguments[1].decode()] = arguments[2].decode()
            else:
                after, times = map(int, arguments[2:])
                self._server.faults.append(_Fault(arguments[1], after, times))
        return "+OK"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--password", default="")
    parser.add_argument("--token", action="append", default=[], metavar="NAMESPACE=TOKEN")
    parser.add_argument("--cluster", action="store_true")
    arguments = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    listener = socket.create_server(("127.0.0.1", arguments.port))
    port = listener.getsockname()[1]
    tokens = dict(pair.split("=") for pair in arguments.token)
    server = _Server(arguments.directory, port, arguments.password, tokens, arguments.cluster)

    def accept() -> None:
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_Connection(server, sock).run, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    print(port, flush=True)
    signal.sigwait([signal.SIGTERM])
    with server.lock:
        server.store.close()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
