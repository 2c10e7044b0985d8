"""/api/network: peers, counters, and what an operator asks the node to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

import falcon
import msgspec
from falcon.request import Request
from falcon.response import Response

from kodectl.api.problems import encode
from kodectl.api.requests import Gate, check_seconds, one_of, read_json
from kodectl.api.views import EnodeView
from kodectl.errors import LocalMisuse, NegativeAnswer
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
MAX_LARGE_BODIES = 4
"""Broadcasts being read at a time: 6 MB of body and 4 MB of payload each."""

CONNECT_TIMEOUT_S = 10.0
MAX_CONNECT_TIMEOUT_S = 60.0
"""The API's longest wait; clients and proxies give up around there."""

Text = Annotated[str, msgspec.Meta(max_length=1024)]


class ConnectBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    target: Text
    timeout_s: float = CONNECT_TIMEOUT_S


class BanBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    seconds: float | None = None


class BroadcastBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["block", "transaction"]
    payload: bytes
    mode: Literal["flood", "gossip"] = "gossip"


def add_network_routes(app: falcon.App, node: Node, waiting: Gate) -> None:
    views: dict[str, Callable[[], object]] = {
        "stats": node.stats,
        "latency": node.latency,
        "bootstrap": node.bootstrap,
        "routing": node.table,
        "enode": lambda: EnodeView(node.enode),
        "nat": node.nat,
        "status": node.status,
    }
    for name, view in views.items():
        app.add_route(f"/api/network/{name}", ViewResource(view))
    app.add_route("/api/network/peers", PeersResource(node))
    app.add_route("/api/network/rediscover", RediscoverResource(node))
    app.add_route("/api/network/connect", ConnectResource(node, waiting))
    app.add_route("/api/network/broadcast", BroadcastResource(node))
    app.add_route("/api/network/disconnect/{peer_id}", DisconnectResource(node))
    app.add_route("/api/network/ban/{peer_id}", BanResource(node))
    app.add_route("/api/network/unban/{peer_id}", UnbanResource(node))


class ViewResource:
    """GET of a value that takes no parameters."""

    def __init__(self, view: Callable[[], object]) -> None:
        self._view = view

    def on_get(self, request: Request, response: Response) -> None:
        response.data = encode(self._view())


class PeersResource:
    def __init__(self, node: Node) -> None:
        self._node = node

    def on_get(self, request: Request, response: Response) -> None:
        sort, direction = one_of(request, "sort", SORTS), one_of(request, "direction", DIRECTIONS)
        response.data = encode(self._node.peers(sort, direction))


class RediscoverResource:
    def __init__(self, node: Node) -> None:
        self._node = node

    def on_post(self, request: Request, response: Response) -> None:
        response.status = 202
        response.data = encode(self._node.rediscover())


class ConnectResource:
    def __init__(self, node: Node, waiting: Gate) -> None:
        self._node = node
        self._waiting = waiting

    def on_post(self, request: Request, response: Response) -> None:
        body = read_json(request, ConnectBody)
        timeout_s = check_seconds(body.timeout_s, "timeout_s", MAX_CONNECT_TIMEOUT_S)
        with self._waiting.enter():
            response.data = encode(self._node.connect(body.target, timeout_s))


class BroadcastResource:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._large = Gate("broadcasts", MAX_LARGE_BODIES)

    def on_post(self, request: Request, response: Response) -> None:
        with self._large.enter():
            body = read_json(request, BroadcastBody, MAX_BROADCAST_BODY)
            response.data = encode(self._node.broadcast(body.type, body.payload, body.mode))


class DisconnectResource:
    def __init__(self, node: Node) -> None:
        self._node = node

    def on_post(self, request: Request, response: Response, peer_id: str) -> None:
        node_id_hex = whole_id(self._node, peer_id)
        outcome = self._node.disconnect(node_id_hex)
        if not outcome.disconnected:
            raise not_connected(node_id_hex)
        response.data = encode(outcome)


class BanResource:
    def __init__(self, node: Node) -> None:
        self._node = node

    def on_post(self, request: Request, response: Response, peer_id: str) -> None:
        seconds = read_json(request, BanBody).seconds
        if seconds is not None:
            check_seconds(seconds, "seconds", MAX_BAN_S)
        response.data = encode(self._node.ban(whole_id(self._node, peer_id), seconds))


class UnbanResource:
    def __init__(self, node: Node) -> None:
        self._node = node

    def on_post(self, request: Request, response: Response, peer_id: str) -> None:
        response.data = encode(self._node.unban(whole_id(self._node, peer_id)))


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
