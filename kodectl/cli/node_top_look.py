"""One look at a running node: what `kodectl node top` shows, and prints as documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from kodectl.cli.wording import counted
from kodectl.node.history_views import HistoryView, SampleView
from kodectl.node.views import (
    EventsView,
    EventView,
    PeersView,
    PeerView,
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
    """How the node does, in one sentence; the status has its warnings. `hint`: the command that tells more."""

    level: Level
    text: str
    hint: str | None = None


class RatesView(msgspec.Struct, frozen=True):
    """Between the node's last two samples, two seconds apart; null while there is only one."""

    bytes_sent_per_second: float | None = None
    bytes_received_per_second: float | None = None
    messages_sent_per_second: float | None = None
    messages_received_per_second: float | None = None


class BucketSizeView(msgspec.Struct, frozen=True):
    index: int
    size: int
    replacements: int


class TopView(msgspec.Struct, frozen=True):
    """One look at a node. `events`: those since the look before, without the messages; in the first the last that are kept.
    `hub_delay_ms`: by how much the node was late at what it does, at worst; null where it is not measured."""

    verdict: VerdictView
    status: StatusView
    rates: RatesView
    average_latency_ms: float | None
    hub_delay_ms: float | None
    peers: list[PeerView]
    buckets: list[BucketSizeView]
    events: list[EventView]


class Look(NamedTuple):
    """`samples`: the history's since the look before; in the first all that the node keeps."""

    view: TopView
    samples: Sequence[SampleView]


class Looker:
    """Looks at one node again and again. Raises what the client raises. `sort`: the order of the peers in documents."""

    def __init__(self, client: NodeClient, sort: str | None = None) -> None:
        self._client = client
        self._sort = sort
        self._seq = 0
        self._events_run: str | None = None
        self._samples_run: str | None = None
        self._latest: tuple[SampleView, ...] = ()
        """The last two samples."""

    def look(self) -> Look:
        get = self._client.get
        status = get("/api/network/status", StatusView)
        peers = get("/api/network/peers", PeersView, {"sort": self._sort}).peers
        table = get("/api/network/routing", TableView)
        samples = self._new_samples()
        view = TopView(
            verdict=verdict_of(status),
            status=status,
            rates=rates_of(self._latest),
            average_latency_ms=self._latest[-1].latency_ms if self._latest else None,
            hub_delay_ms=self._latest[-1].hub_delay_ms if self._latest else None,
            peers=peers,
            buckets=[BucketSizeView(bucket.index, bucket.size, bucket.replacements) for bucket in table.buckets],
            events=self._new_events(),
        )
        return Look(view, samples)

    def _new_samples(self) -> list[SampleView]:
        history = self._history(self._latest[-1].at_s if self._latest else 0.0)
        if history.run != self._samples_run and self._latest:
            # Started anew: what is later than the last sample of the run before is not all.
            self._latest = ()
            history = self._history(0.0)
        self._samples_run = history.run
        self._latest = (*self._latest, *history.samples)[-2:]
        return history.samples

    def _history(self, since_s: float) -> HistoryView:
        return self._client.get("/api/network/history", HistoryView, {"since": since_s})

    def _new_events(self) -> list[EventView]:
        events: list[EventView] = []
        for _ in range(MAX_PAGES):
            query = {"since": self._seq, "run": self._events_run, "topics": TOPICS}
            page = self._client.get("/api/events", EventsView, query)
            self._seq, self._events_run = page.next, page.run
            events = [*events, *page.events][-MAX_EVENTS:]
            if not page.events:
                break
        return events


def rates_of(samples: Sequence[SampleView]) -> RatesView:
    """Between the last two."""
    if len(samples) < 2:
        return RatesView()
    before, after = samples[-2:]
    passed_s = after.at_s - before.at_s

    def rate(new: int, old: int) -> float:
        return round((new - old) / passed_s, 1)

    return RatesView(
        rate(after.bytes_sent, before.bytes_sent),
        rate(after.bytes_received, before.bytes_received),
        rate(after.messages_sent, before.messages_sent),
        rate(after.messages_received, before.messages_received),
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
    text = f"{counted(status.peers, 'peer')}, {REACH[status.nat.state]}"
    if status.warnings or status.nat.state == "turn_relay":
        return VerdictView("attention", text, "kodectl doctor")
    return VerdictView("well", text)
