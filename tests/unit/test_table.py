"""The routing table: buckets by shared bits, who enters, who leaves, who is told."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodectl.core import table as table_module
from kodectl.core.distance import distance, shared_bits
from kodectl.core.table import BUCKETS, REPLACEMENTS, Change, K, RoutingTable, subnet_of
from kodectl.wire.contacts import Contact

OWN = bytes(32)


def contact(number: int, ip: str | None = None, port: int = 30301) -> Contact:
    """An id with the given leading 16 bits, in a /24 of its own unless said."""
    node_id = (number << 240 | number + 1).to_bytes(32)
    return Contact(node_id, ip or f"{20 + (number >> 16) % 100}.{number >> 8 & 255}.{number & 255}.1", port, 30303)


def in_bucket(index: int, serial: int, ip: str | None = None) -> Contact:
    node_id = (1 << 255 - index | serial << 8).to_bytes(32)
    return Contact(node_id, ip or f"{20 + index}.{serial >> 8}.{serial & 255}.1", 30301, 30303)


def full_bucket(table: RoutingTable, index: int = 0) -> list[Contact]:
    contacts = [in_bucket(index, serial) for serial in range(K)]
    for position, one in enumerate(contacts):
        assert table.heard(one, float(position)) is Change.ADDED
    return contacts


@pytest.mark.parametrize(
    ("node_id", "bucket"),
    [(b"\x80" + bytes(31), 0), (b"\x40" + bytes(31), 1), (bytes(2) + b"\x20" + bytes(29), 18), (bytes(31) + b"\1", 19)],
)
def test_bucket_is_the_number_of_shared_leading_bits(node_id, bucket):
    assert RoutingTable(OWN).bucket_index(node_id) == bucket


def test_the_drawing_of_the_description():
    own, target = bytes([0b10101010]) + bytes(31), bytes([0b11101010]) + bytes(31)
    assert RoutingTable(own).bucket_index(target) == 1


@given(own=st.binary(min_size=32, max_size=32), index=st.integers(0, BUCKETS - 1), seed=st.integers())
def test_random_id_falls_into_its_bucket(own, index, seed):
    table = RoutingTable(own)
    assert table.bucket_index(table.random_id_in(index, random.Random(seed))) == index


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), size=st.integers(0, 120), count=st.integers(1, 20))
def test_closest_agrees_with_sorting_everything(seed, size, count):
    rng = random.Random(seed)
    table = RoutingTable(rng.randbytes(32))
    for number in range(size):
        # Ids near ours too, so that the deep buckets are filled.
        shift = rng.randrange(256)
        node_id = (int.from_bytes(table.own_id) ^ rng.getrandbits(256) >> shift).to_bytes(32)
        table.heard(Contact(node_id, f"10.0.{number >> 8}.{number & 255}", 1, 1), 0.0)
    target = rng.choice([rng.randbytes(32), table.own_id])
    expected = sorted(table.contacts(), key=lambda one: distance(one.node_id, target))[:count]
    assert table.closest(target, count) == expected


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), networks=st.integers(1, 30), count=st.integers(1, 20))
def test_two_of_a_network_are_among_the_closest_while_there_are_others(seed, networks, count):
    rng = random.Random(seed)
    table = RoutingTable(rng.randbytes(32))
    for number in range(120):
        node_id = (int.from_bytes(table.own_id) ^ rng.getrandbits(256) >> rng.randrange(256)).to_bytes(32)
        table.heard(Contact(node_id, f"20.0.{rng.randrange(networks)}.{number}", 1, 1), 0.0)
    for gone in rng.sample(table.contacts(), len(table) // 3):
        table.remove(gone.node_id)
    for one in table.contacts():
        table.heard(one, 1.0)
    target = rng.randbytes(32)
    allowed, surplus, of_network = [], [], Counter()
    for one in sorted(table.contacts(), key=lambda one: distance(one.node_id, target)):
        of_network[subnet_of(one.ip)] += 1
        (allowed if of_network[subnet_of(one.ip)] <= 2 else surplus).append(one)
    expected = [*allowed[:count], *surplus[: max(0, count - len(allowed))]]
    assert table.closest(target, count) == sorted(expected, key=lambda one: distance(one.node_id, target))


def test_one_network_does_not_take_all_places_of_those_who_wait():
    table = RoutingTable(OWN)
    old = full_bucket(table)
    honest = [in_bucket(0, 100 + serial) for serial in range(5)]
    for one in honest:
        table.heard(one, 50.0)
    for serial in range(40):
        table.heard(in_bucket(0, 200 + serial, f"91.1.1.{serial}"), 51.0)
    assert table.states()[0].replacements == len(honest) + 2
    promoted = [table.failed(one.node_id, one.address) for one in old[:7]]
    assert promoted[2:] == honest[::-1]


def test_own_id_never_enters():
    table = RoutingTable(OWN)
    assert table.heard(Contact(OWN, "10.0.0.1", 1, 1), 0.0) is Change.REFUSED
    assert len(table) == 0


def test_full_bucket_keeps_its_nodes_until_one_fails():
    table = RoutingTable(OWN)
    old = full_bucket(table)
    newcomer = in_bucket(0, 99)
    assert table.heard(newcomer, 100.0) is Change.WAITING
    assert newcomer.node_id not in table
    assert table.oldest_in(0, 50.0) == old[0]
    table.heard(old[0], 101.0)
    assert table.oldest_in(0, 50.0) == old[1]
    assert table.failed(old[1].node_id, old[1].address) == newcomer
    assert old[1].node_id not in table
    assert newcomer.node_id in table
    assert newcomer not in table.closest(newcomer.node_id)  # told to others when it has answered again
    table.heard(newcomer, 102.0)
    assert table.closest(newcomer.node_id)[0] == newcomer


def test_replacements_are_bounded_and_the_newest_wins():
    table = RoutingTable(OWN)
    old = full_bucket(table)
    waiting = [in_bucket(0, 100 + serial) for serial in range(REPLACEMENTS + 5)]
    for one in waiting:
        table.heard(one, 50.0)
    assert table.states()[0].replacements == REPLACEMENTS
    assert table.failed(old[0].node_id, old[0].address) == waiting[-1]


def test_without_replacement_one_failure_is_forgiven_two_are_not():
    table = RoutingTable(OWN)
    one = in_bucket(3, 1)
    table.heard(one, 0.0)
    assert table.failed(one.node_id, one.address) is None
    assert one.node_id in table
    assert table.closest(one.node_id) == []  # but not told to others
    table.failed(one.node_id, one.address)
    assert one.node_id not in table


def test_an_answer_clears_failures():
    table = RoutingTable(OWN)
    one = in_bucket(3, 1)
    table.heard(one, 0.0)
    table.failed(one.node_id, one.address)
    assert table.refresh(one.node_id, one.address, one.tcp_port, 1.0)
    table.failed(one.node_id, one.address)
    assert one.node_id in table


def test_two_of_a_subnet_in_a_bucket_ten_in_the_table():
    table = RoutingTable(OWN)
    changes = [table.heard(in_bucket(0, serial, f"20.1.2.{serial}"), 0.0) for serial in range(3)]
    assert changes == [Change.ADDED, Change.ADDED, Change.REFUSED]
    for index in range(1, BUCKETS):
        for serial in range(2):
            table.heard(in_bucket(index, serial, f"20.1.2.{index * 2 + serial}"), 0.0)
    assert len(table) == table_module.MAX_PER_SUBNET


def test_attacker_with_two_subnets_holds_at_most_twenty_places():
    rng = random.Random(1)
    table = RoutingTable(OWN)
    for number in range(10_000):
        shift = rng.randrange(24)
        node_id = (rng.getrandbits(256) >> shift).to_bytes(32)
        table.heard(Contact(node_id, f"20.1.{number % 2}.{number % 250}", 1000 + number, 1), 0.0)
    assert len(table) <= 20


def test_leaving_frees_the_subnet():
    table = RoutingTable(OWN)
    contacts = [in_bucket(0, serial, f"20.1.2.{serial}") for serial in range(3)]
    for one in contacts[:2]:
        table.heard(one, 0.0)
    table.remove(contacts[0].node_id)
    assert table.heard(contacts[2], 0.0) is Change.ADDED


def test_private_addresses_are_not_scarce():
    table = RoutingTable(OWN)
    for serial in range(K):
        assert table.heard(in_bucket(0, serial, f"127.0.0.{serial}"), 0.0) is Change.ADDED
    assert subnet_of("192.168.1.1") is None
    assert subnet_of("2001:470:1:2:3::1") == subnet_of("2001:470:1:2:9::9") != subnet_of("2001:470:1:3::1")


def moved(before: Contact, ip: str = "30.0.0.1") -> Contact:
    return Contact(before.node_id, ip, 5, 6)


def test_a_node_heard_elsewhere_moves_when_its_old_address_is_dead():
    table = RoutingTable(OWN)
    before = in_bucket(0, 1)
    after = moved(before)
    table.heard(before, 0.0)
    assert table.heard(after, 1.0) is Change.ELSEWHERE
    assert table.contacts() == [before]
    assert table.failed(before.node_id, before.address) == after
    assert table.contacts() == [after]
    assert table.closest(after.node_id) == []  # told to others when it has answered there again
    assert table.heard(after, 2.0) is Change.REFRESHED
    assert table.closest(after.node_id) == [after]


def test_who_only_hands_packets_on_does_not_take_a_node_over():
    table = RoutingTable(OWN)
    node = in_bucket(0, 1)
    table.heard(node, 0.0)
    table.heard(moved(node), 1.0)
    assert table.refresh(node.node_id, node.address, node.tcp_port, 2.0)
    assert table.failed(node.node_id, node.address) is None
    assert table.contacts() == [node]


def test_a_move_keeps_to_the_limits_of_subnets():
    table = RoutingTable(OWN)
    crowd = [in_bucket(0, serial, f"20.1.2.{serial}") for serial in range(2)]
    mover = in_bucket(0, 9)
    for one in (*crowd, mover):
        table.heard(one, 0.0)
    table.heard(moved(mover, "20.1.2.9"), 1.0)
    assert table.failed(mover.node_id, mover.address) is None
    assert sorted(table.contacts(), key=repr) == sorted(crowd, key=repr)


def test_another_tcp_port_is_taken_over_in_place():
    table = RoutingTable(OWN)
    node = in_bucket(0, 1)
    table.heard(node, 0.0)
    assert table.heard(Contact(node.node_id, *node.address, 999), 1.0) is Change.REFRESHED
    assert table.contact(node.node_id).tcp_port == 999


def test_a_lie_about_where_a_node_is_does_it_no_harm():
    table = RoutingTable(OWN)
    old = full_bucket(table)
    waiting = in_bucket(0, 99)
    table.heard(waiting, 50.0)
    for _ in range(3):
        assert table.failed(old[0].node_id, ("198.51.100.1", 1)) is None
        assert table.failed(waiting.node_id, (waiting.ip, 1)) is None
    assert old[0] in table.closest(old[0].node_id)
    assert table.failed(old[1].node_id, old[1].address) == waiting


def test_revalidation_takes_failed_nodes_then_the_oldest():
    table = RoutingTable(OWN)
    contacts = [in_bucket(index, 1) for index in range(5)]
    for when, one in enumerate(contacts):
        table.heard(one, float(when))
    table.failed(contacts[4].node_id, contacts[4].address)
    assert table.to_revalidate(3.5, 1.0, 3) == [contacts[4], contacts[0], contacts[1]]
    assert table.to_revalidate(3.5, 100.0, 3) == [contacts[4]]


def test_stale_buckets_reach_one_below_the_deepest_node():
    table = RoutingTable(OWN)
    table.heard(in_bucket(2, 1), 0.0)
    assert table.stale_buckets(10.0, 60.0) == [0, 1, 3]
    table.refreshed(1, 10.0)
    assert table.stale_buckets(10.0, 60.0) == [0, 3]
    assert table.stale_buckets(70.0, 60.0) == [0, 2, 3]


@given(a=st.binary(min_size=32, max_size=32), b=st.binary(min_size=32, max_size=32))
def test_shared_bits_against_text(a, b):
    text_a, text_b = (format(int.from_bytes(one), "0256b") for one in (a, b))
    same = next((i for i in range(256) if text_a[i] != text_b[i]), 256)
    assert shared_bits(a, b) == same
