"""The cores of signalling: ways back, correspondence between two that lose and double, and when to publish."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodectl.core import signal_routes
from kodectl.core.correspondence import (
    ATTEMPTS,
    FIRST_REPEAT_S,
    MAX_EARLY,
    MAX_UNHEARD,
    TELL_AGAIN_S,
    Correspondence,
    Outgoing,
)
from kodectl.core.publication import (
    LIFETIME_S,
    REFRESH_S,
    RETRY_CAP_S,
    SETTLE_S,
    WITHDRAW_AFTER_S,
    Publication,
    Publisher,
)
from kodectl.core.signal_routes import MAX_OF_GROUP, ROUTE_S, SignalRoutes, Way
from kodectl.wire.contacts import Contact
from kodectl.wire.offers import MAX_NUMBER, Letter, Offer, OfferKind


def node(number: int) -> bytes:
    return number.to_bytes(32)


def session(number: int) -> bytes:
    return number.to_bytes(8)


def over_udp(number: int, ip: str = "20.1.1.1") -> Way:
    return Way(node(number), (ip, 30301))


# -- ways back ---------------------------------------------------------------------------------------------------------


class TestRoutes:
    def test_answers_go_back_where_letters_came_from(self) -> None:
        routes = SignalRoutes()
        routes.learn(node(1), session(1), over_udp(2), 0.0)
        assert routes.find(node(1), session(1), 1.0) == over_udp(2)
        assert routes.find(node(1), session(2), 1.0) is None
        assert routes.find(node(2), session(1), 1.0) is None

    def test_who_came_first_stays(self) -> None:
        routes = SignalRoutes()
        routes.learn(node(1), session(1), over_udp(2), 0.0)
        routes.learn(node(1), session(1), over_udp(3), 1.0)
        assert routes.find(node(1), session(1), 2.0) == over_udp(2)

    def test_who_comes_itself_is_found_where_it_came_from_last(self) -> None:
        routes = SignalRoutes()
        routes.learn(node(1), session(1), Way(node(1)), 0.0)
        routes.learn(node(1), session(1), over_udp(1), 1.0)
        assert routes.find(node(1), session(1), 2.0) == over_udp(1)
        routes.learn(node(1), session(1), over_udp(2), 3.0)
        assert routes.find(node(1), session(1), 4.0) == over_udp(1)

    def test_a_second_way_does_not_keep_the_first_alive(self) -> None:
        routes = SignalRoutes()
        routes.learn(node(1), session(1), over_udp(2), 0.0)
        routes.learn(node(1), session(1), over_udp(3), ROUTE_S - 1)
        assert routes.find(node(1), session(1), ROUTE_S) is None
        routes.learn(node(1), session(1), over_udp(3), ROUTE_S)
        assert routes.find(node(1), session(1), ROUTE_S) == over_udp(3)

    def test_a_way_lasts_while_letters_come_by_it(self) -> None:
        routes = SignalRoutes()
        for time in range(0, int(3 * ROUTE_S), 30):
            routes.learn(node(1), session(1), over_udp(2), time)
        assert routes.find(node(1), session(1), 3 * ROUTE_S) is not None

    def test_what_leads_nowhere_makes_room_for_another(self) -> None:
        routes = SignalRoutes()
        routes.learn(node(1), session(1), over_udp(2), 0.0)
        routes.forget(node(1), session(1), over_udp(3))
        assert routes.find(node(1), session(1), 1.0) == over_udp(2)
        routes.forget(node(1), session(1), over_udp(2))
        routes.forget(node(1), session(1), over_udp(2))
        assert routes.find(node(1), session(1), 1.0) is None

    def test_ways_end_with_their_link(self) -> None:
        routes = SignalRoutes()
        routes.learn(node(1), session(1), Way(node(2)), 0.0)
        routes.learn(node(1), session(2), Way(node(3)), 0.0)
        routes.link_lost(node(2))
        assert routes.find(node(1), session(1), 1.0) is None
        assert routes.find(node(1), session(2), 1.0) is not None

    def test_one_network_takes_its_own_places_only(self) -> None:
        routes = SignalRoutes()
        routes.learn(node(1), session(0), over_udp(1, "20.1.1.1"), 0.0)
        for number in range(2 * MAX_OF_GROUP):
            routes.learn(node(number), session(1), over_udp(number, f"20.2.2.{number % 250 + 1}"), 1.0)
        assert len(routes) == MAX_OF_GROUP + 1
        assert routes.find(node(1), session(0), 2.0) is not None

    def test_a_full_table_takes_from_who_has_most(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(signal_routes, "MAX_ROUTES", 20)
        routes = SignalRoutes()
        for number in range(18):
            routes.learn(node(number), session(1), over_udp(number, "20.2.2.1"), 1.0)
        for number in range(5):
            routes.learn(node(number), session(2), over_udp(number, f"20.3.{number}.1"), 1.0)
        assert len(routes) == 20
        assert all(routes.find(node(number), session(2), 2.0) for number in range(5))
        assert routes.find(node(0), session(1), 2.0) is None

    def test_what_has_expired_goes_before_what_has_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(signal_routes, "MAX_ROUTES", 4)
        routes = SignalRoutes()
        for number in range(4):
            routes.learn(node(number), session(1), over_udp(number, "20.2.2.1"), 30.0 * (number == 3))
        routes.learn(node(9), session(1), over_udp(9, "20.3.1.1"), ROUTE_S + 1)
        assert len(routes) == 2
        assert routes.find(node(3), session(1), ROUTE_S + 1) is not None

    @settings(max_examples=50)
    @given(
        st.lists(
            st.tuples(st.sampled_from("lfex"), st.integers(0, 5), st.integers(0, 3), st.integers(0, 5)), max_size=80
        )
    )
    def test_whatever_happens_it_stays_within_its_bounds(self, steps: list[tuple[str, int, int, int]]) -> None:
        routes, now = SignalRoutes(), 0.0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(signal_routes, "MAX_ROUTES", 6)
            patch.setattr(signal_routes, "MAX_OF_GROUP", 3)
            for what, one, of, by in steps:
                now += one
                way = over_udp(by, f"20.{by % 3}.1.1") if by % 2 else Way(node(by))
                if what == "l":
                    routes.learn(node(one), session(of), way, now)
                elif what == "f":
                    routes.forget(node(one), session(of), way)
                elif what == "e":
                    routes.link_lost(node(by))
                found = routes.find(node(one), session(of), now)
                assert what != "l" or found is not None
                assert len(routes) <= 6


# -- correspondence ----------------------------------------------------------------------------------------------------


def offer(number: int) -> Offer:
    return Offer(OfferKind.UPDATE, reason=str(number))


def letter_of(writer: Correspondence, outgoing: Outgoing | None) -> Letter:
    if outgoing is None:
        return Letter(writer.last_number, writer.oldest, writer.heard, 0)
    return Letter(outgoing.number, writer.oldest, writer.heard, 0, outgoing.offer)


class TestCorrespondence:
    def test_what_is_heard_is_not_repeated_and_measures_the_way(self) -> None:
        one, other = Correspondence(), Correspondence()
        said = one.write(offer(1), 10.0)
        assert other.take(letter_of(one, said), 10.1) == [offer(1)]
        assert other.owes()
        other.told(10.1)
        assert not other.owes()
        assert one.take(letter_of(other, None), 10.2) == []
        assert one.is_settled
        assert one.next_deadline() is None
        assert one.rtt_s == pytest.approx(0.2)

    def test_silence_is_answered_by_repetitions_that_end(self) -> None:
        one, now = Correspondence(), 0.0
        said = [one.write(offer(1), now)]
        gaps: list[float] = []
        while not one.is_exhausted(one.next_deadline() or 0.0):
            then, now = now, one.next_deadline() or 0.0
            gaps.append(now - then)
            said += one.due(now)
        assert [outgoing.attempt for outgoing in said if outgoing is not None] == list(range(ATTEMPTS))
        assert gaps == [FIRST_REPEAT_S, 2 * FIRST_REPEAT_S, 4 * FIRST_REPEAT_S]
        assert one.due(now + 100.0) == []
        one.give_up()
        assert one.is_settled

    def test_what_was_repeated_measures_nothing(self) -> None:
        one, other = Correspondence(), Correspondence()
        one.write(offer(1), 0.0)
        (again,) = one.due(1.0)
        other.take(letter_of(one, again), 1.1)
        one.take(letter_of(other, None), 1.2)
        assert one.is_settled
        assert one.rtt_s is None

    def test_each_offer_is_news_once_and_in_order(self) -> None:
        one, other = Correspondence(), Correspondence()
        letters = [letter_of(one, one.write(offer(number), 0.0)) for number in (1, 2, 3)]
        assert other.take(letters[2], 0.1) == []
        assert other.take(letters[0], 0.1) == [offer(1)]
        assert other.take(letters[0], 0.1) == []
        assert other.take(letters[1], 0.1) == [offer(2), offer(3)]
        assert other.heard == 3

    def test_the_copy_by_the_other_way_is_not_answered_but_a_repetition_is(self) -> None:
        one, other = Correspondence(), Correspondence()
        letter = letter_of(one, one.write(offer(1), 0.0))
        other.take(letter, 0.1)
        other.told(0.1)
        other.take(letter, 0.1 + TELL_AGAIN_S / 2)
        assert not other.owes()
        other.take(letter, 0.1 + TELL_AGAIN_S)
        assert other.owes()

    def test_what_was_given_up_is_not_waited_for(self) -> None:
        one, other = Correspondence(), Correspondence()
        one.write(offer(1), 0.0)
        lost = one.write(offer(2), 0.0)
        assert lost is not None
        one.give_up()
        later = letter_of(one, one.write(offer(3), 20.0))
        assert later.oldest == later.number == 3
        assert other.take(later, 20.1) == [offer(3)]
        assert other.heard == 3

    def test_what_came_early_is_news_when_what_came_before_is_given_up(self) -> None:
        one, other = Correspondence(), Correspondence()
        one.write(offer(1), 0.0)
        early = letter_of(one, one.write(offer(2), 0.0))
        assert other.take(early, 0.1) == []
        one.give_up()
        assert other.take(letter_of(one, None), 0.2) == [offer(2)]

    def test_too_much_unheard_is_refused(self) -> None:
        one = Correspondence()
        assert all(one.write(offer(number), 0.0) for number in range(MAX_UNHEARD))
        assert one.write(offer(99), 0.0) is None

    def test_numbers_end(self) -> None:
        one = Correspondence()
        for number in range(MAX_NUMBER):
            assert one.write(offer(number), 0.0) is not None
            one.take(Letter(0, 1, one.last_number, 0), 0.0)
        assert one.write(offer(0), 0.0) is None

    @settings(max_examples=200)
    @given(
        st.lists(
            st.builds(
                Letter,
                st.integers(0, 30),
                st.integers(0, 30),
                st.integers(0, 30),
                st.just(0),
                st.none() | st.integers(0, 9).map(offer),
            ),
            max_size=60,
        )
    )
    def test_any_letters_leave_it_within_its_bounds(self, letters: list[Letter]) -> None:
        """Whatever the other side says, signed or not."""
        one = Correspondence()
        news = 0
        for number, letter in enumerate(letters):
            one.write(offer(number), float(number))
            heard = one.heard
            news += len(one.take(letter, float(number)))
            assert one.heard >= heard
            assert len(one._early) <= MAX_EARLY
            assert len(one._unheard) <= MAX_UNHEARD
        assert news <= len(letters)

    @settings(max_examples=60, deadline=None)
    @given(seed=st.integers(0, 2**32), loss=st.sampled_from([0.0, 0.2, 0.5]))
    def test_two_that_lose_double_and_reorder_understand_each_other(self, seed: int, loss: float) -> None:
        rng = random.Random(seed)
        sides = Correspondence(), Correspondence()
        heard: tuple[list[Offer], list[Offer]] = [], []
        said = [[offer(number) for number in range(6)] for _ in sides]
        flying: list[tuple[float, int, Letter]] = []
        now = 0.0

        def put_out(writer: int, outgoing: Outgoing | None) -> None:
            for _ in range(2):
                if rng.random() >= loss:
                    flying.append((now + rng.uniform(0.01, 0.4), 1 - writer, letter_of(sides[writer], outgoing)))

        waiting = [list(offers) for offers in said]
        while now < 60.0:
            now += 0.05
            for number, side in enumerate(sides):
                if waiting[number] and rng.random() < 0.3:
                    put_out(number, side.write(waiting[number].pop(0), now))
                for again in side.due(now):
                    put_out(number, again)
            for arrival in [one for one in flying if one[0] <= now]:
                flying.remove(arrival)
                _, reader, letter = arrival
                heard[reader].extend(sides[reader].take(letter, now))
                if sides[reader].owes():
                    sides[reader].told(now)
                    put_out(reader, None)
        for number, side in enumerate(sides):
            got = heard[1 - number]
            assert got == said[number][: len(got)]
            if loss < 0.5:
                assert got == said[number]
                assert side.is_settled


# -- publishing --------------------------------------------------------------------------------------------------------


def contacts(*numbers: int) -> tuple[Contact, ...]:
    return tuple(Contact(node(number), "192.0.2.1", 1, 1) for number in numbers)


class TestPublisher:
    def told(self, publisher: Publisher, now: float) -> Publication:
        publication = publisher.due(now)
        assert publication is not None
        publisher.done(publication, now)
        return publication

    def test_enough_are_published_at_once(self) -> None:
        publisher = Publisher()
        publisher.want(contacts(1, 2, 3), is_needed=True, now=5.0)
        assert self.told(publisher, 5.0) == Publication(contacts(1, 2, 3), LIFETIME_S)
        assert publisher.told == contacts(1, 2, 3)
        assert publisher.due(6.0) is None

    def test_few_wait_for_more(self) -> None:
        publisher = Publisher()
        publisher.want(contacts(1), is_needed=True, now=5.0)
        assert publisher.due(5.0) is None
        assert publisher.due(5.0 + SETTLE_S) == Publication(contacts(1), LIFETIME_S)

    def test_nobody_is_nothing_to_tell(self) -> None:
        publisher = Publisher()
        publisher.want((), is_needed=True, now=5.0)
        assert publisher.next_deadline() is None
        publisher.want(contacts(1, 2, 3), is_needed=True, now=6.0)
        self.told(publisher, 6.0)
        publisher.want((), is_needed=True, now=7.0)
        assert publisher.due(7.0 + REFRESH_S) is None

    def test_changes_wait_for_each_other(self) -> None:
        publisher = Publisher()
        publisher.want(contacts(1, 2, 3), is_needed=True, now=0.0)
        self.told(publisher, 0.0)
        publisher.want(contacts(1, 2), is_needed=True, now=10.0)
        publisher.want(contacts(1, 2, 4), is_needed=True, now=11.0)
        assert publisher.due(11.0 + SETTLE_S - 0.1) is None
        assert self.told(publisher, 11.0 + SETTLE_S).contacts == contacts(1, 2, 4)

    def test_a_change_that_is_undone_is_none(self) -> None:
        publisher = Publisher()
        publisher.want(contacts(1, 2, 3), is_needed=True, now=0.0)
        self.told(publisher, 0.0)
        publisher.want(contacts(1, 2), is_needed=True, now=10.0)
        publisher.want(contacts(1, 2, 3), is_needed=True, now=10.5)
        assert publisher.due(20.0) is None

    def test_it_is_refreshed_before_it_expires(self) -> None:
        publisher = Publisher()
        publisher.want(contacts(1, 2, 3), is_needed=True, now=0.0)
        self.told(publisher, 0.0)
        assert publisher.next_deadline() == REFRESH_S < LIFETIME_S
        self.told(publisher, REFRESH_S)
        assert publisher.next_deadline() == 2 * REFRESH_S

    def test_failures_are_tried_again_ever_later(self) -> None:
        publisher = Publisher()
        publisher.want(contacts(1, 2, 3), is_needed=True, now=0.0)
        now, pauses = 0.0, []
        for _ in range(10):
            publisher.failed(now)
            pauses.append((publisher.next_deadline() or 0.0) - now)
            now += pauses[-1]
            assert publisher.due(now) is not None
        assert pauses == sorted(pauses)
        assert pauses[-1] == RETRY_CAP_S
        self.told(publisher, now)
        assert publisher.next_deadline() == now + REFRESH_S

    def test_a_change_in_the_middle_of_publishing_is_published_next(self) -> None:
        publisher = Publisher()
        publisher.want(contacts(1, 2, 3), is_needed=True, now=0.0)
        publication = publisher.due(0.0)
        assert publication is not None
        publisher.want(contacts(1, 2, 4), is_needed=True, now=1.0)
        publisher.done(publication, 2.0)
        assert publisher.due(1.0 + SETTLE_S) == Publication(contacts(1, 2, 4), LIFETIME_S)

    def test_it_is_withdrawn_when_it_is_not_needed_for_long(self) -> None:
        publisher = Publisher()
        publisher.want(contacts(1, 2, 3), is_needed=True, now=0.0)
        self.told(publisher, 0.0)
        publisher.want((), is_needed=False, now=10.0)
        publisher.want(contacts(1, 2, 3), is_needed=True, now=20.0)
        assert publisher.due(10.0 + WITHDRAW_AFTER_S) is None
        publisher.want((), is_needed=False, now=100.0)
        assert self.told(publisher, 100.0 + WITHDRAW_AFTER_S).contacts == ()
        assert publisher.next_deadline() is None

    def test_what_was_never_published_is_not_withdrawn(self) -> None:
        publisher = Publisher()
        publisher.want(contacts(1, 2, 3), is_needed=True, now=0.0)
        publisher.want((), is_needed=False, now=0.0)
        assert publisher.next_deadline() is None
