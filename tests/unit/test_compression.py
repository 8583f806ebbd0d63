from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvbatch._core.codec import Codec
from kvbatch._core.frame import BufferPool, Frame
from kvbatch._core.store import RangeReader
from kvbatch.compression import CodecChooser
from kvbatch.endpoints import DirectoryEndpoint, Endpoint, ReceiverEndpoint
from support.sender import SmallSource
from support.stores import write_store

DIRECTORY = DirectoryEndpoint(Path("/target"))
FAR = ReceiverEndpoint("far.example.com", 7720, "x")


def near(host: str) -> ReceiverEndpoint:
    return ReceiverEndpoint(host, 7720, "x")


@pytest.mark.parametrize(
    ("compression", "target", "codec"),
    [
        ("none", FAR, Codec.NONE),
        ("lz4", FAR, Codec.LZ4),
        ("zstd", FAR, Codec.ZSTD),
        ("zstd", near("127.0.0.1"), Codec.ZSTD),
        ("auto", FAR, Codec.LZ4),
        ("auto", near("127.0.0.1"), Codec.NONE),
        ("auto", near("::1"), Codec.NONE),
        ("auto", near("localhost.example.com"), Codec.LZ4),
        ("auto", DIRECTORY, Codec.NONE),
        ("lz4", DIRECTORY, Codec.NONE),
    ],
)
def test_the_first_frames_codec(compression: str, target: Endpoint, codec: Codec) -> None:
    assert CodecChooser(compression, target).codec() == codec


def frame_of(tmp_path: Path, value: bytes, codec: Codec) -> Frame:
    source = SmallSource(
        write_store(tmp_path / value[:4].hex(), {"default": {b"key": value}}), [("default", None, None)]
    )
    frame = Frame(BufferPool(8 << 20))
    RangeReader(source.store, "default", None, None).fill(frame, 1 << 20, codec)
    return frame


def test_auto_stops_where_data_does_not_shrink_and_looks_again_later(tmp_path: Path) -> None:
    chooser = CodecChooser("auto", FAR)
    dense = frame_of(tmp_path, os.urandom(100_000), Codec.LZ4)
    assert dense.payload_length == dense.raw_length
    chooser.learn(dense)
    codecs = []
    for _ in range(130):
        codecs.append(chooser.codec())
        chooser.learn(dense)
    assert codecs[0] == Codec.NONE
    assert codecs.count(Codec.LZ4) == 2


def test_auto_goes_on_where_data_shrinks(tmp_path: Path) -> None:
    chooser = CodecChooser("auto", FAR)
    loose = frame_of(tmp_path, bytes(100_000), Codec.LZ4)
    assert loose.payload_length < loose.raw_length // 10
    for _ in range(100):
        assert chooser.codec() == Codec.LZ4
        chooser.learn(loose)


def test_what_was_asked_for_is_kept_to(tmp_path: Path) -> None:
    chooser = CodecChooser("zstd", FAR)
    for _ in range(3):
        chooser.learn(frame_of(tmp_path, os.urandom(1000), Codec.ZSTD))
        assert chooser.codec() == Codec.ZSTD
