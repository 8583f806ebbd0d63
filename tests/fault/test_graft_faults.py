"""Jobs that move the source's own files when something dies, breaks or bends: between all the steps of such a range.

Random kills and cuts of such jobs are in test_kill_random.py and test_connections.py, what they send again to the byte
in test_resent_bytes.py.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import rocksdict

import kvbatch
from kvbatch._core.frame import HEADER_BYTES, BufferPool, Frame, FrameType
from kvbatch._core.store import RESERVED_COLUMN_FAMILY, OverlayReader, SourceStore
from kvbatch.ranges import Range
from support.link import RETRIED, Cut, Passing, Trap, flipped
from support.processes import WAIT_SECONDS, Child
from support.route import (
    GRAFT_BYTES,
    KIB,
    MOST_GRAFT_BYTES,
    OVER,
    Pieces,
    Route,
    chance,
    check_done,
    check_equal,
    cut_while_it_is_sent,
)
from support.stores import need_rocksdb, raw_options, read_store

# A file is sixteen pieces and more; what stands over it is several batches, and more than one file of the target's.
PIECES = Pieces(batch_bytes=4 * KIB, lane="sst", grafts=True, piece_bytes=16 * KIB, sst_file_bytes=16 * KIB)


@pytest.fixture(autouse=True, scope="module")
def _grafting() -> None:
    need_rocksdb((9, 10), "ingest files that a database wrote")


@dataclass(frozen=True)
class Grafts:
    """The ranges that are files of the source, and the bytes of what stands over each as they are sent."""

    ranges: dict[int, Range]
    overlay_bytes: dict[int, int]

    @property
    def overlaid(self) -> list[Range]:
        return [part for part in self.ranges.values() if self.overlay_bytes[part.id]]

    @property
    def least_bytes(self) -> int:
        return min(part.file_bytes for part in self.overlaid)

    def at(self, type_: FrameType, only: Range | None = None) -> Callable[[Passing], bool]:
        """When such a frame of a range with something over its file comes by; a piece, in the middle of the file."""
        parts = {part.id: part for part in self.overlaid if only in (None, part)}

        def when(passing: Passing) -> bool:
            part = parts.get(passing.frame.header.range)
            if part is None or passing.direction != "up" or passing.frame.type != type_:
                return False
            # A piece says where it begins.
            return type_ != FrameType.FILE or passing.frame.header.raw_length >= part.file_bytes // 2

        return when


def _overlay_bytes(store: SourceStore, part: Range) -> int:
    reader = OverlayReader(store, part.column_family, part.file, part.start, part.end, 0, bytes(16))
    return reader.fill(Frame(BufferPool(8 << 20)), 1 << 20).raw_bytes


@pytest.fixture(scope="session")
def grafts(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Grafts:
    plan = kvbatch.plan(
        source,
        tmp_path_factory.mktemp("graft") / "none",
        lane="sst",
        graft_bytes=GRAFT_BYTES,
        range_bytes=PIECES.range_bytes,
        streams=PIECES.streams,
    )
    store = SourceStore(str(source))
    ranges = {part.id: part for part in plan.ranges if part.file}
    return Grafts(ranges, {id_: _overlay_bytes(store, part) for id_, part in ranges.items()})


@pytest.fixture
def route(make_route: Callable[[Pieces], Route]) -> Route:
    return make_route(PIECES)


def test_the_source_is_what_these_tests_need(source: Path, grafts: Grafts) -> None:
    """Files with and without something over them, in files and in the WAL alone, and a range that is read between."""
    assert len(grafts.overlaid) >= 15
    assert len(grafts.ranges) - len(grafts.overlaid) >= 15
    assert max(part.file_bytes + grafts.overlay_bytes[part.id] for part in grafts.overlaid) <= MOST_GRAFT_BYTES
    assert max(grafts.overlay_bytes.values()) > PIECES.sst_file_bytes
    assert sum(log.stat().st_size for log in source.glob("*.log")) > 0
    ids = list(grafts.ranges)
    assert any(later - earlier > 1 for earlier, later in itertools.pairwise(ids))


# -- kill -9 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victims", [("sender",), ("receiver",), ("sender", "receiver")], ids=" and ".join)
def test_killed_between_the_steps_of_a_file(route: Route, grafts: Grafts, victims: tuple[str, ...]) -> None:
    """In the middle of a file, behind it, in what stands over it, and behind the end of its range."""
    moments = [FrameType.FILE, FrameType.FILE_END, FrameType.DATA, FrameType.RANGE_END]
    senders: list[Child] = []

    def strike(passing: Passing) -> bytes:
        for victim in victims:
            (senders[-1] if victim == "sender" else route.receiver).kill()
        return passing.data

    for moment in moments:
        if not senders or "sender" in victims:
            senders.append(route.migrate())
        # Behind that: what a dead sender left in the link would spring the trap before the next one is there.
        route.link.hook = trap = Trap(grafts.at(moment), strike)
        assert trap.struck.wait(WAIT_SECONDS)
        if "receiver" in victims:
            route.start_receiver()
        if "sender" in victims:
            assert senders[-1].wait() == -9
    summary = (route.migrate() if "sender" in victims else senders[-1]).result()
    check_done(summary, resumed=True)
    # A dead receiver loses the file whose end was under way, and what stood over one and was in no file yet.
    most = route.pieces.windows + ("receiver" in victims) * route.pieces.unfinished_files
    assert summary["resent_bytes"] <= len(moments) * most
    check_equal(route.source, route.copy, read_back=len(victims) == 2)


def _value_on_disk(copy: Path, key: bytes) -> bytes | None:
    """What the store would show of a key if its receiver died now."""
    families = {name: raw_options() for name in ("default", RESERVED_COLUMN_FAMILY)}
    store = rocksdict.Rdict(
        str(copy), raw_options(), column_families=families, access_type=rocksdict.AccessType.read_only()
    )
    found = store.get(key)
    store.close()
    return None if found is None else bytes(found)


@pytest.mark.parametrize("ingested", ["the file", "the file and some of what stands over it"])
def test_receiver_killed_between_what_it_ingested_and_its_cursor(
    make_route: Callable[[Pieces], Route], grafts: Grafts, ingested: str
) -> None:
    """The cursor comes behind RANGE_END, which is held back until the disk shows what was ingested."""
    route = make_route(dataclasses.replace(PIECES, streams=1))
    whole = ingested != "the file"
    part = max(grafts.overlaid, key=lambda each: grafts.overlay_bytes[each.id])
    assert part.start is not None
    entries = read_store(route.source)["default"]
    over = min(key for key, value in entries.items() if key >= part.start and value == OVER)

    def strike(passing: Passing) -> bytes:
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            value = _value_on_disk(route.copy, over)
            if value == OVER if whole else value is not None:
                break
            time.sleep(0.02)
        route.receiver.kill()
        raise Cut(everywhere=True)

    route.link.hook = trap = Trap(grafts.at(FrameType.RANGE_END if whole else FrameType.DATA, part), strike)
    sender = route.migrate()
    sender.until(trap.struck)
    found = read_store(route.copy)
    assert (found["default"][over] == OVER) is whole, "it struck at another moment"
    assert b"cursor/" + part.id.to_bytes(4, "big") not in found[RESERVED_COLUMN_FAMILY], "it struck too late"
    route.start_receiver()
    summary = sender.result()
    check_done(summary, resumed=True)
    assert summary["resent_bytes"] <= route.pieces.windows + route.pieces.unfinished_files
    check_equal(route.source, route.copy, read_back=True)
    content = (route.source / part.file).read_bytes()
    assert [file.read_bytes() for file in route.copy.glob("*.sst")].count(content) == 1


# -- the link and the source ------------------------------------------------------------------------------------------


def test_a_link_that_breaks_within_a_file_and_within_what_stands_over_it_still_serves(
    make_route: Callable[[Pieces], Route], grafts: Grafts
) -> None:
    """One retry is enough: each attempt leaves something at the target, on which the next one goes on."""
    route = make_route(dataclasses.replace(PIECES, streams=1))
    part = max(grafts.overlaid, key=lambda each: grafts.overlay_bytes[each.id])
    come: list[FrameType] = []

    def hook(passing: Passing) -> bytes:
        frame = passing.frame
        moves = passing.direction == "up" and frame.type in (FrameType.FILE, FrameType.DATA)
        if moves and frame.header.range == part.id:
            come.append(frame.type)
            if len(come) % 10 == 0:
                raise Cut(everywhere=True)
        return passing.data

    route.link.hook = hook
    sender = route.migrate("--retries", 1)
    summary = sender.result()
    check_done(summary, resumed=True)
    assert {FrameType.FILE, FrameType.DATA} <= set(come[9::10]), "it did not break in both"
    assert sender.errors.count(RETRIED) == len(come) // 10
    assert summary["resent_bytes"] <= len(come) // 10 * route.pieces.windows
    check_equal(route.source, route.copy, read_back=True)


def test_flipped_bits_are_refused_and_sent_again(route: Route, grafts: Grafts) -> None:
    """One in a piece, one in what stands over a file, one in each of the two ends."""
    draw = chance("graft flips")
    coming = [FrameType.FILE, FrameType.DATA, FrameType.FILE_END, FrameType.RANGE_END]

    def hook(passing: Passing) -> bytes:
        if not coming or not grafts.at(coming[0])(passing):
            return passing.data
        coming.pop(0)
        return flipped(passing.data, draw.randrange(8 * HEADER_BYTES, 8 * len(passing.data)))

    route.link.hook = hook
    sender = route.migrate()
    summary = sender.result()
    check_done(summary, resumed=True)
    assert not coming
    # Both streams may meet one in the same session, which breaks once.
    assert 2 <= sender.errors.count(RETRIED) <= 4
    assert 0 < summary["resent_bytes"] <= 4 * route.pieces.windows
    check_equal(route.source, route.copy)


def test_a_source_file_cut_while_it_is_moved_is_named_and_the_job_goes_on_when_it_is_back(
    route: Route, grafts: Grafts
) -> None:
    part = grafts.overlaid[0]
    table = route.copy_source() / part.file
    cut_while_it_is_sent(route, table, lambda passing: passing.frame.header.range == part.id)
    summary = route.migrate().result()
    check_done(summary, resumed=True)
    assert summary["resent_bytes"] <= route.pieces.windows
    check_equal(route.source, route.copy)
