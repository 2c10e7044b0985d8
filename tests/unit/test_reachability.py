"""What follows from knocks that arrived, and from those that did not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.core.contacted import GENERATION_S, MAX_ADDRESSES, Contacted
from kodectl.core.nat import Behavior, NatType, Verdict, nat_type_of, verdict_of
from kodectl.core.reachability import (
    BLOCKED,
    NOTHING_KNOWN,
    Evidence,
    Reach,
    Trial,
    conclude,
    is_less_than,
    is_thin,
    with_what_was_known,
)

EIM, ADM = Behavior.ENDPOINT_INDEPENDENT, Behavior.ADDRESS_DEPENDENT
APDM = Behavior.ADDRESS_AND_PORT_DEPENDENT
SILENT = {"helpers": 2, "own_helpers": 2}


def trials(count: int = 4, **first) -> list[Trial]:
    """All silent, but for what the first one saw."""
    return [Trial(**{**SILENT, **first}), *[Trial(**SILENT) for _ in range(count - 1)]]


FULL = {"arrived_from_helper": True, "arrived_from_observer": True}
TABLE = {
    "open": (False, None, {**FULL, "own_udp_contacted": True, "own_tcp": True}, NatType.OPEN, True, True, "direct"),
    "firewalled": (False, None, {}, NatType.FIREWALLED, False, False, "hole_punching"),
    "full cone": (True, EIM, FULL, NatType.FULL_CONE, True, False, "direct"),
    "restricted": (
        True,
        EIM,
        {"arrived_from_observer": True, "own_udp_contacted": True},
        NatType.RESTRICTED,
        False,
        False,
        "hole_punching",
    ),
    "port restricted": (True, EIM, {}, NatType.PORT_RESTRICTED, False, False, "hole_punching"),
    "symmetric": (True, ADM, {}, NatType.SYMMETRIC, False, False, "turn_relay"),
    "symmetric, filter open": (True, ADM, FULL, NatType.SYMMETRIC, False, False, "turn_relay"),
    "forwarded": (
        True,
        EIM,
        {"own_udp_contacted": True, "own_tcp": True},
        NatType.PORT_RESTRICTED,
        True,
        True,
        "direct",
    ),
    "only TCP forwarded": (True, EIM, {"own_tcp": True}, NatType.PORT_RESTRICTED, False, True, "direct"),
    "a stranger came": (True, EIM, {"own_udp_stranger": True}, NatType.PORT_RESTRICTED, True, False, "direct"),
}


@pytest.mark.parametrize("name", TABLE)
def test_table(name):
    is_translated, mapping, first, nat_type, udp, tcp, verdict = TABLE[name]
    reach = conclude(Evidence(is_translated, mapping, trials(**first)))
    assert (reach.nat_type, reach.udp, reach.tcp) == (nat_type, udp, tcp)
    assert reach.verdict is Verdict(verdict)


def test_a_mapping_of_the_router_is_proved_by_any_knock_even_where_the_filter_is_lax():
    lax = {"arrived_from_observer": True, "own_udp_contacted": True}
    assert conclude(Evidence(True, EIM, trials(**lax), is_mapped=True)).udp is True
    assert conclude(Evidence(True, EIM, trials(**lax), is_mapped=False)).udp is False
    assert conclude(Evidence(True, EIM, trials(), is_mapped=True)).udp is False


def test_the_silence_of_one_proves_nothing():
    reach = conclude(Evidence(True, EIM, [Trial(**SILENT), Trial(), Trial()]))
    assert (reach.filtering, reach.udp, reach.tcp, reach.nat_type) == (None, None, None, None)
    assert reach.verdict is Verdict.HOLE_PUNCHING


def test_observers_without_helpers_say_nothing_about_strangers():
    alone = [Trial(helpers=0, own_helpers=0, arrived_from_observer=True) for _ in range(4)]
    reach = conclude(Evidence(True, EIM, alone))
    assert (reach.filtering, reach.udp) == (None, None)
    assert reach.tcp is False


def test_nothing_is_known_without_trials():
    reach = conclude(Evidence(None, None, []))
    assert reach == (None, None, None, None, None, None)


@given(
    st.lists(st.builds(Trial, helpers=st.sampled_from([None, 0, 2]), own_helpers=st.sampled_from([None, 0, 2]))),
    st.sampled_from([True, False, None]),
    st.sampled_from([*Behavior, None]),
)
def test_silence_never_means_open(silent, is_translated, mapping):
    """Liars that agree to knock and do not can only make a node look less reachable."""
    reach = conclude(Evidence(is_translated, mapping, silent))
    assert not reach.udp
    assert not reach.tcp
    assert reach.filtering in (None, Behavior.ADDRESS_AND_PORT_DEPENDENT)


@given(st.lists(st.sampled_from([SILENT, {}]), max_size=3))
def test_one_arrival_outweighs_every_silence(silent):
    seen = [*[Trial(**each) for each in silent], Trial(**SILENT, **FULL, own_tcp=True)]
    reach = conclude(Evidence(True, EIM, seen))
    assert (reach.nat_type, reach.udp, reach.tcp) == (NatType.FULL_CONE, True, True)


def reaches() -> st.SearchStrategy[tuple[bool | None, Reach]]:
    """What one round may end with, and whether addresses are translated."""
    helpers, flags = st.sampled_from([None, 0, 2]), st.booleans()
    trial = st.builds(Trial, helpers, flags, flags, helpers, flags, flags, flags)
    rounds = st.tuples(
        st.sampled_from([True, False, None]), st.sampled_from([*Behavior, None]), st.lists(trial, max_size=3)
    )
    return rounds.map(lambda evidence: (evidence[0], conclude(Evidence(*evidence))))


@given(reaches(), reaches())
def test_what_is_kept_from_before_contradicts_nothing_that_is_new(before, now):
    is_translated, new = now
    reach = with_what_was_known(new, before[1], is_translated)
    assert reach.nat_type is nat_type_of(is_translated, reach.mapping, reach.filtering)
    if reach.udp or reach.tcp:
        assert reach.verdict is Verdict.DIRECT
    else:
        assert reach.verdict is verdict_of(reach.nat_type, reach.mapping)
    for field in ("mapping", "filtering", "tcp"):
        measured = getattr(new, field)
        assert getattr(reach, field) is (measured if measured is not None else getattr(before[1], field))
    assert reach.udp is not None or (new.udp is None and before[1].udp is None)


def test_after_silence_nothing_was_known():
    assert with_what_was_known(NOTHING_KNOWN, BLOCKED, None) == NOTHING_KNOWN


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        (Reach(udp=True, tcp=False), Reach(udp=True, tcp=True), True),
        (Reach(udp=False, tcp=True), Reach(udp=True, tcp=True), True),
        (Reach(udp=None, tcp=None), Reach(udp=True, tcp=True), False),
        (Reach(udp=False, tcp=False), NOTHING_KNOWN, False),
        (Reach(udp=False, tcp=False), Reach(udp=False, tcp=False), False),
        (Reach(udp=True, tcp=True), Reach(udp=False, tcp=False), False),
    ],
)
def test_less_than_before_is_what_is_denied_now(new, old, expected):
    assert is_less_than(new, old) is expected


@pytest.mark.parametrize(
    ("silent", "lost", "filtering", "expected"),
    [
        (2, 2, APDM, True),
        (2, 1, ADM, True),
        (3, 1, APDM, False),
        (2, 0, APDM, False),
        (2, 2, EIM, False),
        (1, 3, None, False),
    ],
)
def test_silence_of_two_of_four_is_thin(silent, lost, filtering, expected):
    trials = [Trial(**SILENT) for _ in range(silent)] + [Trial() for _ in range(lost)]
    assert is_thin(Reach(filtering=filtering), trials) is expected


def test_contacted_addresses_are_kept_for_one_to_two_generations():
    contacted = Contacted()
    contacted.age(GENERATION_S)
    contacted.note("20.0.0.1")
    contacted.age(GENERATION_S * 2)
    assert "20.0.0.1" in contacted
    contacted.age(GENERATION_S * 3)
    assert "20.0.0.1" not in contacted


def test_who_was_contacted_and_goes_on_sending_stays_no_stranger():
    """He may keep a filter open for hours without a word of ours."""
    contacted = Contacted()
    contacted.age(GENERATION_S)
    contacted.note("20.0.0.1")
    for generation in range(2, 10):
        contacted.age(GENERATION_S * generation)
        for ip in ("20.0.0.1", "20.0.0.2"):
            contacted.renew(ip)
    assert "20.0.0.1" in contacted
    assert "20.0.0.2" not in contacted


def test_with_too_many_contacted_addresses_everybody_counts_as_one():
    contacted = Contacted()
    for number in range(MAX_ADDRESSES + 1):
        contacted.note(str(number))
    assert "never seen" in contacted
    contacted.age(GENERATION_S)
    contacted.age(GENERATION_S * 2)
    assert "never seen" not in contacted
