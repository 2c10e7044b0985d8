"""Signalling on virtual time: nodes behind boxes name their rendezvous nodes, and write to each other through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from town import KINDS, Town, town_of

from kodectl.core.signal_routes import Way
from kodectl.errors import NegativeAnswer, PeerFault
from kodectl.node import delegation, letter_post
from kodectl.node.conversation import Conversation
from kodectl.node.node import Node
from kodectl.node.rendezvous import ECHO_EVERY_S, WANTED
from kodectl.node.signalling import (
    ALL_BEGUN_BURST,
    BEGUN_BURST,
    BEGUN_PER_S,
    CLOCKS_DIFFER,
    MAX_AGE_S,
    MAX_OF_PEER,
    Located,
)
from kodectl.sim.nat import Nat
from kodectl.wire import rpc
from kodectl.wire.contacts import Contact, pack_contacts, unpack_contacts
from kodectl.wire.enode import Enode
from kodectl.wire.messages import MessageKind
from kodectl.wire.offers import Correspondents, Letter, Offer, OfferKind, pack_letter
from kodectl.wire.presence import pack_presence
from kodectl.wire.rpc import Signal, SignalStatus, StoreStatus

OFFER = Offer(OfferKind.OFFER, "abcd", "p" * 22)
ANSWER = Offer(OfferKind.ANSWER, "efgh", "q" * 22)
LIMIT_S = 10.0
TOLD_LIMIT_S = 90.0
QUICK_S = 0.7
"""A lookup, and a letter each way through a rendezvous node, at round trips of 40 to 60 ms and 1 % loss."""
LEAST = 3


class Correspondent:
    """A node, and who answers its letters."""

    def __init__(self, node: Node, nat: Nat | None = None) -> None:
        self.node = node
        self.nat = nat
        self.runtime = node.runtime
        self.id = node.identity.node_id
        self.rendezvous = node.connectivity.rendezvous
        self.signalling = node.connectivity.signalling
        self.requests = node.connectivity.link_requests
        self.offered: list[Conversation] = []
        self.heard: list[Offer] = []
        self.undelivered: list[str] = []
        self.signalling.on_offer = self._offered

    def _offered(self, conversation: Conversation, offer: Offer) -> None:
        assert offer == OFFER
        self.offered.append(conversation)
        conversation.on_message = self.heard.append
        conversation.on_undelivered = self.undelivered.append
        conversation.send(ANSWER)

    @property
    def contact(self) -> Contact:
        return Contact(self.id, self.runtime.ip, self.node.udp_port, self.node.tcp_port)


class Place:
    def __init__(self, town: Town) -> None:
        self.town = town
        self.world = town.world
        self.open = [Correspondent(node) for node in town.open]
        self._boxes = 0

    def hidden(self, kind: str = "port_restricted") -> Correspondent:
        self._boxes += 1
        nat = self.town.box(self._boxes, **KINDS[kind])
        return Correspondent(self.town.behind(nat), nat)

    def told(self, *hidden: Correspondent) -> None:
        """All have enough rendezvous nodes, and the record is out."""

        def is_told() -> bool:
            return all(one.rendezvous.is_told and len(one.rendezvous.nodes()) >= LEAST for one in hidden)

        assert self.world.run(is_told, TOLD_LIMIT_S)
        self.world.run_for(3.0)

    def call(self, where: Correspondent, function: Callable[..., Any], *args: Any) -> Any:
        return self.world.call(where.runtime, function, *args)

    def locate(self, near: Correspondent, far: Correspondent) -> Located:
        located: Located = self.call(near, near.signalling.locate, far.id, LIMIT_S)
        return located

    def of(self, peers: list[Any]) -> list[Correspondent]:
        ids = {peer.node_id for peer in peers}
        return [one for one in self.open if one.id in ids]

    def write(self, near: Correspondent, far: Correspondent, located: Located | None = None) -> Conversation:
        conversation = near.signalling.open(far.id, located or self.locate(near, far))
        conversation.on_message = near.heard.append
        conversation.on_undelivered = near.undelivered.append
        conversation.send(OFFER)
        return conversation

    def answered(self, near: Correspondent, limit_s: float = LIMIT_S) -> float:
        """How long the answer took."""
        began = self.world.now
        assert self.world.run(lambda: near.heard == [ANSWER], limit_s)
        return self.world.now - began


@contextmanager
def place_of(count: int = 6) -> Iterator[Place]:
    with town_of(count) as town:
        yield Place(town)


@pytest.fixture
def place() -> Iterator[Place]:
    with place_of() as built:
        yield built


@pytest.fixture
def pair(place: Place) -> tuple[Place, Correspondent, Correspondent]:
    near, far = place.hidden(), place.hidden()
    place.told(near, far)
    return place, near, far


@pytest.fixture(scope="module")
def everybody() -> Iterator[tuple[Place, dict[str, tuple[Correspondent, Correspondent]]]]:
    with place_of() as place:
        kinds = {kind: (place.hidden(kind), place.hidden(kind)) for kind in ("port_restricted", "symmetric", "blocked")}
        place.told(*(one for both in kinds.values() for one in both))
        kinds["open"] = place.open[1], place.open[2]
        yield place, kinds


KIND_PAIRS = [
    (here, there) for here in ("open", "port_restricted", "symmetric", "blocked") for there in ("symmetric", "blocked")
]


@pytest.mark.parametrize(("here", "there"), KIND_PAIRS)
def test_whoever_is_hidden_is_found_and_written_to(
    everybody: tuple[Place, dict[str, tuple[Correspondent, Correspondent]]], here: str, there: str
) -> None:
    place, kinds = everybody
    near, far = kinds[here][0], kinds[there][1]
    near.heard.clear()
    began = place.world.now
    conversation = place.write(near, far)
    assert len(conversation.session) == rpc.SESSION_SIZE
    place.answered(near)
    assert place.world.now - began < QUICK_S
    assert far.offered[-1].peer_id == near.id
    assert place.world.run(lambda: conversation.rtt_s is not None and far.offered[-1].rtt_s is not None, 2.0)
    conversation.close()
    far.offered[-1].close()


def test_an_open_node_is_found_itself(place: Place) -> None:
    near = place.hidden()
    place.told(near)
    located = place.locate(near, place.open[3])
    assert located == Located(place.open[3].contact, ())


def test_nobody_finds_who_is_not_there(place: Place) -> None:
    with pytest.raises(NegativeAnswer) as caught:
        place.call(place.open[0], place.open[0].signalling.locate, b"x" * 32, LIMIT_S)
    assert caught.value.code == "not_found"


# -- rendezvous nodes --------------------------------------------------------------------------------------------------


def test_the_record_names_open_nodes_that_it_is_linked_with(place: Place) -> None:
    far = place.hidden()
    place.told(far)
    located = place.locate(place.open[0], far)
    assert located.contact is None
    named = {contact.node_id for contact in located.rendezvous}
    chosen = {one.id: one.contact for one in place.of(far.rendezvous.nodes())}
    assert len(chosen) == WANTED
    assert named == set(chosen)
    assert all(contact == chosen[contact.node_id] for contact in located.rendezvous)


def test_open_nodes_have_no_rendezvous_nodes(place: Place) -> None:
    place.world.run_for(60.0)
    assert not any(one.rendezvous.nodes() or one.rendezvous.is_told for one in place.open)


def test_who_leaves_is_replaced_and_the_record_follows(place: Place) -> None:
    far = place.hidden()
    place.told(far)
    before = place.of(far.rendezvous.nodes())
    # The first of all is the one that everybody joined through.
    leaves = next(one for one in before if one is not place.open[0])
    place.call(leaves, leaves.node.stop)
    assert place.world.run(lambda: len(place.of(far.rendezvous.nodes())) == WANTED, 10.0)
    place.world.run_for(10.0)
    assert leaves.id not in {contact.node_id for contact in place.locate(place.open[0], far).rendezvous}


def test_letters_arrive_when_rendezvous_nodes_have_just_lost_power(pair) -> None:
    place, near, far = pair
    located = place.locate(near, far)
    gone = [contact.ip for contact in located.rendezvous if contact.ip != place.open[0].runtime.ip][:2]
    for ip in gone:
        place.world.crash(ip)
    place.write(near, far, located)
    assert place.answered(near) < 3.0


def test_a_dead_link_is_replaced_in_time(place: Place) -> None:
    far = place.hidden()
    place.told(far)
    gone = next(one for one in place.of(far.rendezvous.nodes()) if one is not place.open[0])
    place.world.crash(gone.runtime.ip)

    def is_replaced() -> bool:
        chosen = place.of(far.rendezvous.nodes())
        return len(chosen) == WANTED and gone not in chosen

    # Its heartbeats are missed, or it brings no letter back, whichever is seen first.
    assert place.world.run(is_replaced, ECHO_EVERY_S + 30.0)


def test_who_passes_nothing_on_is_not_chosen(place: Place) -> None:
    silent = place.open[1:3]
    for one in silent:
        one.signalling.post._onward = lambda way, signal: None  # type: ignore[method-assign]
    for one in silent[:1]:
        pass_nothing_on(one)
    far = place.hidden()
    place.told(far)
    assert not set(place.of(far.rendezvous.nodes())) & set(silent)


def test_who_no_longer_passes_anything_on_is_replaced(place: Place) -> None:
    far = place.hidden()
    place.told(far)
    turned = place.of(far.rendezvous.nodes())[0]
    pass_nothing_on(turned)
    assert place.world.run(lambda: turned not in place.of(far.rendezvous.nodes()), ECHO_EVERY_S + 10.0)
    assert turned.id in far.node.peering.links
    assert place.world.run(lambda: len(far.rendezvous.nodes()) == WANTED, 10.0)


def test_only_who_was_dialled_is_known_to_be_reachable(place: Place) -> None:
    one = place.open[0]
    assert any(not peer.outbound for peer in one.node.peering.links.values())
    one.rendezvous._is_needed = lambda: True
    place.world.run_for(10.0)
    assert all(peer.outbound for peer in one.rendezvous.nodes())


def test_the_record_is_withdrawn_when_it_is_not_needed(place: Place) -> None:
    far = place.hidden()
    place.told(far)
    assert far.nat is not None
    far.rendezvous._is_needed = lambda: False
    assert place.world.run(lambda: not far.rendezvous.is_told, 60.0)
    assert far.rendezvous.nodes() == []
    with pytest.raises(NegativeAnswer):
        place.locate(place.open[0], far)


# -- nodes in between that do not do what they say ---------------------------------------------------------------------


def pass_nothing_on(one: Correspondent) -> None:
    """And say that they do."""
    one.signalling.post._pass_on = lambda way, signal, now: SignalStatus.FORWARDED  # type: ignore[method-assign]


def pass_own_on_only(one: Correspondent) -> None:
    """What they are tried with gets through."""
    honest = one.signalling.post._pass_on

    def lie(way: Any, signal: Signal, now: float) -> SignalStatus:
        return honest(way, signal, now) if signal.sender == signal.target else SignalStatus.FORWARDED

    one.signalling.post._pass_on = lie  # type: ignore[method-assign]


def pass_on_late(one: Correspondent, delay_s: float = 4.0) -> None:
    honest = one.signalling.post._pass_on

    def delay(way: Any, signal: Signal, now: float) -> SignalStatus:
        if signal.sender == signal.target:
            return honest(way, signal, now)
        one.runtime.call_later(delay_s, lambda: honest(way, signal, one.runtime.now()))
        return SignalStatus.FORWARDED

    one.signalling.post._pass_on = delay  # type: ignore[method-assign]


@pytest.mark.parametrize("misbehave", [pass_nothing_on, pass_own_on_only, pass_on_late])
@pytest.mark.parametrize("honest", [1, 2, 3])
def test_one_honest_rendezvous_node_is_enough(pair, misbehave, honest: int) -> None:
    place, near, far = pair
    located = place.locate(near, far)
    named = [contact.node_id for contact in located.rendezvous]
    for one in [one for one in place.open if one.id not in named[-honest:]]:
        misbehave(one)
    place.write(near, far, located)
    place.answered(near)
    # One word is enough, however many of the copies arrive.
    place.world.run_for(15.0)
    assert near.heard == [ANSWER]
    assert len(far.offered) == 1
    assert near.undelivered == far.undelivered == []


def test_who_waits_for_a_word_is_told_when_there_will_be_none(pair) -> None:
    place, near, far = pair
    located = place.locate(near, far)
    for one in place.open:
        pass_nothing_on(one)
    place.write(near, far, located)
    assert place.world.run(lambda: near.undelivered == ["unheard"], 15.0)


def test_who_has_left_is_not_waited_for(pair) -> None:
    place, near, far = pair
    located = place.locate(near, far)
    place.call(far, far.node.stop)
    place.world.run_for(1.0)
    conversation = place.write(near, far, located)
    assert place.world.run(lambda: near.undelivered == ["not_there"], LIMIT_S)
    conversation.send(OFFER)
    assert place.world.run(lambda: near.undelivered == ["not_there"] * 2, LIMIT_S)


def test_a_record_that_is_out_of_date_is_looked_up_again(pair) -> None:
    place, near, far = pair
    elsewhere = [one for one in place.open if one not in place.of(far.rendezvous.nodes())]
    for one in elsewhere:
        place.call(one, one.node.disconnect, far.id.hex())
    place.world.run_for(1.0)
    place.write(near, far, Located(None, tuple(one.contact for one in elsewhere)))
    place.answered(near)
    assert near.signalling.counters["sought_again"] == 1


def test_without_anybody_to_ask_it_is_looked_up_too(pair) -> None:
    place, near, far = pair
    place.write(near, far, Located(None, ()))
    place.answered(near)


# -- conversations -----------------------------------------------------------------------------------------------------


def test_messages_come_in_order_and_wait_for_who_listens(pair) -> None:
    place, near, far = pair
    said = [OFFER, *(Offer(OfferKind.UPDATE, reason=str(number)) for number in range(6))]
    first: list[Offer] = []
    far.signalling.on_offer = lambda conversation, offer: (far.offered.append(conversation), first.append(offer))
    conversation = near.signalling.open(far.id, place.locate(near, far))
    for offer in said:
        conversation.send(offer)
    place.world.run_for(3.0)
    assert first == said[:1]
    far.offered[0].on_message = far.heard.append
    assert far.heard == said[1:]
    place.world.run_for(15.0)
    assert far.heard == said[1:]
    assert near.undelivered == []


def test_a_last_word_is_heard_after_the_end(pair) -> None:
    place, near, far = pair

    def refuse(conversation: Conversation, offer: Offer) -> None:
        conversation.send(Offer.refusal("busy"))
        conversation.close()

    far.signalling.on_offer = refuse
    place.write(near, far)
    assert place.world.run(lambda: near.heard == [Offer.refusal("busy")], LIMIT_S)
    place.world.run_for(30.0)
    assert not far.signalling._conversations


def test_a_conversation_goes_on_after_a_long_rest(pair) -> None:
    """As it has to when all paths of a connection have died."""
    place, near, far = pair
    conversation = place.write(near, far)
    place.answered(near)
    for one in place.of(far.rendezvous.nodes())[1:]:
        place.call(one, one.node.disconnect, far.id.hex())
    place.world.run_for(900.0)
    near.heard.clear()
    far.offered[0].on_message = lambda offer: far.offered[0].send(ANSWER)
    conversation.send(OFFER)
    place.answered(near)


# -- abuse -------------------------------------------------------------------------------------------------------------


def letter(sender: Correspondent, target: Correspondent, session: bytes, number: int = 1, age_s: float = 0.0) -> bytes:
    time_ms = int((sender.runtime.unix_time() - age_s) * 1000)
    identity = sender.node.identity
    between = Correspondents(target.id, sender.id, session)
    return pack_letter(Letter(number, number, 0, time_ms, OFFER), between, identity.public_key, identity.sign)


def put_in(place: Place, sender: Correspondent, at: Correspondent, signal: Signal) -> SignalStatus:
    """Over UDP, whatever it says."""
    address = (at.runtime.ip, at.node.udp_port)
    answer = place.call(sender, sender.node.discovery.ask, at.id, address, signal)
    return SignalStatus(answer.body.status)


@pytest.fixture(scope="module")
def attacked() -> Iterator[tuple[Place, Correspondent, Correspondent, Correspondent]]:
    """With an attacker, and one of the target's rendezvous nodes."""
    with place_of() as place:
        attacker, target = place.hidden(), place.hidden()
        place.told(attacker, target)
        yield place, attacker, target, place.of(target.rendezvous.nodes())[0]


