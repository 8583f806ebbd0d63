"""Which codec the next frame gets."""

from __future__ import annotations

from kvbatch._core.codec import Codec
from kvbatch._core.frame import Frame
from kvbatch.endpoints import Endpoint, ReceiverEndpoint, is_elsewhere
from kvbatch.flow.compression_controller import CodecName, CodecSample

__all__ = ["CodecChooser", "adapts", "first_choice"]

_CODECS: dict[CodecName, Codec] = {"none": Codec.NONE, "lz4": Codec.LZ4, "zstd": Codec.ZSTD}


def adapts(compression: str, target: Endpoint) -> bool:
    """Whether the codec is chosen while the job runs. Without a wire there is nothing to compress for, and a Kvrocks
    server takes batches as they are."""
    return compression == "auto" and isinstance(target, ReceiverEndpoint)


def first_choice(compression: str, target: Endpoint) -> CodecName:
    """Of `auto` before anything is known: lz4 where a network lies between, none where the CPU is the limit."""
    if not isinstance(target, ReceiverEndpoint):
        return "none"
    if compression == "auto":
        return "lz4" if is_elsewhere(target) else "none"
    return next(codec for codec in _CODECS if codec == compression)


class CodecChooser:
    """One a stream. The job's thread says what frames get; the stream tries another codec on one frame when asked."""

    def __init__(self, codec: CodecName) -> None:
        self._codec = _CODECS[codec]
        self._trial: CodecName | None = None
        self._tried: tuple[CodecName, CodecSample] | None = None

    def choose(self, codec: CodecName) -> None:
        self._codec = _CODECS[codec]

    def ask(self, codec: CodecName) -> None:
        """Has the next frame tried with `codec`; `take_sample` then has how it did."""
        self._trial = codec

    def take_sample(self) -> tuple[CodecName, CodecSample] | None:
        tried, self._tried = self._tried, None
        return tried

    @property
    def settled(self) -> bool:
        """Whether no frame is to be looked at."""
        return self._trial is None

    @property
    def usual(self) -> Codec:
        """What frames get that are no trial."""
        return self._codec

    @property
    def chosen(self) -> str:
        """Its name."""
        return self._codec.name.lower()

    def codec(self) -> Codec:
        return self._codec if self._trial is None else _CODECS[self._trial]

    def learn(self, frame: Frame, codec: Codec, compress_seconds: float) -> None:
        """Takes notice of how a frame came out that `codec` was meant for."""
        trial = self._trial
        if trial is None or codec is not _CODECS[trial] or frame.raw_length == 0:
            return
        self._trial = None
        self._tried = (
            trial,
            CodecSample(compress_seconds / frame.raw_length, frame.raw_length / max(1, frame.payload_length)),
        )
