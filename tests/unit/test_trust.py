"""Trust: the documented formula, what it forgets, and what cannot be won by tricks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.core.trust import (
    FAULT_COST,
    HALF_LIFE_S,
    HIGH_SCORE,
    MEDIUM_SCORE,
    MIN_OBSERVED_S,
    Presence,
    Rank,
    Trust,
)

HOUR = 3600.0


def served(hours: float, response_s: float = 0.05, start: float = 0.0) -> Trust:
    """Linked for so long, answering every heartbeat."""
    trust = Trust(start)
    trust.observe(Presence.LINKED, start)
    for beat in range(int(hours * 120)):
        trust.answered(start + beat * 30.0, response_s)
    trust.advance(start + hours * HOUR)
    return trust


def test_the_documented_formula() -> None:
    trust = Trust(0.0)
    trust.linked_s, trust.observed_s = 3000.0, 6000.0
    trust.response_s = 0.2
    trust.succeeded, trust.asked = 90.0, 100.0
    assert trust.score(0.0) == pytest.approx(0.5 * 0.4 + 0.8 * 0.3 + 0.9 * 0.3)


def test_perfect_is_one_and_nothing_is_zero() -> None:
    assert Trust(0.0).score(0.0) == 0.0
    assert served(24, response_s=0.0).score(24 * HOUR) == pytest.approx(1.0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["up", "down", "unobserved", "answered", "failed"]),
            st.floats(-HALF_LIFE_S, 30 * HALF_LIFE_S),
            st.floats(0, 1e6),
        ),
        max_size=60,
    )
)
def test_always_from_zero_to_one(course: list[tuple[str, float, float]]) -> None:
    trust, now = Trust(0.0), 0.0
    for what, passed, response_s in course:
        now += passed
        match what:
            case "up":
                trust.observe(Presence.LINKED, now)
            case "down":
                trust.observe(Presence.OUT_OF_REACH, now)
            case "unobserved":
                trust.observe(Presence.UNOBSERVED, now)
            case "answered":
                trust.answered(now, response_s)
            case "failed":
                trust.failed(now)
        assert 0.0 <= trust.score(now) <= 1.0 + 1e-9


def test_a_new_id_is_low_whatever_it_does_first() -> None:
    """Quick answers by the hundred in the first minutes change nothing: the time has to pass."""
    trust = Trust(0.0)
    trust.observe(Presence.LINKED, 0.0)
    for beat in range(500):
        trust.answered(beat * 1.0, 0.0)
    assert trust.rank(500.0) is Rank.LOW
    assert trust.score(500.0) < served(24).score(24 * HOUR)


def test_good_service_rises_to_high() -> None:
    trust = served(0.25)
    assert trust.rank(0.25 * HOUR) is Rank.HIGH


def test_an_honest_slow_peer_is_medium_and_never_shut_out() -> None:
    trust = served(24, response_s=5.0)
    assert MEDIUM_SCORE < trust.score(24 * HOUR) < HIGH_SCORE
    assert trust.rank(24 * HOUR) is Rank.MEDIUM


def test_often_failing_is_low_however_long_it_is_there() -> None:
    trust = served(24)
    for _ in range(4000):
        trust.failed(24 * HOUR)
    assert trust.rank(24 * HOUR) is Rank.LOW


def test_reconnecting_resets_nothing() -> None:
    """A peer that breaks the protocol and comes back at once stands where it stood."""
    trust = served(1)
    before = trust.score(HOUR)
    for _ in range(10):
        trust.failed(HOUR, FAULT_COST)
    after_faults = trust.score(HOUR)
    assert after_faults < before - 0.1
    for turn in range(50):
        trust.observe(Presence.UNOBSERVED, HOUR + turn)
        trust.observe(Presence.LINKED, HOUR + turn + 0.5)
    assert trust.score(HOUR + 50) <= after_faults + 0.001


def test_time_out_of_reach_costs_and_time_unwanted_does_not() -> None:
    gone, unwanted = served(2), served(2)
    gone.observe(Presence.OUT_OF_REACH, 2 * HOUR)
    unwanted.observe(Presence.UNOBSERVED, 2 * HOUR)
    assert gone.score(4 * HOUR) == pytest.approx(served(2).score(2 * HOUR) - 0.2, abs=0.02)
    assert unwanted.score(4 * HOUR) == pytest.approx(served(2).score(2 * HOUR), abs=0.01)


def test_what_was_long_ago_fades() -> None:
    trust = served(24)
    trust.observe(Presence.UNOBSERVED, 24 * HOUR)
    linked_s = trust.linked_s
    trust.advance(24 * HOUR + HALF_LIFE_S)
    assert trust.linked_s == pytest.approx(linked_s / 2)
    assert trust.rank(24 * HOUR + 20 * HALF_LIFE_S) is Rank.LOW
    assert trust.score(24 * HOUR + 20 * HALF_LIFE_S) < 0.05


def test_advancing_in_steps_or_at_once_is_the_same() -> None:
    steps, once = Trust(0.0), Trust(0.0)
    for trust in (steps, once):
        trust.observe(Presence.LINKED, 0.0)
    for number in range(1, 1001):
        steps.advance(number * 100.0)
    once.advance(100_000.0)
    assert steps.linked_s == pytest.approx(once.linked_s)


def test_a_clock_that_goes_back_changes_nothing() -> None:
    trust = served(1)
    before = trust.score(HOUR)
    assert trust.score(0.0) == before


def test_configuration_alone_makes_a_stranger_high() -> None:
    assert Trust(0.0).rank(0.0, privileged=True) is Rank.HIGH


def test_new_means_little_time_or_few_requests() -> None:
    trust = served(MIN_OBSERVED_S / HOUR * 1.1)
    assert not trust.is_new
    trust.asked = 1.0
    assert trust.is_new
