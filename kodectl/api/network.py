"""/api/network: peers, counters, and what an operator asks the node to do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from kodectl.api.requests import one_of, seconds
from kodectl.api.routing import Call, Limit, Route, Service
from kodectl.api.views import EnodeView
from kodectl.errors import LocalMisuse, NegativeAnswer
from kodectl.node.history_views import HistoryView
from kodectl.node.views import (
    BanView,
    BootstrapView,
    BroadcastView,
    ConnectView,
    DisconnectView,
    LatencyView,
    NatView,
    PeersView,
    RediscoverView,
    StatsView,
    StatusView,
    TableView,
)
from kodectl.settings import MAX_BAN_S
from kodectl.wire.messages import MAX_BLOCK

if TYPE_CHECKING:
    from kodectl.node.node import Node

SORTS = ("latency", "trust", "since", "bytes")
DIRECTIONS = ("inbound", "outbound")

ID_DIGITS = 64
HEX = re.compile(r"[0-9a-f]*")
MIN_PREFIX = 8
"""Hex digits of a peer id that stand for the whole id: 32 bits, never ambiguous by chance among 50 peers."""

MAX_BROADCAST_BODY = (MAX_BLOCK + 2) // 3 * 4 + 4096
"""A block in base64, and the JSON around it."""

MAX_UPTIME_S = 1e10
"""Three centuries: any time that a node has answered."""
CONNECT_TIMEOUT_S = 10.0
MAX_CONNECT_TIMEOUT_S = 60.0
"""The API's longest wait; clients and proxies give up around there."""

WAITING = Limit("requests that wait for the network", 32)
"""Connect, lookups, puts: each costs a greenlet and some datagrams."""
LARGE_BODIES = Limit("broadcasts", 4, covers_body=True)
"""Being read: 6 MB of body and 4 MB of payload each."""

TARGET_TEXT = r"^(enode://[0-9a-fA-F]{64}@.+:\d{1,5}(\?discport=\d{1,5})?|[0-9a-fA-F]{64}|.+:\d{1,5})$"
"""Described only: the node says what is wrong with one."""
BASE64_TEXT = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


