"""`kvbatch inspect` and `kvbatch.inspect`: of Kvrocks' directories and of any other store."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rocksdict

import kvbatch as package
from kvbatch.kvrocks.keys import FAMILIES, KEYED_FAMILIES, METADATA, metadata_key
from kvbatch.kvrocks.metadata import Type
from kvbatch.target_local import LocalSession
from support.sender import SmallSource
from support.stores import TABLE_FORMAT, copy_open_store, kvbatch, numbered, raw_options, read_store, tree, write_store

TALLY_KEYS = {"keys", "expired", "empty", "subkeys", "garbage", "bytes", "dead_bytes"}
INSPECTION_KEYS = {
    "path", "kind", "identity", "latest_sequence", "wal_bytes", "exact", "column_families", "kvrocks",
}  # fmt: skip
FAMILY_KEYS = {
    "name", "id", "entries", "raw_bytes", "broken", "memtable_entries", "levels", "blob_files", "blob_bytes",
    "comparator", "merge_operator", "compression", "filter_policy", "block_size", "num_levels", "table_formats",
}  # fmt: skip
CENSUS_KEYS = {"slot_encoded", "judged_ms", "total", "types", "namespaces", "slots", "broken", "broken_samples"}


def inspect_json(path: Path) -> Any:
    done = kvbatch("inspect", path, "--json")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    return json.loads(done.stdout)


def test_a_real_directory_as_json(source: Path, fixture: str, counts: dict[str, tuple[int, str]]) -> None:
    before = tree(source)
    found = inspect_json(source)
    assert tree(source) == before
    assert found.keys() == INSPECTION_KEYS
    assert (found["path"], found["kind"], found["exact"]) == (str(source), "kvrocks", True)
    assert found["wal_bytes"] == sum(file.stat().st_size for file in source.glob("*.log"))

    families = {family["name"]: family for family in found["column_families"]}
    assert [(name, family["id"]) for name, family in families.items()] == list(FAMILIES.items())
    entries = read_store(source)
    for name, family in families.items():
        assert family.keys() == FAMILY_KEYS
        assert family["entries"] == counts[name][0]
        assert family["raw_bytes"] == sum(len(key) + len(value) for key, value in entries[name].items())
        assert family["broken"] == 0
    levels = [level for family in families.values() for level in family["levels"]]
    assert sum(level["files"] for level in levels) == len(list(source.glob("*.sst")))
    assert sum(level["file_bytes"] for level in levels) == sum(file.stat().st_size for file in source.glob("*.sst"))
    assert families[METADATA]["table_formats"] == [5]

    kvrocks = found["kvrocks"]
    assert kvrocks.keys() == CENSUS_KEYS
    assert kvrocks["slot_encoded"] == (fixture == "cluster")
    assert set(kvrocks["namespaces"]) == {"__namespace"} | ({"tenant_a"} if fixture == "standalone" else set())
    assert set(kvrocks["types"]) == {kind.name.lower() for kind in Type} | {"unknown"}
    assert (kvrocks["broken"], kvrocks["broken_samples"]) == (0, [])
    total = kvrocks["total"]
    assert total["keys"] + total["subkeys"] + total["garbage"] == sum(counts[name][0] for name in KEYED_FAMILIES)
    # Each axis holds all there is.
    namespaces = kvrocks["namespaces"].values()
    for parts in (
        kvrocks["types"].values(),
        [namespace["total"] for namespace in namespaces],
        [types for namespace in namespaces for types in namespace["types"].values()],
        *([kvrocks["slots"].values()] if fixture == "cluster" else []),
    ):
        assert all(part.keys() == TALLY_KEYS for part in parts)
        assert {name: sum(part[name] for part in parts) for name in TALLY_KEYS} == total
    assert bool(kvrocks["slots"]) == (fixture == "cluster")


def test_python_gives_what_the_command_prints(source: Path) -> None:
    printed = inspect_json(source)
    found = package.inspect(f"rocksdb:{source}")
    assert found.kvrocks is not None
    printed["kvrocks"]["judged_ms"] = found.kvrocks.judged_ms
    assert json.loads(json.dumps(found.to_json())) == printed
    assert [family.files for family in found.column_families] == [
        sum(level.files for level in family.levels) for family in found.column_families
    ]


def test_a_real_directory_as_text(source: Path, fixture: str) -> None:
    done = kvbatch("inspect", source)
    assert (done.returncode, done.stderr) == (0, "")
    sections = [section.splitlines() for section in done.stdout.split("\n\n")]
    titles = [section[0].split("  ")[0] for section in sections]
    slots = ["slots"] if fixture == "cluster" else []
    assert titles == ["store", "column family", "column family", "namespace", "type", *slots]
    total = inspect_json(source)["kvrocks"]["total"]
    if fixture == "cluster":
        assert "Kvrocks, keys with slots" in done.stdout
        rows = [row.split() for row in sections[-1][1:]]
        assert [row[0] for row in rows] == [f"{first}-{first + 1023}" for first in range(0, 16384, 1024)]
        assert sum(int(row[1].replace(",", "")) for row in rows) == total["keys"]
    else:
        assert "Kvrocks, keys without slots" in done.stdout
        assert [row.split()[0] for row in sections[3][1:]] == ["__namespace", "tenant_a", "all"]
        assert sections[3][-1].split()[1] == f"{total['keys']:,}"


def test_broken_entries_are_counted_and_told(tmp_path: Path) -> None:
    entries: dict[str, dict[bytes, bytes]] = {name: {} for name in FAMILIES}
    entries[METADATA] = {metadata_key(b"ns", b"key%d" % number, True): b"\x81" + bytes(8) for number in range(50)}
    broken_keys = {b"\x05ab": b"", b"\x02ns\x40\x00x": b"\x81" + bytes(8)}
    broken_values = {metadata_key(b"ns", b"short", True): b"\x82", metadata_key(b"ns", b"other", True): b"\x8d"}
    entries[METADATA] |= broken_keys | broken_values
    entries["stream"] = {b"\x02ns" + bytes(2) + bytes([0, 0, 0, number]): b"" for number in range(30)}
    path = write_store(tmp_path / "store", entries)
    found = inspect_json(path)
    kvrocks = found["kvrocks"]
    assert kvrocks["broken"] == 34
    assert {family["name"]: family["broken"] for family in found["column_families"] if family["broken"]} == {
        METADATA: 4,
        "stream": 30,
    }
    assert len(kvrocks["broken_samples"]) == 10
    reasons = {sample["key"]: sample["reason"] for sample in kvrocks["broken_samples"]}
    assert "ends before its namespace or its slot" in reasons[b"\x05ab".hex()]
    assert "has slot 16384; the last is 16383" in reasons[b"\x02ns\x40\x00x".hex()]
    assert "metadata of a hash has 1 bytes, at least 25" in reasons[metadata_key(b"ns", b"short", True).hex()]
    assert "unknown type 13" in reasons[metadata_key(b"ns", b"other", True).hex()]
    done = kvbatch("inspect", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "30, not counted above" in done.stdout
    assert "metadata of the unknown type 13" in done.stdout


def test_a_namespace_that_is_no_text_moves_no_cursor(tmp_path: Path) -> None:
    entries: dict[str, dict[bytes, bytes]] = {name: {} for name in FAMILIES}
    entries[METADATA] = {metadata_key(b"\x1b[2J\xff", b"key", False): b"\x81" + bytes(8)}
    path = write_store(tmp_path / "store", entries)
    assert r"\x1b[2J\xff  1 " in kvbatch("inspect", path).stdout
    assert list(inspect_json(path)["kvrocks"]["namespaces"]) == ["\x1b[2J\udcff"]


def test_a_namespace_may_be_called_as_the_row_of_all(tmp_path: Path) -> None:
    entries: dict[str, dict[bytes, bytes]] = {name: {} for name in FAMILIES}
    for namespace in (b"all", b"one"):
        entries[METADATA][metadata_key(namespace, b"key", False)] = b"\x81" + bytes(8)
    shown = kvbatch("inspect", write_store(tmp_path / "store", entries)).stdout.split("\n\n")[3].splitlines()
    assert [row.split()[:2] for row in shown[1:]] == [["all", "1"], ["one", "1"], ["all", "2"]]


def test_an_empty_kvrocks_directory(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store", {name: {} for name in FAMILIES})
    kvrocks = inspect_json(path)["kvrocks"]
    assert kvrocks["slot_encoded"] is None
    assert (kvrocks["types"], kvrocks["namespaces"], kvrocks["slots"]) == ({}, {}, {})
    assert set(kvrocks["total"].values()) == {0}
    assert "Kvrocks, no keys" in kvbatch("inspect", path).stdout


def test_any_other_store_is_described_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "store"
    options = raw_options()
    options.set_compression_type(rocksdict.DBCompressionType.zstd())
    store = rocksdict.Rdict(str(path), options)
    users = store.create_column_family("users", options)
    for key, value in numbered(3000).items():
        users[key] = value
    users.flush()
    users.compact_range(None, None)
    users[b"more"] = b"in a file of its own"
    users.flush()
    for key, value in numbered(50).items():
        store[key] = value
    copy_open_store(store, path, tmp_path / "copy")
    store.close()

    before = tree(tmp_path / "copy")
    found = inspect_json(tmp_path / "copy")
    assert tree(tmp_path / "copy") == before
    assert (found["kind"], found["exact"], found["kvrocks"]) == ("rocksdb", False, None)
    assert found["wal_bytes"] > 0
    default, users_found = found["column_families"]
    assert (default["name"], default["id"], default["entries"], default["memtable_entries"]) == ("default", 0, 50, 50)
    assert (default["levels"], default["table_formats"], default["broken"]) == ([], [], None)
    assert (users_found["name"], users_found["id"], users_found["entries"]) == ("users", 1, 3001)
    assert [level["files"] for level in users_found["levels"]] == [1, 1]
    assert users_found["levels"][0]["level"] == 0
    assert users_found["table_formats"] == [TABLE_FORMAT]
    assert (users_found["comparator"], users_found["compression"]) == ("leveldb.BytewiseComparator", "zstd")

    shown = kvbatch("inspect", tmp_path / "copy")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "about 3 k" in shown.stdout
    assert "zstd" in shown.stdout


def test_blob_files_are_counted(tmp_path: Path) -> None:
    options = raw_options()
    options.set_enable_blob_files(True)
    path = write_store(tmp_path / "store", {"default": numbered(10, value=bytes(10_000))}, options=options)
    [family] = inspect_json(path)["column_families"]
    [blob_file] = path.glob("*.blob")
    assert (family["blob_files"], family["blob_bytes"]) == (1, blob_file.stat().st_size)
    assert "1, " in kvbatch("inspect", path).stdout


def test_a_store_that_somebody_has_open_is_refused(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store", {"default": numbered(3)})
    store = rocksdict.Rdict(str(path), raw_options())
    for arguments in ([path], [path, "--json"]):
        done = kvbatch("inspect", *arguments)
        assert (done.returncode, done.stdout) == (4, "")
        assert str(path) in done.stderr
    store.close()
    assert kvbatch("inspect", path).returncode == 0


def test_the_target_of_an_unfinished_migration_is_what_it_is(tmp_path: Path) -> None:
    source = write_store(tmp_path / "source", {"default": numbered(3)})
    LocalSession(tmp_path / "target", SmallSource(source, [("default", None, None)], job="j").manifest, 1 << 20).close()
    names = [family["name"] for family in inspect_json(tmp_path / "target")["column_families"]]
    assert names == ["default", "__kvbatch__"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nothing", "nothing"),
        ("kvbatch://127.0.0.1:7720/copy", "inspect reads a directory on this machine"),
        ("", "empty path"),
    ],
)
def test_what_is_no_store_is_wrong_usage(tmp_path: Path, path: str, said: str) -> None:
    done = kvbatch("inspect", path, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    with pytest.raises(package.UsageError, match=said):
        package.inspect(path)


def test_no_other_command_imports_numpy() -> None:
    script = "import sys, kvbatch, kvbatch.cli; kvbatch.Migration, kvbatch.verify; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
