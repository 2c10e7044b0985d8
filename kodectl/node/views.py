"""What a node tells about itself: the values behind the API and the command line.

Field names, units and nullability are the contract of the API: durations are floats in `_ms` or `_s`, ids are whole,
unknown is null.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Direction = Literal["inbound", "outbound"]
Priority = Literal["high", "medium", "low"]


class CandidatePairView(msgspec.Struct, frozen=True):
    """Types are those of ICE: host, srflx, prflx, relay."""

    local: str
    local_type: str
    remote: str
    remote_type: str


class PeerView(msgspec.Struct, frozen=True):
    """`pair` is null on links over TCP."""

    id: str
    enode: str
    client: str
    direction: Direction
    path: Literal["direct", "relay"]
    transport: Literal["tcp", "quic"]
    addr: str
    ip: str
    port: int
    since: str
    connected_s: float
    latency_ms: float | None
    bytes_sent: int
    bytes_received: int
    messages_sent: int
    messages_received: int
    trust: float
    priority: Priority
    static: bool
    pair: CandidatePairView | None = None


class PeersView(msgspec.Struct, frozen=True):
    peers: list[PeerView]
    count: int


class StatsView(msgspec.Struct, frozen=True):
    total_peers: int
    inbound: int
    outbound: int
    bytes_sent: int
    bytes_received: int
    messages_per_second: float
    average_latency_ms: float | None
    uptime_s: float
    messages_sent: int
    messages_received: int
    discovery: dict[str, int]
    broadcast: dict[str, int]
    values: dict[str, int]
    dials: dict[str, int]
    disconnects: dict[str, int]
    hub_delay_p99_ms: float | None = None
    """By how much the node is late at what it does, in 99 of 100 looks of the last minute at most."""


class LatencyEntry(msgspec.Struct, frozen=True):
    id: str
    addr: str
    last_ms: float | None
    average_ms: float | None
    min_ms: float | None
    max_ms: float | None
    loss: float | None
    samples: int


class LatencyView(msgspec.Struct, frozen=True):
    peers: list[LatencyEntry]
    average_latency_ms: float | None


class BootstrapEntry(msgspec.Struct, frozen=True):
    enode: str
    state: Literal["unknown", "resolving", "answered", "silent", "not_resolved", "wrong_identity", "clock_skew"]
    last_error: str | None
    rtt_ms: float | None


class BootstrapView(msgspec.Struct, frozen=True):
    bootstrap: list[BootstrapEntry]


class RediscoverView(msgspec.Struct, frozen=True):
    started: bool
    bootstrap_nodes: int
    known_nodes: int


class ConnectView(msgspec.Struct, frozen=True):
    """`outcome`: connected | already_connected | refused | timeout | too_many_peers | identity_mismatch | self |
    recently_dialed | banned | no_route. `stage`: how far it got when it failed: resolve | locate | signal | tcp | path |
    quic | handshake | admission; null where nothing was tried."""

    outcome: str
    id: str | None
    peer: PeerView | None
    detail: str | None
    stage: str | None = None


class DisconnectView(msgspec.Struct, frozen=True):
    id: str
    disconnected: bool


class BanView(msgspec.Struct, frozen=True):
    id: str
    banned: bool
    until: str | None


class BucketView(msgspec.Struct, frozen=True):
    index: int
    size: int
    replacements: int
    last_update_s: float | None
    nodes: list[str]


class TableView(msgspec.Struct, frozen=True):
    id: str
    size: int
    buckets: list[BucketView]


class ListenerView(msgspec.Struct, frozen=True):
    tcp: str
    udp: str
    api: list[str]


class MappingErrorView(msgspec.Struct, frozen=True):
    code: str
    message: str
    hint: str | None


class PortMappingView(msgspec.Struct, frozen=True):
    """What the router does for the node. `tcp` and `udp`: the outer addresses ("ip:port") of mappings that were read back."""

    state: Literal["off", "searching", "mapped", "degraded", "refused", "no_gateway"]
    method: Literal["pcp", "natpmp", "upnp"] | None
    gateway: str | None
    gateway_name: str | None
    external_ip: str | None
    tcp: str | None
    udp: str | None
    expires_s: float | None
    error: MappingErrorView | None
    double_nat: bool | None


class RelayView(msgspec.Struct, frozen=True):
    """What this node relays for others. `unreachable`: it would, and strangers do not get through to it."""

    state: Literal["on", "off", "unreachable"]
    address: str | None
    allocations: int
    max_allocations: int
    relayed_bytes: int
    relayed_packets: int
    granted: int
    refused: int


class NatView(msgspec.Struct, frozen=True):
    """How the node is seen from outside, as far as it is known; null is unknown.

    `state`: what others can do to reach it. `observed_address` and `observed_port` (of UDP) are what most observers name;
    `external` are the addresses that the node tells others. `observers`: networks that have spoken."""

    state: Literal["unknown", "direct", "hole_punching", "turn_relay"]
    nat_type: str | None
    """open | full_cone | restricted | port_restricted | symmetric | firewalled | blocked"""
    mapping: str | None
    """RFC 4787, section 4.1: endpoint_independent | address_dependent | address_and_port_dependent"""
    filtering: str | None
    """RFC 4787, section 5: the same words."""
    translated: bool | None
    observed_address: str | None
    observed_port: int | None
    observers: int
    reachable_udp: bool | None
    reachable_tcp: bool | None
    external_udp: str | None
    external_tcp: str | None
    cgnat: bool | None
    """The router's outer address, or this machine's, is in 100.64.0.0/10 (RFC 6598)."""
    double_nat: bool | None
    """The router's outer address is not the one that observers name."""
    port_mapping: PortMappingView
    checked_s: float | None
    """Since the last conclusion."""
    advice: str | None
    observed_tcp: str | None = None
    """Where others see the TCP port that it listens on; known where it is needed."""
    rendezvous: list[str] | None = None
    """Node ids through which it can be told that somebody wants to connect; null where it needs none."""
    relays: int = 0
    """Of peers, with credentials at hand."""
    relay: RelayView | None = None
    """What it does for others."""