def test_a_letter_of_somebody_else_is_not_taken(attacked) -> None:
    place, attacker, target, between = attacked
    victim = place.open[1]
    forged = Signal(target.id, victim.id, b"forged-1", 0, b"", letter(victim, target, b"forged-1"))
    with pytest.raises(PeerFault, match="somebody else"):
        put_in(place, attacker, between, forged)


def test_a_forged_letter_that_was_passed_on_is_found_out_by_the_target(attacked) -> None:
    place, attacker, target, between = attacked
    victim = place.open[1]
    offered = len(target.offered)
    forged = Signal(target.id, victim.id, b"forged-2", 1, b"", letter(attacker, target, b"forged-2"))
    assert put_in(place, attacker, between, forged) is SignalStatus.FORWARDED
    place.world.run_for(1.0)
    assert target.signalling.counters["forged"] == 1
    assert len(target.offered) == offered


def test_letters_that_go_in_circles_end(attacked) -> None:
    place, attacker, target, between = attacked
    tired = Signal(target.id, attacker.id, b"circle-1", 3, b"", b"")
    with pytest.raises(PeerFault, match="passed on 3 times"):
        put_in(place, attacker, between, tired)


def test_a_letter_is_good_once(attacked) -> None:
    place, attacker, target, between = attacked
    written = letter(attacker, target, b"replay-1")
    signal = Signal(target.id, attacker.id, b"replay-1", 0, b"", written)
    offered, replayed = len(target.offered), target.signalling.counters["replayed"]
    put_in(place, attacker, between, signal)
    place.world.run_for(1.0)
    target.offered[-1].close()
    place.world.run_for(20.0)
    put_in(place, attacker, between, signal)
    place.world.run_for(1.0)
    assert len(target.offered) == offered + 1
    assert target.signalling.counters["replayed"] == replayed + 1


