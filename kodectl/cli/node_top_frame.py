"""The picture of `kodectl node top`: lines for a terminal of some size. Nothing here draws, or asks anybody.

What matters most stays longest when the terminal shrinks: the verdict, a few peers, the plots, the NAT, the buckets, the last
events. Colour says what is out of the ordinary, and marks a few labels; everything reads without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from kodectl.cli.node_top_facts import event_lines, status_lines
from kodectl.cli.node_top_peers import first_shown, peer_table
from kodectl.cli.node_top_plots import BUCKET_STEP, buckets, plots
from kodectl.cli.node_top_state import Seen, State
from kodectl.cli.node_top_text import SHORT_ID, UNICODE, Glyphs, Line, Span, apart, beside, fit, one_line
from kodectl.cli.wording import counted, duration
from kodectl.node.views import StatusView

TALL_FROM = 38
"""Lines, from where plots may have several."""
FEW_WARNINGS = 2
MANY_WARNINGS = 5
PLENTY = 1_000
"""Lines, where there is no terminal."""
WIDE_FROM = 150
"""Columns, from where four plots stand side by side."""
TWO_PLOTS_FROM = 60
SIDE_FROM = 110
"""Columns, from where the NAT has room beside the tall buckets."""
KEYS_FROM = 6
"""Lines, from where one is left for the keys."""
MIN_PEERS = 3
FEW_EVENTS = 3
MORE_EVENTS = 10
VERDICT_STYLES = {"well": "good", "attention": "attention", "trouble": "trouble"}


class Frame(NamedTuple):
    lines: list[Line]
    rows: int
    """Peers that there was room for."""


def frame(state: State, width: int, height: int | None, glyphs: Glyphs = UNICODE) -> Frame:
    """Exactly `height` lines, none wider than `width`; without a height as many as there are, and every peer."""
    keys = [_keys_line(state, glyphs)] if height is not None and height >= KEYS_FROM else []
    room = None if height is None else max(0, height - 1 - len(keys))
    body, rows = (_help(glyphs), 0) if state.helping else _body(state, width, room, glyphs)
    if room is not None:
        body = [*body, *([[]] * (room - len(body)))][:room]
    if keys and not state.helping:
        keys = [apart(keys[0], [Span(_place(state, rows), "quiet")], width)]
    lines = [_title(state, width, glyphs), *body, *keys]
    return Frame([fit(line, width, glyphs) for line in lines[:height]], rows)


def _body(state: State, width: int, height: int | None, glyphs: Glyphs) -> tuple[list[Line], int]:
    seen = state.shown
    head = _verdict_lines(state, FEW_WARNINGS if height is None or height < TALL_FROM else MANY_WARNINGS)
    facts, last = _facts(seen, width, None if height is None else height - len(head) + 1, glyphs)
    peers = seen.view.peers
    rows = len(peers) if height is None else max(0, height - len(head) - len(facts) - len(last) - 2)
    table = peer_table(state, width, rows, glyphs)
    padding: list[Line] = [] if height is None else [[]] * (rows + 1 - len(table))
    return [*head, *_quiet_if(state, [*facts, [], *table, *padding, *last])], rows


def _facts(seen: Seen, width: int, height: int | None, glyphs: Glyphs) -> tuple[list[Line], list[Line]]:
    """What there is room for above the peers, and below them."""
    # The table's head, a blank line above it, and some peers come before everything else.
    left = PLENTY if height is None else height - 3 - min(MIN_PEERS, max(1, len(seen.view.peers)))
    if height is None:
        return _short_facts(seen, width, left, MORE_EVENTS, glyphs)
    if height >= TALL_FROM:
        above, below = _tall_facts(seen, width, left, glyphs)
        if len(above) + len(below) <= left:
            return above, below
    return _short_facts(seen, width, left, FEW_EVENTS, glyphs)


def _tall_facts(seen: Seen, width: int, left: int, glyphs: Glyphs) -> tuple[list[Line], list[Line]]:
    drawn = plots(seen.samples, width, _plots_across(width), tall=True, glyphs=glyphs)
    table = buckets(seen.view.buckets, width, tall=True, glyphs=glyphs)
    start = BUCKET_STEP * len(seen.view.buckets) + 4
    if width >= SIDE_FROM:
        facts = beside(table, status_lines(seen.view, width - start, tall=True), start)
    else:
        facts = [*table, [], *status_lines(seen.view, width, tall=True)]
    above = [[], *drawn, [], *facts]
    room = left - len(above)
    # What peers do not need, and two lines more are blank.
    spare = room - len(seen.view.peers) - 3
    count = max(FEW_EVENTS, min(MORE_EVENTS, room // 3), spare)
    return above, _after_blank(event_lines(seen.events, count, width, glyphs))


def _short_facts(seen: Seen, width: int, left: int, count: int, glyphs: Glyphs) -> tuple[list[Line], list[Line]]:
    """Of `left` lines, each part with a blank one; what comes first has it first."""
    above: list[Line] = []
    drawn = plots(seen.samples, width, _plots_across(width), tall=False, glyphs=glyphs)
    table = buckets(seen.view.buckets, width, tall=False, glyphs=glyphs)
    status = status_lines(seen.view, width, tall=False)
    if left > len(drawn):
        above += [[], *drawn]
        left -= len(drawn) + 1
    if left > len(status) + len(table):
        above += [[], *table, *status]
        left -= len(status) + len(table) + 1
    elif left > len(status):
        above += [[], *status]
        left -= len(status) + 1
    events = _after_blank(event_lines(seen.events, count, width, glyphs))
    return above, (events if left >= len(events) else [])


def _after_blank(lines: list[Line]) -> list[Line]:
    return [[], *lines] if lines else []


def _plots_across(width: int) -> int:
    return 4 if width >= WIDE_FROM else 2 if width >= TWO_PLOTS_FROM else 1


def _quiet_if(state: State, lines: Sequence[Line]) -> Sequence[Line]:
    """What is shown is of the past when the node does not answer."""
    if state.trouble is None:
        return lines
    return [[Span(span.text, "quiet") for span in line] for line in lines]


# -- first and last lines ----------------------------------------------------------------------------------------------


def _title(state: State, width: int, glyphs: Glyphs) -> Line:
    status = state.shown.view.status
    level = "trouble" if state.trouble is not None else state.shown.view.verdict.level
    what = "no answer" if state.trouble is not None else f"{status.state}, up {duration(status.uptime_s)}"
    line: Line = [
        Span(f"{glyphs.dot} ", VERDICT_STYLES[level]),
        Span(f"{one_line(status.network)} ", "strong"),
        Span(f" {status.id[:SHORT_ID]}  {what}"),
    ]
    right = Span("paused", "attention") if state.paused else Span(_node_time(status), "quiet")
    return apart(line, [right], width)


def _node_time(status: StatusView) -> str:
    """When this was so, by the node's clock."""
    at = datetime.fromisoformat(status.started) + timedelta(seconds=status.uptime_s)
    return f"{at:%H:%M:%S} UTC"


