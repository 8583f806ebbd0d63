from __future__ import annotations

import dataclasses

from kvbatch.flow.compression_controller import (
    CodecName,
    CodecSample,
    CompressionObservation,
    CompressionState,
    decide,
    estimates,
)

MB = 1_000_000
LZ4 = CodecSample(1.5e-9, 2.0)
ZSTD = CodecSample(5e-9, 3.0)
# A link of 100 MB/s holds up two streams that could pack ten times as much.
SLOW_LINK = CompressionObservation(
    seconds=0.5,
    goodput=100 * MB,
    wire_rate=100 * MB,
    blocked_share=0.9,
    window_share=0.0,
    pack_seconds_per_byte=1e-9,
    streams=2,
    idle_cores=1.9,
    samples={"lz4": LZ4},
)
# Nothing waits: the sender's cores are the limit.
FAST_LINK = dataclasses.replace(SLOW_LINK, goodput=2000 * MB, wire_rate=2000 * MB, blocked_share=0.0, idle_cores=0.0)


def settle(observed: CompressionObservation, codec: CodecName = "none") -> CompressionState:
    state = CompressionState(codec=codec)
    for _ in range(4):
        state = decide(state, observed)
    return state


def test_compression_is_turned_on_where_the_link_is_the_limit() -> None:
    state = settle(SLOW_LINK)
    assert state.codec == "lz4"
    assert state.reason.startswith("the link is the limit at 95.4 MiB/s; expected with lz4 191 MiB/s, none 95.4 MiB/s")


def test_one_interval_decides_nothing() -> None:
    assert decide(CompressionState(), SLOW_LINK).codec == "none"


def test_compression_is_turned_off_where_cores_are_the_limit() -> None:
    state = settle(dataclasses.replace(FAST_LINK, goodput=800 * MB, wire_rate=400 * MB), "lz4")
    assert state.codec == "none"
    assert state.reason.startswith("the sender is the limit; expected with none")


def test_data_that_does_not_shrink_is_not_compressed() -> None:
    assert settle(dataclasses.replace(SLOW_LINK, samples={"lz4": CodecSample(1.5e-9, 1.05)})).codec == "none"


def test_what_does_not_raise_goodput_stays_as_it_is() -> None:
    behind = dataclasses.replace(SLOW_LINK, blocked_share=0.0, window_share=0.8)
    for codec in ("none", "lz4"):
        state = settle(behind, codec)
        assert state.codec == codec
        assert state.reason.startswith("the target is the limit")


def test_cores_that_are_busy_with_other_things_compress_only_what_takes_a_little_of_them() -> None:
    busy = dataclasses.replace(SLOW_LINK, idle_cores=0.0)
    assert settle(busy).codec == "lz4"
    assert settle(dataclasses.replace(busy, samples={"lz4": CodecSample(5e-8, 2.5)})).codec == "none"


def test_a_single_lump_does_not_change_what_is_known_of_a_link() -> None:
    state = settle(SLOW_LINK)
    lump = decide(state, dataclasses.replace(SLOW_LINK, wire_rate=3 * SLOW_LINK.wire_rate))
    assert state.link_rate < lump.link_rate < 2 * state.link_rate


def test_zstd_is_tried_where_the_link_is_the_limit_and_cores_are_idle() -> None:
    state = settle(SLOW_LINK)
    assert state.sample == "zstd"
    assert settle(dataclasses.replace(SLOW_LINK, samples={"lz4": LZ4, "zstd": ZSTD})).codec == "zstd"


def test_zstd_is_not_tried_where_nothing_is_won() -> None:
    assert settle(FAST_LINK).sample is None


def test_estimates_are_of_the_slowest_stage() -> None:
    observed = dataclasses.replace(SLOW_LINK, samples={"lz4": LZ4, "zstd": ZSTD})
    # Each of two streams packs and compresses 1 GB in 2.5 s with lz4, in 6 s with zstd.
    assert estimates(CompressionState(link_rate=100 * MB, trusted_seconds=30), observed) == {
        "none": 100 * MB,
        "lz4": 200 * MB,
        "zstd": 300 * MB,
    }
    assert estimates(CompressionState(), observed)["lz4"] == 2 / 2.5e-9


def test_the_limit_of_a_link_is_remembered_while_compression_hides_it() -> None:
    state = settle(SLOW_LINK)
    hidden = dataclasses.replace(SLOW_LINK, goodput=190 * MB, wire_rate=95 * MB, blocked_share=0.05)
    for _ in range(40):
        state = decide(state, hidden)
    assert state.codec == "lz4"


def test_an_idle_job_decides_nothing() -> None:
    state = CompressionState()
    assert decide(state, dataclasses.replace(SLOW_LINK, goodput=0.0, wire_rate=0.0)) is state
