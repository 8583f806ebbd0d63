"""Commands to type next, quoted for the shell."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable

__all__ = ["join_words", "quote_word"]


def quote_word(word: str) -> str:
    """As shlex.quote; a word that nobody could type or read, such as a path that is no text, as $'…' of POSIX.1-2024,
    which bash, ksh and zsh know as well."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(_escape(character) for character in word) + "'"


def _escape(character: str) -> str:
    if character in "\\'":
        return "\\" + character
    return character if character.isprintable() else "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def join_words(words: Iterable[str]) -> str:
    return " ".join(quote_word(word) for word in words)
