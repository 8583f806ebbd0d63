"""The plots of a report, as SVG. Needs matplotlib, the extra `report`: imported where a report is made alone.

Nothing of matplotlib's global state is changed: no pyplot, no settings. Text becomes outlines, so that the page looks
the same everywhere.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kvbatch.report_series import Bar, Interval, range_bars, to_intervals
from kvbatch.samples import JobHistory
from kvbatch.units import format_bytes, format_count, format_seconds

__all__ = ["Plot", "draw_plots"]

_MOST_INTERVALS = 600
_MOST_BARS = 200
# More bars than this have no names of their own.
_NAMED_BARS = 24
_WIDTH_INCHES = 9.6
_TOP_INCHES = 0.26
_BOTTOM_INCHES = 0.44

_INK = "#1f2937"
_FAINT = "#6b7280"
_GRID = "#e5e7eb"
_BLUE = "#2563eb"
_TEAL = "#0d9488"
_AMBER = "#d97706"
_RED = "#dc2626"
_FREE = "#d1fae5"
_OTHER = "#475569"
_REASON_COLOURS = {
    "paused": "#9ca3af",
    "rate-limit": "#f59e0b",
    "source-read-rate": "#b45309",
    "source-check": "#78350f",
    "target-stall": _RED,
    "window": "#7c3aed",
    "memory": "#db2777",
}
# The axis of time: from so many seconds on, the unit and its seconds.
_TIME_UNITS = (
    (0.0, "seconds", 1.0),
    (180.0, "minutes", 60.0),
    (3 * 3600.0, "hours", 3600.0),
    (3 * 86400.0, "days", 86400.0),
)


@dataclass(frozen=True, slots=True)
class Plot:
    """`svg` is an element to stand in a page. `note` says how to read it."""

    title: str
    note: str
    svg: str


@dataclass(frozen=True, slots=True)
class _Clock:
    """The axis of time that all plots share."""

    seconds: float
    unit: str
    unit_seconds: float
    # Where the second and later runs begin.
    run_starts: tuple[float, ...]

    @staticmethod
    def of(intervals: Sequence[Interval]) -> _Clock:
        seconds = max(intervals[-1].end, 0.1)
        _, unit, unit_seconds = max(each for each in _TIME_UNITS if each[0] <= seconds)
        pairs = pairwise(intervals)
        starts = tuple(later.start / unit_seconds for earlier, later in pairs if earlier.run != later.run)
        return _Clock(seconds, unit, unit_seconds, starts)

    def edges(self, intervals: Sequence[Interval]) -> list[float]:
        return [intervals[0].start / self.unit_seconds, *(each.end / self.unit_seconds for each in intervals)]

    def dress(self, axes: Axes, *, last: bool = True) -> None:
        axes.set_xlim(0, self.seconds / self.unit_seconds)
        for start in self.run_starts:
            axes.axvline(start, color=_FAINT, linewidth=0.7, linestyle=(0, (3, 3)), zorder=1)
        if last:
            axes.set_xlabel(f"{self.unit} of running", fontsize=8, color=_FAINT)
        else:
            axes.tick_params(labelbottom=False)


def draw_plots(history: JobHistory, max_memory: int | None, bytes_name: str) -> list[Plot]:
    """Those for which there are figures. `max_memory` is the budget for frames in bytes; `bytes_name` says what the
    bytes of the job are."""
    intervals = to_intervals(history.samples, _MOST_INTERVALS)
    if not intervals:
        return []
    clock = _Clock.of(intervals)
    plots = [
        _throughput(intervals, clock, bytes_name),
        _batches(intervals, clock),
        _latency(intervals, clock),
        _memory(intervals, clock, max_memory),
        _throttle(intervals, clock, history.samples[-1].throttled_seconds),
        _ranges(history, clock),
    ]
    return [plot for plot in plots if plot is not None]


def _throughput(intervals: Sequence[Interval], clock: _Clock, bytes_name: str) -> Plot:
    figure, (bytes_axes, entries_axes) = _panels((1.7, 1.1))
    edges = clock.edges(intervals)
    _fill(bytes_axes, [each.bytes_per_second for each in intervals], edges, _BLUE, bytes_name)
    if any(each.wire_bytes_per_second for each in intervals):
        _line(bytes_axes, [each.wire_bytes_per_second for each in intervals], edges, _AMBER, "on the wire")
        _legend(bytes_axes)
    _label(bytes_axes, "bytes a second")
    _bytes_axis(bytes_axes, "/s")
    _fill(entries_axes, [each.entries_per_second for each in intervals], edges, _TEAL, "entries")
    _label(entries_axes, "entries a second")
    _count_axis(entries_axes)
    clock.dress(bytes_axes, last=False)
    clock.dress(entries_axes)
    note = "Means over what one step of the line covers."
    if clock.run_starts:
        note += " Here and below a dashed line stands where the job was stopped and carried on later."
    return Plot("Throughput", note, _svg(figure, "throughput", "Throughput over time"))


def _batches(intervals: Sequence[Interval], clock: _Clock) -> Plot | None:
    panels = [
        ("batch size", [float(each.batch_bytes) for each in intervals], _BLUE),
        ("window", [float(each.window) for each in intervals], _TEAL),
        ("streams", [float(each.streams) for each in intervals], _AMBER),
    ]
    panels = [panel for panel in panels if any(panel[1])]
    if not panels:
        return None
    figure, all_axes = _panels((0.85,) * len(panels))
    for axes, (name, values, colour) in zip(all_axes, panels, strict=True):
        _line(axes, values, clock.edges(intervals), colour, name)
        axes.set_ylim(0, max(values) * 1.25)
        _label(axes, name)
        if name == "batch size":
            _bytes_axis(axes, "")
        else:
            axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        clock.dress(axes, last=axes is all_axes[-1])
    note = "Bytes of keys and values in a batch, frames in flight per stream, ranges moved at once."
    return Plot(
        "Batch size, window and streams", note, _svg(figure, "batches", "Batch size, window and streams over time")
    )


def _latency(intervals: Sequence[Interval], clock: _Clock) -> Plot | None:
    series = [
        ("round trip", [_milliseconds(each.round_trip_seconds) for each in intervals], _BLUE),
        ("apply at the target", [_milliseconds(each.apply_seconds) for each in intervals], _RED),
    ]
    series = [each for each in series if not all(math.isnan(value) for value in each[1])]
    if not series:
        return None
    figure, (axes,) = _panels((1.8,))
    for name, values, colour in series:
        _line(axes, values, clock.edges(intervals), colour, name)
    known = [value for _, values, _ in series for value in values if value > 0]
    if known and max(known) > 30 * min(known):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _label(axes, "milliseconds")
    _legend(axes)
    clock.dress(axes)
    note = "From a frame's last byte to its ack, the smallest of late; what the target took to apply a frame."
    return Plot("Round trip and apply latency", note, _svg(figure, "latency", "Round trip and apply latency over time"))


def _milliseconds(seconds: float | None) -> float:
    return math.nan if seconds is None else 1e3 * seconds


def _memory(intervals: Sequence[Interval], clock: _Clock, max_memory: int | None) -> Plot | None:
    resident = [float(each.rss_bytes) for each in intervals]
    if not any(resident):
        return None
    figure, (axes,) = _panels((1.5,))
    _fill(axes, resident, clock.edges(intervals), _BLUE, "resident memory of the sender")
    top = max(resident)
    if max_memory is not None and max_memory < 4 * top:
        axes.axhline(max_memory, color=_RED, linewidth=1, linestyle=(0, (4, 2)), label="--max-memory")
        top = max(top, max_memory)
    axes.set_ylim(0, top * 1.25)
    _label(axes, "memory")
    _bytes_axis(axes, "")
    _legend(axes)
    clock.dress(axes)
    note = (
        f"The sender's process; at most {format_bytes(max(resident))}. --max-memory bounds its frames, not all of it."
    )
    return Plot("Memory", note, _svg(figure, "memory", "Resident memory over time"))


def _throttle(intervals: Sequence[Interval], clock: _Clock, totals: dict[str, float]) -> Plot | None:
    reasons = sorted((reason for reason, seconds in totals.items() if seconds > 0), key=lambda each: -totals[each])
    if not reasons:
        return None
    height = 0.45 + 0.24 * len(reasons)
    figure, (over_time, bars) = _panels((1.6, height), share=False)
    edges = clock.edges(intervals)
    base = [0.0] * len(intervals)
    for reason in reasons:
        # The rounding of samples must not lift the pile over the top.
        top = [
            min(100.0, low + 100 * each.throttled_shares.get(reason, 0.0))
            for low, each in zip(base, intervals, strict=True)
        ]
        over_time.stairs(top, edges, baseline=base, fill=True, color=_colour(reason), linewidth=0)
        base = top
    over_time.stairs([100.0] * len(base), edges, baseline=base, fill=True, color=_FREE, linewidth=0)
    over_time.set_ylim(0, 100)
    over_time.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} %"))
    _label(over_time, "share of time")
    clock.dress(over_time)
    rows = [*(re.sub(r"[^ -~]", "?", reason)[:18] for reason in reasons), "not held back"]
    seconds = [*(totals[reason] for reason in reasons), max(0.0, clock.seconds - sum(totals.values()))]
    colours = [*(_colour(reason) for reason in reasons), _FREE]
    bars.barh(range(len(rows)), seconds, color=colours, height=0.7)
    bars.set_yticks(range(len(rows)), rows, parse_math=False)
    bars.invert_yaxis()
    for row, value in enumerate(seconds):
        text = f" {format_seconds(value)}, {100 * value / max(clock.seconds, sum(totals.values())):.1f} %"
        bars.text(value, row, text, va="center", fontsize=8, color=_INK)
    bars.set_xlim(0, max(seconds) * 1.25)
    bars.tick_params(labelbottom=False, bottom=False)
    bars.grid(visible=False)
    bars.spines["bottom"].set_visible(False)
    note = "What the streams waited for, as the mean over the streams."
    return Plot("Time by throttle reason", note, _svg(figure, "throttle", "Time by throttle reason"))


def _colour(reason: str) -> str:
    return _REASON_COLOURS.get(reason, _OTHER)


def _ranges(history: JobHistory, clock: _Clock) -> Plot | None:
    bars = range_bars(history, _MOST_BARS)
    if not bars:
        return None
    height = 0.5 + 0.17 * min(len(bars), _NAMED_BARS)
    figure, (axes, complete_axes) = _panels((height, 1.0))
    scale = clock.unit_seconds
    # A range that took no time to speak of is still to be seen.
    least = clock.seconds / scale / 400
    axes.barh(
        range(len(bars)),
        [max(least, (bar.end - bar.start) / scale) for bar in bars],
        left=[bar.start / scale for bar in bars],
        height=0.75 if len(bars) <= _NAMED_BARS else 1.0,
        color=[_bar_colour(bar) for bar in bars],
        linewidth=0,
    )
    axes.set_ylim(len(bars) - 0.4, -0.6)
    if len(bars) <= _NAMED_BARS:
        axes.set_yticks(range(len(bars)), [str(bar.first_range) for bar in bars])
    else:
        ranges = bars[0].ranges
        axes.yaxis.set_major_formatter(FuncFormatter(lambda row, _: f"{max(0, round(row)) * ranges:,}"))
    axes.grid(visible=False, axis="y")
    _label(axes, "range")
    done = sorted(
        history.running_at(times.completed) / scale for times in history.ranges if times.completed is not None
    )
    complete_axes.step([0, *done, clock.seconds / scale], [*range(len(done) + 1), len(done)], where="post", color=_TEAL)
    complete_axes.set_ylim(0, max(1, len(history.ranges)) * 1.08)
    complete_axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    complete_axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    _label(complete_axes, "complete")
    clock.dress(axes, last=False)
    clock.dress(complete_axes)
    note = (
        "From when a range was begun first until it was durable: blue; amber when it was begun again after an "
        "interruption, grey when it is not complete. Below: how many were complete."
    )
    if bars[0].ranges > 1:
        note += f" Each line stands for {bars[0].ranges} ranges, in the order in which they were begun."
    elif len(bars) > _NAMED_BARS:
        note += " In the order in which they were begun."
    return Plot("Ranges", note, _svg(figure, "ranges", "When each range was moved"))


def _bar_colour(bar: Bar) -> str:
    if not bar.complete:
        return "#9ca3af"
    return _AMBER if bar.begun_again else _BLUE


# -- what all of them share -------------------------------------------------------------------------------------------


def _panels(heights: Sequence[float], *, share: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure of panels above each other, of these heights in inches."""
    gap = 0.34 if share else 0.66
    total = sum(heights) + gap * (len(heights) - 1) + _TOP_INCHES + _BOTTOM_INCHES
    figure = Figure(figsize=(_WIDTH_INCHES, total), facecolor="white")
    grid = figure.subplots(
        len(heights),
        1,
        squeeze=False,
        sharex=share,
        gridspec_kw={
            "height_ratios": list(heights),
            "hspace": gap * len(heights) / sum(heights),
            # The same in every figure, so that the axes of time stand below each other.
            "left": 0.105,
            "right": 0.985,
            "top": 1 - _TOP_INCHES / total,
            "bottom": _BOTTOM_INCHES / total,
        },
    )
    panels = [row[0] for row in grid]
    for axes in panels:
        axes.set_facecolor("white")
        axes.grid(visible=True, color=_GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8, colors=_FAINT, length=2.5, labelcolor=_INK)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color("#9ca3af")
            spine.set_linewidth(0.8)
    return figure, panels


