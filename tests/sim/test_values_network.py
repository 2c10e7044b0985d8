"""Values on a network of nodes: put, get, replace, expire, hand over, republish, and what the disk keeps of them."""

import base64
import hashlib

import pytest

from kodectl.core.identity import Identity
from kodectl.core.values import MAX_EXPIRY_S
from kodectl.errors import EnvironmentFault, LocalMisuse, NegativeAnswer
from kodectl.node.node import Node
from kodectl.node.persistence import MemoryStore, StoredSeed
from kodectl.node.values import REPUBLISH_AFTER_S
from kodectl.settings import NodeSettings
from kodectl.sim.dht import DhtNetwork
from kodectl.sim.network import PathModel
from kodectl.sim.suite import SimSuite
from kodectl.sim.world import World
from kodectl.wire import rpc
from kodectl.wire.contacts import Contact
from kodectl.wire.record import pack_record, record_statement, unpack_record

SUITE = SimSuite()
KEY = hashlib.sha256(b"key").digest()
HOUR_S = 3600.0


@pytest.fixture
def dht():
    """Twenty-four nodes that know each other."""
    network = DhtNetwork(24, seed=4, model=PathModel(loss=0.01))
    with network.world:
        network.build(settle_s=40.0)
        yield network


def put(dht, node, value, key=KEY, ttl_s=HOUR_S, **rest):
    return dht.world.call(node.runtime, lambda: node.values.put(key, value, ttl_s, **rest))


def get(dht, node, key=KEY):
    return [record.value for record in dht.world.call(node.runtime, node.values.get, key)]


def holders(dht, key=KEY):
    return [node for node in dht.nodes if node.values.store.get(key)]


def signed(identity, sequence, expiry, value, key=KEY):
    statement = record_statement(identity.public_key, key, sequence, int(expiry), value)
    return pack_record(statement, identity.sign(statement))


def place(dht, node, packed):
    """A record as its publisher made it, at whoever should hold it."""
    return dht.world.call(node.runtime, node.values.place, unpack_record(packed).key, packed)


def test_sixteen_hold_what_was_put_and_all_find_it(dht):
    _, stored, asked = put(dht, dht.nodes[3], b"v")
    assert stored == asked == 16
    assert len(holders(dht)) == 16
    assert all(get(dht, node) == [b"v"] for node in dht.nodes)


def test_a_later_put_replaces_everywhere(dht):
    first, *_ = put(dht, dht.nodes[3], b"one")
    second, stored, _ = put(dht, dht.nodes[3], b"two")
    assert second > first
    assert stored == 16
    assert {node.values.store.get(KEY)[0].value for node in holders(dht)} == {b"two"}
    assert get(dht, dht.nodes[9]) == [b"two"]


def test_a_clock_set_back_does_not_stop_puts(dht):
    put(dht, dht.nodes[0], b"other")
    writer = next(node for node in dht.nodes if not node.values.store.get(KEY))  # it holds none of its own records
    first, *_ = put(dht, writer, b"one", ttl_s=40_000.0)
    writer.runtime.clock_offset_s = -HOUR_S
    second, stored, _ = put(dht, writer, b"two", ttl_s=40_000.0)
    assert second > first
    assert stored >= 15


def test_a_restarted_publisher_whose_clock_went_back_counts_on_from_what_it_holds(dht):
    put(dht, dht.nodes[0], b"other")
    writer = holders(dht)[0]
    first, *_ = put(dht, writer, b"one", ttl_s=40_000.0)
    writer.values._last_sequence = 0  # as after a restart with the same store
    writer.runtime.clock_offset_s = -HOUR_S
    second, *_ = put(dht, writer, b"two", ttl_s=40_000.0)
    assert second > first


def test_put_counts_the_dead_as_not_stored_and_goes_on(dht):
    put(dht, dht.nodes[3], b"old")
    for victim in holders(dht)[:4]:
        if victim is not dht.nodes[3]:
            dht.crash([victim])
    _, stored, asked = put(dht, dht.nodes[3], b"new")
    assert asked == 16
    assert stored >= 12
    assert get(dht, dht.nodes[3]) == [b"new"]


def test_a_holder_that_dies_between_token_and_store_costs_one_copy(dht):
    writer = dht.nodes[3]
    found = dht.world.call(writer.runtime, writer.kademlia.iterate, KEY, rpc.FindValue(KEY, 0, True))
    victim = next(node for node in dht.nodes if node.identity.node_id == found.closest[0].node_id)
    store_at = writer.values._store_at

    def store_after_a_death(at, packed, tokens):
        dht.crash([victim])
        return store_at(at, packed, tokens)

    writer.values._store_at = store_after_a_death
    _, stored, asked = put(dht, writer, b"v")
    assert (stored, asked) == (15, 16)


