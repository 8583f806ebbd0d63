"""What a target has of a file from an earlier session, and whether it is what the source has: all of it or nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kvbatch._core.base import file_crc32c
from kvbatch._core.store import BuiltPiece, Cursor, PartialFile, SstBuilder
from kvbatch.ranges import Range
from kvbatch.source_image import open_source_file
from kvbatch.target import FILE_PIECE_BYTES, FileSums

__all__ = ["BegunFile", "Look", "agreed_start", "begun_file", "kept_start"]

# Before each piece of a file that is looked through: its descriptor, offset and length.
Look = Callable[[int, int, int], None]


def agreed_start(cursor: Cursor | None, part: Range, path: Path, look: Look) -> tuple[int, FileSums]:
    """Where a file of the lane `files` goes on, and the sums there."""
    if cursor is None or not 0 < cursor.raw_bytes <= part.file_bytes:
        return 0, FileSums()
    sums = _sums(path, cursor.raw_bytes, look)
    return (cursor.raw_bytes, sums) if sums.digest == cursor.digest else (0, FileSums())


def kept_start(kept: PartialFile | None, part: Range, path: Path, look: Look) -> tuple[int, FileSums]:
    """The same of a file that is grafted. What was kept counts as one piece, since its pieces are of any size."""
    if kept is None or kept.length > part.file_bytes or _sums(path, kept.length, look).crc32c != kept.crc32c:
        return 0, FileSums()
    return kept.length, FileSums().behind(0, kept.length, kept.crc32c)


def _sums(path: Path, length: int, look: Look) -> FileSums:
    sums = FileSums()
    with open_source_file(path) as fd:
        for offset in range(0, length, FILE_PIECE_BYTES):
            piece = min(FILE_PIECE_BYTES, length - offset)
            look(fd, offset, piece)
            sums = sums.behind(offset, piece, file_crc32c(fd, offset, piece, str(path)))
    return sums


@dataclass(frozen=True, slots=True)
class BegunFile:
    """A file that is built anew up to where the target has it: `piece` is the one in which that ends, `entries` and
    `raw_bytes` stand in the pieces before it, or in it too where the target has all of it."""

    piece: BuiltPiece
    entries: int
    raw_bytes: int


def begun_file(
    kept: PartialFile, builder: SstBuilder, next_piece: Callable[[BuiltPiece | None], BuiltPiece]
) -> BegunFile | None:
    """Builds a file as it was built before: the same entries and traits give the same bytes but for the properties at a
    file's end. None where that is not what was kept; then `builder` is of no more use."""
    before: BuiltPiece | None = None
    crc32c = 0
    while True:
        piece = next_piece(before)
        crc32c = builder.crc32c(min(piece.length, kept.length - piece.offset), crc32c)
        if piece.offset + piece.length >= kept.length:
            if crc32c != kept.crc32c:
                return None
            if piece.offset + piece.length == kept.length:
                before = piece
            entries, raw_bytes = (before.entries, before.raw_bytes) if before is not None else (0, 0)
            return BegunFile(piece, entries, raw_bytes)
        if piece.ends_file or piece.ends_range:
            return None
        before = piece
