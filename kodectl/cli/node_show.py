"""`kodectl node`: the commands that show what a running node knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from kodectl.cli.command import command, examples
from kodectl.cli.node_target import on_node
from kodectl.cli.output import Outcome, Output, pairs, table
from kodectl.cli.wording import counted, duration, milliseconds, short_id, size

if TYPE_CHECKING:
    from kodectl.cli.client import NodeClient
    from kodectl.node.views import CandidatePairView, NatView, PeerView, StatsView, StatusView


@command("status", epilog=examples("kodectl node status", "kodectl node status --api 127.0.0.1:8545 --json"))
@on_node()
def status(output: Output, client: NodeClient) -> Outcome:
    """Show who the node is, where it listens, and how it is doing."""
    from kodectl.node.views import StatusView

    view = client.get("/api/network/status", StatusView)
    return Outcome(view, _status_text(view))


def _status_text(view: StatusView) -> str:
    listeners = view.listeners
    entries: list[tuple[str, object]] = [
        ("state", f"{view.state}, up {duration(view.uptime_s)}, process {view.pid}"),
        ("id", view.id),
        ("enode", view.enode),
        ("client", view.client),
        ("network", view.network),
        ("peers", f"{view.peers} of at most {view.max_peers}: {view.inbound} inbound, {view.outbound} outbound"),
        ("table", f"{counted(view.table_size, 'node')}, {counted(view.records, 'record')}, as {view.dht_mode}"),
        ("listens", f"{listeners.tcp} tcp, {listeners.udp} udp"),
        *(("api", address) for address in listeners.api),
        ("lan", "on" if view.lan else "off"),
        *_nat_text(view.nat),
        *(("warning", warning) for warning in view.warnings),
    ]
    return pairs(entries)


def _nat_text(nat: NatView) -> Iterator[tuple[str, object]]:
    what = f" ({nat.nat_type.replace('_', ' ')})" if nat.nat_type else ""
    yield "nat", nat.state.replace("_", " ") + what
    if nat.observed_address:
        port = f", UDP port {nat.observed_port}" if nat.observed_port else ""
        yield "seen as", f"{nat.observed_address}{port}, by {counted(nat.observers, 'network')}"
    for name, reachable, address in (
        ("udp", nat.reachable_udp, nat.external_udp),
        ("tcp", nat.reachable_tcp, nat.external_tcp),
    ):
        if reachable is not None:
            yield name, f"strangers reach {address}" if reachable else "strangers do not get through"
    mapping = nat.port_mapping
    if mapping.method:
        yield "mapping", f"{mapping.state} by {mapping.method} at {mapping.gateway_name or mapping.gateway}"
    elif mapping.error is not None:
        yield "mapping", f"{mapping.state}: {mapping.error.message}"
    if nat.rendezvous:
        yield (
            "told through",
            f"{counted(len(nat.rendezvous), 'rendezvous node')}; {counted(nat.relays, 'relay')} at hand",
        )
    if nat.relay is not None and nat.relay.state == "on":
        relay = nat.relay
        yield (
            "relays",
            f"for {relay.allocations} of at most {relay.max_allocations}, {size(relay.relayed_bytes)} so far",
        )
    if nat.advice:
        yield "advice", nat.advice


@command(
    "peers",
    epilog=examples(
        "kodectl node peers --sort latency",
        "kodectl node peers --wide",
        "kodectl node peers --direction inbound --jsonl",
    ),
)
@click.option("--sort", type=click.Choice(["latency", "trust", "since", "bytes"]), help="Order of the peers.")
@click.option("--direction", type=click.Choice(["inbound", "outbound"]), help="Only these.")
@click.option(
    "--wide", is_flag=True, help="More columns: what was sent and received, the client, the candidate pair in use."
)
@on_node()
def peers(output: Output, client: NodeClient, sort: str | None, direction: str | None, wide: bool) -> Outcome:
    """List the connected peers."""
    from kodectl.node.views import PeersView

    view = client.get("/api/network/peers", PeersView, {"sort": sort, "direction": direction})
    columns = _PEER_COLUMNS | _MORE_PEER_COLUMNS if wide else _PEER_COLUMNS
    rows = ([show(peer) for show in columns.values()] for peer in view.peers)
    return Outcome(view, table(list(columns), rows) if view.peers else "no peers", rows=view.peers)


_PEER_COLUMNS: dict[str, Callable[[PeerView], object]] = {
    "id": lambda peer: short_id(peer.id),
    "address": lambda peer: peer.addr,
    "way": lambda peer: peer.direction.removesuffix("bound"),
    "over": lambda peer: "relay" if peer.path == "relay" else peer.transport,
    "latency": lambda peer: milliseconds(peer.latency_ms),
    "trust": lambda peer: f"{peer.trust:.2f}",
    "connected": lambda peer: duration(peer.connected_s),
}
"""They fit a terminal of 80 columns."""
_MORE_PEER_COLUMNS: dict[str, Callable[[PeerView], object]] = {
    "priority": lambda peer: peer.priority,
    "sent": lambda peer: size(peer.bytes_sent),
    "received": lambda peer: size(peer.bytes_received),
    "static": lambda peer: peer.static,
    "client": lambda peer: peer.client,
    "candidate pair": lambda peer: pair_text(peer.pair) if peer.pair is not None else None,
}


def pair_text(pair: CandidatePairView) -> str:
    return f"{pair.local_type} {pair.local} to {pair.remote_type} {pair.remote}"


@command("stats", epilog=examples("kodectl node stats --json"))
@on_node()
def stats(output: Output, client: NodeClient) -> Outcome:
    """Show the node's counters."""
    from kodectl.node.views import StatsView

    view = client.get("/api/network/stats", StatsView)
    return Outcome(view, _stats_text(view))


