"""kvbatch's RocksDB and rocksdict's live in one process, whichever was loaded first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.stores import TABLE_FORMAT

USE_BOTH = """
import sys
from pathlib import Path

folder = Path(sys.argv[1])
options = rocksdict.Options(raw_mode=True)
options.set_compression_type(rocksdict.DBCompressionType.zstd())
table = rocksdict.BlockBasedOptions()
table.set_format_version(int(sys.argv[2]))
options.set_block_based_table_factory(table)
entries = {b"key-%05d" % number: b"value-%05d" % number * 10 for number in range(5000)}

store = rocksdict.Rdict(str(folder / "source"), options)
for key, value in entries.items():
    store[key] = value
store.close()
# The other library has a store open, and its threads at work, while this one migrates.
beside = rocksdict.Rdict(str(folder / "beside"), options)
for key, value in entries.items():
    beside[key] = value
beside.flush(wait=False)
summary = kvbatch.migrate(folder / "source", folder / "target").wait()
assert summary.entries == len(entries)
beside.compact_range(None, None)
assert dict(beside.items()) == entries
copied = rocksdict.Rdict(str(folder / "target"), options)
assert dict(copied.items()) == entries
copied[b"new"] = b"1"
copied.close()
beside.close()
assert kvbatch.verify(str(folder / "source"), str(folder / "target")).keys_extra == 1
print("both")
"""


@pytest.mark.parametrize("first", ["kvbatch", "rocksdict"])
def test_both_are_used_in_one_process(tmp_path: Path, first: str) -> None:
    second = {"kvbatch": "rocksdict", "rocksdict": "kvbatch"}[first]
    program = f"import {first}\nimport {second}\n{USE_BOTH}"
    command = [sys.executable, "-c", program, tmp_path, str(TABLE_FORMAT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "both\n"), done.stderr