def test_limits_of_a_put_are_named(dht):
    node = dht.nodes[0]
    for ttl_s in (0, -1, float("nan"), MAX_EXPIRY_S + 1):
        with pytest.raises(LocalMisuse, match="time to live"):
            put(dht, node, b"v", ttl_s=ttl_s)
    with pytest.raises(LocalMisuse, match="limit is 1000"):
        put(dht, node, b"v" * 1001)
    assert put(dht, node, b"v" * 1000, ttl_s=MAX_EXPIRY_S)[1] == 16


def test_a_record_lives_no_shorter_than_it_was_told(dht):
    ends = dht.nodes[3].runtime.unix_time() + 20.5
    put(dht, dht.nodes[3], b"v", ttl_s=20.5)
    assert ends <= holders(dht)[0].values.store.get(KEY)[0].expiry < ends + 1


def test_an_expired_value_is_gone_for_readers_at_once(dht):
    put(dht, dht.nodes[3], b"v", ttl_s=5.0)
    assert get(dht, dht.nodes[9]) == [b"v"]
    holder = holders(dht)[0]
    dht.world.run_for(6.0)
    assert get(dht, dht.nodes[9]) == []
    assert get(dht, holder) == []


def test_expired_values_leave_every_store(dht):
    put(dht, dht.nodes[3], b"v", ttl_s=5.0)
    dht.world.run_for(90.0)
    assert not any(len(node.values.store) for node in dht.nodes)


def test_get_takes_the_newest_of_several_holders(dht):
    publisher = dht.nodes[3]
    sequence, *_ = put(dht, publisher, b"old")
    packed = signed(publisher.identity, sequence + 1, publisher.runtime.unix_time() + HOUR_S, b"new")
    knows = holders(dht)[::2]
    for node in knows:
        node.values.store.put(packed, None, dht.world.now, node.runtime.unix_time())
    readers = [node for node in dht.nodes if node not in holders(dht)]
    assert sum(get(dht, reader) == [b"new"] for reader in readers) >= len(readers) - 1


def test_large_records_of_one_publisher_hide_nobodys(dht):
    """A packet takes one record of full size; the newest sequence comes first, and anybody may claim that."""
    unix_time = dht.nodes[0].runtime.unix_time()
    for number in range(5):
        crowd = Identity(SUITE, bytes([number]) * 32)
        place(dht, dht.nodes[number], signed(crowd, 2**64 - 1 - number, unix_time + HOUR_S, b"x" * 1000))
    put(dht, dht.nodes[3], b"honest")
    for reader in (dht.nodes[0], dht.nodes[20], dht.nodes[21]):
        values = get(dht, reader)
        assert len(values) == 6
        assert values[-1] == b"honest"


def test_forged_records_of_a_holder_are_passed_over(dht):
    put(dht, dht.nodes[3], b"honest")
    unix_time = dht.nodes[0].runtime.unix_time()
    author = Identity(SUITE, b"f" * 32)
    good = signed(author, 1, unix_time + HOUR_S, b"good")
    forged = [
        good[:-1] + bytes((good[-1] ^ 1,)),
        signed(author, 2, unix_time - 1, b"expired"),
        signed(author, 3, unix_time + HOUR_S, b"another key", key=bytes(32)),
        b"rubbish",
    ]
    for node in holders(dht):
        handler = node.discovery.handlers[rpc.Kind.FIND_VALUE]

        def lie(session, question, handler=handler):
            answer = handler(session, question)
            return rpc.Values(9, answer.token, [*forged, *answer.records], b"")

        node.discovery.handlers[rpc.Kind.FIND_VALUE] = lie
    readers = [node for node in dht.nodes if not node.values.store.get(KEY)]
    assert get(dht, readers[0]) == [b"honest"]


def test_an_endless_list_of_records_is_read_to_its_limit(dht):
    put(dht, dht.nodes[3], b"honest")
    asked = 0
    for node in holders(dht):
        handler = node.discovery.handlers[rpc.Kind.FIND_VALUE]

        def endless(session, question, handler=handler):
            nonlocal asked
            asked += question.skip > 0
            answer = handler(session, rpc.FindValue(question.key, 0, question.contacts_wanted))
            return rpc.Values(2**32 - 1, answer.token, answer.records, answer.contacts)

        node.discovery.handlers[rpc.Kind.FIND_VALUE] = endless
    reader = next(node for node in dht.nodes if not node.values.store.get(KEY))
    assert get(dht, reader) == [b"honest"]
    assert asked <= 3 * 31 + 10  # some are lost and asked again


