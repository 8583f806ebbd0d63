from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

import kvbatch
from kvbatch.cli import app
from kvbatch.errors import UsageError
from kvbatch.flow.rate_schedule import RateSchedule
from kvbatch.flow.settings import JobSettings
from kvbatch.job_status import command
from kvbatch.kept_options import option_words, options_to_json
from kvbatch.kvrocks.slots import Slots
from kvbatch.options import TARGET_COMPRESSIONS, MigrationOptions, default_state_dir, default_streams
from kvbatch.ranges import KeyRange

MIB = 1 << 20


def test_the_defaults_are_those_that_the_command_line_documents() -> None:
    options = MigrationOptions.checked()
    assert (options.lane, options.compression, options.target_compression) == ("auto", "auto", "auto")
    assert (options.max_memory, options.batch_bytes, options.window) == (256 * MIB, 0, 0)
    assert (options.key_range, options.column_families, options.job) == (KeyRange(), (), None)
    assert not options.allow_nonempty
    assert 1 <= options.streams == default_streams() <= 4


@pytest.mark.parametrize(
    ("name", "given", "held"),
    [
        ("max_memory", "1GiB", 1 << 30),
        ("batch_bytes", "auto", 0),
        ("streams", "auto", 0),
        ("window", "auto", 0),
        ("rate_limit", "20MiB/s", 20 * MIB),
        ("rate_limit", 0, 0),
        ("source_read_rate", "1GiB", 1 << 30),
        ("rate_schedule", "09:00-18:00=20MiB/s,*=0", RateSchedule.parse("09:00-18:00=20MiB,*=unlimited")),
        ("throttle_check", "exit 0", "exit 0"),
        ("batch_bytes", "64KiB", 64 << 10),
        ("sst_file_bytes", "8M", 8 * MIB),
        ("key_range", "61..", KeyRange(b"a")),
        ("key_range", None, KeyRange()),
        ("slots", "200,0-100", Slots(((0, 100), (200, 200)))),
        ("slots", Slots(((5, 5),)), Slots(((5, 5),))),
        ("slots", None, None),
        ("namespace", "x" * 255, "x" * 255),
        ("peer_timeout", 5, 5.0),
        ("column_families", ["a", "b"], ("a", "b")),
        ("job", "nightly-2.copy_1", "nightly-2.copy_1"),
        ("target_compression", "zstd", "zstd"),
    ],
)
def test_options_are_read(name: str, given: Any, held: Any) -> None:
    assert getattr(MigrationOptions.checked(**{name: given}), name) == held


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("lane", "fast", "--lane 'fast': give auto, batch, sst or files"),
        ("streams", 0, "--streams 0: give auto, or a whole number from 1 to 64"),
        ("streams", 65, "--streams 65: give auto, or a whole number from 1 to 64"),
        ("streams", "many", "--streams 'many': give auto, or a whole number from 1 to 64"),
        # Neither is a whole number, though Python would read both as one.
        ("streams", "2", "--streams '2': give auto, or a whole number from 1 to 64"),
        ("streams", True, "--streams True: give auto, or a whole number from 1 to 64"),
        ("compression", "rar", "--compression 'rar': give auto, lz4, zstd or none"),
        ("target_compression", "rar", "--target-compression 'rar': give auto, none, lz4, "),
        ("target_compression", 5, "--target-compression 5: give auto, "),
        ("max_memory", "lots", "--max-memory 'lots': give a size from 1 byte to 1024TiB, like 64KiB"),
        ("max_memory", 0, "--max-memory 0: give a size"),
        ("max_memory", -1, "--max-memory -1: give a size"),
        ("max_memory", 1 << 70, f"--max-memory {1 << 70}: give a size"),
        ("max_memory", True, "--max-memory True: give a size"),
        ("max_memory", None, "--max-memory None: give a size"),
        ("batch_bytes", 4095, "--batch-size (batch_bytes) 4095: give auto, or a size from 4KiB to 64MiB"),
        ("batch_bytes", "65MiB", "--batch-size (batch_bytes) '65MiB': give auto, or a size from 4KiB to 64MiB"),
        ("batch_bytes", 1.5, "--batch-size (batch_bytes) 1.5: give auto, "),
        ("window", 0, "--window 0: give auto, or a whole number from 1 to 1024"),
        ("window", "16", "--window '16': give auto, or a whole number from 1 to 1024"),
        ("window", 16.0, "--window 16.0: give auto, or a whole number from 1 to 1024"),
        ("window", 1025, "--window 1025: give auto, or a whole number from 1 to 1024"),
        ("rate_limit", "1KiB/s", "--rate-limit '1KiB/s': give bytes a second, 64KiB/s or more, like 20MiB/s; 0 for no"),
        ("rate_limit", "fast", "--rate-limit 'fast': give bytes a second"),
        ("source_read_rate", -1, "--max-source-read-rate (source_read_rate) -1: give bytes a second"),
        ("rate_schedule", 5, "--rate-schedule 5: give limits by local time of day, like 09:00-18:00=20MiB/s,*=0"),
        (
            "rate_schedule",
            "9=1MiB",
            "--rate-schedule: rate schedule '9=1MiB', part '9=1MiB': '9' is no time of day: wr",
        ),
        (
            "rate_schedule",
            "25:00-26:00=1MiB/s,*=0",
            "--rate-schedule: rate schedule '25:00-26:00=1MiB/s,*=0', part '25:00-26:00=1MiB/s': there is no such time "
            "as in '25:00-26:00': 00:00 to 23:59, and 24:00 as an end",
        ),
        (
            "rate_schedule",
            "09:00-18:00=10,*=0",
            "--rate-schedule: rate schedule '09:00-18:00=10,*=0': the limit 10 is less than 64KiB/s",
        ),
        ("throttle_check", "http://", "--throttle-check 'http://': give a shell command, an http:// or https:// URL"),
        ("peer_timeout", 0, "--peer-timeout 0: give seconds, from 1 to 86400"),
        ("peer_timeout", "60", "--peer-timeout '60': give seconds, from 1 to 86400"),
        ("peer_timeout", float("nan"), "--peer-timeout nan: give seconds, from 1 to 86400"),
        ("max_streams", "8", "--max-streams '8': give a whole number from 1 to 64"),
        ("max_streams", 0, "--max-streams 0: give a whole number from 1 to 64"),
        ("max_streams", 65, "--max-streams 65: give a whole number from 1 to 64"),
        ("key_range", "61", "--range (key_range) '61': give HEX..HEX, for example"),
        ("key_range", 5, "--range (key_range) 5: give HEX..HEX, for example"),
        ("key_range", KeyRange("a", None), "--range (key_range) KeyRange(start='a', end=None): give HEX..HEX"),  # type: ignore[arg-type]
        ("slots", "", "--slots: malformed slots '': write slots and ranges of them, for example 0-100,200"),
        ("slots", "16384", "--slots: malformed slots '16384': slots are 0 to 16383"),
        ("slots", "9-7", "--slots: malformed slots '9-7': 9-7 ends before it begins"),
        ("slots", Slots(((9, 7),)), "--slots: malformed slots '9-7': 9-7 ends before it begins"),
        ("slots", 5, "--slots 5: give slots from 0 to 16383 and ranges of them, for example 0-100,200"),
        ("namespace", "", "--namespace '': give the name of a namespace, 1 to 255 bytes"),
        ("namespace", "ü" * 128, f"--namespace '{'ü' * 128}': give the name of a namespace, 1 to 255 bytes"),
        ("namespace", 5, "--namespace 5: give the name of a namespace"),
        ("column_families", "users", "column_families 'users': give a sequence of names, ('users',) for this one"),
        ("column_families", 5, """--cf (column_families) 5: give a sequence of names, such as ("default",)"""),
        ("column_families", (5,), """--cf (column_families) (5,): give a sequence of names, such as ("default",)"""),
        ("job", "", "--job '': give letters, digits, '.', '_' and '-', 64 at most, the first a letter or digit"),
        ("job", "../x", "--job '../x': give letters, digits, "),
        ("job", ".hidden", "--job '.hidden': give letters, digits, "),
        ("job", "x" * 65, f"--job '{'x' * 65}': give letters, digits, "),
        ("job", "a\n", r"--job 'a\n': give letters, digits, "),
        ("retries", "1", "--retries '1': give a whole number, 0 or more"),
        ("retries", -1, "--retries -1: give a whole number, 0 or more"),
        ("sst_file_bytes", 0, "sst_file_bytes 0: give a size"),
        ("range_bytes", 0, "range_bytes 0: give a size"),
        ("max_ranges", 0, "max_ranges 0: give a whole number from 1 to 10000"),
        ("max_ranges", 10_001, "max_ranges 10001: give a whole number from 1 to 10000"),
        ("state_dir", 5, "--state-dir 5: give a path"),
        ("allow_nonempty", "perhaps", "--allow-nonempty 'perhaps': give true or false"),
        ("allow_nonempty", "no", "--allow-nonempty 'no': give true or false"),
        ("link", 1, "--link 1: give true or false"),
        ("speed", 9, "there is no option 'speed'; there are column_families, key_range, "),
    ],
)
def test_a_bad_option_is_wrong_usage_with_what_was_given_and_what_is_allowed(
    name: str, given: Any, message: str
) -> None:
    with pytest.raises(UsageError) as raised:
        MigrationOptions.checked(**{name: given})
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads 0: give a whole number from 1 to 64, or None"),
        ({"threads": "2"}, "threads '2': give a whole number from 1 to 64, or None"),
        ({"threads": 65}, "threads 65: give a whole number"),
        ({"repair": "no"}, "--repair 'no': give true or false"),
        ({"column_families": (5,)}, "--cf (column_families) (5,): give a sequence of names"),
        ({"key_range": 5}, "--range (key_range) 5: give HEX..HEX"),
        ({"slots": 5}, "--slots 5: give slots from 0 to 16383"),
        ({"namespace": 5}, "--namespace 5: give the name of a namespace"),
        ({"state_dir": 5}, "--state-dir 5: give a path"),
    ],
    ids=str,
)
def test_verify_reads_its_options_as_strictly(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        kvbatch.verify(tmp_path / "source", tmp_path / "target", **options)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": None}, "--root None: give a path"),
        ({"host": None}, "host None: give a host name or an address"),
        ({"port": 70_000}, "port 70000: give a whole number from 0 to 65535"),
        ({"port": "7720"}, "port '7720': give a whole number from 0 to 65535"),
        ({"max_memory": "lots"}, "--max-memory 'lots': give a size of 1MiB or more, like 64MiB or 2GiB"),
        ({"max_memory": MIB - 1}, f"--max-memory {MIB - 1}: give a size of 1MiB or more"),
        ({"insecure": "no"}, "--insecure 'no': give true or false"),
    ],
    ids=str,
)
def test_a_receiver_reads_its_options_as_strictly(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        kvbatch.serve(**({"root": tmp_path / "root"} | options))
    assert str(raised.value).startswith(message)
    assert list(tmp_path.iterdir()) == []


def migrate_command() -> Any:
    group: Any = typer.main.get_command(app)
    return group.commands["migrate"]


def test_messages_name_options_that_the_command_line_has() -> None:
    known = {name for parameter in migrate_command().params for name in parameter.opts}
    named = {field.title for field in MigrationOptions.model_fields.values()} - {""}
    assert named - known == set()


@pytest.mark.parametrize("compression", TARGET_COMPRESSIONS)
def test_help_names_every_compression_of_the_targets_files(compression: str) -> None:
    assert MigrationOptions.checked(target_compression=compression).target_compression == compression
    [option] = (each for each in migrate_command().params if each.name == "target_compression")
    assert re.search(rf"\b{compression}\b", option.help)
    assert re.search(rf"\b{compression}\b", MigrationOptions.model_fields["target_compression"].description or "")


def test_memory_must_hold_a_frame_for_each_stream() -> None:
    with pytest.raises(UsageError, match=r"--max-memory 41943039 .* at least 40MiB"):
        MigrationOptions.checked(streams=4, batch_bytes="4MiB", max_memory=40 * MIB - 1)
    assert MigrationOptions.checked(streams=4, batch_bytes="4MiB", max_memory=40 * MIB).streams == 4


def test_more_streams_than_the_most_are_refused_at_the_start_and_later() -> None:
    refused = (
        "--streams 12 is more than --max-streams 3 allows to one target: give 3 or fewer, or migrate with a higher "
    )
    with pytest.raises(UsageError, match=refused):
        MigrationOptions.checked(streams=12, max_streams=3)
    capped = MigrationOptions.checked(streams=3, max_streams=3)
    with pytest.raises(UsageError, match=refused):
        capped.changed(capped.settings, streams=12)
    assert capped.changed(capped.settings, streams="auto") == {"streams": 0}
    assert MigrationOptions.checked(streams="auto", max_streams=3).most_streams == 3


def test_the_most_streams_hold_for_those_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert [MigrationOptions.checked(max_streams=most).streams for most in (3, 4, 5, None)] == [3, 4, 4, 4]


def test_streams_that_are_asked_for_need_no_other_option() -> None:
    free = MigrationOptions.checked(streams=12)
    assert free.changed(free.settings, streams=13) == {"streams": 13}
    assert MigrationOptions.checked(streams="auto").most_streams == 8


def test_what_may_change_while_a_job_runs_is_checked_as_at_its_start() -> None:
    options = MigrationOptions.checked(streams=2, max_memory="64MiB")
    assert options.settings == JobSettings(streams=2, max_memory=64 * MIB)
    assert options.changed(options.settings, rate_limit="20MiB/s", batch_bytes="auto") == {
        "rate_limit": 20 * MIB,
        "batch_bytes": 0,
    }
    for changes, message in (
        ({}, "nothing to change"),
        ({"lane": "sst"}, "'lane' cannot be changed"),
        ({"streams": 0}, "--streams 0: give auto"),
        # With the 2 streams that there are.
        ({"batch_bytes": "32MiB"}, "at least"),
    ):
        with pytest.raises(UsageError, match=message):
            options.changed(options.settings, **changes)


def test_a_limit_and_a_schedule_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        MigrationOptions.checked(rate_limit="1MiB", rate_schedule="*=2MiB")


def test_the_state_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state_dir() == tmp_path / "kvbatch"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_state_dir() == tmp_path / ".local" / "state" / "kvbatch"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # to be ignored
    assert default_state_dir() == tmp_path / ".local" / "state" / "kvbatch"


def test_a_user_without_a_home_is_told_to_name_a_state_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("XDG_STATE_HOME")
    with pytest.raises(UsageError, match=r"no home directory.*--state-dir"):
        MigrationOptions.checked()
    assert MigrationOptions.checked(state_dir="/state").state_dir == Path("/state")
    assert command("status", "nightly", Path("/state")) == "kvbatch status nightly --state-dir /state"
    assert option_words(options_to_json(MigrationOptions.checked(state_dir="/state", streams=3))) == ["--streams", "3"]


def test_an_empty_path_is_not_the_working_directory() -> None:
    with pytest.raises(UsageError, match=r"root.*a path"):
        kvbatch.Receiver("")
    with pytest.raises(UsageError, match=r"--state-dir.*a path"):
        MigrationOptions.checked(state_dir="")
    for words in (["serve", "--root", ""], ["status", "--state-dir", ""]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 2
        assert "an empty path names no directory" in done.output


def test_streams_follow_the_cores_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, streams in ((1, 1), (2, 2), (64, 4)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)))
        assert default_streams() == streams
