"""Slots, evictions, subnets, and which of two links stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.core.admission import (
    CROSSED_WINDOW_S,
    MAX_PER_SUBNET,
    Held,
    LinkOrigin,
    Newcomer,
    Slots,
    Verdict,
    admit,
    newer_stays,
    slots_of,
)
from kodectl.core.trust import Rank
from kodectl.wire.messages import DisconnectReason

LOW, MEDIUM, HIGH = Rank.LOW, Rank.MEDIUM, Rank.HIGH


def held(number: int, *, outbound: bool = False, static: bool = False, rank: Rank = LOW, score: float = 0.0) -> Held:
    return Held(number.to_bytes(32), f"10.0.0.{number}", outbound, static, rank, score)


def newcomer(*, ip: str = "10.0.1.1", outbound: bool = False, static: bool = False, rank: Rank = LOW) -> Newcomer:
    return Newcomer(b"n" * 32, ip, outbound, static, rank)


class TestSlots:
    @pytest.mark.parametrize(
        ("max_peers", "inbound", "target"), [(50, 34, 16), (32, 16, 16), (20, 10, 10), (2, 1, 1), (1, 1, 1)]
    )
    def test_how_they_divide(self, max_peers: int, inbound: int, target: int) -> None:
        assert slots_of(max_peers) == Slots(max_peers, inbound, target)

    @given(st.integers(1, 1000))
    def test_inbound_peers_always_leave_room_for_dials(self, max_peers: int) -> None:
        slots = slots_of(max_peers)
        assert 1 <= slots.inbound <= slots.total
        assert slots.total - slots.inbound == min(16, max_peers // 2)


class TestAdmission:
    SLOTS = Slots(4, 2, 2)

    def test_there_is_room(self) -> None:
        assert admit(newcomer(), [held(1)], self.SLOTS) == Verdict()

    def test_reserved_slots_are_not_for_inbound(self) -> None:
        full = [held(1), held(2)]
        assert admit(newcomer(), full, self.SLOTS) == Verdict(refused=DisconnectReason.TOO_MANY_PEERS)
        assert admit(newcomer(outbound=True), full, self.SLOTS) == Verdict()

    def test_a_better_inbound_peer_takes_the_slot_of_the_worst(self) -> None:
        full = [held(1, rank=MEDIUM, score=0.5), held(2, rank=LOW, score=0.3), held(3, outbound=True, rank=LOW)]
        assert admit(newcomer(rank=HIGH), full, self.SLOTS) == Verdict(evicted=full[1].node_id)

    def test_equals_stay(self) -> None:
        full = [held(1, rank=MEDIUM), held(2, rank=MEDIUM)]
        assert admit(newcomer(rank=MEDIUM), full, self.SLOTS).refused is DisconnectReason.TOO_MANY_PEERS

    def test_numbers_push_nobody_out(self) -> None:
        """However many strangers knock, nobody who has a slot loses it."""
        full = [held(1), held(2), held(3, outbound=True), held(4, outbound=True)]
        assert all(admit(newcomer(), full, self.SLOTS).evicted is None for _ in range(100))

    def test_static_comes_in_at_the_cost_of_the_worst(self) -> None:
        full = [held(1, rank=HIGH), held(2, rank=MEDIUM), held(3, outbound=True), held(4, outbound=True, rank=MEDIUM)]
        assert admit(newcomer(static=True), full, self.SLOTS) == Verdict(evicted=full[2].node_id)

    def test_static_peers_are_never_evicted(self) -> None:
        full = [held(number, static=True) for number in range(1, 5)]
        for static in (True, False):
            verdict = admit(newcomer(static=static, rank=HIGH), full, self.SLOTS)
            assert verdict == Verdict(refused=DisconnectReason.TOO_MANY_PEERS)

    @given(
        st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from(Rank)), max_size=8),
        st.tuples(st.booleans(), st.booleans(), st.sampled_from(Rank)),
        st.integers(1, 8),
    )
    def test_never_more_than_the_total(self, there: list, comes: tuple, max_peers: int) -> None:
        peers = [held(number, outbound=o, static=s, rank=r) for number, (o, s, r) in enumerate(there[:max_peers], 1)]
        verdict = admit(newcomer(outbound=comes[0], static=comes[1], rank=comes[2]), peers, slots_of(max_peers))
        if verdict.refused is None:
            assert len(peers) + 1 - (verdict.evicted is not None) <= max_peers


class TestSubnets:
    def of(self, prefix: str, count: int, *, static: bool = False) -> list[Held]:
        return [Held(bytes(32), f"{prefix}{number}", False, static, LOW, 0.0) for number in range(1, count + 1)]

    @pytest.mark.parametrize("prefix", ["193.0.14.", "2001:500:1::"])
    def test_three_of_one(self, prefix: str) -> None:
        slots = slots_of(50)
        assert admit(newcomer(ip=f"{prefix}9"), self.of(prefix, MAX_PER_SUBNET - 1), slots) == Verdict()
        full = self.of(prefix, MAX_PER_SUBNET)
        assert admit(newcomer(ip=f"{prefix}9"), full, slots) == Verdict(refused=DisconnectReason.SUBNET_LIMIT)
        assert admit(newcomer(ip=f"{prefix}9", static=True), full, slots) == Verdict()
        assert admit(newcomer(ip=f"{prefix}9"), self.of(prefix, 9, static=True), slots) == Verdict()

    @pytest.mark.parametrize("prefix", ["10.0.0.", "127.0.0.", "192.168.1.", "169.254.0.", "fe80::", "fd00::"])
    def test_private_ranges_are_exempt(self, prefix: str) -> None:
        assert admit(newcomer(ip=f"{prefix}99"), self.of(prefix, 30), slots_of(50)) == Verdict()


SMALL, LARGE = bytes(32), b"\xff" * 32


class TestTwoLinks:
    @given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.booleans(), st.booleans())
    def test_both_sides_agree_on_crossed_dials(self, one: bytes, other: bytes, first: bool, second: bool) -> None:
        """Each side sees the two links in an order of its own."""
        if one == other:
            return
        mine, its = LinkOrigin(True, 1.0), LinkOrigin(False, 1.5)
        stays_here = self.dialler(one, other, mine, its, first)
        stays_there = self.dialler(other, one, mine, its, second)
        assert stays_here == stays_there == min(one, other)

    def dialler(self, own: bytes, peer: bytes, mine: LinkOrigin, its: LinkOrigin, mine_first: bool) -> bytes:
        """Who has dialled the link that stays."""
        older, newer = (mine, its) if mine_first else (its, mine)
        newer = newer._replace(opened_at=older.opened_at + 0.5)
        stays = newer if newer_stays(own, peer, older, newer) else older
        return own if stays.outbound else peer

    def test_after_the_window_the_newer_replaces_the_older(self) -> None:
        older, newer = LinkOrigin(True, 0.0), LinkOrigin(False, CROSSED_WINDOW_S)
        assert newer_stays(SMALL, LARGE, older, newer)
        assert not newer_stays(SMALL, LARGE, older, newer._replace(opened_at=CROSSED_WINDOW_S - 0.1))

    def test_of_one_direction_the_newer_replaces_the_older(self) -> None:
        for outbound in (True, False):
            assert newer_stays(SMALL, LARGE, LinkOrigin(outbound, 0.0), LinkOrigin(outbound, 0.1))
            assert newer_stays(LARGE, SMALL, LinkOrigin(outbound, 0.0), LinkOrigin(outbound, 0.1))
