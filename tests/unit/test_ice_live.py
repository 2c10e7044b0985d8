"""Paths kept alive, without a network: when each is asked, when it is dead, and which is the best."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.core.ice.checks import Credentials, Peer, Role
from kodectl.core.ice.consent import LIFETIME_S
from kodectl.core.ice.effects import Transmit
from kodectl.core.ice.live import (
    DEAD_AFTER_S,
    DEAD_INTERVAL_S,
    DEAD_INTERVALS,
    DEAD_ROUND_TRIPS,
    INTERVAL_S,
    MAX_DIRECT,
    MAX_RELAYED,
    QUICK_S,
    SPREAD,
    LivePaths,
)
from kodectl.core.ice.local import host, priority_of
from kodectl.core.ice.pairs import Pair
from kodectl.wire.candidates import Address, Candidate, CandidateType
from kodectl.wire.stun import Attribute, decode

ROLE = Role(True, 1)
OURS, THEIRS, ANEW = Credentials("ours", "o" * 22), Credentials("them", "t" * 22), Credentials("anew", "n" * 22)
PEER, PEER_ANEW = Peer.of(THEIRS, OURS), Peer.of(ANEW, OURS)
RTT_S = 0.1
LATEST_S = INTERVAL_S * (1 + SPREAD)


class Socket:
    def __init__(self, port: int = 4000) -> None:
        self.address: Address = ("20.0.0.1", port)


BASE = Socket()


def pair(port: int = 5000, kind: CandidateType = CandidateType.HOST, base: Socket = BASE) -> Pair:
    remote = Candidate("f", 1, "udp", priority_of(kind, port), ("20.0.0.2", port), kind)
    return Pair(host(base, 65_535), remote, True)


def paths(*pairs: Pair) -> LivePaths:
    """Heard of at the time 0."""
    rng = random.Random(1)
    made = LivePaths(rng, rng.randbytes)
    for one in pairs:
        made.add(one, PEER, RTT_S, 0.0)
    return made


def ids(asked: list[Transmit]) -> list[bytes]:
    return [decode(transmit.data).transaction_id for transmit in asked]


def asked_at(made: LivePaths, until_s: float, *answered: Pair) -> list[tuple[float, Address]]:
    """Lets time pass, with answers at once on some pairs; when was who asked?"""
    seen = []
    while (now := made.next_deadline()) is not None and now <= until_s and not made.has_expired(now):
        for transmit in made.requests(ROLE, now):
            seen.append((now, transmit.address))
            for one in answered:
                if one.key == (transmit.base, transmit.address):
                    made.answered(*ids([transmit]), *one.key, now)
    return seen


def test_one_that_answers_is_asked_every_four_seconds() -> None:
    one = pair()
    made = paths(one)
    times = [at for at, _ in asked_at(made, 100.0, one)]
    pauses = [later - earlier for earlier, later in zip([0.0, *times], times, strict=False)]
    assert all(INTERVAL_S * (1 - SPREAD) <= pause <= LATEST_S for pause in pauses)
    assert len(set(pauses)) > 10, "they are varied"
    assert made.path is one


def test_requests_are_checks_of_the_peer_with_our_role() -> None:
    made = paths(pair())
    [transmit] = made.requests(ROLE, LATEST_S)
    request = decode(transmit.data)
    assert request.get(Attribute.USERNAME) == "them:ours"
    assert request.get(Attribute.ICE_CONTROLLING) == 1
    assert request.get(Attribute.USE_CANDIDATE) is None
    assert made.key_of(request.transaction_id) == THEIRS.key
    assert made.key_of(b"transaction!") is None


def test_one_that_does_not_answer_is_asked_quickly_dies_and_is_looked_at_every_second() -> None:
    dead, alive = pair(9), pair(1)
    made = paths(dead, alive)
    times = [at for at, address in asked_at(made, 12.0, alive) if address == dead.remote.address]
    first = times[0]
    assert first <= LATEST_S
    assert times[1:6] == pytest.approx([first + n * QUICK_S for n in range(1, 6)])
    assert times[6:9] == pytest.approx([first + DEAD_AFTER_S + n * DEAD_INTERVAL_S for n in range(3)])
    assert made.path is alive
    assert not made.is_alive(dead)


def test_one_that_is_dead_for_long_is_asked_less_often_and_lives_with_its_first_answer() -> None:
    dead, alive = pair(9), pair(1)
    made = paths(dead, alive)
    asked_at(made, DEAD_INTERVALS * DEAD_INTERVAL_S + 10.0, alive)
    now = DEAD_INTERVALS * DEAD_INTERVAL_S + 10.0
    times = [at for at, address in asked_at(made, now + 100.0, alive) if address == dead.remote.address]
    assert len(times) <= 100 / INTERVAL_S + 1
    asked_at(made, now + 110.0, alive, dead)
    assert made.path is dead


@pytest.mark.parametrize("rtt_s", [0.01, 1.0])
def test_how_long_an_answer_is_waited_for(rtt_s: float) -> None:
    one = pair()
    made = paths()
    made.add(one, PEER, rtt_s, 0.0)
    made.doubt(1.0)
    made.requests(ROLE, 1.0)
    limit_s = 1.0 + max(DEAD_AFTER_S, DEAD_ROUND_TRIPS * rtt_s)
    made.requests(ROLE, limit_s - 0.001)
    assert made.path is one
    made.requests(ROLE, limit_s)
    assert made.path is None


def test_a_doubt_asks_all_at_once_and_again_only_when_those_were_answered() -> None:
    made = paths(pair(1), pair(2))
    made.doubt(0.5)
    assert len(made.requests(ROLE, 0.5)) == 2
    made.doubt(0.5)
    assert made.requests(ROLE, 0.5) == []


def test_many_doubts_cost_no_more_than_a_bad_path() -> None:
    one = pair()
    made = paths(one)
    asked = 0
    for number in range(1_000):
        now = number / 100
        made.doubt(now)
        asked += len(asked_at(made, now, one))
    assert asked <= 10 / QUICK_S
    assert asked >= 10 / QUICK_S - 2


def test_late_answers_count_and_those_from_elsewhere_do_not() -> None:
    one = pair()
    made = paths(one)
    made.doubt(1.0)
    [transaction_id] = ids(made.requests(ROLE, 1.0))
    made.requests(ROLE, 1.0 + DEAD_AFTER_S)
    assert made.path is None
    made.answered(transaction_id, BASE, ("20.0.0.3", 5000), 3.0)
    made.answered(transaction_id, Socket(), one.remote.address, 3.0)
    assert made.path is None
    made.answered(transaction_id, *one.key, 3.0)
    assert made.path is one


def test_the_best_that_is_alive_is_the_path_and_relays_are_the_worst() -> None:
    relayed, direct = pair(9, CandidateType.RELAYED), pair(1)
    assert paths(relayed, direct).path is direct
    made = paths(relayed, direct)
    asked_at(made, 10.0, relayed)
    assert made.path is relayed


def test_so_many_are_kept_the_best_and_a_dead_one_goes_first() -> None:
    direct = [pair(port) for port in range(1, 9)]
    relayed = [pair(port, CandidateType.RELAYED) for port in range(11, 19)]
    made = paths(*direct, *relayed)
    assert len(made) == MAX_DIRECT + MAX_RELAYED
    assert [one for one in [*direct, *relayed] if one in made] == direct[-MAX_DIRECT:] + relayed[-MAX_RELAYED:]
    asked_at(made, 10.0, *direct[:-1], *relayed)
    late = pair(1)
    made.add(late, PEER, RTT_S, 10.0)
    assert late in made
    assert direct[-1] not in made


def test_consent_ends_30_seconds_after_the_last_answer_on_any() -> None:
    one, other = pair(1), pair(2)
    made = paths(one, other)
    asked_at(made, 20.0, one)
    made.forget(BASE)
    assert made.path is None
    assert not made.has_expired(20.0)
    end = made.next_deadline()
    assert end is not None
    assert 20.0 - LATEST_S <= end - LIFETIME_S <= 20.0
    assert made.has_expired(end)
    made.clear()
    assert made.next_deadline() is None


def test_after_a_restart_the_new_path_between_two_ends_takes_the_place_of_the_old_one() -> None:
    old, gone, new = pair(1), pair(2), pair(1)
    made = paths(old, gone)
    made.add(new, PEER_ANEW, RTT_S, 1.0)
    assert new in made
    assert old not in made
    made.retire(PEER_ANEW)
    assert gone in made, "it still answers"
    asked_at(made, 10.0, new)
    made.retire(PEER_ANEW)
    assert gone not in made


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "ask", "answer", "doubt", "forget", "retire"]),
            st.integers(1, 12),
            st.booleans(),
            st.floats(0.0, 40.0),
        ),
        max_size=80,
    )
)
def test_any_course_stays_within_bounds_and_asks_for_a_time_to_come(course: list[Any]) -> None:
    made = paths()
    bases = [Socket(), Socket(4001)]
    waiting: list[Transmit] = []
    now = 0.0
    for news, number, flag, pause_s in course:
        base = bases[number % 2]
        match news:
            case "add":
                kind = CandidateType.RELAYED if flag else CandidateType.HOST
                made.add(pair(number, kind, base), PEER if flag else PEER_ANEW, pause_s, now)
            case "ask":
                now += pause_s
                waiting += made.requests(ROLE, now)
                deadline = made.next_deadline()
                assert deadline is None or deadline > now or made.has_expired(now)
            case "answer" if waiting:
                transmit = waiting[number % len(waiting)]
                made.answered(*ids([transmit]), transmit.base, transmit.address, now)
            case "doubt":
                made.doubt(now)
            case "forget":
                made.forget(base)
            case "retire":
                made.retire(PEER)
        assert len(made) <= MAX_DIRECT + MAX_RELAYED
        assert made.path is None or made.is_alive(made.path)
