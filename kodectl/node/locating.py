"""Finding a node by its id: itself, where it can be asked, and the record in which it names its rendezvous nodes.

One lookup for both: the nodes closest to an id hold the record, and know the node if it is a DHT server. Who has no UDP has
linked peers look it up; what they say of the record is signed by the node, what they say of its address is not.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from kodectl.errors import KodectlError, NegativeAnswer, PeerFault
from kodectl.node.kademlia import ALL, NO_MORE, Kademlia
from kodectl.node.link_requests import LinkRequests
from kodectl.node.peer import Peer
from kodectl.node.values import Agreement, Values
from kodectl.runtime.base import Runtime, Scope, TimedOut
from kodectl.wire import rpc
from kodectl.wire.contacts import Contact, unpack_contacts
from kodectl.wire.presence import is_presence_of, unpack_presence
from kodectl.wire.record import Record

log = logging.getLogger(__name__)

MAX_DELEGATES = 3
"""Linked peers that are asked to look something up: one of them may lie."""
DELEGATED_LIMIT_S = 8.0
"""For each to do it."""
GRACE_S = 0.5
"""For the others, once one has found something: they began together, and theirs takes about as long."""


class Located(NamedTuple):
    """`contact`: the node, if it was found as a DHT server; `rendezvous`: through whom else it can be written to."""

    contact: Contact | None
    rendezvous: tuple[Contact, ...]


class Sought(NamedTuple):
    """`contact`: the node with this id, if it has answered; `records` under it, of anybody, each with the newest sequence
    that was met."""

    contact: Contact | None
    records: list[Record]


NOTHING = Sought(None, [])

Seeker = Callable[[bytes], Sought]


def seek(kademlia: Kademlia, values: Values, key: bytes) -> Sought:
    """Waits."""
    found: dict[bytes, Record] = {record.publisher: record for record in values.held(key)}
    answered: list[Contact] = []
    agreement = Agreement()

    def take(contact: Contact, answer: rpc.Values) -> int:
        values.merge(found, key, answer.records)
        if contact.node_id == key:
            answered.append(contact)
        # Anybody can leave a record under the id of another: only what the node says of itself ends the search.
        newest = [one.packed for one in found.values() if is_presence_of(key, one) and one.packed in answer.records]
        return NO_MORE if answered or (newest and agreement.reached(contact, newest)) else ALL

    kademlia.iterate(key, rpc.FindValue(key, 0, True), take=take, stop_at_target=True)
    return Sought(answered[0] if answered else None, list(found.values()))


class Locator:
    """`delegates`: peers to ask, the most trusted first."""

    def __init__(
        self,
        runtime: Runtime,
        scope: Scope,
        kademlia: Kademlia,
        values: Values,
        link_requests: LinkRequests,
        has_udp: Callable[[], bool],
        delegates: Callable[[], list[Peer]],
    ) -> None:
        self._runtime = runtime
        self._scope = scope
        self._kademlia = kademlia
        self._values = values
        self._link_requests = link_requests
        self._has_udp = has_udp
        self._delegates = delegates

    def locate(self, node_id: bytes, limit_s: float) -> Located:
        """Waits. Raises NegativeAnswer (code not_found), or Stopped."""
        deadline = self._runtime.now() + limit_s
        own_lookup: list[Seeker] = [partial(seek, self._kademlia, self._values)] if self._has_udp() else []
        by_peers: list[Seeker] = [partial(self._ask, peer) for peer in self._delegates()[:MAX_DELEGATES]]
        # Whoever has no UDP may not know it yet; its peers do not find what is nowhere either.
        for seekers in (own_lookup, by_peers):
            located = _combined(node_id, self._side_by_side(node_id, seekers, deadline))
            if located.contact is not None or located.rendezvous:
                return located
        raise NegativeAnswer("no node of the network knows where it is", code="not_found")

    def _side_by_side(self, node_id: bytes, seekers: list[Seeker], deadline: float) -> list[Sought]:
        """What those have found that need not be waited for too long."""
        answers = self._runtime.mailbox(MAX_DELEGATES)

        def run(seeker: Seeker) -> None:
            answers.put(seeker(node_id))

        for seeker in seekers:
            self._scope.spawn(f"locate {node_id.hex()[:8]}", run, seeker)
        found: list[Sought] = []
        closer = self._scope.on_close(answers.close)
        try:
            for _ in seekers:
                found.append(answers.get(max(0.0, deadline - self._runtime.now())))
                if found[-1] != NOTHING:
                    deadline = min(deadline, self._runtime.now() + GRACE_S)
        except TimedOut:
            pass
        finally:
            closer.cancel()
        return found

    def _ask(self, peer: Peer, node_id: bytes) -> Sought:
        records: dict[bytes, Record] = {}
        try:
            answer = self._link_requests.ask(peer, rpc.FindValue(node_id, 0, True), DELEGATED_LIMIT_S)
            contacts = unpack_contacts(answer.contacts, 1)
        except KodectlError as error:
            log.debug("%r looks nothing up: %s", peer, error)
            return NOTHING
        self._values.merge(records, node_id, answer.records)
        contact = next((contact for contact in contacts if contact.node_id == node_id), None)
        return Sought(contact, list(records.values()))


def _combined(node_id: bytes, found: list[Sought]) -> Located:
    """The newest record counts, and the address that most have named."""
    contacts = Counter(sought.contact for sought in found if sought.contact is not None)
    records = [record for sought in found for record in sought.records if is_presence_of(node_id, record)]
    presence = max(records, key=lambda record: record.sequence, default=None)
    contact = contacts.most_common(1)[0][0] if contacts else None
    return Located(contact, _rendezvous_of(presence) if presence is not None else ())


def _rendezvous_of(presence: Record) -> tuple[Contact, ...]:
    try:
        return unpack_presence(presence.value)
    except PeerFault as fault:
        log.debug("presence of %s: %s", presence.key.hex(), fault)
        return ()
