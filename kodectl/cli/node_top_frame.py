"""The picture of `kodectl node top`: lines for a terminal of some size. Nothing here draws, or asks anybody.

What matters most stays longest when the terminal shrinks: the verdict, a few peers, the plots, the NAT, the buckets, the last
events. Colour says what is out of the ordinary, and marks a few labels; everything reads without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from kodectl.cli.node_top_plots import BUCKET_STEP, LABEL, buckets, plots
from kodectl.cli.node_top_state import Seen, State
from kodectl.cli.node_top_text import UNICODE, Glyphs, Line, Span, apart, beside, cell, fit, one_line
from kodectl.cli.wording import duration, milliseconds, size
from kodectl.node.views import EventView, NatView, PeerView, StatusView

TALL_FROM = 38
"""Lines, from where plots may have several."""
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
SHORT_ID = 8
"""Hex digits: as many as the other commands need to know a peer."""
ID_SIZE = 64
MAX_VALUE = 48
"""Characters of one value of an event."""
SLOW_MS = 500.0
VERDICT_STYLES = {"well": "good", "attention": "attention", "trouble": "trouble"}
EVENT_STYLES = {
    "warning": "attention",
    "connect_failed": "attention",
    "isolated": "trouble",
    "port_mapping_lost": "attention",
    "port_mapping_failed": "attention",
    "config_refused": "attention",
}
UNTOLD = frozenset({"enode", "subject", "pair", "local", "remote", "static", "text"})
"""Of an event: what has another name in it already, or tells an operator little."""


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
    head = [_verdict_line(state)]
    facts, last = _facts(seen, width, height, glyphs)
    peers = seen.view.peers
    rows = len(peers) if height is None else max(0, height - len(head) - len(facts) - len(last) - 2)
    table = _peer_table(state, width, rows, glyphs)
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
    status = _status_lines(seen.view.status, tall=True)
    at_side = BUCKET_STEP * len(seen.view.buckets) + 4
    facts = beside(table, status, at_side) if width >= SIDE_FROM else [*table, [], *status]
    above = [[], *drawn, [], *facts]
    # What peers do not need, and two lines more are blank.
    spare = left - len(above) - len(seen.view.peers) - 3
    return above, _after_blank(_event_lines(seen.events, max(MORE_EVENTS, spare), width, glyphs))


def _short_facts(seen: Seen, width: int, left: int, count: int, glyphs: Glyphs) -> tuple[list[Line], list[Line]]:
    """Of `left` lines, each part with a blank one; what comes first has it first."""
    above: list[Line] = []
    drawn = plots(seen.samples, width, _plots_across(width), tall=False, glyphs=glyphs)
    table = buckets(seen.view.buckets, width, tall=False, glyphs=glyphs)
    status = _status_lines(seen.view.status, tall=False)
    if left > len(drawn):
        above += [[], *drawn]
        left -= len(drawn) + 1
    if left > len(status) + len(table):
        above += [[], *table, *status]
        left -= len(status) + len(table) + 1
    elif left > len(status):
        above += [[], *status]
        left -= len(status) + 1
    events = _after_blank(_event_lines(seen.events, count, width, glyphs))
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


def _verdict_line(state: State) -> Line:
    if state.trouble is not None:
        return [Span(one_line(state.trouble), "trouble")]
    verdict = state.shown.view.verdict
    line: Line = [Span(one_line(verdict.text), VERDICT_STYLES[verdict.level])]
    return [*line, Span(f"   {verdict.hint}", "quiet")] if verdict.hint else line


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
        return f"{count} peer{'' if count == 1 else 's'}"
    first = _first_shown(state, rows)
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


# -- the node and its NAT ----------------------------------------------------------------------------------------------


def _status_lines(status: StatusView, *, tall: bool) -> list[Line]:
    told = _nat_facts(status)
    if tall:
        listeners = status.listeners
        told = [
            ("node", f"{status.client}, {listeners.tcp} tcp, {listeners.udp} udp"),
            ("api", ", ".join(listeners.api)),
            ("dht", f"{status.dht_mode}, {status.records} records"),
            *told,
        ]
    else:
        first = "; ".join(text for name, text in told if name != "advice")
        told = [("nat", first), *((name, text) for name, text in told if name == "advice")]
    return [[Span(name.ljust(LABEL), "label"), Span(one_line(text))] for name, text in told]


def _nat_facts(status: StatusView) -> list[tuple[str, str]]:
    nat = status.nat
    facts = [("nat", _nat_state(nat))]
    if nat.observed_address:
        port = f", UDP port {nat.observed_port}" if nat.observed_port else ""
        facts.append(("seen as", f"seen as {nat.observed_address}{port}"))
    mapping = nat.port_mapping
    if mapping.method:
        facts.append(("ports", f"ports {mapping.state} by {mapping.method}"))
    elif mapping.error is not None:
        facts.append(("ports", f"ports {mapping.state}: {mapping.error.message}"))
    if nat.rendezvous:
        facts.append(("reached", f"{len(nat.rendezvous)} rendezvous nodes, {nat.relays} relays at hand"))
    if nat.advice:
        facts.append(("advice", nat.advice))
    return facts


def _nat_state(nat: NatView) -> str:
    kind = f" ({nat.nat_type.replace('_', ' ')})" if nat.nat_type else ""
    return nat.state.replace("_", " ") + kind


# -- peers -------------------------------------------------------------------------------------------------------------


class Column(NamedTuple):
    """`sort`: by which order it is marked."""

    name: str
    width: int
    text: Callable[[PeerView], str | None]
    right: bool = False
    sort: str = ""


COLUMNS = (
    Column("id", SHORT_ID, lambda peer: peer.id[:SHORT_ID]),
    Column("address", 21, lambda peer: peer.addr),
    Column("link", 9, lambda peer: _link(peer)),
    Column("latency", 9, lambda peer: milliseconds(peer.latency_ms), right=True, sort="latency"),
    Column("trust", 6, lambda peer: f"{peer.trust:.2f}", right=True, sort="trust"),
    Column("bytes", 8, lambda peer: size(peer.bytes_sent + peer.bytes_received), right=True, sort="bytes"),
    Column("since", 6, lambda peer: age(peer.connected_s), right=True, sort="since"),
    Column("sent", 8, lambda peer: size(peer.bytes_sent), right=True),
    Column("received", 8, lambda peer: size(peer.bytes_received), right=True),
    Column("messages", 9, lambda peer: str(peer.messages_sent + peer.messages_received), right=True),
    Column("priority", 8, lambda peer: peer.priority),
    Column("client", 24, lambda peer: peer.client),
)
"""As they stand in the table."""
FIRST = (
    "id",
    "address",
    "latency",
    "link",
    "trust",
    "bytes",
    "since",
    "client",
    "sent",
    "received",
    "messages",
    "priority",
)
"""Which there is room for first."""
GAP = "  "

ORDERS: dict[str, Callable[[PeerView], object]] = {
    "latency": lambda peer: (peer.latency_ms is None, peer.latency_ms),
    "trust": lambda peer: -peer.trust,
    "since": lambda peer: peer.since,
    "bytes": lambda peer: -(peer.bytes_sent + peer.bytes_received),
}


def _columns(sort: str, width: int) -> list[Column]:
    named = {column.name: column for column in COLUMNS}
    wanted: list[str] = []
    left = width + len(GAP)
    for name in ("id", sort, *FIRST):
        if name not in wanted and named[name].width + len(GAP) <= left:
            wanted.append(name)
            left -= named[name].width + len(GAP)
    return [column for column in COLUMNS if column.name in wanted]


def _peer_table(state: State, width: int, rows: int, glyphs: Glyphs) -> list[Line]:
    """The heads, and those peers that there is room for."""
    columns = _columns(state.sort, width)
    heads = [column.name + (glyphs.sorted_by if column.sort == state.sort else "") for column in columns]
    head = GAP.join(
        cell(name, column.width, right=column.right, glyphs=glyphs) for name, column in zip(heads, columns, strict=True)
    )
    peers = sorted(state.shown.view.peers, key=lambda peer: (ORDERS[state.sort](peer), peer.id))
    first = _first_shown(state, rows)
    shown = [_peer_line(peer, columns, glyphs) for peer in peers[first : first + rows]]
    if not peers and rows:
        shown = [[Span("no peers yet", "quiet")]]
    return [[Span(head.rstrip(), "head")], *shown]


def _first_shown(state: State, rows: int) -> int:
    return min(state.offset, max(0, len(state.shown.view.peers) - rows))


def _peer_line(peer: PeerView, columns: Sequence[Column], glyphs: Glyphs) -> Line:
    line: Line = []
    for column in columns:
        text = cell(column.text(peer) or "-", column.width, right=column.right, glyphs=glyphs)
        line += [Span(GAP)] if line else []
        line.append(Span(text, _peer_style(peer, column.name)))
    return line


def _peer_style(peer: PeerView, name: str) -> str:
    slow = name == "latency" and peer.latency_ms is not None and peer.latency_ms >= SLOW_MS
    return "attention" if slow else ""


def _link(peer: PeerView) -> str:
    return f"{peer.direction.removesuffix('bound')} {'relay' if peer.path == 'relay' else peer.transport}"


def age(seconds: float) -> str:
    """The two largest units, in six columns: `5m12s`, `3h04m`, `12d07h`."""
    left = int(seconds)
    for unit, length, smaller, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "m", 60), ("m", 60, "s", 1)):
        if left >= length:
            count, rest = divmod(left, length)
            return f"{count}{unit}{rest // part:02}{smaller}" if count < 100 else f"{count}{unit}"
    return f"{left}s"


# -- events ------------------------------------------------------------------------------------------------------------


def _event_lines(events: Sequence[EventView], count: int, width: int, glyphs: Glyphs) -> list[Line]:
    """The last, newest first."""
    return [fit(_event_line(event), width, glyphs) for event in reversed(events[-count:])]


def _event_line(event: EventView) -> Line:
    values = ((name, value) for name, value in event.data.items() if name not in UNTOLD and value not in (None, ""))
    told = "  ".join(_event_value(name, value) for name, value in values)
    return [
        Span(f"{event.ts[11:19]}  ", "quiet"),
        Span(f"{one_line(event.type.replace('_', ' ')):18}", EVENT_STYLES.get(event.type, "")),
        Span(f" {told}", "quiet"),
    ]


def _event_value(name: str, value: object) -> str:
    """A word speaks for itself; a figure needs its name."""
    text = one_line(value if isinstance(value, str) else f"{name.replace('_', ' ')} {value}")
    if len(text) == ID_SIZE and text.isalnum():
        return text[:SHORT_ID]
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..."
