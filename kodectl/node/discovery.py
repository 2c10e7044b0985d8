"""The discovery endpoint: one UDP socket, its sessions, and questions and answers over them.

How a datagram travels: the socket's drain loop calls `_datagram`; the first byte tells discovery from everything else that
will live on this port; `Sessions` opens it; a request is answered at once, in the same call, and an answer is told
to whoever asked.  Nothing here waits, so nothing here needs a task; one timer covers all retransmissions.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from kodectl.core.contacted import Contacted
from kodectl.core.identity import Identity
from kodectl.core.limits import SharedBudget, TokenBucket
from kodectl.core.requests import ATTEMPTS, Notice, Request, Requests
from kodectl.core.sessions import ANY_ID, Address, Received, Session, Sessions
from kodectl.core.strangers import Strangers
from kodectl.core.table import subnet_of
from kodectl.errors import NegativeAnswer, PeerFault, WireError
from kodectl.runtime.base import DatagramSocket, Runtime, Stopped, TimedOut
from kodectl.wire import packets, rpc
from kodectl.wire.contacts import is_unicast
from kodectl.wire.rpc import ErrorAnswer, ErrorCode

log = logging.getLogger(__name__)

EXPIRE_EVERY_S = 5.0
REQUESTS_PER_S = REQUEST_BURST = 5000.0
NETWORK_REQUESTS_PER_S, NETWORK_REQUEST_BURST = 500.0, 1000.0
"""That are served, in all and of one /24 or /64: each takes 15 to 100 us of what links need too, and a session is anybody's."""
ANSWER_LIMIT_S = 17.0
"""All attempts of one request are over by then: four, the first of at most 2 s, growing by half, take 16.3 s at the worst
and 4.1 s to a stranger."""


class Answer(NamedTuple):
    """An answer to `Discovery.ask`. `rtt_s` counts from the first attempt."""

    session: Session
    body: Any
    rtt_s: float


Handler = Callable[[Session, Any], Any]
"""Answers a request: from session and body to the body of the answer. Raises PeerFault to refuse."""


