from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import kvbatch
from kvbatch.endpoints import (
    DirectoryEndpoint,
    KvrocksEndpoint,
    ReceiverEndpoint,
    check_apart,
    format_address,
    is_loopback,
    parse_endpoint,
    parse_listen,
    without_password,
)
from kvbatch.errors import RefusedError, UsageError


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/data/store", "/data/store"),
        ("rocksdb:/data/store", "/data/store"),
        ("/data/with space/ü", "/data/with space/ü"),
        ("rocksdb:/data/a:b", "/data/a:b"),
        ("/data/a:b", "/data/a:b"),
        (Path("/data/store"), "/data/store"),
    ],
)
def test_paths_are_directories(text: str, path: str) -> None:
    assert parse_endpoint(text) == DirectoryEndpoint(Path(path))


@pytest.mark.parametrize("text", ["7720", ":7720", "host", "host:", "host:x", "host:70000"])
def test_an_address_to_listen_on_has_a_host_and_a_port(text: str) -> None:
    with pytest.raises(UsageError, match=r"malformed address '.*write HOST:PORT"):
        parse_listen(text)


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_endpoint("store") == parse_endpoint("rocksdb:store") == DirectoryEndpoint(tmp_path / "store")


@pytest.mark.parametrize(
    ("text", "host", "port", "name"),
    [
        ("kvbatch://host:1234/store", "host", 1234, "store"),
        ("kvbatch://host/store", "host", 7720, "store"),
        ("kvbatch://127.0.0.1:1/a/b", "127.0.0.1", 1, "a/b"),
        ("kvbatch://[::1]:99/store", "::1", 99, "store"),
        ("kvbatch://host:1/with%20space", "host", 1, "with space"),
        ("kvbatch://host:1/store/", "host", 1, "store"),
        ("KVBATCH://host:1/store", "host", 1, "store"),
        ("kvbatch://host:1/50%25%3Fx=%23y", "host", 1, "50%?x=#y"),
        ("kvbatch://host:1/a%FF%0Ab", "host", 1, "a\udcff\nb"),
        ("kvbatch://host:1/a.b/c..d", "host", 1, "a.b/c..d"),
        ("kvbatch://store_1.rack-2.example./x", "store_1.rack-2.example.", 7720, "x"),
        ("kvbatch://bücher.example/x", "bücher.example", 7720, "x"),
        ("kvbatch://10.0.0.1/x", "10.0.0.1", 7720, "x"),
    ],
)
def test_receivers_are_read_and_written(text: str, host: str, port: int, name: str) -> None:
    endpoint = parse_endpoint(text)
    assert endpoint == ReceiverEndpoint(host, port, name)
    assert parse_endpoint(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("kvrocks://host:1234", KvrocksEndpoint("host", 1234)),
        ("kvrocks://host", KvrocksEndpoint("host", 6666)),
        ("KVROCKS://host:1/", KvrocksEndpoint("host", 1)),
        ("kvrocks://[::1]:99", KvrocksEndpoint("::1", 99)),
        ("kvrocks://:pass@host:1", KvrocksEndpoint("host", 1, "pass")),
        ("kvrocks://nobody:pa%40s%2Fs@host:1", KvrocksEndpoint("host", 1, "pa@s/s")),
        ("kvrocks://:@host:1", KvrocksEndpoint("host", 1)),
    ],
)
def test_servers_are_read(text: str, endpoint: KvrocksEndpoint) -> None:
    assert parse_endpoint(text) == endpoint
    assert parse_endpoint(str(endpoint)) == KvrocksEndpoint(endpoint.host, endpoint.port)


def test_a_password_that_is_not_typed_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVBATCH_KVROCKS_PASSWORD", "pass")
    assert parse_endpoint("kvrocks://host:1") == KvrocksEndpoint("host", 1, "pass")
    assert parse_endpoint("kvrocks://:typed@host:1") == KvrocksEndpoint("host", 1, "typed")


