"""One connected peer: a link, and what this node measures on it."""

from __future__ import annotations

from kodectl.core.limits import TokenBucket
from kodectl.core.pulse import Pulse
from kodectl.node.link import Link
from kodectl.node.routes import Route
from kodectl.runtime.base import Address
from kodectl.wire.enode import Enode
from kodectl.wire.messages import DisconnectReason, Hello

CONTROL_PER_S = 10.0
CONTROL_BURST = 50.0
"""Heartbeats, requests and unknown messages that a peer may send: an honest one needs two a minute."""
REQUESTS_PER_S = 0.1
REQUEST_BURST = 3.0
"""Peer requests that get an answer; the rest are dropped."""


class Peer:
    """Alive from the end of the handshake to the end of the link; a new link to the same node is a new `Peer`.

    Nothing here waits."""

    __slots__ = (
        "_dialled",
        "asked_for_peers",
        "confirmed",
        "control_rate",
        "link",
        "pulse",
        "request_rate",
        "static",
    )

    def __init__(self, link: Link, dialled: Enode | None = None, *, static: bool = False) -> None:
        """`dialled`: where, if this side did it."""
        self.link = link
        self.static = static
        self.confirmed = not link.outbound
        """The other side has given the link a place: it has sent something else than `disconnect`."""
        self.pulse = Pulse(link.opened_at)
        self.control_rate = TokenBucket(CONTROL_PER_S, CONTROL_BURST)
        self.request_rate = TokenBucket(REQUESTS_PER_S, REQUEST_BURST)
        self.asked_for_peers = False
        self._dialled = dialled

    @property
    def node_id(self) -> bytes:
        return self.link.node_id

    @property
    def outbound(self) -> bool:
        return self.link.outbound

    @property
    def hello(self) -> Hello:
        return self.link.hello

    @property
    def remote(self) -> Address:
        return self.link.remote

    @property
    def route(self) -> Route:
        return self.link.route

    @property
    def enode(self) -> Enode:
        """Where it can be dialled: the port that was dialled, or at the sender's address the one that it claims.
        `tcp` is 0 when it does not listen, or was reached by punching: then the address may be a relay's."""
        ports = self.hello.ports
        claimed = ports.tcp if self.route.transport == "tcp" else 0
        tcp = self._dialled.tcp if self._dialled is not None else claimed
        return Enode(self.node_id, self.remote[0], tcp, ports.udp)

    @property
    def last_rtt_s(self) -> float | None:
        round_trips = self.pulse.round_trips_s
        return round_trips[-1] if round_trips else None

    def send(self, kind: int, body: bytes) -> bool:
        """Never waits; false when the link is closed."""
        return self.link.send(kind, body)

    def send_encoded(self, message: bytes) -> bool:
        """Like `send`, for a message that is framed already and shared between links."""
        return self.link.send_encoded(message)

    def disconnect(self, reason: DisconnectReason, text: str = "") -> None:
        """Ends the link, with the reason on the wire; the roster hears of it when the link has ended."""
        self.link.disconnect(reason, text)

    def __repr__(self) -> str:
        return f"Peer({self.node_id.hex()[:16]} {'to' if self.outbound else 'from'} {self.remote[0]}:{self.remote[1]})"
