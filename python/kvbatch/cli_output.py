"""What the command line prints on stdout: one JSON object, or a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size

from kvbatch.comparison import VerifyReport
from kvbatch.events import Summary
from kvbatch.lane_choice import bytes_name
from kvbatch.migration_plan import Plan
from kvbatch.ranges import describe_key
from kvbatch.shell_words import show_text
from kvbatch.target_state import FINISHED_BEFORE
from kvbatch.units import format_bytes, format_count, format_seconds

__all__ = ["print_json", "print_table", "show_plan", "show_report", "show_summary"]


def print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Aligned, and whole: in a pipe nothing may be cut to the width of a terminal that is not there. A name that holds
    what a terminal would obey keeps to its line."""
    shown = [[show_text(text) for text in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        print("  ".join(set_cell_size(text, width) for text, width in zip(row, widths, strict=True)).rstrip())
    sys.stdout.flush()


def show_summary(summary: Summary, plan: Plan) -> None:
    rows = []
    if summary.finished_before:
        rows += [
            ("finished before", "nothing was moved now; this is what the run that finished it did"),
            ("compared", _compared(plan)),
        ]
    rows += [
        ("job", summary.job),
        *_endpoint_rows(plan),
        # Nobody counts entries where files are moved.
        ("entries", f"{'about ' if summary.lane == 'files' else ''}{summary.entries:,}"),
        (bytes_name(summary.lane), format_bytes(summary.raw_bytes)),
        ("time", format_seconds(summary.seconds)),
        ("rate", f"{format_count(summary.entries_per_second)} entries/s"),
        ("lane", f"{summary.lane}: {summary.lane_reason}"),
        ("on the wire", format_bytes(summary.wire_bytes)),
        ("sent again", format_bytes(summary.resent_bytes)),
        ("peak memory", format_bytes(summary.peak_rss_bytes)),
    ]
    print_table(rows)


def _compared(plan: Plan) -> str:
    if plan.server_source is not None:
        return f"the source's fingerprint; {FINISHED_BEFORE}"
    return "the source's fingerprint and the target's identity; `kvbatch verify` compares entries"


def _endpoint_rows(plan: Plan) -> list[tuple[str, str]]:
    """As they were understood, which shows a target that was mistyped."""
    return [("source", plan.source), ("target", plan.target)]


def _finding_rows(plan: Plan) -> list[tuple[str, str]]:
    findings = [] if plan.target_state is None else plan.target_state.findings
    return [(each.what, f"{'' if each.kind == 'note' else f'{each.kind}: '}{each.message}") for each in findings]


def _grafted(plan: Plan) -> str:
    if not plan.files_grafted:
        return "none: every entry is read"
    return f"{plan.files_grafted}, about {format_bytes(plan.bytes_grafted)}; {format_bytes(plan.bytes_read)} are read"


def show_plan(plan: Plan, as_json: bool) -> None:
    if as_json:
        print_json(plan.to_json())
        return
    print_table(
        [
            ("job", plan.job),
            *_endpoint_rows(plan),
            ("found there", str(plan.target_state)),
            *_finding_rows(plan),
            ("lane", f"{plan.lane}: {plan.lane_reason}"),
            *([("selected", str(plan.server_source))] if plan.server_source is not None else []),
            ("column families", ", ".join(f'"{name}"' for name in plan.column_families)),
            ("entries", f"about {format_count(plan.estimated_entries)}"),
            (bytes_name(plan.lane), f"about {format_bytes(plan.estimated_bytes)}"),
            ("moved as files", _grafted(plan)),
            ("ranges", f"{len(plan.ranges)}, {plan.streams} at once"),
            ("time", f"about {format_seconds(plan.estimated_seconds or 0.0)}"),
        ]
    )


def show_report(report: VerifyReport) -> None:
    rows = [
        ("equal", "yes" if report.equal else "NO"),
        ("entries", f"source {report.entries_source:,}, target {report.entries_target:,}"),
        ("ranges differing", f"{report.ranges_differing} of {report.ranges}"),
        ("keys missing", f"{report.keys_missing:,}"),
        ("keys extra", f"{report.keys_extra:,}"),
        ("keys different", f"{report.keys_different:,}"),
    ]
    if report.keys_repaired:
        rows.append(("keys repaired", f"{report.keys_repaired:,}"))
    rows += [("column family missing", f'"{name}"') for name in report.families_missing]
    rows += [("column family extra", f'"{name}"') for name in report.families_extra]
    rows += [(f'digest of "{family}"', digest) for family, digest in report.digests.items()]
    rows += [(found.kind, f'"{found.column_family}" {describe_key(found.key)}') for found in report.samples]
    print_table(rows)
