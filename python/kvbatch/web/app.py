"""The live page, its events and its controls, as an application for any ASGI server, and the server it runs in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from typing import Any, Literal, Protocol, runtime_checkable

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from kvbatch.endpoints import is_loopback
from kvbatch.errors import KvbatchError, UsageError
from kvbatch.events import Event
from kvbatch.job_monitor import JobMonitor, WatchedJob

__all__ = ["ControlledJob", "PageServer", "make_app"]

TOKEN_HEADER = "X-Kvbatch-Token"
# Under another name this listener may be reached by a page of somebody else's, whose name was made to mean loopback.
_LOOPBACK_NAMES = ["localhost", "127.0.0.1", "::1", "[::1]"]
# A reader that is this far behind is let go, and takes up again with a snapshot.
_EVENTS_BEHIND = 256
_STOP_SECONDS = 2
_LOOK_SECONDS = 1.0

Endpoint = Callable[[Request], Awaitable[Response]]


@runtime_checkable
class ControlledJob(Protocol):
    """What the controls of the page need of a job."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def set(self, **changes: Any) -> Any: ...


class _ControlRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    action: Literal["pause", "resume", "set"]
    # With `set` alone: bytes a second, or text like 20MiB; 0 for none.
    rate_limit: int | str | None = None


def _page(token: str) -> Endpoint:
    """`token`: empty where the page has no controls."""
    folder = files("kvbatch.web")
    parts = {name: (folder / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")}
    assembled = (
        parts["page.html"]
        .replace("{{style}}", parts["page.css"])
        .replace("{{script}}", parts["page.js"])
        .replace("{{token}}", token)
    )

    async def page(request: Request) -> Response:
        del request
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
        return HTMLResponse(assembled.replace("{{nonce}}", nonce), headers=headers)

    return page


def _message(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _events(monitor: JobMonitor) -> Endpoint:
    async def follow() -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        coming: asyncio.Queue[Event | None] = asyncio.Queue()

        def hear(event: Event | None) -> None:
            # The loop may have ended meanwhile, and with it whoever listened.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(coming.put_nowait, event)

        snapshot = monitor.subscribe(hear)
        try:
            yield _message(snapshot)
            if snapshot["finished"]:
                return
            while (event := await coming.get()) is not None and coming.qsize() < _EVENTS_BEHIND:
                yield _message(event.to_json())
            # What came last of a job, its final figures among it.
            if monitor.snapshot()["finished"]:
                yield _message(monitor.snapshot())
        finally:
            monitor.unsubscribe(hear)

    async def events(request: Request) -> Response:
        del request
        return StreamingResponse(follow(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    return events


def _refused(status: int, error: str) -> Response:
    return JSONResponse({"error": error}, status_code=status)


def _control(job: ControlledJob, token: str) -> Endpoint:
    async def control(request: Request) -> Response:
        # Any page in the operator's browser can send requests here. It can neither read the token nor lie about where
        # it comes from.
        if request.headers.get("origin") != f"http://{request.headers.get('host')}":
            return _refused(403, "this did not come from the job's own page")
        if not secrets.compare_digest(request.headers.get(TOKEN_HEADER, "").encode(), token.encode()):
            return _refused(403, "the token is not that of this job's page: load it again")
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return _refused(415, "send JSON")
        try:
            wanted = _ControlRequest.model_validate_json(await request.body())
        except ValidationError as error:
            return _refused(400, f"malformed request: {error.errors()[0]['msg']}")
        if (wanted.action == "set") != (wanted.rate_limit is not None):
            return _refused(400, "a rate_limit belongs to `set`, and to nothing else")
        try:
            # It may wait for the job.
            if wanted.action == "set":
                await asyncio.to_thread(job.set, rate_limit=wanted.rate_limit)
            else:
                await asyncio.to_thread(job.pause if wanted.action == "pause" else job.resume)
        except UsageError as error:
            return _refused(400, str(error))
        except KvbatchError as error:
            return _refused(409, str(error))
        return Response(status_code=204)

    return control


def make_app(host: str, job: WatchedJob, monitor: JobMonitor, registry: CollectorRegistry) -> Starlette:
    """`host`: the address it is reached at; only where that is loopback, the job can be controlled."""
    token = ""
    routes = []
    if is_loopback(host) and isinstance(job, ControlledJob):
        token = secrets.token_urlsafe(32)
        routes.append(Route("/control", _control(job, token), methods=["POST"]))

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": content_type})

    async def status(request: Request) -> Response:
        del request
        return JSONResponse(monitor.snapshot(), headers={"Cache-Control": "no-store"})

    routes += [
        Route("/", _page(token)),
        Route("/metrics", metrics),
        Route("/events", _events(monitor)),
        Route("/status.json", status),
    ]
    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=[host, *_LOOPBACK_NAMES], www_redirect=False)
    return Starlette(routes=routes, middleware=[trusted] if is_loopback(host) else [])


class _Server(uvicorn.Server):
    """Looks up once a second, and when it is to stop: looking ten times a second costs as much as two scrapes."""

    _loop: asyncio.AbstractEventLoop | None = None
    _woken: asyncio.Event

    async def main_loop(self) -> None:
        self._woken = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        # 0: each look brings the Date of the answers up to date.
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), _LOOK_SECONDS)

    def end(self) -> None:
        """From any thread; idempotent."""
        self.should_exit = True
        if self._loop is not None:
            # It may have ended meanwhile.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._woken.set)


class PageServer:
    """Serves an application on a listening socket, which it owns from now on, in a thread of its own."""

    def __init__(self, listening: socket.socket, app: Starlette) -> None:
        self._socket = listening
        config = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            loop="asyncio",
            http="h11",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
        self._server = _Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listening]}, name="kvbatch-page", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Frees the address. Idempotent."""
        self._server.end()
        self._thread.join()
        self._socket.close()
