"""Mappings made on purpose: what the ports of a sequential NAT look like, and which one comes next.

    learn_step     probes from fresh sockets to observers: the step, for the hint that goes with an offer
    foretell       probes again, and between them checks of an ICE session to the peer, each from a fresh socket: the
                   peer is told the ports that these have got

Observers are nodes, or any STUN server: they answer Binding requests. One that lies costs the prediction, and nothing else:
the outer address comes from the caller.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from kodectl.core.ice.local import COMPONENT, priority_of
from kodectl.core.port_prediction import MIN_SEEN, Seen, all_predicted, step_of
from kodectl.core.spray import PREFERENCE, Pace, Terms
from kodectl.core.stun_transactions import BindingAnswer, Transaction, Transactions
from kodectl.errors import EnvironmentFault
from kodectl.node.spraying import AFTER_HIT_S, Receive, SocketSpray, SpraySocket, spray_open
from kodectl.runtime.base import Address, DatagramSocket, Mailbox, Runtime, Scope, TimedOut
from kodectl.wire.candidates import UDP, Candidate, CandidateType
from kodectl.wire.stun import Change

log = logging.getLogger(__name__)

RESEND_AFTER_S = 0.25
"""A probe that is repeated has the mapping that it had, unless it was lost before it got one. What was not repeated counts
alone where there is enough of it."""
ANSWER_LIMIT_S = 0.8
"""For the last probe: the peer waits for what comes of it. What is missing is made up for by the others."""
STEP_PROBES = 6
"""One of two servers may be gone: three ports are a row."""
CHECKS = 3
"""Ways opened to the peer: where other hosts are busy, one may be foretold wrongly."""
PORTS_PER_CHECK = 3
ATTEMPTS = 2
"""The row begins again where it ends, in the middle of a measurement now and then."""
CHECK_PACE = Pace(every_s=0.3, packets=60)
"""Of each way, for 18 s: the peer hears of its port later, and packets are lost."""
LOOK_EVERY_S = 5.0
AGAIN_AFTER_S = 600.0
"""What kind of NAT this is does not change often; `foretell` looks itself."""
RETRY_AFTER_S = 30.0
"""Then twice as long each time: random ports look like no answers."""


class Probes:
    """Binding requests from fresh sockets, which leave when they are made. `close` ends the sockets, and so the mappings."""

    def __init__(self, runtime: Runtime, ip: str, servers: Sequence[Address]) -> None:
        """`ip`: of this machine; `servers`: at least one, taken in turn."""
        self._runtime = runtime
        self._ip = ip
        self._servers = servers
        self._transactions = Transactions(runtime.random_bytes)
        self._turns: dict[bytes, int] = {}
        self._under_way: list[tuple[Transaction, DatagramSocket]] = []
        self._repeated: set[int] = set()
        self._sockets: list[DatagramSocket] = []
        self._answers: Mailbox[Seen] = runtime.mailbox(32)

    def send(self, turn: int) -> None:
        """Raises EnvironmentFault."""
        socket = self._runtime.open_datagram((self._ip, 0), self._received)
        self._sockets.append(socket)
        server = self._servers[len(self._turns) % len(self._servers)]
        transaction = self._transactions.begin(server, Change(False, False))
        self._turns[transaction.transaction_id] = turn
        self._under_way.append((transaction, socket))
        self._send(transaction, socket)

    def gather(self) -> list[Seen]:
        """Waits until all have been answered, or it takes too long."""
        ends_at = self._runtime.now() + ANSWER_LIMIT_S
        seen: list[Seen] = []
        while (left_s := ends_at - self._runtime.now()) > 0 and len(seen) < len(self._turns):
            try:
                seen.append(self._answers.get(min(left_s, RESEND_AFTER_S)))
            except TimedOut:
                if left_s > RESEND_AFTER_S:
                    self._repeat()
        at_once = [one for one in seen if one.turn not in self._repeated]
        return sorted(at_once if len(at_once) >= MIN_SEEN else seen)

    def close(self) -> None:
        self._answers.close()
        for socket in self._sockets:
            socket.close()

    def _repeat(self) -> None:
        for transaction, socket in self._under_way:
            self._repeated.add(self._turns[transaction.transaction_id])
            self._send(transaction, socket)

    def _send(self, transaction: Transaction, socket: DatagramSocket) -> None:
        transaction.sent(self._runtime.now())
        socket.send(transaction.packet, transaction.server)

    def _received(self, data: bytes, sender: Address) -> None:
        found = self._transactions.receive(data, sender, self._runtime.now())
        if found is None or found.outcome is None:
            return
        self._under_way = [one for one in self._under_way if one[0] is not found.transaction]
        if isinstance(found.outcome, BindingAnswer):
            turn = self._turns[found.transaction.transaction_id]
            self._answers.put(Seen(turn, found.outcome.mapped[1]))


def learn_step(runtime: Runtime, ip: str, servers: Sequence[Address]) -> int | None:
    """How far apart its ports are, up or down. Waits. None for ports that are no row, and where nobody answers. Raises
    EnvironmentFault."""
    probes = Probes(runtime, ip, servers)
    try:
        for turn in range(STEP_PROBES):
            probes.send(turn)
        step = step_of(probes.gather())
        return None if step is None else abs(step)
    finally:
        probes.close()


class Way(NamedTuple):
    """To be opened: by the session's checks, from `ip` of this machine, to the peer's one address; `outer_ip` is the NAT's."""

    terms: Terms
    ip: str
    outer_ip: str
    peer: Address


