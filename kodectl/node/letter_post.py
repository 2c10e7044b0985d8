"""Passing letters on: one hop, for this node and for others (docs/protocol.md, "Signalling").

to this node      handed to `on_arrival`
to a linked peer  over the link, or to where it has written from itself in this session
to who has asked  back by the way that the session's letters have come
by name           over UDP to the nodes that a linked peer without UDP names
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from kodectl.core.exchange import is_worth_telling, reach_of
from kodectl.core.limits import SharedBudget, TokenBucket
from kodectl.core.requests import Notice
from kodectl.core.session import Session
from kodectl.core.signal_routes import SignalRoutes, Way
from kodectl.core.table import subnet_of
from kodectl.errors import PeerFault
from kodectl.node.discovery import Discovery, read_answer
from kodectl.node.link_requests import LinkRequests
from kodectl.node.peer import Peer
from kodectl.node.peering import Peering
from kodectl.runtime.base import Mailbox, Runtime, TimedOut
from kodectl.wire import rpc
from kodectl.wire.contacts import unpack_contacts
from kodectl.wire.rpc import Signal, SignalStatus

MAX_HOPS = 3
"""A sender without UDP, its peer, the target's rendezvous node, the target: passed on twice. Letters cannot go in circles."""
MAX_VIA = 2
STRANGER_LIMIT_S = 4.0
"""For nodes that a peer names to answer; discovery gives up then too."""
LINK_LIMIT_S = 6.0
"""For a peer's answer, who may have to wait for such a node."""
SOURCE_PER_S = 10.0
SOURCE_BURST = 60.0
"""Letters of one peer over its link, or of one network over UDP: four connections a second."""
LETTERS_PER_S = 200.0
LETTERS_BURST = 600.0
"""Of all; each costs some tens of microseconds, and one packet."""
SOURCE_BEGUN_PER_S = 0.5
SOURCE_BEGUN_BURST = 4.0
"""Sessions of one source with one target: one attempt takes one. Whoever floods a target leaves most of it to others."""
BEGUN_PER_S = 10.0
BEGUN_BURST = 40.0
"""Sessions with one target; letters of sessions that are under way are not counted."""
ALL_BEGUN_PER_S = 50.0
ALL_BEGUN_BURST = 200.0
NAMED_PER_S = 2.0
NAMED_BURST = 20.0
"""Letters of one peer that are to go over UDP to nodes it names: each may cost a handshake with a stranger."""
ALL_NAMED_PER_S = 20.0
ALL_NAMED_BURST = 100.0

PASSED = (SignalStatus.FORWARDED, SignalStatus.DELIVERED)

Tell = Callable[[SignalStatus | None], object]
"""Hears once what became of a letter on its next hop; None: no answer, or one that says nothing."""


