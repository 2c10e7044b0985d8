"""What is tried beside ICE's own checks, by the plan of both sides: TCP simultaneous open, foretold ports, spray.

Each ends in a base or a candidate of the ICE session, which goes on from there; all end with a direct path.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from kodectl.core.ice.checks import Credentials
from kodectl.core.ice.local import MAX_LOCAL_PREFERENCE
from kodectl.core.ice.pairs import PairState
from kodectl.core.limits import SharedBudget
from kodectl.core.spray import PREFERENCE, Terms
from kodectl.core.traversal_plan import Plan, SprayRole
from kodectl.errors import KodectlError
from kodectl.node.ice import IceSession, SendingBase
from kodectl.node.new_port import NewPort
from kodectl.node.port_step import Way, foretell
from kodectl.node.spraying import PortSpray, SprayRoom, SpraySocket, spray_hit, spray_open
from kodectl.node.tcp_base import TcpBase
from kodectl.node.tcp_punch import TcpPunch
from kodectl.runtime.base import Address, ConnectFailed, Connection, Event, Runtime, Scope
from kodectl.wire.candidates import Candidate, CandidateType

log = logging.getLogger(__name__)

TCP_PUNCH_S = 2.5
"""SYNs and their repetitions, for two sides of which one has heard of the plan a second later."""
DIRECT_PATIENCE_S = 0.7
"""For the checks that ICE makes anyway, once any path works: they take a round trip, and a repetition."""
FORETELLINGS = 3
FORETOLD_LIMIT_S = 1.5
"""For a letter and some checks through the foretold ports. Other hosts may have taken them, and others be right next time."""
PATH_LIMIT_S = 10.0
VERIFY_STEP_S = 0.1
VERIFY_LIMIT_S = 4.0


class Around(Protocol):
    """What is used of the node."""

    runtime: Runtime
    scope: Scope
    spray_room: SprayRoom
    punch_budget: SharedBudget
    """Of TCP punches, by the address that is aimed at: it is the peer's word."""

    def tcp_port(self) -> int: ...
    def outer_tcp_port(self, port: int) -> Address | None:
        """Waits. Where others see a port that has asked nobody yet; None if that is not to be had."""
        ...

    def make_way(self, remote: Address) -> None:
        """Ends connections to the TCP port that came from there and have not said yet what they are."""
        ...

    def source(self) -> str:
        """The address on this machine that sockets are bound to."""
        ...

    def outer_ip(self) -> str | None: ...
    def observers(self) -> Sequence[Address]:
        """STUN servers among the peers."""
        ...


class Errand(NamedTuple):
    """What one passage wants to have tried."""

    agreed: Plan
    theirs: Credentials
    """Of the peer's description in use."""
    reflexive: Address | None
    """Where the peer says that others see its socket."""
    tcp_seen: Address | None
    """And where they see its TCP listening port."""
    rtt_s: float | None = None
    """To the peer and back, by the way of its letters."""


