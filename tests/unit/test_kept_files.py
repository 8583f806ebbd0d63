"""Where a file that is built again is gone on with: behind what the target kept of it."""

from __future__ import annotations

import pytest

from kvbatch._core.store import BuiltPiece, PartialFile, SourceStore, SstBuilder, write_sample_store
from kvbatch.kept_files import BegunFile, begun_file

PIECE_BYTES = 32 << 10


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SourceStore:
    path = tmp_path_factory.mktemp("kept") / "source"
    write_sample_store(str(path), entries=5000)
    return SourceStore(str(path))


def _build(source: SourceStore) -> SstBuilder:
    [family] = source.column_families
    return SstBuilder(source, "default", None, None, target=family, file_bytes=1 << 20)


def _pieces(source: SourceStore, number: int) -> tuple[list[BuiltPiece], list[int]]:
    """The first pieces, and the crc32c of the file up to the end of each."""
    builder = _build(source)
    pieces, sums = [], [0]
    for _ in range(number):
        pieces.append(builder.build(PIECE_BYTES))
        sums.append(builder.crc32c(pieces[-1].length, sums[-1]))
    return pieces, sums[1:]


def _begun(source: SourceStore, kept: PartialFile) -> BegunFile | None:
    builder = _build(source)
    return begun_file(kept, builder, lambda _: builder.build(PIECE_BYTES))


def test_behind_a_whole_piece_nothing_of_it_counts_again(source: SourceStore) -> None:
    pieces, sums = _pieces(source, 2)
    begun = _begun(source, PartialFile(0, 2 * PIECE_BYTES, sums[1]))
    assert begun is not None
    assert begun.piece.offset == PIECE_BYTES
    assert (begun.entries, begun.raw_bytes) == (pieces[1].entries, pieces[1].raw_bytes)


def test_piece_in_which_it_ends_counts_again(source: SourceStore) -> None:
    pieces, sums = _pieces(source, 1)
    builder = _build(source)
    builder.build(PIECE_BYTES)
    builder.build(PIECE_BYTES)
    begun = _begun(source, PartialFile(0, PIECE_BYTES + 1000, builder.crc32c(1000, sums[0])))
    assert begun is not None
    assert begun.piece.offset == PIECE_BYTES
    assert (begun.entries, begun.raw_bytes) == (pieces[0].entries, pieces[0].raw_bytes)


def test_other_bytes_are_not_gone_on_with(source: SourceStore) -> None:
    _, sums = _pieces(source, 1)
    assert _begun(source, PartialFile(0, PIECE_BYTES, sums[0] ^ 1)) is None
    assert _begun(source, PartialFile(0, 1 << 30, 0)) is None
