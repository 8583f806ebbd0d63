from __future__ import annotations

import json
from typing import Any

import pytest

from kvbatch.errors import UsageError
from kvbatch.ranges import KeyRange, Range, Selection, describe_key, parse_key_range


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


A, B = KeyRange(b"a", b"b"), KeyRange(b"c", None)
OF_FAMILIES = Selection(None, (("one", (A, B)), ("three", (KeyRange(),)), ("two", (A, B))))


@pytest.mark.parametrize("selection", [Selection(), Selection(A), OF_FAMILIES, Selection(None)], ids=str)
def test_selections_survive_json(selection: Selection) -> None:
    assert Selection.from_json(json.loads(json.dumps(selection.to_json()))) == selection


def test_a_selection_of_families_is_of_no_other() -> None:
    assert OF_FAMILIES.of("two") == (A, B)
    assert OF_FAMILIES.of("four") == ()
    assert Selection(A).of("four") == (A,)


@pytest.mark.parametrize(
    ("selection", "outside"),
    [
        (Selection(), []),
        (Selection(A), [KeyRange(None, b"a"), KeyRange(b"b", None)]),
        (Selection(B), [KeyRange(None, b"c")]),
        (OF_FAMILIES, [KeyRange(None, b"a"), KeyRange(b"b", b"c")]),
        (Selection(None, (("two", (A,)),)), [KeyRange()]),
    ],
    ids=str,
)
def test_outside_of_a_selection_is_the_rest_of_a_family(selection: Selection, outside: list[KeyRange]) -> None:
    assert selection.outside("one") == outside


@pytest.mark.parametrize(
    "ranges",
    [
        (),
        (B, A),
        (A, A),
        (A, KeyRange(b"b", b"c")),
        (A, KeyRange(None, b"d")),
        (B, KeyRange(b"d", None)),
        (KeyRange(b"a", b"a"),),
        (KeyRange(b"b", b"a"),),
    ],
    ids=lambda ranges: " ".join(map(str, ranges)) or "none",
)
def test_ranges_that_do_not_ascend_select_nothing(ranges: tuple[KeyRange, ...]) -> None:
    with pytest.raises(ValueError, match="ascend"):
        Selection(None, (("one", ranges),))


def test_families_of_a_selection_stand_there_once_and_by_name() -> None:
    for names in (("one", "one"), ("two", "one")):
        with pytest.raises(ValueError, match="ascend"):
            Selection(None, tuple((name, (A,)) for name in names))
    with pytest.raises(ValueError, match="exclude each other"):
        Selection(A, (("one", (A,)),))


def test_two_selections_that_differ_read_differently_however_long_they_are() -> None:
    assert str(OF_FAMILIES) == "one, two: 61..62, 63..; three: .."
    long = [
        Selection(None, (("one", tuple(KeyRange(bytes([i, 0]), bytes([i, 1])) for i in range(count))),))
        for count in (200, 201)
    ]
    assert str(long[0]) != str(long[1])
    assert max(len(str(each)) for each in long) < 500
