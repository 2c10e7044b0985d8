"""Lookups and writes for linked peers that have no UDP: FIND_VALUE and STORE over the link.

Records are signed by who publishes them, so whoever looks them up, or stores them, can only keep them back.
"""

from __future__ import annotations

from kodectl.core.limits import SharedBudget, TokenBucket
from kodectl.core.values import MAX_EXPIRY_S
from kodectl.errors import PeerFault
from kodectl.node.kademlia import Kademlia
from kodectl.node.link_requests import LinkRequests
from kodectl.node.locating import seek
from kodectl.node.peer import Peer
from kodectl.node.values import Values
from kodectl.runtime.base import Runtime
from kodectl.wire import rpc
from kodectl.wire.record import unpack_record
from kodectl.wire.rpc import MAX_RECORDS_IN_ANSWER, StoreStatus
from kodectl.wire.suite import Suite, node_id_of

PER_S = 0.5
BURST = 40.0
"""Of one peer: each costs this node some 25 messages. Who connects somewhere looks up once, and a script may connect to many."""
ALL_PER_S = 4.0
ALL_BURST = 80.0


class Delegation:
    """Serves; what asks is in `signalling` and `rendezvous`."""

    def __init__(
        self, runtime: Runtime, suite: Suite, kademlia: Kademlia, values: Values, link_requests: LinkRequests
    ) -> None:
        self._runtime = runtime
        self._suite = suite
        self._kademlia = kademlia
        self._values = values
        self._budget = SharedBudget(TokenBucket(ALL_PER_S, ALL_BURST), PER_S, BURST)
        link_requests.handlers[rpc.Kind.FIND_VALUE] = self._find_value
        link_requests.handlers[rpc.Kind.STORE] = self._store

    def _find_value(self, peer: Peer, question: rpc.FindValue) -> rpc.Values:
        """Without a token: who has no UDP has nothing to write with. The only contact is that of the node whose id the key
        is. Waits."""
        self._take(peer)
        sought = seek(self._kademlia, self._values, question.key)
        # The record of the key's owner before those of others, of whom there may be many.
        records = sorted(sought.records, key=lambda record: node_id_of(record.publisher) != record.key)
        told = [record.packed for record in records[question.skip :][:MAX_RECORDS_IN_ANSWER]]
        contact = sought.contact
        packed = contact.packed if contact is not None and question.contacts_wanted else b""
        return rpc.Values(len(records), b"", told, packed)

    def _store(self, peer: Peer, question: rpc.Store) -> rpc.Stored:
        """Only what the peer itself has published. Waits."""
        self._take(peer)
        try:
            record = unpack_record(question.record)
        except PeerFault:
            return rpc.Stored(StoreStatus.MALFORMED)
        if node_id_of(record.publisher) != peer.node_id:
            raise PeerFault("a record of somebody else", code="refused")
        unix_time = self._runtime.unix_time()
        if not unix_time < record.expiry <= unix_time + MAX_EXPIRY_S:
            return rpc.Stored(StoreStatus.EXPIRED)
        if not self._suite.verify(record.publisher, record.statement(), record.signature):
            return rpc.Stored(StoreStatus.BAD_SIGNATURE)
        stored, _ = self._values.place(record.key, record.packed)
        return rpc.Stored(StoreStatus.STORED if stored else StoreStatus.QUOTA)

    def _take(self, peer: Peer) -> None:
        if not self._budget.take(peer.node_id.hex(), self._runtime.now()):
            raise PeerFault("too many lookups for one peer", code="refused")
