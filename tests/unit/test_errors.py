from __future__ import annotations

import pytest

from kvbatch import errors

# design.md, sections 10 and 11: name, base, exit code, retryable.
TREE = [
    ("UsageError", "KvbatchError", 2, False),
    ("RefusedError", "KvbatchError", 4, False),
    ("SourceError", "KvbatchError", 1, False),
    ("TargetError", "KvbatchError", 1, False),
    ("NoSpaceError", "TargetError", 75, False),
    ("UnavailableError", "TargetError", 75, False),
    ("ProtocolError", "KvbatchError", 1, False),
    ("CorruptionError", "KvbatchError", 1, True),
    ("GapError", "KvbatchError", 1, False),
    ("TransportError", "KvbatchError", 75, True),
    ("ClosedError", "TransportError", 75, True),
    ("StoppedError", "KvbatchError", 75, False),
]


@pytest.mark.parametrize(("name", "base", "exit_code", "retryable"), TREE)
def test_the_tree(name: str, base: str, exit_code: int, retryable: bool) -> None:
    kind = getattr(errors, name)
    assert [parent.__name__ for parent in kind.__bases__] == [base]
    error = kind("what happened")
    assert (str(error), error.exit_code, error.retryable, error.resumable) == (
        "what happened", exit_code, retryable, exit_code == 75,
    )  # fmt: skip
    assert kind("", retryable=not retryable).retryable is not retryable


def test_there_is_no_other() -> None:
    kinds = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert kinds == {"KvbatchError", *(name for name, *_ in TREE)}
    assert errors.KvbatchError.__bases__ == (Exception,)
    assert set(errors.__all__) == kinds | {"ERROR_KINDS", "error_for_kind"}
    assert (errors.__doc__ or "").count("Error") == len(kinds)


@pytest.mark.parametrize("name", [name for name, *_ in TREE])
@pytest.mark.parametrize("retryable", [True, False])
def test_a_peers_error_becomes_the_same_exception(name: str, retryable: bool) -> None:
    error = errors.error_for_kind(name, "over there", retryable=retryable)
    assert (type(error).__name__, str(error), error.retryable) == (name, "over there", retryable)


@pytest.mark.parametrize("name", ["", "KvbatchError", "Exception", "OSError", "__class__", "None"])
def test_a_kind_that_nobody_knows_is_the_base(name: str) -> None:
    error = errors.error_for_kind(name, "over there", retryable=False)
    assert (type(error), error.exit_code) == (errors.KvbatchError, 1)
