"""A network between a sender and a receiver that tests cut, bend, hold up, or use to know when to strike."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from kvbatch._core.frame import FrameType
from support.wire import WireFrame, read_frame

__all__ = [
    "RETRIED",
    "Cut",
    "Hold",
    "Link",
    "Passing",
    "Trap",
    "data_frame",
    "ending",
    "finish_answer",
    "finish_request",
    "flipped",
    "open_request",
    "unchanged",
]

_DATA = (FrameType.DATA, FrameType.FILE)
# What a sender says when it connects again.
RETRIED = '"event": "retry"'
# "up" goes to the receiver.
Direction = Literal["up", "down"]


@dataclass(frozen=True)
class Passing:
    """A frame on its way. `number` counts the DATA and FILE frames of all connections from 1; `operation` is the last
    request of its connection."""

    direction: Direction
    frame: WireFrame
    number: int
    operation: str

    @property
    def data(self) -> bytes:
        return self.frame.header.encode() + self.frame.payload


class Cut(Exception):  # noqa: N818 - no error: what a test wants to happen
    """Ends the connection behind the given bytes; `everywhere` ends all others too."""

    def __init__(self, part: bytes = b"", *, everywhere: bool = False) -> None:
        super().__init__()
        self.part = part
        self.everywhere = everywhere


# What goes on instead of a frame. One call at a time: all connections stand still meanwhile.
Hook = Callable[[Passing], bytes]


def unchanged(passing: Passing) -> bytes:
    return passing.data


@dataclass
class Trap:
    """Strikes at the first frame that meets the condition, and only then."""

    when: Callable[[Passing], bool]
    strike: Hook
    struck: threading.Event = field(default_factory=threading.Event)

    def __call__(self, passing: Passing) -> bytes:
        if self.struck.is_set() or not self.when(passing):
            return passing.data
        try:
            return self.strike(passing)
        finally:
            self.struck.set()


@dataclass
class Hold:
    """Holds the link up at the first frame that meets the condition, until `release` is set."""

    when: Callable[[Passing], bool]
    reached: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def __call__(self, passing: Passing) -> bytes:
        if not self.reached.is_set() and self.when(passing):
            self.reached.set()
            self.release.wait()
        return passing.data


def data_frame(number: int) -> Callable[[Passing], bool]:
    return lambda passing: passing.frame.type in _DATA and passing.number >= number


def ending(type_: FrameType, number: int) -> Callable[[Passing], bool]:
    """The first frame of this type behind so many that carry data."""
    return lambda passing: passing.frame.type == type_ and passing.number >= number


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _request(operation: str) -> Callable[[Passing], bool]:
    return lambda passing: (
        passing.direction == "up" and passing.frame.type == FrameType.REQUEST and passing.operation == operation
    )


open_request = _request("open")
finish_request = _request("finish")


def finish_answer(passing: Passing) -> bool:
    return passing.direction == "down" and passing.frame.type == FrameType.REPLY and passing.operation == "finish"


class Link:
    """Listens on `port` and carries whole frames to and from `upstream`, through `hook`, until it is closed."""

    def __init__(self, upstream: int, hook: Hook = unchanged) -> None:
        self.hook = hook
        self.upstream = upstream
        self._lock = threading.Lock()
        self._data_frames = 0
        self._failure: Exception | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.upstream))
            except OSError:
                near.close()
                continue
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [near, far]
            last: list[str] = [""]
            ways: tuple[tuple[Direction, socket.socket, socket.socket], ...] = (("up", near, far), ("down", far, near))
            for way in ways:
                thread = threading.Thread(target=self._pump, args=(*way, last), daemon=True)
                thread.start()
                self._threads.append(thread)

    def _pump(self, direction: Direction, source: socket.socket, sink: socket.socket, last: list[str]) -> None:
        try:
            while True:
                frame = read_frame(source)
                if direction == "up" and frame.type == FrameType.REQUEST:
                    last[0] = frame.json["operation"]
                with self._lock:
                    if frame.type in _DATA:
                        self._data_frames += 1
                    data = self.hook(Passing(direction, frame, self._data_frames, last[0]))
                sink.sendall(data)
        except Cut as cut:
            with contextlib.suppress(OSError):
                sink.sendall(cut.part)
            if cut.everywhere:
                self.cut()
        except (EOFError, OSError):
            pass
        except Exception as error:
            # A sender that waited for what this hook has swallowed would wait forever.
            self._failure = error
        finally:
            _shut(source)
            _shut(sink)

    @property
    def data_frames(self) -> int:
        """How many have come by."""
        with self._lock:
            return self._data_frames

    def cut(self) -> None:
        """Ends every connection."""
        for end in list(self._sockets):
            _shut(end)

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Raises AssertionError when a hook did not do what it should."""
        if isinstance(self.hook, Hold):
            self.hook.release.set()
        _shut(self._listener)
        self._listener.close()
        self._threads[0].join()
        self.cut()
        for thread in self._threads:
            thread.join()
        for end in self._sockets:
            end.close()
        if self._failure is not None:
            raise AssertionError("the hook of the link failed") from self._failure


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
