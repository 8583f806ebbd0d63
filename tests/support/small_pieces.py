"""`kvbatch` whose ranges, files and pieces are smaller than its command line offers: a small store then has many of
them."""

from __future__ import annotations

import os

from kvbatch import cli, job_stream, target_files
from kvbatch.options import MigrationOptions

RANGE_BYTES = "KVBATCH_TEST_RANGE_BYTES"
SST_FILE_BYTES = "KVBATCH_TEST_SST_FILE_BYTES"
GRAFT_BYTES = "KVBATCH_TEST_GRAFT_BYTES"
PIECE_BYTES = "KVBATCH_TEST_PIECE_BYTES"


class SmallPieces(MigrationOptions):
    range_bytes: int = int(os.environ.get(RANGE_BYTES, "2097152"))
    sst_file_bytes: int = int(os.environ.get(SST_FILE_BYTES, "524288"))
    graft_bytes: int = int(os.environ.get(GRAFT_BYTES, "1048576"))


if __name__ == "__main__":
    setattr(cli, "MigrationOptions", SmallPieces)  # noqa: B010 - a plain assignment to a type is none for mypy
    if PIECE_BYTES in os.environ:
        setattr(job_stream, "FILE_PIECE_BYTES", int(os.environ[PIECE_BYTES]))  # noqa: B010
        setattr(target_files, "_PIECE", int(os.environ[PIECE_BYTES]))  # noqa: B010
    cli.main()
