"""What a peer that means harm, or a moment that comes at the wrong time, does to a node behind a NAT, on virtual time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from town import KINDS, Town, town_of

from kodectl.core.ice.checks import Credentials
from kodectl.core.traversal_plan import Plan, Side, plan
from kodectl.node.node import Node
from kodectl.node.passage import RESTART_PAUSE_S, Passage
from kodectl.node.side_ways import Errand
from kodectl.node.signalling import Located
from kodectl.node.traversal import side_of
from kodectl.runtime.base import Stopped
from kodectl.wire.candidates import Candidate, CandidateType
from kodectl.wire.enode import Enode
from kodectl.wire.offers import NatHint, Offer, OfferKind

SETTLE_LIMIT_S = 60.0
STOP_LIMIT_S = 1.0
"""Goodbyes to peers, and what is saved: nobody waits for a peer that does not answer."""
PASSWORD = "p" * 24


@pytest.fixture
def town() -> Iterator[Town]:
    with town_of() as town:
        yield town


@pytest.fixture
def pair() -> Iterator[tuple[Town, Node, Node]]:
    """Two behind boxes that need a relay first."""
    with town_of() as town:
        nodes = [town.behind(town.box(number, **KINDS["port_restricted"])) for number in (1, 2)]
        assert town.world.run(lambda: town.settled(*nodes), SETTLE_LIMIT_S)
        assert town.world.run(lambda: all(node.connectivity.rendezvous.is_told for node in nodes), SETTLE_LIMIT_S)
        town.world.run_for(5.0)
        yield town, nodes[0], nodes[1]


def passages(node: Node) -> set[Passage]:
    return node.connectivity.traversal._passages


def begin(one: Node, other: Node) -> None:
    one.peering.dial(Enode(other.identity.node_id, "", 0, 0))


def stopped_in(town: Town, node: Node) -> float:
    began = town.world.now
    town.world.call(node.runtime, node.stop)
    return town.world.now - began


def test_a_node_stops_at_once_while_it_waits_for_an_answer(pair: tuple[Town, Node, Node]) -> None:
    town, one, other = pair
    other.connectivity.signalling.on_offer = lambda conversation, offer: None
    begin(one, other)
    assert town.world.run(lambda: bool(passages(one)), 5.0)
    town.world.run_for(1.0)
    assert stopped_in(town, one) <= STOP_LIMIT_S
    assert not passages(one)


def test_a_node_stops_at_once_while_its_peers_look_for_another(town: Town) -> None:
    node = town.behind(town.box(1, **KINDS["blocked"]))
    assert town.world.run(lambda: town.settled(node), SETTLE_LIMIT_S)
    town.world.partition([other.runtime.name for other in town.open])
    node.peering.dial(Enode(b"x" * 32, "", 0, 0))
    town.world.run_for(0.5)
    assert stopped_in(town, node) <= STOP_LIMIT_S


def test_a_node_stops_at_once_while_it_waits_to_be_dialled(town: Town) -> None:
    node = town.open[0]
    outcome: list[str] = []

    def wait() -> None:
        try:
            node.peering.await_link(b"x" * 32, 60.0)
        except Stopped:
            outcome.append("stopped")

    town.world.spawn(node.runtime, "wait", wait)
    town.world.run_for(0.5)
    assert stopped_in(town, node) <= STOP_LIMIT_S
    town.world.run_for(0.1)
    assert outcome == ["stopped"]


def test_a_node_that_stopped_meanwhile_opens_no_passage(pair: tuple[Town, Node, Node]) -> None:
    town, one, other = pair
    traversal, signalling = one.connectivity.traversal, one.connectivity.signalling
    conversation = signalling.open(other.identity.node_id, Located(None, ()))
    assert stopped_in(town, one) <= STOP_LIMIT_S
    with pytest.raises(Stopped):
        traversal._passage(conversation, False, is_controlling=True)
    assert not passages(one)
    assert not signalling._conversations


def test_offers_without_end_add_no_names_and_few_restarts(pair: tuple[Town, Node, Node]) -> None:
    """Of one conversation: each makes the other side check sixteen addresses anew."""
    town, one, other = pair
    begin(one, other)
    assert town.world.run(lambda: bool(passages(other)), 5.0)
    (passage,) = passages(other)
    restarts = 0
    restart = passage.session.restart

    def counted() -> object:
        nonlocal restarts
        restarts += 1
        return restart()

    passage.session.restart = counted  # type: ignore[method-assign,assignment]
    for number in range(200):
        passage.told(Offer(OfferKind.OFFER, f"evil{number}", PASSWORD))
    assert len(passage._around.multiplexer._sessions) <= 8
    assert restarts <= 8


def test_a_connection_that_has_ended_leaves_nothing(pair: tuple[Town, Node, Node]) -> None:
    town, one, other = pair
    ids = one.identity.node_id, other.identity.node_id
    closers = [len(node.scope._closers) for node in (one, other)]
    begin(one, other)
    assert town.world.run(lambda: ids[1] in one.peering.links, 10.0)
    town.world.call(one.runtime, one.disconnect, ids[1].hex())
    assert town.world.run(lambda: not passages(one) and not passages(other), 30.0)
    town.world.run_for(30.0)
    for node in (one, other):
        assert not node.connectivity.signalling._conversations
        assert not node.connectivity.traversal.paths._names
        assert not node.connectivity.traversal.endpoint.connections
        assert not node.connectivity.traversal.multiplexer._sessions
    assert [len(node.scope._closers) for node in (one, other)] == closers


def test_whoever_comes_in_the_place_of_the_peer_is_no_peer(pair: tuple[Town, Node, Node]) -> None:
    """A relay that carries a connection may begin one of its own on it."""
    town, one, other = pair
    traversal = other.connectivity.traversal
    accept = other.peering.accept
    other.peering.accept = lambda stream, expected_id=None: accept(stream, b"x" * 32)  # type: ignore[method-assign]
    begin(one, other)
    assert town.world.run(lambda: bool(other.peering.dials.get("inbound_another_identity")), 20.0)
    town.world.run_for(5.0)
    assert one.identity.node_id not in other.peering.links
    assert not traversal.counters["stray_connections"]


def test_both_that_ask_at_once_take_each_others_connections(pair: tuple[Town, Node, Node]) -> None:
    """Two passages between the same two addresses: a connection belongs to the one that waits for it."""
    town, one, other = pair
    begin(one, other)
    begin(other, one)
    town.world.run_for(8.0)
    assert other.identity.node_id in one.peering.links
    assert one.identity.node_id in other.peering.links
    for node in (one, other):
        assert not node.connectivity.traversal.counters["stray_connections"]


@pytest.mark.parametrize("target", [("127.0.0.1", 22), ("::1", 22), ("0.0.0.0", 22), ("224.0.0.1", 22), ("9.9.9.9", 0)])
def test_nobody_is_made_to_dial_its_own_machine(target: tuple[str, int]) -> None:
    """Nor port 0: the dial would look for the peer by its id, at a stranger's word."""
    blocked = Side(NatHint(is_udp_blocked=True), None, ("23.1.0.1", 30_000))
    assert plan(blocked, side_of(Offer(OfferKind.OFFER, tcp=target)), is_initiator=False) == Plan()
    assert plan(blocked, side_of(Offer(OfferKind.OFFER, tcp_seen=target)), is_initiator=False) == Plan()


