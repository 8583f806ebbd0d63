"""Which codec the next frame gets."""

from __future__ import annotations

from kvbatch._core.codec import Codec
from kvbatch._core.frame import Frame
from kvbatch.endpoints import DirectoryEndpoint, Endpoint, is_elsewhere

__all__ = ["CodecChooser"]

_NAMES = {"none": Codec.NONE, "lz4": Codec.LZ4, "zstd": Codec.ZSTD}
# `auto` tries lz4 on one frame in so many while the data does not shrink to this share.
_SAMPLE_EVERY = 64
_WORTHWHILE_RATIO = 0.9


class CodecChooser:
    """One a stream. `auto`: none where no network lies between (the CPU is the limit there), else lz4, turned off
    while sampled frames do not shrink below 0.9."""

    def __init__(self, compression: str, target: Endpoint) -> None:
        if compression == "auto":
            self._fixed = None if is_elsewhere(target) else Codec.NONE
        else:
            # Without a wire there is nothing to compress for.
            self._fixed = Codec.NONE if isinstance(target, DirectoryEndpoint) else _NAMES[compression]
        self._frames_until_sample = 0

    @property
    def settled(self) -> bool:
        """Whether no frame changes what the next one gets."""
        return self._fixed is not None

    def codec(self) -> Codec:
        if self._fixed is not None:
            return self._fixed
        return Codec.LZ4 if self._frames_until_sample == 0 else Codec.NONE

    def learn(self, frame: Frame) -> Codec:
        """Takes notice of how a frame came out; what the next one gets."""
        if self._fixed is not None:
            return self._fixed
        if self._frames_until_sample > 0:
            self._frames_until_sample -= 1
        elif frame.payload_length > _WORTHWHILE_RATIO * frame.raw_length:
            self._frames_until_sample = _SAMPLE_EVERY
        return self.codec()
