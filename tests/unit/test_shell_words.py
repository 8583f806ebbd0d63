from __future__ import annotations

import os
import subprocess

from hypothesis import given
from hypothesis import strategies as st

from kvbatch.shell_words import join_words, quote_word, show_text


@given(st.lists(st.binary(max_size=12).filter(lambda word: b"\0" not in word), min_size=1, max_size=20))
def test_a_shell_reads_the_words_again(words: list[bytes]) -> None:
    command = join_words(os.fsdecode(word) for word in words)
    assert command.isprintable()
    said = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], stdout=subprocess.PIPE, check=True).stdout
    assert said.split(b"\0")[:-1] == words


def test_what_can_be_read_stays_as_it_is() -> None:
    assert [quote_word(word) for word in ("plain", "two words", "ключ", "")] == ["plain", "'two words'", "'ключ'", "''"]
    assert quote_word(os.fsdecode(b"it's \xff\n\xc3\xbc")) == r"$'it\'s \xff\x0aü'"


def test_what_a_terminal_would_obey_is_shown_as_its_bytes() -> None:
    assert show_text("a\x1b[31mRED\nline") == r"a\x1b[31mRED\x0aline"
    assert show_text("") == ""
    assert show_text("ключ \x9b\x7f\r" + os.fsdecode(b"\xff")) == r"ключ \xc2\x9b\x7f\x0d\xff"