def test_side_ways_do_not_begin_after_their_end(pair: tuple[Town, Node, Node]) -> None:
    """The word of the other side is waited for, and the passage may be closed meanwhile."""
    town, one, other = pair
    begin(one, other)
    assert town.world.run(lambda: bool(passages(other)), 5.0)
    (passage,) = passages(other)
    agreed = Plan(punches_tcp=True)
    passage.close()
    theirs = Credentials("evil", PASSWORD)
    errand = Errand(agreed, theirs, None, ("9.9.9.9", 80))
    town.world.spawn(other.runtime, "late", passage.side_ways.run, errand)  # type: ignore[arg-type]
    town.world.run_for(1.0)
    assert passage.side_ways._punch is None


# -- restarts ----------------------------------------------------------------------------------------------------------

STRANGE = Candidate("9", 1, "udp", 1_000, ("24.9.9.9", 9), CandidateType.HOST)


def connected(pair: tuple[Town, Node, Node]) -> tuple[Passage, Passage]:
    """The passages of who asked and of who was asked; their stream is there."""
    town, one, other = pair
    begin(one, other)
    ids = one.identity.node_id, other.identity.node_id
    assert town.world.run(lambda: ids[1] in one.peering.links and ids[0] in other.peering.links, 20.0)
    (asking,), (asked,) = passages(one), passages(other)
    return asking, asked


