from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvbatch._core.codec import Codec
from kvbatch._core.frame import BufferPool, Frame
from kvbatch._core.store import RangeReader
from kvbatch.compression import CodecChooser, adapts, first_choice
from kvbatch.endpoints import DirectoryEndpoint, Endpoint, ReceiverEndpoint
from support.sender import SmallSource
from support.stores import write_store

DIRECTORY = DirectoryEndpoint(Path("/target"))
FAR = ReceiverEndpoint("far.example.com", 7720, "x")


def near(host: str) -> ReceiverEndpoint:
    return ReceiverEndpoint(host, 7720, "x")


@pytest.mark.parametrize(
    ("compression", "target", "codec", "adaptive"),
    [
        ("none", FAR, "none", False),
        ("lz4", FAR, "lz4", False),
        ("zstd", FAR, "zstd", False),
        ("zstd", near("127.0.0.1"), "zstd", False),
        ("auto", FAR, "lz4", True),
        ("auto", near("127.0.0.1"), "none", True),
        ("auto", near("::1"), "none", True),
        ("auto", near("localhost.example.com"), "lz4", True),
        ("auto", DIRECTORY, "none", False),
        ("lz4", DIRECTORY, "none", False),
    ],
)
def test_the_first_frames_codec(compression: str, target: Endpoint, codec: str, adaptive: bool) -> None:
    assert first_choice(compression, target) == codec
    assert adapts(compression, target) == adaptive


def frame_of(tmp_path: Path, value: bytes, codec: Codec) -> Frame:
    source = SmallSource(
        write_store(tmp_path / value[:4].hex(), {"default": {b"key": value}}), [("default", None, None)]
    )
    frame = Frame(BufferPool(8 << 20))
    RangeReader(source.store, "default", None, None).fill(frame, 1 << 20, codec)
    return frame


def test_another_codec_is_tried_on_one_frame_when_asked(tmp_path: Path) -> None:
    chooser = CodecChooser("none")
    assert (chooser.settled, chooser.codec(), chooser.take_sample()) == (True, Codec.NONE, None)
    chooser.ask("lz4")
    assert (chooser.settled, chooser.codec(), chooser.chosen) == (False, Codec.LZ4, "none")
    # Packed before it was asked.
    chooser.learn(frame_of(tmp_path, os.urandom(100_000), Codec.NONE), Codec.NONE, 0.0)
    assert not chooser.settled
    chooser.learn(frame_of(tmp_path, bytes(100_000), Codec.LZ4), Codec.LZ4, 0.001)
    assert (chooser.settled, chooser.codec()) == (True, Codec.NONE)
    sample = chooser.take_sample()
    assert sample is not None
    assert sample[0] == "lz4"
    assert sample[1].ratio > 100
    assert sample[1].seconds_per_byte == pytest.approx(1e-8, rel=0.01)
    assert chooser.take_sample() is None


def test_what_does_not_shrink_says_so(tmp_path: Path) -> None:
    chooser = CodecChooser("none")
    chooser.ask("zstd")
    chooser.learn(frame_of(tmp_path, os.urandom(100_000), Codec.ZSTD), Codec.ZSTD, 0.001)
    sample = chooser.take_sample()
    assert sample is not None
    assert (sample[0], sample[1].ratio) == ("zstd", 1.0)


def test_what_is_chosen_holds_from_the_next_frame_on() -> None:
    chooser = CodecChooser("lz4")
    chooser.choose("zstd")
    assert (chooser.codec(), chooser.chosen) == (Codec.ZSTD, "zstd")
