"""Where third_party/rocksdb.py takes the source of the pinned RocksDB from, and what it accepts. No network."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "third_party" / "rocksdb.py"
PINNED = b"the pinned archive"


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with a small archive as the pinned one and an empty cache; the network is the test's to fake."""
    spec = importlib.util.spec_from_file_location("third_party_rocksdb", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "SHA256", hashlib.sha256(PINNED).hexdigest())
    monkeypatch.setattr(script, "build_key", lambda: "rocksdb-key")
    monkeypatch.setattr(script, "build", lambda archive, prefix: pytest.fail(f"built from {archive}"))
    monkeypatch.setattr("sys.argv", [str(SCRIPT)])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("KVBATCH_ROCKSDB", raising=False)
    monkeypatch.delenv("KVBATCH_ROCKSDB_SOURCE", raising=False)
    (tmp_path / "cache" / "kvbatch").mkdir(parents=True)
    return script


@pytest.fixture
def rocksdb(online: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The same where nothing is to be had from elsewhere."""
    for look in ("from_distribution", "from_upstream"):
        monkeypatch.setattr(online, look, lambda: None)
    return online


def archive(path: Path, content: bytes = PINNED) -> Path:
    path.write_bytes(content)
    return path


def cached_build(script: ModuleType) -> Path:
    """As far as anybody looks."""
    prefix: Path = script.cache_root() / "rocksdb-key"
    (prefix / "lib").mkdir(parents=True)
    (prefix / "lib" / "librocksdb.a").touch()
    return prefix


def test_the_source_is_looked_for_in_the_order_of_the_readme(
    rocksdb: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rocksdb.find_source() is None
    for look in ("from_upstream", "from_distribution"):
        found = archive(tmp_path / look)
        monkeypatch.setattr(rocksdb, look, _named(look, found))
        assert rocksdb.find_source() == found
    cached = archive(rocksdb.cached_archive())
    assert rocksdb.find_source() == cached
    given = archive(tmp_path / "given")
    monkeypatch.setenv("KVBATCH_ROCKSDB_SOURCE", str(given))
    assert rocksdb.find_source() == given


def _named(name: str, found: Path) -> Callable[[], Path]:
    def look() -> Path:
        return found

    look.__name__ = name
    return look


@pytest.mark.parametrize("built", [True, False], ids=["build cached", "nothing cached"])
@pytest.mark.parametrize("content", [None, b"another archive"], ids=["missing", "another"])
def test_a_given_file_that_is_not_the_pinned_archive_is_an_error(
    rocksdb: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, built: bool
) -> None:
    archive(rocksdb.cached_archive())
    if built:
        cached_build(rocksdb)
    if content is not None:
        archive(tmp_path / "given", content)
    monkeypatch.setenv("KVBATCH_ROCKSDB_SOURCE", str(tmp_path / "given"))
    with pytest.raises(SystemExit, match=r"KVBATCH_ROCKSDB_SOURCE=.*(no such file|not the pinned RocksDB)"):
        rocksdb.main()


@pytest.mark.parametrize("given", [True, False])
def test_a_cached_build_is_used_as_it_is(
    rocksdb: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: bool,
) -> None:
    prefix = cached_build(rocksdb)
    if given:
        monkeypatch.setenv("KVBATCH_ROCKSDB_SOURCE", str(archive(tmp_path / "given")))
    rocksdb.main()
    assert capsys.readouterr().out == f"prefix={prefix}\n"


def test_what_was_found_is_built(
    rocksdb: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built: list[tuple[Path, Path]] = []
    monkeypatch.setattr(rocksdb, "build", lambda *of: built.append(of))
    given = archive(tmp_path / "given")
    monkeypatch.setenv("KVBATCH_ROCKSDB_SOURCE", str(given))
    rocksdb.main()
    prefix = rocksdb.cache_root() / "rocksdb-key"
    assert built == [(given, prefix)]
    assert capsys.readouterr().out == f"prefix={prefix}\n"


def test_a_spoilt_archive_in_the_cache_is_not_used(rocksdb: ModuleType) -> None:
    archive(rocksdb.cached_archive(), PINNED[:-1])
    assert rocksdb.find_source() is None


def test_without_a_source_the_installed_one_is_taken_with_a_warning(
    rocksdb: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    rocksdb.main()
    shown = capsys.readouterr()
    assert shown.out == "system\n"
    assert "WARNING: no source of RocksDB" in shown.err


def test_the_installed_one_that_is_asked_for_needs_no_source(
    rocksdb: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cached_build(rocksdb)
    monkeypatch.setenv("KVBATCH_ROCKSDB", "system")
    rocksdb.main()
    assert capsys.readouterr() == ("system\n", "")


def test_another_wish_is_an_error(rocksdb: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVBATCH_ROCKSDB", "newest")
    with pytest.raises(SystemExit, match="give pinned or system"):
        rocksdb.main()


# -- where it comes from when it is not at hand -----------------------------------------------------------------------


def test_the_upstream_archive_is_checked_and_kept(online: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(PINNED)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    assert online.from_upstream() == online.cached_archive()
    assert online.cached_archive().read_bytes() == PINNED
    assert asked == [online.UPSTREAM]
    assert online.VERSION in online.UPSTREAM


def test_an_upstream_archive_of_other_bytes_is_not_kept(online: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: io.BytesIO(b"a page that asks to log in"))
    assert online.from_upstream() is None
    assert not online.cached_archive().exists()


def test_no_network_is_no_error(online: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def urlopen(url: str, timeout: float) -> io.BytesIO:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    assert online.from_upstream() is None


@pytest.mark.parametrize(
    ("listing", "site"),
    [
        (
            "'http://deb.example.org/debian/dists/bookworm/InRelease' deb.example.org_ 0 \n",
            "http://deb.example.org/debian",
        ),
        ("'http://other.example/x/dists/noble/InRelease' other.example_ 0 \n", None),
        ("", None),
    ],
)
def test_debian_is_asked_where_the_system_takes_its_own_suite_from(
    online: ModuleType, monkeypatch: pytest.MonkeyPatch, listing: str, site: str | None
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command, **how: subprocess.CompletedProcess(command, 0, listing, ""))
    assert online.debian_site() == site


def test_a_system_without_apt_has_no_debian_source(online: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda command: None)
    monkeypatch.setattr(subprocess, "run", lambda command, **how: pytest.fail(f"started {command}"))
    assert online.from_distribution() is None
