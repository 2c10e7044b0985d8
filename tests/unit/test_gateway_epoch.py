"""When a router's seconds say that it has begun anew (RFC 6886, section 3.6; RFC 6887, section 8.5)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.core.gateway_epoch import NATPMP_DRIFT, PCP_DRIFT, EpochWatch


def watched(drift: float, *observations: tuple[float, float]) -> bool:
    watch = EpochWatch(drift)
    for epoch_s, now in observations:
        watch.observe(epoch_s, now)
    return watch.take_reset()


@pytest.mark.parametrize("drift", [NATPMP_DRIFT, PCP_DRIFT])
@pytest.mark.parametrize(
    ("epoch_s", "now", "is_reset"),
    [
        (1000, 0, False),
        (1015, 15, False),
        (1001, 0, False),
        (998, 0, False),
        (997, 0, True),
        (0, 15, True),
        (0, 100_000, True),
        (2000, 15, True),
    ],
)
def test_the_second_of_two(drift, epoch_s, now, is_reset):
    assert watched(drift, (1000, 0), (epoch_s, now)) is is_reset


def test_pcp_is_stricter():
    assert watched(PCP_DRIFT, (0, 0), (900, 1000))
    assert not watched(NATPMP_DRIFT, (0, 0), (900, 1000))


def test_the_first_says_nothing_and_a_reset_is_told_once():
    watch = EpochWatch(PCP_DRIFT)
    watch.observe(5, 0.0)
    assert not watch.take_reset()
    watch.observe(0, 100.0)
    watch.observe(10, 110.0)
    assert watch.take_reset()
    assert not watch.take_reset()


@given(
    st.floats(0, 1e6),
    st.lists(st.floats(0, 1e5), min_size=1, max_size=20),
    st.floats(-1, 1),
    st.sampled_from([NATPMP_DRIFT, PCP_DRIFT]),
)
def test_a_clock_that_is_off_by_less_than_its_drift_is_no_restart(start, pauses, skew, drift):
    now, watch = 0.0, EpochWatch(drift)
    for pause in pauses:
        now += pause
        watch.observe(int(start + now * (1 + skew * drift)), now)
    assert not watch.take_reset()
