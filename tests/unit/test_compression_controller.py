from __future__ import annotations

import dataclasses

import pytest

from kvbatch.flow.compression_controller import (
    CodecName,
    CodecSample,
    CompressionObservation,
    CompressionState,
    blend,
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
# A rate limit of as much holds them up on a link that was never full.
RATE_LIMIT = dataclasses.replace(SLOW_LINK, blocked_share=0.0, rate_limit=100 * MB, limited_share=0.9)
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


def test_compression_is_turned_on_where_a_rate_limit_is_the_limit() -> None:
    for first in ("none", "lz4"):
        state = settle(RATE_LIMIT, first)
        assert state.codec == "lz4"
        assert state.sample == "zstd"
        assert state.reason == (
            "the rate limit of 95.4 MiB/s is the limit; expected with lz4 191 MiB/s, none 95.4 MiB/s"
        )


def test_a_rate_limit_says_nothing_about_the_link_behind_it() -> None:
    """Some waits in the calls that send are no sign that the link is full."""
    state = settle(dataclasses.replace(RATE_LIMIT, blocked_share=0.3, limited_share=0.6))
    assert state.link_rate == 0
    lifted = dataclasses.replace(FAST_LINK, goodput=800 * MB, wire_rate=400 * MB, samples={"lz4": LZ4})
    for _ in range(2):
        state = decide(state, lifted)
    assert state.codec == "none"
    assert state.reason.startswith("the sender is the limit")


def test_a_link_below_the_rate_limit_is_the_limit() -> None:
    state = settle(dataclasses.replace(SLOW_LINK, rate_limit=150 * MB, limited_share=0.2))
    assert state.codec == "lz4"
    assert state.reason == "the link is the limit at 95.4 MiB/s; expected with lz4 191 MiB/s, none 95.4 MiB/s"


def test_a_target_that_is_slower_than_the_rate_limit_is_the_limit() -> None:
    for codec in ("none", "lz4"):
        state = settle(dataclasses.replace(RATE_LIMIT, window_share=0.7, limited_share=0.2), codec)
        assert state.codec == codec
        assert state.reason.startswith("the target is the limit")


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


def test_a_codec_in_use_is_judged_when_a_frame_has_shown_what_it_does() -> None:
    state = settle(dataclasses.replace(FAST_LINK, samples={}), "lz4")
    assert (state.codec, state.sample, state.reason) == ("lz4", "lz4", "nothing is known yet")


def test_what_is_known_of_a_codec_is_the_mean_of_late() -> None:
    known = blend(None, LZ4)
    assert known == LZ4
    assert blend(known, LZ4) == CodecSample(LZ4.seconds_per_byte, pytest.approx(2.0))
    once = blend(known, CodecSample(3e-9, 1.0))
    assert (once.seconds_per_byte, once.ratio) == (pytest.approx(1.95e-9), pytest.approx(1 / 0.65))
    for _ in range(20):
        once = blend(once, CodecSample(3e-9, 1.0))
    assert once.ratio == pytest.approx(1.0, abs=0.01)


def test_an_idle_job_decides_nothing() -> None:
    state = CompressionState()
    assert decide(state, dataclasses.replace(SLOW_LINK, goodput=0.0, wire_rate=0.0)) is state
