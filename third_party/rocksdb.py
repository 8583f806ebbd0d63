#!/usr/bin/env python3
"""Finds or builds the pinned RocksDB and prints the prefix to link against.

CMake calls this at configure time; it needs nothing but the standard library, cmake, ninja and a compiler.
The answer on standard output is one line: ``prefix=DIR`` for a pinned build, or ``system`` when the installed
librocksdb is to be used. Everything else goes to standard error.

Environment:
    KVBATCH_ROCKSDB         ``pinned`` (default) or ``system``: an installed RocksDB of at least 7.8
    KVBATCH_ROCKSDB_SOURCE  a source archive of the pinned version; it is checked against the pinned sha256
    KVBATCH_JOBS            parallel compile jobs (default: the cores)
    XDG_CACHE_HOME          where builds and archives are kept (default ~/.cache)
"""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path

VERSION = "9.10.0"
SHA256 = "fdccab16133c9d927a183c2648bcea8d956fb41eb1df2aacaa73eb0b95e43724"
UPSTREAM = f"https://github.com/facebook/rocksdb/archive/refs/tags/v{VERSION}.tar.gz"
# The Debian suite whose source package is the pinned version.
SOURCE_SUITE = "trixie"

FLAGS = [
    "-DCMAKE_BUILD_TYPE=Release",
    # RocksDB ends up private in one shared object: nothing in it can be interposed, so it may be inlined.
    "-DCMAKE_CXX_FLAGS_RELEASE=-O3 -DNDEBUG -fomit-frame-pointer -fno-semantic-interposition "
    "-fvisibility=hidden -fvisibility-inlines-hidden",
    # Thread-local counters that nobody here reads, touched for every entry.
    "-DWITH_PERF_CONTEXT=OFF",
    "-DWITH_IOSTATS_CONTEXT=OFF",
    "-DCMAKE_POSITION_INDEPENDENT_CODE=ON",
    "-DCMAKE_UNITY_BUILD=ON",
    "-DCMAKE_UNITY_BUILD_BATCH_SIZE=12",
    "-DROCKSDB_BUILD_SHARED=OFF",
    # The core derives from RocksDB's classes (Logger, Comparator) and is compiled with RTTI.
    "-DUSE_RTTI=1",
    "-DFAIL_ON_WARNINGS=OFF",
    "-DWITH_TESTS=OFF",
    "-DWITH_TOOLS=OFF",
    "-DWITH_CORE_TOOLS=OFF",
    "-DWITH_BENCHMARK_TOOLS=OFF",
    "-DWITH_TRACE_TOOLS=OFF",
    "-DWITH_GFLAGS=OFF",
    "-DWITH_LIBURING=OFF",
    "-DWITH_JEMALLOC=OFF",
    "-DWITH_LZ4=ON",
    "-DWITH_ZSTD=ON",
    "-DWITH_SNAPPY=ON",
    "-DWITH_ZLIB=ON",
    "-DWITH_BZ2=ON",
]
# SSE4.2 and PCLMUL are in every x86-64 server since 2010; RocksDB's own crc32c needs both at compile time.
ARCHITECTURE_FLAGS = {
    "x86_64": ["-DPORTABLE=x86-64-v2", "-DCMAKE_CXX_FLAGS=-mpclmul"],
}


def say(message: str) -> None:
    print(f"third_party/rocksdb.py: {message}", file=sys.stderr, flush=True)


def cache_root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "kvbatch"


def flags() -> list[str]:
    return FLAGS + ARCHITECTURE_FLAGS.get(platform.machine(), ["-DPORTABLE=1"])


def compiler_version() -> str:
    compiler = os.environ.get("CXX", "c++")
    try:
        return subprocess.run([compiler, "-dumpfullversion", "-dumpmachine"], capture_output=True, text=True).stdout
    except OSError as error:
        raise SystemExit(f"no C++ compiler: {error}") from error


def build_key() -> str:
    text = "\n".join([VERSION, SHA256, *flags(), compiler_version()])
    return f"rocksdb-{VERSION}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def is_pinned_archive(path: Path) -> bool:
    digest = hashlib.sha256()
    with path.open("rb") as archive:
        while chunk := archive.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest() == SHA256


def keep(archive: Path) -> Path:
    """Moves a checked archive into the cache, whole or not at all."""
    kept = cached_archive()
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".partial")
    shutil.copyfile(archive, partial)
    partial.replace(kept)
    return kept


def cached_archive() -> Path:
    return cache_root() / f"rocksdb-{VERSION}.tar.gz"


def from_user() -> Path | None:
    given = os.environ.get("KVBATCH_ROCKSDB_SOURCE")
    if not given:
        return None
    path = Path(given)
    if not path.is_file():
        raise SystemExit(f"KVBATCH_ROCKSDB_SOURCE={given}: no such file")
    if not is_pinned_archive(path):
        raise SystemExit(f"KVBATCH_ROCKSDB_SOURCE={given}: not the pinned RocksDB {VERSION} (sha256 {SHA256})")
    return path


def from_cache() -> Path | None:
    path = cached_archive()
    return path if path.is_file() and is_pinned_archive(path) else None


def debian_site() -> str | None:
    """The archive this system takes its own Debian suite from; what apt would ask for tells, without asking it."""
    command = ["apt-get", "--print-uris", "update"]
    listing = subprocess.run(command, capture_output=True, text=True).stdout
    suites = "bullseye|bookworm|trixie|(old)*stable|testing|unstable|sid"
    found = re.search(rf"^'(\S+)/dists/({suites})/", listing, re.MULTILINE)
    return found.group(1) if found else None