class SideWays:
    """Of one passage. `run` waits; the rest is called in the hub."""

    def __init__(
        self,
        around: Around,
        session: IceSession,
        shared: SendingBase | None,
        usable: Event,
        tell: Callable[[Sequence[Candidate]], None],
    ) -> None:
        """`usable` is set while any path works; `tell` gives candidates to the peer."""
        self._around = around
        self._runtime = around.runtime
        self._session = session
        self._shared = shared
        self._usable = usable
        self._tell = tell
        self._punch: TcpPunch | None = None
        self._port_spray: PortSpray | None = None
        self._closing: list[Callable[[], None]] = []
        self._is_closed = False

    @property
    def is_wanted(self) -> bool:
        """As long as there is no direct path."""
        path = self._session.path
        return not self._is_closed and (path is None or path.is_relayed)

    def run(self, errand: Errand, port: NewPort | None = None) -> None:
        """Waits until something has come of it, or nothing will. `port`: to punch from, instead of the listening one."""
        agreed = errand.agreed
        if self._is_closed:
            return
        try:
            if agreed.punches_tcp and errand.tcp_seen is not None:
                self._punch_tcp(errand.tcp_seen, errand.rtt_s, port)
            elif (agreed.predicts or agreed.spray is not None) and self._stays_relayed():
                self._spray(errand)
        except (ConnectFailed, KodectlError) as error:
            log.debug("beside ICE: %s", error)

    def accepted(self, stream: Connection) -> bool:
        """Whether a connection to the listener is one that is dialled for."""
        return self._punch is not None and self._punch.accepted(stream)

    def received(self, data: bytes, sender: Address) -> bool:
        """Whether a datagram at the shared socket was the answer to a check of a spray."""
        return self._port_spray is not None and self._port_spray.received(data, sender)

    def close(self) -> None:
        """Of what has not become the session's. May be called twice."""
        self._is_closed = True
        for close in self._closing:
            close()
        self._closing.clear()

    # -- TCP -------------------------------------------------------------------------------------------------------

    def _punch_tcp(self, target: Address, rtt_s: float | None, port: NewPort | None) -> None:
        is_asked = not self._session.agent.role.is_controlling
        is_told = is_asked and target[0] != self._verified_ip()
        if is_told and not self._around.punch_budget.take(target[0], self._runtime.now()):
            log.debug("beside ICE: too many TCP punches at %s", target[0])
            return
        number = self._around.tcp_port() if port is None else port.number
        punch = self._punch = TcpPunch(self._runtime, self._around.scope, number, [target], rtt_s)
        if port is None:
            # A dial of the other side's that came before this punch, perhaps: it has the very ends that are needed.
            self._around.make_way(target)
        else:
            port.claims = punch.accepted
        self._closing.append(punch.close)
        punch.start(TCP_PUNCH_S)
        try:
            stream = punch.wait()
        except ConnectFailed:
            punch.close()
            raise
        base = TcpBase(self._runtime, self._around.scope, stream, self._session.received)
        base.on_closed = lambda: self._session.dismiss(base)
        kind = CandidateType.HOST
        self._session.adopt(base, kind=kind, preference=MAX_LOCAL_PREFERENCE, remote=base.remote)

    # -- UDP -------------------------------------------------------------------------------------------------------

    def _stays_relayed(self) -> bool:
        """Waits for what ICE finds by itself, which is most of the time enough."""
        self._usable.wait(PATH_LIMIT_S)
        self._around.scope.sleep(DIRECT_PATIENCE_S)
        return self._session.path is not None and self.is_wanted

    def _spray(self, errand: Errand) -> None:
        peer_ip = self._await_verified_ip()
        if peer_ip is None or self._is_closed:
            log.debug("beside ICE: nobody has verified where the peer is")
            return
        terms = Terms(self._session.agent.credentials, errand.theirs, self._session.agent.role)
        if errand.agreed.spray is SprayRole.MANY_PORTS and self._shared is not None:
            self._try_many_ports(terms, peer_ip)
            return
        if errand.reflexive is None or errand.reflexive[0] != peer_ip:
            return
        if errand.agreed.predicts:
            self._foretell(terms, errand.reflexive)
        else:
            self._open_many_sockets(terms, errand.reflexive)

    def _has_room(self, ip: str) -> bool:
        has_room = self._around.spray_room.take(ip, self._runtime.now())
        if not has_room:
            log.debug("beside ICE: too many sprays, or too many at %s", ip)
        return has_room

    def _await_verified_ip(self) -> str | None:
        ends = self._runtime.now() + VERIFY_LIMIT_S
        while self._runtime.now() < ends and not self._is_closed:
            if (found := self._verified_ip()) is not None:
                return found
            self._around.scope.sleep(VERIFY_STEP_S)
        return None

    def _verified_ip(self) -> str | None:
        """Where the peer has answered a check that was sent to its own address, by way of this side's relay. What was only said
        could be anybody's address, and is not aimed at."""
        for pair in self._session.agent.pairs:
            is_own_address = pair.remote.type is not CandidateType.RELAYED
            if pair.state is PairState.SUCCEEDED and is_own_address and pair.local.base is not self._shared:
                return pair.remote.address[0]
        return None

    def _try_many_ports(self, terms: Terms, peer_ip: str) -> None:
        assert self._shared is not None
        if not self._has_room(peer_ip):
            return
        found, over = self._session.add_remote, self._around.spray_room.leave
        spray = spray_hit(self._runtime, terms, self._shared, peer_ip, found, is_verified=True, over=over)
        self._port_spray = spray
        self._closing.append(spray.close)

    def _open_many_sockets(self, terms: Terms, peer: Address) -> None:
        if not self._has_room(peer[0]):
            return
        ip, receive, over = self._around.source(), self._session.received, self._around.spray_room.leave
        spray = spray_open(self._runtime, terms, peer, ip, self._adopt, receive, is_verified=True, over=over)
        self._closing.append(spray.close)

    def _foretell(self, terms: Terms, peer: Address) -> None:
        for _ in range(FORETELLINGS):
            outer_ip, observers = self._around.outer_ip(), self._around.observers()
            if outer_ip is None or not observers:
                return
            self._foretell_once(Way(terms, self._around.source(), outer_ip, peer), observers)
            self._around.scope.sleep(FORETOLD_LIMIT_S)
            if not self.is_wanted:
                return

    def _foretell_once(self, way: Way, observers: Sequence[Address]) -> None:
        foretold = foretell(self._runtime, observers, way, self._adopt, self._session.received, is_verified=True)
        if foretold is None:
            return
        if self._is_closed:  # meanwhile
            foretold.close()
            return
        self._closing.append(foretold.close)
        self._tell(foretold.candidates)

    def _adopt(self, socket: SpraySocket) -> None:
        self._session.adopt(socket, kind=CandidateType.PEER_REFLEXIVE, preference=PREFERENCE)
