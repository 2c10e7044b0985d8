"""The heartbeat of one link, without a link."""

from __future__ import annotations

from kodectl.core.pulse import ANSWER_LIMIT_S, INTERVAL_S, MAX_MISSED, OVERDUE_LIMIT_S, SAMPLES, Beat, Pulse


def asked(number: int = 1, now: float = 0.0, received: int = 0) -> Pulse:
    pulse = Pulse(now)
    pulse.asked(number, now, received)
    return pulse


def test_asks_at_once_and_then_every_interval() -> None:
    pulse = Pulse(0.0)
    assert pulse.check(0.0, 0) is Beat.ASK
    pulse.asked(1, 0.0, 0)
    assert pulse.answered(1, 0.25) == 0.25
    assert pulse.check(INTERVAL_S, 0) is Beat.QUIET
    assert pulse.check(INTERVAL_S + 0.25, 0) is Beat.ASK


def test_three_missed_are_the_end_within_ninety_seconds() -> None:
    pulse, now, number = asked(), 0.0, 1
    pulse.answered(1, 0.0)
    beats = []
    while not beats or beats[-1][1] is not Beat.GONE:
        now += 5.0
        beat = pulse.check(now, 0)
        if beat is not Beat.QUIET:
            beats.append((now, beat))
        if beat in (Beat.ASK, Beat.ASK_AGAIN):
            number += 1
            pulse.asked(number, now, 0)
    assert [beat for _, beat in beats] == [Beat.ASK, Beat.ASK_AGAIN, Beat.ASK_AGAIN, Beat.GONE]
    assert now <= 75.0
    assert pulse.missed == MAX_MISSED


def test_a_late_answer_is_a_sign_of_life() -> None:
    pulse = asked()
    assert pulse.check(ANSWER_LIMIT_S, 0) is Beat.ASK_AGAIN
    pulse.asked(2, ANSWER_LIMIT_S, 0)
    assert pulse.answered(1, 12.0) == 12.0
    assert pulse.missed == 0
    assert pulse.check(ANSWER_LIMIT_S + 12.0, 0) is Beat.QUIET


def test_answers_that_nobody_asked_for_mean_nothing() -> None:
    pulse = asked(7)
    assert pulse.answered(8, 1.0) is None
    assert pulse.answered(7, 1.0) == 1.0
    assert pulse.answered(7, 2.0) is None


def test_other_bytes_excuse_a_late_answer_but_not_for_ever() -> None:
    pulse = asked()
    now = 0.0
    while pulse.check(now, int(now) * 1000) is Beat.QUIET and now < 1000.0:
        now += 5.0
    assert now == OVERDUE_LIMIT_S


def test_a_machine_that_slept_misses_one_at_most() -> None:
    pulse = asked()
    assert pulse.check(100_000.0, 0) is Beat.ASK_AGAIN
    assert pulse.missed == 1


def test_loss_and_round_trips_are_of_the_recent_ones() -> None:
    pulse = Pulse(0.0)
    assert pulse.loss is None
    for number in range(100):
        pulse.asked(number, number * 100.0, 0)
        if number % 4:
            pulse.answered(number, number * 100.0 + 0.5)
        else:
            pulse.check(number * 100.0 + ANSWER_LIMIT_S, 0)
    assert len(pulse.samples) == SAMPLES
    assert pulse.loss == 0.25
    assert set(pulse.round_trips_s) == {0.5}
