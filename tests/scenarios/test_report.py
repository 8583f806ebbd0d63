"""`kvbatch report`: one page that shows a job, runs nothing and fetches nothing, whatever stands in the record."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import kvbatch
from kvbatch.job_report import render_report
from kvbatch.state import JobState, StateStore, job_lock
from support.history import write_history
from support.stores import kvbatch as run_kvbatch
from support.stores import numbered, write_store

HOSTILE = "<script>alert('1')</script>\"'--><img src=x onerror=alert(2)>{{ 7*7 }}$x^2$\x07 http://user:geheim@host/"


class Page(HTMLParser):
    """What a browser would make of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self._hidden = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += attrs
        self._hidden += tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data

    @property
    def titles(self) -> list[str]:
        return re.findall(r"^(.+)$", self.text, flags=re.MULTILINE)


@pytest.fixture
def state(tmp_path: Path) -> StateStore:
    return StateStore(tmp_path / "state")


PLOTS = ["Throughput", "Batch size, window and streams", "Round trip and apply latency", "Memory",
         "Time by throttle reason", "Ranges"]  # fmt: skip


def test_a_page_shows_every_plot_and_table(state: StateStore, tmp_path: Path) -> None:
    write_history(state, "nightly")
    text = render_report("nightly", tmp_path / "state")
    page = Page(text)
    for title in [*PLOTS, "Verify", "Figures", "Settings", "Retries, warnings and other events"]:
        assert title in page.titles
    assert page.tags["svg"] == len(PLOTS)
    for words in (
        "/data/source → kvbatch://127.0.0.1:7720/copy", "20 min 00 s", "256 MiB", "1.60 to 1", "read 6 min 00 s",
        "attempt 1 failed, the next after 0.4 s", "the disk of the target is nearly full", "1 retry, 2 warnings",
        "Not compared yet",
    ):  # fmt: skip
        assert words in page.text
    assert len(text) < 1_000_000


def test_a_page_needs_nothing_but_itself(state: StateStore, tmp_path: Path) -> None:
    write_history(state, "nightly", seconds=50)
    text = render_report("nightly", tmp_path / "state")
    page = Page(text)
    assert not page.tags.keys() & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image"}
    references = [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "action")]
    assert references
    assert all(value is not None and value.startswith("#") for value in references)
    assert not re.search(r"@import|url\((?!#)", text)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    ids = Counter(value for name, value in page.attributes if name == "id")
    assert [name for name, count in ids.items() if count > 1] == []
    assert {value[1:] for value in references if value} <= ids.keys()
    for svg in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        ET.fromstring(svg)


def test_hostile_text_stays_text(state: StateStore, tmp_path: Path) -> None:
    write_history(state, "nightly", seconds=30, message=HOSTILE, source=HOSTILE, target=HOSTILE, reasons=(HOSTILE,))
    state.update("nightly", state=JobState.FAILED, error=HOSTILE)
    verification: dict[str, Any] = {
        "equal": False, "unfinished": True, "entries_source": 1, "entries_target": 2, "ranges_differing": 1,
        "keys_missing": 0, "keys_extra": 1, "keys_different": 0, "keys_repaired": 1, "families_missing": [HOSTILE],
        "families_extra": [HOSTILE], "digests": {HOSTILE: "ab"}, "time": 1.0, "column_families": [HOSTILE],
        "samples": [{"column_family": HOSTILE, "key": HOSTILE, "kind": "extra"}], "key_range": HOSTILE,
    }  # fmt: skip
    assert state.keep_verification(HOSTILE, HOSTILE, verification) == "nightly"
    with state.transaction() as database:
        options = '{"lane": "%s", "throttle_check": "http://user:geheim@host/", "window": 16}' % ("<b>" * 3)
        database.execute("UPDATE job_details SET options = ?", (options,))
    text = render_report("nightly", tmp_path / "state")
    page = Page(text)
    assert not page.tags.keys() & {"script", "img"}
    assert page.tags["b"] == 5, "those of the figures at the top"
    assert page.text.count("<script>alert('1')</script>") >= 8
    assert "{{ 7*7 }}" in page.text
    assert "geheim" not in text
    assert "http://user:…@host/" in page.text
    for svg in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        ET.fromstring(svg)


def test_ten_thousand_ranges_stay_one_small_page(state: StateStore, tmp_path: Path) -> None:
    write_history(state, "nightly", seconds=4000, ranges=10_000, runs=3)
    text = render_report("nightly", tmp_path / "state")
    assert len(text) < 1_000_000
    assert "Each line stands for 50 ranges" in text


def test_many_events_are_shown_from_both_ends_and_counted(state: StateStore, tmp_path: Path) -> None:
    write_history(state, "nightly", seconds=5, runs=150)
    page = Page(render_report("nightly", tmp_path / "state"))
    assert "149 retries, 150 warnings" in page.text
    assert re.search(r"\d+ more", page.text)
    assert page.tags["tr"] < 140


