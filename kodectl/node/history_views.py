"""What is told about the last minutes: samples for plots over time."""

from __future__ import annotations

import msgspec


class SampleView(msgspec.Struct, frozen=True, gc=False):
    """The node at one time. Bytes and messages are counters of all links since the start: two samples make a rate."""

    at_s: float
    """Uptime of the node."""
    inbound: int
    outbound: int
    relayed: int
    """Peers on a path through a relay, of both directions; the others are direct."""
    bytes_sent: int
    bytes_received: int
    messages_sent: int
    messages_received: int
    latency_ms: float | None
    """Mean of the last round trip to each peer; null when none is known."""
    hub_delay_ms: float | None
    """By how much the node was late at what it does, at worst since the sample before; null where it is not measured."""


class HistoryView(msgspec.Struct, frozen=True):
    """`run` tells this run of the node from others, as in events: another one has counters that begin at zero."""

    run: str
    interval_s: float
    now_s: float
    """Uptime at the time of the answer."""
    samples: list[SampleView]
    """Oldest first."""
