"""Stores that cannot be moved whole are refused by name before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

import kvbatch
from support.capi_store import Operation, run_store_script
from support.places import Place
from support.stores import kvbatch as run_kvbatch
from support.stores import tree

PUTS: list[Operation] = [("put", b"a", b"1"), ("put", b"b", b"2")]
# A flush folds an operand into a value that it finds, so this one stands alone.
MERGES: list[Operation] = [*PUTS, ("merge", b"m", b"operand"), ("put", b"z", b"3")]


@pytest.mark.parametrize("flush", [True, False], ids=["in files", "only in the WAL"])
@pytest.mark.parametrize(
    ("operations", "options", "named"),
    [
        (MERGES, {"merge_operator": "example.Merge"}, ["merge operand", "example.Merge", "compact it"]),
        (PUTS, {"comparator": "example.Order"}, ["comparator", "example.Order"]),
        (
            PUTS,
            {"comparator": "leveldb.BytewiseComparator.u64ts", "timestamps": True},
            ["user-defined timestamps", "leveldb.BytewiseComparator.u64ts"],
        ),
        (PUTS, {"comparator": "example.Order.u64ts", "timestamps": True}, ["example.Order.u64ts"]),
    ],
    ids=["merge operands", "comparator", "timestamps", "timestamps of its own kind"],
)
def test_refused_by_name_before_anything_is_written(
    tmp_path: Path, place: Place, operations: list[Operation], options: dict[str, str], named: list[str], flush: bool
) -> None:
    source = tmp_path / "source"
    run_store_script(source, operations, flush=flush, **options)  # type: ignore[arg-type]
    before = tree(source)
    with pytest.raises(kvbatch.RefusedError) as refused:
        kvbatch.migrate(source, place.endpoint()).wait()
    for words in ['"default"', *named]:
        assert words in str(refused.value)
    with pytest.raises(kvbatch.RefusedError):
        kvbatch.plan(source, place.endpoint())
    assert not place.path().exists()
    assert tree(source) == before


def test_operands_without_any_operator_are_refused(tmp_path: Path) -> None:
    """A store whose OPTIONS name no operator, since its owner forgot it at the last opening."""
    source = tmp_path / "source"
    run_store_script(source, MERGES, merge_operator="example.Merge")
    for options in source.glob("OPTIONS-*"):
        options.unlink()
    with pytest.raises(kvbatch.RefusedError, match=r"merge operands and the store names no merge operator; compact"):
        kvbatch.migrate(source, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_refused_store_ends_the_command_with_4_and_one_line(tmp_path: Path) -> None:
    run_store_script(tmp_path / "source", PUTS, comparator="example.Order")
    done = run_kvbatch("migrate", tmp_path / "source", tmp_path / "target", "--json")
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "example.Order" in done.stderr
    assert not (tmp_path / "target").exists()
