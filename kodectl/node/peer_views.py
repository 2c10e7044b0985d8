"""What is told about peers: measured values into the shapes of the API."""

from __future__ import annotations

from collections.abc import Sequence

from kodectl.core.peerbook import PeerBook
from kodectl.core.trust import Rank
from kodectl.node.events import rfc3339
from kodectl.node.peer import Peer
from kodectl.node.routes import Route
from kodectl.node.views import CandidatePairView, LatencyEntry, LatencyView, PeerView, Priority
from kodectl.runtime.base import Runtime
from kodectl.wire.addresses import address_text

_PRIORITY: dict[Rank, Priority] = {Rank.HIGH: "high", Rank.MEDIUM: "medium", Rank.LOW: "low"}

_CONNECT_OUTCOMES = {"refused", "timeout", "too_many_peers", "identity_mismatch", "self", "banned", "no_route"}


def connect_outcome(outcome: str) -> str:
    """The outcome of a dial as one of those of ConnectView; what is not among them comes as `refused`, or as a limit."""
    if outcome == "subnet_limit":
        return "too_many_peers"
    return outcome if outcome in _CONNECT_OUTCOMES else "refused"


def peer_view(peer: Peer, book: PeerBook, runtime: Runtime) -> PeerView:
    link, route, now = peer.link, peer.route, runtime.now()
    host, port = peer.remote
    connected_s = now - link.opened_at
    return PeerView(
        id=peer.node_id.hex(),
        enode=str(peer.enode),
        client=peer.hello.client,
        direction="outbound" if peer.outbound else "inbound",
        path=route.path,
        transport=route.transport,
        addr=address_text(host, port),
        ip=host,
        port=port,
        since=rfc3339(link.opened_unix),
        connected_s=round(connected_s, 3),
        latency_ms=_ms(peer.last_rtt_s),
        bytes_sent=link.bytes_sent,
        bytes_received=link.bytes_received,
        messages_sent=link.messages_sent,
        messages_received=link.messages_received,
        trust=round(book.score(peer.node_id, now), 4),
        priority=_PRIORITY[book.rank(peer.node_id, now)],
        static=peer.static,
        pair=_pair_view(route),
    )


def _pair_view(route: Route) -> CandidatePairView | None:
    local, remote = route.local, route.remote
    if local is None or remote is None:
        return None
    return CandidatePairView(
        address_text(*local.address), local.type.value, address_text(*remote.address), remote.type.value
    )


def latency_view(peers: Sequence[Peer]) -> LatencyView:
    entries = [_latency_entry(peer) for peer in peers]
    averages = [entry.average_ms for entry in entries if entry.average_ms is not None]
    return LatencyView(entries, round(sum(averages) / len(averages), 3) if averages else None)


def _latency_entry(peer: Peer) -> LatencyEntry:
    round_trips = peer.pulse.round_trips_s
    return LatencyEntry(
        id=peer.node_id.hex(),
        addr=address_text(*peer.remote),
        last_ms=_ms(peer.last_rtt_s),
        average_ms=_ms(sum(round_trips) / len(round_trips)) if round_trips else None,
        min_ms=_ms(min(round_trips, default=None)),
        max_ms=_ms(max(round_trips, default=None)),
        loss=None if peer.pulse.loss is None else round(peer.pulse.loss, 4),
        samples=len(peer.pulse.samples),
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
