"""Getting into the network: bootstrap nodes that are dead, slow, unresolvable or somebody else, and seeds."""

import hashlib
from itertools import pairwise

import pytest

from kodectl.core.identity import Identity
from kodectl.node.bootstrap import MAX_BOOTSTRAP, RETRY_MOST_S
from kodectl.node.node import Node
from kodectl.node.persistence import MemoryStore, StoredSeed
from kodectl.settings import NodeSettings
from kodectl.sim.network import PathModel
from kodectl.sim.suite import SimSuite
from kodectl.sim.world import World

SUITE = SimSuite()
DEAD = f"enode://{'ab' * 32}@21.200.0.1:30303?discport=30301"


@pytest.fixture
def world():
    with World(8, PathModel(latency_s=0.03, spread_s=0.01)) as one:
        yield one


def start(world, ip, *bootstrap, store=None, runtime=None, **settings) -> Node:
    runtime = runtime or world.host(ip)
    texts = tuple(one.enode if isinstance(one, Node) else one for one in bootstrap)
    told = NodeSettings(lan=False, nat=f"extip:{ip}", bootstrap=texts, **settings)
    node = Node(runtime, told, Identity(SUITE, hashlib.sha256(ip.encode()).digest()), store)
    world.call(runtime, node.start)
    return node


def states(node):
    return [entry.state for entry in node.bootstrap().bootstrap]


def events(node, *types):
    return [event for event in node.events.since(0).events if event.type in types]


def hails_to(world, ip):
    """Counts the packets that reach a host which answers none."""
    heard = []
    world.host(ip).open_datagram(("0.0.0.0", 30301), lambda data, sender: heard.append(world.now))
    return heard


def test_dead_bootstrap_nodes_delay_nobody(world):
    alive = start(world, "21.0.0.1")
    dead = [f"enode://{'ab' * 32}@21.200.0.{n}:30303?discport=30301" for n in range(1, 8)]
    node = start(world, "21.1.0.1", *dead, alive)
    assert world.run(lambda: len(node.kademlia.table) == 1, 0.5)
    assert world.run(lambda: bool(events(node, "joined")), 1.0)
    assert world.run(lambda: len(node.peering.links) == 1, 4.0)
    world.run_for(20.0)
    assert states(node) == ["silent"] * 7 + ["answered"]
    assert len(events(node, "bootstrap_failed")) == 7  # once each, however often it is asked


def test_what_went_wrong_is_named(world):
    alive = start(world, "21.0.0.1")
    other_id = alive.enode.replace(alive.identity.node_id.hex(), "cd" * 32)
    world.names["seed.example"] = ["21.0.0.1"]
    by_name = alive.enode.replace("21.0.0.1", "seed.example")
    unresolved = alive.enode.replace("21.0.0.1", "gone.example")
    no_udp = f"enode://{'ab' * 32}@21.0.0.1:30303?discport=0"
    node = start(world, "21.1.0.1", other_id, by_name, unresolved, no_udp)
    world.run_for(10.0)
    assert states(node) == ["silent", "answered", "not_resolved", "silent"]
    view = node.bootstrap().bootstrap
    assert [entry.last_error is None for entry in view] == [False, True, False, False]
    assert view[1].rtt_ms == pytest.approx(120.0, abs=60.0)


def test_another_identity_is_told_apart_from_silence(world):
    imposter = start(world, "21.0.0.1")
    wanted = "cd" * 32
    enode = imposter.enode.replace(imposter.identity.node_id.hex(), wanted)
    imposter.discovery.identity.node_id = bytes.fromhex(wanted)  # answers hails for it, with its own key
    node = start(world, "21.1.0.1", enode)
    world.run_for(5.0)
    assert states(node) == ["wrong_identity"]
    assert len(node.kademlia.table) == 0


def test_an_unknown_id_is_learned(world):
    alive = start(world, "21.0.0.1")
    node = start(world, "21.1.0.1", alive.enode.replace(alive.identity.node_id.hex(), "0" * 64))
    world.run_for(3.0)
    assert states(node) == ["answered"]
    assert node.bootstrapping.nodes[0].node_id == alive.identity.node_id
    assert alive.identity.node_id in node.peering.links


def test_an_address_that_no_socket_reaches_costs_nothing_where_another_is_known(world):
    alive = start(world, "21.0.0.1")
    world.names["seed.example"] = ["2001:db8::1", "21.0.0.1"]
    node = start(world, "21.1.0.1", alive.enode.replace("21.0.0.1", "seed.example"))
    assert world.run(lambda: states(node) == ["answered"], 0.5)


