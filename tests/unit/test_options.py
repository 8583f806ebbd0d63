from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from kvbatch.errors import UsageError
from kvbatch.options import MigrationOptions, default_state_dir, default_streams
from kvbatch.ranges import KeyRange

MIB = 1 << 20


def test_the_defaults_are_those_that_the_command_line_documents() -> None:
    options = MigrationOptions.checked()
    assert (options.lane, options.compression, options.target_compression) == ("auto", "auto", "auto")
    assert (options.max_memory, options.batch_bytes, options.window) == (256 * MIB, 2 * MIB, 8)
    assert (options.key_range, options.column_families, options.job) == (KeyRange(), (), None)
    assert not options.allow_nonempty
    assert 1 <= options.streams == default_streams() <= 4


@pytest.mark.parametrize(
    ("name", "given", "held"),
    [
        ("max_memory", "1GiB", 1 << 30),
        ("batch_bytes", "auto", 2 * MIB),
        ("batch_bytes", "64KiB", 64 << 10),
        ("sst_file_bytes", "8M", 8 * MIB),
        ("key_range", "61..", KeyRange(b"a")),
        ("key_range", None, KeyRange()),
        ("column_families", ["a", "b"], ("a", "b")),
        ("job", "nightly-2.copy_1", "nightly-2.copy_1"),
        ("target_compression", "zstd", "zstd"),
    ],
)
def test_options_are_read(name: str, given: Any, held: Any) -> None:
    assert getattr(MigrationOptions.checked(**{name: given}), name) == held


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("lane", "fast", ["lane", "fast"]),
        ("streams", 0, ["streams", "0"]),
        ("streams", 65, ["streams", "65"]),
        ("streams", "many", ["streams", "many"]),
        ("compression", "rar", ["compression", "rar"]),
        ("target_compression", "rar", ["rar"]),
        ("max_memory", "lots", ["malformed size", "lots"]),
        ("max_memory", 0, ["max_memory"]),
        ("max_memory", -1, ["max_memory"]),
        ("max_memory", 1 << 70, ["max_memory"]),
        ("max_memory", None, ["malformed size"]),
        ("batch_bytes", 4095, ["4095", "4KiB", "64MiB"]),
        ("batch_bytes", "65MiB", ["4KiB", "64MiB"]),
        ("batch_bytes", 1.5, ["1.5"]),
        ("window", 0, ["window"]),
        ("window", 1025, ["window"]),
        ("key_range", "61", ["malformed range", "HEX..HEX"]),
        ("key_range", 5, ["malformed range"]),
        ("job", "", ["job"]),
        ("job", "../x", ["job", "../x"]),
        ("job", ".hidden", ["job"]),
        ("job", "x" * 65, ["job"]),
        ("job", "a\n", ["job"]),
        ("retries", -1, ["retries"]),
        ("sst_file_bytes", 0, ["sst_file_bytes"]),
        ("range_bytes", 0, ["range_bytes"]),
        ("max_ranges", 0, ["max_ranges"]),
        ("max_ranges", 10_001, ["max_ranges"]),
        ("speed", 9, ["speed"]),
    ],
)
def test_a_bad_option_is_wrong_usage_and_named(name: str, given: Any, words: list[str]) -> None:
    with pytest.raises(UsageError) as raised:
        MigrationOptions.checked(**{name: given})
    assert [word for word in words if word not in str(raised.value)] == [], raised.value


def test_memory_must_hold_a_frame_for_each_stream() -> None:
    with pytest.raises(UsageError, match=f"at least {32 * MIB}"):
        MigrationOptions.checked(streams=4, batch_bytes="4MiB", max_memory=32 * MIB - 1)
    assert MigrationOptions.checked(streams=4, batch_bytes="4MiB", max_memory=32 * MIB).streams == 4


def test_the_state_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state_dir() == tmp_path / "kvbatch"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_state_dir() == tmp_path / ".local" / "state" / "kvbatch"


def test_streams_follow_the_cores_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, streams in ((1, 1), (2, 2), (64, 4)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)))
        assert default_streams() == streams
