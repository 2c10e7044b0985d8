"""How far this clock is from those of others: medians of networks, and a clock that is set right meanwhile."""

from __future__ import annotations

import pytest

from kodectl.core.peer_clocks import MAX_VOICES, MIN_VOICES, VALIDITY_S, WRONG_S, PeerClocks

UNIX = 1_800_000_000.0


def told(*offsets: float, now: float = 0.0) -> PeerClocks:
    """One network each, whose clock is ahead of the right one by so much."""
    clocks = PeerClocks()
    for number, offset in enumerate(offsets):
        clocks.hear(f"20.{number}.0.1", UNIX + offset, now)
    return clocks


def test_nobody_has_spoken():
    belief = PeerClocks().belief(0.0, UNIX)
    assert (belief.ahead_s, belief.voices, belief.is_wrong) == (None, 0, False)


@pytest.mark.parametrize("ahead", [-7200.0, 0.0, 3600.0])
def test_the_difference_is_that_to_the_median(ahead):
    belief = told(0.0, 0.2, -0.1).belief(0.0, UNIX + ahead)
    assert belief.ahead_s == pytest.approx(ahead)
    assert belief.is_wrong == (ahead != 0.0)


def test_a_minority_of_liars_changes_nothing():
    belief = told(0.0, 0.0, 0.0, 9e6, 9e6).belief(0.0, UNIX)
    assert belief.ahead_s == pytest.approx(0.0)


def test_a_crowd_in_one_network_has_one_voice():
    clocks = told(0.0, 0.0, 0.0)
    for number in range(2, 50):
        clocks.hear(f"66.6.6.{number}", UNIX + 9e6, 0.0)
    assert clocks.belief(0.0, UNIX).ahead_s == pytest.approx(0.0)
    assert clocks.belief(0.0, UNIX).voices == 4


def test_a_clock_that_is_set_right_is_right_at_once():
    clocks = told(0.0, 0.0, 0.0)
    assert clocks.belief(10.0, UNIX + 10.0 + 500.0).ahead_s == pytest.approx(500.0)
    assert clocks.belief(11.0, UNIX + 11.0).ahead_s == pytest.approx(0.0)


def test_few_voices_make_no_clock_wrong():
    few = told(*[0.0] * (MIN_VOICES - 1)).belief(0.0, UNIX + 9999.0)
    assert few.ahead_s == pytest.approx(9999.0)
    assert not few.is_wrong
    assert told(*[0.0] * MIN_VOICES).belief(0.0, UNIX + WRONG_S).is_wrong


def test_old_words_are_forgotten():
    assert told(0.0, 0.0, 0.0).belief(VALIDITY_S + 1, UNIX).voices == 0


def test_what_is_kept_is_bounded():
    assert told(*[0.0] * (MAX_VOICES + 5)).belief(0.0, UNIX).voices == MAX_VOICES
