"""Back-off: grows, is capped, is jittered, ends with a link that lasted."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from kodectl.core.backoff import BASE_S, CAP_S, LASTED_S, MAX_FAILURES, Backoff

RNG = random.Random(1)


def test_nobody_waits_before_the_first_dial() -> None:
    assert Backoff().is_over(-1e9)


@given(st.integers(1, 40), st.integers())
def test_failures_double_the_pause_up_to_the_cap(failures: int, seed: int) -> None:
    rng, backoff = random.Random(seed), Backoff()
    for _ in range(failures):
        backoff = backoff.after_failure(1000.0, rng)
    pause = min(CAP_S, BASE_S * 2 ** (min(failures, MAX_FAILURES) - 1))
    assert pause / 2 <= backoff.retry_at - 1000.0 <= pause
    assert backoff.failures == min(failures, MAX_FAILURES)


def test_two_nodes_do_not_come_back_in_one_moment() -> None:
    pauses = {Backoff().after_failure(0.0, random.Random(seed)).retry_at for seed in range(100)}
    assert len(pauses) > 90


def test_a_link_that_lasted_starts_over() -> None:
    backoff = Backoff(9, 0.0).after_link(LASTED_S, 0.0, RNG)
    assert backoff.failures == 0
    assert backoff.retry_at <= BASE_S


def test_a_link_that_broke_at_once_counts_as_a_failure() -> None:
    assert Backoff(3, 0.0).after_link(LASTED_S - 1, 0.0, RNG).failures == 4


def test_a_pause_never_shortens() -> None:
    assert Backoff(0, 500.0).paused(0.0, 60.0).retry_at == 500.0
    assert Backoff(0, 5.0).paused(0.0, 60.0) == Backoff(0, 60.0)
