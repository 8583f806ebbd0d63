from __future__ import annotations

from typing import Any

import pytest

from kvbatch.errors import UsageError
from kvbatch.units import format_bytes, format_count, format_seconds, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("7B", 7),
        ("64KiB", 64 << 10),
        ("1.5GiB", 3 << 29),
        ("2TiB", 2 << 40),
        ("4M", 4 << 20),
        ("4m", 4 << 20),
        ("4mib", 4 << 20),
        ("4mb", 4_000_000),
        ("0.5K", 512),
        ("200MB", 200_000_000),
        ("1 MiB", 1 << 20),
        (" 1MiB ", 1 << 20),
        (4096, 4096),
    ],
)
def test_sizes_are_read(text: str | int, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "MiB", "1.MiB", ".5MiB", "-1", "1e6", "1,5MiB", "1XiB", "1iB", "1MiBs", "1 M iB", "0x10", None, 1.5, b"1"],
)
def test_what_is_no_size_is_wrong_usage(text: Any) -> None:
    with pytest.raises(UsageError, match="malformed size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (1570000000, "1.46 GiB"),
        (1023 << 20, "1023 MiB"),
        (5 << 40, "5 TiB"),
        (3000 << 40, "3000 TiB"),
    ],
)
def test_sizes_are_shown(size: int, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (1000, "1 k"),
        (999_600, "1000 k"),
        (1_250_000, "1.25 M"),
        (20_000_000_000, "20 G"),
        # Rates.
        (0.0, "0"),
        (0.37, "0.37"),
        (0.0042, "0.0042"),
        (2.0, "2"),
        (9.94, "9.9"),
        (9.96, "10"),
        (12.4, "12"),
    ],
)
def test_counts_are_shown(count: float, text: str) -> None:
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (61, "1 min 01 s"), (3600, "1 h 00 min"), (90061, "25 h 01 min")],
)
def test_times_are_shown(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
