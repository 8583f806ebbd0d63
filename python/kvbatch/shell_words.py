"""Text of others where people read it: words quoted for the shell, and what a terminal shows."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable

__all__ = ["join_words", "quote_word", "show_text"]


def quote_word(word: str) -> str:
    """As shlex.quote; a word that nobody could type or read, such as a path that is no text, as $'…' of POSIX.1-2024,
    which bash, ksh and zsh know as well."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join("\\" + each if each in "\\'" else _escape(each) for each in word) + "'"


def _escape(character: str) -> str:
    return character if character.isprintable() else "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def show_text(text: str) -> str:
    """What a terminal would take for a command to it, or for the end of the line, as \\xHH of its bytes."""
    return "".join(map(_escape, text))


def join_words(words: Iterable[str]) -> str:
    return " ".join(quote_word(word) for word in words)
