"""What the command line prints: results on stdout, everything else on stderr, JSON by contract."""

from __future__ import annotations

import json
import re
import shlex
import socket
from pathlib import Path
from typing import Any

import pytest
import rocksdict

import kvbatch as package
from kvbatch.units import format_bytes
from support.stores import kvbatch, numbered, raw_options, read_store, tree, write_store

ENTRIES = {"default": numbered(3000), "users": numbered(1000)}
SUMMARY_KEYS = {
    "job", "state", "lane", "lane_reason", "entries", "raw_bytes", "wire_bytes", "seconds", "entries_per_second",
    "batches", "resumed", "resent_bytes", "throttled_seconds", "peak_rss_bytes", "ranges", "finished_before",
}  # fmt: skip
STATUS_KEYS = {
    "job", "source", "target", "state", "created", "updated", "pid", "percent", "durable_percent",
    "entries_per_second", "bytes_per_second", "remaining_seconds", "throttle", "progress", "settings", "summary",
    "error", "carry_on", "carry_on_note",
}  # fmt: skip
VERIFY_KEYS = {
    "equal", "entries_source", "entries_target", "ranges_differing", "keys_missing", "keys_extra", "keys_different",
    "digests",
}  # fmt: skip
# What verify says besides: which families and keys, and what a repair did.
VERIFY_MORE = {"unfinished", "keys_repaired", "families_missing", "families_extra", "samples"}
RAW_BYTES = sum(len(key) + len(value) for entries in ENTRIES.values() for key, value in entries.items())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_store(tmp_path / "source", ENTRIES)


def one_object(stdout: str) -> Any:
    """stdout must hold one JSON object and a line end."""
    assert stdout.count("\n") == 1, stdout
    assert stdout.endswith("\n")
    return json.loads(stdout)


@pytest.mark.parametrize("kind", ["directory", "receiver"])
def test_migrate_and_verify_print_one_json_object_each(
    receiver: package.Receiver, source: Path, tmp_path: Path, kind: str
) -> None:
    target = f"kvbatch://127.0.0.1:{receiver.port}/copy" if kind == "receiver" else str(tmp_path / "copy")
    done = kvbatch("migrate", source, target, "--json", "--progress", "none", "--job", "nightly")
    assert (done.returncode, done.stderr) == (0, "")
    summary = one_object(done.stdout)
    assert summary.keys() == SUMMARY_KEYS
    assert (summary["job"], summary["state"], summary["lane"]) == ("nightly", "done", "batch")
    assert (summary["entries"], summary["raw_bytes"], summary["ranges"]) == (4000, RAW_BYTES, 2)
    assert (summary["resumed"], summary["resent_bytes"], summary["throttled_seconds"]) == (False, 0, 0.0)
    assert summary["wire_bytes"] > RAW_BYTES if kind == "receiver" else summary["wire_bytes"] == 0
    assert summary["batches"] >= 2
    assert summary["seconds"] > 0
    assert summary["entries_per_second"] == pytest.approx(4000 / summary["seconds"])
    assert 1 << 20 < summary["peak_rss_bytes"] < 1 << 30

    done = kvbatch("verify", source, target, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = one_object(done.stdout)
    assert report.keys() == VERIFY_KEYS | VERIFY_MORE
    assert (report["equal"], report["entries_source"], report["entries_target"]) == (True, 4000, 4000)
    assert [report[key] for key in sorted(VERIFY_KEYS) if key.startswith(("keys", "ranges"))] == [0, 0, 0, 0]
    assert report["digests"].keys() == ENTRIES.keys()
    assert all(re.fullmatch("[0-9a-f]{32}", digest) for digest in report["digests"].values())


def test_a_second_run_of_a_finished_job_says_done_again(source: Path, tmp_path: Path) -> None:
    command = ("migrate", source, tmp_path / "copy", "--json")
    first, again = kvbatch(*command), kvbatch(*command)
    assert again.returncode == 0
    summary = one_object(first.stdout)
    assert summary["finished_before"] is False
    assert one_object(again.stdout) == {**summary, "finished_before": True}
    assert "finished before; nothing was moved" in again.stderr


def test_a_second_run_says_what_it_compared_and_how_to_compare_the_rest(source: Path, tmp_path: Path) -> None:
    """The target was changed since; only entries would show it."""
    target = tmp_path / "a copy"
    command = ("migrate", source, target, "--cf", "users", "--range", "6b..6c")
    assert kvbatch(*command).returncode == 0
    store = rocksdict.Rdict(str(target), raw_options(), {"default": raw_options(), "users": raw_options()})
    store.get_column_family("users")[b"key-00000001"] = b"changed"
    store.close()
    again = kvbatch(*command)
    assert again.returncode == 0
    assert "`kvbatch verify` compares entries" in again.stdout
    [said] = [line for line in again.stderr.splitlines() if "finished before" in line]
    assert "fingerprint of the source and RocksDB's identity of the target, not their entries" in said
    program, *verify = shlex.split(said.rpartition("to compare those: ")[2])
    assert (program, kvbatch(*verify).returncode) == ("kvbatch", 3)


def test_verify_counts_each_kind_of_difference_and_repairs_it(source: Path, tmp_path: Path) -> None:
    other = dict(ENTRIES["default"])
    del other[b"key-00000001"], other[b"key-00002000"]
    other[b"key-00000500"] = b"changed"
    other[b"key-00009999"] = b"extra"
    target = write_store(tmp_path / "copy", {"default": other, "users": ENTRIES["users"]})
    done = kvbatch("verify", source, target, "--json")
    report = one_object(done.stdout)
    assert (done.returncode, report["equal"]) == (3, False)
    assert (report["keys_missing"], report["keys_extra"], report["keys_different"]) == (2, 1, 1)
    assert (report["entries_source"], report["entries_target"], report["ranges_differing"]) == (4000, 3999, 1)
    assert [(found["kind"], bytes.fromhex(found["key"])) for found in report["samples"]] == [
        ("missing", b"key-00000001"),
        ("different", b"key-00000500"),
        ("missing", b"key-00002000"),
        ("extra", b"key-00009999"),
    ]
    done = kvbatch("verify", source, target, "--repair", "--json")
    report = one_object(done.stdout)
    assert (done.returncode, report["equal"], report["keys_repaired"]) == (0, True, 4)
    assert read_store(target) == ENTRIES


@pytest.mark.parametrize("command", ["plan", "migrate --dry-run"])
def test_a_plan_touches_nothing(source: Path, tmp_path: Path, command: str) -> None:
    before = tree(tmp_path)
    shown = kvbatch(*command.split(), source, tmp_path / "copy")
    as_json = kvbatch(*command.split(), source, tmp_path / "copy", "--json", "--cf", "users", "--range", "6b..6c")
    assert tree(tmp_path) == before
    assert (shown.returncode, shown.stderr, as_json.returncode, as_json.stderr) == (0, "", 0, "")
    assert '"default", "users"' in shown.stdout
    plan = one_object(as_json.stdout)
    assert (plan["source"], plan["target"]) == (str(source), str(tmp_path / "copy"))
    assert (plan["column_families"], plan["lane"]) == (["users"], "batch")
    assert plan["lane_reason"]
    assert [(part["start"], part["end"]) for part in plan["ranges"]] == [("6b", "6c")]
    assert 500 <= plan["estimated_entries"] <= 2000
    assert plan["estimated_bytes"] > 0


def test_progress_as_json_is_one_event_a_line_on_stderr(source: Path, tmp_path: Path) -> None:
    done = kvbatch("migrate", source, tmp_path / "copy", "--progress", "json", "--json")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    kinds = [event["event"] for event in events]
    assert (kinds[0], kinds[-1]) == ("job", "done")
    assert set(kinds) <= {"job", "range", "sample", "done"}
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)
    assert {(e["range"], e["state"]) for e in events if e["event"] == "range"} == {
        (number, state) for number in range(2) for state in ("started", "complete")
    }
    assert {key: events[-1][key] for key in SUMMARY_KEYS} == one_object(done.stdout)