class LetterPost:
    """Nothing waits but what is done for peers without UDP, in tasks of `link_requests`."""

    def __init__(
        self,
        runtime: Runtime,
        discovery: Discovery,
        peering: Peering,
        link_requests: LinkRequests,
        has_udp: Callable[[], bool],
    ) -> None:
        self.on_arrival: Callable[[Way, Signal], SignalStatus] = lambda way, signal: SignalStatus.NOT_THERE
        self.routes = SignalRoutes()
        self.counters: Counter[str] = Counter()
        self._runtime = runtime
        self._discovery = discovery
        self._peering = peering
        self._link_requests = link_requests
        self._has_udp = has_udp
        self._own_id = discovery.identity.node_id
        self._sources = SharedBudget(TokenBucket(LETTERS_PER_S, LETTERS_BURST), SOURCE_PER_S, SOURCE_BURST)
        all_begun = TokenBucket(ALL_BEGUN_PER_S, ALL_BEGUN_BURST)
        self._pairs = SharedBudget(all_begun, SOURCE_BEGUN_PER_S, SOURCE_BEGUN_BURST)
        self._targets = SharedBudget(TokenBucket(ALL_BEGUN_PER_S, ALL_BEGUN_BURST), BEGUN_PER_S, BEGUN_BURST)
        self._named = SharedBudget(TokenBucket(ALL_NAMED_PER_S, ALL_NAMED_BURST), NAMED_PER_S, NAMED_BURST)
        discovery.handlers[rpc.Kind.SIGNAL] = self._from_udp
        link_requests.quick_handlers[rpc.Kind.SIGNAL] = self._from_link
        link_requests.handlers[rpc.Kind.SIGNAL] = self._for_peer
        peering.on_disconnected.append(lambda peer: self.routes.link_lost(peer.node_id))

    # -- sending ---------------------------------------------------------------------------------------------------

    def linked(self, node_id: bytes) -> Peer | None:
        peer = self._peering.links.get(node_id)
        return peer if peer is not None and not peer.link.closed else None

    def is_linked_over_tcp(self, node_id: bytes) -> bool:
        peer = self.linked(node_id)
        return peer is not None and peer.route.transport == "tcp"

    def send(self, way: Way, signal: Signal, tell: Tell) -> None:
        if way.address is not None:
            self._discovery.request(
                way.node_id,
                way.address,
                signal,
                lambda session, kind, packed, rtt_s: tell(_status(_read(kind, packed))),
                lambda notice: None if notice is Notice.SLOW else tell(None),
            )
            return
        peer = self.linked(way.node_id)
        if peer is None:
            tell(SignalStatus.NOT_THERE)
        else:
            self._link_requests.request(peer, signal, lambda outcome: tell(_status(outcome)), LINK_LIMIT_S)

    # -- what comes ------------------------------------------------------------------------------------------------

    def _from_udp(self, session: Session, signal: Signal) -> rpc.Signalled:
        return rpc.Signalled(self._take(Way(session.node_id, session.address), signal))

    def _from_link(self, peer: Peer, signal: Signal) -> rpc.Signalled | None:
        """None: to be handed to the nodes that the peer names, who are waited for."""
        way = Way(peer.node_id)
        if signal.via and signal.target != self._own_id and self._onward(way, signal) is None:
            return None
        return rpc.Signalled(self._take(way, signal))

    def _take(self, way: Way, signal: Signal) -> SignalStatus:
        """Raises PeerFault for what no honest node sends."""
        _require_honest(way, signal)
        now = self._runtime.now()
        if not self._sources.take(_source_of(way), now):
            status = SignalStatus.BUSY
        elif signal.target == self._own_id:
            status = self.on_arrival(way, signal)
        else:
            status = self._pass_on(way, signal, now)
        self.counters[status.name.lower()] += 1
        return status

    def _pass_on(self, way: Way, signal: Signal, now: float) -> SignalStatus:
        onward = self._onward(way, signal)
        if onward is None:
            return SignalStatus.NOT_THERE
        if not self._admit(way, signal, now):
            return SignalStatus.BUSY
        self.send(onward, _passed_on(signal), self._route_checker(signal, onward))
        return SignalStatus.FORWARDED

    def _onward(self, way: Way, signal: Signal) -> Way | None:
        route = self.routes.find(signal.target, signal.session, self._runtime.now())
        # Whoever writes past its link does so because that may be dead: nobody has noticed yet.
        is_its_own = route is not None and route.node_id == signal.target
        if self.linked(signal.target) is not None and not is_its_own:
            return Way(signal.target)
        return route if route is not None and route.node_id != way.node_id else None

    def _admit(self, way: Way, signal: Signal, now: float) -> bool:
        """Notes the way back; false where too many sessions begin with this target."""
        is_under_way = self.routes.find(signal.sender, signal.session, now) is not None
        target = signal.target.hex()
        pair = f"{_source_of(way)} {target}"
        if not is_under_way and not (self._pairs.take(pair, now) and self._targets.take(target, now)):
            return False
        self.routes.learn(signal.sender, signal.session, way, now)
        return True

    def _route_checker(self, signal: Signal, way: Way) -> Tell:
        def tell(status: SignalStatus | None) -> None:
            if status not in PASSED:
                self.counters["lost"] += 1
                self.routes.forget(signal.target, signal.session, way)

        return tell

    # -- for peers without UDP -------------------------------------------------------------------------------------

    def _for_peer(self, peer: Peer, signal: Signal) -> rpc.Signalled:
        """Waits for what becomes of it at the nodes that the peer names."""
        way = Way(peer.node_id)
        _require_honest(way, signal)
        status = self._hand_over(peer, way, signal)
        self.counters[status.name.lower()] += 1
        return rpc.Signalled(status)

    def _hand_over(self, peer: Peer, way: Way, signal: Signal) -> SignalStatus:
        now = self._runtime.now()
        named = self._named_by(peer, signal.via) if self._has_udp() and not signal.hops else []
        if not named:
            return SignalStatus.NOT_THERE
        if not (self._sources.take(_source_of(way), now) and self._named.take(_source_of(way), now)):
            return SignalStatus.BUSY
        if not self._admit(way, signal, now):
            return SignalStatus.BUSY
        answers = self._runtime.mailbox(len(named))
        for one in named:
            self.send(one, _passed_on(signal), answers.put)
        return self._best(answers, len(named))

    def _best(self, answers: Mailbox[SignalStatus | None], count: int) -> SignalStatus:
        """The first that has taken it; else what one of the others says."""
        said = SignalStatus.NOT_THERE
        deadline = self._runtime.now() + STRANGER_LIMIT_S
        for _ in range(count):
            try:
                status = answers.get(max(0.0, deadline - self._runtime.now()))
            except TimedOut:
                return SignalStatus.BUSY
            if status in PASSED:
                return SignalStatus.FORWARDED
            said = SignalStatus.BUSY if status is not SignalStatus.NOT_THERE else said
        return said

    def _named_by(self, peer: Peer, via: bytes) -> list[Way]:
        """Raises WireError."""
        # Whoever is far away must not make this node write into its own network.
        reach = reach_of(peer.remote[0])
        own = (self._own_id, peer.node_id)
        contacts = [
            contact
            for contact in unpack_contacts(via, rpc.MAX_VIA_CONTACTS)
            if is_worth_telling(contact.ip, reach) and contact.node_id not in own
        ]
        return [
            Way(contact.node_id, None if self.linked(contact.node_id) is not None else contact.address)
            for contact in contacts[:MAX_VIA]
        ]


def _require_honest(way: Way, signal: Signal) -> None:
    """Raises PeerFault."""
    if not signal.hops and signal.sender != way.node_id:
        raise PeerFault("a letter of somebody else", code="refused")
    if signal.hops >= MAX_HOPS:
        raise PeerFault(f"a letter that was passed on {signal.hops} times", code="refused")


def _passed_on(signal: Signal) -> Signal:
    passed_on: Signal = msgspec.structs.replace(signal, hops=signal.hops + 1, via=b"")
    return passed_on


def _source_of(way: Way) -> str:
    subnet = subnet_of(way.address[0]) if way.address is not None else None
    return subnet or way.node_id.hex()


def _read(kind: int, packed: bytes) -> Any:
    try:
        return read_answer(kind, packed)
    except PeerFault as fault:
        return fault


def _status(outcome: Any) -> SignalStatus | None:
    """None for errors, and for a status of a later version."""
    if isinstance(outcome, rpc.Signalled) and outcome.status in SignalStatus.__members__.values():
        return SignalStatus(outcome.status)
    return None
