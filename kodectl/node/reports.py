"""What a node tells about itself: values for the API and the command line, out of the node's parts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from kodectl.errors import LocalMisuse
from kodectl.node.events import rfc3339
from kodectl.node.views import (
    BucketView,
    CheckView,
    HealthView,
    ListenerView,
    PeersView,
    StatsView,
    StatusView,
    TableView,
)

if TYPE_CHECKING:
    from kodectl.node.node import Node

PEER_SORTS = {
    "latency": lambda peer: (peer.latency_ms is None, peer.latency_ms),
    "trust": lambda peer: -peer.trust,
    "since": lambda peer: peer.since,
    "bytes": lambda peer: -(peer.bytes_sent + peer.bytes_received),
}


def status(node: Node) -> StatusView:
    connected = node.peering.peers()
    inbound = sum(peer.direction == "inbound" for peer in connected)
    clock = node.kademlia.clocks.belief(node.runtime.now(), node.runtime.unix_time())
    return StatusView(
        id=node.identity.node_id.hex(),
        enode=node.enode,
        client=node.client,
        network=node.settings.network,
        state=node.state,
        pid=os.getpid(),
        started=rfc3339(node.started_unix),
        uptime_s=round(node.runtime.now() - node.started, 3),
        listeners=_listeners(node),
        peers=len(connected),
        max_peers=node.settings.max_peers,
        inbound=inbound,
        outbound=len(connected) - inbound,
        table_size=len(node.kademlia.table),
        records=len(node.values.store),
        dht_mode="server" if node.nat_traversal.is_server else "client",
        lan=node.settings.lan,
        nat=node.nat(),
        warnings=list(node.warnings.values()),
        clock_ahead_s=None if clock.ahead_s is None else round(clock.ahead_s, 3),
        clock_voices=clock.voices,
    )


def _listeners(node: Node) -> ListenerView:
    host = node.settings.listen_host
    shown = f"[{host}]" if ":" in host else host
    return ListenerView(f"{shown}:{node.tcp_port}", f"{shown}:{node.udp_port}", node.api_addresses)


def peers(node: Node, sort: str | None, direction: str | None) -> PeersView:
    if sort is not None and sort not in PEER_SORTS:
        raise LocalMisuse(f"sort by one of: {', '.join(PEER_SORTS)}", code="bad_sort")
    if direction not in (None, "inbound", "outbound"):
        raise LocalMisuse("direction is inbound or outbound", code="bad_direction")
    chosen = [peer for peer in node.peering.peers() if direction in (None, peer.direction)]
    if sort is not None:
        chosen.sort(key=PEER_SORTS[sort])
    return PeersView(chosen, len(chosen))


def stats(node: Node) -> StatsView:
    connected = node.peering.peers()
    inbound = sum(peer.direction == "inbound" for peer in connected)
    totals = node.peering.totals()
    delay_s = node.hub_delay.p99()
    return StatsView(
        total_peers=len(connected),
        inbound=inbound,
        outbound=len(connected) - inbound,
        bytes_sent=totals["bytes_sent"],
        bytes_received=totals["bytes_received"],
        messages_per_second=round(node.peering.messages_per_second(), 3),
        average_latency_ms=node.peering.latency().average_latency_ms,
        uptime_s=round(node.runtime.now() - node.started, 3),
        messages_sent=totals["messages_sent"],
        messages_received=totals["messages_received"],
        discovery=_discovery_counters(node),
        broadcast=node.broadcasting.counters(),
        values={"records": len(node.values.store)},
        dials=dict(node.peering.dials),
        disconnects=dict(node.peering.disconnects),
        hub_delay_p99_ms=None if delay_s is None else round(delay_s * 1000, 3),
    )


def _discovery_counters(node: Node) -> dict[str, int]:
    sessions = node.discovery.sessions
    return {
        "sessions": len(sessions),
        "handshakes": sessions.handshakes,
        "table_size": len(node.kademlia.table),
        "dropped": sum(sessions.dropped.values()),
        **node.discovery.counters,
    }


def table(node: Node) -> TableView:
    now = node.runtime.now()
    buckets = [
        BucketView(
            state.number,
            state.size,
            state.replacements,
            None if state.updated is None else round(now - state.updated, 3),
            [node_id.hex() for node_id in state.nodes],
        )
        for state in node.kademlia.table.states()
    ]
    return TableView(node.identity.node_id.hex(), len(node.kademlia.table), buckets)


def health(node: Node, probe: Literal["live", "ready", "startup"]) -> HealthView:
    checks = [CheckView("tasks", not node.scope.closed, "stopped" if node.scope.closed else "running")]
    if probe != "live":
        checks.append(CheckView("listening", node.state == "ready", node.state))
    if probe == "ready":
        trouble = node.warnings.get("store") or node.peering.disk_trouble
        checks.append(CheckView("store", trouble is None, trouble or "writable"))
    return HealthView(probe, all(check.ok for check in checks), checks)
