"""`kodectl node`: the commands that show what a running node knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kodectl.cli.command import command, examples
from kodectl.cli.node_target import on_node
from kodectl.cli.output import Outcome, Output, pairs, table
from kodectl.cli.wording import duration, milliseconds, short_id, size

if TYPE_CHECKING:
    from kodectl.cli.client import NodeClient
    from kodectl.node.views import PeerView, StatsView, StatusView


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
        ("table", f"{view.table_size} nodes, {view.records} records, as {view.dht_mode}"),
        ("listens", f"{listeners.tcp} tcp, {listeners.udp} udp"),
        *(("api", address) for address in listeners.api),
        ("lan", "on" if view.lan else "off"),
        ("nat", f"{view.nat.state}, seen as {view.nat.observed_address or 'nothing yet'}"),
        *(("warning", warning) for warning in view.warnings),
    ]
    return pairs(entries)


@command(
    "peers", epilog=examples("kodectl node peers --sort latency", "kodectl node peers --direction inbound --jsonl")
)
@click.option("--sort", type=click.Choice(["latency", "trust", "since", "bytes"]), help="Order of the peers.")
@click.option("--direction", type=click.Choice(["inbound", "outbound"]), help="Only these.")
@on_node()
def peers(output: Output, client: NodeClient, sort: str | None, direction: str | None) -> Outcome:
    """List the connected peers."""
    from kodectl.node.views import PeersView

    view = client.get("/api/network/peers", PeersView, {"sort": sort, "direction": direction})
    text = table(_PEER_HEADERS, map(_peer_row, view.peers)) if view.peers else "no peers"
    return Outcome(view, text, rows=view.peers)


_PEER_HEADERS = ("id", "address", "direction", "latency", "trust", "priority", "sent", "received", "connected")


def _peer_row(peer: PeerView) -> tuple[object, ...]:
    return (
        short_id(peer.id),
        peer.addr,
        peer.direction,
        milliseconds(peer.latency_ms),
        f"{peer.trust:.2f}",
        peer.priority + (", static" if peer.static else ""),
        size(peer.bytes_sent),
        size(peer.bytes_received),
        duration(peer.connected_s),
    )


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
            milliseconds(entry.last_ms),
            milliseconds(entry.average_ms),
            milliseconds(entry.min_ms),
            milliseconds(entry.max_ms),
            None if entry.loss is None else f"{entry.loss:.0%}",
            entry.samples,
        )
        for entry in view.peers
    )
    headers = ("id", "address", "last", "average", "min", "max", "loss", "samples")
    return Outcome(view, table(headers, rows) if view.peers else "no peers", rows=view.peers)


@command("bootstrap", epilog=examples("kodectl node bootstrap"))
@on_node()
def bootstrap(output: Output, client: NodeClient) -> Outcome:
    """Show the bootstrap nodes and whether they answer."""
    from kodectl.node.views import BootstrapView

    view = client.get("/api/network/bootstrap", BootstrapView)
    rows = (
        (node.enode.partition("@")[2], node.state, milliseconds(node.rtt_ms), node.last_error)
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
    lines = [f"{view.size} nodes around {view.id}"]
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
