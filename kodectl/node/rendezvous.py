"""The nodes through which this one can be written to while strangers cannot reach it.

They are peers that it has dialled anyway, and that others reach as well. A signed record under this node's id names them;
when a link ends another one takes its place, and the record is published anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from kodectl.core.exchange import Reach, reach_of
from kodectl.core.publication import Publication, Publisher
from kodectl.core.table import subnet_of
from kodectl.errors import KodectlError
from kodectl.node.link_requests import LinkRequests
from kodectl.node.peer import Peer
from kodectl.node.peering import Peering
from kodectl.node.values import Values
from kodectl.runtime.base import Runtime, Scope
from kodectl.wire import rpc
from kodectl.wire.contacts import Contact
from kodectl.wire.presence import MAX_RENDEZVOUS, pack_presence
from kodectl.wire.rpc import Signal, StoreStatus

log = logging.getLogger(__name__)

WANTED = MAX_RENDEZVOUS
"""One more than the three that there are to be: when one goes, nothing is missing while another is found."""
ECHO_LIMIT_S = 2.0
ECHO_EVERY_S = 120.0
RETRY_S = 60.0
"""Before a peer that passed nothing on is tried again."""
LOOK_EVERY_S = 2.0
"""Whether it is still needed; links that come and go are heard of at once."""
STORE_LIMIT_S = 15.0
"""For a peer to look up who is to hold a record, and to write it there."""
DELEGATES = 2
"""Peers that store the record for a node without UDP: one of them may not do what it says."""


class Rendezvous:
    """Keeps them, and the record; a task of `scope`. `is_needed`: strangers do not get through to this node over TCP."""

    def __init__(
        self,
        runtime: Runtime,
        scope: Scope,
        peering: Peering,
        values: Values,
        link_requests: LinkRequests,
        is_needed: Callable[[], bool],
        has_udp: Callable[[], bool],
    ) -> None:
        self._runtime = runtime
        self._scope = scope
        self._peering = peering
        self._values = values
        self._link_requests = link_requests
        self._is_needed = is_needed
        self._has_udp = has_udp
        self._own_id = values.own_id
        self._chosen: dict[Peer, float] = {}
        """And when they last passed something on."""
        self._useless: dict[Peer, float] = {}
        """And when to try them again."""
        self._echoes: dict[tuple[bytes, bytes], Peer] = {}
        """By node id and session, of the letters to this node itself that are under way."""
        self._passing: set[Peer] = set()
        """Who has brought one back."""
        self._echo = runtime.event()
        self._publisher = Publisher()
        self._is_publishing = False
        self._news = runtime.event()
        peering.on_connected.append(self._linked)
        peering.on_disconnected.append(self._unlinked)

    def start(self) -> None:
        self._scope.on_close(self._news.set)
        self._scope.on_close(self._echo.set)
        self._scope.spawn("rendezvous", self._keep)

    def nodes(self) -> list[Peer]:
        """Linked now, and known to pass letters on."""
        return [peer for peer in self._chosen if not peer.link.closed]

    @property
    def is_told(self) -> bool:
        """Whether a record that names somebody is out."""
        return bool(self._publisher.told)

    def _linked(self, peer: Peer) -> None:
        self._news.set()

    def _unlinked(self, peer: Peer) -> None:
        self._useless.pop(peer, None)
        if self._chosen.pop(peer, None) is not None:
            self._news.set()

    # -- the task --------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        while not self._scope.closed:
            self._news.clear()
            is_needed = self._is_needed()
            if is_needed:
                self._choose()
            else:
                self._chosen.clear()
            self._publisher.want(self._contacts(), is_needed=is_needed, now=self._runtime.now())
            publication = self._publisher.due(self._runtime.now())
            if publication is not None and not self._is_publishing:
                self._is_publishing = True
                self._scope.spawn("presence", self._publish, publication)
            self._news.wait(self._pause_s())

    def _pause_s(self) -> float:
        deadline = self._publisher.next_deadline()
        if deadline is None or self._is_publishing:
            return LOOK_EVERY_S
        return min(LOOK_EVERY_S, max(0.0, deadline - self._runtime.now()))

    def _contacts(self) -> tuple[Contact, ...]:
        named = [
            Contact(peer.node_id, peer.remote[0], peer.hello.ports.udp, peer.hello.ports.tcp) for peer in self.nodes()
        ]
        return tuple(sorted(named, key=lambda contact: contact.node_id))

    # -- choosing --------------------------------------------------------------------------------------------------

    def _choose(self) -> None:
        """Waits for those that are tried, for ECHO_LIMIT_S at most."""
        now = self._runtime.now()
        usable = [peer for peer in self._peering.links.values() if self._is_usable(peer, now)]
        # A neighbour behind the same NAT is no help to those in front of it; where there are only neighbours, they are.
        farthest = max((reach_of(peer.remote[0]) for peer in usable), default=Reach.LOOPBACK)
        usable = [peer for peer in usable if reach_of(peer.remote[0]) is farthest]
        self._chosen = {peer: since for peer, since in self._chosen.items() if peer in usable}
        asked = [peer for peer, since in self._chosen.items() if now - since >= ECHO_EVERY_S]
        asked += _best([peer for peer in usable if peer not in self._chosen], list(self._chosen))
        passing = self._try(asked)
        now = self._runtime.now()
        for peer in asked:
            if peer.link.closed:
                continue
            if peer in passing:
                self._chosen[peer] = now
            else:
                log.debug("peer %s passes no letters on", peer.node_id.hex())
                self._chosen.pop(peer, None)
                self._useless[peer] = now + RETRY_S

    def _is_usable(self, peer: Peer, now: float) -> bool:
        ports = peer.hello.ports
        return (
            self._useless.get(peer, now) <= now
            and not peer.link.closed
            and peer.outbound
            and peer.route.transport == "tcp"
            and ports.tcp > 0
            and ports.udp > 0
        )

    # -- trying ----------------------------------------------------------------------------------------------------

    def _try(self, peers: list[Peer]) -> set[Peer]:
        """Those that bring a letter to this node itself back to it. Waits."""
        self._echoes = {}
        for peer in peers:
            session = self._runtime.random_bytes(rpc.SESSION_SIZE)
            self._echoes[peer.node_id, session] = peer
            signal = Signal(self._own_id, self._own_id, session, 0, b"", b"")
            self._link_requests.request(peer, signal, _ignore_outcome, ECHO_LIMIT_S)
        deadline = self._runtime.now() + ECHO_LIMIT_S
        self._passing = set()
        while self._echoes and not self._scope.closed and self._runtime.now() < deadline:
            self._echo.clear()
            self._echo.wait(deadline - self._runtime.now())
        return self._passing

    def echoed(self, node_id: bytes, session: bytes) -> None:
        """A letter of this node to itself has come back, over the link with `node_id`."""
        peer = self._echoes.pop((node_id, session), None)
        if peer is not None:
            self._passing.add(peer)
            self._echo.set()

    # -- publishing ------------------------------------------------------------------------------------------------

    def _publish(self, publication: Publication) -> None:
        """In a task of its own: who has left is replaced meanwhile."""
        value = pack_presence(publication.contacts)
        is_stored = self._has_udp() and self._store(value, publication.lifetime_s)
        if is_stored or self._delegate(value, publication.lifetime_s):
            self._publisher.done(publication, self._runtime.now())
        else:
            self._publisher.failed(self._runtime.now())
        self._is_publishing = False
        self._news.set()

    def _store(self, value: bytes, lifetime_s: float) -> bool:
        try:
            self._values.put(self._own_id, value, lifetime_s)
        except KodectlError as error:
            log.debug("presence: %s", error)
            return False
        return True

    def _delegate(self, value: bytes, lifetime_s: float) -> bool:
        """Has linked peers write it."""
        _, record = self._values.signed(self._own_id, value, lifetime_s)
        taken = 0
        for peer in self.nodes():
            if taken == DELEGATES:
                break
            try:
                answer = self._link_requests.ask(peer, rpc.Store(b"", record), STORE_LIMIT_S)
            except KodectlError as error:
                log.debug("presence through %r: %s", peer, error)
                continue
            taken += answer.status == StoreStatus.STORED
        return taken > 0


def _best(usable: list[Peer], chosen: list[Peer]) -> list[Peer]:
    """To be tried beside those that are chosen: in networks of their own first, then those linked for long."""
    networks = {subnet_of(peer.remote[0]) for peer in chosen} - {None}
    apart: list[Peer] = []
    crowded: list[Peer] = []
    for peer in sorted(usable, key=lambda peer: peer.link.opened_at):
        network = subnet_of(peer.remote[0])
        (crowded if network in networks else apart).append(peer)
        if network is not None:
            networks.add(network)
    return (apart + crowded)[: max(0, WANTED - len(chosen))]


def _ignore_outcome(outcome: object) -> None:
    pass