def _fill(axes: Axes, values: Sequence[float], edges: Sequence[float], colour: str, label: str) -> None:
    axes.stairs(values, edges, fill=True, color=colour, alpha=0.18, linewidth=0)
    axes.stairs(values, edges, color=colour, linewidth=1.2, label=label, baseline=None)
    axes.set_ylim(0, max(1e-9, max(values)) * 1.12)


def _line(axes: Axes, values: Sequence[float], edges: Sequence[float], colour: str, label: str) -> None:
    axes.stairs(values, edges, color=colour, linewidth=1.4, label=label, baseline=None)


def _label(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=8.5, color=_FAINT, pad=4)


def _legend(axes: Axes) -> None:
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 0.99),
        ncols=3,
        fontsize=8,
        frameon=False,
        borderaxespad=0.2,
        labelcolor=_INK,
    )


def _bytes_axis(axes: Axes, suffix: str) -> None:
    """Ticks at round numbers of the largest unit that fits."""
    unit = 1024.0 ** max(0, min(4, int(math.log(max(1.0, axes.get_ylim()[1]), 1024))))
    low, high = axes.get_ylim()
    ticks = [tick * unit for tick in MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low / unit, high / unit)]
    axes.set_yticks([tick for tick in ticks if low <= tick <= high])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{format_bytes(value)}{suffix}" if value else "0"))


def _count_axis(axes: Axes) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value)))


def _svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an element for a page that holds several: without prolog, comments and a size of its own, its ids
    made its own with `name`."""
    written = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(written, format="svg", metadata=no_metadata)
    text = written.getvalue()
    text = re.sub(r"<!--.*?-->\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"\n\s*", "\n", text)
    opening, _, rest = text.partition(">")
    opening = re.sub(r' (?:width|height)="[^"]*"', "", opening)
    return f'{opening} role="img" aria-label="{label}">{rest}'
