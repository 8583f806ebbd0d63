"""A native dependency that is too old stops the configuration with its name."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What is included, what defines the version, how, and one below the least version of README.md.
TOO_OLD = {
    "lz4": ("lz4.h", "lz4.h", "LZ4_VERSION_{}", "MAJOR 1", "MINOR 8", "RELEASE 3"),
    "zstd": ("zstd.h", "zstd.h", "ZSTD_VERSION_{}", "MAJOR    1", "MINOR    4", "RELEASE  10"),
    "isal": ("isa-l/crc.h", "isa-l.h", "ISAL_{}", "MAJOR_VERSION 2", "MINOR_VERSION 29", "PATCH_VERSION 0"),
    "xxhash": ("xxhash.h", "xxhash.h", "XXH_VERSION_{}", "MAJOR    0", "MINOR    8", "RELEASE  0"),
}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all of them: the compiler is examined once."""
    return tmp_path_factory.mktemp("dependencies") / "build"


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is missing")
@pytest.mark.parametrize("name", TOO_OLD)
def test_a_library_that_is_too_old_is_named(tmp_path: Path, build: Path, name: str) -> None:
    included, defining, prefix, *parts = TOO_OLD[name]
    headers = tmp_path / "include"
    (headers / included).parent.mkdir(parents=True)
    (headers / included).touch()
    (headers / defining).write_text("".join(f"#define {prefix.format(part)} /* of it */\n" for part in parts))
    version = ".".join(part.split()[-1] for part in parts)
    command = ["cmake", "-G", "Ninja", "-S", ROOT, "-B", build, f"-DPython_EXECUTABLE={sys.executable}"]
    command += ["-UKVBATCH_*_INCLUDE"]  # that of another test
    done = subprocess.run(
        [*command, f"-DKVBATCH_{name}_INCLUDE={headers}"], capture_output=True, text=True, timeout=120, check=False
    )
    said = " ".join(done.stderr.split())
    assert done.returncode != 0
    assert f"kvbatch needs {name} " in said
    assert f'is of version "{version}"' in said
    assert f"-DKVBATCH_{name}_INCLUDE=DIR" in said
