"""The documentation says what the code does: links resolve, no option or exception is left out, examples work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

import kvbatch
from kvbatch._core.base import crc32c, xxh3_64
from kvbatch._core.batch import RecordKind, decode_batch
from kvbatch._core.codec import Codec
from kvbatch._core.frame import HEADER_BYTES, BufferPool, Frame, FrameHeader, FrameType
from kvbatch._core.store import RangeReader, SourceStore
from kvbatch.cli import app
from kvbatch.errors import KvbatchError
from kvbatch.options import MigrationOptions
from support.stores import numbered, write_store

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
OPERATING = (ROOT / "docs/operating.md").read_text()
ERRORS = (ROOT / "docs/errors.md").read_text()
WIRE_FORMAT = (ROOT / "docs/wire-format.md").read_text()


def without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Ids of the headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ +(.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code_blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text()))
    local = [target for target in targets if "://" not in target]
    assert local or page.name == "CHANGELOG.md"
    broken = []
    for target in local:
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.is_file() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return {"": group, **group.commands}


@pytest.mark.parametrize("command", commands().values(), ids=list(commands()))
def test_every_option_of_the_command_line_is_in_operating(command: Any) -> None:
    names = [name for parameter in command.params for name in parameter.opts if name.startswith("--")]
    assert names, "a command without options reads nothing from the page"
    section = OPERATING
    if command.name in commands():
        section = OPERATING.partition(f"\n### {command.name}\n")[2].partition("\n#")[0]
    assert [name for name in names if not re.search(rf"`{name}\b", section)] == []


def test_operating_names_no_option_that_does_not_exist() -> None:
    known = {name for command in commands().values() for parameter in command.params for name in parameter.opts}
    sections = OPERATING.partition("\n## Commands and options\n")[2].partition("\n## Progress\n")[0]
    named = set(re.findall(r"`(--[a-z][a-z-]*)", sections))
    assert named - known == {"--help"}


def subclasses(kind: type[KvbatchError]) -> list[type[KvbatchError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in subclasses(child))]


@pytest.mark.parametrize("kind", subclasses(KvbatchError), ids=lambda kind: kind.__name__)
def test_every_exception_has_its_section_and_its_exit_code(kind: type[KvbatchError]) -> None:
    assert f"\n## {kind.__name__}\n" in ERRORS
    retryable = "yes" if kind.default_retryable else "no"
    row = rf"^\| .*`{kind.__name__}` \| {kind.exit_code} \| {retryable} \|$"
    assert re.search(row, ERRORS, flags=re.MULTILINE)


def python_table(section: str) -> list[list[str]]:
    """The cells of a table of docs/python-api.md, without its header."""
    text = (ROOT / "docs/python-api.md").read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]


def test_every_option_of_a_migration_is_in_the_python_page_with_its_name_on_the_command_line() -> None:
    named = {cells[0].strip("`"): cells[1].strip("`") for cells in python_table("Options")}
    assert named == {name: field.title or "" for name, field in MigrationOptions.model_fields.items()}


def test_every_member_of_a_migration_is_in_the_python_page() -> None:
    named = {name for cells in python_table("Migration") for name in re.findall(r"`(\w+)", cells[0])}
    members = {name for name in vars(kvbatch.Migration) if not name.startswith("_")}
    # `kvbatch.migrate` has called the one, the end of the program calls the other.
    assert named == members - {"start", "stop_at_exit"} | {"job", "plan"}


def example_frame() -> bytes:
    [dump] = code_blocks("docs/wire-format.md", "hexdump")
    return b"".join(bytes.fromhex(line[8:]) for line in dump.splitlines())


def test_the_frame_of_the_wire_format_page_decodes_to_the_stated_fields() -> None:
    frame = example_frame()
    header, payload = FrameHeader.decode(frame[:HEADER_BYTES]), frame[HEADER_BYTES:]
    assert header == FrameHeader(
        type=FrameType.DATA,
        codec=Codec.NONE,
        job=xxh3_64(b"example"),
        stream=0,
        range=3,
        sequence=0,
        entries=2,
        payload_crc32c=crc32c(payload),
        raw_length=27,
        payload_length=27,
    )
    assert header.encode() == frame[:HEADER_BYTES]
    assert decode_batch(payload) == [(RecordKind.PUT, 1, b"a", b"1"), (RecordKind.PUT, 1, b"bb", b"two")]
    for value in (header.job, header.payload_crc32c, int.from_bytes(frame[60:64], "little")):
        assert f"`{value:x}`" in WIRE_FORMAT


def test_the_frame_of_the_wire_format_page_is_what_a_reader_packs(tmp_path: Path) -> None:
    store = SourceStore(str(write_store(tmp_path / "store", {"default": {}, "meta": {b"a": b"1", b"bb": b"two"}})))
    reader = RangeReader(store, "meta", None, None, target_family=1)
    frame = Frame(BufferPool(1 << 16))
    reader.fill(frame, 1 << 12)
    assert frame.raw() == example_frame()[HEADER_BYTES:]
    assert f"`{reader.digest.hex()}`" in WIRE_FORMAT


def test_the_frame_types_of_the_wire_format_page_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", WIRE_FORMAT, flags=re.MULTILINE)
    assert {name: int(number) for number, name in rows} == {kind.name: int(kind) for kind in FrameType}


@pytest.mark.parametrize("page", ["README.md", "docs/python-api.md", "docs/metrics.md"])
def test_python_examples_run_as_they_stand(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = code_blocks(page, "python")
    assert blocks
    for number, block in enumerate(blocks):
        directory = tmp_path / f"{Path(page).stem}-{number}"
        directory.mkdir()
        monkeypatch.chdir(directory)
        write_store(directory / "source", {"default": numbered(200), "meta": numbered(20)})
        if "migrate" not in block:
            kvbatch.migrate("source", "copy").wait()
        exec(compile(block, f"{page}, example {number}", "exec"), {})
    assert "Traceback" not in capsys.readouterr().err
