"""Where data comes from and goes to, as the command line and the API write it."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard
from urllib.parse import quote, unquote, urlsplit

from kvbatch.errors import RefusedError, UsageError

__all__ = [
    "DEFAULT_PORT",
    "DirectoryEndpoint",
    "Endpoint",
    "KvrocksEndpoint",
    "ReceiverEndpoint",
    "StoreEndpoint",
    "check_apart",
    "format_address",
    "is_elsewhere",
    "is_loopback",
    "is_receiver_name",
    "os_reason",
    "parse_endpoint",
    "parse_listen",
    "standing_part",
    "without_password",
]

DEFAULT_PORT = 7720
KVROCKS_PORT = 6666
_ENDPOINTS = "PATH, rocksdb:PATH, kvbatch://host:port/NAME or kvrocks://[:PASSWORD@]host:port"
_KVROCKS = "write kvrocks://host:port or kvrocks://:PASSWORD@host:port"
# A command line can be read by every user of a machine.
_PASSWORD_VARIABLE = "KVBATCH_KVROCKS_PASSWORD"
# Everything up to the last @: a password that was not quoted may hold whatever stands before it.
_PASSWORD = re.compile(r"(kvrocks:/*).*@", re.IGNORECASE | re.DOTALL)
# What hardly anybody means by a path: kvbatch:…, or HOST:PORT before a slash or the end; SCHEME:/….
_LOOKS_REMOTE = re.compile(
    r"(?P<receiver>kvbatch:|([\w.-]+|\[[0-9A-Fa-f:.]+\]):\d+(/|$))|[A-Za-z][A-Za-z0-9+.-]*:/",
)
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


@dataclass(frozen=True, slots=True)
class DirectoryEndpoint:
    """A RocksDB directory on this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class ReceiverEndpoint:
    """The directory `name` below the root of a `kvbatch serve`."""

    host: str
    port: int
    name: str

    def __str__(self) -> str:
        return f"kvbatch://{format_address(self.host, self.port)}/{_quoted(self.name)}"


@dataclass(frozen=True, slots=True)
class KvrocksEndpoint:
    """A running Kvrocks server. Its password is no part of what is shown or kept of it; empty: none was given."""

    host: str
    port: int
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"kvrocks://{format_address(self.host, self.port)}"


def without_password(word: str) -> str:
    """A word of a command line as it may be shown: a server's password is left out."""
    return _PASSWORD.sub(r"\1:PASSWORD@", word)


def _quoted(name: str) -> str:
    """Of the path of a URL, what would be read as something else or cannot be typed."""
    return "".join(
        each if each.isprintable() and each not in "%?#" else quote(os.fsencode(each), safe="") for each in name
    )


def format_address(host: str, port: int) -> str:
    """host:port, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether the name or address can only mean this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, an IPv6 address in brackets; port 0 stands for a free one. Raises UsageError."""
    host, separator, port = text.rpartition(":")
    written = f"write HOST:PORT, for example 127.0.0.1:{DEFAULT_PORT}"
    if not separator or not host or not port.isdecimal():
        raise UsageError(f"malformed address {text!r}: {written}")
    if int(port) > 65535:
        raise UsageError(f"malformed address {text!r}: ports go from 1 to 65535, and 0 takes a free one; {written}")
    return host.strip("[]"), int(port)


def _is_host(host: str) -> bool:
    """Whether it is an address or could be the name of a machine."""
    try:
        ipaddress.ip_address(host)
        return True
    except ValueError:
        pass
    try:
        labels = host.encode("idna").decode().removesuffix(".").split(".")
    except UnicodeError:
        return False
    return all(_HOST_LABEL.fullmatch(label) for label in labels)


def is_receiver_name(name: str) -> bool:
    """Whether it names a directory below a receiver's root: parts with slashes between them, none empty or hidden."""
    return all(part and not part.startswith(".") and "\0" not in part for part in name.split("/"))


# Those whose entries can be read one by one.
StoreEndpoint = DirectoryEndpoint | ReceiverEndpoint
Endpoint = StoreEndpoint | KvrocksEndpoint


def is_elsewhere(endpoint: Endpoint) -> TypeGuard[ReceiverEndpoint]:
    """Whether it is a receiver, and a network lies between: not on a loopback address."""
    return isinstance(endpoint, ReceiverEndpoint) and not is_loopback(endpoint.host)


