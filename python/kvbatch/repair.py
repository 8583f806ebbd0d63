"""Writing single keys to a target: what `verify --repair` does with the differences it found."""

from __future__ import annotations

from typing import Protocol

from kvbatch._core.codec import Codec
from kvbatch._core.frame import BufferPool, Frame, FrameType
from kvbatch._core.store import SourceStore, TargetStore
from kvbatch.endpoints import DirectoryEndpoint, ReceiverEndpoint, StoreEndpoint
from kvbatch.options import MIB
from kvbatch.protocol import Peer, connect, malformed_is_protocol_error
from kvbatch.stopping import StopRequest

__all__ = ["repair_keys"]

_REPAIR_BATCH_BYTES = MIB


class _Repairer(Protocol):
    def family_id(self, name: str) -> int: ...
    def write(self, frame: Frame) -> None: ...
    def finish(self) -> None:
        """Makes what was written durable."""

    def close(self) -> None: ...


class _DirectoryRepairer:
    def __init__(self, endpoint: DirectoryEndpoint) -> None:
        self._store = TargetStore(str(endpoint.path), create=False)

    def family_id(self, name: str) -> int:
        return self._store.family_id(name)

    def write(self, frame: Frame) -> None:
        self._store.write(frame)

    def finish(self) -> None:
        self._store.flush()

    def close(self) -> None:
        self._store.close()


class _ReceiverRepairer:
    def __init__(self, endpoint: ReceiverEndpoint) -> None:
        self._peer: Peer
        self._peer, _ = connect(endpoint.host, endpoint.port, "control")
        try:
            answer = self._peer.request("repair", name=endpoint.name)
            with malformed_is_protocol_error(self._peer.name, "answer to repair"):
                self._ids = {str(name): int(id_) for name, id_ in answer["family_ids"].items()}
        except BaseException:
            self._peer.close()
            raise

    def family_id(self, name: str) -> int:
        return self._ids[name]

    def write(self, frame: Frame) -> None:
        self._peer.send_frame(frame)
        self._peer.receive(FrameType.REPLY)

    def finish(self) -> None:
        self.write(Frame(BufferPool(MIB)))

    def close(self) -> None:
        self._peer.close()


def repair_keys(
    source: SourceStore, target: StoreEndpoint, differences: dict[str, list[bytes]], stop: StopRequest
) -> int:
    """Sends what the source holds for the differing keys, deletes what only the target has; how many keys. Ends early,
    with what was sent made durable, when it is to stop."""
    repairer: _Repairer = (
        _DirectoryRepairer(target) if isinstance(target, DirectoryEndpoint) else _ReceiverRepairer(target)
    )
    frame = Frame(BufferPool(1 << 30))
    repaired = 0
    try:
        for family, keys in differences.items():
            family_id = repairer.family_id(family)
            at = 0
            while at < len(keys) and not stop.made:
                at += source.pack_repair(family, keys, at, family_id, frame, _REPAIR_BATCH_BYTES, Codec.NONE)
                repairer.write(frame)
            repaired += at
        repairer.finish()
    finally:
        repairer.close()
    return repaired
