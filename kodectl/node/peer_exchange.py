"""Peer exchange: asking connected peers whom else they know, and answering them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kodectl.core.exchange import MAX_SHARED, usable_enodes
from kodectl.core.peerbook import PeerBook
from kodectl.node.peer import Peer
from kodectl.node.roster import Roster
from kodectl.runtime.base import Runtime, Scope
from kodectl.wire.enode import Enode
from kodectl.wire.messages import MAX_REFERRED, MessageKind, pack_peer_request, pack_peer_response, unpack_peer_request
from kodectl.wire.messages import unpack_peer_response as unpack_response
from kodectl.wire.rpc import PeerRequest, PeerResponse

EXCHANGE_S = 30.0
"""One peer is asked so often while outbound peers are missing."""
IDLE_ROUNDS = 10
"""With enough of them every tenth round asks: the book stays fresh for bad days. So it is with those that came in, where
there are no others."""
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
        self.is_heard_over_udp: Callable[[bytes], bool] = lambda node_id: True

    def shareable(self, asker_id: bytes, asker_ip: str, count: int = MAX_SHARED) -> list[Enode]:
        """Peers to name to somebody, best first, at most 20; never himself, nor what he cannot reach."""
        return self._book.to_share(asker_id, asker_ip, min(count, MAX_SHARED), self._runtime.now())

    def referral(self, peer: Peer) -> tuple[str, ...]:
        """Whom to name to one that finds no room here, and has not been heard over UDP: perhaps its network lets none through,
        and it has no other way to hear of anybody. The others have the DHT to look in; to name peers to everybody who knocks
        would help whoever wants to surround one."""
        if self.is_heard_over_udp(peer.node_id):
            return ()
        return tuple(map(str, self.shareable(peer.node_id, peer.remote[0], MAX_REFERRED)))

    def hear_of(self, enodes: Iterable[Enode]) -> bool:
        """True if one of them is new."""
        now = self._runtime.now()
        news = [self._book.hear_of(enode, now) for enode in enodes]
        return any(news)

    def connected(self, peer: Peer) -> None:
        """Those that this node has chosen are asked at once. Those that came in by themselves could fill the slots for its own
        dials with friends of theirs: they are asked late, and where there is nobody else."""
        if peer.outbound:
            self.ask(peer)

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
        return self.hear_of(usable_enodes(response.peers, peer.remote[0]))

    def keep_asking(self) -> None:
        """Until the scope closes."""
        turn = 0
        while True:
            self._scope.sleep(EXCHANGE_S * self._runtime.rng.uniform(0.75, 1.25))
            turn += 1
            missing = self._roster.outbound() < self._roster.slots.outbound_target
            asked = self._to_ask(anybody=turn % IDLE_ROUNDS == 0)
            if asked and (missing or turn % IDLE_ROUNDS == 0):
                self.ask(self._runtime.rng.choice(asked))

    def _to_ask(self, *, anybody: bool) -> list[Peer]:
        links = list(self._roster.links.values())
        return [peer for peer in links if peer.outbound] or (links if anybody else [])
