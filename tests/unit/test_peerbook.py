"""The book of peers: bounds, whom to dial, whom to name, what is saved."""

from __future__ import annotations

import random
from math import inf

import pytest

from kodectl.core.bans import MAX_BANS
from kodectl.core.exchange import MAX_SHARED, Reach, is_worth_telling, reach_of, usable_enodes
from kodectl.core.peerbook import (
    FAULT_BAN_S,
    FORGET_S,
    MAX_KNOWN,
    MAX_STRANGERS_PER_SUBNET,
    NEWCOMER_SHARE,
    PRIVILEGED_CAP_S,
    STRANGER_FAILURES,
    PeerBook,
)
from kodectl.core.trust import Rank, Trust
from kodectl.node.peer_memory import known_of, stored_of
from kodectl.wire.enode import ZERO_ID, Enode

OWN = b"o" * 32


def enode(number: int, ip: str | None = None, tcp: int = 30303) -> Enode:
    return Enode((number + 1).to_bytes(32), ip or f"10.0.{number // 250}.{number % 250 + 1}", tcp, 30301)


@pytest.fixture
def book() -> PeerBook:
    return PeerBook(OWN, {enode(7).node_id}, random.Random(1))


def was_linked(book: PeerBook, number: int, now: float = 0.0) -> None:
    book.link_up(enode(number), now, dialled=True)
    book.link_down(enode(number).node_id, 1000.0, now, lost=True)


