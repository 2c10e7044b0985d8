"""One connected peer: a link, and what this node measures on it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from kodectl.core.limits import TokenBucket
from kodectl.runtime.base import Address
from kodectl.wire.enode import Enode
from kodectl.wire.messages import DisconnectReason, Hello

if TYPE_CHECKING:
    from kodectl.node.link import Link

RTT_SAMPLES = 20
"""Ten minutes of heartbeats behind the average."""
CONTROL_PER_S = 10.0
CONTROL_BURST = 50.0
"""Control messages that a peer may send: an honest one needs two a minute, so excess is a fault."""


class Peer:
    """Alive from the end of the handshake to the end of the link; a new link to the same node is a new `Peer`.

    Everything here happens without waiting."""

    def __init__(self, link: Link, dialled: Enode | None, *, static: bool = False) -> None:
        self.link = link
        self.static = static
        self.confirmed = not link.outbound
        """The other side has accepted the link: it has sent something else than `disconnect`."""
        self.rtt_s: deque[float] = deque(maxlen=RTT_SAMPLES)
        self.asked_heartbeats = 0
        self.answered_heartbeats = 0
        self.control_rate = TokenBucket(CONTROL_PER_S, CONTROL_BURST)
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
    def enode(self) -> Enode:
        """Where it can be dialled: the address that was dialled, or the sender's with the port that it claims.
        `tcp` is 0 when it does not listen."""
        ports = self.hello.ports
        if self._dialled is not None:
            return Enode(self.node_id, self.remote[0], self._dialled.tcp, ports.udp)
        return Enode(self.node_id, self.remote[0], ports.tcp, ports.udp)

    @property
    def average_rtt_s(self) -> float | None:
        return sum(self.rtt_s) / len(self.rtt_s) if self.rtt_s else None

    def send(self, kind: int, body: bytes) -> bool:
        """Never waits; false when the link is closed."""
        return self.link.send(kind, body)

    def send_encoded(self, message: bytes) -> bool:
        """Like `send`, for a message that is framed already and shared between links."""
        return self.link.send_encoded(message)

    def disconnect(self, reason: DisconnectReason, text: str = "") -> None:
        self.link.disconnect(reason, text)