def _verdict_lines(state: State, most: int) -> list[Line]:
    """`most`: warnings."""
    if state.trouble is not None:
        return [[Span(one_line(state.trouble), "trouble")]]
    view = state.shown.view
    line: Line = [Span(one_line(view.verdict.text), VERDICT_STYLES[view.verdict.level])]
    if view.verdict.hint:
        line.append(Span(f"   {view.verdict.hint}", "quiet"))
    return [line, *([Span(one_line(text), "attention")] for text in view.status.warnings[:most])]


def _keys_line(state: State, glyphs: Glyphs) -> Line:
    if state.helping:
        return _keys([("?", "back"), ("q", "quit")])
    return _keys(
        [
            ("q", "quit"),
            ("s", f"sort by {state.sort}"),
            ("p", "go on" if state.paused else "pause"),
            (glyphs.arrows, "scroll"),
            ("?", "help"),
        ]
    )


def _keys(named: Sequence[tuple[str, str]]) -> Line:
    return [span for key, what in named for span in (Span(key, "strong"), Span(f" {what}  ", "quiet"))]


def _place(state: State, rows: int) -> str:
    count = len(state.shown.view.peers)
    if rows >= count:
        return counted(count, "peer")
    first = first_shown(state, rows)
    return f"{first + 1}-{first + rows} of {count} peers" if rows else f"{count} peers"


def _help(glyphs: Glyphs) -> list[Line]:
    entries = [
        ("q", "quit"),
        ("s", "sort the peers by latency, trust, time of connection, or bytes"),
        ("p, space", "pause: keep what is shown; again to go on"),
        (f"{glyphs.arrows}, j k", "scroll the peers; Page Up and Page Down, Home and End too"),
        ("?, Esc", "back"),
        ("", ""),
        ("plots", "one column is four seconds; a blank one is not known"),
        ("buckets", "the routing table: how full each bucket is; the last takes all that are nearer"),
        ("link", "who dialled whom, and over what: tcp, quic, or a relay's address"),
        ("trust", "0 to 1, from what the peer has done here"),
    ]
    return [[], *([Span(f"  {name:12}", "strong"), Span(text)] for name, text in entries)]