class Discovery:
    """Owns the socket. `handlers` by kind of request; `on_heard(session)` hears of every request and answer of a proved
    peer, `on_failed(node_id, address)` of every request given up."""

    def __init__(self, runtime: Runtime, identity: Identity, flags: int = 0) -> None:
        self._runtime = runtime
        self.identity = identity
        self.sessions = Sessions(identity, runtime.random_bytes, flags)
        self.requests = Requests(int.from_bytes(runtime.random_bytes(4)))
        self.handlers: dict[int, Handler] = {}
        self.on_heard: Callable[[Session], None] = _ignore
        self.on_failed: Callable[[bytes, Address], None] = _ignore_failure
        self.on_knock: Callable[[bytes, Address, bool], None] = _ignore_knock
        """Hears the nonce of each KNOCK, from where it came, and whether this socket has sent anything there lately: what
        then arrives proves nothing about a filter."""
        self.other_traffic: Callable[[bytes, Address], None] = _ignore_datagram
        """Datagrams whose first byte is not discovery's: STUN, TURN, ICE and QUIC attach here."""
        self.counters: Counter[str] = Counter()
        total = TokenBucket(REQUESTS_PER_S, REQUEST_BURST)
        self.request_budget = SharedBudget(total, NETWORK_REQUESTS_PER_S, NETWORK_REQUEST_BURST)
        self.strangers = Strangers()
        self._contacted = Contacted()
        self._socket: DatagramSocket | None = None
        self._timer: Any = None
        self._timer_at = float("inf")
        self._next_expiry = 0.0

    def open(self, local: Address) -> Address:
        """Binds; returns the bound address. Raises EnvironmentFault."""
        self._socket = self._runtime.open_datagram(local, self._datagram)
        now = self._runtime.now()
        self._next_expiry = now + EXPIRE_EVERY_S
        self._arm(now)
        return self._socket.local

    @property
    def port(self) -> int:
        """Where it is bound; 0 before `open`."""
        return self._socket.local[1] if self._socket is not None else 0

    def send(self, data: bytes, address: Address) -> None:
        """A datagram that is not discovery's, from the same port."""
        self._send(data, address)

    def send_many(self, datagrams: Sequence[bytes], address: Address) -> None:
        """As `send`, for several to one address."""
        if self._socket is not None:
            self.counters["bytes_sent"] += sum(map(len, datagrams))
            self._contacted.note(address[0])
            self._socket.send_many(datagrams, address)

    def close(self) -> None:
        """Ends all requests with `Notice.REFUSED` and closes the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._timer is not None:
            self._timer.cancel()
        waiting = self.requests.all()
        self.requests.give_up(waiting)
        for request in waiting:
            request.tell_notice(Notice.REFUSED)

    # -- asking ----------------------------------------------------------------------------------------------------

    def request(
        self,
        node_id: bytes,
        address: Address,
        body: rpc.Body,
        tell: Callable[[Session, int, bytes, float], object],
        tell_notice: Callable[[Notice | PeerFault], object],
        attempts: int = ATTEMPTS,
    ) -> None:
        """Asks without waiting. Exactly one of: `tell(session, kind, packed body, rtt_s)`, or `tell_notice` with TIMEOUT,
        REFUSED or the peer's fault; SLOW may come before. Both are called in the hub and must not wait. `node_id` may be
        ANY_ID. Refused at once: more than can be under way, and addresses that are not one host's."""
        if self._socket is None or not address[1] or not is_unicast(address[0]):
            tell_notice(Notice.REFUSED)
            return
        now = self._runtime.now()
        request_id = self.requests.new_id()
        message = rpc.pack_message(request_id, body)
        request = Request(request_id, node_id, address, message[0] + 1, message, tell, tell_notice)
        if not self.requests.begin(request, now, attempts):
            tell_notice(Notice.REFUSED)
            return
        self.counters["requests_sent"] += 1
        self._send(self.sessions.seal(node_id, address, message, now), address)
        self._arm(now)

    def ask(self, node_id: bytes, address: Address, body: rpc.Body, limit_s: float = ANSWER_LIMIT_S) -> Answer:
        """Asks and waits. Raises NegativeAnswer (code no_answer), PeerFault (wrong identity, refused, malformed answer)
        or Stopped."""
        outcomes = self._runtime.mailbox(4)
        self.request(node_id, address, body, lambda *answer: outcomes.put(answer), outcomes.put)
        deadline = self._runtime.now() + limit_s
        outcome: Any = Notice.SLOW
        while outcome is Notice.SLOW:
            try:
                outcome = outcomes.get(max(0.0, deadline - self._runtime.now()))
            except TimedOut:
                outcome = Notice.TIMEOUT
        if isinstance(outcome, PeerFault):
            raise outcome
        if self._socket is None:
            raise Stopped
        if isinstance(outcome, Notice):
            raise NegativeAnswer(f"no answer from {address[0]}:{address[1]} over UDP", code="no_answer")
        session, kind, packed, rtt_s = outcome
        return Answer(session, read_answer(kind, packed), rtt_s)

    # -- datagrams -------------------------------------------------------------------------------------------------

    def _datagram(self, data: bytes, address: Address) -> None:
        self._contacted.renew(address[0])
        if not data or data[0] not in packets.DISCOVERY_TYPES:
            self.other_traffic(data, address)
            return
        if data[0] == packets.KNOCK:
            self._knock(data, address)
            return
        now = self._runtime.now()
        if data[0] == packets.HAIL and address[0] not in self._contacted:
            self.strangers.hailed(address[0], now)
        received = self.sessions.receive(data, address, now, self._runtime.unix_time())
        if data[0] == packets.HANDSHAKE and received.session is not None:
            self.strangers.proved(address[0], now)
        for packet in received.replies:
            self._send(packet, address)
        if received.message and received.session is not None:
            self._message(received.session, received.message, now)
        elif received.lost is not None:
            self._begin_again(received.lost, now)
        elif received.refused is not None:
            self._refused(received, address)

    def _knock(self, data: bytes, address: Address) -> None:
        try:
            nonce = packets.unpack_knock(data)
        except WireError:
            self.counters["malformed"] += 1
            return
        self.on_knock(nonce, address, address[0] in self._contacted)

    def _message(self, session: Session, message: bytes, now: float) -> None:
        try:
            kind, request_id, packed = rpc.unpack_message(message)
            if rpc.is_request(kind):
                self._serve(session, kind, request_id, packed, now)
            else:
                self._answered(session, kind, request_id, packed, now)
        except PeerFault as error:
            self.counters["malformed"] += 1
            log.debug("discovery: %s from %s: %s", error.code, session.address, error)

    def _serve(self, session: Session, kind: int, request_id: int, packed: bytes, now: float) -> None:
        ip = session.address[0]
        if not self.request_budget.take(subnet_of(ip) or ip, now):
            self.sessions.dropped["requests over budget"] += 1
            return
        self.counters["requests_served"] += 1
        handler = self.handlers.get(kind)
        answer: rpc.Body
        if handler is None:
            answer = ErrorAnswer(ErrorCode.UNKNOWN_KIND, f"message kind {kind}")
        else:
            try:
                answer = handler(session, rpc.unpack_body(kind, packed))
            except WireError as error:
                self.counters["malformed"] += 1
                answer = ErrorAnswer(ErrorCode.MALFORMED, error.message[:200])
            except PeerFault as error:
                answer = ErrorAnswer(ErrorCode.REFUSED, error.message[:200])
        packet = self.sessions.reply(session, rpc.pack_message(request_id, answer), now)
        if len(packet) > packets.MAX_PACKET:
            raise AssertionError(f"an answer of {len(packet)} bytes to kind {kind}")
        self._send(packet, session.address)
        self.on_heard(session)

    def _answered(self, session: Session, kind: int, request_id: int, packed: bytes, now: float) -> None:
        request = self.requests.match(session.node_id, session.address, request_id, kind, now)
        if request is None:
            self.counters["unsolicited"] += 1
            return
        self.counters["answers"] += 1
        rtt_s = now - request.first_sent
        if request.attempts_made == 1:
            self.requests.measured(session.address, rtt_s)
        self.on_heard(session)
        request.tell(session, kind, packed, rtt_s)

    def _begin_again(self, session: Session, now: float) -> None:
        """The other side has lost the session (it restarted): what waits for it goes with a new handshake."""
        for request in self.requests.under_way_to(session.node_id, session.address):
            packet = self.sessions.restart(request.node_id, request.address, request.message, now)
            self._send(packet, request.address)

    def _refused(self, received: Received, address: Address) -> None:
        assert received.refused is not None
        node_id, fault = received.refused
        log.debug("discovery: %s at %s: %s", fault.code, address, fault)
        requests = [r for r in self.requests.under_way_to(node_id, address) if r.node_id == node_id]
        self.requests.give_up(requests)
        for request in requests:
            request.tell_notice(fault)
        if node_id != ANY_ID:
            self.on_failed(node_id, address)

    def _send(self, packet: bytes | None, address: Address) -> None:
        if packet is not None and self._socket is not None:
            self.counters["bytes_sent"] += len(packet)
            self._contacted.note(address[0])
            self._socket.send(packet, address)

    # -- timer -----------------------------------------------------------------------------------------------------

    def _arm(self, now: float) -> None:
        deadline = min(self.requests.next_deadline() or float("inf"), self._next_expiry)
        # A timer that fires early finds nothing to do and arms again; moving it for every request would cost more.
        if self._timer is not None and self._timer_at <= deadline + 0.01:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._runtime.call_later(max(0.0, deadline - now), self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._socket is None:
            return
        now = self._runtime.now()
        if now >= self._next_expiry:
            self.sessions.expire(now)
            self._contacted.age(now)
            self._next_expiry = now + EXPIRE_EVERY_S
        due = self.requests.due(now)
        for request in due.again:
            self.counters["retransmissions"] += 1
            packet = self.sessions.seal(request.node_id, request.address, request.message, now, retry=True)
            self._send(packet, request.address)
            if request.attempts_made == 2:
                request.tell_notice(Notice.SLOW)
        for request in due.given_up:
            self.counters["timeouts"] += 1
            self.on_failed(request.node_id, request.address)
            request.tell_notice(Notice.TIMEOUT)
        self._arm(now)


def read_answer(kind: int, packed: bytes) -> Any:
    """The body of an answer. Raises PeerFault: malformed, or the node refused."""
    answer = rpc.unpack_body(kind, packed)
    if isinstance(answer, ErrorAnswer):
        raise PeerFault(f"the node refused: {answer.text or answer.code}", code="refused")
    return answer


def _ignore(_: object) -> None:
    pass


def _ignore_failure(node_id: bytes, address: Address) -> None:
    pass


def _ignore_knock(nonce: bytes, address: Address, is_contacted: bool) -> None:
    pass


def _ignore_datagram(data: bytes, address: Address) -> None:
    pass