def test_verify_shows_progress_as_migrate_does(source: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "copy", ENTRIES)
    done = kvbatch("verify", source, tmp_path / "copy", "--progress", "json", "--json")
    *samples, last = [json.loads(line) for line in done.stderr.splitlines()]
    assert {event["event"] for event in samples} == {"sample"}
    assert (samples[-1]["entries"], samples[-1]["raw_bytes"], samples[-1]["ranges_complete"]) == (4000, RAW_BYTES, 2)
    assert (last["event"], last["state"]) == ("done", "done")
    report = one_object(done.stdout)
    assert {key: last[key] for key in report} == report
    assert kvbatch("verify", source, tmp_path / "copy", "--progress", "none").stderr == ""
    failed = kvbatch("verify", source, tmp_path / "nowhere", "--progress", "json")
    event = json.loads(failed.stderr.splitlines()[0])
    assert (failed.returncode, event["event"], event["state"]) == (2, "done", "failed")
    assert "nowhere" in event["error"]


def test_without_json_there_is_a_table_and_plain_lines(source: Path, tmp_path: Path) -> None:
    done = kvbatch("migrate", source, tmp_path / "copy")
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in done.stdout.splitlines())
    assert rows["entries"] == "4,000"
    assert rows["sent again"] == "0 B"
    assert re.fullmatch(r"job [0-9a-f]{12}: starting, 2 ranges in the batch lane\n", done.stderr)
    verified = kvbatch("verify", source, tmp_path / "copy")
    assert re.search(r"^equal +yes$", verified.stdout, re.MULTILINE)
    assert verified.stderr == ""


def test_source_and_target_are_shown_as_they_were_understood(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("plan", "migrate"):
        done = kvbatch(command, source, "rocksdb:./copy")
        rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in done.stdout.splitlines())
        assert (rows["source"], rows["target"]) == (str(source), str(tmp_path / "copy"))