def test_dead_bootstrap_nodes_are_asked_ever_more_rarely(world):
    heard = hails_to(world, "21.200.0.1")
    start(world, "21.1.0.1", DEAD)
    world.run_for(3600.0)
    # Attempts of one round lie seconds apart, rounds longer.
    rounds = [at for before, at in zip([-100.0, *heard], heard, strict=False) if at - before > 3.0]
    gaps = [later - earlier for earlier, later in pairwise(rounds)]
    assert 3.0 < gaps[0] < 15.0
    assert 12 <= len(rounds) <= 25
    assert max(gaps) <= RETRY_MOST_S * 1.2 + 10.0
    assert sorted(gaps[:4]) == gaps[:4]


def test_with_enough_nodes_nobody_is_asked_again(world):
    heard = hails_to(world, "21.200.0.1")
    first = start(world, "21.0.0.1")
    others = [start(world, f"21.{n}.0.1", first) for n in range(1, 6)]
    node = start(world, "21.9.0.1", first, DEAD)
    world.run_for(30.0)
    assert len(node.kademlia.table) == len(others) + 1
    before = len(heard)
    world.run_for(1800.0)
    assert len(heard) == before


def test_a_network_that_went_away_is_looked_for_within_seconds(world):
    """Bootstrap nodes of a restarted network: the node that was left alone comes back by itself."""
    nodes = [start(world, "21.0.0.1")]
    nodes += [start(world, f"21.{n}.0.1", nodes[0]) for n in range(1, 6)]
    lonely = start(world, "21.9.0.1", nodes[0])
    world.run_for(60.0)
    assert len(lonely.kademlia.table) == 6
    others = [f"21.{n}.0.1" for n in range(6)]
    world.partition(others, ["21.9.0.1"])
    assert world.run(lambda: not len(lonely.kademlia.table), 3000.0)
    assert world.run(lambda: bool(events(lonely, "isolated")), 10.0)
    world.heal()
    assert world.run(lambda: len(lonely.kademlia.table) >= 6, 1.2 * RETRY_MOST_S + 10.0)
    assert world.run(lambda: len(events(lonely, "joined")) == 2, 5.0)


def test_a_table_that_runs_empty_is_noticed_at_once(world):
    nodes = [start(world, "21.0.0.1")]
    nodes += [start(world, f"21.{n}.0.1", nodes[0]) for n in range(1, 6)]
    node = start(world, "21.9.0.1", nodes[0])
    world.run_for(400.0)
    for ip in range(6):
        world.crash(f"21.{ip}.0.1")
    heard = []
    reborn = world.restart("21.0.0.1")
    reborn.open_datagram(("0.0.0.0", nodes[0].udp_port), lambda data, sender: heard.append(data))
    for other in nodes:
        node.kademlia.table.remove(other.identity.node_id)
    heard.clear()
    assert world.run(lambda: bool(heard), 15.0)
    assert world.run(lambda: bool(events(node, "isolated")), 1.0)


def test_seeds_bring_a_node_back_without_any_bootstrap_node(world):
    alive = start(world, "21.0.0.1")
    store = MemoryStore()
    dead = [StoredSeed(f"enode://{n.to_bytes(32).hex()}@21.200.{n}.1:1?discport=1", 0.0) for n in range(1, 150)]
    store.save_seeds([*dead, StoredSeed(alive.enode, 0.0)])
    node = start(world, "21.1.0.1", store=store)
    assert world.run(lambda: len(node.kademlia.table) == 1, 20.0)
    assert world.run(lambda: bool(events(node, "joined")), 2.0)


def test_asked_by_the_operator_all_are_asked_now(world):
    heard = hails_to(world, "21.200.0.1")
    node = start(world, "21.1.0.1", DEAD, DEAD.replace("ab" * 32, "cd" * 32))
    world.run_for(600.0)
    heard.clear()
    view = world.call(node.runtime, node.rediscover)
    world.run_for(1.0)
    assert view.bootstrap_nodes == 2
    before = len(heard)
    assert before >= 2
    world.call(node.runtime, node.rediscover)
    world.call(node.runtime, node.rediscover)
    world.run_for(0.2)
    assert len(heard) == before  # one round at a time


def test_bootstrap_nodes_are_bounded(world):
    many = [f"enode://{n.to_bytes(32).hex()}@21.200.0.1:1?discport=1" for n in range(1, MAX_BOOTSTRAP + 20)]
    node = start(world, "21.1.0.1", *many)
    assert len(states(node)) == MAX_BOOTSTRAP


def test_a_node_stops_while_its_bootstrap_nodes_are_silent(world):
    node = start(world, "21.1.0.1", DEAD, f"enode://{'ab' * 32}@gone.example:1")
    world.run_for(0.5)
    begun = world.now
    world.call(node.runtime, node.stop)
    assert world.now - begun < 1.0
    assert world.waiting() == []
