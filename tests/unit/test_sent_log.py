from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvbatch.sent_log import SentLog


def never(error: OSError) -> None:
    raise AssertionError(f"lost: {error}")


def opened(path: Path, ranges: int = 3, *, anew: bool = False) -> SentLog:
    return SentLog(path, ranges, anew=anew, on_lost=never)


def test_only_what_was_sent_before_counts_as_sent_again(tmp_path: Path) -> None:
    log = opened(tmp_path / "jobs" / "nightly.sent")
    for start, end, resent in [
        (0, 100, 0),
        (100, 150, 0),
        (120, 140, 20),
        (140, 170, 30),
        (170, 200, 30),
        (0, 300, 230),
    ]:
        log.record(1, start, end)
        assert log.resent_bytes == resent, (start, end)
    log.record(2, 0, 100)
    assert log.resent_bytes == 230, "another range is another matter"


def test_runs_add_up_though_one_ends_before_it_is_where_the_last_one_was(tmp_path: Path) -> None:
    path = tmp_path / "nightly.sent"
    for runs, (end, resent) in enumerate([(100, 0), (60, 10), (120, 60)]):
        log = opened(path)
        log.record(0, 0 if runs == 0 else 50, end)
        assert log.resent_bytes == resent
        log.close()
        assert log.resent_bytes == resent, "the summary asks behind the end"


def test_what_was_sent_outlives_a_killed_process(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from kvbatch.sent_log import SentLog\n"
        "log = SentLog(Path(sys.argv[1]), 3, anew=False, on_lost=print); log.record(1, 0, 5000); log.record(1, 0, 7)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "nightly.sent")], check=False)
    assert killed.returncode == -9
    log = opened(tmp_path / "nightly.sent")
    assert log.resent_bytes == 7
    log.record(1, 4000, 6000)
    assert log.resent_bytes == 1007


def test_a_new_job_starts_anew(tmp_path: Path) -> None:
    log = opened(tmp_path / "nightly.sent")
    log.record(0, 0, 9)
    log.record(0, 0, 9)
    log.close()
    log = opened(tmp_path / "nightly.sent", anew=True)
    log.record(0, 0, 9)
    assert log.resent_bytes == 0


@pytest.mark.parametrize("ranges", [4, 63, 64, 200])
def test_ranges_that_were_split_off_are_counted_with_the_others(tmp_path: Path, ranges: int) -> None:
    log = opened(tmp_path / "nightly.sent")
    log.record(0, 0, 9)
    log.record(0, 0, 9)
    # Before it is opened again with as many as there are then.
    log.record(log.capacity - 1, 0, 5)
    log.close()
    log = opened(tmp_path / "nightly.sent", ranges)
    assert log.capacity >= ranges + 64
    log.record(log.capacity - 1, 0, 5)
    log.record(0, 0, 9)
    assert log.resent_bytes >= 18


def test_a_job_without_ranges(tmp_path: Path) -> None:
    assert opened(tmp_path / "nightly.sent", 0).resent_bytes == 0


def test_a_file_that_cannot_be_made_is_told_and_counted_without(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("")
    lost: list[OSError] = []
    log = SentLog(tmp_path / "jobs" / "nightly.sent", 3, anew=False, on_lost=lost.append)
    log.record(0, 0, 9)
    log.record(0, 0, 9)
    assert (log.resent_bytes, [type(error) for error in lost]) == (9, [FileExistsError])
    log.close()


def test_a_full_disk_is_told_and_counted_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[OSError] = []

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    log = SentLog(tmp_path / "nightly.sent", 3, anew=False, on_lost=lost.append)
    log.record(0, 0, 9)
    log.record(0, 0, 9)
    assert log.resent_bytes == 9
    assert [error.errno for error in lost] == [28]
    log.close()


def test_its_blocks_are_there_before_they_are_written(tmp_path: Path) -> None:
    log = opened(tmp_path / "nightly.sent", 3000)
    assert (tmp_path / "nightly.sent").stat().st_blocks * 512 >= 3000 * 16
    log.close()
