"""Targets and sources that every endpoint's contract is checked with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import rocksdict

import kvbatch
from kvbatch.endpoints import DirectoryEndpoint, ReceiverEndpoint
from kvbatch.target_local import LocalSession
from kvbatch.target_remote import RemoteSession
from support.sender import WAYS, SmallSource
from support.stores import need_rocksdb
from support.tables import table_options_of, write_in_last_level
from support.targets import BOUNDS, ENTRIES, TargetCase


@pytest.fixture(params=["directory", "receiver"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TargetCase]:
    if request.param == "directory":
        path = tmp_path / "target"
        yield TargetCase(
            "directory", DirectoryEndpoint(path), path, lambda manifest: LocalSession(path, manifest, 1 << 20)
        )
        return
    with kvbatch.serve(tmp_path / "root") as receiver:
        receiving = ReceiverEndpoint("127.0.0.1", receiver.port, "target")
        # With a window of one a put returns when its batch is applied, as in a directory.
        yield TargetCase(
            "receiver", receiving, tmp_path / "root" / "target", lambda manifest: RemoteSession(receiving, manifest, 1)
        )


@pytest.fixture(scope="session")
def source_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several files of each family can be moved as they are, with newer entries over them. Written once: no test writes
    to it."""
    path = tmp_path_factory.mktemp("contract") / "source"
    store = rocksdict.Rdict(str(path), table_options_of(4 << 10))
    for name, entries in ENTRIES.items():
        family = store if name == "default" else store.create_column_family(name, table_options_of(4 << 10))
        older = {key: b"older" if number % 50 == 7 else entries[key] for number, key in enumerate(entries)}
        write_in_last_level(family, {**older, b"key-00000100-gone": b""})
        del family[b"key-00000100-gone"]
        for key in list(entries)[7::50]:
            family[key] = entries[key]
        family.flush()
        del family
    store.close()
    return path


@pytest.fixture
def source(source_store: Path) -> SmallSource:
    return SmallSource(source_store, BOUNDS)


@pytest.fixture(params=WAYS)
def any_source(request: pytest.FixtureRequest, source_store: Path) -> SmallSource:
    """For tests of whole ranges, whichever way these travel."""
    if request.param == "grafted":
        need_rocksdb((9, 10), "ingest files that a database wrote")
    return SmallSource(source_store, BOUNDS, way=request.param)
