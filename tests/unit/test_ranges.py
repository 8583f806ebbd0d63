from __future__ import annotations

from typing import Any

import pytest

from kvbatch.errors import UsageError
from kvbatch.ranges import KeyRange, Range, describe_key, parse_key_range


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("6100..62", b"a\0", b"b"),
        ("61..", b"a", None),
        ("..62", None, b"b"),
        ("..", None, None),
        ("00..ff", b"\0", b"\xff"),
        ("AB..cd", b"\xab", b"\xcd"),
    ],
)
def test_key_ranges_are_read_and_written(text: str, start: bytes | None, end: bytes | None) -> None:
    parsed = parse_key_range(text)
    assert parsed == KeyRange(start, end)
    assert str(parsed) == text.lower()
    assert parse_key_range(parsed) is parsed


@pytest.mark.parametrize("text", ["", "61", "61-62", "6..7", "xx..yy", "0x61..0x62", "61..62..63", None, 5, b"61..62"])
def test_what_is_no_key_range_is_wrong_usage(text: Any) -> None:
    with pytest.raises(UsageError, match="malformed range"):
        parse_key_range(text)


@pytest.mark.parametrize(
    "part",
    [
        Range(0, "default", None, None),
        Range(3, "ü x", b"", b"\xff\0", 10, 20),
        Range(1, "f", b"a", None, 1 << 60, 5),
    ],
)
def test_ranges_survive_json(part: Range) -> None:
    assert Range.from_json(part.to_json()) == part


def test_a_range_in_a_message_is_short_and_names_its_family() -> None:
    part = Range(7, "users", b"ab", bytes(100))
    assert str(part) == f'range 7 ("users" 6162..{"00" * 16}… (100 bytes))'
    assert (describe_key(None), describe_key(b""), describe_key(b"\x01")) == ("", "", "01")
