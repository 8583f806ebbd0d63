"""What a job finds at a Kvrocks server before its first byte, and what that means."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from kvbatch.errors import RefusedError, TargetError, UnavailableError
from kvbatch.findings import Finding, FindingKind
from kvbatch.kvrocks.client import KvrocksClient, info_fields
from kvbatch.kvrocks.keys import DEFAULT_NAMESPACE
from kvbatch.kvrocks.slots import Slots, slot_of
from kvbatch.kvrocks.source import KvrocksSource
from kvbatch.units import format_bytes

__all__ = ["Preflight", "server_sequence"]

# A clock that is off by less hardly matters to keys that expire.
_CLOCK_SECONDS = 1.0
_SCAN_KEYS = "1000"
# A server answers that a bulk is too long by closing; the least that it may be told to take is 1 MiB.
_DEFAULT_BULK_BYTES = 512 << 20
_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


def server_sequence(client: KvrocksClient) -> int:
    """RocksDB's newest at the server: it grows with every entry that is written."""
    return int(info_fields(client.ask("INFO", "replication"))["master_repl_offset"])


class Preflight:
    """Asks a server everything that decides whether a job can run, and changes nothing there. Raises what KvrocksClient
    does, for what keeps it from being asked at all, and RefusedError for a server that is not Kvrocks.

    findings    in the order in which they were made
    bulk_bytes  the longest batch that the server takes
    """

    def __init__(self, client: KvrocksClient, source: KvrocksSource, estimated_bytes: int) -> None:
        self._client = client
        self._source = source
        self.findings: list[Finding] = []
        self.bulk_bytes = _DEFAULT_BULK_BYTES
        self._look_at_server()
        self._look_at_configuration()
        self._look_at_clock()
        self._look_at_room(estimated_bytes)
        self._look_at_source()

    def refuse(self) -> None:
        """Raises RefusedError with every finding that is a refusal, if there is one."""
        refusals = [finding.message for finding in self.findings if finding.kind == "refusal"]
        if refusals:
            raise RefusedError(f"the target {self._client.name}: {'; '.join(refusals)}. Nothing was sent")

    def find_keys(self, connect: Callable[[bytes], KvrocksClient]) -> list[str]:
        """Where clients of the server see keys: those namespaces of the source, of each the first slot that was met
        where slots are sent. `connect` opens a connection for the token of a namespace."""
        tokens = self._tokens()
        holding = []
        for namespace in self._source.namespaces:
            name = namespace.decode(errors="backslashreplace")
            if namespace == DEFAULT_NAMESPACE:
                key = _find_key(self._client, self._source.slots)
            elif namespace in tokens:
                with closing(connect(tokens[namespace])) as client:
                    key = _find_key(client, self._source.slots)
            else:
                key = None
                self._add(
                    "warning",
                    "namespace",
                    f"the server has no token for {name}: no client sees what is there, or comes there, before "
                    "NAMESPACE ADD",
                )
            if key is not None:
                holding.append(name if self._source.slots is None else f"slot {slot_of(key)} of {name}")
        self._look_beneath(holding)
        return holding

    def _add(self, kind: FindingKind, what: str, message: str) -> None:
        self.findings.append(Finding(kind, what, message))

    def _info(self, section: str) -> dict[str, str]:
        return info_fields(self._client.ask("INFO", section))

    def _look_at_server(self) -> None:
        server = self._info("server")
        version = server.get("kvrocks_version")
        if version is None:
            raise RefusedError(f"the target {self._client.name} is no Kvrocks server. Nothing was sent")
        self._add("note", "version", f"Kvrocks {version} ({server.get('git_sha1', 'unknown')})")
        if self._info("persistence").get("loading") == "1":
            raise UnavailableError(f"{self._client.name} is loading its database. Nothing is lost", retryable=True)
        role = self._client.ask("ROLE")[0].decode()
        if role != "master":
            self._add("refusal", "role", "it is a replica: send to its master, whose writes it gets")
        if not self._client.ask("COMMAND", "INFO", "applybatch")[0]:
            self._add("refusal", "APPLYBATCH", "it has no command APPLYBATCH: Kvrocks has it since 2.8")
        if int(self._info("rocksdb").get("num_background_errors", 0)) > 0:
            self._add("refusal", "errors", "its RocksDB met an error and takes no writes: see its log, and restart it")

    def _asked(self, *words: str) -> tuple[Any, str]:
        """The answer, or why the server gives none."""
        try:
            return self._client.ask(*words), ""
        except TargetError as error:
            if error.resumable:
                raise
            return None, str(error)

    def _configured(self, name: str) -> str | None:
        """None where the server does not know it."""
        found = self._client.ask("CONFIG", "GET", name)
        return found[1].decode(errors="replace") if found else None

    def _look_at_configuration(self) -> None:
        found, why_not = self._asked("CONFIG", "GET", "cluster-enabled")
        if why_not:
            self._add("refusal", "rights", f"its configuration cannot be read ({why_not}): give its requirepass")
            return
        source, in_cluster = self._source, found[1] == b"yes"
        if source.slot_encoded is not None and source.slot_encoded != in_cluster:
            ours, theirs = (
                "with slots" if encoded else "without slots" for encoded in (source.slot_encoded, in_cluster)
            )
            self._add(
                "refusal",
                "slots",
                f"the source has keys {ours} and cluster-enabled {'yes' if in_cluster else 'no'} means keys {theirs}, "
                "so that no client would find them: send to a server of the source's own kind",
            )
        if in_cluster:
            self._look_at_topology()
        if (bulk := self._configured("proto-max-bulk-len")) is not None:
            self.bulk_bytes = _size(bulk)
        self._add("note", "batches", f"up to {format_bytes(self.bulk_bytes)} each (proto-max-bulk-len)")
        if _size(self._configured("rocksdb.row_cache_size") or "0"):
            self._add(
                "warning",
                "row cache",
                "rocksdb.row_cache_size is not 0, with which Kvrocks' own raw migration is known to fail: look at what "
                "clients read of the copy, or switch it off",
            )

    def _look_at_topology(self) -> None:
        _, why_not = self._asked("CLUSTER", "INFO")
        if why_not:
            self._add("warning", "topology", f"clients are not served until it is set (CLUSTERX SETNODES): {why_not}")

    def _look_at_clock(self) -> None:
        before = time.time()
        seconds, microseconds = self._client.ask("TIME")
        here = (before + time.time()) / 2
        ahead = int(seconds) + int(microseconds) / 1e6 - here
        if abs(ahead) < _CLOCK_SECONDS:
            self._add("note", "clock", f"within {_CLOCK_SECONDS:g} s of this machine's")
        else:
            fast, when = ("ahead of", "earlier") if ahead > 0 else ("behind", "later")
            self._add(
                "warning",
                "clock",
                f"{abs(ahead):.1f} s {fast} this machine's: keys with a time to live expire so much {when} there",
            )

    def _look_at_room(self, estimated_bytes: int) -> None:
        keyspace = self._info("keyspace")
        used, most = int(keyspace.get("used_db_size", 0)), int(keyspace.get("max_db_size", 0))
        disk, disk_used = int(keyspace.get("disk_capacity", 0)), int(keyspace.get("used_disk_size", 0))
        for what, room in (
            ("max-db-size", most - used if most else None),
            ("disk", disk - disk_used if disk else None),
        ):
            if room is not None and room < estimated_bytes:
                self._add(
                    "warning",
                    what,
                    f"room for {format_bytes(max(0, room))} is left, and about {format_bytes(estimated_bytes)} come, "
                    "before compression: the job stops where it is full, and goes on once there is room",
                )

    def _look_at_source(self) -> None:
        if self._source.left_out:
            self._add(
                "warning",
                "left out",
                f"the source's {' and '.join(self._source.left_out)}: scripts, functions, messages and search indexes "
                "are a server's own; load and create them there again",
            )

    def _tokens(self) -> dict[bytes, bytes]:
        """By namespace, those that the server knows; none where it has no namespaces."""
        listed, why_not = self._asked("NAMESPACE", "GET", "*")
        return {} if why_not else dict(zip(listed[::2], listed[1::2], strict=True))

    def _look_beneath(self, holding: list[str]) -> None:
        """At entries that no client sees."""
        rocksdb = self._info("rocksdb")
        entries = sum(int(value) for name, value in rocksdb.items() if name.startswith("estimate_keys["))
        if entries and not holding:
            self._add(
                "warning",
                "remains",
                f"about {entries:,} entries stand in its column families, of other keys than these, or of some that "
                "were deleted or expired. If an earlier copy of this source is among them, pass --overwrite: elements "
                "of it that the source has no more would come back",
            )


def _find_key(client: KvrocksClient, slots: Slots | None) -> bytes | None:
    """The first that SCAN gives of the keys that live in the connection's namespace, of some slots or any."""
    cursor = b"0"
    while True:
        cursor, keys = client.ask("SCAN", cursor, "COUNT", _SCAN_KEYS)
        found = next((key for key in keys if slots is None or slot_of(key) in slots), None)
        if found is not None or cursor == b"0":
            return found


def _size(text: str) -> int:
    """Bytes, of a number with a unit or without."""
    number, unit = (text[:-1], text[-1].lower()) if text[-1:].isalpha() else (text, "")
    return int(number) * _UNITS.get(unit, 1)