@pytest.mark.parametrize("age_s", [MAX_AGE_S + 5, -MAX_AGE_S - 5])
def test_old_letters_begin_nothing(attacked, age_s: float) -> None:
    place, attacker, target, between = attacked
    session = b"age%05d" % (age_s + MAX_AGE_S)
    signal = Signal(target.id, attacker.id, session, 0, b"", letter(attacker, target, session, age_s=age_s))
    offered = len(target.offered)
    put_in(place, attacker, between, signal)
    place.world.run_for(1.0)
    assert len(target.offered) == offered


def test_who_has_a_wrong_clock_is_told(place: Place) -> None:
    far = place.hidden()
    late = Correspondent(place.town.node(place.world.host("22.1.0.1", clock_offset_s=-MAX_AGE_S - 60)))
    place.told(far)
    place.write(late, far)
    assert place.world.run(lambda: late.heard == [Offer.refusal(CLOCKS_DIFFER)], LIMIT_S)
    assert far.offered == []


def test_what_does_not_begin_with_an_offer_begins_nothing(attacked) -> None:
    place, attacker, target, between = attacked
    identity = attacker.node.identity
    out_of_place = target.signalling.counters["out_of_place"]
    for number, what in enumerate([None, ANSWER, Offer(OfferKind.GO)]):
        session = b"begin--%d" % number
        pair = Correspondents(target.id, attacker.id, session)
        written = pack_letter(
            Letter(1, 1, 0, int(attacker.runtime.unix_time() * 1000), what), pair, identity.public_key, identity.sign
        )
        put_in(place, attacker, between, Signal(target.id, attacker.id, session, 0, b"", written))
    place.world.run_for(1.0)
    assert target.signalling.counters["out_of_place"] == out_of_place + 3


