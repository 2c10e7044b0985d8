"""From a node id to a stream, whatever NATs lie between: finding, signalling, ICE, QUIC; and the same for who asks us.

locate     who knows it: the table, and the record that names its rendezvous nodes
tcp        strangers get through to it: it is dialled
signal     an offer through its rendezvous nodes, and its answer
path       ICE finds a pair that works, a relay's perhaps
quic       a stream over it, which moves to every better path from then on
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn, Protocol

from kodectl.core.exchange import Reach, is_worth_telling, reach_of
from kodectl.core.ice.allowance import Allowance
from kodectl.core.limits import SharedBudget, TokenBucket
from kodectl.core.quic_paths import Path
from kodectl.core.traversal_plan import Side, plan
from kodectl.errors import NegativeAnswer, WireError
from kodectl.node.dialling import Place
from kodectl.node.discovery import Discovery
from kodectl.node.events import Events
from kodectl.node.ice import Allocate, IceTerms, new_credentials
from kodectl.node.ice_stream import PathBook
from kodectl.node.ice_watch import InterfaceWatch
from kodectl.node.lookups import enode_of
from kodectl.node.multiplexer import Multiplexer
from kodectl.node.passage import Passage, SharedBase
from kodectl.node.quic import QuicEndpoint
from kodectl.node.quic_stream import QuicStream
from kodectl.node.relay_pool import RelayPool
from kodectl.node.routes import Route
from kodectl.node.signalling import Conversation, Located, Signalling
from kodectl.node.situation import Situation
from kodectl.node.spraying import SprayRoom
from kodectl.node.stream_race import NoWay, Reached, first_of
from kodectl.runtime.base import Address, ConnectFailed, Connection, Runtime, Scope, Stopped, Stream
from kodectl.wire.addresses import address_text, scope_of
from kodectl.wire.contacts import Contact
from kodectl.wire.enode import Enode
from kodectl.wire.offers import Offer, OfferKind

log = logging.getLogger(__name__)

LOCATE_LIMIT_S = 10.0
"""Of a lookup on the way to a connection, whatever time the whole may take."""
TCP_LIMIT_S = 4.0
OUTER_PORT_LIMIT_S = 1.5
"""A look of `outer_port` and a round trip, in the first moments of a node; without it there is no TCP punch, and a relay for
good."""
DIAL_BACK_LIMIT_S = 8.0
"""For a peer that has been asked to dial: a connection with a lost SYN, and a handshake."""
MAX_PASSAGES = 128
"""Of both directions: more than twice the peers that a node has."""
OFFERS_PER_S = 4.0
OFFER_BURST = 32.0
"""Answered ones, of all peers together: each may cost a relay's allocation and some checks."""

PUNCHES_PER_S, PUNCH_BURST = 1.0, 20.0
"""TCP punches, and dials, that peers ask of this node."""
ADDRESS_PUNCHES_PER_S, ADDRESS_PUNCH_BURST = 0.1, 8.0
"""Of them those at one address: two connections' worth, and one every 10 s. A peer may name somebody else's, who gets up to
a thousand SYNs then: little beside what it could send there itself, and it has to stay so however often it asks."""
_NOWHERE = ("unspecified", "loopback", "multicast")

LINGER_S = 10.0
"""For the last word of a conversation to be taken."""


class Links(Protocol):
    """What is done with streams, and with peers that are told to come. Only `await_link` waits."""

    def accept(self, stream: Stream, expected_id: bytes | None = None) -> None: ...
    def dial(self, target: Enode) -> None: ...
    def await_link(self, node_id: bytes, limit_s: float) -> bool: ...
    def is_banned(self, node_id: bytes) -> bool: ...
    @property
    def tcp_port(self) -> int: ...
    def make_way(self, remote: Address) -> None: ...


