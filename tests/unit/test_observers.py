"""What a node believes about its own address, from what observers say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.core.nat import Behavior
from kodectl.core.observers import MAX_OBSERVERS, MIN_GROUPS, VALIDITY_S, Observers, group_of

HERE = ("20.0.0.1", 30301)


def observers(*seen, now: float = 0.0, network: str = "8.{}.0.1") -> Observers:
    """Observer n is in a network of its own, and sees us at `seen[n]`."""
    known = Observers()
    for number, address in enumerate(seen):
        known.hear(bytes([number]) * 32, network.format(number), address, now)
    return known


def test_four_networks_that_agree_are_believed():
    belief = observers(*[HERE] * MIN_GROUPS).belief(0.0)
    assert (belief.ip, belief.port, belief.mapping) == (*HERE, Behavior.ENDPOINT_INDEPENDENT)
    assert (belief.groups, belief.dissent) == (MIN_GROUPS, 0)


def test_three_networks_are_a_hint_and_no_more():
    belief = observers(*[HERE] * 3).belief(0.0)
    assert (belief.ip, belief.hint) == (None, HERE[0])


def test_a_network_has_one_voice_however_many_observers_it_has():
    crowd = observers(*[("20.6.6.6", 1)] * 9, network="8.8.8.{}")
    assert crowd.belief(0.0).groups == 1
    for number in range(4):
        crowd.hear(bytes([100 + number]) * 32, f"9.{number}.0.1", HERE, 0.0)
    assert crowd.belief(0.0).ip == HERE[0]


def test_where_addresses_are_not_scarce_each_is_a_network():
    assert group_of("10.0.0.1") != group_of("10.0.0.2")
    assert group_of("8.8.8.1") == group_of("8.8.8.2") != group_of("8.8.9.1")
    assert group_of("2600::1") == group_of("2600::ffff") != group_of("2600:0:0:1::1")


def test_neighbours_count_only_as_long_as_nobody_speaks_from_further_away():
    known = observers(*[("192.168.1.2", 30301)] * 9, network="192.168.1.{}")
    assert known.belief(0.0).hint == "192.168.1.2"
    assert known.is_further("8.8.8.8", 0.0)
    assert not known.is_further("192.168.1.99", 0.0)
    known.hear(b"far", "8.8.8.8", HERE, 1.0)
    belief = known.belief(1.0)
    assert (belief.ip, belief.hint, belief.groups) == (None, HERE[0], 1)
    assert not known.is_further("8.8.4.4", 1.0)
    assert known.belief(VALIDITY_S + 0.5).hint == HERE[0]


def test_witnesses_stand_as_far_away_as_anybody_and_see_us_where_we_are():
    known = observers(*[("192.168.1.2", 30301)] * 3, network="192.168.1.{}")
    assert len(known.witnesses_since(0.0, "192.168.1.2")) == 3
    known.hear(b"far", "8.8.8.8", HERE, 1.0)
    known.hear(b"liar", "9.9.9.9", ("20.6.6.6", 1), 1.0)
    assert known.witnesses_since(0.0, HERE[0]) == [b"far"]
    assert known.witnesses_since(0.0, None) == [b"far", b"liar"]
    assert known.witnesses_since(2.0, None) == []


def test_a_crowd_in_one_network_pushes_out_only_its_own():
    known = observers(*[HERE] * MIN_GROUPS)
    for number in range(3 * MAX_OBSERVERS):
        known.hear(b"crowd %d" % number, "6.6.6.6", ("20.6.6.6", 1), 1.0)
    assert known.belief(1.0).ip == HERE[0]
    assert len(known.heard_since(0.0)) == MAX_OBSERVERS


@given(st.permutations([HERE] * 5 + [("20.6.6.6", 30301)] * 3))
def test_three_liars_of_eight_change_nothing(seen):
    belief = observers(*seen).belief(0.0)
    assert (belief.ip, belief.port, belief.mapping, belief.dissent) == (*HERE, Behavior.ENDPOINT_INDEPENDENT, 3)


@given(st.lists(st.tuples(st.sampled_from(["20.0.0.1", "20.6.6.6"]), st.integers(1, 65535)), min_size=3, max_size=3))
def test_three_liars_of_eight_do_not_hide_what_the_nat_does(lies):
    cone = observers(*[HERE] * 5, *lies).belief(0.0)
    assert (cone.ip, cone.port, cone.mapping) == (*HERE, Behavior.ENDPOINT_INDEPENDENT)
    symmetric = observers(*[(HERE[0], 50_000 + n) for n in range(5)], *lies).belief(0.0)
    assert symmetric.ip == HERE[0]
    assert symmetric.mapping in (Behavior.ADDRESS_DEPENDENT, None)


def test_half_is_not_a_majority():
    belief = observers(*[HERE] * 3, *[("20.6.6.6", 30301)] * 3).belief(0.0)
    assert (belief.ip, belief.hint, belief.port) == (None, None, None)


def test_ports_that_all_differ_depend_on_the_destination():
    belief = observers(*[(HERE[0], port) for port in (1024, 1025, 1030, 1031)]).belief(0.0)
    assert (belief.ip, belief.port, belief.mapping) == (HERE[0], None, Behavior.ADDRESS_DEPENDENT)


@pytest.mark.parametrize("ports", [(1000, 2000), (1000, 1000, 2000, 2000), (1000, 1000, 2000)])
def test_a_mapping_in_the_middle_of_a_change_is_not_called_symmetric(ports):
    assert observers(*[(HERE[0], port) for port in ports]).belief(0.0).mapping is not Behavior.ADDRESS_DEPENDENT


def test_words_age_and_are_bounded():
    assert observers(*[HERE] * 4).belief(VALIDITY_S + 1).groups == 0
    known = Observers()
    for number in range(MAX_OBSERVERS * 2):
        address = HERE if number >= MAX_OBSERVERS else ("20.6.6.6", 1)
        known.hear(number.to_bytes(32), f"8.{number}.0.1", address, 0.0)
    belief = known.belief(0.0)
    assert (belief.ip, belief.groups, belief.dissent) == (HERE[0], MAX_OBSERVERS, 0)


def test_what_an_observer_said_before_is_told():
    known = Observers()
    assert known.hear(b"a" * 32, "8.0.0.1", HERE, 0.0) is None
    assert known.hear(b"a" * 32, "8.0.0.1", ("20.0.0.2", 1), 1.0) == HERE
    assert known.seen_by(b"a" * 32) == ("20.0.0.2", 1)
    assert known.heard_since(1.0) == [b"a" * 32]
    known.forget_before(2.0)
    assert known.seen_by(b"a" * 32) is None


def test_neighbours_on_the_same_machine_are_not_asked():
    assert observers(("127.0.0.1", 1), ("::1", 1)).belief(0.0).groups == 0


def test_the_family_of_more_observers_counts():
    belief = observers(*[HERE] * 4, ("2600::1", 30301)).belief(0.0)
    assert (belief.ip, belief.groups, belief.dissent) == (HERE[0], 4, 0)