def test_bytes_of_files_are_not_called_keys_and_values(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    shown = [
        kvbatch("plan", source, tmp_path / "copy", "--lane", "files").stdout,
        kvbatch("migrate", source, tmp_path / "copy", "--lane", "files", "--job", "nightly").stdout,
        kvbatch("report", "nightly", "-o", "-").stdout,
    ]
    moved = sum(file.stat().st_size for file in (tmp_path / "copy").iterdir())
    assert f"bytes of files   about {format_bytes(moved)}\n" in shown[0]
    assert f"bytes of files  {format_bytes(moved)}\n" in shown[1]
    assert "entries         about 4,000\n" in shown[1]
    assert ">bytes of files<" in shown[2]
    assert [text for text in shown if "keys and values<" in text or "\nkeys and values" in text] == []


def test_status_lists_jobs_and_shows_one(source: Path, tmp_path: Path) -> None:
    state = ("--state-dir", tmp_path / "state")
    nothing = kvbatch("status", *state, "--json")
    assert one_object(nothing.stdout) == {"jobs": []}
    told = f"no jobs in the state directory {tmp_path / 'state'}, which does not exist\n"
    assert kvbatch("status", *state).stdout == told
    assert not (tmp_path / "state").exists()
    kvbatch("migrate", source, tmp_path / "copy", "--job", "nightly", *state)
    table = kvbatch("status", *state).stdout.splitlines()
    assert " ".join(table[0].split()) == "job state done durable entries rate left throttle source target last error"
    assert re.split(r"\s{2,}", table[1])[:4] == ["nightly", "done", "100 %", "4 k"]
    assert table[1].split()[-2:] == [str(source), str(tmp_path / "copy")]
    rows = dict(
        re.split(r"\s{2,}", line, maxsplit=1) for line in kvbatch("status", "nightly", *state).stdout.splitlines()
    )
    assert (rows["state"], rows["done"], rows["ranges"]) == ("done", "100 %", "2 of 2 complete")
    assert (rows["durable entries"], rows["summary entries"]) == ("4,000", "4,000")
    record = one_object(kvbatch("status", "nightly", *state, "--json").stdout)
    assert record.keys() == STATUS_KEYS
    assert (record["percent"], record["remaining_seconds"], record["settings"]) == (100.0, 0.0, None)
    assert (record["job"], record["state"], record["pid"], record["error"]) == ("nightly", "done", None, None)
    assert record["summary"].keys() == SUMMARY_KEYS
    assert record["progress"]["durable_entries"] == 4000


@pytest.mark.parametrize("target", ["nobody listens", "a file", "below a file", "other data"])
def test_a_job_whose_target_was_never_opened_is_not_kept(source: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "file").write_text("precious")
    write_store(tmp_path / "theirs", {"default": {b"theirs": b"1"}})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    path = {
        "nobody listens": f"kvbatch://127.0.0.1:{port}/copy",
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "copy",
        "other data": tmp_path / "theirs",
    }[target]
    with pytest.raises(package.KvbatchError):
        package.migrate(source, path, job="nightly", retries=0).wait()
    assert one_object(kvbatch("status", "--json").stdout) == {"jobs": []}


def test_a_job_that_was_known_is_kept_when_its_receiver_is_gone(source: Path, tmp_path: Path) -> None:
    with package.serve(tmp_path / "root") as receiver:
        target = f"kvbatch://127.0.0.1:{receiver.port}/copy"
        package.migrate(source, target, job="nightly").wait()
    with pytest.raises(package.TransportError):
        package.migrate(source, target, job="nightly", retries=0).wait()
    [record] = one_object(kvbatch("status", "--json").stdout)["jobs"]
    assert (record["job"], record["state"], record["percent"], record["error"]) == ("nightly", "done", 100.0, None)


def test_demo_goes_the_whole_way(tmp_path: Path) -> None:
    done = kvbatch("demo", "--entries", 2000, "--directory", tmp_path / "demo", "--json")
    assert done.returncode == 0, done.stderr
    report = one_object(done.stdout)
    assert (report["migrate"]["entries"], report["verify"]["equal"]) == (2000, True)
    assert read_store(tmp_path / "demo" / "received" / "copy") == read_store(tmp_path / "demo" / "source")
    again = kvbatch("demo", "--entries", 2000, "--directory", tmp_path / "demo")
    assert (again.returncode, again.stdout) == (4, "")
    assert "give another --directory" in again.stderr
    assert "Traceback" not in again.stderr


def test_version() -> None:
    done = kvbatch("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"kvbatch {package.__version__}\n", "")


CONTROL = ["pause", "resume", "cancel", "set"]


def test_summaries_of_the_commands_are_whole_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    listed = kvbatch("--help").stdout.partition("Commands:\n")[2].splitlines()
    assert len(listed) == 12
    assert [line for line in listed if not line.endswith(".") or line.endswith("...")] == []


@pytest.mark.parametrize("command", ["", "demo", "plan", "migrate", "serve", "verify", "inspect", "status", *CONTROL])
def test_help_says_what_a_command_does(command: str) -> None:
    done = kvbatch(*command.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage:" in done.stdout
    expected = {"": ["migrate", "verify"], "serve": ["--root", "--listen", "--insecure"], "migrate": ["--json", "--cf"]}
    assert [word for word in expected.get(command, ["--json"]) if word not in done.stdout] == []
