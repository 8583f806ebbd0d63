"""`--metrics-listen`: the metrics of a migration or a receiver, and a migration's live page, over HTTP."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from kvbatch.at_exit import stop_at_exit
from kvbatch.endpoints import format_address, os_reason, parse_listen
from kvbatch.errors import KvbatchError, UsageError
from kvbatch.job_monitor import JobMonitor, WatchedJob
from kvbatch.server import Receiver

# What is behind these takes half a second to import, and most programs never ask for it.
if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from prometheus_client import CollectorRegistry

__all__ = ["MetricsListener", "serve_metrics"]

# The live page of a job that ended gets this long to hear of its end.
_LAST_EVENT_SECONDS = 2.0
_WEB_PACKAGES = ("starlette", "uvicorn")


class _Server(Protocol):
    def stop(self) -> None: ...


@dataclass(eq=False)
class MetricsListener:
    """Answers until `stop`; made by `serve_metrics`. In a `with` statement it is stopped at its end."""

    host: str
    port: int
    page: bool
    _server: _Server = field(repr=False)
    _monitor: JobMonitor | None = field(repr=False)

    @property
    def url(self) -> str:
        """Of the live page; of the metrics where there is none."""
        return f"http://{format_address(self.host, self.port)}/{'' if self.page else 'metrics'}"

    def __str__(self) -> str:
        """A line that says what is where."""
        if self.page:
            return f"metrics at {self.url}metrics and a live page at {self.url}"
        if self._monitor is not None:
            return f"metrics at {self.url} (for a live page, too: pip install starlette uvicorn)"
        return f"metrics at {self.url}"

    def stop(self) -> None:
        """Frees the address. Idempotent."""
        if self._monitor is not None:
            self._monitor.close()
        self._server.stop()

    def stop_at_exit(self) -> None:
        self.stop()

    def __enter__(self) -> MetricsListener:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # Whatever ended the job is told by `Migration.wait`, as such an error.
        if self._monitor is not None and (error is None or isinstance(error, KvbatchError)):
            self._monitor.wait(_LAST_EVENT_SECONDS)
        self.stop()


def _at_metrics_only(app: WSGIApplication) -> WSGIApplication:
    """prometheus_client answers every path with the metrics, and HEAD with 405."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/metrics":
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"Not Found"]
        head = environ["REQUEST_METHOD"] == "HEAD"
        body = app({**environ, "REQUEST_METHOD": "GET"} if head else environ, start_response)
        # Two parts: of a single one wsgiref would say its length, and a GET has another.
        return [b"", b""] if head else body

    return answer


class _MetricsServer:
    """prometheus_client's own server, which has nothing but the metrics."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        from prometheus_client import start_http_server

        self._server, self._thread = start_http_server(port, host, registry)
        app = self._server.get_app()
        assert app is not None
        self._server.set_app(_at_metrics_only(app))
        self.host, self.port = self._server.server_address[:2]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _has_web_extra() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in _WEB_PACKAGES)


def serve_metrics(source: WatchedJob | Receiver, listen: str) -> MetricsListener:
    """Serves the Prometheus metrics of a migration or a receiver at `listen`, `HOST:PORT`; port 0 takes a free one.

    With the extra `web` a migration gets a live page, too. Nobody is asked for a password: on an address other than
    loopback all of it is for reading only, on loopback the page can pause, resume and set the rate. Best called before
    the job runs: samples from before the call are in no histogram. Raises UsageError when it cannot listen, or for a
    source that is neither.
    """
    if not isinstance(source, (Receiver, WatchedJob)):
        raise UsageError(f"metrics of {source!r}: give a Migration or a Receiver")
    host, port = parse_listen(listen)
    try:
        if isinstance(source, Receiver):
            from kvbatch.metrics_receiver import receiver_registry

            metrics = _MetricsServer(host, port, receiver_registry(source))
            return _kept(MetricsListener(str(metrics.host), metrics.port, False, metrics, None))
        from kvbatch.metrics import sender_registry

        if not _has_web_extra():
            monitor = JobMonitor(source)
            metrics = _MetricsServer(host, port, sender_registry(monitor))
            return _kept(MetricsListener(str(metrics.host), metrics.port, False, metrics, monitor))
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        address = format_address(host, port)
        raise UsageError(f"serve metrics at {address}: {os_reason(error)}; give another HOST:PORT") from error
    from kvbatch.web.app import PageServer, make_app

    monitor = JobMonitor(source)
    bound_host, bound_port = listening.getsockname()[:2]
    server = PageServer(listening, make_app(bound_host, source, monitor, sender_registry(monitor)))
    return _kept(MetricsListener(bound_host, bound_port, True, server, monitor))


def _kept(listener: MetricsListener) -> MetricsListener:
    stop_at_exit(listener)
    return listener