def _stats_text(view: StatsView) -> str:
    entries: list[tuple[str, object]] = [
        ("peers", f"{view.total_peers}: {view.inbound} inbound, {view.outbound} outbound"),
        ("sent", f"{size(view.bytes_sent)} in {view.messages_sent} messages"),
        ("received", f"{size(view.bytes_received)} in {view.messages_received} messages"),
        ("rate", f"{view.messages_per_second:.1f} messages a second"),
        ("latency", milliseconds(view.average_latency_ms)),
        ("late", f"{milliseconds(view.hub_delay_p99_ms)} (99 of 100 looks)"),
        ("up", duration(view.uptime_s)),
    ]
    for group in ("discovery", "broadcast", "values", "dials", "disconnects"):
        counters: dict[str, int] = getattr(view, group)
        entries += [(f"{group} {name}", count) for name, count in sorted(counters.items()) if count]
    return pairs(entries)


@command("latency", epilog=examples("kodectl node latency"))
@on_node()
def latency(output: Output, client: NodeClient) -> Outcome:
    """Show the round-trip times to the peers."""
    from kodectl.node.views import LatencyView

    view = client.get("/api/network/latency", LatencyView)
    rows = (
        (
            short_id(entry.id),
            entry.addr,
            *(
                None if figure is None else f"{figure:.1f}"
                for figure in (entry.last_ms, entry.average_ms, entry.min_ms, entry.max_ms)
            ),
            None if entry.loss is None else f"{entry.loss:.0%}",
            entry.samples,
        )
        for entry in view.peers
    )
    headers = ("id", "address", "last ms", "average", "min", "max", "loss", "pings")
    return Outcome(view, table(headers, rows) if view.peers else "no peers", rows=view.peers)


@command("bootstrap", epilog=examples("kodectl node bootstrap"))
@on_node()
def bootstrap(output: Output, client: NodeClient) -> Outcome:
    """Show the bootstrap nodes and whether they answer."""
    from kodectl.node.views import BootstrapView

    view = client.get("/api/network/bootstrap", BootstrapView)
    rows = (
        (node.enode.partition("@")[2].partition("?")[0], node.state, milliseconds(node.rtt_ms), node.last_error)
        for node in view.bootstrap
    )
    text = table(("node", "state", "rtt", "last error"), rows) if view.bootstrap else "no bootstrap nodes"
    return Outcome(view, text, rows=view.bootstrap)


@command("table", epilog=examples("kodectl node table"))
@click.option("--nodes", is_flag=True, help="Name the nodes of each bucket.")
@on_node()
def table_(output: Output, client: NodeClient, nodes: bool) -> Outcome:
    """Show the routing table, bucket by bucket."""
    from kodectl.node.views import TableView

    view = client.get("/api/network/routing", TableView)
    lines = [f"{counted(view.size, 'node')} around {view.id}"]
    filled = [bucket for bucket in view.buckets if bucket.size or bucket.replacements]
    if filled:
        rows = (
            (
                bucket.index,
                bucket.size,
                bucket.replacements,
                None if bucket.last_update_s is None else f"{duration(bucket.last_update_s)} ago",
            )
            for bucket in filled
        )
        lines.append(table(("bucket", "nodes", "replacements", "updated"), rows))
    if nodes:
        lines += [f"{bucket.index:2}  {node_id}" for bucket in filled for node_id in bucket.nodes]
    return Outcome(view, "\n".join(lines), rows=view.buckets)
