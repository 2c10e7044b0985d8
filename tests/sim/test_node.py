"""The whole node on virtual time: the code that runs on gevent, with its links, gossip and LAN."""

import hashlib
import subprocess
import sys

import pytest

from kodectl.core.identity import Identity
from kodectl.errors import LocalMisuse, WireError
from kodectl.node.node import Node
from kodectl.node.persistence import MemoryStore
from kodectl.settings import NodeSettings
from kodectl.sim.network import PathModel
from kodectl.sim.suite import SimSuite
from kodectl.sim.world import World

SUITE = SimSuite()


def make(world: World, ip: str, *bootstrap: Node, store=None, lan=False, runtime=None, **settings) -> Node:
    runtime = runtime or world.host(ip)
    identity = Identity(SUITE, hashlib.sha256(ip.encode()).digest())
    told = NodeSettings(lan=lan, bootstrap=tuple(node.enode for node in bootstrap), nat=f"extip:{ip}", **settings)
    node = Node(runtime, told, identity, store)
    world.call(runtime, node.start)
    return node


def network(world: World, count: int, **settings) -> list[Node]:
    """Nodes in networks of their own, which know the first."""
    nodes = [make(world, "21.0.0.1", **settings)]
    nodes += [make(world, f"21.{number}.0.1", nodes[0], **settings) for number in range(1, count)]
    return nodes


def connected(nodes: list[Node], least: int) -> bool:
    return all(len(node.peering.links) >= least for node in nodes)


@pytest.fixture
def world():
    with World(5, PathModel(latency_s=0.02, spread_s=0.01, loss=0.01)) as one:
        yield one


def test_nodes_find_each_other_through_one_bootstrap_node(world):
    nodes = network(world, 12)
    assert world.run(lambda: connected(nodes, 8), 30.0)
    assert world.run(lambda: all(len(node.kademlia.table) == 11 for node in nodes), 60.0)


def test_nodes_on_one_lan_find_each_other_with_no_bootstrap_node(world):
    ips = [f"192.168.1.{number}" for number in range(1, 4)]
    hosts = [world.host(ip) for ip in ips]
    world.lan("home", ips)
    nodes = [make(world, ip, lan=True, runtime=host) for ip, host in zip(ips, hosts, strict=True)]
    outsider = make(world, "21.0.0.9", lan=True)
    assert world.run(lambda: connected(nodes, 2), 10.0)
    assert not outsider.peering.links


def test_lan_is_silent_when_switched_off(world):
    ips = ["192.168.1.1", "192.168.1.2"]
    hosts = [world.host(ip) for ip in ips]
    world.lan("home", ips)
    nodes = [make(world, ip, lan=False, runtime=host) for ip, host in zip(ips, hosts, strict=True)]
    world.run_for(60.0)
    assert not any(node.peering.links or len(node.kademlia.table) for node in nodes)


def test_nodes_of_another_network_on_the_lan_are_left_alone(world):
    ips = ["192.168.1.1", "192.168.1.2"]
    hosts = [world.host(ip) for ip in ips]
    world.lan("home", ips)
    nodes = [make(world, ip, lan=True, runtime=host, network=ip) for ip, host in zip(ips, hosts, strict=True)]
    world.run_for(60.0)
    assert not any(node.peering.links for node in nodes)


def test_heartbeats_measure_every_peer(world):
    nodes = network(world, 3)
    world.run_for(65.0)
    for node in nodes:
        entries = node.latency().peers
        assert len(entries) == 2
        # A lost segment is sent again after a fifth of a second.
        assert all(entry.samples >= 2 and 20.0 < entry.last_ms < 400.0 for entry in entries)


