"""Who sends all the time and hears nothing comes to doubt; whoever hears something, or rarely sends, does not."""

from __future__ import annotations

import pytest

from kodectl.core.unanswered import SILENCE_S, STEADY_S, Unanswered

STEP_S = 0.03


def doubts(unanswered: Unanswered, seconds: float, step_s: float = STEP_S, began: float = 100.0) -> list[float]:
    """When, since it began to send every `step_s`."""
    times = [number * step_s for number in range(round(seconds / step_s) + 1)]
    return [time for time in times if unanswered.sent(began + time)]


def test_a_doubt_comes_after_half_a_second_and_again_after_each() -> None:
    found = doubts(Unanswered(), 2.2)
    assert [round(time / SILENCE_S) for time in found] == [1, 2, 3, 4]
    assert SILENCE_S <= found[0] <= SILENCE_S + STEP_S


def test_what_is_heard_begins_it_anew() -> None:
    unanswered = Unanswered()
    assert doubts(unanswered, 0.45) == []
    unanswered.heard()
    assert doubts(unanswered, 0.45, began=100.48) == []


def test_what_was_sent_long_ago_may_have_needed_no_answer() -> None:
    unanswered = Unanswered()
    assert not unanswered.sent(100.0)
    assert doubts(unanswered, 0.45, began=112.0) == []


@pytest.mark.parametrize("step_s", [STEADY_S * 1.1, 1.0, 12.0])
def test_who_rarely_sends_leaves_it_to_the_transport(step_s: float) -> None:
    assert doubts(Unanswered(), 60.0, step_s) == []
