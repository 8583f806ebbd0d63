"""Whatever an application did to a store, and however the job is cut, what comes out is equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rocksdict
from hypothesis import given, settings
from hypothesis import strategies as st

import kvbatch
from support.places import quick_folder
from support.stores import raw_options, read_store

# Few distinct bytes, so that keys meet again: overwritten, deleted, prefixes of each other.
KEYS = st.one_of(
    st.binary(max_size=3),
    st.text("ab\0\xff", max_size=6).map(lambda text: text.encode("latin-1")),
    st.integers(0, 60).map(lambda number: b"key-%03d" % number),
)
VALUES = st.one_of(
    st.binary(max_size=40),
    st.integers(0, 3000).map(lambda size: b"v" * size),
    st.just(b""),
)
NAMES = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8).filter(
        lambda name: name not in ("default", "__kvbatch__")
    ),
    max_size=2,
    unique=True,
)
OPERATIONS = st.one_of(
    st.tuples(st.just("put"), KEYS, VALUES),
    st.tuples(st.just("put many"), st.integers(0, 40), st.integers(1, 40)),
    st.tuples(st.just("delete"), KEYS, st.none()),
    st.tuples(st.just("delete range"), KEYS, KEYS),
    st.tuples(st.just("flush"), st.none(), st.none()),
    st.tuples(st.just("compact"), st.none(), st.none()),
)
OPTIONS = st.fixed_dictionaries(
    {
        "lane": st.sampled_from(["auto", "batch", "sst"]),
        "batch_bytes": st.sampled_from([4096, 5000, 16384, 1 << 20]),
        "range_bytes": st.sampled_from([64, 500, 4096, 1 << 20]),
        "sst_file_bytes": st.sampled_from([1024, 8192, 64 << 20]),
        "streams": st.integers(1, 4),
        "window": st.sampled_from([1, 2, 8]),
        "max_ranges": st.integers(1, 12),
        "compression": st.sampled_from(["auto", "lz4", "zstd", "none"]),
        "target_compression": st.sampled_from(["auto", "none", "lz4", "zstd"]),
    }
)


def write_history(path: Path, history: dict[str, list[Any]]) -> dict[str, dict[bytes, bytes]]:
    """Does what the histories say; returns what a reader must find."""
    options = raw_options()
    options.set_disable_auto_compactions(True)
    store = rocksdict.Rdict(str(path), options)
    found: dict[str, dict[bytes, bytes]] = {}
    for name, operations in history.items():
        family = store if name == "default" else store.create_column_family(name, raw_options())
        entries = found[name] = {}
        for kind, first, second in operations:
            if kind == "put":
                family[first] = entries[first] = second
            elif kind == "put many":
                for number in range(first, first + second):
                    key = b"key-%03d" % number
                    family[key] = entries[key] = b"%d" % number * 20
            elif kind == "delete":
                family.delete(first)
                entries.pop(first, None)
            elif kind == "delete range" and first < second:
                family.delete_range(first, second)
                found[name] = entries = {key: v for key, v in entries.items() if not first <= key < second}
            elif kind == "flush":
                family.flush()
            elif kind == "compact":
                family.compact_range(None, None)
    store.close()
    return found


@given(st.data(), NAMES, OPTIONS, st.booleans())
def test_any_history_comes_out_equal(
    data: st.DataObject, names: list[str], options: dict[str, Any], through_receiver: bool
) -> None:
    history = {name: data.draw(st.lists(OPERATIONS, max_size=14)) for name in ["default", *names]}
    with quick_folder("kvbatch-property-") as base, kvbatch.serve(base / "root") as receiver:
        expected = write_history(base / "source", history)
        target = f"kvbatch://127.0.0.1:{receiver.port}/target" if through_receiver else base / "root" / "target"
        summary = kvbatch.migrate(base / "source", target, state_dir=base / "state", **options).wait()
        assert read_store(base / "root" / "target") == expected
        assert summary.entries == sum(len(entries) for entries in expected.values())
        assert summary.resent_bytes == 0
        report = kvbatch.verify(str(base / "source"), str(target))
        assert report.equal
        assert report.entries_target == summary.entries


@settings(max_examples=20)
@given(
    st.dictionaries(KEYS, VALUES, max_size=30),
    st.dictionaries(KEYS, VALUES, max_size=30),
    OPTIONS,
    KEYS,
    KEYS,
)
def test_range_over_a_target_with_data(
    ours: dict[bytes, bytes], theirs: dict[bytes, bytes], options: dict[str, Any], one: bytes, other: bytes
) -> None:
    start, end = min(one, other), max(one, other) + b"\0"
    with quick_folder("kvbatch-property-") as base:
        write_history(base / "source", {"default": [("put", *entry) for entry in ours.items()]})
        write_history(base / "target", {"default": [("put", *entry) for entry in theirs.items()]})
        kvbatch.migrate(
            base / "source",
            base / "target",
            state_dir=base / "state",
            key_range=f"{start.hex()}..{end.hex()}",
            allow_nonempty=True,
            **options,
        ).wait()
        inside = {key: value for key, value in ours.items() if start <= key < end}
        assert read_store(base / "target") == {"default": {**theirs, **inside}}


@settings(max_examples=20)
@given(st.dictionaries(KEYS, VALUES, max_size=40), st.data())
def test_verify_finds_and_repairs_exactly_what_differs(ours: dict[bytes, bytes], data: st.DataObject) -> None:
    theirs = dict(ours)
    for key, value in data.draw(st.dictionaries(KEYS, st.none() | VALUES, max_size=6)).items():
        if value is None:
            theirs.pop(key, None)
        else:
            theirs[key] = value
    with quick_folder("kvbatch-property-") as base:
        for name, entries in (("source", ours), ("target", theirs)):
            write_history(base / name, {"default": [("put", *entry) for entry in entries.items()]})
        report = kvbatch.verify(str(base / "source"), str(base / "target"))
        assert report.keys_missing == len(ours.keys() - theirs.keys())
        assert report.keys_extra == len(theirs.keys() - ours.keys())
        assert report.keys_different == sum(theirs[key] != ours[key] for key in ours.keys() & theirs.keys())
        assert report.equal == (ours == theirs)
        assert kvbatch.verify(str(base / "source"), str(base / "target"), repair=True).equal
        assert read_store(base / "target") == {"default": ours}
