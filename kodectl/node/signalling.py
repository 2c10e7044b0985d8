"""Signalling: finding a node, and writing to it through its rendezvous nodes before there is any path to it.

locate      one lookup: the node itself where it answers, and the record that names its rendezvous nodes
open        a conversation: offers there, the node's own back (`node/conversation.py`)
on_offer    somebody else's conversation with this node
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from itertools import cycle, islice

from kodectl.core.limits import SharedBudget, TokenBucket
from kodectl.core.signal_routes import Way
from kodectl.errors import NegativeAnswer, PeerFault
from kodectl.node.conversation import SIDE_BY_SIDE, Conversation, Hop
from kodectl.node.delegation import Delegation
from kodectl.node.discovery import Discovery
from kodectl.node.kademlia import Kademlia
from kodectl.node.letter_post import MAX_VIA, LetterPost
from kodectl.node.link_requests import LinkRequests
from kodectl.node.locating import Located, Locator
from kodectl.node.peer import Peer
from kodectl.node.peering import Peering
from kodectl.node.rendezvous import Rendezvous
from kodectl.node.values import Values
from kodectl.runtime.base import Runtime, Scope
from kodectl.wire import rpc
from kodectl.wire.contacts import Contact, pack_contacts
from kodectl.wire.offers import (
    Correspondents,
    Letter,
    Offer,
    OfferKind,
    SignedLetter,
    letter_is_signed,
    pack_letter,
    unpack_letter,
)
from kodectl.wire.rpc import Signal, SignalStatus

__all__ = ["Conversation", "Located", "Signalling"]

log = logging.getLogger(__name__)

MAX_CONVERSATIONS = 256
MAX_OF_PEER = 8
"""Begun by one node: one under way, and some that linger."""
VERIFIED_PER_S = 100.0
VERIFIED_BURST = 300.0
"""Signatures of letters, at 0.2 ms: 2 % of a core."""
BEGUN_PER_S = 0.5
BEGUN_BURST = 8.0
"""Conversations of one node; it needs one to connect."""
ALL_BEGUN_PER_S = 10.0
ALL_BEGUN_BURST = 60.0
MAX_AGE_S = 600.0
"""Of a letter that begins a conversation, either way: clocks of nodes differ, as with broadcasts. For as long its session is
remembered, so that nobody begins it a second time."""
CLOCKS_DIFFER = "the clocks of the two nodes differ by more than 10 minutes"
LATE_PER_S = 0.5
LATE_BURST = 5.0
"""Letters out of their time that are answered: whoever has kept some of another node must not take its share by them."""
MAX_REMEMBERED = 8192
"""Sessions of MAX_AGE_S at ALL_BEGUN_PER_S."""
FIND_AGAIN_LIMIT_S = 8.0
MAX_CARRIERS = 3
"""Linked peers that are asked to hand letters to nodes this one cannot write to."""


class Signalling:
    """Only `locate` waits."""

    def __init__(
        self,
        runtime: Runtime,
        scope: Scope,
        discovery: Discovery,
        kademlia: Kademlia,
        values: Values,
        peering: Peering,
        link_requests: LinkRequests,
        rendezvous: Rendezvous,
        has_udp: Callable[[], bool],
    ) -> None:
        self.on_offer: Callable[[Conversation, Offer], None] = _refuse
        self.counters: Counter[str] = Counter()
        self._runtime = runtime
        self._scope = scope
        self._identity = discovery.identity
        self._peering = peering
        self._rendezvous = rendezvous
        self._has_udp = has_udp
        self._conversations: dict[tuple[bytes, bytes], Conversation] = {}
        self._opened: set[Conversation] = set()
        """Those that this side has begun."""
        self._remembered: OrderedDict[tuple[bytes, bytes], float] = OrderedDict()
        self._verified = TokenBucket(VERIFIED_PER_S, VERIFIED_BURST)
        self._begun = SharedBudget(TokenBucket(ALL_BEGUN_PER_S, ALL_BEGUN_BURST), BEGUN_PER_S, BEGUN_BURST)
        self._late = TokenBucket(LATE_PER_S, LATE_BURST)
        self.post = LetterPost(runtime, discovery, peering, link_requests, has_udp)
        self.post.on_arrival = self._arrived
        self._locator = Locator(runtime, scope, kademlia, values, link_requests, has_udp, self._direct_peers)
        self.delegation = Delegation(runtime, self._identity.suite, kademlia, values, link_requests)

    def locate(self, node_id: bytes, limit_s: float) -> Located:
        """Waits. Raises NegativeAnswer (code not_found), or Stopped."""
        return self._locator.locate(node_id, limit_s)

    # -- writing ---------------------------------------------------------------------------------------------------

    def open(self, node_id: bytes, located: Located) -> Conversation:
        session = self._runtime.random_bytes(rpc.SESSION_SIZE)
        conversation = Conversation(self._runtime, self, node_id, session, self._hops(node_id, located))
        self._conversations[node_id, session] = conversation
        self._opened.add(conversation)
        return conversation

    def find_again(self, conversation: Conversation) -> bool:
        """For a conversation. A stranger who has written has only the ways that its letters came by; a peer is looked up."""
        is_peer = self.post.linked(conversation.peer_id) is not None
        if (conversation not in self._opened and not is_peer) or self._scope.closed:
            return False
        self.counters["sought_again"] += 1
        self._scope.spawn(f"locate {conversation.peer_id.hex()[:8]} again", self._find_again, conversation)
        return True

    def _find_again(self, conversation: Conversation) -> None:
        try:
            located = self.locate(conversation.peer_id, FIND_AGAIN_LIMIT_S)
        except NegativeAnswer as error:
            log.debug("%s again: %s", conversation.peer_id.hex(), error)
            conversation.go_on(self._own_link(conversation.peer_id))
        else:
            conversation.go_on(self._hops(conversation.peer_id, located))

    def _hops(self, node_id: bytes, located: Located) -> list[Hop]:
        link = self._own_link(node_id)
        if link and self.post.is_linked_over_tcp(node_id):
            return link
        contacts = [*([located.contact] if located.contact is not None else []), *located.rendezvous]
        contacts = [contact for contact in contacts if contact.node_id != self._identity.node_id]
        linked = [contact for contact in contacts if self.post.linked(contact.node_id) is not None]
        strangers = [contact for contact in contacts if contact not in linked]
        carried = self._carried(strangers)
        own = [Hop(Way(contact.node_id, contact.address)) for contact in strangers] if self._has_udp() else []
        # Peers carry what does not get through by itself, for whatever reason.
        ways = [Hop(Way(contact.node_id)) for contact in linked] + own[:SIDE_BY_SIDE] + carried + own[SIDE_BY_SIDE:]
        # The link that all this is about may be dead; or it goes on, by a way that is to be mended.
        return [*ways, *self._beside_links(Way(contact.node_id) for contact in linked), *link]

    def _own_link(self, node_id: bytes) -> list[Hop]:
        return [Hop(Way(node_id), is_spare=True)] if self.post.linked(node_id) is not None else []

    def _beside_links(self, ways: Iterable[Way]) -> list[Hop]:
        """Links of nodes that can be written to over UDP too may be dead, without anybody's knowing yet."""
        peers = [self.post.linked(way.node_id) for way in ways if way.address is None and self._has_udp()]
        reached = [peer for peer in peers if peer is not None and peer.outbound and peer.hello.ports.udp]
        return [Hop(Way(peer.node_id, (peer.remote[0], peer.hello.ports.udp)), is_spare=True) for peer in reached]

    def _carried(self, strangers: list[Contact]) -> list[Hop]:
        """Through peers, each of which hands a letter to two of the nodes."""
        if not strangers:
            return []
        carriers = self._direct_peers()[:MAX_CARRIERS]
        turns = cycle(strangers)
        return [Hop(Way(carrier.node_id), pack_contacts(dict.fromkeys(islice(turns, MAX_VIA)))) for carrier in carriers]

    def _direct_peers(self) -> list[Peer]:
        """Those that are certainly reachable for others first."""
        chosen = self._rendezvous.nodes()
        others = [
            peer
            for peer in self._peering.links.values()
            if peer not in chosen and peer.route.transport == "tcp" and not peer.link.closed
        ]
        return chosen + others

    def transmit(
        self, conversation: Conversation, hop: Hop, letter: Letter, tell: Callable[[bool | None], None]
    ) -> None:
        """For a conversation."""
        identity = self._identity
        between = Correspondents(conversation.peer_id, identity.node_id, conversation.session)
        packed = pack_letter(letter, between, identity.public_key, identity.sign)
        signal = Signal(*between, hops=0, via=hop.via, letter=packed)
        self.post.send(hop.way, signal, lambda status: tell(_is_passed(status)))

    def ended(self, conversation: Conversation) -> None:
        self._conversations.pop((conversation.peer_id, conversation.session), None)
        self._opened.discard(conversation)

    # -- what comes ------------------------------------------------------------------------------------------------

    def _arrived(self, way: Way, signal: Signal) -> SignalStatus:
        """Raises WireError."""
        if signal.sender == self._identity.node_id:
            self._rendezvous.echoed(way.node_id, signal.session)
            return SignalStatus.DELIVERED
        if not self._verified.take(self._runtime.now()):
            return SignalStatus.BUSY
        signed = unpack_letter(signal.letter)
        between = Correspondents(signal.target, signal.sender, signal.session)
        if not letter_is_signed(self._identity.suite, signed, between):
            self.counters["forged"] += 1
            raise PeerFault("a letter that its sender has not signed", code="refused")
        conversation = self._conversations.get((signal.sender, signal.session))
        if conversation is None:
            return self._begin(way, between, signed)
        conversation.received(signed.letter, way)
        return SignalStatus.DELIVERED

    def _begin(self, way: Way, between: Correspondents, signed: SignedLetter) -> SignalStatus:
        name, letter, now = (between.sender, between.session), signed.letter, self._runtime.now()
        if letter.offer is None or letter.offer.kind is not OfferKind.OFFER or letter.number != letter.oldest:
            self.counters["out_of_place"] += 1
            return SignalStatus.DELIVERED
        if name in self._remembered:
            self.counters["replayed"] += 1
            return SignalStatus.DELIVERED
        of_peer = sum(conversation.peer_id == between.sender for conversation in self._conversations.values())
        if of_peer >= MAX_OF_PEER or len(self._conversations) >= MAX_CONVERSATIONS:
            return SignalStatus.BUSY
        if abs(self._runtime.unix_time() - letter.time_ms / 1000) > MAX_AGE_S:
            self.counters["out_of_time"] += 1
            self._refuse_late(way, between, letter, now)
            return SignalStatus.DELIVERED
        if not self._begun.take(between.sender.hex(), now):
            return SignalStatus.BUSY
        self.counters["begun"] += 1
        conversation = self._answer_to(way, between, now)

        def first(offer: Offer) -> None:
            # What follows waits until somebody listens.
            conversation.on_message = None
            self.on_offer(conversation, offer)

        conversation.on_message = first
        conversation.received(letter, way)
        return SignalStatus.DELIVERED

    def _answer_to(self, way: Way, between: Correspondents, now: float) -> Conversation:
        name = (between.sender, between.session)
        self._remember(name, now)
        hops = [Hop(way), *self._beside_links([way])]
        conversation = Conversation(self._runtime, self, between.sender, between.session, hops)
        self._conversations[name] = conversation
        return conversation

    def _refuse_late(self, way: Way, between: Correspondents, letter: Letter, now: float) -> None:
        """An old letter that somebody has kept, or an honest node with a wrong clock, which has to be told."""
        if self._late.take(now):
            conversation = self._answer_to(way, between, now)
            conversation.received(letter, way)
            conversation.send(Offer.refusal(CLOCKS_DIFFER))
            conversation.close()

    def _remember(self, name: tuple[bytes, bytes], now: float) -> None:
        self._remembered[name] = now
        while len(self._remembered) > MAX_REMEMBERED or now - next(iter(self._remembered.values())) > 2 * MAX_AGE_S:
            self._remembered.popitem(last=False)


def _is_passed(status: SignalStatus | None) -> bool | None:
    if status is None or status is SignalStatus.BUSY:
        return None
    return status is not SignalStatus.NOT_THERE


def _refuse(conversation: Conversation, offer: Offer) -> None:
    conversation.send(Offer.refusal("unsupported"))
    conversation.close()
