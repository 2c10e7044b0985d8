"""What a crawl tells: the lines of its output and of its state file, and the summary."""

from __future__ import annotations

from typing import Literal

import msgspec

Ended = Literal["complete", "deadline", "max_nodes", "too_many_silent", "interrupted"]


class BegunLine(msgspec.Struct, frozen=True, tag_field="event", tag="crawl"):
    """The first line of a state file."""

    version: int
    id: str
    """Of the crawl, at random."""
    network: str
    started: str


class SeenLine(msgspec.Struct, frozen=True, tag_field="event", tag="seen"):
    """A node was named for the first time, or at another address. `by`: the id of who named it; null for a bootstrap
    node."""

    id: str
    ip: str
    udp: int
    tcp: int
    by: str | None


class SilentLine(msgspec.Struct, frozen=True, tag_field="event", tag="silent"):
    """A node was not found at an address."""

    id: str
    ip: str
    udp: int
    reason: str


class CrawledNode(msgspec.Struct, frozen=True, tag_field="event", tag="node"):
    """The verdict on one node. `reachable`: it has proved its identity at `addr`, over UDP; else `reason` says what happened
    where most say that it is: timeout | identity_mismatch | refused | ... .

    `sources`: nodes that had named it by then. `told`: how many others its table named, and `drawn` whether that was all of
    it; null and false where nothing was told. `client` and `network` come from a handshake over TCP, and `handshake` is ok,
    or why there was none; null when it was not asked for. `elsewhere`: other addresses at which it was said to be."""

    id: str
    enode: str
    addr: str
    ip: str
    port: int
    reachable: bool
    reason: str | None
    rtt_ms: float | None
    sources: int
    told: int | None
    drawn: bool
    client: str | None
    network: str | None
    handshake: str | None
    elsewhere: list[str]


class ClientCount(msgspec.Struct, frozen=True):
    client: str
    nodes: int


class NetworkCount(msgspec.Struct, frozen=True):
    """A /24 or, for IPv6, a /64."""

    network: str
    nodes: int


class CrawlView(msgspec.Struct, frozen=True, tag_field="event", tag="summary"):
    """The summary, over all runs of the crawl but for `questions` and `elapsed_s`, which are this run's.

    Only nodes that proved their identity count as `reachable`, and only those are counted by client and by network;
    `clients_unknown` are those without a handshake. `found`: reachable or not. `unreachable` were asked where they were said
    to be, `by_reason`; `unasked` were named only, mostly by liars, and not asked, `unasked_by_reason`; `waiting` would have
    been asked if the crawl had not ended before, and `unfinished` have answered, and were not told of, since there was more
    to ask them. `conflicts`: nodes that were named at more than one address."""

    ended: Ended
    found: int
    reachable: int
    unreachable: int
    unasked: int
    waiting: int
    unfinished: int
    conflicts: int
    questions: int
    elapsed_s: float
    remembered: int
    """Nodes that earlier runs had found."""
    clients_unknown: int
    by_client: list[ClientCount]
    by_network: list[NetworkCount]
    by_reason: dict[str, int]
    unasked_by_reason: dict[str, int]
    bootstrap_troubles: list[str]
    """Bootstrap nodes that did not answer, and why."""


StateLine = BegunLine | SeenLine | SilentLine | CrawledNode
