"""Reading a store to compare it: the same interface for a directory and for one behind a receiver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kvbatch._core.store import RESERVED_COLUMN_FAMILY, SourceStore
from kvbatch.endpoints import DirectoryEndpoint, Endpoint, ReceiverEndpoint, StoreEndpoint
from kvbatch.errors import RefusedError
from kvbatch.protocol import Peer, connect, ignore_peer, malformed_is_protocol_error
from kvbatch.ranges import optional_hex
from kvbatch.target_staging import staged_manifest, staging_path

__all__ = ["DirectoryReader", "Run", "StoreReader", "open_reader"]

EMPTY_DIGEST = bytes(16)


@dataclass(frozen=True, slots=True)
class Run:
    """A run of entries: how many, keys and values in bytes, the sum of their digests, and, for a full run, its last
    key."""

    entries: int
    raw_bytes: int
    digest: bytes
    last_key: bytes


def unfinished_source(endpoint: Endpoint) -> RefusedError:
    """What becomes of a source that holds the records of a job."""
    return RefusedError(
        f"the source {endpoint} is the unfinished target of another migration; finish that one with its own command"
    )


class StoreReader(Protocol):
    """Every call is idempotent. A directory's reader is thread-safe, one of a receiver belongs to one thread."""

    def column_families(self) -> list[str]:
        """Names in the order of their ids, kvbatch's own family left out."""

    def comparators(self) -> dict[str, str]:
        """The order of each of them, by its name in RocksDB."""

    def identity(self) -> str:
        """RocksDB's id of the store, which no other store has."""

    def unfinished(self) -> bool:
        """Whether a job is still writing into this store."""

    def digest(self, family: str, start: bytes | None, end: bytes | None, run_entries: int = 0) -> list[Run]:
        """Runs of `run_entries` entries (0: one for all) of [start, end)."""

    def list_entries(
        self, family: str, start: bytes | None, end: bytes | None, max_key_bytes: int, after: bytes | None = None
    ) -> tuple[list[tuple[bytes, bytes]], bool]:
        """(key, digest) from the start of the range, or from behind `after`, on, and whether its end was reached. At
        least one entry if there is one, whatever `max_key_bytes` says."""

    def close(self) -> None: ...


class DirectoryReader:
    def __init__(self, path: Path, column_families: Sequence[str] = ()) -> None:
        """`column_families`: only these, all when empty; UsageError for one that is not there. RefusedError where the
        store is only being received."""
        if (staged := staged_manifest(path)) is not None and not (path / "CURRENT").exists():
            raise RefusedError(
                f"{path} is no store yet: the files of the unfinished job {staged.job!r} stand in "
                f"{staging_path(path)}. Nothing was changed; run its `kvbatch migrate` again first"
            )
        self.store = SourceStore(str(path), list(column_families))

    def column_families(self) -> list[str]:
        return [family.name for family in self.store.column_families if family.name != RESERVED_COLUMN_FAMILY]

    def comparators(self) -> dict[str, str]:
        return {family.name: family.comparator for family in self.store.column_families}

    def identity(self) -> str:
        return self.store.identity

    def unfinished(self) -> bool:
        return any(family.name == RESERVED_COLUMN_FAMILY for family in self.store.column_families)

    def digest(self, family: str, start: bytes | None, end: bytes | None, run_entries: int = 0) -> list[Run]:
        runs = self.store.digest_range(family, start, end, run_entries)
        return [Run(run.entries, run.raw_bytes, run.digest, run.last_key) for run in runs]

    def list_entries(
        self, family: str, start: bytes | None, end: bytes | None, max_key_bytes: int, after: bytes | None = None
    ) -> tuple[list[tuple[bytes, bytes]], bool]:
        return self.store.list_entries(family, start, end, max_key_bytes, after)

    def close(self) -> None:
        """Lets go of the store and its LOCK."""
        del self.store


class ReceiverReader:
    """One connection, used by one thread."""

    def __init__(self, endpoint: ReceiverEndpoint, on_connected: Callable[[Peer], None] = ignore_peer) -> None:
        self._peer, _ = connect(endpoint.host, endpoint.port, "control", on_connected=on_connected)
        try:
            inspected = self._peer.request("inspect", name=endpoint.name)
            with malformed_is_protocol_error(self._peer.name, "answer to inspect"):
                self._column_families = [str(name) for name in inspected["column_families"]]
                self._comparators = {str(name): str(order) for name, order in inspected["comparators"].items()}
                self._identity = str(inspected["identity"])
                self._unfinished = bool(inspected["unfinished"])
        except BaseException:
            self._peer.close()
            raise

    def column_families(self) -> list[str]:
        return list(self._column_families)

    def comparators(self) -> dict[str, str]:
        return dict(self._comparators)

    def identity(self) -> str:
        return self._identity

    def unfinished(self) -> bool:
        return self._unfinished

    def _range(self, family: str, start: bytes | None, end: bytes | None) -> dict[str, Any]:
        return {"column_family": family, "start": optional_hex(start), "end": optional_hex(end)}

    def digest(self, family: str, start: bytes | None, end: bytes | None, run_entries: int = 0) -> list[Run]:
        answer = self._peer.request("digest", **self._range(family, start, end), run_entries=run_entries)
        with malformed_is_protocol_error(self._peer.name, "answer to digest"):
            return [
                Run(int(entries), int(raw_bytes), bytes.fromhex(digest), bytes.fromhex(last_key))
                for entries, raw_bytes, digest, last_key in answer["runs"]
            ]

    def list_entries(
        self, family: str, start: bytes | None, end: bytes | None, max_key_bytes: int, after: bytes | None = None
    ) -> tuple[list[tuple[bytes, bytes]], bool]:
        answer = self._peer.request(
            "list", **self._range(family, start, end), max_key_bytes=max_key_bytes, after=optional_hex(after)
        )
        with malformed_is_protocol_error(self._peer.name, "answer to list"):
            entries = [(bytes.fromhex(key), bytes.fromhex(digest)) for key, digest in answer["entries"]]
            complete = bool(answer["complete"])
            if not entries and not complete:
                raise ValueError("an empty page before the end")
            return entries, complete

    def close(self) -> None:
        self._peer.close()


def open_reader(
    endpoint: StoreEndpoint,
    column_families: Sequence[str] = (),
    on_connected: Callable[[Peer], None] = ignore_peer,
) -> StoreReader:
    """A receiver's reader sees all families always. `on_connected` as in `connect`."""
    if isinstance(endpoint, DirectoryEndpoint):
        return DirectoryReader(endpoint.path, column_families)
    return ReceiverReader(endpoint, on_connected)