def test_values_and_contacts_share_an_answer(dht):
    """One record of middle size leaves room for contacts, a second one that does not fit takes none of it."""
    unix_time = dht.nodes[0].runtime.unix_time()
    for number in range(2):
        place(dht, dht.nodes[0], signed(Identity(SUITE, bytes([number]) * 32), 1, unix_time + HOUR_S, b"x" * 500))
    holder, reader = holders(dht)[0], dht.nodes[7]
    body = rpc.FindValue(KEY, 0, True)
    asked = dht.world.call(reader.runtime, reader.discovery.ask, holder.identity.node_id, holder.address, body).body
    assert (asked.total, len(asked.records)) == (2, 1)
    assert len(asked.contacts) >= 8 * 41


def test_newcomers_are_given_what_is_theirs(dht):
    keys = [hashlib.sha256(b"%d" % number).digest() for number in range(20)]
    for key in keys:
        put(dht, dht.nodes[3], b"v", key=key, ttl_s=40_000.0)
    newcomer = dht.join_newcomer(dht.nodes[0])
    assert dht.world.run(lambda: len(newcomer.values.store) >= 8, 60.0)


def test_a_dead_newcomer_does_not_hold_up_the_next():
    network = DhtNetwork(8, seed=5, model=PathModel())
    with network.world as world:
        network.build()
        giver = network.nodes[0]
        for number in range(40):
            put(network, giver, b"v", key=hashlib.sha256(b"%d" % number).digest(), ttl_s=40_000.0)
        dead = network.join_newcomer(giver)
        world.run(lambda: dead.identity.node_id in giver.kademlia.table, 5.0)
        network.crash([dead])
        newcomer = network.join_newcomer(giver)
        assert world.run(lambda: len(newcomer.values.store) >= 30, 60.0)


def test_one_newcomer_is_given_so_many_and_no_more(monkeypatch):
    monkeypatch.setattr("kodectl.node.values.HANDOVER_AT_ONCE", 10)
    network = DhtNetwork(1, seed=5, model=PathModel())
    with network.world as world:
        (giver,) = network.nodes
        for number in range(40):
            put(network, giver, b"v", key=hashlib.sha256(b"%d" % number).digest(), ttl_s=40_000.0)
        newcomer = network.join_newcomer(giver)
        world.run_for(60.0)
        assert len(newcomer.values.store) == 10


def test_who_is_not_among_the_closest_refuses(dht):
    put(dht, dht.nodes[3], b"v")
    outsider = next(node for node in dht.nodes if not node.values.store.get(KEY))
    writer = dht.nodes[3] if outsider is not dht.nodes[3] else dht.nodes[4]
    packed = holders(dht)[0].values.store.get(KEY)[0].packed

    def ask(body):
        where = outsider.identity.node_id, outsider.address
        return dht.world.call(writer.runtime, writer.discovery.ask, *where, body).body

    token = ask(rpc.FindValue(KEY, 0, False)).token
    assert ask(rpc.Store(token, packed)).status == rpc.StoreStatus.NOT_CLOSEST


def test_records_are_republished_when_nobody_else_does(dht):
    put(dht, dht.nodes[3], b"v", ttl_s=40_000.0)
    before = holders(dht)
    dht.crash(before[1:])
    for node in before[1:]:
        dht.nodes.remove(node)
    dht.world.run_for(REPUBLISH_AFTER_S + 300.0)
    assert len(holders(dht)) == len(dht.nodes)


def test_who_holds_what_is_not_his_tells_the_holders_once_an_hour(dht):
    put(dht, dht.nodes[3], b"v", ttl_s=40_000.0)
    outsider = next(node for node in dht.nodes if not node.values.store.get(KEY))
    packed = holders(dht)[0].values.store.get(KEY)[0].packed
    outsider.values.store.put(packed, None, dht.world.now, outsider.runtime.unix_time())
    placed = []
    place_it = outsider.values.place
    outsider.values.place = lambda key, record: placed.append(dht.world.now) or place_it(key, record)
    dht.world.run_for(REPUBLISH_AFTER_S + 600.0)
    assert len(placed) == 1


def test_holders_do_not_republish_all_at_once(dht):
    """The first refreshes the others: sixteen holders cause one round of stores an hour, not sixteen."""
    put(dht, dht.nodes[3], b"v", ttl_s=40_000.0)
    stored = 0
    for node in dht.nodes:
        handler = node.discovery.handlers[rpc.Kind.STORE]

        def count(session, question, handler=handler):
            nonlocal stored
            stored += 1
            return handler(session, question)

        node.discovery.handlers[rpc.Kind.STORE] = count
    dht.world.run_for(2 * REPUBLISH_AFTER_S)
    assert 15 <= stored <= 100


# -- through whole nodes, with a disk ----------------------------------------------------------------------------------


