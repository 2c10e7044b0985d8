"""Peer exchange: asking connected peers whom else they know, and answering them."""

from __future__ import annotations

from collections.abc import Iterable

from kodectl.core.exchange import MAX_SHARED, usable_enodes
from kodectl.core.peerbook import PeerBook
from kodectl.node.peer import Peer
from kodectl.node.roster import Roster
from kodectl.runtime.base import Runtime, Scope
from kodectl.wire.enode import Enode
from kodectl.wire.messages import MessageKind, pack_peer_request, pack_peer_response, unpack_peer_request
from kodectl.wire.messages import unpack_peer_response as unpack_response
from kodectl.wire.rpc import PeerRequest, PeerResponse

EXCHANGE_S = 30.0
"""One peer is asked so often while outbound peers are missing."""
IDLE_ROUNDS = 10
"""With enough of them every tenth round asks: the book stays fresh for bad days."""
MAX_DATAGRAM_ANSWER = 1100
"""Bytes of a peer_response that fit in a sealed datagram of 1,232."""


def serve_peer_request(known: Iterable[Enode], question: PeerRequest) -> PeerResponse:
    """The answer over UDP: as many as were asked for and fit, in the order of `known`."""
    peers: list[str] = []
    size = len(pack_peer_response(PeerResponse([])))
    for text in map(str, known):
        size += len(text) + len('"",')
        if size > MAX_DATAGRAM_ANSWER or len(peers) >= min(question.requested_count, MAX_SHARED):
            break
        peers.append(text)
    return PeerResponse(peers)


class PeerExchange:
    """Answers count only when they were asked for; what they name are candidates, no more."""

    def __init__(self, runtime: Runtime, own_id: bytes, roster: Roster, book: PeerBook, scope: Scope) -> None:
        self._runtime = runtime
        self._own_id = own_id
        self._roster = roster
        self._book = book
        self._scope = scope

    def shareable(self, asker_id: bytes, asker_ip: str, count: int = MAX_SHARED) -> list[Enode]:
        """Peers to name to somebody, best first, at most 20; never himself, nor what he cannot reach."""
        return self._book.to_share(asker_id, asker_ip, min(count, MAX_SHARED), self._runtime.now())

    def ask(self, peer: Peer) -> None:
        peer.asked_for_peers = True
        peer.send(MessageKind.PEER_REQUEST, pack_peer_request(PeerRequest(MAX_SHARED)))

    def handle_request(self, peer: Peer, body: bytes) -> None:
        request = unpack_peer_request(body)
        if not peer.request_rate.take(self._runtime.now()):
            return
        enodes = self.shareable(peer.node_id, peer.remote[0], request.requested_count)
        peer.send(MessageKind.PEER_RESPONSE, pack_peer_response(PeerResponse([str(enode) for enode in enodes])))

    def handle_response(self, peer: Peer, body: bytes) -> bool:
        """True if somebody new was named."""
        response = unpack_response(body)
        if not peer.asked_for_peers:
            return False
        peer.asked_for_peers = False
        now = self._runtime.now()
        news = [self._book.hear_of(enode, now) for enode in usable_enodes(response.peers, peer.remote[0])]
        return any(news)

    def keep_asking(self) -> None:
        """Until the scope closes."""
        turn = 0
        while True:
            self._scope.sleep(EXCHANGE_S * self._runtime.rng.uniform(0.75, 1.25))
            turn += 1
            missing = self._roster.outbound() < self._roster.slots.outbound_target
            if self._roster.links and (missing or turn % IDLE_ROUNDS == 0):
                self.ask(self._runtime.rng.choice(list(self._roster.links.values())))