NO_MAPPING = PortMappingView("off", None, None, None, None, None, None, None, None, None)
UNKNOWN_NAT = NatView(
    state="unknown",
    nat_type=None,
    mapping=None,
    filtering=None,
    translated=None,
    observed_address=None,
    observed_port=None,
    observers=0,
    reachable_udp=None,
    reachable_tcp=None,
    external_udp=None,
    external_tcp=None,
    cgnat=None,
    double_nat=None,
    port_mapping=NO_MAPPING,
    checked_s=None,
    advice=None,
)
"""Before anybody has been asked."""


class CheckView(msgspec.Struct, frozen=True):
    name: str
    ok: bool
    detail: str


class HealthView(msgspec.Struct, frozen=True):
    probe: Literal["live", "ready", "startup"]
    ok: bool
    checks: list[CheckView]


class StatusView(msgspec.Struct, frozen=True):
    id: str
    enode: str
    client: str
    network: str
    state: Literal["starting", "ready", "stopping"]
    pid: int
    started: str
    uptime_s: float
    listeners: ListenerView
    peers: int
    max_peers: int
    inbound: int
    outbound: int
    table_size: int
    records: int
    dht_mode: Literal["server", "client"]
    lan: bool
    nat: NatView
    warnings: list[str]
    clock_ahead_s: float | None = None
    """By how much this machine's clock is ahead of other nodes' (negative: behind), within a round trip."""
    clock_voices: int = 0
    """Networks that have said what time it is."""


class BroadcastView(msgspec.Struct, frozen=True):
    id: str
    type: Literal["block", "transaction"]
    mode: Literal["flood", "gossip"]
    sent_to: int


class RecordView(msgspec.Struct, frozen=True):
    publisher: str
    sequence: int
    expires: str
    value: str
    """base64"""


class ValueView(msgspec.Struct, frozen=True):
    key: str
    records: list[RecordView]


class PutView(msgspec.Struct, frozen=True):
    key: str
    sequence: int
    stored: int
    asked: int


class HopView(msgspec.Struct, frozen=True):
    """One question of a lookup: whom, at which distance (bits: 256 - shared leading bits), and what came back."""

    round: int
    id: str
    addr: str
    distance_bits: int
    outcome: Literal["answered", "timeout", "error"]
    rtt_ms: float | None
    contacts: int
    new_contacts: int


class ContactView(msgspec.Struct, frozen=True):
    id: str
    enode: str
    distance_bits: int


class LookupView(msgspec.Struct, frozen=True):
    target: str
    found: bool
    closest: list[ContactView]
    messages: int
    rounds: int
    elapsed_ms: float
    trace: list[HopView]


class EventView(msgspec.Struct, frozen=True, gc=False):
    """`topic` as in node.topics. Bytes in `data` are base64 in JSON."""

    seq: int
    ts: str
    type: str
    topic: str
    data: dict[str, object]


class EventsView(msgspec.Struct, frozen=True):
    """`missed`: how many events of the asked types before `next` are gone already, at most; None when it is not known, since
    the number that was asked for is of another `run`."""

    events: list[EventView]
    next: int
    missed: int | None
    run: str
