"""Who may begin a handshake, and who makes way."""

from __future__ import annotations

import pytest

from kodectl.core.arrivals import (
    HANDSHAKE_BURST,
    MAKES_WAY_AFTER_S,
    MAX_PENDING_INBOUND,
    MAX_PENDING_PER_SUBNET,
    NETWORK_HANDSHAKE_BURST,
    Arrivals,
    Entry,
)

LET_IN: Entry[object] = Entry(True)
REFUSED: Entry[object] = Entry(False)


def public(number: int) -> str:
    """Each of a network of its own."""
    return f"193.{number >> 8}.{number & 255}.1"


@pytest.fixture
def arrivals() -> Arrivals[object]:
    return Arrivals()


@pytest.fixture
def full(arrivals: Arrivals[object]) -> Arrivals[object]:
    for number in range(MAX_PENDING_INBOUND):
        assert arrivals.enter(number, public(number), 0.0) == LET_IN
    return arrivals


class TestPlaces:
    def test_are_so_many(self, full: Arrivals[object]) -> None:
        assert full.enter("one more", public(99), 0.0) == REFUSED
        full.leave(7)
        assert full.enter("one more", public(99), 0.0) == LET_IN
        assert len(full) == MAX_PENDING_INBOUND

    def test_are_given_up_by_who_has_been_there_for_longest(self, full: Arrivals[object]) -> None:
        later = MAKES_WAY_AFTER_S
        assert full.enter("new", public(99), later) == Entry(True, makes_way=0)
        assert full.enter("newer", public(98), later) == Entry(True, makes_way=1)
        full.leave(0)
        assert len(full) == MAX_PENDING_INBOUND

    def test_are_not_given_up_before_others_had_a_chance(self, full: Arrivals[object]) -> None:
        assert full.enter("new", public(99), MAKES_WAY_AFTER_S - 0.01) == REFUSED

    def test_are_kept_by_who_is_known(self, arrivals: Arrivals[object]) -> None:
        arrivals.enter("known", public(99), 0.0, stays=True)
        for number in range(MAX_PENDING_INBOUND - 1):
            arrivals.enter(number, public(number), 0.0)
        assert arrivals.enter("new", public(98), 9.0) == Entry(True, makes_way=0)

    def test_are_kept_by_those_who_are_known_where_there_is_nobody_else(self, arrivals: Arrivals[object]) -> None:
        for number in range(MAX_PENDING_INBOUND):
            arrivals.enter(number, public(number), 0.0, stays=True)
        assert arrivals.enter("new", public(98), 9.0) == REFUSED


class TestOneNetwork:
    @pytest.mark.parametrize("prefix", ["193.0.14.", "2001:500:1::"])
    def test_does_not_take_all_the_places(self, arrivals: Arrivals[object], prefix: str) -> None:
        for number in range(MAX_PENDING_PER_SUBNET):
            assert arrivals.enter(number, f"{prefix}{number + 1}", 0.0) == LET_IN
        assert arrivals.enter("more", f"{prefix}99", 9.0) == REFUSED
        assert arrivals.enter("other", "192.33.4.12", 0.0) == LET_IN
        arrivals.leave(0)
        assert arrivals.enter("again", f"{prefix}99", 0.0) == LET_IN

    def test_does_not_use_up_what_all_have(self, arrivals: Arrivals[object]) -> None:
        let_in = 0
        for number in range(2 * int(HANDSHAKE_BURST)):
            let_in += arrivals.enter(number, "193.0.14.1", 0.0).enters
            arrivals.leave(number)
        assert let_in == NETWORK_HANDSHAKE_BURST
        assert arrivals.enter("other", "192.33.4.12", 0.0) == LET_IN

    def test_is_none_where_addresses_are_not_scarce(self, arrivals: Arrivals[object]) -> None:
        for number in range(MAX_PENDING_INBOUND):
            assert arrivals.enter(number, "127.0.0.1", 0.0) == LET_IN


def test_all_networks_together_have_a_rate(arrivals: Arrivals[object]) -> None:
    for number in range(int(HANDSHAKE_BURST)):
        assert arrivals.enter(number, public(number), 0.0) == LET_IN
        arrivals.leave(number)
    assert arrivals.enter("more", public(9999), 0.0) == REFUSED
    assert arrivals.enter("later", public(9999), 1.0) == LET_IN


def test_who_has_left_is_not_counted_any_more(arrivals: Arrivals[object]) -> None:
    for number in range(50):
        arrivals.enter(number, public(number), float(number))
        arrivals.leave(number)
        arrivals.leave(number)
    assert len(arrivals) == 0
    assert not arrivals._subnets
