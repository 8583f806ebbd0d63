"""What a store holds, as `kvbatch inspect` shows it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime

from kvbatch.cli_output import print_table
from kvbatch.inspection import FamilyInspection, Inspection
from kvbatch.kvrocks.census import Census, Tally
from kvbatch.kvrocks.slots import SLOTS
from kvbatch.ranges import describe_key
from kvbatch.units import format_bytes, format_count

__all__ = ["show_inspection"]

_SLOTS_A_ROW = 1024
_LAYOUTS = {True: "keys with slots", False: "keys without slots", None: "no keys"}
_TALLY_TITLES = ("keys", "expired", "empty", "subkeys", "garbage", "keys and values", "of that dead")


def show_inspection(found: Inspection) -> None:
    kvrocks = found.kvrocks
    rows = [
        ("store", found.path),
        ("kind", "RocksDB" if kvrocks is None else f"Kvrocks, {_LAYOUTS[kvrocks.slot_encoded]}"),
        ("identity", found.identity),
        ("latest sequence", f"{found.latest_sequence:,}"),
        ("WAL", format_bytes(found.wal_bytes)),
    ]
    if kvrocks is not None:
        judged = datetime.fromtimestamp(kvrocks.judged_ms / 1000, UTC)
        rows.append(("expired", f"as of {judged:%Y-%m-%d %H:%M:%S} UTC"))
    print_table(rows)
    _show_families(found)
    _show_options(found.column_families)
    if kvrocks is not None:
        _show_census(kvrocks)


def _show_families(found: Inspection) -> None:
    exact = found.kvrocks is not None
    titles = ["column family", "id", "entries", "keys and values", "on disk", "blob files", "files in levels"]
    rows = [
        [
            _quoted(family),
            str(family.id),
            f"{family.entries:,}" if exact else f"about {format_count(family.entries)}",
            format_bytes(family.raw_bytes) if exact else f"about {format_bytes(family.raw_bytes)}",
            format_bytes(family.file_bytes),
            f"{family.blob_files}, {format_bytes(family.blob_bytes)}" if family.blob_files else "none",
            _levels(family),
        ]
        for family in found.column_families
    ]
    _print_section(titles, rows)


def _levels(family: FamilyInspection) -> str:
    """How many files of how many bytes in each."""
    return ", ".join(f"L{each.level} {each.files}: {format_bytes(each.file_bytes)}" for each in family.levels) or "none"


def _show_options(families: Iterable[FamilyInspection]) -> None:
    titles = ["column family", "comparator", "merge operator", "compression", "filter", "block", "table format"]
    rows = [
        [
            _quoted(family),
            family.comparator,
            family.merge_operator or "none",
            family.compression,
            family.filter_policy or "none",
            format_bytes(family.block_size),
            ", ".join(map(str, family.table_formats)) or "no files",
        ]
        for family in families
    ]
    _print_section(titles, rows)


def _quoted(family: FamilyInspection) -> str:
    return f'"{family.name}"'


def _show_census(census: Census) -> None:
    namespaces = [(os.fsdecode(name), sum(types.values(), Tally())) for name, types in census.namespaces.items()]
    _show_tallies("namespace", namespaces if len(namespaces) == 1 else [*namespaces, ("all", census.total())])
    _show_tallies("type", list(census.types().items()))
    _show_tallies("slots", _by_slot_ranges(census))
    if broken := {name: count.broken for name, count in census.families.items() if count.broken}:
        titles = ["column family", "broken entries"]
        _print_section(titles, [[f'"{name}"', f"{count:,}, not counted above"] for name, count in broken.items()])
        titles = ["broken key", "column family", "why"]
        rows = [[describe_key(each.key), f'"{each.column_family}"', each.reason] for each in census.broken]
        _print_section(titles, rows)


def _by_slot_ranges(census: Census) -> list[tuple[str, Tally]]:
    """Slots in rows of _SLOTS_A_ROW; none where keys have no slots."""
    if not census.slot_encoded:
        return []
    rows = [Tally()] * (SLOTS // _SLOTS_A_ROW)
    for slot, tally in census.slots.items():
        rows[slot // _SLOTS_A_ROW] += tally
    first = range(0, SLOTS, _SLOTS_A_ROW)
    return [(f"{low}-{low + _SLOTS_A_ROW - 1}", tally) for low, tally in zip(first, rows, strict=True)]


def _show_tallies(title: str, tallies: list[tuple[str, Tally]]) -> None:
    rows = [
        [
            name,
            *(f"{count:,}" for count in (each.keys, each.expired, each.empty, each.subkeys, each.garbage)),
            format_bytes(each.bytes),
            format_bytes(each.dead_bytes),
        ]
        for name, each in tallies
    ]
    if rows:
        _print_section([title, *_TALLY_TITLES], rows)


def _print_section(titles: list[str], rows: list[list[str]]) -> None:
    print()
    print_table([titles, *rows])