def test_connect_by_id_goes_through_the_network(world):
    nodes = network(world, 6, max_peers=4)
    world.run_for(20.0)
    asker = nodes[1]
    target = next(node for node in nodes if node is not asker and node.identity.node_id not in asker.peering.links)
    view = world.call(asker.runtime, asker.connect, target.identity.node_id.hex(), 10.0)
    assert view.outcome in ("connected", "too_many_peers")
    stranger = world.call(asker.runtime, asker.connect, "ab" * 32, 10.0)
    assert stranger.outcome == "no_route"
    own = world.call(asker.runtime, asker.connect, asker.enode, 10.0)
    assert own.outcome == "self"


def test_a_store_that_was_mended_at_the_start_is_told_and_does_not_make_the_node_unready(world):
    store = MemoryStore()
    store.warnings = ("the store was damaged and begun anew",)
    node = make(world, "21.0.0.1", store=store)
    assert node.health("ready").ok
    make(world, "21.1.0.1", node)
    world.run_for(60.0)  # seeds have been saved since
    assert node.status().warnings == ["the store was damaged and begun anew"]


def test_a_node_cannot_ban_itself(world):
    node = make(world, "21.0.0.1")
    with pytest.raises(LocalMisuse, match="itself"):
        world.call(node.runtime, node.ban, node.identity.node_id.hex(), None)


def test_broadcast_reaches_everybody_once(world):
    nodes = network(world, 8)
    assert world.run(lambda: connected(nodes, 5), 30.0)
    got = {index: [] for index in range(8)}
    for index, node in enumerate(nodes):
        node.broadcasting.subscribe(lambda envelope, index=index: got[index].append(envelope.payload))
    for number in range(20):
        world.call(nodes[number % 8].runtime, nodes[number % 8].broadcast, "transaction", b"tx %d" % number, "gossip")
    world.run_for(20.0)
    for index in range(8):
        own = {b"tx %d" % number for number in range(20) if number % 8 == index}
        assert sorted(set(got[index]) | own) == sorted(b"tx %d" % number for number in range(20))
        assert len(got[index]) == len(set(got[index]))


def test_values_are_put_and_got_through_nodes(world):
    nodes = network(world, 6)
    world.run_for(15.0)
    put = world.call(nodes[2].runtime, nodes[2].dht_put, b"motd", b"hello", 3600.0)
    assert put.stored == put.asked == 6
    got = world.call(nodes[4].runtime, nodes[4].dht_get, b"motd")
    assert got.key == put.key == hashlib.sha256(b"motd").hexdigest()
    assert got.records[0].value == "aGVsbG8="


def test_killed_node_is_back_with_peers_and_records_without_the_bootstrap_node(world):
    store = MemoryStore()
    nodes = network(world, 5)
    victim = make(world, "21.9.0.1", nodes[0], store=store)
    assert world.run(lambda: connected([victim], 4), 30.0)
    world.call(nodes[1].runtime, nodes[1].dht_put, b"k", b"v", 3600.0)
    world.run_for(10.0)
    before = len(victim.values.store)
    world.crash("21.9.0.1")
    world.crash("21.0.0.1")
    world.run_for(2.0)
    reborn = make(world, "21.9.0.1", store=store, runtime=world.restart("21.9.0.1"))
    assert before == len(reborn.values.store) == 1
    assert world.run(lambda: connected([reborn], 3), 5.0)
    assert world.run(lambda: len(reborn.kademlia.table) >= 3, 5.0)


def test_dead_peers_are_gone_within_ninety_seconds(world):
    nodes = network(world, 6)
    assert world.run(lambda: connected(nodes, 5), 30.0)
    world.crash("21.5.0.1")
    living, dead = nodes[:5], nodes[5].identity.node_id
    assert world.run(lambda: not any(dead in node.peering.links for node in living), 120.0)
    assert world.now < 150.0
    assert world.run(lambda: not any(dead in node.kademlia.table for node in living), 30.0)


