"""Values among nodes that lie: whoever stands next to a key hides no record and puts no old one in its place."""

import hashlib
import random

import pytest

from kodectl.core.identity import Identity
from kodectl.core.values import MAX_PER_KEY, ValueStore
from kodectl.node.locating import seek
from kodectl.node.values import Agreement, Values
from kodectl.sim.dht import DhtNetwork
from kodectl.sim.network import PathModel
from kodectl.sim.suite import SimSuite
from kodectl.wire import rpc
from kodectl.wire.contacts import Contact
from kodectl.wire.record import pack_record, record_statement
from kodectl.wire.rpc import StoreStatus

SUITE = SimSuite()
KEY = hashlib.sha256(b"key").digest()
HOUR_S = 3600.0


@pytest.fixture
def dht():
    network = DhtNetwork(24, seed=4, model=PathModel(loss=0.01))
    with network.world:
        network.build(settle_s=40.0)
        yield network


def put(dht, node, value):
    return dht.world.call(node.runtime, node.values.put, KEY, value, HOUR_S)


def get(dht, node):
    return [record.value for record in dht.world.call(node.runtime, node.values.get, KEY)]


def signed(identity, sequence, expiry, value, key=KEY):
    statement = record_statement(identity.public_key, key, sequence, int(expiry), value)
    return pack_record(statement, identity.sign(statement))


def by_distance(dht, key=KEY):
    number = int.from_bytes(key)
    return sorted(dht.nodes, key=lambda node: int.from_bytes(node.identity.node_id) ^ number)


def give(liar, records):
    """Whatever is asked for, these are what there is."""
    handler = liar.discovery.handlers[rpc.Kind.FIND_VALUE]

    def lie(session, question):
        answer = handler(session, rpc.FindValue(question.key, 2**32 - 1, question.contacts_wanted))
        return rpc.Values(len(records), answer.token, records, answer.contacts)

    liar.discovery.handlers[rpc.Kind.FIND_VALUE] = lie


@pytest.mark.parametrize("lie", ["nothing", "an old record", "a record of its own"])
def test_the_closest_to_a_key_do_not_hide_what_others_hold(dht, lie):
    writer = dht.nodes[3]
    put(dht, writer, b"old")
    old = by_distance(dht)[0].values.store.get(KEY)[0].packed
    put(dht, writer, b"new")
    expiry = writer.runtime.unix_time() + HOUR_S
    for number, liar in enumerate(by_distance(dht)[:4]):
        own = signed(Identity(SUITE, bytes([number]) * 32), 2**64 - 1, expiry, b"lie")
        # Only two say the same: three from three networks are believed.
        told = {"nothing": [], "an old record": [old] if number < 2 else [], "a record of its own": [own]}
        give(liar, told[lie])
    for reader in by_distance(dht)[16:]:
        values = get(dht, reader)
        assert b"new" in values
        assert b"old" not in values


def write_twice(dht, seed):
    """As after a network was cut in two, and both sides have written: all holders, and those who have the newer record."""
    writer = dht.nodes[3]
    put(dht, writer, b"old")
    _, newer = writer.values.signed(KEY, b"new", HOUR_S)
    holders = [node for node in dht.nodes if node.values.store.get(KEY)]
    now, unix_time = writer.runtime.now(), writer.runtime.unix_time()
    told = random.Random(seed).sample(holders, len(holders) // 2)
    for node in told:
        assert node.values.store.put(newer, None, now, unix_time) is StoreStatus.STORED
    return holders, told


@pytest.mark.parametrize("seed", range(3))
def test_three_who_agree_on_an_older_record_are_not_enough(dht, seed, monkeypatch):
    monkeypatch.setattr(Values, "_mend", lambda *_: None)
    write_twice(dht, seed)
    assert [get(dht, reader) for reader in dht.nodes] == [[b"new"]] * len(dht.nodes)


@pytest.mark.parametrize("seed", range(3))
def test_where_half_of_the_holders_have_an_older_record_everybody_reads_the_newer_one_and_tells_them(dht, seed):
    holders, told = write_twice(dht, seed)
    for reader in sorted(dht.nodes, key=lambda node: node in told):
        assert get(dht, reader) == [b"new"]
    dht.world.run_for(5)
    assert [value.value for node in holders for value in node.values.store.get(KEY)] == [b"new"] * len(holders)


def test_a_record_that_comes_while_its_key_is_read_does_not_end_the_reading(dht):
    put(dht, dht.nodes[3], b"first")
    reader = by_distance(dht)[0]
    expiry = reader.runtime.unix_time() + HOUR_S
    second = signed(Identity(SUITE, bytes(32)), 1, expiry, b"second")

    def read():
        dht.world.spawn(
            reader.runtime, "store", reader.values.store.put, second, None, reader.runtime.now(), expiry - 60
        )
        return reader.values.get(KEY)

    assert b"first" in [record.value for record in dht.world.call(reader.runtime, read)]
    assert {record.value for record in reader.values.store.get(KEY)} == {b"first", b"second"}


@pytest.mark.parametrize("lie", ["an old record", "a record of its own"])
def test_the_closest_to_a_node_do_not_hide_what_it_says_of_itself(dht, lie):
    sought = Identity(SUITE, b"s" * 32)
    key = sought.node_id
    expiry = dht.nodes[3].runtime.unix_time() + HOUR_S
    old, new = (signed(sought, sequence, expiry, value, key) for sequence, value in ((1, b"old"), (2, b"new")))
    dht.world.call(dht.nodes[3].runtime, dht.nodes[3].values.place, key, new)
    for number, liar in enumerate(by_distance(dht, key)[:4]):
        own = signed(Identity(SUITE, bytes([number]) * 32), 2**64 - 1, expiry, b"lie", key)
        give(liar, [own] if lie == "a record of its own" else [old] if number < 2 else [])
    for reader in by_distance(dht, key)[16:]:
        found = dht.world.call(reader.runtime, seek, reader.kademlia, reader.values, key)
        assert new in [record.packed for record in found.records]


@pytest.mark.parametrize(("networks", "is_enough"), [(2, False), (3, True)])
def test_one_answer_of_few_networks_does_not_end_a_search(networks, is_enough):
    agreement = Agreement()
    holders = [Contact(bytes([n]) * 32, f"20.0.{n % networks}.{n}", 1, 1) for n in range(9)]
    reached = [agreement.reached(holder, [b"record"]) for holder in holders]
    assert any(reached) == is_enough
    assert len(agreement.holders()) == networks


def test_one_network_with_many_ids_leaves_a_key_to_others():
    store = ValueStore(bytes(32), SUITE)
    for number in range(MAX_PER_KEY + 8):
        packed = signed(Identity(SUITE, number.to_bytes(32)), 2**63, 2000.0, b"flood")
        store.put(packed, f"20.0.0.{number}", 0.0, 1000.0)
    assert len(store) <= MAX_PER_KEY // 4
    assert store.put(signed(Identity(SUITE, b"h" * 32), 1, 2000.0, b"v"), "20.0.1.1", 0.0, 1000.0) is StoreStatus.STORED
