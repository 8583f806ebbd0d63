"""Sizes as people write them, and back."""

from __future__ import annotations

import re

from kvbatch.errors import UsageError

__all__ = ["format_bytes", "format_count", "format_seconds", "parse_bytes", "write_bytes"]

_UNITS = {"": 1, "B": 1}
for _power, _prefix in enumerate("KMGT", start=1):
    _UNITS[f"{_prefix}iB"] = _UNITS[_prefix] = 1 << (10 * _power)
    _UNITS[f"{_prefix}B"] = 1000**_power

_PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGTkmgt]?i?[Bb]?)\s*")


def parse_bytes(text: str | int) -> int:
    """`64KiB`, `64K` (both of 1024), `200MB` (of 1000), `1.5GiB` or a plain number, in bytes. Raises UsageError."""
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    match = _PATTERN.fullmatch(text) if isinstance(text, str) else None
    unit = match and match[2][:1].upper() + match[2][1:].replace("b", "B")
    if match is None or unit not in _UNITS:
        raise UsageError(f"malformed size {text!r}: write it like 64KiB, 1MiB or 2GiB")
    return int(float(match[1]) * _UNITS[unit])


def write_bytes(count: int) -> str:
    """The shortest text that `parse_bytes` reads as exactly this many bytes: 64KiB, 20000000."""
    for unit, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count and count % size == 0:
            return f"{count // size}{unit}"
    return str(count)


def _three_digits(count: float) -> str:
    # From here on %g would write a power of ten.
    return f"{count:.3g}" if count < 999.5 else f"{count:.0f}"


def format_bytes(count: float) -> str:
    """Binary units, three significant digits or as many as the whole number has: 1.46 GiB, 1023 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{_three_digits(count)} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def format_count(count: float) -> str:
    """Decimal units: 1.25 M. What is no whole number, like a rate, has two digits below ten: 0.4."""
    if count < 9.95 and count != int(count):
        return f"{count:.2g}"
    for unit in ("", " k", " M"):
        if count < 1000:
            return f"{_three_digits(count)}{unit}" if unit else f"{count:.0f}"
        count /= 1000
    return f"{count:.4g} G"


def format_seconds(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