class Foretold:
    """Ways to the peer that are open on this side, and where it will see them: `candidates` are to be told to it at once.

    One that it comes through is adopted (see `node.spraying`), and ends the others. `close` ends those that were not."""

    def __init__(
        self, runtime: Runtime, way: Way, adopt: Callable[[SpraySocket], None], receive: Receive, *, is_verified: bool
    ) -> None:
        self.candidates: tuple[Candidate, ...] = ()
        self._runtime = runtime
        self._way = way
        self._adopt = adopt
        self._receive = receive
        self._is_verified = is_verified
        self._sprays: list[SocketSpray] = []

    def measure(self, servers: Sequence[Address]) -> bool:
        """Waits about a round trip to the servers; whether anything can be foretold. Raises EnvironmentFault, LocalMisuse."""
        self.close()
        probes = Probes(self._runtime, self._way.ip, servers)
        try:
            probes.send(0)
            for turn in range(1, 2 * CHECKS, 2):
                probes.send(turn)
                self._open()
            for turn in range(2 * CHECKS + 1, 2 * CHECKS + 3):
                probes.send(turn)
            ports = all_predicted(probes.gather(), range(2, 2 * CHECKS + 1, 2), PORTS_PER_CHECK)
        finally:
            probes.close()
        log.debug("ports foretold: %s", ports)
        self.candidates = tuple(_candidate(self._way.outer_ip, port, number) for number, port in enumerate(ports))
        return bool(ports)

    def close(self) -> None:
        """May be called twice."""
        while self._sprays:
            self._sprays.pop().close()

    def _open(self) -> None:
        spray = spray_open(
            self._runtime,
            self._way.terms,
            self._way.peer,
            self._way.ip,
            self._hit,
            self._receive,
            is_verified=self._is_verified,
            pace=CHECK_PACE,
            sockets=1,
        )
        self._sprays.append(spray)

    def _hit(self, socket: SpraySocket) -> None:
        self._adopt(socket)
        self._runtime.call_later(AFTER_HIT_S, self.close)


def foretell(
    runtime: Runtime,
    servers: Sequence[Address],
    way: Way,
    adopt: Callable[[SpraySocket], None],
    receive: Receive,
    *,
    is_verified: bool,
) -> Foretold | None:
    """Waits about a round trip to the servers. None where nothing can be foretold. Raises EnvironmentFault, LocalMisuse."""
    foretold = Foretold(runtime, way, adopt, receive, is_verified=is_verified)
    is_told = False
    try:
        is_told = any(foretold.measure(servers) for _ in range(ATTEMPTS))
    finally:
        if not is_told:
            foretold.close()
    return foretold if is_told else None


def _candidate(outer_ip: str, port: int, number: int) -> Candidate:
    """A foundation of its own: none of them says anything about the others, so none waits for them (RFC 8445, section
    6.1.2.6)."""
    kind = CandidateType.SERVER_REFLEXIVE
    return Candidate(f"next{number}", COMPONENT, UDP, priority_of(kind, PREFERENCE - number), (outer_ip, port), kind)


class PortStep:
    """Keeps the step known while somebody may need it. `step` is None before that, and for a NAT without one."""

    def __init__(
        self, runtime: Runtime, scope: Scope, ip: Callable[[], str], servers: Callable[[], Sequence[Address]]
    ) -> None:
        """`ip`: of this machine; `servers`: whom to ask, nobody where the NAT is not symmetric."""
        self.step: int | None = None
        self._runtime = runtime
        self._scope = scope
        self._ip = ip
        self._servers = servers
        self._next_at = float("-inf")
        self._retry_s = RETRY_AFTER_S

    def start(self) -> None:
        self._scope.spawn("port step", self._keep_known)

    def _keep_known(self) -> None:
        while True:
            servers = self._servers()
            if not servers:
                self.step, self._next_at, self._retry_s = None, float("-inf"), RETRY_AFTER_S
            elif self._runtime.now() >= self._next_at:
                self._learn(servers)
            self._scope.sleep(LOOK_EVERY_S)

    def _learn(self, servers: Sequence[Address]) -> None:
        try:
            self.step = learn_step(self._runtime, self._ip(), servers)
        except EnvironmentFault as fault:
            log.debug("port step: %s", fault)
            self.step = None
        wait_s = AGAIN_AFTER_S
        if self.step is None:  # random ports, or nobody has answered
            wait_s = self._retry_s
            self._retry_s = min(AGAIN_AFTER_S, 2 * self._retry_s)
        self._next_at = self._runtime.now() + wait_s