def test_whoever_is_not_there_is_not_passed_on_to(attacked) -> None:
    place, attacker, target, between = attacked
    signal = Signal(b"x" * 32, attacker.id, b"nowhere1", 0, b"", b"")
    assert put_in(place, attacker, between, signal) is SignalStatus.NOT_THERE
    named = Signal(b"x" * 32, attacker.id, b"nowhere1", 0, pack_contacts([target.contact]), b"")
    # Only who is linked may name others.
    assert put_in(place, attacker, place.open[0], named) in (SignalStatus.NOT_THERE, SignalStatus.FORWARDED)


def test_nobody_has_letters_written_into_another_network(attacked) -> None:
    place, attacker, _, between = attacked
    peer = attacker.node.peering.links[between.id]
    inner = [Contact(b"i" * 32, ip, 30301, 30303) for ip in ("192.168.1.1", "10.0.0.1", "127.0.0.1")]
    signal = Signal(b"x" * 32, attacker.id, b"inner--1", 0, pack_contacts(inner), b"")
    answer = place.call(attacker, attacker.requests.ask, peer, signal, 5.0)
    assert answer.status == SignalStatus.NOT_THERE


def test_a_delegate_stores_only_what_its_peer_has_published(attacked) -> None:
    place, attacker, target, between = attacked
    _, foreign = target.node.values.signed(b"k" * 32, b"value", 100.0)
    _, own = attacker.node.values.signed(b"k" * 32, b"value", 100.0)
    peer = attacker.node.peering.links[between.id]
    with pytest.raises(PeerFault, match="somebody else"):
        place.call(attacker, attacker.requests.ask, peer, rpc.Store(b"", foreign), 10.0)
    for record, status in ((own, StoreStatus.STORED), (b"none", StoreStatus.MALFORMED)):
        answer = place.call(attacker, attacker.requests.ask, peer, rpc.Store(b"", record), 10.0)
        assert answer.status == status
    changed = own[:-1] + bytes((own[-1] ^ 1,))
    answer = place.call(attacker, attacker.requests.ask, peer, rpc.Store(b"", changed), 10.0)
    assert answer.status == StoreStatus.BAD_SIGNATURE


