"""Plots of characters: rates over time, and how full the buckets are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import ceil
from statistics import fmean
from typing import NamedTuple

from kodectl.cli.node_top_look import BucketSizeView
from kodectl.cli.node_top_text import LABEL, Glyphs, Line, Span, apart, beside, fit
from kodectl.cli.wording import counted, milliseconds, size
from kodectl.core.table import K
from kodectl.node.history_views import SampleView

STEP_S = 4.0
"""Of one column: it moves slowly enough to be read, and 24 columns are a minute and a half."""
TALL = 3
"""Lines of a tall plot."""
TALL_BUCKETS = 4
GAP = 3
BUCKET_STEP = 3
"""Columns of a bucket, the gap among them."""
VALUE = 11
"""Columns of the figure beside a small plot: `999.9 kB/s`, and a space."""

Values = list[float | None]


class Plot(NamedTuple):
    """`least`: the scale ends no lower, so that next to nothing looks like next to nothing."""

    label: str
    values: Callable[[Sequence[SampleView], int], Values]
    least: float
    text: Callable[[float], str]


def rate_of(count: Callable[[SampleView], int]) -> Callable[[Sequence[SampleView], int], Values]:
    def values(samples: Sequence[SampleView], columns: int) -> Values:
        found: defaultdict[int, list[float]] = defaultdict(list)
        for before, after in pairwise(samples):
            rate = (count(after) - count(before)) / (after.at_s - before.at_s)
            for step in _steps_between(before.at_s, after.at_s):
                found[step].append(rate)
        return _last(found, samples, columns)

    return values


def _steps_between(start_s: float, end_s: float) -> range:
    """All that it touches: looks are farther apart than steps, or nearer."""
    return range(int(start_s // STEP_S), _step_of(end_s) + 1)


def _step_of(at_s: float) -> int:
    """Its last moment belongs to a step, its first to the one before."""
    return ceil(at_s / STEP_S) - 1


def _latency(samples: Sequence[SampleView], columns: int) -> Values:
    found: defaultdict[int, list[float]] = defaultdict(list)
    for sample in samples:
        if sample.latency_ms is not None:
            found[_step_of(sample.at_s)].append(sample.latency_ms)
    return _last(found, samples, columns)


def _last(found: dict[int, list[float]], samples: Sequence[SampleView], columns: int) -> Values:
    """Steps lie at fixed times, so that a bar that was drawn does not change when the next one comes."""
    if not samples:
        return [None] * columns
    last = _step_of(samples[-1].at_s)
    return [fmean(found[step]) if step in found else None for step in range(last - columns + 1, last + 1)]


PLOTS = (
    Plot("received", rate_of(lambda one: one.bytes_received), 1000.0, lambda value: f"{size(value)}/s"),
    Plot("sent", rate_of(lambda one: one.bytes_sent), 1000.0, lambda value: f"{size(value)}/s"),
    Plot(
        "messages",
        rate_of(lambda one: one.messages_sent + one.messages_received),
        2.0,
        lambda value: f"{value:.1f}/s",
    ),
    Plot("latency", _latency, 10.0, lambda value: milliseconds(value) or ""),
)


def plots(samples: Sequence[SampleView], width: int, across: int, *, tall: bool, glyphs: Glyphs) -> list[Line]:
    """All of them, `across` side by side."""
    each = (width - GAP * (across - 1)) // across
    drawn = [(_tall if tall else _small)(plot, samples, each, glyphs) for plot in PLOTS]
    lines: list[Line] = []
    for first in range(0, len(drawn), across):
        row = drawn[first]
        for number, other in enumerate(drawn[first + 1 : first + across], 1):
            row = beside(row, other, number * (each + GAP))
        lines += row
    return lines


def _small(plot: Plot, samples: Sequence[SampleView], width: int, glyphs: Glyphs) -> list[Line]:
    columns = max(0, width - LABEL - VALUE)
    values = plot.values(samples, max(1, columns))
    bar = "".join(row for row in bars(values[-columns:] if columns else [], plot.least, 1, glyphs))
    figure = _figure(plot, values[-1])
    return [fit([_label(plot.label), Span(bar, "plot"), Span(figure.rjust(VALUE), "strong")], width, glyphs)]


def _tall(plot: Plot, samples: Sequence[SampleView], width: int, glyphs: Glyphs) -> list[Line]:
    values = plot.values(samples, width)
    known = [value for value in values if value is not None]
    head: Line = [_label(plot.label), Span(_figure(plot, values[-1]), "strong")]
    if known:
        head = apart(head, [Span(f"most {plot.text(max(known))}", "quiet")], width)
    return [head, *([Span(row, "plot")] for row in bars(values, plot.least, TALL, glyphs))]


def _label(text: str) -> Span:
    return Span(text.ljust(LABEL), "label")


def _figure(plot: Plot, value: float | None) -> str:
    return "-" if value is None else plot.text(value)


def bars(values: Values, least: float, height: int, glyphs: Glyphs) -> list[str]:
    """Lines from the top. What is known has a foot, even if it is zero."""
    most = max([least, *(value for value in values if value is not None)])
    full = len(glyphs.levels) - 1
    levels = [0 if value is None else 1 + round(value / most * (height * full - 1)) for value in values]
    return [
        "".join(glyphs.levels[min(full, max(0, level - full * below))] for level in levels)
        for below in reversed(range(height))
    ]


def buckets(found: Sequence[BucketSizeView], width: int, *, tall: bool, glyphs: Glyphs) -> list[Line]:
    """Each bucket as a bar: how many of its places are taken."""
    nodes, waiting = sum(one.size for one in found), sum(one.replacements for one in found)
    known = counted(nodes, "node") + (f", {waiting} waiting" if waiting and tall else "")
    if not tall:
        return [_bucket_line(found, width, Span(known, "strong"), glyphs)]
    head: Line = [_label("buckets"), Span(known, "strong")]
    rows = bars([one.size or None for one in found], K, TALL_BUCKETS, glyphs)
    drawn: list[Line] = [[Span("".join(char * 2 + " " for char in row), "plot")] for row in rows[:-1]]
    axis = "".join(str(one.index).ljust(BUCKET_STEP) for one in found)
    return [head, *drawn, _foot(rows[-1], found, BUCKET_STEP, glyphs), [Span(axis, "quiet")]]


def _bucket_line(found: Sequence[BucketSizeView], width: int, known: Span, glyphs: Glyphs) -> Line:
    room = (width - LABEL - len(known.text) - 1) // max(1, len(found))
    (row,) = bars([one.size or None for one in found], K, 1, glyphs)
    return [_label("buckets"), *_foot(row, found, min(BUCKET_STEP, max(1, room)), glyphs), Span(" "), known]


def _foot(row: str, found: Sequence[BucketSizeView], step: int, glyphs: Glyphs) -> Line:
    """The lowest line, where the empty ones are marked. `step`: columns of each."""
    return [
        Span(((char if one.size else glyphs.none) * max(1, step - 1)).ljust(step), "plot" if one.size else "quiet")
        for char, one in zip(row, found, strict=True)
    ]
