"""Files of the source moved as they are, with whatever stands over and between them: always what an iterator shows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest.mock import patch

import rocksdict
from hypothesis import event, given, settings
from hypothesis import strategies as st

import kvbatch
from kvbatch import graft_planner
from support.stores import copy_open_store, raw_options, read_store

KEYS = 240


def key_of(number: int) -> bytes:
    return b"key-%04d" % number


keys = st.integers(0, KEYS - 1)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), keys, st.integers(0, 3)),
        st.tuples(st.just("put many"), keys, st.integers(1, 80)),
        st.tuples(st.just("delete"), keys, st.just(0)),
        st.tuples(st.just("delete range"), keys, st.integers(1, 30)),
        st.tuples(st.just("flush"), st.just(0), st.just(0)),
        st.tuples(st.just("compact"), keys, st.integers(1, KEYS)),
        st.tuples(st.just("compact all"), st.just(0), st.just(0)),
    ),
    min_size=1,
    max_size=40,
)
bounds = st.one_of(st.none(), keys.map(key_of), keys.map(lambda number: key_of(number) + b"x"))


def options() -> rocksdict.Options:
    made = raw_options()
    # Files so small that a store of a few hundred keys has many, in all levels.
    made.set_target_file_size_base(4096)
    made.set_compression_type(rocksdict.DBCompressionType.none())
    made.set_write_buffer_size(1 << 20)
    made.set_disable_auto_compactions(True)
    return made


def write(path: Path, script: list[tuple[str, int, int]], *, closed: bool) -> None:
    """Unless it is `closed`, what was not flushed stands in the WAL alone."""
    written = path if closed else path.with_name("open")
    store = rocksdict.Rdict(str(written), options())
    # A last level to begin with: without one nothing can be moved as it is.
    # Two files that overlap, so that they are merged and not just moved there, which leaves sequence numbers alone.
    for first in (0, 2):
        for number in range(first, KEYS, 4):
            store[key_of(number)] = b"first" * 40 + b"%d" % number
        store.flush()
    store.compact_range(None, None)
    for what, number, more in script:
        if what == "put":
            store[key_of(number)] = b"v" * (more * 100)
        elif what == "put many":
            for other in range(number, min(KEYS, number + more)):
                store[key_of(other)] = b"many%d" % other * 20
        elif what == "delete":
            del store[key_of(number)]
        elif what == "delete range":
            store.delete_range(key_of(number), key_of(number + more))
        elif what == "flush":
            store.flush()
        elif what == "compact":
            store.compact_range(key_of(number), key_of(number + more))
        else:
            store.compact_range(None, None)
    if not closed:
        copy_open_store(store, written, path)
    store.close()


@settings(deadline=None, max_examples=60)
@given(script=operations, closed=st.booleans(), start=bounds, end=bounds, batch_bytes=st.sampled_from([4096, 1 << 20]))
def test_a_range_moved_by_files_is_the_range(
    script: list[tuple[str, int, int]], closed: bool, start: bytes | None, end: bytes | None, batch_bytes: int
) -> None:
    if start is not None and end is not None and start >= end:
        start, end = end, start + b"y"
    with tempfile.TemporaryDirectory() as directory:
        path, copy = Path(directory) / "source", Path(directory) / "copy"
        write(path, script, closed=closed)
        # Whatever stands over a file, however much of it.
        with patch.object(graft_planner, "_MOST_OVERLAY", 1e9):
            migration = kvbatch.migrate(
                path,
                copy,
                lane="sst",
                key_range=kvbatch.KeyRange(start, end),
                graft_bytes=1,
                batch_bytes=batch_bytes,
                state_dir=Path(directory) / "state",
            )
        event(f"{min(migration.plan.files_grafted, 3)} files of {min(len(migration.plan.ranges), 5)} ranges")
        summary = migration.wait()
        expected = {
            key: value
            for key, value in read_store(path)["default"].items()
            if (start is None or key >= start) and (end is None or key < end)
        }
        assert read_store(copy).get("default", {}) == expected
        assert summary.entries == len(expected)
        assert summary.raw_bytes == sum(len(key) + len(value) for key, value in expected.items())