def test_a_flood_of_offers_costs_its_sender_and_nobody_else(pair) -> None:
    place, near, far = pair
    attacker = place.hidden()
    place.told(attacker)
    between = place.of(far.rendezvous.nodes())[0]
    far.signalling.on_offer = lambda conversation, offer: far.offered.append(conversation)
    refused: list[Any] = []
    for number in range(400):
        session = b"%08d" % number
        signal = Signal(far.id, attacker.id, session, 0, b"", letter(attacker, far, session))
        attacker.node.discovery.request(
            between.id, (between.runtime.ip, between.node.udp_port), signal, lambda *answer: None, refused.append
        )
    place.world.run_for(5.0)
    assert far.signalling.counters["begun"] <= BEGUN_BURST + 5 < ALL_BEGUN_BURST
    assert between.id in far.node.peering.links
    far.signalling.on_offer = far._offered
    place.write(near, far)
    place.answered(near)
    assert far.offered[-1].peer_id == near.id


def test_a_flood_over_a_link_costs_the_link(pair) -> None:
    place, near, far = pair
    peer = far.rendezvous.nodes()[0]
    message = rpc.pack_message(1, Signal(near.id, far.id, b"flood--1", 0, b"", bytes(100)))
    for _ in range(1500):
        peer.send(MessageKind.REQUEST, message)
    assert place.world.run(lambda: peer.link.closed, 5.0)