def parse_endpoint(text: str | os.PathLike[str]) -> Endpoint:
    """A path, `rocksdb:PATH`, `kvbatch://host:port/NAME` or `kvrocks://[:PASSWORD@]host:port`. Raises UsageError."""
    try:
        text = os.fsdecode(text)
    except TypeError as error:
        raise UsageError(f"{text!r} names no store: give {_ENDPOINTS}") from error
    if "\0" in text:
        raise UsageError(f"{text!r} names no store: no path has a null character. Give {_ENDPOINTS}")
    scheme, separator, rest = text.partition(":")
    if scheme.lower() == "kvbatch" and rest.startswith("//"):
        return _parse_receiver(text)
    if scheme.lower() == "kvrocks" and rest.startswith("//"):
        return _parse_kvrocks(text)
    if scheme.lower() == "rocksdb" and separator:
        text = rest
    elif "://" in text:
        raise UsageError(f"unknown endpoint {text!r}: this version moves {_ENDPOINTS}")
    elif (found := _LOOKS_REMOTE.match(text)) and not Path(text.partition("/")[0]).is_dir():
        receiver = text.removeprefix("kvbatch:").lstrip("/")
        meant = (
            f"for a receiver write kvbatch://{receiver}" if found["receiver"] else f"this version moves {_ENDPOINTS}"
        )
        shown = without_password(text)
        raise UsageError(f"{shown!r} is no endpoint: {meant}, for a directory of that name ./{shown}")
    if not text:
        raise UsageError("an empty path names no store")
    return DirectoryEndpoint(Path(text).absolute())


def _parse_receiver(text: str) -> ReceiverEndpoint:
    try:
        parts = urlsplit(text)
        port = DEFAULT_PORT if parts.port is None else parts.port
        if port == 0:
            raise ValueError("no receiver has port 0")
    except ValueError as error:
        # What urllib says of a port is no whole sentence.
        raise UsageError(
            f"malformed endpoint {text!r}: {error}; write kvbatch://host:port/NAME with a port from 1 to 65535"
        ) from error
    name = unquote(parts.path.removeprefix("/").removesuffix("/"), errors="surrogateescape")
    if not parts.hostname or not name or parts.query or parts.fragment or parts.username is not None:
        raise UsageError(f"malformed endpoint {text!r}: write kvbatch://host:port/NAME")
    if not _is_host(parts.hostname):
        raise UsageError(f"malformed endpoint {text!r}: {parts.hostname!r} is no host name and no address")
    if not is_receiver_name(name):
        raise UsageError(
            f"malformed endpoint {text!r}: {name!r} names no directory below the receiver's root; write parts with "
            "single slashes between them, none of which begins with a dot"
        )
    return ReceiverEndpoint(parts.hostname, port, name)


def _parse_kvrocks(text: str) -> KvrocksEndpoint:
    # What urllib complains of may hold the password, so that neither its words nor the text itself is shown.
    malformed = UsageError(f"malformed endpoint {without_password(text)!r}: {_KVROCKS}, with a port from 1 to 65535")
    try:
        parts = urlsplit(text)
        port = KVROCKS_PORT if parts.port is None else parts.port
    except ValueError:
        raise malformed from None
    if not parts.hostname or port == 0 or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise malformed
    if parts.username is not None and parts.password is None:
        raise UsageError(
            f"malformed endpoint {without_password(text)!r}: a colon stands before the password; {_KVROCKS}"
        )
    if not _is_host(parts.hostname):
        raise UsageError(
            f"malformed endpoint {without_password(text)!r}: {parts.hostname!r} is no host name and no address"
        )
    # A server of this kind knows no users: whose password it is follows from the password.
    password = os.environ.get(_PASSWORD_VARIABLE, "") if parts.password is None else unquote(parts.password)
    return KvrocksEndpoint(parts.hostname, port, password)


def check_apart(source: Endpoint, target: Endpoint) -> None:
    """Raises RefusedError when one of two directories is, or lies in, the other."""
    if not isinstance(source, DirectoryEndpoint) or not isinstance(target, DirectoryEndpoint):
        return
    real_source = Path(os.path.realpath(source.path))
    real_target = Path(os.path.realpath(target.path))
    if real_source == real_target:
        raise RefusedError(
            f"source and target are the same directory, {real_source}. Nothing was written; choose another target"
        )
    for inner, outer in ((real_source, real_target), (real_target, real_source)):
        if inner.is_relative_to(outer):
            raise RefusedError(
                f"{inner} lies inside {outer}. Nothing was written; choose a target outside of the source"
            )


def standing_part(path: Path) -> Path:
    """The path itself, or the nearest of its parents that exists."""
    return next(each for each in (path, *path.parents) if each.exists())


def os_reason(error: OSError) -> str:
    """What the system says, without what a library put behind it."""
    return os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error)
