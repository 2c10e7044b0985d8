"""Lookups among nodes that lie about others. Figures here are simulation."""

import random
from functools import partial

import pytest

from kodectl.core.identity import Identity
from kodectl.node.discovery import Discovery
from kodectl.sim.dht import DhtNetwork, public_ip
from kodectl.sim.network import PathModel
from kodectl.sim.suite import SimSuite
from kodectl.wire import rpc
from kodectl.wire.contacts import Contact, pack_contacts

LIARS = 0.2
NOBODY_HERE = range(30_000, 59_000)
"""Numbers of addresses at which no node is."""


def anywhere(rng: random.Random, node_id: bytes) -> Contact:
    return Contact(node_id, public_ip(rng.choice(NOBODY_HERE)), 30301, 0)


def corpses(rng, liar, liars, target, limit):
    """Made up, close to what is looked for."""
    return [anywhere(rng, (int.from_bytes(target) ^ rng.getrandbits(200)).to_bytes(32)) for _ in range(limit)]


def colluders(rng, liar, liars, target, limit):
    """Only one another."""
    number = int.from_bytes(target)
    others = sorted(liars, key=lambda other: int.from_bytes(other.identity.node_id) ^ number)[:limit]
    return [Contact(other.identity.node_id, *other.address, 0) for other in others]


def elsewhere(rng, liar, liars, target, limit):
    """The right nodes, the target first, at wrong addresses."""
    ids = [contact.node_id for contact in liar.kademlia.table.closest(target, limit)]
    return [anywhere(rng, node_id) for node_id in dict.fromkeys([target, *ids])][:limit]


def lie(rng, liar, liars, kind, target, limit=16):
    return pack_contacts(kind(rng, liar, liars, target, limit))


@pytest.mark.parametrize(
    ("size", "seed"),
    [(60, 1), *(pytest.param(1000, seed, marks=pytest.mark.slow) for seed in (1, 2, 3))],
)
def test_a_fifth_of_liars_hides_nobody(size, seed):
    network = DhtNetwork(size, seed, PathModel(loss=0.02))
    rng = random.Random(seed)
    with network.world:
        network.build()
        network.rng.shuffle(network.nodes)
        liars, honest = network.nodes[: int(size * LIARS)], network.nodes[int(size * LIARS) :]
        for kind in (corpses, colluders, elsewhere):
            for liar in liars:
                liar.kademlia.closest_packed = partial(lie, rng, liar, liars, kind)
            results = network.lookups(size, honest)
            assert sum(result.found for result in results) >= 0.95 * len(results), kind.__name__
            assert max(result.messages for result in results) <= 200


TWO_NETWORKS = ("91.7.7", "91.9.9")


def of_two_networks(network, count):
    """Discovery of `count` ids on 400 hosts. They answer, and name each other."""
    hosts = [network.world.host(f"{prefix}.{last}") for prefix in TWO_NETWORKS for last in range(1, 201)]
    intruders: list[Contact] = []

    def name(session, question):
        number = int.from_bytes(question.target)
        closest = sorted(network.rng.sample(intruders, min(200, count)), key=lambda other: other.number ^ number)
        return rpc.Nodes(pack_contacts(closest[:16]))

    made = []
    for number in range(count):
        runtime = hosts[number % len(hosts)]
        discovery = Discovery(runtime, Identity(SimSuite(), b"intruder" + number.to_bytes(24)))
        discovery.handlers[rpc.Kind.PING] = lambda session, ping: rpc.Pong(0, 0, bytes((20, 0, 0, 1)), 1, 0)
        discovery.handlers[rpc.Kind.FIND_NODE] = name
        _, port = discovery.open(("0.0.0.0", 0))
        intruders.append(Contact(discovery.identity.node_id, runtime.host.ip, port, 0))
        made.append(discovery)
    return intruders, made


def intrusive(contact):
    return contact.ip.rpartition(".")[0] in TWO_NETWORKS


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_ids_of_two_networks_get_few_places_and_hide_nobody(count):
    """They say hello to a node and to nine others, three times in as many minutes."""
    network = DhtNetwork(60, 3, PathModel(loss=0.01))
    with network.world:
        network.build()
        victim = network.nodes[0]
        intruders, discoveries = of_two_networks(network, count)
        for _ in range(3):
            for number, discovery in enumerate(discoveries):
                for node in network.nodes[:10]:
                    discovery.request(node.identity.node_id, node.address, rpc.Ping(0, 0), ignored, ignored)
                if number % 20 == 0:
                    network.world.run_for(0.1)
            network.world.run_for(60.0)
        for node in network.nodes:
            assert sum(intrusive(contact) for contact in node.kademlia.table.contacts()) <= 20
        assert sum(intrusive(contact) for contact in victim.kademlia.table.contacts()) > 0
        beside = [(intruder.number ^ 1).to_bytes(32) for intruder in intruders[:20]]
        keys = [*(network.rng.randbytes(32) for _ in range(20)), *beside]
        for key in keys:
            closest = network.world.call(victim.runtime, victim.kademlia.find, key, (), False).closest
            assert len(closest) == 16
            assert sum(map(intrusive, closest)) <= 4
        assert all(found.found for found in network.lookups(100, network.nodes))


def ignored(*_):
    pass