class FaultyDisk(MemoryStore):
    full = False

    def _check(self):
        if self.full:
            raise EnvironmentFault("the disk is full", code="disk_full")

    def save_records(self, changed, removed=()):
        self._check()
        super().save_records(changed, removed)

    def save_seeds(self, seeds):
        self._check()
        super().save_seeds(seeds)

    def save_peers(self, changed, removed=()):
        super().save_peers(changed, removed)


@pytest.fixture
def world():
    with World(6, PathModel()) as one:
        yield one


def start(world, ip, *bootstrap, store=None, runtime=None) -> Node:
    runtime = runtime or world.host(ip)
    settings = NodeSettings(lan=False, nat=f"extip:{ip}", bootstrap=tuple(node.enode for node in bootstrap))
    node = Node(runtime, settings, Identity(SUITE, hashlib.sha256(ip.encode()).digest()), store)
    world.call(runtime, node.start)
    return node


def values_of(view):
    return [base64.b64decode(record.value) for record in view.records]


def test_put_and_get_by_name(world):
    first = start(world, "21.0.0.1")
    second = start(world, "21.1.0.1", first)
    world.run_for(10.0)
    view = world.call(first.runtime, first.dht_put, b"motd", b"hello", HOUR_S)
    assert (view.stored, view.asked) == (2, 2)
    assert values_of(world.call(second.runtime, second.dht_get, b"motd")) == [b"hello"]
    with pytest.raises(NegativeAnswer) as caught:
        world.call(second.runtime, second.dht_get, b"nothing")
    assert caught.value.code == "value_not_found"


def test_a_full_disk_is_a_warning_until_it_takes_something_and_nothing_is_lost(world):
    store = FaultyDisk()
    node = start(world, "21.0.0.1", store=store)
    store.full = True
    with pytest.raises(EnvironmentFault, match="only this node took the value, and it is not saved") as caught:
        world.call(node.runtime, node.dht_put, b"a", b"kept", HOUR_S)
    assert caught.value.code == "disk_full"
    world.run_for(30.0)
    assert node.status().warnings == ["the disk is full"]
    assert not node.health("ready").ok
    world.run_for(30.0)  # with nothing new to write
    assert node.status().warnings == ["the disk is full"]
    assert [event.type for event in node.events.since(0).events].count("warning") == 1
    store.full = False
    world.run_for(5.0)
    assert node.status().warnings == []
    assert node.health("ready").ok
    world.crash("21.0.0.1")
    reborn = start(world, "21.0.0.1", store=store, runtime=world.restart("21.0.0.1"))
    assert values_of(world.call(reborn.runtime, reborn.dht_get, b"a")) == [b"kept"]


def test_a_record_that_expired_while_the_disk_was_full_leaves_it_later(world):
    store = FaultyDisk()
    node = start(world, "21.0.0.1", store=store)
    world.call(node.runtime, node.dht_put, b"a", b"v", 30.0)
    world.run_for(5.0)
    assert len(store.load_records()) == 1
    store.full = True
    world.run_for(200.0)
    store.full = False
    world.run_for(5.0)
    assert store.load_records() == []


def test_a_record_that_expired_while_the_node_was_down_leaves_the_disk(world):
    store = MemoryStore()
    node = start(world, "21.0.0.1", store=store)
    world.call(node.runtime, node.dht_put, b"a", b"v", 30.0)
    world.run_for(5.0)
    world.crash("21.0.0.1")
    world.run_for(60.0)
    start(world, "21.0.0.1", store=store, runtime=world.restart("21.0.0.1"))
    world.run_for(5.0)
    assert store.load_records() == []


@pytest.mark.parametrize(
    "seed", ["rubbish", f"enode://{'ab' * 32}@[fe80::1%2]:1?discport=1", f"enode://{'ab' * 32}@host:1"]
)
def test_a_seed_that_cannot_be_used_is_no_reason_not_to_start(world, seed):
    other = start(world, "21.5.0.1")
    store = MemoryStore()
    store.save_seeds([StoredSeed(seed, 0.0), StoredSeed(other.enode, 0.0)])
    node = start(world, "21.0.0.1", store=store)
    assert world.run(lambda: other.identity.node_id in node.kademlia.table, 5.0)


def test_neighbours_on_a_link_are_no_seeds(world):
    """Their zone is the number of an interface, and an enode has none."""
    store = MemoryStore()
    node = start(world, "21.0.0.1", store=store)
    for ip in ("fe80::1%2", "20.1.1.1"):
        node.kademlia.table.heard(Contact(hashlib.sha256(ip.encode()).digest(), ip, 1, 1), world.now)
    assert world.run(lambda: bool(store.load_seeds()), 40.0)
    assert ["20.1.1.1" in seed.enode for seed in store.load_seeds()] == [True]