class Traversal:
    """Opens streams to peers that cannot be dialled, and takes those of others. Nothing waits but `reach`."""

    def __init__(
        self,
        runtime: Runtime,
        scope: Scope,
        events: Events,
        discovery: Discovery,
        multiplexer: Multiplexer,
        signalling: Signalling,
        relays: RelayPool,
        situation: Situation,
        links: Links,
    ) -> None:
        self.runtime = runtime
        self.scope = scope
        self.multiplexer = multiplexer
        self.situation = situation
        self.paths = PathBook(multiplexer.path_to, discovery.send_many)
        self.spray_room = SprayRoom()
        total = TokenBucket(PUNCHES_PER_S, PUNCH_BURST)
        self.punch_budget = SharedBudget(total, ADDRESS_PUNCHES_PER_S, ADDRESS_PUNCH_BURST)
        self._own_checks, self._asked_checks = Allowance(), Allowance()
        """Others cannot use up what this node needs to connect."""
        self.counters: Counter[str] = Counter()
        self._events = events
        self._discovery = discovery
        self._signalling = signalling
        self._relays = relays
        self._links = links
        self._passages: dict[Passage, None] = {}
        """In the order that they were begun in, so that the same seed gives the same run."""
        self._offers = TokenBucket(OFFERS_PER_S, OFFER_BURST)
        self._interfaces = InterfaceWatch(runtime, scope)
        signalling.on_offer = self._offered

    def start(self) -> None:
        """After discovery is bound."""
        self.endpoint = QuicEndpoint(self.runtime, self.scope, self._opened, self.paths.send)
        self.multiplexer.quic = self.endpoint
        self._interfaces.start()

    # -- this side asks --------------------------------------------------------------------------------------------

    def reach(self, node_id: bytes, at: Callable[[str], None], tried: Place | None = None) -> Reached:
        """Waits. Raises ConnectFailed, or Stopped. See `dialling.Reach`."""

        def now_at(stage: str) -> None:
            at(stage)
            self._events.emit("connecting", id=node_id.hex(), stage=stage)

        now_at("locate")
        located = self._locate(node_id)
        contact = located.contact
        if contact is None or not contact.tcp_port or (contact.ip, contact.tcp_port) == tried:
            return self._reach_by_signals(node_id, located, now_at)
        ways = partial(self._reach_over_tcp, contact, now_at), partial(self._reach_by_signals, node_id, located, now_at)
        try:
            return first_of(self.runtime, self.scope, f"reach {node_id.hex()[:8]}", ways)
        except NoWay as none:
            over_tcp, by_signals = none.failures
            if located.rendezvous:
                raise by_signals from none
            # What the table has of a node that has just learnt that it is behind a NAT may be of before; this one was just away.
            at("tcp")
            raise over_tcp from none

    def _reach_by_signals(self, node_id: bytes, located: Located, at: Callable[[str], None]) -> Reached:
        at("signal")
        return self._reach_through(self._signalling.open(node_id, located), at)

    def _reach_through(self, conversation: Conversation, at: Callable[[str], None]) -> Reached:
        passage = self._passage(conversation, self._needs_relay, is_controlling=True)
        self.counters["begun"] += 1
        try:
            reached = self._pass_through(passage, at)
            self.counters[passage.route().path] += 1
        except BaseException:
            self.counters["failed"] += 1
            passage.close()
            raise
        return reached

    def _locate(self, node_id: bytes) -> Located:
        try:
            return self._signalling.locate(node_id, LOCATE_LIMIT_S)
        except NegativeAnswer as error:
            raise ConnectFailed("unreachable", error.message) from error

    def _reach_over_tcp(self, contact: Contact, at: Callable[[str], None]) -> Reached:
        at("tcp")
        return Reached(self.runtime.connect((contact.ip, contact.tcp_port), TCP_LIMIT_S), enode_of(contact))

    def _pass_through(self, passage: Passage, at: Callable[[str], None]) -> Reached:
        if self.situation.is_udp_blocked:
            self.situation.await_tcp_seen(OUTER_PORT_LIMIT_S)
        self.scope.spawn(f"offer to {passage.peer_id.hex()[:8]}", passage.gather, OfferKind.OFFER)
        answer = passage.await_answer()
        agreed = plan(self._own_side(), self._side_of(answer), is_initiator=True)
        if agreed.responder_dials:
            at("dial_back")
            self._await_dial_back(passage.peer_id)
        at("path")
        try:
            passage.take(answer)
        except WireError as error:
            raise ConnectFailed("refused", f"its answer makes no sense: {error.message}") from error
        passage.follow(agreed, answer)
        passage.await_path()
        at("quic")
        stream = passage.open_stream()
        return Reached(stream, Enode(passage.peer_id, stream.remote[0], 0, 0))

    def _await_dial_back(self, node_id: bytes) -> NoReturn:
        """The link is made by the other side; this dial then is the one too many."""
        if self._links.await_link(node_id, DIAL_BACK_LIMIT_S):
            raise ConnectFailed("duplicate_connection", "it has dialled this node")
        raise ConnectFailed("timeout", "it wanted to dial this node, and did not come")

    # -- others ask ------------------------------------------------------------------------------------------------

    def _offered(self, conversation: Conversation, offer: Offer) -> None:
        """In the hub."""
        refused = self._why_not(conversation.peer_id)
        if refused is not None:
            self._refuse(conversation, refused)
            return
        self.counters["offers_taken"] += 1
        try:
            self.scope.spawn(f"answer {conversation.peer_id.hex()[:8]}", self._answer, conversation, offer)
        except Stopped:
            conversation.close()

    def _refuse(self, conversation: Conversation, why: str) -> None:
        self.counters[f"refused_{why}"] += 1
        conversation.send(Offer.refusal(why))
        conversation.close()

    def _why_not(self, peer_id: bytes) -> str | None:
        if self._links.is_banned(peer_id):
            return "banned"
        if len(self._passages) >= MAX_PASSAGES or not self._offers.take(self.runtime.now()):
            return "busy"
        return None

    def _answer(self, conversation: Conversation, offer: Offer) -> None:
        if self.situation.is_udp_blocked or offer.hint.is_udp_blocked:
            self.situation.await_tcp_seen(OUTER_PORT_LIMIT_S)
        agreed = plan(self._own_side(), self._side_of(offer), is_initiator=False)
        if agreed.responder_dials and offer.tcp is not None:
            if not self.punch_budget.take(offer.tcp[0], self.runtime.now()):
                self._refuse(conversation, "busy")
                return
            conversation.send(self._bare_answer())
            self._links.dial(Enode(conversation.peer_id, offer.tcp[0], offer.tcp[1], 0))
            self.runtime.call_later(LINGER_S, conversation.close)
            return
        # Who sprays, or foretells ports, has to know by its own relay where the other one really is.
        needs_relay = self.situation.is_udp_blocked or agreed.predicts or agreed.spray is not None
        passage = self._passage(conversation, needs_relay, is_controlling=False)
        try:
            passage.take(offer)
        except WireError as error:
            log.debug("offer of %s: %s", conversation.peer_id.hex(), error)
            passage.close()
            return
        passage.follow(agreed, offer)
        passage.give_up_unless_used()
        passage.gather(OfferKind.ANSWER)

    def _bare_answer(self) -> Offer:
        """Without candidates: this side dials."""
        own = self._own_side()
        ufrag, password = new_credentials(self.runtime)
        return Offer(OfferKind.ANSWER, ufrag, password, (), True, own.hint, own.tcp, own.tcp_seen)

    def _opened(self, stream: QuicStream) -> None:
        """A QUIC connection of somebody whom ICE has heard."""
        passage = self._passage_of(stream.path)
        carried = passage.carry(stream) if passage is not None else None
        if passage is None or carried is None:
            self.counters["stray_connections"] += 1
            stream.close()
        else:
            self._links.accept(carried, passage.peer_id)

    def _passage_of(self, path: Path) -> Passage | None:
        """Where both sides have asked at once there are two, with the same peer, from the same address."""
        base = self.paths.base_of(path)
        for passage in self._passages:
            if not passage.may_carry:
                continue
            if base in passage.session.bases if base is not None else passage.knows_source(path.remote):
                return passage
        return None

    def claims(self, stream: Connection) -> bool:
        """Whether a connection that the listener has got is one that is dialled for at the same time."""
        return any(passage.side_ways.accepted(stream) for passage in self._passages)

    # -- what passages ask for -------------------------------------------------------------------------------------

    def relays(self) -> Sequence[Allocate]:
        return self._relays.allocators(over_tcp=self.situation.is_udp_blocked, is_urgent=True)

    def tcp_port(self) -> int:
        return self._links.tcp_port

    def outer_tcp_port(self, port: int) -> Address | None:
        return self.situation.outer_tcp_port(port)

    def make_way(self, remote: Address) -> None:
        self._links.make_way(remote)

    def source(self) -> str:
        return self.situation.source()

    def outer_ip(self) -> str | None:
        seen = self.situation.reflexive()
        return seen[0][0] if seen is not None else None

    def observers(self) -> Sequence[Address]:
        return self.situation.observers()

    # -- passages --------------------------------------------------------------------------------------------------

    @property
    def _needs_relay(self) -> bool:
        return not self.situation.is_open

    def _passage(self, conversation: Conversation, needs_relay: bool, *, is_controlling: bool) -> Passage:
        if self.scope.closed:  # while it was located, or asked
            conversation.end()
            raise Stopped
        situation = self.situation
        is_blocked = situation.is_udp_blocked
        shared = None if is_blocked else SharedBase(self._discovery, situation.source())
        relays = self._relays.allocators(over_tcp=is_blocked) if needs_relay else ()
        families = (4, 6) if self.runtime.local_network().source6 is not None else (4,)
        terms = IceTerms(
            is_controlling,
            relays=relays,
            families=families,
            is_relay_only=is_blocked,
            shared=shared,
            interfaces=self._interfaces,
            may_check=(self._own_checks if is_controlling else self._asked_checks).may_check,
        )
        passage = Passage(self, conversation, terms, shared)
        self._passages[passage] = None
        return passage

    def _own_side(self) -> Side:
        situation = self.situation
        return Side(situation.hint(), situation.tcp(), situation.tcp_seen())

    def _side_of(self, offer: Offer) -> Side:
        """Whoever is far away must not make this node dial into its own network."""
        seen = self.situation.tcp_seen()
        ip = seen[0] if seen is not None else self.outer_ip()
        return side_of(offer, reach_of(ip) if ip is not None else Reach.PRIVATE)

    def moved(self, passage: Passage) -> None:
        route = passage.route()
        log.info("peer %s: %s", passage.peer_id.hex(), words_of(route))
        self._events.emit("path_changed", id=passage.peer_id.hex(), **described(route))

    def ended(self, passage: Passage) -> None:
        self._passages.pop(passage, None)


def side_of(offer: Offer, reach: Reach = Reach.PRIVATE) -> Side:
    """`reach`: from how far away this node is seen."""
    return Side(offer.hint, _elsewhere(offer.tcp, reach), _elsewhere(offer.tcp_seen, reach))


def _elsewhere(address: Address | None, reach: Reach) -> Address | None:
    """What a peer says is dialled: no service of this machine, and nothing that is no place of a node."""
    if address is None or not address[1] or scope_of(address[0]) in _NOWHERE:
        return None
    return address if is_worth_telling(address[0], reach) else None


def described(route: Route) -> dict[str, str | None]:
    """For an event."""
    local, remote = route.local, route.remote
    return {
        "path": route.path,
        "transport": route.transport,
        "local": address_text(*local.address) if local is not None else None,
        "local_type": local.type.value if local is not None else None,
        "remote": address_text(*remote.address) if remote is not None else None,
        "remote_type": remote.type.value if remote is not None else None,
    }


def words_of(route: Route) -> str:
    told = described(route)
    return f"{route.path} path, {told['local_type']} {told['local']} to {told['remote_type']} {told['remote']}"
