"""Facts of `kodectl node top` in words: where the node listens, what its NAT does, and what has happened last."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from kodectl.cli.node_top_look import TopView
from kodectl.cli.node_top_text import LABEL, SHORT_ID, Glyphs, Line, Span, fit, one_line
from kodectl.cli.wording import counted, milliseconds
from kodectl.node.views import EventView, NatView

ID_SIZE = 64
MAX_VALUE = 48
"""Characters of one value of an event."""
FEW_LINES = 2
"""Of one fact where there are few lines; the advice of the NAT needs that."""
MANY_LINES = 5
LEAST = 20
"""Columns to break lines in; where there are fewer, they are cut."""
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
UNITS = ("ms", "s")


def status_lines(view: TopView, width: int, *, tall: bool) -> list[Line]:
    """In few lines what the NAT does, and the advice; else each fact by its name."""
    nat = list(_nat_facts(view.status.nat))
    if tall:
        return _labelled([*_node_facts(view), *nat], width, MANY_LINES)
    words = "; ".join(text if name == "nat" else f"{name} {text}" for name, text in nat if name != "advice")
    return _labelled([("nat", words), *(fact for fact in nat if fact[0] == "advice")], width, FEW_LINES)


def _labelled(facts: Sequence[tuple[str, str]], width: int, most: int) -> list[Line]:
    lines: list[Line] = []
    for name, text in facts:
        label = name
        for part in textwrap.wrap(one_line(text), max(LEAST, width - LABEL), max_lines=most, placeholder=" ..."):
            lines.append([Span(label.ljust(LABEL), "label"), Span(part)])
            label = ""
    return lines


def _node_facts(view: TopView) -> Iterator[tuple[str, str]]:
    status = view.status
    listeners = status.listeners
    yield "node", f"{status.client}, {listeners.tcp} tcp, {listeners.udp} udp"
    yield "api", ", ".join(listeners.api)
    yield "dht", f"{status.dht_mode}, {status.records} records"
    if view.hub_delay_ms is not None:
        yield "late", f"{milliseconds(view.hub_delay_ms)} at worst at what it does"


def _nat_facts(nat: NatView) -> Iterator[tuple[str, str]]:
    kind = f" ({nat.nat_type.replace('_', ' ')})" if nat.nat_type else ""
    yield "nat", nat.state.replace("_", " ") + kind
    if nat.observed_address:
        yield "seen as", nat.observed_address + (f", UDP port {nat.observed_port}" if nat.observed_port else "")
    mapping = nat.port_mapping
    if mapping.method:
        yield "ports", f"{mapping.state} by {mapping.method}"
    elif mapping.error is not None:
        yield "ports", f"{mapping.state}: {mapping.error.message}"
    if nat.rendezvous:
        yield "through", f"{counted(len(nat.rendezvous), 'rendezvous node')}, {counted(nat.relays, 'relay')} at hand"
    if nat.advice:
        yield "advice", nat.advice


def event_lines(events: Sequence[EventView], count: int, width: int, glyphs: Glyphs) -> list[Line]:
    """The last, newest first."""
    return [fit(_event_line(event), width, glyphs) for event in reversed(events[-count:])]


def _event_line(event: EventView) -> Line:
    values = ((name, value) for name, value in event.data.items() if name not in UNTOLD and value not in (None, ""))
    told = "  ".join(_event_value(name, value) for name, value in values)
    return [
        Span(f"{event.ts[11:19]}  ", "quiet"),
        Span(f"{one_line(event.type.replace('_', ' ')):20}", EVENT_STYLES.get(event.type, "")),
        Span(told, "quiet"),
    ]


def _event_value(name: str, value: object) -> str:
    """A word speaks for itself; a figure needs its name."""
    text = one_line(value if isinstance(value, str) else _named(name, value))
    if len(text) == ID_SIZE and text.isalnum():
        return text[:SHORT_ID]
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..."


def _named(name: str, value: object) -> str:
    words, _, unit = name.rpartition("_")
    if isinstance(value, bool):
        return f"{name.replace('_', ' ')} {'yes' if value else 'no'}"
    if words and unit in UNITS:
        return f"{words.replace('_', ' ')} {value} {unit}"
    return f"{name.replace('_', ' ')} {value}"
