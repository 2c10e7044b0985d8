"""/metrics: what a node counts and measures, as Prometheus and OpenMetrics take it.

Every label has few values that are known beforehand: no id, no address, nothing that a stranger chooses. Each name and what
it means is in docs/operating.md, and a test holds that list against this one."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, get_args, get_type_hints

from kodectl import __version__
from kodectl.api.routing import Call, Media, Route, Service
from kodectl.node.views import NatView, PortMappingView, RelayView

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from kodectl.core.histogram import Histogram
    from kodectl.node.node import Node

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PLACES = list(product(("inbound", "outbound"), ("direct", "relay"), ("tcp", "quic")))
"""Direction, path and transport of a peer: all are told, those that nobody has as 0."""
BROADCAST_SIZES = ("missing", "cached", "cached_bytes")
"""Among the counters of broadcasts, what goes down too."""

Row = tuple[tuple[str, ...], float]


def metrics(service: Service, call: Call) -> None:
    """What the node counts and measures, for Prometheus.

    With `Accept: application/openmetrics-text` as OpenMetrics."""
    # Takes 15 ms to import: at the first scrape, and in no command that only reads the table of routes.
    from prometheus_client.exposition import choose_encoder

    encode, media_type = choose_encoder(call.request.get_header("Accept") or "")
    call.response.content_type = media_type
    call.response.data = encode(registry_of(service))


def registry_of(service: Service) -> CollectorRegistry:
    """Made for each scrape: it holds nothing, the node does all the counting."""
    from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector

    registry = CollectorRegistry()
    registry.register(NodeCollector(service))
    ProcessCollector(registry=registry)
    GCCollector(registry)
    return registry


class NodeCollector:
    """What prometheus_client asks for its metrics."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> Iterable[Metric]:
        """Nothing: else it would be asked once more, for their names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        node = self._service.node
        for part in (_process, _peers, _broadcasts, _discovery, _nat, _relay, _events):
            yield from part(node)
        yield from _api(self._service)


# -- the parts -----------------------------------------------------------------------------------------------------------


def _process(node: Node) -> Iterator[Metric]:
    build = (__version__, platform.python_version(), node.settings.network)
    yield _gauge("build_info", "The program that runs; always 1.", [(build, 1)], ("version", "python", "network"))
    yield _gauge("ready", "Whether the node takes part in the network.", [((), node.health("ready").ok)])
    yield _gauge(
        "warnings", "What is wrong at the moment, as `kodectl node status` tells it.", [((), len(node.warnings))]
    )
    yield _histogram("hub_delay_seconds", "How late the node is at what is due.", node.hub_delay.histogram)
    yield _gauge("tasks", "Tasks of the node, each a greenlet.", [((), node.runtime.task_count())])
    clock = node.kademlia.clocks.belief(node.runtime.now(), node.runtime.unix_time())
    yield _gauge(
        "clock_ahead_seconds",
        "By how much this machine's clock is ahead of other nodes'; nothing while unknown.",
        [] if clock.ahead_s is None else [((), clock.ahead_s)],
    )


def _peers(node: Node) -> Iterator[Metric]:
    peers = Counter((peer.direction, peer.path, peer.transport) for peer in node.peering.peers())
    yield _gauge(
        "peers",
        "Connected peers.",
        [(place, peers[place]) for place in PLACES],  # type: ignore[index]
        ("direction", "path", "transport"),
    )
    yield _gauge("peers_limit", "Peers at most.", [((), node.settings.max_peers)])
    totals = node.peering.totals()
    for what, help_text in (("bytes", "Bytes on links to peers."), ("messages", "Messages on links to peers.")):
        rows = [((way,), totals[f"{what}_{way}"]) for way in ("sent", "received")]
        yield _counter(f"link_{what}", help_text, rows, ("way",))
    yield _histogram("peer_round_trip_seconds", "Round trips of heartbeats to peers.", node.peering.round_trips_s)
    dials = node.peering.dials
    outbound = {name: count for name, count in dials.items() if not name.startswith("inbound_")}
    inbound = {name.removeprefix("inbound_"): count for name, count in dials.items() if name not in outbound}
    yield _counted("dials", "Dials that have ended, by outcome.", "outcome", {"connected": 0} | outbound)
    yield _counted("inbound_connections", "What came to the port for peers.", "outcome", {"accepted": 0} | inbound)
    yield _counted("disconnects", "Links that have ended, by reason.", "reason", node.peering.disconnects)


def _broadcasts(node: Node) -> Iterator[Metric]:
    counters = node.broadcasting.counters()
    counted = {name: count for name, count in counters.items() if name not in BROADCAST_SIZES}
    yield _counted("broadcast", "Blocks and transactions, and the talk of them.", "event", counted)
    yield _gauge(
        "broadcast_missing", "Messages that were announced and have not come yet.", [((), counters["missing"])]
    )
    yield _gauge("broadcast_cached", "Messages that are kept for who lacks them.", [((), counters["cached"])])
    yield _gauge("broadcast_cached_bytes", "Their bytes.", [((), counters["cached_bytes"])])


def _discovery(node: Node) -> Iterator[Metric]:
    discovery = node.discovery
    counters = dict(discovery.counters)
    sent_bytes = counters.pop("bytes_sent", 0)
    known = dict.fromkeys(("requests_sent", "requests_served", "answers", "timeouts", "retransmissions"), 0)
    yield _counted("dht", "Requests over UDP, and what came of them.", "event", known | counters)
    yield _counter("dht_sent_bytes", "Bytes sent over UDP.", [((), sent_bytes)])
    yield _counted("dht_dropped", "Datagrams dropped unanswered.", "reason", discovery.sessions.dropped)
    yield _counter("dht_handshakes", "Handshakes over UDP.", [((), discovery.sessions.handshakes)])
    yield _counter("dht_lookups", "Lookups that were begun.", [((), node.kademlia.lookups)])
    yield _gauge("dht_sessions", "Nodes that keys have been agreed with.", [((), len(discovery.sessions))])
    buckets = [((str(state.number),), state.size) for state in node.kademlia.table.states()]
    yield _gauge("dht_bucket_nodes", "Nodes in each bucket of the routing table.", buckets, ("bucket",))
    yield _gauge("dht_records", "Records kept for others.", [((), len(node.values.store))])


def _nat(node: Node) -> Iterator[Metric]:
    nat = node.nat()
    yield _state("nat_state", "What others can do to reach the node: 1 for what holds.", NatView, nat.state)
    yield _state(
        "port_mapping_state", "What the router does: 1 for what holds.", PortMappingView, nat.port_mapping.state
    )
    reached = {"udp": nat.reachable_udp, "tcp": nat.reachable_tcp}
    yield _gauge(
        "nat_reachable",
        "Whether strangers get through; nothing while unknown.",
        [((protocol,), is_reached) for protocol, is_reached in reached.items() if is_reached is not None],
        ("protocol",),
    )
    known = dict.fromkeys(("begun", "direct", "relay", "failed", "offers_taken"), 0)
    counters = node.connectivity.traversal.counters
    yield _counted("traversals", "Ways to nodes behind NATs.", "event", known | counters)
    yield _gauge("relays_at_hand", "Relays of peers that could be used.", [((), nat.relays)])


def _relay(node: Node) -> Iterator[Metric]:
    relay = node.connectivity.relaying.view()
    yield _state("relay_state", "Whether it relays for others: 1 for what holds.", RelayView, relay.state)
    yield _gauge("relay_allocations", "Relayed addresses in use by others.", [((), relay.allocations)])
    yield _gauge("relay_allocations_limit", "Relayed addresses at most.", [((), relay.max_allocations)])
    yield _counter("relay_bytes", "Bytes relayed for others.", [((), relay.relayed_bytes)])
    yield _counter("relay_packets", "Datagrams relayed for others.", [((), relay.relayed_packets)])
    answers = {"granted": relay.granted, "refused": relay.refused}
    yield _counted("relay_requests", "Who wanted to be relayed.", "outcome", answers)


def _events(node: Node) -> Iterator[Metric]:
    yield _counter("events", "Events of /ws and /api/events.", [((), node.events.last)])
    yield _counter("event_gaps", "How often a reader came too late for some events.", [((), node.events.gaps)])
    yield _counter("events_missed", "Events that readers came too late for.", [((), node.events.missed)])


def _api(service: Service) -> Iterator[Metric]:
    yield _gauge("event_subscribers", "Open WebSockets.", [((), len(service.subscriptions))])
    rows = [((method, route, str(status)), count) for (method, route, status), count in service.answered.items()]
    yield _counter("api_requests", "Requests to the API.", rows, ("method", "route", "status"))


# -- into the library's values -------------------------------------------------------------------------------------------


def _counter(name: str, help_text: str, rows: Iterable[Row], labels: tuple[str, ...] = ()) -> Metric:
    from prometheus_client.metrics_core import CounterMetricFamily

    family = CounterMetricFamily(f"kodectl_{name}", help_text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _counted(name: str, help_text: str, label: str, counts: Mapping[str, int]) -> Metric:
    return _counter(name, help_text, [((value,), count) for value, count in sorted(counts.items())], (label,))


def _gauge(name: str, help_text: str, rows: Iterable[Row], labels: tuple[str, ...] = ()) -> Metric:
    from prometheus_client.metrics_core import GaugeMetricFamily

    family = GaugeMetricFamily(f"kodectl_{name}", help_text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _histogram(name: str, help_text: str, histogram: Histogram) -> Metric:
    from prometheus_client.metrics_core import HistogramMetricFamily
    from prometheus_client.utils import floatToGoString

    buckets = [(floatToGoString(bound), count) for bound, count in histogram.cumulative()]
    return HistogramMetricFamily(f"kodectl_{name}", help_text, buckets=buckets, sum_value=histogram.total)


def _state(name: str, help_text: str, view: type, state: str) -> Metric:
    return _gauge(name, help_text, [((each,), each == state) for each in states_of(view)], ("state",))


@cache
def states_of(view: type) -> tuple[str, ...]:
    """What the field `state` of a view can say."""
    return get_args(get_type_hints(view)["state"])


ROUTES = (Route("GET", "/metrics", metrics, {200: Media(MEDIA_TYPE, "The text format of Prometheus.")}),)
