"""A conversation alone: whatever its hops and the other side do, it stays within its bounds and says what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodectl.core.correspondence import ATTEMPTS, MAX_UNHEARD
from kodectl.core.signal_routes import Way
from kodectl.node.conversation import LINGER_S, MAX_HOPS_KNOWN, SIDE_BY_SIDE, Conversation, Hop
from kodectl.sim.world import World
from kodectl.wire.offers import Letter, Offer, OfferKind

OFFER = Offer(OfferKind.OFFER)
PEER = b"p" * 32


def way(number: int) -> Way:
    return Way(bytes((number,)) * 32)


def hops(*numbers: int) -> list[Hop]:
    return [Hop(way(number)) for number in numbers]


class Scripted:
    """Takes letters down; the test says what becomes of them."""

    def __init__(self, *numbers: int, can_seek: bool = False) -> None:
        self.world = World(1)
        self.runtime = self.world.host("10.0.0.1")
        self.sent: list[tuple[int, Letter]] = []
        self.tells: list[Callable[[bool | None], None]] = []
        self.can_seek = can_seek
        self.sought = 0
        self.is_ended = False
        self.heard: list[Offer] = []
        self.undelivered: list[str] = []
        self.conversation = Conversation(self.runtime, self, PEER, b"session1", hops(*numbers))
        self.conversation.on_message = self.heard.append
        self.conversation.on_undelivered = self.undelivered.append

    def transmit(self, conversation: Conversation, hop: Hop, letter: Letter, tell: Any) -> None:
        self.sent.append((hop.way.node_id[0], letter))
        self.tells.append(tell)

    def find_again(self, conversation: Conversation) -> bool:
        self.sought += self.can_seek
        return self.can_seek

    def ended(self, conversation: Conversation) -> None:
        self.is_ended = True

    def took(self) -> list[int]:
        """The hops taken since the last call."""
        taken, self.sent = [hop for hop, _ in self.sent], []
        return taken

    def arrives(self, by: int, heard: int = 0, number: int = 0, offer: Offer | None = None, oldest: int = 1) -> None:
        self.conversation.received(Letter(number, oldest, heard, 0, offer), way(by))


@pytest.fixture
def four() -> Scripted:
    return Scripted(1, 2, 3, 4)


def test_a_letter_takes_two_hops_and_then_the_others(four: Scripted) -> None:
    four.conversation.send(OFFER)
    assert four.took() == [1, 2]
    four.world.run_for(0.8)
    assert four.took() == [3, 4]
    four.world.run_for(1.5)
    assert four.took() == [1, 2]
    four.world.run_for(60.0)
    assert four.took() == [3, 4]
    assert four.undelivered == ["unheard"]


def test_a_hop_that_fails_is_replaced_at_once(four: Scripted) -> None:
    four.conversation.send(OFFER)
    four.took()
    four.tells[0](False)
    assert four.took() == [3]
    four.tells[2](None)
    assert four.took() == [4]
    four.tells[1](True)
    assert four.took() == []


def with_a_spare() -> Scripted:
    one = Scripted(1, 2)
    one.conversation.go_on([*hops(1, 2), Hop(way(9), is_spare=True)])
    return one


def test_a_spare_hop_is_taken_when_the_others_are_not_heard() -> None:
    one = with_a_spare()
    one.conversation.send(OFFER)
    assert one.took() == [1, 2]
    one.world.run_for(0.8)
    assert one.took() == [9]
    one.arrives(1, heard=1)
    one.conversation.send(OFFER)
    assert one.took() == [1, 2]


def test_what_is_urgent_takes_all_hops_at_once_and_is_repeated_as_ever() -> None:
    one = with_a_spare()
    one.conversation.send(OFFER, is_urgent=True)
    assert one.took() == [1, 2, 9]
    one.world.run_for(0.8)
    assert one.took() == [1, 2]


def test_what_is_urgent_takes_the_way_by_which_the_other_side_has_just_written() -> None:
    """Before, nobody could write to it by that: a box has forgotten where its links went."""
    one = with_a_spare()
    one.conversation.send(OFFER, is_urgent=True)
    one.took()
    one.arrives(9, number=1, offer=OFFER)
    assert [hop for hop, letter in one.sent if letter.offer is not None] == [9]
    one.took()
    one.arrives(1, heard=1, number=2, offer=OFFER)
    assert all(letter.offer is None for _, letter in one.sent), "it has been heard"


def test_what_begins_anew_waits_for_nothing_that_was_said_before() -> None:
    one = with_a_spare()
    one.conversation.send(Offer(OfferKind.UPDATE))
    one.took()
    one.conversation.send(OFFER, is_urgent=True)
    assert {(letter.number, letter.oldest) for _, letter in one.sent} == {(2, 2)}
    one.conversation.send(Offer(OfferKind.UPDATE), is_urgent=True)
    assert {(letter.number, letter.oldest) for _, letter in one.sent} == {(2, 2), (3, 2)}


def test_what_is_said_again_out_of_turn_is_so_only_now_and_then() -> None:
    one = with_a_spare()
    one.conversation.send(OFFER, is_urgent=True)
    for number in range(1, 5):
        one.arrives(9, number=number, offer=OFFER)
    assert len([hop for hop, letter in one.sent if letter.offer is not None]) == 3 + 1


def test_what_is_not_urgent_waits_for_its_repetition() -> None:
    one = with_a_spare()
    one.conversation.send(OFFER)
    one.took()
    one.arrives(1, number=1, offer=OFFER)
    assert all(letter.offer is None for _, letter in one.sent)


def test_a_spare_hop_is_taken_when_the_others_fail() -> None:
    one = with_a_spare()
    one.conversation.send(OFFER)
    one.took()
    one.tells[0](False)
    assert one.took() == [9]
    one.tells[1](False)
    one.conversation.send(OFFER)
    assert one.took() == [9]
    assert one.undelivered == []


def test_a_spare_hop_that_brings_news_is_as_good_as_any() -> None:
    one = with_a_spare()
    one.conversation.send(OFFER)
    one.took()
    one.arrives(9, heard=1, number=1, offer=OFFER)
    assert one.took() == [9, 1]


def test_it_is_over_when_nobody_knows_the_node(four: Scripted) -> None:
    four.conversation.send(OFFER)
    for number in range(4):
        assert four.undelivered == []
        four.tells[number](False)
    assert four.undelivered == ["not_there"]
    four.world.run_for(60.0)
    assert len(four.sent) == 4


def test_news_shows_which_way_is_good_and_copies_do_not(four: Scripted) -> None:
    four.conversation.send(OFFER)
    four.took()
    four.arrives(3, heard=1, number=1, offer=OFFER)
    assert four.took() == [3, 1]
    for by in (7, 8):
        four.arrives(by, heard=1, number=1, offer=OFFER)
    four.conversation.send(OFFER)
    assert four.took() == [3, 1]
    assert four.heard == [OFFER]


def test_whoever_hands_copies_in_takes_no_more_than_his_places(four: Scripted) -> None:
    for by in range(5, 60):
        four.arrives(by, number=1, offer=OFFER)
    assert len(four.conversation._hops) == MAX_HOPS_KNOWN


def test_other_hops_are_found_once_for_what_is_said() -> None:
    one = Scripted(1, can_seek=True)
    one.conversation.send(OFFER)
    one.tells[0](False)
    assert (one.sought, one.undelivered) == (1, [])
    one.conversation.go_on(hops(5))
    assert one.took() == [1, 5]
    one.tells[1](False)
    assert (one.sought, one.undelivered) == (1, ["not_there"])
    one.conversation.send(OFFER)
    assert one.sought == 2
    one.conversation.go_on([])
    assert one.undelivered == ["not_there"] * 2


def test_without_hops_and_anybody_to_find_some_it_says_so() -> None:
    one = Scripted()
    one.conversation.send(OFFER)
    assert one.undelivered == ["no_way"]
    assert one.sent == []


def test_after_the_end_what_was_said_is_repeated_for_a_while(four: Scripted) -> None:
    four.conversation.send(OFFER)
    four.conversation.close()
    four.took()
    four.world.run_for(0.8)
    assert four.took() == [3, 4]
    four.arrives(1, number=1, offer=OFFER)
    assert four.heard == []
    assert four.took() == [1, 2]
    four.world.run_for(LINGER_S)
    assert four.is_ended
    four.took()
    four.arrives(1, number=2, offer=OFFER)
    four.conversation.send(OFFER)
    four.world.run_for(60.0)
    assert four.took() == []


steps = st.one_of(
    st.tuples(st.just("send")),
    st.tuples(st.just("arrive"), st.integers(0, 12), st.integers(0, 6), st.integers(0, 6), st.integers(0, 6)),
    st.tuples(st.just("tell"), st.integers(0, 40), st.sampled_from([True, False, None])),
    st.tuples(st.just("wait"), st.sampled_from([0.01, 0.5, 2.0, 20.0])),
    st.tuples(st.just("go_on"), st.lists(st.integers(0, 9), max_size=4, unique=True)),
    st.tuples(st.just("close")),
)


@settings(max_examples=150, deadline=None)
@given(count=st.integers(0, 5), can_seek=st.booleans(), script=st.lists(steps, max_size=50))
def test_whatever_happens_it_stays_within_its_bounds(count: int, can_seek: bool, script: list[Any]) -> None:
    one = Scripted(*range(count), can_seek=can_seek)
    said = arrivals = tells = 0
    for step in script:
        match step:
            case ("send",):
                one.conversation.send(OFFER)
                said += 1
            case ("arrive", by, heard, number, oldest):
                one.arrives(by, heard, number, OFFER if number else None, oldest)
                arrivals += 1
            case ("tell", index, outcome):
                if index < len(one.tells):
                    one.tells[index](outcome)
                    tells += 1
            case ("wait", seconds):
                one.world.run_for(seconds)
            case ("go_on", numbers):
                one.conversation.go_on(hops(*numbers))
                tells += 1
            case ("close",):
                one.conversation.close()
        assert len(one.conversation._hops) <= MAX_HOPS_KNOWN
    one.world.run_for(60.0)
    assert len(one.sent) <= SIDE_BY_SIDE * (said * ATTEMPTS + arrivals) + MAX_UNHEARD * SIDE_BY_SIDE * tells
    assert len(one.undelivered) <= said + tells