def base64_of(max_bytes: int) -> msgspec.Meta:
    """Described only: the node itself says what is too large, and for which kind of thing."""
    return msgspec.Meta(extra_json_schema={"pattern": BASE64_TEXT, "maxLength": (max_bytes + 2) // 3 * 4})


class ConnectBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom to connect to, and how long to try."""

    target: Annotated[
        str,
        msgspec.Meta(
            max_length=1024,
            description="An enode, a node id (64 hex digits), or ip:port.",
            extra_json_schema={"pattern": TARGET_TEXT},
        ),
    ]
    timeout_s: Annotated[float, msgspec.Meta(ge=0, le=MAX_CONNECT_TIMEOUT_S)] = CONNECT_TIMEOUT_S


class BanBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long; without it until the ban is lifted."""

    seconds: Annotated[float, msgspec.Meta(ge=0, le=MAX_BAN_S)] | None = None


class BroadcastBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to send to the whole network, and how."""

    type: Literal["block", "transaction"]
    payload: Annotated[bytes, base64_of(MAX_BLOCK)]
    mode: Literal["flood", "gossip"] = "gossip"


def peers(service: Service, call: Call) -> PeersView:
    """The connected peers."""
    return service.node.peers(call.query["sort"], call.query["direction"])


def stats(service: Service, call: Call) -> StatsView:
    """Counters of peers, traffic, discovery, messages and values, since the start."""
    return service.node.stats()


def history(service: Service, call: Call) -> HistoryView:
    """Peers, traffic and latency over the last ten minutes, in samples for plots."""
    return service.node.recent(call.query["since"])


def latency(service: Service, call: Call) -> LatencyView:
    """Round trips to each peer, and what was lost of them."""
    return service.node.latency()


def bootstrap(service: Service, call: Call) -> BootstrapView:
    """The bootstrap nodes, and what came of asking each."""
    return service.node.bootstrap()


def routing(service: Service, call: Call) -> TableView:
    """The routing table, bucket by bucket. A bucket's index is the number of leading bits shared with the node's id."""
    return service.node.table()


def enode(service: Service, call: Call) -> EnodeView:
    """The node's own enode, as others are to use it."""
    return EnodeView(service.node.enode)


def nat(service: Service, call: Call) -> NatView:
    """How the node is seen from outside."""
    return service.node.nat()


def status(service: Service, call: Call) -> StatusView:
    """Who the node is, where it listens, and how it does."""
    return service.node.status()


def rediscover(service: Service, call: Call) -> RediscoverView:
    """Looks for other nodes now. It goes on in the background: bootstrap nodes, the LAN, the routing table."""
    return service.node.rediscover()


def connect(service: Service, call: Call) -> ConnectView:
    """Connects to a node, waits, and answers what came of it. The node keeps redialling what it connected to so."""
    body: ConnectBody = call.body
    return service.node.connect(body.target, body.timeout_s)


def broadcast(service: Service, call: Call) -> BroadcastView:
    """Signs a block or a transaction and sends it to the network."""
    body: BroadcastBody = call.body
    return service.node.broadcast(body.type, body.payload, body.mode)


def disconnect(service: Service, call: Call) -> DisconnectView:
    """Disconnects a peer."""
    node_id_hex = whole_id(service.node, call.path["peer_id"])
    outcome = service.node.disconnect(node_id_hex)
    if not outcome.disconnected:
        raise not_connected(node_id_hex)
    return outcome


def ban(service: Service, call: Call) -> BanView:
    """Disconnects a node and refuses it from now on."""
    body: BanBody = call.body
    return service.node.ban(whole_id(service.node, call.path["peer_id"]), body.seconds)


def unban(service: Service, call: Call) -> BanView:
    """Lifts the ban of a node."""
    return service.node.unban(whole_id(service.node, call.path["peer_id"]))


def whole_id(node: Node, text: str) -> str:
    """A node id out of a path: whole, or the beginning of a connected peer's.

    Raises LocalMisuse (malformed_id, ambiguous_id), NegativeAnswer (peer_not_connected)."""
    wanted = text.lower()
    if not (MIN_PREFIX <= len(wanted) <= ID_DIGITS and HEX.fullmatch(wanted)):
        raise LocalMisuse(
            f"a peer is named by its id, 64 hex digits, or by the first {MIN_PREFIX} or more of them, not {text!r}",
            code="malformed_id",
        )
    if len(wanted) == ID_DIGITS:
        return wanted
    matches = [peer.id for peer in node.peers().peers if peer.id.startswith(wanted)]
    if not matches:
        raise not_connected(wanted)
    if len(matches) > 1:
        raise LocalMisuse(f"{len(matches)} peers begin with {wanted}: give more digits", code="ambiguous_id")
    return matches[0]


def not_connected(peer_id: str) -> NegativeAnswer:
    return NegativeAnswer(
        f"no peer {peer_id} is connected", code="peer_not_connected", hint="kodectl node peers lists those that are"
    )


PEER_PROBLEMS = {400: ("malformed_id", "ambiguous_id"), 404: ("peer_not_connected",)}
DISK_PROBLEMS = {503: ("store",), 507: ("disk_full",)}

ROUTES = (
    Route(
        "GET",
        "/api/network/peers",
        peers,
        {200: PeersView},
        query=(
            one_of("sort", SORTS, "Order of the peers: the lowest latency, else the highest, first."),
            one_of("direction", DIRECTIONS, "Only these."),
        ),
        is_kept=True,
    ),
    Route("GET", "/api/network/stats", stats, {200: StatsView}),
    Route(
        "GET",
        "/api/network/history",
        history,
        {200: HistoryView},
        query=(seconds("since", 0.0, MAX_UPTIME_S, "Only what is later than this `at_s`, of the same `run`."),),
    ),
    Route("GET", "/api/network/latency", latency, {200: LatencyView}),
    Route("GET", "/api/network/bootstrap", bootstrap, {200: BootstrapView}),
    Route("GET", "/api/network/routing", routing, {200: TableView}),
    Route("GET", "/api/network/enode", enode, {200: EnodeView}),
    Route("GET", "/api/network/nat", nat, {200: NatView}),
    Route("GET", "/api/network/status", status, {200: StatusView}),
    Route("POST", "/api/network/rediscover", rediscover, {202: RediscoverView}),
    Route(
        "POST",
        "/api/network/connect",
        connect,
        {200: ConnectView},
        body=ConnectBody,
        problems={400: ("bad_target", "bad_node_id")},
        limit=WAITING,
    ),
    Route(
        "POST",
        "/api/network/broadcast",
        broadcast,
        {200: BroadcastView},
        body=BroadcastBody,
        body_limit=MAX_BROADCAST_BODY,
        problems={400: ("payload_too_large",), 504: ("deadline",)},
        limit=LARGE_BODIES,
    ),
    Route("POST", "/api/network/disconnect/{peer_id}", disconnect, {200: DisconnectView}, problems=PEER_PROBLEMS),
    Route(
        "POST",
        "/api/network/ban/{peer_id}",
        ban,
        {200: BanView},
        body=BanBody,
        problems={400: ("malformed_id", "ambiguous_id", "self"), 404: ("peer_not_connected",)} | DISK_PROBLEMS,
    ),
    Route("POST", "/api/network/unban/{peer_id}", unban, {200: BanView}, problems=PEER_PROBLEMS | DISK_PROBLEMS),
)
