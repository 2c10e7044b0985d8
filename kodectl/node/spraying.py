"""Sprays over real or simulated sockets, beside an ICE session.

    of the side whose NAT draws its ports:     spraying = spray_open(runtime, terms, peer, ip, adopt, session.received, ...)
    of the side whose NAT filters by port:     spraying = spray_hit(runtime, terms, shared, peer_ip, found, ...)

Both end by themselves, with a hit or with their budget. `close` ends them before, once the session has got a direct path
in any other way, or was restarted: its checks have other credentials then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from kodectl.core.ice.local import COMPONENT
from kodectl.core.limits import SharedBudget, TokenBucket
from kodectl.core.spray import FULL_PACE, PRIORITY, SOCKETS, Hit, Pace, Shot, Spray, Terms, many_ports, many_sockets
from kodectl.core.table import subnet_of
from kodectl.errors import EnvironmentFault
from kodectl.node.ice import SendingBase
from kodectl.runtime.base import Address, DatagramSocket, Runtime, Timer
from kodectl.wire.candidates import UDP, Candidate, CandidateType

log = logging.getLogger(__name__)

AFTER_HIT_S = 1.0
"""What was sent before the first hit may bring another one, and the other side may have seen that one alone."""
MAX_ADOPTED = 4
LINGER_S = 3.0
"""After the last packet: the other side may have begun later."""

MAX_SPRAYS = 4
"""Of a node at a time: 1,024 sockets at most, 400 packets a second, and as many mappings in this side's NAT. A peer that gets no
room stays with its relay, from where a spray is tried again."""
SPRAYS_PER_S, SPRAY_BURST = 0.2, 12.0
"""As many as there is room for, one after the other."""
NETWORK_SPRAYS_PER_S, NETWORK_SPRAY_BURST = 1 / 40, 4.0
"""At one /24 or /64, or private address: 52 packets a second, over minutes. A link that is lost again and again, and several
peers behind one carrier's NAT, have use for more than one in a minute."""

Receive = Callable[[SendingBase, bytes, Address], None]


class SpraySocket:
    """See `node.ice.SendingBase`. One of many until it is hit; then the session's, with all that arrives at it."""

    def __init__(self, runtime: Runtime, ip: str, receive: Callable[[SpraySocket, bytes, Address], None]) -> None:
        """Raises EnvironmentFault."""
        self.receive = receive
        self._socket: DatagramSocket = runtime.open_datagram((ip, 0), self._received)
        self.address = self._socket.local

    def send(self, data: bytes, address: Address) -> None:
        self._socket.send(data, address)

    def close(self) -> None:
        self._socket.close()

    def _received(self, data: bytes, sender: Address) -> None:
        self.receive(self, data, sender)


class Volley:
    """Sends what a spray has due, until it has nothing more or is stopped; `over` runs once then. All in the hub."""

    def __init__(self, runtime: Runtime, spray: Spray, send: Callable[[Shot], None], over: Callable[[], None]) -> None:
        self._runtime = runtime
        self._spray = spray
        self._send = send
        self._over = over
        self._timer: Timer | None = None
        self._is_over = False

    def go_on(self) -> None:
        self._timer = None
        now = self._runtime.now()
        for shot in self._spray.due(now):
            self._send(shot)
        due_at = self._spray.next_deadline()
        if due_at is None:
            self.stop()
        else:
            self._timer = self._runtime.call_later(max(0.0, due_at - now), self.go_on)

    def stop(self) -> None:
        """May be called twice."""
        self._spray.end()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._is_over:
            self._is_over = True
            self._over()


