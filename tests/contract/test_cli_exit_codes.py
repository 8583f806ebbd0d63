"""The exit code is what scripts and orchestrators read: one for each kind of end, and a message that helps."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import rocksdict

from kvbatch.target_local import LocalSession
from support.sender import SmallSource
from support.stores import kvbatch, numbered, raw_options, read_store, tree, write_store

ENTRIES = {"default": numbered(200), "users": numbered(100)}


@dataclass(frozen=True)
class World:
    """A source, where a target would go, and whatever a case adds."""

    path: Path

    @property
    def source(self) -> Path:
        return self.path / "source"

    @property
    def target(self) -> Path:
        return self.path / "target"


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "world")
    made.path.mkdir()
    write_store(made.source, ENTRIES)
    return made


Arguments = Callable[[World], list[object]]


def migrate(*options: object) -> Arguments:
    return lambda world: ["migrate", world.source, world.target, *options]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def nonempty_target(world: World) -> list[object]:
    write_store(world.target, {"default": {b"theirs": b"1"}})
    return ["migrate", world.source, world.target]


def unfinished_target_as_source(world: World) -> list[object]:
    job = SmallSource(world.source, [("default", None, None)], job="elsewhere")
    session = LocalSession(world.target, job.manifest, 1 << 20)
    session.close()
    return ["migrate", world.target, world.path / "third"]


def file_as_target(world: World) -> list[object]:
    world.target.write_text("dear")
    return ["migrate", world.source, world.target]


def directory_as_source(world: World) -> list[object]:
    (world.path / "letters").mkdir()
    return ["migrate", world.path / "letters", world.target]


def in_state(state_dir: str, *command: str) -> Arguments:
    return lambda world: [*command, "--state-dir", world.path / state_dir]


NO_DIRECTORY = ["CURRENT is a file", "Nothing was changed", "--state-dir"]
LOOKING = (["status", "nightly"], ["pause", "nightly"], ["cancel", "nightly"], ["report", "nightly", "-o", "-"])
# (what, arguments, exit code, words of the message)
CASES: list[tuple[str, Arguments, int, list[str]]] = [
    ("missing source", lambda world: ["migrate", world.path / "none", world.target], 2, ["none"]),
    ("no RocksDB directory", directory_as_source, 2, ["letters", "RocksDB"]),
    ("no target", lambda world: ["migrate", world.source], 2, ["TARGET"]),
    ("unknown command", lambda world: ["teleport", world.source], 2, ["teleport"]),
    ("unknown option", migrate("--quickly"), 2, ["--quickly"]),
    ("unknown family", migrate("--cf", "nobody"), 2, ["nobody", "users"]),
    ("range without dots", migrate("--range", "6100"), 2, ["6100", "HEX..HEX"]),
    ("malformed memory", migrate("--max-memory", "lots"), 2, ["lots", "1MiB"]),
    ("malformed memory of a receiver",
     lambda world: ["serve", "--root", world.target, "--listen", "127.0.0.1:0", "--max-memory", "lots"], 2,
     ["--max-memory 'lots'", "1MiB"]),
    ("memory past all machines", migrate("--max-memory", "99999999TiB"), 2, ["--max-memory", "1024TiB"]),
    ("streams that are no number", migrate("--streams", "many"), 2, ["--streams"]),
    ("no time for the peer", migrate("--peer-timeout", "0"), 2, ["--peer-timeout 0: give seconds"]),
    ("unknown lane", migrate("--lane", "fast"), 2, ["'--lane': 'fast' is not one of auto, batch, sst, files"]),
    ("unknown target compression", migrate("--target-compression", "rar"), 2, ["rar"]),
    ("unknown endpoint", lambda world: ["migrate", world.source, "ftp://h/x"], 2, ["ftp://h/x"]),
    ("malformed host", lambda world: ["migrate", world.source, "kvbatch://ho st/x"], 2, ["ho st", "no host name"]),
    ("name out of the root", lambda world: ["migrate", world.source, "kvbatch://h/../x"], 2, ["'../x'", "root"]),
    ("receiver as source", lambda world: ["migrate", "kvbatch://h:1/x", world.target], 2, ["cannot be a source"]),
    ("unknown job", lambda world: ["status", "nobody"], 2, ["nobody", "kvbatch status"]),
    ("malformed address", lambda world: ["serve", "--root", world.target, "--listen", "here"], 2, ["HOST:PORT"]),
    ("port out of range", lambda world: ["serve", "--root", world.target, "--listen", "127.0.0.1:99999"], 2,
     ["ports go from 1 to 65535", "write HOST:PORT"]),
    ("root is a file", lambda world: ["serve", "--root", world.source / "CURRENT", "--listen", "127.0.0.1:0"], 2,
     ["CURRENT is a file", "Nothing was changed", "--root"]),
    ("root below a file", lambda world: ["serve", "--root", world.source / "CURRENT" / "in", "--listen", "127.0.0.1:0"],
     2, ["CURRENT is a file", "Nothing was changed", "--root"]),
    ("state directory is a file",
     lambda world: ["migrate", world.source, world.target, "--state-dir", world.source / "CURRENT"], 2, NO_DIRECTORY),
    *((f"state directory is a file: {command[0]}", in_state("source/CURRENT", *command), 2, NO_DIRECTORY)
      for command in LOOKING),
    *((f"no state directory: {command[0]}", in_state("nosuch", *command), 2, ["no job 'nightly'", "nosuch` lists"])
      for command in LOOKING),
    ("verify of a missing target", lambda world: ["verify", world.source, world.target], 2, ["target"]),
    ("same directory", lambda world: ["migrate", world.source, world.source], 4, ["same directory"]),
    ("target inside the source", lambda world: ["migrate", world.source, world.source / "in"], 4, ["inside"]),
    ("target with data", nonempty_target, 4, ["already holds data", "Nothing was changed", "--allow-nonempty"]),
    ("target is a file", file_as_target, 4, ["is a file"]),
    ("unfinished target as source", unfinished_target_as_source, 4, ["unfinished"]),
    ("open address", lambda world: ["serve", "--root", world.target, "--listen", "0.0.0.0:0"], 4, ["--insecure"]),
    ("nobody listens",
     lambda world: ["migrate", world.source, f"kvbatch://127.0.0.1:{free_port()}/x", "--retries", 0], 75,
     ["nothing was moved", "try again with: kvbatch migrate"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "words"), [case[1:] for case in CASES], ids=[case[0].replace(" ", "-") for case in CASES]
)
def test_an_error_is_an_exit_code_and_a_message_and_changes_nothing(
    world: World, arguments: Arguments, code: int, words: list[str]
) -> None:
    given = arguments(world)
    if given[0] in ("migrate", "verify", "status"):
        given.append("--json")
    before = tree(world.path)
    done = kvbatch(*given, timeout=30)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert [word for word in words if word not in done.stderr] == [], done.stderr
    assert "Traceback" not in done.stderr
    assert tree(world.path) == before


def test_done_is_0_and_a_difference_is_3(world: World) -> None:
    assert kvbatch("migrate", world.source, world.target).returncode == 0
    assert kvbatch("verify", world.source, world.target).returncode == 0
    target = rocksdict.Rdict(str(world.target), raw_options(), column_families={"users": raw_options()})
    target[b"key-00000007"] = b"changed"
    target.close()
    different = kvbatch("verify", world.source, world.target)
    assert different.returncode == 3
    assert b"key-00000007".hex() in different.stdout
    assert kvbatch("verify", world.source, world.target, "--repair").returncode == 0
    assert read_store(world.target) == ENTRIES


def test_the_target_of_another_job_is_4_and_stays_that_jobs(world: World) -> None:
    other = SmallSource(world.source, [("default", None, None), ("users", None, None)], job="elsewhere")
    session = LocalSession(world.target, other.manifest, 1 << 20)
    durable = other.move(session, other.ranges[:1])
    session.close()
    done = kvbatch("migrate", world.source, world.target)
    assert (done.returncode, done.stdout) == (4, "")
    assert "unfinished job 'elsewhere'" in done.stderr
    assert "No entry was changed" in done.stderr
    session = LocalSession(world.target, other.manifest, 1 << 20)
    assert list(session.reply.cursors) == durable
    session.close()


def test_a_store_that_another_process_writes_is_4(world: World) -> None:
    owner = rocksdict.Rdict(str(world.source), raw_options(), column_families={"users": raw_options()})
    done = kvbatch("migrate", world.source, world.target)
    owner.close()
    assert (done.returncode, done.stdout) == (4, "")
    assert "in use" in done.stderr
    assert not world.target.exists()


@pytest.mark.parametrize(
    ("damaged_file", "advice"),
    [
        (max, "\nonce this is mended, try again with: kvbatch migrate"),
        (min, "\nwhat was moved stays; once this is mended, carry on with: kvbatch migrate"),
    ],
    ids=["nothing was moved", "one family was moved"],
)
def test_a_damaged_source_file_is_1_names_it_and_leaves_the_job_resumable(
    tmp_path: Path, damaged_file: Callable[..., Path], advice: str
) -> None:
    world = World(tmp_path)
    # The larger family goes first; the damage is where only a whole read comes by.
    entries = {"default": numbered(400, value=b"v" * 1000), "users": numbered(100, value=b"v" * 1000)}
    settings = raw_options()
    settings.set_compression_type(rocksdict.DBCompressionType.none())
    write_store(world.source, entries, options=settings)
    whole = world.path / "whole"
    shutil.copytree(world.source, whole)
    file = damaged_file(world.source.glob("*.sst"), key=lambda entry: entry.stat().st_size)
    with file.open("r+b") as damaged:
        damaged.seek(file.stat().st_size // 2)
        damaged.write(b"\xa5" * 200)
    done = kvbatch("migrate", world.source, world.target, "--json", "--streams", 1)
    assert (done.returncode, done.stdout) == (1, "")
    assert file.name in done.stderr
    assert advice in done.stderr
    assert "Traceback" not in done.stderr
    shutil.copy(whole / file.name, file)
    assert kvbatch("migrate", world.source, world.target).returncode == 0
    assert read_store(world.target) == entries


def test_a_state_directory_that_cannot_be_used_is_2_with_the_way_out(world: World) -> None:
    (world.path / "state").mkdir()
    (world.path / "state" / "jobs").write_text("a file where a directory should be")
    done = kvbatch("migrate", world.source, world.target, "--state-dir", world.path / "state")
    assert done.returncode == 2
    assert "--state-dir" in done.stderr
    assert not world.target.exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["migrate", "none", "copy"], 2),
        (["migrate", "source", "copy", "--batch-size", "lots"], 2),
        (["migrate", "source", "source"], 4),
        (["migrate", "source", "kvbatch://127.0.0.1:1/x", "--retries", "0"], 75),
        (["migrate", "source", "copy", "--dry-run", "--streams", "0"], 2),
        (["verify", "source", "none"], 2),
        (["verify", "source", "kvbatch://127.0.0.1:1/x"], 75),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_an_error_is_an_event_where_events_are_asked_for(world: World, arguments: list[str], code: int) -> None:
    done = kvbatch(*arguments, "--progress", "json", cwd=world.path)
    assert (done.returncode, done.stdout) == (code, "")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["event"] for event in events].count("error") == 1
    last = events[-1]
    assert last.keys() == {"event", "time", "message", "advice", "command"}
    assert last["message"]
    command = shlex.join(["kvbatch", *arguments, "--progress", "json"])
    assert (last["advice"] is not None, last["command"]) == ((True, command) if code == 75 else (False, None))


def test_debug_shows_where_an_error_came_from(world: World) -> None:
    done = kvbatch("migrate", world.path / "none", world.target, "--debug")
    assert done.returncode == 2, "the same as without --debug"
    assert "Traceback" in done.stderr