@pytest.mark.parametrize(
    "text",
    [
        "kvrocks://:secret@host:1",
        "kvrocks://:sec@ret@host:1",
        "kvrocks://:secret/@host:1",
        "kvrocks://:secret#@host:1",
        "kvrocks://secret@host:1",
        "kvrocks://:secret@host:x",
        "kvrocks://:secret@host:1/0",
        "kvrocks:/:secret@host:1",
    ],
)
def test_a_password_is_shown_nowhere(text: str) -> None:
    assert "sec" not in without_password(text)
    said: object
    try:
        said = parse_endpoint(text)
    except UsageError as error:
        said = error
    assert "sec" not in f"{said} {said!r}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rocksdb:",
        "kvbatch://",
        "kvbatch://host:1",
        "kvbatch://host:1/",
        "kvbatch:///store",
        "kvbatch://host:notaport/store",
        "kvbatch://host:70000/store",
        "kvbatch://host:0/store",
        "kvbatch://[::1/store",
        "kvbatch://ho st/store",
        "kvbatch://host%20name/store",
        "kvbatch://host..example/store",
        "kvbatch://.host/store",
        "kvbatch://-host/store",
        f"kvbatch://{'h' * 64}/store",
        "kvbatch://a;b/store",
        "kvbatch://[1:2]/store",
        "kvrocks://",
        "kvrocks://host:0",
        "kvrocks://host:70000",
        "kvrocks://host:1/0",
        "kvrocks://host:1?db=1",
        "kvrocks://:pass@ho st:1",
        "redis://host:1/0",
        "file:///data",
    ],
)
def test_what_is_no_endpoint_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError):
        parse_endpoint(text)


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("kvbatch:/127.0.0.1:7720/x", "write kvbatch://127.0.0.1:7720/x, "),
        ("kvbatch:host/x", "write kvbatch://host/x, "),
        ("127.0.0.1:7720/x", "write kvbatch://127.0.0.1:7720/x, "),
        ("db-2.example:7720/x/y", "write kvbatch://db-2.example:7720/x/y, "),
        ("localhost:7720", "write kvbatch://localhost:7720, "),
        ("[::1]:7720/x", "write kvbatch://[::1]:7720/x, "),
        ("ftp:/host/x", "PATH, rocksdb:PATH, kvbatch://host:port/NAME or kvrocks://[:PASSWORD@]host:port, "),
    ],
)
def test_a_mistyped_endpoint_is_no_new_directory(
    text: str, spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as raised:
        parse_endpoint(text)
    assert spelling in str(raised.value)
    assert str(raised.value).endswith(f"for a directory of that name ./{text}")
    for meant in (f"./{text}", f"rocksdb:{text}"):
        assert parse_endpoint(meant) == DirectoryEndpoint(tmp_path / text)
    (tmp_path / text.partition("/")[0]).mkdir()
    assert parse_endpoint(text) == DirectoryEndpoint(tmp_path / text)


@pytest.mark.parametrize(
    "text", ["a:b", "backup-12:30:00", "2026-01-01T12:30:00/x:1", "x/127.0.0.1:7720/y", "C:stores"]
)
def test_a_colon_alone_makes_no_address(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_endpoint(text) == DirectoryEndpoint(tmp_path / text)


@pytest.mark.parametrize("given", [None, 3, ["/data"], "/data/a\0b"], ids=repr)
def test_what_names_nothing_is_wrong_usage_in_every_call(given: Any, tmp_path: Path) -> None:
    for call in (kvbatch.plan, kvbatch.migrate, kvbatch.verify):
        for arguments in ((given, tmp_path / "target"), (tmp_path / "source", given)):
            with pytest.raises(UsageError) as raised:
                call(*arguments)
            assert str(raised.value).startswith(f"{given!r} names no store: ")
            assert "kvbatch://host:port/NAME" in str(raised.value)


@pytest.mark.parametrize(
    "name", ["..", ".", "../outside", "a/../b", ".hidden", "a/.hidden", "a//b", "/a", "a//", "%2e%2e/outside", "a%00b"]
)
def test_a_name_that_a_receiver_would_refuse_is_wrong_usage(name: str) -> None:
    with pytest.raises(UsageError, match="names no directory below the receiver's root"):
        parse_endpoint(f"kvbatch://host:1/{name}")


@pytest.mark.parametrize("text", ["kvbatch://host:1/store?mode=fast", "kvbatch://host:1/store#part"])
def test_no_part_of_an_endpoint_is_dropped_silently(text: str) -> None:
    """What is typed behind a `?` would otherwise go to another directory than the one that was named."""
    try:
        endpoint = parse_endpoint(text)
    except UsageError:
        return
    assert isinstance(endpoint, ReceiverEndpoint)
    assert endpoint.name == text.rpartition("/")[2]


@pytest.mark.parametrize(
    ("source", "target"), [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("a", "a/../a"), ("a", "link"), ("a", "link/b")]
)
def test_source_and_target_may_not_overlap(tmp_path: Path, source: str, target: str) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(RefusedError):
        check_apart(DirectoryEndpoint(tmp_path / source), DirectoryEndpoint(tmp_path / target))


@pytest.mark.parametrize(("source", "target"), [("a", "ab"), ("a", "b"), ("a/b", "a/c")])
def test_neighbours_are_apart(tmp_path: Path, source: str, target: str) -> None:
    check_apart(DirectoryEndpoint(tmp_path / source), DirectoryEndpoint(tmp_path / target))
    check_apart(DirectoryEndpoint(tmp_path / source), ReceiverEndpoint("127.0.0.1", 1, source))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.3.2.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("10.0.0.1", False),
        ("::1:2", False),
        ("127.0.0.1.example.com", False),
        ("localhost.example.com", False),
    ],
)
def test_only_this_machine_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


def test_an_ipv6_address_gets_brackets() -> None:
    assert (format_address("::1", 5), format_address("127.0.0.1", 5)) == ("[::1]:5", "127.0.0.1:5")
