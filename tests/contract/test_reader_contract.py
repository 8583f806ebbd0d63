"""What every reader that verify uses must do, in a directory and behind a receiver (kvbatch/store_reader.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import kvbatch
from kvbatch._core.base import entry_digest, sum_digests
from kvbatch.endpoints import DirectoryEndpoint, ReceiverEndpoint
from kvbatch.store_reader import EMPTY_DIGEST, StoreReader, open_reader
from kvbatch.target_local import LocalSession
from support.sender import SmallSource
from support.stores import tree, write_store
from support.targets import BOUNDS, ENTRIES

Open = Callable[[Path], StoreReader]


@pytest.fixture(params=["directory", "receiver"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens a store below tmp_path."""
    if request.param == "directory":
        yield lambda path: open_reader(DirectoryEndpoint(path))
        return
    with kvbatch.serve(tmp_path) as receiver:
        yield lambda path: open_reader(ReceiverEndpoint("127.0.0.1", receiver.port, str(path.relative_to(tmp_path))))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(tmp_path / "store", ENTRIES)


def digest_of(family: str, start: bytes = b"", end: bytes = b"\xff") -> bytes:
    return sum_digests([entry_digest(k, v) for k, v in ENTRIES[family].items() if start <= k < end])


def test_families_and_identity(opened: Open, store: Path) -> None:
    with closing(opened(store)) as reader:
        assert reader.column_families() == ["default", "users"]
        assert reader.identity() == (store / "IDENTITY").read_text().strip()
        assert not reader.unfinished()


@pytest.mark.parametrize(
    ("start", "end", "entries"),
    [
        (None, None, 600),
        (b"key-00000100", None, 500),
        (None, b"key-00000100", 100),
        (b"key-00000100", b"key-00000101", 1),
        (b"key-00000100", b"key-00000100", 0),
        (b"", b"a", 0),
        (b"z", None, 0),
    ],
)
def test_the_digest_of_a_range_is_the_sum_of_its_entries(
    opened: Open, store: Path, start: bytes | None, end: bytes | None, entries: int
) -> None:
    with closing(opened(store)) as reader:
        runs = reader.digest("default", start, end)
    chosen = {k: v for k, v in ENTRIES["default"].items() if (start or b"") <= k < (end or b"\xff")}
    assert len(chosen) == entries
    assert sum(run.entries for run in runs) == entries
    assert sum(run.raw_bytes for run in runs) == sum(len(k) + len(v) for k, v in chosen.items())
    total = sum_digests([run.digest for run in runs]) if runs else EMPTY_DIGEST
    assert total == sum_digests([entry_digest(k, v) for k, v in chosen.items()])


def test_runs_end_with_their_last_key(opened: Open, store: Path) -> None:
    with closing(opened(store)) as reader:
        runs = reader.digest("users", None, None, 128)
    assert [run.entries for run in runs] == [128, 128, 44]
    assert [run.last_key for run in runs[:2]] == [b"key-00000127", b"key-00000255"]
    assert runs[0].digest == digest_of("users", end=b"key-00000128")
    assert runs[2].digest == digest_of("users", start=b"key-00000256")


def test_entries_come_in_pages(opened: Open, store: Path) -> None:
    pages = []
    start: bytes | None = None
    with closing(opened(store)) as reader:
        complete = False
        while not complete:
            entries, complete = reader.list_entries("users", start, b"key-00000200", 600)
            pages.append(entries)
            start = entries[-1][0] + b"\0"
    assert len(pages) > 3
    listed = [entry for page in pages for entry in page]
    assert listed == [(k, entry_digest(k, v)) for k, v in ENTRIES["users"].items() if k < b"key-00000200"]


def test_a_page_holds_an_entry_however_small_it_is(opened: Open, store: Path) -> None:
    with closing(opened(store)) as reader:
        entries, complete = reader.list_entries("users", None, None, 1)
    assert ([key for key, _ in entries], complete) == ([b"key-00000000"], False)


def test_an_empty_store(opened: Open, tmp_path: Path) -> None:
    empty = write_store(tmp_path / "empty", {"default": {}})
    with closing(opened(empty)) as reader:
        assert reader.column_families() == ["default"]
        assert sum(run.entries for run in reader.digest("default", None, None)) == 0
        assert reader.list_entries("default", None, None, 1000) == ([], True)


def test_the_target_of_an_unfinished_job_says_so_and_hides_its_records(
    opened: Open, store: Path, tmp_path: Path
) -> None:
    source = SmallSource(store, BOUNDS)
    session = LocalSession(tmp_path / "target", source.manifest, 1 << 20)
    source.move(session, source.ranges[:1])
    session.close()
    with closing(opened(tmp_path / "target")) as reader:
        assert reader.unfinished()
        assert reader.column_families() == ["default", "users"]
        [run] = reader.digest("default", None, None)
    assert (run.entries, run.digest) == (300, digest_of("default", end=b"key-00000300"))


def test_reading_touches_nothing(opened: Open, store: Path) -> None:
    before = tree(store)
    with closing(opened(store)) as reader:
        reader.digest("default", None, None)
        reader.list_entries("users", None, None, 1000)
    assert tree(store) == before


def test_an_unknown_family_is_a_usage_error(opened: Open, store: Path) -> None:
    with closing(opened(store)) as reader, pytest.raises(kvbatch.UsageError, match="nobody"):
        reader.digest("nobody", None, None)


@pytest.mark.parametrize("what", ["missing", "file", "directory of something else"])
def test_what_is_no_store_is_refused_by_path(opened: Open, tmp_path: Path, what: str) -> None:
    path = tmp_path / "odd"
    if what == "file":
        path.write_text("dear")
    elif what != "missing":
        path.mkdir()
        (path / "letter.txt").write_text("dear")
    with pytest.raises(kvbatch.KvbatchError, match="odd") as raised:
        opened(path)
    assert type(raised.value).exit_code in (1, 2, 4)
    assert path.exists() == (what != "missing")