def test_a_neighbour_behind_the_same_box_is_named_to_nobody_outside() -> None:
    """It listens, and does not know yet that strangers do not get through to it."""
    with place_of(3) as place:
        nat = place.town.box(1, **KINDS["port_restricted"])
        neighbour = place.town.behind(nat, "192.168.1.3")
        far = Correspondent(place.town.behind(nat, "192.168.1.2"))
        far.node.peering.add_candidate(Enode(neighbour.identity.node_id, "192.168.1.3", 30303, 30301), "test")
        assert place.world.run(lambda: neighbour.identity.node_id in far.node.peering.links, 20.0)
        place.told(far)
        assert len(far.rendezvous.nodes()) == 3
        assert neighbour.identity.node_id not in {peer.node_id for peer in far.rendezvous.nodes()}


# -- one hop -----------------------------------------------------------------------------------------------------------


def sent_to(place: Place, sender: Correspondent, at: Correspondent, target: bytes, session: bytes) -> SignalStatus:
    return put_in(place, sender, at, Signal(target, sender.id, session, 0, b"", b""))


def test_letters_come_back_by_the_way_the_session_came(place: Place) -> None:
    """Between two that the one in the middle has no links with."""
    one, middle, other = place.open[1], place.open[2], place.open[3]
    for end in (one, other):
        place.call(middle, middle.node.ban, end.id.hex(), 60.0)
    place.world.run_for(1.0)
    session = b"session1"
    assert sent_to(place, one, middle, other.id, session) is SignalStatus.NOT_THERE
    middle.signalling.post.routes.learn(one.id, session, Way(one.id, (one.runtime.ip, 30301)), place.world.now)
    assert sent_to(place, other, middle, one.id, session) is SignalStatus.FORWARDED
    assert sent_to(place, other, middle, one.id, b"session2") is SignalStatus.NOT_THERE
    # Not to where it comes from: two that point at each other would send it to and fro.
    middle.signalling.post.routes.learn(one.id, session, Way(one.id, (one.runtime.ip, 30301)), place.world.now)
    assert sent_to(place, one, middle, one.id, session) is SignalStatus.NOT_THERE


