"""Knocking for others on virtual time: what a node does for somebody, and what it does to somebody else because of it."""

from __future__ import annotations

import hashlib

import pytest

from kodectl.core.identity import Identity
from kodectl.node.knocking import ASKER_BURST, KNOCK_BURST, REPEATS_S, TARGET_BURST
from kodectl.node.node import Node
from kodectl.settings import NodeSettings
from kodectl.sim.suite import SimSuite
from kodectl.sim.world import World
from kodectl.wire import packets
from kodectl.wire.contacts import pack_ip
from kodectl.wire.rpc import Probe, Probed, ProbeStatus

NONCE = bytes(range(16))
VICTIM = "24.0.0.1"


@pytest.fixture
def world():
    with World(3) as one:
        yield one


def start(world: World, ip: str, *known: Node) -> Node:
    runtime = world.host(ip)
    identity = Identity(SimSuite(), hashlib.sha256(ip.encode()).digest())
    # Vouched for, so that none of them asks for knocks on its own account.
    settings = NodeSettings(lan=False, nat=f"extip:{ip}", bootstrap=tuple(node.enode for node in known))
    node = Node(runtime, settings, identity)
    world.call(runtime, node.start)
    node.nat_traversal.reachability.stop()
    return node


class Wall:
    """A machine that counts what arrives at its port."""

    def __init__(self, world: World, ip: str, port: int = 30301) -> None:
        self.arrived: list[tuple[bytes, str]] = []
        self.runtime = world.host(ip)
        self.streams = 0
        self.socket = self.runtime.open_datagram(
            (ip, port), lambda data, sender: self.arrived.append((data, sender[0]))
        )
        self.listener = self.runtime.listen((ip, 30303), self._accept)

    def _accept(self, stream) -> None:
        self.streams += 1
        stream.close()


def ask(world: World, asker: Node, whom: Node, probe: Probe) -> Probed:
    address = (whom.runtime.ip, whom.udp_port)
    return world.call(asker.runtime, asker.discovery.ask, whom.identity.node_id, address, probe).body


def test_an_observer_sends_others_from_other_networks(world):
    first = start(world, "21.0.0.1")
    nodes = [first, *(start(world, f"21.{number}.0.1", first) for number in range(1, 6))]
    near = start(world, "24.0.0.9", first)
    assert world.run(lambda: len(first.kademlia.table) == 6, 30.0)
    wall = Wall(world, VICTIM)
    asker = start(world, "25.0.0.1", first)
    # As if it were the victim itself: an observer takes the address that the question comes from.
    answer = ask(world, asker, first, Probe(NONCE, 30301, 30303))
    assert answer == Probed(ProbeStatus.KNOCKING, 2)
    world.run_for(5.0)
    assert wall.arrived == []
    answer = ask(world, asker, first, Probe(NONCE, 30301, 30303, pack_ip(VICTIM)))
    assert answer == Probed(ProbeStatus.KNOCKING, 0)
    world.run_for(5.0)
    assert wall.arrived == [(packets.pack_knock(NONCE), first.runtime.ip)] * len(REPEATS_S)
    assert wall.streams == 1
    helpers = {contact.ip for _ in range(50) for contact in first.nat_traversal._helpers(VICTIM, 2)}
    assert near.runtime.ip not in helpers
    assert helpers <= {node.runtime.ip for node in [*nodes, asker]}


def test_nobody_can_be_drowned_in_knocks(world):
    """One attacker, however many nodes he asks on one victim's account: each node bounds what it does to a network."""
    target = start(world, "21.0.0.1")
    attackers = [start(world, f"22.{number}.0.1", target) for number in range(20)]
    wall = Wall(world, VICTIM)
    statuses = [
        ask(world, attacker, target, Probe(bytes([round_] * 16), 30301, 30303, pack_ip(VICTIM))).status
        for round_ in range(3)
        for attacker in attackers
    ]
    took_s = world.now
    world.run_for(5.0)
    allowed = TARGET_BURST + took_s
    assert statuses.count(ProbeStatus.KNOCKING) <= allowed
    assert statuses.count(ProbeStatus.BUSY) >= len(statuses) - allowed
    assert len(wall.arrived) <= allowed * len(REPEATS_S)
    assert wall.streams <= allowed


def test_one_asker_does_not_use_up_what_all_may_ask(world):
    target = start(world, "21.0.0.1")
    greedy, modest = start(world, "22.0.0.1", target), start(world, "23.0.0.1", target)
    asked = [
        ask(world, greedy, target, Probe(NONCE, 1, 0, pack_ip(f"30.{number}.0.1"))).status
        for number in range(int(KNOCK_BURST))
    ]
    assert asked[0] == ProbeStatus.KNOCKING
    assert asked.count(ProbeStatus.KNOCKING) <= ASKER_BURST + world.now
    assert ask(world, modest, target, Probe(NONCE, 1, 0, pack_ip("31.0.0.1"))).status == ProbeStatus.KNOCKING


@pytest.mark.parametrize("ip", ["192.168.0.1", "10.0.0.1", "127.0.0.1", "169.254.0.1", "224.0.0.1", "0.0.0.0"])
def test_nobody_from_far_away_has_a_node_knock_in_its_own_network(world, ip):
    target = start(world, "21.0.0.1")
    asker = start(world, "22.0.0.1", target)
    assert ask(world, asker, target, Probe(NONCE, 80, 80, pack_ip(ip))) == Probed(ProbeStatus.NOT_THERE, 0)
    assert not target.nat_traversal.knocking.counters["knocks"]


def test_a_knock_that_nobody_waits_for_changes_nothing(world):
    target = start(world, "21.0.0.1")
    before = target.nat()
    stranger = world.host("22.0.0.1")
    socket = stranger.open_datagram(("22.0.0.1", 0), lambda *_: None)
    for nonce in (NONCE, bytes(16)):
        socket.send(packets.pack_knock(nonce), ("21.0.0.1", target.udp_port))
    world.run_for(1.0)
    assert target.nat() == before
