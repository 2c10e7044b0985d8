"""The peers of `kodectl node top`: which columns there is room for, in which order the rows stand, and which are in view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from kodectl.cli.node_top_state import State
from kodectl.cli.node_top_text import SHORT_ID, Glyphs, Line, Span, cell
from kodectl.cli.wording import milliseconds, size
from kodectl.node.reports import PEER_SORTS
from kodectl.node.views import PeerView

SLOW_MS = 500.0
ADDRESS = 21
"""IPv4 and a port."""
LEAST_ADDRESS = 12
"""Most of IPv4 without the port."""
MAX_ADDRESS = 47
"""IPv6, its brackets, and a port."""


class Column(NamedTuple):
    """`sort`: by which order it is marked."""

    name: str
    width: int
    text: Callable[[PeerView], str | None]
    right: bool = False
    sort: str = ""


COLUMNS = (
    Column("id", SHORT_ID, lambda peer: peer.id[:SHORT_ID]),
    Column("address", ADDRESS, lambda peer: peer.addr),
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


def _columns(sort: str, width: int) -> list[Column]:
    """As many as there is room for; the address gets what is left, or makes do with less."""
    named = {column.name: column for column in COLUMNS}
    widths: dict[str, int] = {}
    left = width + len(GAP)
    for name in ("id", sort, *FIRST):
        wanted = named[name].width
        if name == "address":
            wanted = max(LEAST_ADDRESS, min(wanted, left - len(GAP)))
        if name not in widths and wanted + len(GAP) <= left:
            widths[name] = wanted
            left -= wanted + len(GAP)
    if "address" in widths:
        widths["address"] = min(widths["address"] + left, MAX_ADDRESS)
    return [column._replace(width=widths[column.name]) for column in COLUMNS if column.name in widths]


def peer_table(state: State, width: int, rows: int, glyphs: Glyphs) -> list[Line]:
    """The heads, and those peers that there is room for."""
    columns = _columns(state.sort, width)
    heads = [column.name + (glyphs.sorted_by if column.sort == state.sort else "") for column in columns]
    head = GAP.join(
        cell(name, column.width, right=column.right, glyphs=glyphs) for name, column in zip(heads, columns, strict=True)
    )
    peers = sorted(state.shown.view.peers, key=lambda peer: (PEER_SORTS[state.sort](peer), peer.id))
    first = first_shown(state, rows)
    shown = [_peer_line(peer, columns, glyphs) for peer in peers[first : first + rows]]
    if not peers and rows:
        shown = [[Span("no peers yet", "quiet")]]
    return [[Span(head.rstrip(), "head")], *shown]


def first_shown(state: State, rows: int) -> int:
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
