"""The DHT on virtual time: a thousand nodes, loss, corpses, churn. Figures here are simulation."""

import hashlib
import statistics
import subprocess
import sys
from heapq import nsmallest

import pytest

from kodectl.core.distance import ID_BITS, distance
from kodectl.core.table import K, RoutingTable
from kodectl.node.values import ENOUGH_ANSWERS
from kodectl.sim.dht import DhtNetwork
from kodectl.sim.garbage import seldom_collected
from kodectl.sim.network import PathModel

LOSSY = PathModel(loss=0.02)


@pytest.fixture(scope="module", autouse=True)
def collected():
    with seldom_collected():
        yield


@pytest.fixture
def hundred():
    network = DhtNetwork(100, seed=1, model=LOSSY)
    with network.world:
        network.build()
        yield network


def share_found(results) -> float:
    return sum(result.found for result in results) / len(results)


def test_thousand_nodes_find_each_other_and_still_do_when_thirty_percent_are_dead():
    network = DhtNetwork(1000, seed=1, model=LOSSY)
    with network.world:
        network.build()
        results = network.lookups(1000, network.nodes)
        assert share_found(results) >= 0.999
        assert statistics.median(result.messages for result in results) <= 25
        assert sorted(result.rounds for result in results)[950] <= 8
        network.rng.shuffle(network.nodes)
        network.crash(network.nodes[:300])
        results = network.lookups(1000, network.nodes[300:])
        assert share_found(results) >= 0.999
        assert statistics.median(result.messages for result in results) <= 30
        assert sorted(result.elapsed_s for result in results)[950] <= 3.0


def test_value_put_anywhere_is_found_anywhere(hundred):
    world, rng = hundred.world, hundred.rng
    for number in range(20):
        writer, reader = rng.sample(hundred.nodes, 2)
        key, value = hashlib.sha256(b"key %d" % number).digest(), b"value %d" % number
        _, stored, asked = world.call(writer.runtime, writer.values.put, key, value, 3600.0)
        assert asked == 16
        assert stored >= 14
        (record,) = world.call(reader.runtime, reader.values.get, key)
        assert (record.value, record.publisher) == (value, writer.identity.public_key)


def test_reading_asks_hardly_more_nodes_than_have_to_answer(hundred, monkeypatch):
    world, reader, asked, questions = hundred.world, hundred.nodes[7], [], []
    request = reader.discovery.request
    monkeypatch.setattr(reader.discovery, "request", lambda *question: (asked.append(question[0]), request(*question)))
    for number in range(20):
        key = hashlib.sha256(b"key %d" % number).digest()
        world.call(hundred.nodes[number + 8].runtime, hundred.nodes[number + 8].values.put, key, b"value", 3600.0)
        asked.clear()
        assert world.call(reader.runtime, reader.values.get, key)
        questions.append(len(asked))
    assert ENOUGH_ANSWERS <= statistics.median(questions) <= ENOUGH_ANSWERS + 1


def test_values_lie_with_the_closest(hundred):
    key = hashlib.sha256(b"where").digest()
    writer = hundred.nodes[5]
    hundred.world.call(writer.runtime, writer.values.put, key, b"here", 3600.0)
    holders = {node.identity.node_id for node in hundred.nodes if node.values.store.get(key)}
    closest = sorted((node.identity.node_id for node in hundred.nodes), key=lambda node_id: distance(node_id, key))[:16]
    assert len(holders & set(closest)) >= 14


SLICES = 4


def mutate(monkeypatch) -> None:
    """Equal slices of the distance in place of buckets. With four of them and two hundred nodes, as with twenty and a
    thousand, the last one alone should hold fifty, and holds sixteen."""
    width = (1 << ID_BITS) // SLICES

    def index(table, number):
        return max(0, SLICES - 1 - (number ^ table._own_number) // width)

    def random_id_in(table, index, rng):
        return (table._own_number ^ (SLICES - 1 - index) * width + rng.randrange(width)).to_bytes(32)

    def closest(table, target, count=K):
        number = int.from_bytes(target)
        everybody = [contact for slice_ in range(SLICES) for contact in table._buckets[slice_].live()]
        return nsmallest(count, everybody, key=lambda contact: contact.number ^ number)

    thin_buckets = RoutingTable.thin_buckets
    monkeypatch.setattr(RoutingTable, "thin_buckets", lambda table: thin_buckets(table)[:SLICES])
    monkeypatch.setattr(RoutingTable, "_index", index)
    monkeypatch.setattr(RoutingTable, "random_id_in", random_id_in)
    monkeypatch.setattr(RoutingTable, "closest", closest)


@pytest.mark.parametrize("is_mutant", [False, True])
def test_a_mutant_with_equal_slices_fails(is_mutant, monkeypatch):
    if is_mutant:
        mutate(monkeypatch)
    network = DhtNetwork(200, seed=1, model=LOSSY)
    with network.world:
        network.build()
        results = network.lookups(200, network.nodes)
    assert (share_found(results) < 0.9) == is_mutant


@pytest.mark.parametrize("size", [80, pytest.param(200, marks=pytest.mark.slow)])
def test_records_survive_the_replacement_of_half_the_network_in_an_hour(size):
    network = DhtNetwork(size, seed=3, model=LOSSY)
    world, rng = network.world, network.rng
    with world:
        network.build()
        keys = [hashlib.sha256(b"kept %d" % number).digest() for number in range(30)]
        for key in keys:
            writer = rng.choice(network.nodes)
            world.call(writer.runtime, writer.values.put, key, b"v", 40_000.0)
        for _ in range(size // 2):
            victim = network.nodes.pop(rng.randrange(len(network.nodes)))
            network.crash([victim])
            network.join_newcomer(rng.choice(network.nodes))
            world.run_for(3600.0 / (size // 2))
        found = 0
        for key in keys:
            reader = rng.choice(network.nodes)
            found += bool(world.call(reader.runtime, reader.values.get, key))
    assert found == len(keys)


TRACE = """
from kodectl.sim.dht import DhtNetwork
from kodectl.sim.network import PathModel
network = DhtNetwork(40, seed={seed}, model=PathModel(loss=0.05, duplication=0.02, reordering=0.05))
with network.world:
    network.build()
    network.lookups(40, network.nodes)
    print(network.world.trace_hash())
"""


def trace_hash(seed: int, hash_seed: str) -> str:
    environment = {"PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", TRACE.format(seed=seed)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_one_seed_gives_one_trace_under_any_hash_seed():
    first = trace_hash(7, "0")
    assert len(first) >= 32
    assert trace_hash(7, "0") == first
    assert trace_hash(7, "4242") == first
    assert trace_hash(8, "0") != first
