"""The conversation with a Kvrocks server: redis-py speaks it, and what the server refuses is raised as ours."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from kvbatch._core.frame import FrameLimits
from kvbatch._core.wire import Connection
from kvbatch.endpoints import KvrocksEndpoint
from kvbatch.errors import (
    CorruptionError,
    KvbatchError,
    NoSpaceError,
    TargetError,
    TransportError,
    UnavailableError,
    UsageError,
)
from kvbatch.protocol import tune

__all__ = ["KvrocksClient", "info_fields"]

_CONNECT_SECONDS = 10.0
# There is no such name, or it has no address.
_NO_SUCH_HOST = (socket.EAI_NONAME, socket.EAI_NODATA)
# Of what a server says: an unknown command is answered with all that was sent.
_SHOWN_CHARACTERS = 200
# What errors without a word of their own begin with.
_CORRUPTION = "Corruption:"
_SIZE_LIMITS = ("write command not allowed when reached max-db-size", "reach space limit")
_DISK_FULL = "No space left on device"
_TOO_LONG = "Protocol error: invalid bulk length"


class KvrocksClient:
    """One authenticated connection, for one thread but for `close`. Replies are bytes, integers and lists of
    them. Every call raises TransportError, UnavailableError, NoSpaceError, UsageError, CorruptionError or TargetError.

    wire  the same socket, for batches, whose replies `reply` takes
    """

    def __init__(
        self,
        endpoint: KvrocksEndpoint,
        silence_seconds: float,
        password: bytes | None = None,
        on_connected: Callable[[KvrocksClient], None] | None = None,
    ) -> None:
        """`silence_seconds`: how long the server may say nothing while it is waited for. `password`: instead of the
        endpoint's. `on_connected` gets the client before anything is waited for, so that another thread can close
        it."""
        self.name = str(endpoint)
        self._silence_seconds = silence_seconds
        self._redis = redis.Connection(
            host=endpoint.host,
            port=endpoint.port,
            # HELLO 3 is answered as if it were 2.
            protocol=2,
            socket_connect_timeout=_CONNECT_SECONDS,
            # A time-out of redis-py's would make the socket one that never blocks, which `wire` needs it to do.
            socket_timeout=None,
            retry=Retry(NoBackoff(), 0),
            driver_info=None,
        )
        with self._errors_as_ours():
            self._redis.connect()
            sock = self._redis._sock
            assert sock is not None
            tune(sock)
            self.wire: Connection = Connection(os.dup(sock.fileno()), self.name, FrameLimits())
        try:
            if on_connected is not None:
                on_connected(self)
            if secret := os.fsencode(endpoint.password) if password is None else password:
                self._authenticate(secret)
        except BaseException:
            self.close()
            raise

    def _authenticate(self, secret: bytes) -> None:
        try:
            self.ask("AUTH", secret)
        except TargetError as error:
            if error.resumable:
                raise
            # Some of what it says then is for redis-py an error like any other.
            raise self._not_authenticated(error.args[0]) from error

    def ask(self, *words: str | bytes) -> Any:
        """What the server answers to a command. Raises what an error among its answers means, too."""
        self.send(*words)
        return self.reply()

    def send(self, *words: str | bytes) -> None:
        """For an answer that is fetched later: every one comes in its turn."""
        with self._errors_as_ours():
            self._redis.send_command(*words, check_health=False)

    def has_reply(self) -> bool:
        """Whether `reply` need not wait."""
        with self._errors_as_ours():
            return self._redis.can_read(0)

    def reply(self, more_seconds: float = 0.0) -> Any:
        """The next one. `more_seconds`: that the server may take for it, beside what it may be silent."""
        with self._errors_as_ours():
            if not self._redis.can_read(0):
                seconds = self._silence_seconds + more_seconds
                if not self.wire.wait_readable(round(1000 * seconds)):
                    raise TransportError(f"{self.name} said nothing for {seconds:.0f} s")
            return self._redis.read_response(disable_decoding=True, disconnect_on_error=False)

    def close(self) -> None:
        """Ends the conversation, also one that another thread is in. Never raises."""
        self.wire.shutdown()

    @contextmanager
    def _errors_as_ours(self) -> Iterator[None]:
        try:
            yield
        except exceptions.RedisError as error:
            raise self._ours(error) from error
        except OSError as error:
            raise TransportError(f"{self.name}: {error.strerror or error}") from error

    def _ours(self, error: exceptions.RedisError) -> KvbatchError:
        said = f"{self.name} says {str(error)[:_SHOWN_CHARACTERS]!r}"
        # Some that only tell of the server's state are connection errors to redis-py.
        if isinstance(error, exceptions.BusyLoadingError):
            return UnavailableError(f"{said}: it does not serve yet. Nothing is lost", retryable=True)
        if isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError):
            return self._not_authenticated(said)
        if isinstance(error, exceptions.ReadOnlyError | exceptions.MasterDownError):
            return UnavailableError(
                f"{said}: it is a replica, and takes no writes. What it has answered to is safe; make it the master "
                "(SLAVEOF NO ONE)"
            )
        if isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError):
            return self._not_reached(error)
        return self._refused(str(error), said)

    def _not_authenticated(self, said: str) -> UsageError:
        return UsageError(
            f"{said}: give its requirepass, as kvrocks://:PASSWORD@host:port or in KVBATCH_KVROCKS_PASSWORD, or no "
            "password where it has none. Nothing is lost"
        )

    def _not_reached(self, error: exceptions.RedisError) -> KvbatchError:
        cause = error.__context__
        if isinstance(cause, socket.gaierror) and cause.errno in _NO_SUCH_HOST:
            return UsageError(f"{self.name}: there is no such host: {cause.strerror}")
        return TransportError(f"{self.name}: {error}")

    def _refused(self, message: str, said: str) -> KvbatchError:
        if message.startswith(_CORRUPTION):
            return CorruptionError(
                f"{said}: it takes no write of anybody from now on, and may not start again. It was sent nothing more. "
                "Keep its directory as it is, and see docs/kvrocks.md before it is stopped",
                retryable=False,
                final=True,
            )
        if message.startswith(_SIZE_LIMITS):
            return UnavailableError(
                f"{said}: what it holds is as large as it may become. What it has answered to is safe; raise the limit "
                "there (CONFIG SET max-db-size GIB, 0 for none)"
            )
        if _DISK_FULL in message:
            return NoSpaceError(said)
        if message.startswith(_TOO_LONG):
            return TransportError(f"{said}: its proto-max-bulk-len was lowered. Nothing of that batch was applied")
        return TargetError(said)


def info_fields(text: bytes) -> dict[str, str]:
    """The fields of an INFO section."""
    lines = (line.partition(":") for line in text.decode(errors="replace").splitlines() if not line.startswith("#"))
    return {name: value.strip() for name, colon, value in lines if colon}