def test_stopped_node_says_goodbye_and_leaves_no_task(world):
    nodes = network(world, 4)
    assert world.run(lambda: connected(nodes, 3), 30.0)
    world.call(nodes[3].runtime, nodes[3].stop)
    assert world.run(lambda: not any(nodes[3].identity.node_id in node.peering.links for node in nodes[:3]), 2.0)
    reasons = [event.data["reason"] for event in nodes[0].events.since(0).events if event.type == "peer_disconnected"]
    assert reasons == ["shutting_down"]
    assert not [line for line in world.waiting() if line.startswith("21.3.0.1 ")]


def test_partition_heals(world):
    nodes = network(world, 6)
    assert world.run(lambda: connected(nodes, 5), 30.0)
    left, right = [f"21.{number}.0.1" for number in range(3)], [f"21.{number}.0.1" for number in range(3, 6)]
    world.partition(left, right)
    assert world.run(lambda: all(len(node.peering.links) == 2 for node in nodes), 200.0)
    world.call(nodes[0].runtime, nodes[0].broadcast, "transaction", b"left", "gossip")
    got = []
    nodes[5].broadcasting.subscribe(lambda envelope: got.append(envelope.payload))
    world.heal()
    assert world.run(lambda: connected(nodes, 4), 600.0)
    assert world.run(lambda: got == [b"left"], 60.0)


def test_a_broken_bootstrap_enode_is_named_before_anything_begins(world):
    settings = NodeSettings(lan=False, bootstrap=("enode://rubbish",))
    with pytest.raises(WireError, match="no @"):
        Node(world.host("21.0.0.1"), settings, Identity(SUITE, bytes(32)))


def test_silent_and_unresolvable_bootstrap_nodes_are_named(world):
    node = make(world, "21.0.0.1")
    settings = NodeSettings(
        lan=False,
        bootstrap=(
            f"enode://{'ab' * 32}@21.7.7.7:30303?discport=30301",
            f"enode://{'ab' * 32}@seed.example:30303?discport=30301",
            f"enode://{'cd' * 32}@21.0.0.1:{node.tcp_port}?discport={node.udp_port}",
        ),
    )
    runtime = world.host("21.1.0.1")
    asker = Node(runtime, settings, Identity(SUITE, bytes(32)))
    world.call(runtime, asker.start)
    world.run_for(20.0)
    assert [entry.state for entry in asker.bootstrap().bootstrap] == ["silent", "not_resolved", "silent"]
    assert all(entry.last_error for entry in asker.bootstrap().bootstrap)


SCENARIO = """
import sys
sys.path.insert(0, {here!r})
from test_node import *
with World({seed}, PathModel(latency_s=0.02, spread_s=0.01, loss=0.05, duplication=0.02, reordering=0.05)) as world:
    nodes = network(world, 8)
    world.run_for(20.0)
    world.call(nodes[1].runtime, nodes[1].broadcast, "transaction", b"tx", "gossip")
    world.call(nodes[2].runtime, nodes[2].dht_put, b"k", b"v", 3600.0)
    world.crash("21.3.0.1")
    world.partition(["21.1.0.1", "21.2.0.1"])
    world.run_for(40.0)
    world.heal()
    world.run_for(60.0)
    print(world.trace_hash())
"""


def trace_hash(seed: int, hash_seed: str) -> str:
    here = __file__.rpartition("/")[0]
    command = [sys.executable, "-c", SCENARIO.format(here=here, seed=seed)]
    done = subprocess.run(command, env={"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_one_seed_gives_one_trace_twice_and_under_two_hash_seeds():
    first = trace_hash(7, "0")
    assert len(first) >= 32
    assert trace_hash(7, "0") == first
    assert trace_hash(7, "4242") == first
    assert trace_hash(8, "0") != first


def test_the_moment_of_a_connection_stays_the_same(world):
    nodes = network(world, 2)
    assert world.run(lambda: connected(nodes, 1), 30.0)
    began = nodes[0].peers().peers[0].since
    for drift_s in (0.0007, -0.0007, 5.0):
        nodes[0].runtime.clock_offset_s = drift_s
        assert nodes[0].peers().peers[0].since == began