class SocketSpray:
    """The side of many sockets. `adopt` makes one that was hit a base of the session, which closes it from then on; `receive`
    gets what arrives there, beginning with what proved the hit."""

    def __init__(
        self,
        runtime: Runtime,
        spray: Spray,
        ip: str,
        adopt: Callable[[SpraySocket], None],
        receive: Receive,
        over: Callable[[], None],
    ) -> None:
        self._runtime = runtime
        self._spray = spray
        self._ip = ip
        self._adopt = adopt
        self._receive = receive
        self._over = over
        self._sockets: dict[int, SpraySocket] = {}
        self._numbers: dict[SpraySocket, int] = {}
        self._is_closed = False
        self.adopted = 0
        self.faults = 0
        """Packets that were not sent, for want of a socket: the rest go on without it."""
        self._volley = Volley(runtime, spray, self._shoot, self._linger)
        self._volley.go_on()

    @property
    def sent(self) -> int:
        return self._spray.sent

    def close(self) -> None:
        """Of what was not adopted. May be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        self._volley.stop()
        for socket in self._sockets.values():
            socket.close()
        self._sockets.clear()
        self._numbers.clear()
        self._over()

    def _shoot(self, shot: Shot) -> None:
        number = shot.aim.socket
        socket = self._sockets.get(number)
        if socket is None:
            try:
                socket = SpraySocket(self._runtime, self._ip, self._received)
            except EnvironmentFault as fault:
                self.faults += 1
                log.debug("spray: socket %d: %s", number, fault)
                return
            self._sockets[number] = socket
            self._numbers[socket] = number
        socket.send(shot.packet, shot.aim.address)

    def _received(self, socket: SpraySocket, data: bytes, sender: Address) -> None:
        number = self._numbers.get(socket)
        if number is None or self._spray.hit(number, data, sender) is None:
            return
        del self._numbers[socket], self._sockets[number]
        self.adopted += 1
        log.debug("spray: hit after %d packets, from %s", self._spray.sent, sender)
        socket.receive = self._receive
        self._adopt(socket)
        self._receive(socket, data, sender)
        if self.adopted >= MAX_ADOPTED:
            self.close()
        else:
            self._volley.stop()

    def _linger(self) -> None:
        self._runtime.call_later(AFTER_HIT_S if self.adopted else LINGER_S, self.close)


class PortSpray:
    """The side of many ports. `found` runs in the hub for the peer's candidate that was hit, and must not wait."""

    def __init__(
        self,
        runtime: Runtime,
        spray: Spray,
        base: SendingBase,
        found: Callable[[Candidate], None],
        over: Callable[[], None],
    ) -> None:
        self._spray = spray
        self._base = base
        self._found = found
        self._volley = Volley(runtime, spray, self._shoot, over)
        self._volley.go_on()

    @property
    def sent(self) -> int:
        return self._spray.sent

    def received(self, data: bytes, sender: Address) -> bool:
        """To be shown what arrives at the base for the session, before that. True where it answers a check of the spray;
        the session has no use for that. A check of the peer's is the session's, and ends the spray all the same."""
        hit = self._spray.hit(0, data, sender)
        if hit is None:
            return False
        self._volley.stop()
        if hit is Hit.ANSWER:
            self._found(Candidate("spray", COMPONENT, UDP, PRIORITY, sender, CandidateType.PEER_REFLEXIVE))
        return hit is Hit.ANSWER

    def close(self) -> None:
        self._volley.stop()

    def _shoot(self, shot: Shot) -> None:
        self._base.send(shot.packet, shot.aim.address)


class SprayRoom:
    """How many sprays a node may have under way; who has taken room leaves it when the spray is over. And how often it sprays
    one network: a peer may have proved itself at the address of a relay, which it shares with somebody else."""

    def __init__(self, most: int = MAX_SPRAYS) -> None:
        self._left = most
        self._aims = SharedBudget(TokenBucket(SPRAYS_PER_S, SPRAY_BURST), NETWORK_SPRAYS_PER_S, NETWORK_SPRAY_BURST)

    def take(self, ip: str, now: float) -> bool:
        if self._left == 0 or not self._aims.take(subnet_of(ip) or ip, now):
            return False
        self._left -= 1
        return True

    def leave(self) -> None:
        self._left += 1


def _nothing() -> None:
    pass


def spray_open(
    runtime: Runtime,
    terms: Terms,
    peer: Address,
    ip: str,
    adopt: Callable[[SpraySocket], None],
    receive: Receive,
    *,
    is_verified: bool,
    pace: Pace = FULL_PACE,
    sockets: int = SOCKETS,
    over: Callable[[], None] = _nothing,
) -> SocketSpray:
    """`peer`: the one address of a side whose NAT filters by port; `ip`: of this machine, which the sockets are bound to. The
    first packet has left when this returns. `over` runs once, when the last of the sockets is adopted or closed."""
    aims = many_sockets(peer, sockets)
    spray = Spray(terms, aims, runtime.random_bytes, runtime.now(), is_verified=is_verified, pace=pace)
    return SocketSpray(runtime, spray, ip, adopt, receive, over)


def spray_hit(
    runtime: Runtime,
    terms: Terms,
    base: SendingBase,
    peer_ip: str,
    found: Callable[[Candidate], None],
    *,
    is_verified: bool,
    over: Callable[[], None] = _nothing,
) -> PortSpray:
    """`base`: the one whose address the other side aims at; `peer_ip`: the outer address of a NAT that draws its ports. `over`
    runs once, after the last packet."""
    aims = many_ports(peer_ip, runtime.rng)
    spray = Spray(terms, aims, runtime.random_bytes, runtime.now(), is_verified=is_verified)
    return PortSpray(runtime, spray, base, found, over)