def told_by(passage: Passage) -> list[tuple[Offer, bool]]:
    """What it tells the other side from now on, and whether that is urgent."""
    told: list[tuple[Offer, bool]] = []
    send = passage._conversation.send

    def noted(offer: Offer, *, is_urgent: bool = False) -> None:
        told.append((offer, is_urgent))
        send(offer, is_urgent=is_urgent)

    passage._conversation.send = noted  # type: ignore[method-assign]
    return told


def knows(passage: Passage, candidate: Candidate) -> bool:
    return candidate.address in [remote.address for remote in passage.session.remote_candidates]


def update(passage: Passage, *, ufrag: str) -> Offer:
    return Offer(OfferKind.UPDATE, ufrag, PASSWORD, (STRANGE,), is_complete=True)


def test_more_of_what_is_in_use_is_taken(pair: tuple[Town, Node, Node]) -> None:
    for passage in connected(pair):
        passage.told(update(passage, ufrag=passage._taken))
        assert knows(passage, STRANGE)


def test_more_of_what_a_restart_has_ended_is_not_taken(pair: tuple[Town, Node, Node]) -> None:
    """It may have waited behind what was lost."""
    asking, asked = connected(pair)
    before = asking._taken, asked._taken
    asking.answer = None
    asking._restart()
    asking.told(update(asking, ufrag=before[0]))
    assert not knows(asking, STRANGE)
    asked.told(Offer(OfferKind.OFFER, "another1", PASSWORD))
    asked.told(update(asked, ufrag=before[1]))
    assert not knows(asked, STRANGE)
    asked.told(update(asked, ufrag="another1"))
    assert knows(asked, STRANGE)


def test_more_that_follows_an_answer_at_once_is_taken(pair: tuple[Town, Node, Node]) -> None:
    """Before the task that waits for the answer has had its turn."""
    asking, _ = connected(pair)
    asking.answer = None
    asking._restart()
    asking.told(Offer(OfferKind.ANSWER, "another2", PASSWORD))
    asking.told(update(asking, ufrag="another2"))
    assert knows(asking, STRANGE)


def test_who_was_asked_calls_when_all_ways_are_dead(pair: tuple[Town, Node, Node]) -> None:
    """With relays of now: whatever has taken the paths may have taken those along. The other side may have no way to write
    to it until it has heard from it."""
    town = pair[0]
    _, asked = connected(pair)
    told = told_by(asked)
    renewed = []
    renew = asked.session.renew_relays
    asked.session.renew_relays = lambda relays: (renewed.append(town.world.now), renew(relays))[1]  # type: ignore[method-assign]
    town.world.partition(["box1"])
    assert town.world.run(lambda: asked.session.path is None, 30.0)
    town.world.run_for(2.5 * RESTART_PAUSE_S)
    calls = [offer for offer, is_urgent in told if offer.kind is OfferKind.UPDATE and is_urgent]
    assert len(renewed) == 3
    assert len(calls) == 3
    assert {offer.ufrag for offer in calls} == {asked.ufrag}, "a restart is for who asked to begin"


def test_who_is_not_heard_offers_again_but_not_at_once(pair: tuple[Town, Node, Node]) -> None:
    """Even where it is known at once that nobody hears it."""
    town = pair[0]
    asking, _ = connected(pair)
    town.world.partition(["box1"])
    assert town.world.run(lambda: asking.session.path is None, 30.0)
    told = told_by(asking)
    tell = asking._conversation.send

    def in_vain(offer: Offer, *, is_urgent: bool = False) -> None:
        tell(offer, is_urgent=is_urgent)
        asking._undelivered("no_way")

    asking._conversation.send = in_vain  # type: ignore[method-assign]
    asking._undelivered("no_way")  # of the offer that was under way
    town.world.run_for(5.5)
    assert [offer.kind for offer, _ in told].count(OfferKind.OFFER) in (5, 6)
