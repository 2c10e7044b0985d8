"""One look at a running node: what `kodectl node top` shows, and prints as documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from kodectl.node.views import (
    EventsView,
    EventView,
    PeersView,
    PeerView,
    StatsView,
    StatusView,
    TableView,
)

if TYPE_CHECKING:
    from kodectl.cli.client import NodeClient

TOPICS = "node,peer,nat,joined,isolated,bootstrap_failed"
"""What an operator reads. Not the rest of the DHT's, where nodes come and go all the time, and no messages, whose payloads
may have megabytes."""
MAX_PAGES = 4
"""Of events in one look; the next look goes on there. The first reads what has been kept since the node began."""
MAX_EVENTS = 50
"""In one document; the last of them."""

Level = Literal["well", "attention", "trouble"]


class VerdictView(msgspec.Struct, frozen=True):
    """How the node does, in one sentence. `hint`: the command that tells more."""

    level: Level
    text: str
    hint: str | None = None


class RatesView(msgspec.Struct, frozen=True):
    """Since the look before; null in the first."""

    bytes_sent_per_second: float | None = None
    bytes_received_per_second: float | None = None
    messages_sent_per_second: float | None = None
    messages_received_per_second: float | None = None


class BucketSizeView(msgspec.Struct, frozen=True):
    index: int
    size: int
    replacements: int


class TopView(msgspec.Struct, frozen=True):
    """One look at a node. `events`: those since the look before, without the messages; in the first the last that are kept."""

    verdict: VerdictView
    status: StatusView
    rates: RatesView
    average_latency_ms: float | None
    peers: list[PeerView]
    buckets: list[BucketSizeView]
    events: list[EventView]


class Sample(NamedTuple):
    """Counters at a time of the node's own clock."""

    at_s: float
    bytes_sent: int
    bytes_received: int
    messages_sent: int
    messages_received: int
    latency_ms: float | None


class Looker:
    """Looks at one node again and again. Raises what the client raises."""

    def __init__(self, client: NodeClient) -> None:
        self._client = client
        self._seq = 0
        self._run: str | None = None
        self._before: Sample | None = None

    def look(self) -> tuple[TopView, Sample]:
        get = self._client.get
        status = get("/api/network/status", StatusView)
        stats = get("/api/network/stats", StatsView)
        peers = get("/api/network/peers", PeersView).peers
        table = get("/api/network/routing", TableView)
        sample = sample_of(stats)
        view = TopView(
            verdict=verdict_of(status),
            status=status,
            rates=rates_between(self._before, sample),
            average_latency_ms=stats.average_latency_ms,
            peers=peers,
            buckets=[BucketSizeView(bucket.index, bucket.size, bucket.replacements) for bucket in table.buckets],
            events=self._new_events(),
        )
        self._before = sample
        return view, sample

    def _new_events(self) -> list[EventView]:
        events: list[EventView] = []
        for _ in range(MAX_PAGES):
            query = {"since": self._seq, "run": self._run, "topics": TOPICS}
            page = self._client.get("/api/events", EventsView, query)
            self._seq, self._run = page.next, page.run
            events = [*events, *page.events][-MAX_EVENTS:]
            if not page.events:
                break
        return events


def sample_of(stats: StatsView) -> Sample:
    return Sample(
        stats.uptime_s,
        stats.bytes_sent,
        stats.bytes_received,
        stats.messages_sent,
        stats.messages_received,
        stats.average_latency_ms,
    )


def rates_between(before: Sample | None, after: Sample) -> RatesView:
    """Unknown where the node has been started anew between."""
    if before is None or after.at_s <= before.at_s:
        return RatesView()
    passed_s = after.at_s - before.at_s
    return RatesView(
        *(round((new - old) / passed_s, 1) for old, new in zip(before[1:5], after[1:5], strict=True)),
    )


REACH = {
    "direct": "strangers reach it",
    "hole_punching": "reached through punched holes",
    "turn_relay": "reached through relays only",
    "unknown": "not known yet whether strangers reach it",
}


def verdict_of(status: StatusView) -> VerdictView:
    if status.state != "ready":
        return VerdictView("attention", "the node is starting" if status.state == "starting" else "the node is leaving")
    if not status.peers:
        return VerdictView("trouble", "no peers", "kodectl doctor")
    if status.warnings:
        return VerdictView("attention", status.warnings[0], "kodectl doctor")
    reach = REACH[status.nat.state]
    peers = f"{status.peers} peer{'s' if status.peers > 1 else ''}"
    if status.nat.state == "turn_relay":
        return VerdictView("attention", f"{peers}; {reach}", "kodectl doctor")
    return VerdictView("well", f"{peers}, {reach}")
