"""The real directories into a real Kvrocks server, as its clients see them: KVBATCH_TEST_KVROCKS=host:port names one.

Its namespaces are overwritten: name a server that nobody needs. Standalone or cluster decides which directory is sent.
Its requirepass is in KVBATCH_KVROCKS_PASSWORD, and where that is set it has the namespace tenant_a with the token pw_a.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import kvbatch
from kvbatch.errors import RefusedError, StoppedError
from kvbatch.kvrocks.keys import KEYED_FAMILIES
from support.kvrocks_standin import TENANT_TOKEN
from support.stores import read_store

ADDRESS = os.environ.get("KVBATCH_TEST_KVROCKS", "")
PASSWORD = os.environ.get("KVBATCH_KVROCKS_PASSWORD", "")
TARGET = f"kvrocks://{ADDRESS}"

pytestmark = pytest.mark.skipif(not ADDRESS, reason="KVBATCH_TEST_KVROCKS=host:port names no Kvrocks server")


def connect(password: str) -> redis.Redis:
    host, _, port = ADDRESS.rpartition(":")
    return redis.Redis(host, int(port), password=password or None, protocol=2, driver_info=None)


@pytest.fixture
def client() -> Iterator[redis.Redis]:
    with connect(PASSWORD) as connected:
        yield connected


@pytest.fixture
def fixture(client: redis.Redis) -> str:
    return "cluster" if client.config_get("cluster-enabled")["cluster-enabled"] == "yes" else "standalone"


def listing(shared_fixtures: Path, name: str) -> list[dict[str, Any]]:
    file = shared_fixtures / f"kvrocks-{name}.logical.jsonl.zst"
    lines = subprocess.run(["zstd", "-dc", file], stdout=subprocess.PIPE, check=True, text=True).stdout
    return [json.loads(line) for line in lines.splitlines()]


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def read_key(client: redis.Redis, key: bytes, kind: str) -> Any:
    """As the listings have it; None of a type whose value they say in a way of their own."""
    ask = client.execute_command
    if kind == "string":
        value = ask("GET", key)
        return f"{base64.b64encode(hashlib.sha256(value).digest()).decode()}:{len(value)}"
    if kind == "hash":
        return sorted([_text(field), _text(value)] for field, value in client.hgetall(key).items())
    if kind == "list":
        return [_text(element) for element in ask("LRANGE", key, 0, -1)]
    if kind == "set":
        return sorted(map(_text, client.smembers(key)))
    if kind == "bitmap":
        return ask("BITCOUNT", key)
    if kind == "hyperloglog":
        return ask("PFCOUNT", key)
    return None


def check_listing(client: redis.Redis, expected: list[dict[str, Any]]) -> None:
    assert {_text(key) for key in client.scan_iter(count=1000)} == {row["key"] for row in expected}
    for row in expected:
        key = base64.b64decode(row["key"])
        assert client.type(key).decode() == row["type"]
        assert (client.pttl(key) > 0) == row["expiretime_ms"]
        found = read_key(client, key, row["type"])
        if found is not None:
            assert found == (sorted(row["value"]) if row["type"] in ("hash", "set") else row["value"]), row


def check_copied(shared_fixtures: Path, client: redis.Redis, fixture: str) -> None:
    if fixture == "cluster":
        check_listing(client, listing(shared_fixtures, "cluster"))
        return
    check_listing(client, listing(shared_fixtures, "standalone-default"))
    if PASSWORD:
        with connect(TENANT_TOKEN) as tenant:
            check_listing(tenant, listing(shared_fixtures, "standalone-tenant_a"))


def test_a_directory_arrives_whole(shared_fixtures: Path, source: Path, client: redis.Redis, fixture: str) -> None:
    summary = kvbatch.migrate(source, TARGET, overwrite=True).wait()
    expected = read_store(source)
    assert summary.entries == sum(len(expected[name]) for name in KEYED_FAMILIES)
    check_copied(shared_fixtures, client, fixture)


def test_a_job_that_was_stopped_goes_on(shared_fixtures: Path, source: Path, client: redis.Redis, fixture: str) -> None:
    small: dict[str, Any] = {"range_bytes": "256KiB", "batch_bytes": "16KiB", "window": 3, "overwrite": True}
    migration = kvbatch.migrate(source, TARGET, **small, rate_limit="1MiB/s")
    for event in migration.events():
        if event.kind == "range" and event.data["state"] == "complete":
            break
    migration.cancel()
    with pytest.raises(StoppedError):
        migration.wait()
    assert kvbatch.migrate(source, TARGET, **small).wait().resumed
    check_copied(shared_fixtures, client, fixture)


def test_parts_make_up_the_whole(shared_fixtures: Path, source: Path, client: redis.Redis, fixture: str) -> None:
    if fixture == "cluster":
        parts = [{"slots": "0-8191"}, {"slots": "8192-16383"}]
    else:
        parts = [{"namespace": "__namespace"}, {"namespace": "tenant_a"}]
    for part in parts:
        kvbatch.migrate(source, TARGET, overwrite=True, **part).wait()
    check_copied(shared_fixtures, client, fixture)


def test_keys_that_stand_there_are_refused(source: Path, client: redis.Redis) -> None:
    client.set(b"x", b"y")
    with pytest.raises(RefusedError, match="already holds keys in"):
        kvbatch.plan(source, TARGET)
    plan = kvbatch.plan(source, TARGET, overwrite=True)
    assert plan.target_state is not None
    assert {finding.kind for finding in plan.target_state.findings} <= {"note", "warning"}
    assert client.get(b"x") == b"y"
