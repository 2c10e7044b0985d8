"""Passing letters on: one hop, for this node and for others (docs/protocol.md, "Signalling").

to this node      handed to `on_arrival`
to a linked peer  over the link
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
from kodectl.runtime.base import Runtime
from kodectl.wire import rpc
from kodectl.wire.contacts import unpack_contacts
from kodectl.wire.rpc import Signal, SignalStatus

MAX_HOPS = 3
"""A sender without UDP, its peer, the target's rendezvous node, the target: passed on twice. Letters cannot go in circles."""
MAX_VIA = 2
HOP_LIMIT_S = 4.0
"""For a link's answer; discovery gives strangers as long."""
SOURCE_PER_S = 10.0
SOURCE_BURST = 60.0
"""Letters of one peer over its link, or of one network over UDP: four connections a second."""
LETTERS_PER_S = 200.0
LETTERS_BURST = 600.0
"""Of all; each costs some tens of microseconds, and one packet."""
BEGUN_PER_S = 4.0
BEGUN_BURST = 24.0
"""Sessions with one target; letters of sessions that are under way are not counted."""
ALL_BEGUN_PER_S = 50.0
ALL_BEGUN_BURST = 200.0
NAMED_PER_S = 2.0
NAMED_BURST = 20.0
"""Letters of one peer that are to go over UDP to nodes it names: each may cost a handshake with a stranger."""
ALL_NAMED_PER_S = 20.0
ALL_NAMED_BURST = 100.0

Tell = Callable[[SignalStatus | None], object]
"""Hears once what became of a letter on its next hop; None: no answer, or one that says nothing."""


class LetterPost:
    """Nothing waits. What it drops is counted."""

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
        self._targets = SharedBudget(TokenBucket(ALL_BEGUN_PER_S, ALL_BEGUN_BURST), BEGUN_PER_S, BEGUN_BURST)
        self._named = SharedBudget(TokenBucket(ALL_NAMED_PER_S, ALL_NAMED_BURST), NAMED_PER_S, NAMED_BURST)
        discovery.handlers[rpc.Kind.SIGNAL] = self._from_udp
        link_requests.quick_handlers[rpc.Kind.SIGNAL] = self._from_link
        peering.on_disconnected.append(lambda peer: self.routes.link_lost(peer.node_id))

    # -- sending ---------------------------------------------------------------------------------------------------

    def linked(self, node_id: bytes) -> Peer | None:
        peer = self._peering.links.get(node_id)
        return peer if peer is not None and not peer.link.closed else None

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
            self._link_requests.request(peer, signal, lambda outcome: tell(_status(outcome)), HOP_LIMIT_S)

    # -- what comes ------------------------------------------------------------------------------------------------

    def _from_udp(self, session: Session, signal: Signal) -> rpc.Signalled:
        return rpc.Signalled(self._take(Way(session.node_id, session.address), signal))

    def _from_link(self, peer: Peer, signal: Signal) -> rpc.Signalled:
        return rpc.Signalled(self._take(Way(peer.node_id), signal))

    def _take(self, way: Way, signal: Signal) -> SignalStatus:
        """Raises PeerFault for what no honest node sends."""
        if not signal.hops and signal.sender != way.node_id:
            raise PeerFault("a letter of somebody else", code="refused")
        if signal.hops >= MAX_HOPS:
            raise PeerFault(f"a letter that was passed on {signal.hops} times", code="refused")
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
        onward = self._onward(way, signal, now)
        if not onward:
            return SignalStatus.NOT_THERE
        is_under_way = self.routes.find(signal.sender, signal.session, now) is not None
        if not is_under_way and not self._targets.take(signal.target.hex(), now):
            return SignalStatus.BUSY
        self.routes.learn(signal.sender, signal.session, way, now)
        passed_on = msgspec.structs.replace(signal, hops=signal.hops + 1, via=b"")
        for one in onward:
            self.send(one, passed_on, self._route_checker(signal, one))
        return SignalStatus.FORWARDED

    def _route_checker(self, signal: Signal, way: Way) -> Tell:
        def tell(status: SignalStatus | None) -> None:
            if status not in (SignalStatus.FORWARDED, SignalStatus.DELIVERED):
                self.counters["lost"] += 1
                self.routes.forget(signal.target, signal.session, way)

        return tell

    def _onward(self, way: Way, signal: Signal, now: float) -> list[Way]:
        if self.linked(signal.target) is not None:
            return [Way(signal.target)]
        route = self.routes.find(signal.target, signal.session, now)
        if route is not None and route.node_id != way.node_id:
            return [route]
        if signal.via and not signal.hops and way.address is None and self._has_udp():
            return self._named_by(way, signal.via, now)
        return []

    def _named_by(self, way: Way, via: bytes, now: float) -> list[Way]:
        """Raises WireError."""
        peer = self.linked(way.node_id)
        if peer is None or not self._named.take(way.node_id.hex(), now):
            return []
        # Whoever is far away must not make this node write into its own network.
        reach = reach_of(peer.remote[0])
        contacts = unpack_contacts(via, rpc.MAX_VIA_CONTACTS)
        usable = [
            contact
            for contact in contacts
            if is_worth_telling(contact.ip, reach) and contact.node_id not in (self._own_id, way.node_id)
        ]
        return [
            Way(contact.node_id, None if self.linked(contact.node_id) is not None else contact.address)
            for contact in usable[:MAX_VIA]
        ]


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