def test_a_way_back_that_leads_nowhere_is_forgotten(place: Place) -> None:
    one, middle, other = place.open[1], place.open[2], place.open[3]
    place.call(middle, middle.node.ban, one.id.hex(), 60.0)
    place.world.run_for(1.0)
    routes = middle.signalling.post.routes
    routes.learn(one.id, b"session1", Way(one.id, ("24.9.9.9", 30301)), place.world.now)
    assert sent_to(place, other, middle, one.id, b"session1") is SignalStatus.FORWARDED
    place.world.run_for(20.0)
    assert routes.find(one.id, b"session1", place.world.now) is None


def test_sessions_that_begin_with_one_target_are_bounded_and_those_under_way_go_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = place.hidden()
    place.told(far)
    middle = place.of(far.rendezvous.nodes())[0]
    floods, other = place.open[1], place.open[2]
    if middle in (floods, other):
        floods, other = place.open[3], place.open[4]

    def begin(sender: Correspondent, count: int, names: bytes) -> list[SignalStatus]:
        return [sent_to(place, sender, middle, far.id, names + b"%07d" % number) for number in range(count)]

    flood = begin(floods, 20, b"f")
    assert letter_post.SOURCE_BEGUN_BURST <= flood.count(SignalStatus.FORWARDED) <= 8
    # Others have their own share, and what has begun goes on.
    assert begin(other, 2, b"o") == [SignalStatus.FORWARDED] * 2
    assert begin(floods, 1, b"f") == [SignalStatus.FORWARDED]
    # Of many sources together there is an end too.
    monkeypatch.setattr(letter_post, "_source_of", lambda way: place.world.now.hex())
    many = begin(floods, 200, b"m")
    assert many.count(SignalStatus.BUSY) > 20
    assert many.count(SignalStatus.FORWARDED) >= letter_post.BEGUN_BURST - 10


def test_letters_of_one_sender_are_bounded(place: Place) -> None:
    sender, middle = place.open[1], place.open[2]
    answers: list[Any] = []
    for _ in range(int(letter_post.SOURCE_BURST) + 30):
        sender.signalling.post.send(
            Way(middle.id, (middle.runtime.ip, 30301)),
            Signal(b"x" * 32, sender.id, b"session1", 0, b"", b""),
            answers.append,
        )
    assert place.world.run(lambda: len(answers) == int(letter_post.SOURCE_BURST) + 30, 30.0)
    assert answers.count(SignalStatus.NOT_THERE) >= letter_post.SOURCE_BURST
    assert answers.count(SignalStatus.BUSY) >= 10


