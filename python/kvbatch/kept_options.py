"""Options of a job as its record keeps them, and the words of a command line that gives them again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kvbatch.flow.settings import RATES, SIZES
from kvbatch.options import SELECTING, MigrationOptions, SourceOptions
from kvbatch.shell_words import join_words
from kvbatch.units import write_bytes

__all__ = ["option_words", "options_to_json", "selecting", "selection_words", "without_words"]

# A job's id and its state directory stand in the command in any case.
_APART = ("job", "state_dir")
_CALLABLE = "callable"


def options_to_json(options: SourceOptions) -> dict[str, Any]:
    """As numbers and text: ranges, slots and paths as they are written, a function as {"callable": its name}."""
    return {name: _plain(value) for name, value in options}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if callable(value):
        return {_CALLABLE: getattr(value, "__qualname__", None) or repr(value)}
    return str(value)


def _given(kept: dict[str, Any]) -> dict[str, Any]:
    """Those that are not the default. What a later kvbatch kept and this one does not know is not among them."""
    default = options_to_json(MigrationOptions(state_dir=Path()))  # which is apart
    return {
        name: kept[name] for name in default if name not in _APART and kept.get(name, default[name]) != default[name]
    }


def option_words(kept: dict[str, Any]) -> list[str]:
    """What is typed behind `kvbatch migrate` to give the options that are not the default, without job and state
    directory."""
    words = []
    for name, value in _given(kept).items():
        option = MigrationOptions.model_fields[name].title
        if not option or isinstance(value, dict):
            continue
        if value is True:
            words.append(option)
        elif isinstance(value, list):
            words += [word for each in value for word in (option, str(each))]
        else:
            words += [option, _written(name, value)]
    return words


def _written(name: str, value: Any) -> str:
    if name in RATES:
        return f"{write_bytes(value)}/s"
    if name in SIZES:
        return write_bytes(value)
    if value == 0 and name in ("streams", "window"):
        return "auto"
    return f"{value:g}" if isinstance(value, float) else str(value)


def selecting(kept: dict[str, Any]) -> dict[str, Any]:
    """Those that say what of the source is moved. A kvbatch of before may have kept fewer."""
    default = options_to_json(MigrationOptions(state_dir=Path()))
    found = {name: kept.get(name, default[name]) for name in SELECTING}
    return {**found, "column_families": sorted(found["column_families"])}


def selection_words(kept: dict[str, Any]) -> str:
    """What of the source is moved, as it is typed; nothing for all of it."""
    return join_words(option_words(selecting(kept)))


def without_words(kept: dict[str, Any]) -> list[str]:
    """Names of the options that are not the default and that a command line cannot give."""
    return [
        name
        for name, value in _given(kept).items()
        if isinstance(value, dict) or not MigrationOptions.model_fields[name].title
    ]
