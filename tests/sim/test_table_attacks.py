"""Lookups among nodes that lie about others. Figures here are simulation."""

import random
from functools import partial

import pytest

from kodectl.sim.dht import DhtNetwork, public_ip
from kodectl.sim.network import PathModel
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