class TestHearsay:
    def test_only_somebody_to_dial(self, book: PeerBook) -> None:
        assert book.hear_of(enode(1), 0.0)
        assert not book.hear_of(enode(1), 0.0)
        assert not book.hear_of(enode(2, tcp=0), 0.0)
        assert not book.hear_of(Enode(ZERO_ID, "10.0.0.1", 1, 1), 0.0)
        assert not book.hear_of(Enode(OWN, "10.0.0.1", 1, 1), 0.0)
        assert len(book) == 1

    def test_an_address_that_works_is_not_overwritten(self, book: PeerBook) -> None:
        known = book.link_up(enode(1), 0.0, dialled=True)
        book.hear_of(enode(1, ip="10.9.9.9"), 1.0)
        assert known.host == enode(1).host
        book.link_down(known.node_id, 1000.0, 2.0, lost=True)
        book.dial_failed(known.node_id, 3.0, blame=True)
        book.hear_of(enode(1, ip="10.9.9.9"), 4.0)
        assert known.host == "10.9.9.9"

    def test_a_lie_about_where_a_peer_is_costs_one_dial_and_no_trust(self, book: PeerBook) -> None:
        known = book.link_up(enode(1), 0.0, dialled=True)
        book.link_down(known.node_id, 1000.0, 2.0, lost=False)
        book.dial_failed(known.node_id, 3.0, blame=True)
        asked, failures, presence = known.trust.asked, known.backoff.failures, known.trust.presence
        for turn in range(10):
            book.hear_of(enode(1, ip=f"10.9.9.{turn}"), 4.0)
            book.hear_of(enode(1, ip=f"10.9.8.{turn}"), 4.0)
            assert known.enode == enode(1, ip=f"10.9.8.{turn}")
            assert stored_of(known, 0.0).host == enode(1).host
            book.dial_failed(known.node_id, 4.0, blame=True)
            assert known.enode == enode(1)
        assert known.trust.asked == pytest.approx(asked)
        assert (known.backoff.failures, known.trust.presence) == (failures, presence)
        book.dial_failed(known.node_id, 5.0, blame=True)
        assert known.backoff.failures == failures + 1

    def test_a_truth_about_where_a_peer_is_stays(self, book: PeerBook) -> None:
        known = book.link_up(enode(1), 0.0, dialled=True)
        book.link_down(known.node_id, 1000.0, 2.0, lost=False)
        book.dial_failed(known.node_id, 3.0, blame=True)
        moved = enode(1, ip="10.9.9.9")
        book.hear_of(moved, 4.0)
        book.link_up(moved, 5.0, dialled=True)
        book.link_down(known.node_id, 1000.0, 6.0, lost=True)
        book.dial_failed(known.node_id, 7.0, blame=True)
        assert known.enode == moved

    def test_who_was_reached_by_id_is_not_looked_for_at_a_port(self, book: PeerBook) -> None:
        known = book.link_up(enode(1, tcp=0), 0.0, dialled=True)
        book.set_static(known.node_id, True)
        book.link_down(known.node_id, 1000.0, 1.0, lost=True)
        book.dial_failed(known.node_id, 2.0, blame=True)
        book.hear_of(enode(1), 3.0)
        assert known.tcp == 0
        assert known.is_dialable

    def test_invented_ids_crowd_out_nobody(self, book: PeerBook) -> None:
        for number in range(100):
            was_linked(book, number)
        for number in range(100, 100 + 3 * MAX_KNOWN):
            book.hear_of(enode(number), 1.0)
        assert len(book) == MAX_KNOWN
        assert all(book.get(enode(number).node_id) for number in range(100))

    def test_ground_ids_do_not_outlive_others_that_were_heard_of(self, book: PeerBook) -> None:
        honest = [enode(number) for number in range(100, 100 + MAX_KNOWN)]
        for number in range(MAX_KNOWN // 2):
            book.hear_of(
                Enode(b"\xff" * 28 + number.to_bytes(4), f"10.8.{number // 250}.{number % 250 + 1}", 1, 1), 0.0
            )
            book.hear_of(honest[2 * number], 0.0)
            book.hear_of(honest[2 * number + 1], 0.0)
        share = sum(book.get(one.node_id) is not None for one in honest) / MAX_KNOWN
        assert 0.6 < share < 0.73, "two of three were honest"

    def test_to_hear_of_somebody_is_cheap_in_a_full_book(self, book: PeerBook, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in range(100, 100 + MAX_KNOWN - 1):
            was_linked(book, number)
        book.hear_of(enode(50), 0.0)
        judged: list[Trust] = []
        monkeypatch.setattr(Trust, "score", lambda trust, now: judged.append(trust) or 0.0)
        assert book.hear_of(enode(51), 1.0)
        assert book.get(enode(50).node_id) is None
        assert not judged, "a thousand scores for each of twenty that one answer names"

    def test_one_network_fills_eight_places(self, book: PeerBook) -> None:
        for number in range(200):
            book.hear_of(enode(number, ip=f"193.0.14.{number}"), 0.0)
        assert len(book) == MAX_STRANGERS_PER_SUBNET

    def test_who_never_answers_is_forgotten(self, book: PeerBook) -> None:
        book.hear_of(enode(1), 0.0)
        for turn in range(STRANGER_FAILURES):
            assert book.get(enode(1).node_id)
            book.dial_failed(enode(1).node_id, turn * 100.0, blame=True)
        assert len(book) == 0

    def test_who_the_configuration_names_is_never_forgotten(self, book: PeerBook) -> None:
        named = enode(7)
        book.hear_of(named, 0.0)
        for turn in range(20):
            book.dial_failed(named.node_id, turn * 100.0, blame=True)
        for number in range(10, 10 + MAX_KNOWN):
            book.hear_of(enode(number), 0.0)
            was_linked(book, number)
        assert book.get(named.node_id)
        assert not book.hear_of(enode(5_000), 0.0), "the only stranger here gives its place to nobody"
        book.link_up(named, 0.0, dialled=True)
        book.link_down(named.node_id, 1.0, 0.0, lost=True)
        book.forget_unseen(2 * FORGET_S)
        assert [known.node_id for known in book] == [named.node_id]

    def test_who_the_configuration_names_is_tried_every_minute_while_nobody_is_linked(self, book: PeerBook) -> None:
        named = enode(7).node_id
        book.hear_of(enode(7), 0.0)
        for turn in range(20):
            book.dial_failed(named, turn * 100.0, blame=True)
            assert book.to_dial(1, (), turn * 100.0 + PRIVILEGED_CAP_S)
        book.link_up(enode(7), 3_000.0, dialled=True)
        book.link_down(named, 1.0, 3_000.0, lost=True)
        assert book.to_dial(1, (), 3_000.0 + PRIVILEGED_CAP_S)
        book.link_up(enode(1), 4_000.0, dialled=True)
        book.dial_failed(named, 4_000.0, blame=True)
        assert not book.to_dial(1, {enode(1).node_id}, 4_000.0 + PRIVILEGED_CAP_S), "there are others to dial"

    def test_who_was_linked_is_kept_for_two_weeks(self, book: PeerBook) -> None:
        was_linked(book, 1)
        book.link_up(enode(2), 0.0, dialled=True)
        for turn in range(100):
            book.dial_failed(enode(1).node_id, float(turn), blame=True)
        book.forget_unseen(FORGET_S)
        assert len(book) == 2
        book.forget_unseen(FORGET_S + 1)
        assert [known.node_id for known in book] == [enode(2).node_id]


class TestDialOrder:
    def test_static_then_former_peers_then_by_rank(self, book: PeerBook) -> None:
        for number in (1, 7, 3, 4):
            was_linked(book, number)
        book.set_static(enode(4).node_id, True)
        anchor = book.get(enode(3).node_id)
        assert anchor is not None
        anchor.anchor = True
        order = [known.node_id for known in book.to_dial(4, set(), 1000.0)]
        assert order == [enode(number).node_id for number in (4, 3, 7, 1)]

    def test_every_fourth_is_a_newcomer(self, book: PeerBook) -> None:
        for number in range(10, 40):
            was_linked(book, number)
            book.end_pause(enode(number).node_id)
        for number in range(100, 130):
            book.hear_of(enode(number), 0.0)
        for known in book:
            known.trust.succeeded = 1.0 if not known.is_stranger else 0.0
            known.trust.asked = 1.0
        chosen = book.to_dial(16, set(), 1000.0)
        assert [known.is_stranger for known in chosen] == [turn % 4 == NEWCOMER_SHARE - 1 for turn in range(16)]
        assert len({known.node_id for known in chosen}) == 16

    def test_newcomers_alone_are_all_dialled(self, book: PeerBook) -> None:
        for number in range(10):
            book.hear_of(enode(number), 0.0)
        assert len(book.to_dial(50, set(), 0.0)) == 10

    def test_not_the_busy_the_banned_nor_who_waits(self, book: PeerBook) -> None:
        for number in range(1, 5):
            book.hear_of(enode(number), 0.0)
        book.bans.add(enode(2).node_id, inf)
        book.dial_failed(enode(3).node_id, 0.0, blame=True)
        chosen = book.to_dial(9, {enode(1).node_id}, 0.0)
        assert [known.node_id for known in chosen] == [enode(4).node_id]
        assert 0.0 < book.next_retry({enode(1).node_id, enode(4).node_id}, 0.0) < 3.0


class TestBans:
    def test_end_by_themselves(self, book: PeerBook) -> None:
        book.bans.add(b"b" * 32, 10.0)
        assert book.bans.until(b"b" * 32, 9.9) == 10.0
        assert book.bans.until(b"b" * 32, 10.0) is None
        assert book.bans.all(10.0) == {}

    def test_a_fault_never_shortens_a_ban(self, book: PeerBook) -> None:
        book.bans.add(b"b" * 32, inf)
        book.broke_protocol(b"b" * 32, 0.0)
        assert book.bans.until(b"b" * 32, 1e9) == inf
        book.broke_protocol(b"c" * 32, 0.0)
        assert book.bans.until(b"c" * 32, 0.0) == FAULT_BAN_S

    def test_bounded(self, book: PeerBook) -> None:
        book.bans.add(b"b" * 32, inf)
        for number in range(2 * MAX_BANS):
            book.bans.add(number.to_bytes(32), 1000.0 + number)
        assert len(book.bans.all(0.0)) == MAX_BANS
        assert book.bans.until(b"b" * 32, 0.0) == inf


class TestSharing:
    def test_who_is_linked_or_was_reached_but_nobody_heard_of(self, book: PeerBook) -> None:
        book.hear_of(enode(1), 0.0)
        book.link_up(enode(2), 0.0, dialled=False)
        was_linked(book, 3)
        book.link_up(enode(4, tcp=0), 0.0, dialled=False)
        book.dial_failed(enode(5).node_id, 0.0, blame=True)
        shared = book.to_share(b"a" * 32, "10.0.0.99", 20, 100.0)
        assert shared == [enode(2), enode(3)]

    def test_by_rank_and_never_the_asker(self, book: PeerBook) -> None:
        for number in (1, 2, 7):
            book.link_up(enode(number), 0.0, dialled=True)
        shared = book.to_share(enode(2).node_id, "10.0.0.99", 20, 100.0)
        assert shared[0] == enode(7)
        assert enode(2) not in shared
        assert book.rank(enode(7).node_id, 0.0) is Rank.HIGH
        assert book.to_share(enode(2).node_id, "10.0.0.99", 0, 100.0) == []

    @pytest.mark.parametrize(
        ("ip", "reach"),
        [
            ("127.0.0.1", Reach.LOOPBACK),
            ("::1", Reach.LOOPBACK),
            ("10.0.0.1", Reach.PRIVATE),
            ("100.64.0.1", Reach.PRIVATE),
            ("fe80::1%eth0", Reach.PRIVATE),
            ("8.8.8.8", Reach.GLOBAL),
            ("2001:4860:4860::8888", Reach.GLOBAL),
        ],
    )
    def test_addresses_mean_something_where_they_can_be_reached(self, ip: str, reach: Reach) -> None:
        assert reach_of(ip) is reach
        assert is_worth_telling(ip, Reach.LOOPBACK)
        assert is_worth_telling(ip, Reach.GLOBAL) is (reach is Reach.GLOBAL)

    def test_of_what_is_told_the_usable(self) -> None:
        good = enode(1, ip="8.8.8.8")
        told = [
            str(good),
            "nonsense",
            str(enode(2, ip="10.0.0.1")),
            str(enode(3, ip="127.0.0.1")),
            str(enode(4, ip="name.example")),
            str(enode(5, ip="8.8.8.9", tcp=0)),
            f"enode://{'0' * 64}@8.8.8.8:1?discport=1",
        ]
        assert usable_enodes(told, "9.9.9.9") == [good]
        assert len(usable_enodes([str(enode(number)) for number in range(1, 64)], "10.0.0.1")) == MAX_SHARED


class TestSaving:
    def test_what_changed_comes_once_and_again_if_it_could_not_be_saved(self, book: PeerBook) -> None:
        was_linked(book, 1)
        book.hear_of(enode(2), 0.0)
        changed, removed = book.take_changes()
        assert len(changed) == 2
        assert book.take_changes() == ([], [])
        book.forget(enode(2).node_id)
        book.put_back_changes(changed, removed)
        changed, removed = book.take_changes()
        assert [known.node_id for known in changed] == [enode(1).node_id]
        assert removed == [enode(2).node_id]

    def test_a_peer_comes_back_as_it_was(self, book: PeerBook) -> None:
        """Saved at Unix time 1,000,500 and monotonic 500; restored an hour later, when another boot is 20 s old."""
        known = book.link_up(enode(1), 100.0, dialled=True)
        book.answered(known.node_id, 130.0, 0.25)
        book.link_down(known.node_id, 30.0, 400.0, lost=True)
        stored = stored_of(known, 1_000_000.0)
        again = known_of(stored, 20.0, 1_004_080.0)
        assert stored_of(again, 1_004_080.0) == stored
        assert again.last_seen == pytest.approx(20.0 - 3700.0)
        assert again.backoff.is_over(20.0)

    def test_who_was_linked_at_the_end_is_dialled_at_once(self, book: PeerBook) -> None:
        """Even where an earlier failure, read on a clock that was set back, seems to lie in the future."""
        known = book.link_up(enode(1), 0.0, dialled=True)
        known.backoff = known.backoff.paused(0.0, 60.0)
        again = known_of(stored_of(known, 2e9), 0.0, 1e9)
        assert again.anchor
        assert again.backoff.is_over(0.0)
        known.linked = False
        assert not known_of(stored_of(known, 2e9), 0.0, 2e9).backoff.is_over(0.0)

    def test_a_clock_set_back_by_years_holds_nobody_off(self, book: PeerBook) -> None:
        known = book.link_up(enode(1), 0.0, dialled=True)
        book.link_down(known.node_id, 1.0, 0.0, lost=True)
        again = known_of(stored_of(known, 2e9), 0.0, 1e9)
        assert again.backoff.is_over(3600.0)
        assert again.last_seen == 0.0
        assert again.trust.time == 0.0