# -- what one sender gets of a node ------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_ended", [True, False], ids=["ended at once", "kept"])
def test_one_sender_begins_so_many_conversations(place: Place, is_ended: bool) -> None:
    sender, target = place.open[1], place.open[2]
    begun: list[Conversation] = []

    def take(conversation: Conversation, offer: Offer) -> None:
        begun.append(conversation)
        if is_ended:
            conversation.end()

    target.signalling.on_offer = take
    began = place.world.now
    for number in range(40):
        session = b"%08d" % number
        put_in(place, sender, target, Signal(target.id, sender.id, session, 0, b"", letter(sender, target, session)))
        place.world.run_for(0.0 if is_ended else 2.0)
    allowed = MAX_OF_PEER if not is_ended else BEGUN_BURST + BEGUN_PER_S * (place.world.now - began)
    assert MAX_OF_PEER <= len(begun) <= allowed + 1


def test_nobody_tells_where_somebody_else_is(place: Place) -> None:
    liar, far, near = place.open[1], place.hidden(), place.open[3]
    place.told(far)
    true = place.locate(near, far)
    false = pack_presence([Contact(b"e" * 32, "23.66.6.6", 30301, 30303)])
    for node_id in (far.id, b"n" * 32):
        place.call(liar, liar.node.values.put, node_id, false, 1000.0)
    assert place.locate(near, far) == true
    with pytest.raises(NegativeAnswer):
        place.call(near, near.signalling.locate, b"n" * 32, LIMIT_S)


# -- delegation --------------------------------------------------------------------------------------------------------


def test_a_peer_looks_up_what_is_under_a_key_and_whose_id_it_is(place: Place) -> None:
    asker = place.hidden("blocked")
    place.told(asker)
    peer = asker.rendezvous.nodes()[0]
    sought = next(one for one in place.open if one.id != peer.node_id)
    key = sought.id
    for number, writer in enumerate([sought, *place.open[:2]]):
        place.call(writer, writer.node.values.put, key, b"%d" % number, 1000.0)

    def asked(skip: int, contacts_wanted: bool) -> rpc.Values:
        answer: rpc.Values = place.call(
            asker, asker.requests.ask, peer, rpc.FindValue(key, skip, contacts_wanted), LIMIT_S
        )
        return answer

    answer = asked(0, True)
    assert unpack_contacts(answer.contacts, 1) == [sought.contact]
    assert answer.token == b""
    assert answer.total == len(answer.records) >= 1
    rest = asked(1, False)
    assert (rest.contacts, len(rest.records)) == (b"", rest.total - 1)


def test_lookups_for_one_peer_are_bounded(place: Place) -> None:
    asker = place.hidden("blocked")
    place.told(asker)
    peer = asker.rendezvous.nodes()[0]
    refused: list[str] = []
    for number in range(int(delegation.BURST) + 10):
        try:
            place.call(asker, asker.requests.ask, peer, rpc.FindValue(b"%032d" % number, 0, False), LIMIT_S)
        except PeerFault as fault:
            refused.append(fault.message)
    assert len(refused) >= 5
    assert all("too many lookups" in message for message in refused)


@pytest.mark.parametrize("what", ["false address", "nothing"])
def test_one_delegate_that_lies_is_outvoted(place: Place, what: str) -> None:
    near, far = place.hidden("blocked"), place.hidden()
    place.told(near, far)
    liar, *_ = place.of(near.rendezvous.nodes()[:1])
    named = Contact(far.id, "23.66.6.6", 30301, 30303).packed if what == "false address" else b""
    liar.requests.handlers[rpc.Kind.FIND_VALUE] = lambda peer, question: rpc.Values(0, b"", [], named)
    located = place.locate(near, far)
    assert len(located.rendezvous) >= LEAST
    open_node = next(one for one in place.open if one is not liar and one not in place.of(near.rendezvous.nodes()[:3]))
    if what == "false address":
        named = Contact(open_node.id, "23.66.6.6", 30301, 30303).packed
        liar.requests.handlers[rpc.Kind.FIND_VALUE] = lambda peer, question: rpc.Values(0, b"", [], named)
    assert place.locate(near, open_node).contact == open_node.contact