def from_distribution() -> Path | None:
    site = debian_site() if shutil.which("apt-get") else None
    if site is None:
        return None
    with tempfile.TemporaryDirectory(prefix="kvbatch-apt-") as scratch_name:
        scratch = Path(scratch_name)
        scratch.chmod(0o755)
        for folder in ("lists/partial", "cache/archives/partial"):
            (scratch / folder).mkdir(parents=True)
        # The pinned sha256 is what is trusted here, so a suite whose key this system lacks still serves.
        (scratch / "sources.list").write_text(f"deb-src [trusted=yes] {site} {SOURCE_SUITE} main\n")
        options = []
        for name, value in {
            "Dir::Etc::SourceList": str(scratch / "sources.list"),
            "Dir::Etc::SourceParts": "-",
            "Dir::State::Lists": str(scratch / "lists"),
            "Dir::Cache": str(scratch / "cache"),
            # Without it, root's apt would download as a user who cannot write here.
            "APT::Sandbox::User": "root",
        }.items():
            options += ["-o", f"{name}={value}"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        if subprocess.run(["apt-get", *options, "update"], **quiet).returncode:
            say(f"the distribution's {SOURCE_SUITE} sources could not be listed")
            return None
        # Only the orig archive is asked for: the .dsc beside it may be gone from the mirror.
        uris = subprocess.run(
            ["apt-get", *options, "source", "--download-only", "--print-uris", "rocksdb"],
            capture_output=True,
            text=True,
        ).stdout
        for line in uris.splitlines():
            if line.startswith("'") and f"rocksdb_{VERSION}.orig.tar" in line:
                uri = line.split("'")[1]
                archive = scratch / "orig.tar.gz"
                helper = ["/usr/lib/apt/apt-helper", *options, "download-file", uri, str(archive), f"SHA256:{SHA256}"]
                if subprocess.run(helper, **quiet).returncode == 0 and is_pinned_archive(archive):
                    return keep(archive)
    say("the distribution's source package could not be had")
    return None


def from_upstream() -> Path | None:
    with tempfile.TemporaryDirectory(prefix="kvbatch-source-") as scratch:
        archive = Path(scratch) / "source.tar.gz"
        try:
            with urllib.request.urlopen(UPSTREAM, timeout=60) as response, archive.open("wb") as out:
                shutil.copyfileobj(response, out)
        except OSError as error:
            say(f"the upstream archive could not be had: {error}")
            return None
        if not is_pinned_archive(archive):
            say("the upstream archive is not the pinned one; it is not used")
            return None
        return keep(archive)


def find_source() -> Path | None:
    for look in (from_user, from_cache, from_distribution, from_upstream):
        archive = look()
        if archive:
            say(f"source of RocksDB {VERSION}: {look.__name__.replace('_', ' ')}")
            return archive
    return None


def build(archive: Path, prefix: Path) -> None:
    jobs = os.environ.get("KVBATCH_JOBS") or str(os.cpu_count() or 2)
    with tempfile.TemporaryDirectory(prefix="kvbatch-rocksdb-", dir=cache_root()) as scratch_name:
        scratch = Path(scratch_name)
        # Its sha256 is the pinned one, so what it holds is known.
        with tarfile.open(archive) as tar:
            tar.extractall(scratch)
        source = next(path for path in scratch.iterdir() if (path / "CMakeLists.txt").is_file())
        binary = scratch / "build"
        log = cache_root() / f"{prefix.name}.log"
        say(f"building RocksDB {VERSION} once, about four minutes on two cores; log: {log}")
        with log.open("wb") as out:
            for command in (
                ["cmake", "-G", "Ninja", "-S", str(source), "-B", str(binary), *flags()],
                ["cmake", "--build", str(binary), "--target", "rocksdb", "-j", jobs],
            ):
                if subprocess.run(command, stdout=out, stderr=subprocess.STDOUT).returncode:
                    tail = log.read_text(errors="replace").splitlines()[-30:]
                    raise SystemExit("\n".join([*tail, f"building RocksDB failed; whole log: {log}"]))
        made = scratch / "prefix"
        (made / "lib").mkdir(parents=True)
        shutil.copy2(binary / "librocksdb.a", made / "lib")
        shutil.copytree(source / "include", made / "include")
        made.rename(prefix)


def main() -> None:
    if sys.argv[1:] == ["--key"]:
        print(build_key())
        return
    wanted = os.environ.get("KVBATCH_ROCKSDB", "pinned")
    if wanted not in ("pinned", "system"):
        raise SystemExit(f"KVBATCH_ROCKSDB={wanted}: give pinned or system")
    if wanted == "system":
        print("system")
        return
    # Also when nothing is to be built: a file that cannot be used is told of at once, not when the cache is gone.
    from_user()
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    prefix = root / build_key()
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (prefix / "lib" / "librocksdb.a").is_file():
            archive = find_source()
            if archive is None:
                say(f"WARNING: no source of RocksDB {VERSION} could be had; falling back to the installed librocksdb.")
                say("WARNING: distributions build it with assertions on: about 1.7 times slower at run time.")
                print("system")
                return
            build(archive, prefix)
    print(f"prefix={prefix}")


if __name__ == "__main__":
    main()