def test_a_job_of_the_first_release_has_a_page_too(state: StateStore, tmp_path: Path) -> None:
    state.start("old", "/source", "/target", "f" * 32)
    state.update("old", state=JobState.DONE, progress={"entries": 5, "raw_bytes": 70}, summary=None)
    page = Page(render_report("old", tmp_path / "state"))
    assert page.tags["svg"] == 0
    assert "No samples were kept" in page.text
    assert "Not kept: an older kvbatch ran this job" in page.text


def test_a_real_job_and_its_verify(tmp_path: Path, receiver: kvbatch.Receiver) -> None:
    source = write_store(tmp_path / "source", {"default": numbered(3000)})
    target = f"kvbatch://127.0.0.1:{receiver.port}/copy"
    assert run_kvbatch("migrate", source, target, "--job", "nightly", "--window", 7).returncode == 0
    assert run_kvbatch("verify", source, target).returncode == 0
    done = run_kvbatch("report", "nightly", "-o", tmp_path / "report.html")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"wrote {tmp_path}/report.html, ")
    page = Page((tmp_path / "report.html").read_text())
    assert "Throughput" in page.titles
    assert "Ranges" in page.titles
    assert re.search(r"window\s*7\b", page.text)
    assert "source 3,000, target 3,000" in page.text
    assert "equal" in page.titles
    printed = run_kvbatch("report", "nightly", "-o", "-")
    assert Page(printed.stdout).tags["svg"] == page.tags["svg"]


@pytest.mark.parametrize("how", [JobState.STOPPED, JobState.FAILED, JobState.RUNNING])
def test_a_job_that_is_not_done_shows_how_it_stands_and_why(state: StateStore, tmp_path: Path, how: str) -> None:
    write_history(state, "nightly", seconds=5, runs=1)
    state.update("nightly", state=how, error=None if how == JobState.RUNNING else "the target is full")
    with job_lock(tmp_path / "state", "nightly") if how == JobState.RUNNING else contextlib.nullcontext():
        page = Page(render_report("nightly", tmp_path / "state"))
    assert f"nightly {how}" in page.titles
    assert ("the target is full" in page.titles) == (how != JobState.RUNNING)
    assert "durable keys and values" in page.text


def test_a_file_is_replaced_in_one_step_and_keeps_its_mode_by_umask(state: StateStore, tmp_path: Path) -> None:
    write_history(state, "nightly", seconds=5)
    old = tmp_path / "report.html"
    old.write_text("the report of yesterday")
    link = tmp_path / "latest.html"
    link.symlink_to(old)
    assert kvbatch.report("nightly", link, tmp_path / "state") == link
    assert link.is_symlink()
    assert "nightly" in old.read_text()
    assert old.stat().st_mode & 0o777 == (tmp_path / "state/kvbatch.sqlite3").stat().st_mode & 0o777
    assert sorted(each.name for each in tmp_path.glob("*.html*")) == ["latest.html", "report.html"]


def test_what_cannot_be_written_is_wrong_usage_and_leaves_nothing(state: StateStore, tmp_path: Path) -> None:
    write_history(state, "nightly", seconds=5)
    (tmp_path / "directory").mkdir()
    with pytest.raises(kvbatch.UsageError, match="is a directory"):
        kvbatch.report("nightly", tmp_path / "directory", tmp_path / "state")
    with pytest.raises(kvbatch.UsageError, match="is no regular file"):
        kvbatch.report("nightly", "/dev/null", tmp_path / "state")
    with pytest.raises(kvbatch.UsageError, match="cannot be written: No such file or directory"):
        kvbatch.report("nightly", tmp_path / "nowhere/report.html", tmp_path / "state")
    with pytest.raises(kvbatch.UsageError, match=r"no job 'weekly'.*kvbatch status"):
        kvbatch.report("weekly", tmp_path / "report.html", tmp_path / "state")
    with pytest.raises(kvbatch.UsageError, match="no job 'nightly'"):
        kvbatch.report("nightly", tmp_path / "report.html", tmp_path / "elsewhere")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["directory", "state"]


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_without_the_extra_it_says_what_to_install(state: StateStore, tmp_path: Path, missing: str) -> None:
    write_history(state, "nightly", seconds=5)
    script = f"import sys; sys.modules[{missing!r}] = None; from kvbatch.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "report", "nightly", "-o", "r.html", "--state-dir", str(tmp_path / "state")],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert "`pip install jinja2 matplotlib`" in done.stderr
    assert not (tmp_path / "r.html").exists()


def test_nothing_of_the_extra_is_imported_before_a_report_is_made() -> None:
    script = "import sys, kvbatch.cli; sys.exit(bool({'jinja2', 'matplotlib'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0


def test_nothing_global_of_matplotlib_is_touched(state: StateStore, tmp_path: Path) -> None:
    write_history(state, "nightly", seconds=5)
    script = """
import matplotlib, sys
from kvbatch.job_report import render_report
from pathlib import Path
def settings():
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}
before = settings()
render_report("nightly", Path(sys.argv[1]))
assert settings() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "state")], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
