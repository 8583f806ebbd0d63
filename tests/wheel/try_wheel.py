"""Uses an installed wheel as a new user would, in one process with rocksdict, which brings a RocksDB of its own.

tools/wheel.sh runs this in a fresh environment without a compiler; it is a script, not a pytest module.
"""

import shutil
import sys
import tempfile
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import rocksdict

import kvbatch

ENTRIES = {b"key-%05d" % number: b"value-%05d" % number for number in range(10_000)}
# What a wheel may take from the system: the C and C++ runtimes and what the interpreter itself brings.
BUNDLED = ("liblz4", "libzstd", "libisal", "libxxhash", "libsnappy", "libbz2", "librocksdb")


def check_surroundings() -> None:
    compilers = [name for name in ("c++", "g++", "cc", "gcc", "clang", "cmake", "ninja") if shutil.which(name)]
    assert not compilers, f"this environment can reach {compilers}"
    package = Path(kvbatch.__file__).resolve()
    assert package.is_relative_to(Path(sys.prefix).resolve()), f"kvbatch comes from {package}, not from the wheel"


def check_libraries() -> None:
    """Each library that kvbatch needs was loaded from the wheel, not from the system."""
    loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    foreign = [
        name
        for name in loaded
        if Path(name).name.startswith(BUNDLED)
        and not Path(name).resolve().is_relative_to(Path(sys.prefix).resolve())
        # The standard library's bz2 module loads the system's.
        and not Path(name).name.startswith("libbz2.so")
    ]
    assert not foreign, f"loaded from the system: {foreign}"


def main() -> None:
    check_surroundings()
    with tempfile.TemporaryDirectory(prefix="kvbatch-wheel-") as folder:
        source, target = Path(folder) / "source", Path(folder) / "target"
        options = rocksdict.Options(raw_mode=True)
        # A wheel that was built against an installed RocksDB reads no newer one.
        table = rocksdict.BlockBasedOptions()
        table.set_format_version(5)
        options.set_block_based_table_factory(table)
        with_rocksdict = rocksdict.Rdict(str(source), options)
        for key, value in ENTRIES.items():
            with_rocksdict[key] = value
        with_rocksdict.close()

        summary = kvbatch.migrate(str(source), str(target)).wait()
        check_libraries()
        assert summary.entries == len(ENTRIES), summary

        # The live page's own packages are an extra; its files are in every wheel.
        assert all((files("kvbatch") / "web" / name).is_file() for name in ("page.html", "page.css", "page.js"))

        copied = rocksdict.Rdict(str(target), options, access_type=rocksdict.AccessType.read_only())
        assert dict(copied.items()) == ENTRIES
        copied.close()
    print(f"kvbatch beside rocksdict {version('rocksdict')} in one process: {len(ENTRIES)} entries moved and read back")


if __name__ == "__main__":
    main()
