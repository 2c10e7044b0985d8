"""Signalling on virtual time: nodes behind boxes find each other's rendezvous nodes and write to each other through them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from town import KINDS, Town, town_of

from kodectl.node.conversation import Conversation
from kodectl.node.link_requests import LinkRequests
from kodectl.node.node import Node
from kodectl.node.rendezvous import Rendezvous
from kodectl.node.signalling import Located, Signalling
from kodectl.wire.offers import Offer, OfferKind

OFFER = Offer(OfferKind.OFFER, "abcd", "p" * 22)
ANSWER = Offer(OfferKind.ANSWER, "efgh", "q" * 22)
LIMIT_S = 10.0


class Correspondent:
    """A node with the parts that write letters."""

    def __init__(self, node: Node, *, has_udp: bool = True, is_needed: bool = False) -> None:
        self.node = node
        self.runtime = node.runtime
        self.id = node.identity.node_id
        self.is_needed = is_needed
        self.requests = LinkRequests(node.runtime, node.scope, node.peering)
        self.rendezvous = Rendezvous(
            node.runtime,
            node.scope,
            node.peering,
            node.values,
            self.requests,
            lambda: self.is_needed,
            lambda: has_udp,
        )
        self.signalling = Signalling(
            node.runtime,
            node.scope,
            node.discovery,
            node.kademlia,
            node.values,
            node.peering,
            self.requests,
            self.rendezvous,
            lambda: has_udp,
        )
        self.offered: list[tuple[Conversation, Offer]] = []
        self.heard: list[Offer] = []
        self.undelivered: list[str] = []
        self.signalling.on_offer = self._offered
        node.scope.spawn("begin", self.rendezvous.start)

    def _offered(self, conversation: Conversation, offer: Offer) -> None:
        self.offered.append((conversation, offer))
        conversation.on_message = self.heard.append
        conversation.on_undelivered = self.undelivered.append
        conversation.send(ANSWER)


class Place:
    def __init__(self, town: Town) -> None:
        self.town = town
        self.world = town.world
        self.open = [Correspondent(node) for node in town.open]

    def hidden(self, number: int, kind: str = "port_restricted") -> Correspondent:
        node = self.town.behind(self.town.box(number, **KINDS[kind]))
        return Correspondent(node, has_udp=kind != "blocked", is_needed=True)

    def settled(self, *hidden: Correspondent) -> bool:
        return self.world.run(lambda: all(one.rendezvous.is_told for one in hidden), 60.0)

    def locate(self, near: Correspondent, far: Correspondent) -> Located:
        return self.world.call(near.runtime, near.signalling.locate, far.id, LIMIT_S)

    def write(self, near: Correspondent, far: Correspondent) -> Conversation:
        conversation = near.signalling.open(far.id, self.locate(near, far))
        conversation.on_message = near.heard.append
        conversation.on_undelivered = near.undelivered.append
        conversation.send(OFFER)
        return conversation


@pytest.fixture
def place() -> Iterator[Place]:
    with town_of() as town:
        yield Place(town)


@pytest.mark.parametrize(("here", "there"), [("symmetric", "port_restricted"), ("blocked", "blocked")])
def test_two_behind_boxes_write_to_each_other(place: Place, here: str, there: str) -> None:
    near, far = place.hidden(1, here), place.hidden(2, there)
    assert place.settled(near, far)
    began = place.world.now
    conversation = place.write(near, far)
    assert place.world.run(lambda: near.heard == [ANSWER], LIMIT_S)
    assert place.world.now - began < 1.0
    assert [offer for _, offer in far.offered] == [OFFER]
    assert far.offered[0][0].peer_id == near.id
    assert conversation.rtt_s is not None
