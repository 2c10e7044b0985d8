"""A running node takes over other settings, on virtual time."""

import hashlib
from dataclasses import replace

import pytest

from kodectl.core.admission import Held, Slots, surplus
from kodectl.core.identity import Identity
from kodectl.core.trust import Rank
from kodectl.errors import WireError
from kodectl.node.node import RELOADABLE, Node
from kodectl.settings import NodeSettings
from kodectl.sim.network import PathModel
from kodectl.sim.suite import SimSuite
from kodectl.sim.world import World

SUITE = SimSuite()


@pytest.fixture
def world():
    with World(7, PathModel(latency_s=0.02, spread_s=0.01)) as one:
        yield one


def make(world: World, ip: str, *bootstrap: Node, **settings) -> Node:
    identity = Identity(SUITE, hashlib.sha256(ip.encode()).digest())
    told = NodeSettings(lan=False, bootstrap=tuple(node.enode for node in bootstrap), nat=f"extip:{ip}", **settings)
    runtime = world.host(ip)
    node = Node(runtime, told, identity)
    world.call(runtime, node.start)
    return node


def change(world: World, node: Node, **changes) -> None:
    world.call(node.runtime, lambda: node.reconfigure(replace(node.settings, **changes)))


def test_a_new_bootstrap_node_is_asked_at_once_and_a_kept_one_not_again(world):
    first, second, lonely = make(world, "21.0.0.1"), make(world, "21.0.1.1"), make(world, "21.0.2.1")
    change(world, lonely, bootstrap=(first.enode,))
    assert world.run(lambda: first.identity.node_id in lonely.peering.links, 5.0)
    change(world, lonely, bootstrap=(first.enode, second.enode))
    assert [entry.state for entry in lonely.bootstrap().bootstrap] == ["answered", "unknown"]
    assert world.run(lambda: second.identity.node_id in lonely.peering.links, 5.0)
    change(world, lonely, bootstrap=())
    assert lonely.bootstrap().bootstrap == []


def test_with_fewer_slots_the_least_worthy_go_and_no_more_come(world):
    nodes = [make(world, "21.0.0.1")]
    nodes += [make(world, f"21.{number}.0.1", nodes[0]) for number in range(1, 8)]
    hub = nodes[0]
    assert world.run(lambda: len(hub.peering.links) == 7, 30.0)
    validator = min(hub.peering.links)
    change(world, hub, max_peers=4, validators=(validator.hex(),))
    assert world.run(lambda: len(hub.peering.links) <= 4, 5.0)
    world.run(lambda: False, 60.0)
    assert len(hub.peering.links) <= 4
    assert validator in hub.peering.links
    assert hub.status().max_peers == 4
    change(world, hub, max_peers=50)
    assert world.run(lambda: len(hub.peering.links) == 7, 600.0)


def test_a_validator_ranks_high_from_then_on(world):
    first = make(world, "21.0.0.1")
    other = make(world, "21.0.1.1", first)
    assert world.run(lambda: len(first.peering.links) == 1, 10.0)
    assert first.peers().peers[0].priority != "high"
    change(world, first, validators=(other.identity.node_id.hex(),))
    assert first.peers().peers[0].priority == "high"
    change(world, first, validators=())
    assert first.peers().peers[0].priority != "high"


def test_a_bootstrap_node_of_unknown_id_keeps_its_rank(world):
    first = make(world, "21.0.0.1")
    identity = Identity(SUITE, bytes(range(32)))
    nobody = first.enode.replace(first.identity.node_id.hex(), "0" * 64)
    runtime = world.host("21.0.1.1")
    other = Node(runtime, NodeSettings(lan=False, bootstrap=(nobody,), nat="extip:21.0.1.1"), identity)
    world.call(runtime, other.start)
    assert world.run(lambda: len(other.peering.links) == 1, 10.0)
    assert other.peers().peers[0].priority == "high"
    change(world, other, max_peers=9)
    assert other.peers().peers[0].priority == "high"


def test_relaying_is_switched_off_and_on(world):
    nodes = [make(world, "21.0.0.1")]
    nodes += [make(world, f"21.{number}.0.1", nodes[0]) for number in range(1, 6)]
    hub = nodes[0]
    relay = hub.connectivity.relaying
    assert world.run(lambda: relay.view().state == "on", 120.0)
    change(world, hub, relay=None)
    assert relay.view().state == "off"
    change(world, hub, relay=(("allocations", 5),))
    assert (relay.view().state, relay.view().max_allocations) == ("on", 5)


def test_what_cannot_be_read_changes_nothing(world):
    node = make(world, "21.0.0.1")
    before = node.settings
    for broken in ({"bootstrap": ("enode://x",)}, {"turn": ("nonsense",)}):
        with pytest.raises(WireError):
            change(world, node, max_peers=3, relay=None, **broken)
        assert node.settings == before
        assert node.bootstrap().bootstrap == []
        assert node.connectivity.relaying.view().state != "off"


def test_what_is_bound_at_the_start_stays(world):
    node = make(world, "21.0.0.1")
    change(world, node, network="another", tcp_port=7, listen_host="::", max_peers=9)
    assert node.settings == replace(node.settings, network="kodechain", tcp_port=30303, max_peers=9)
    assert set(RELOADABLE) < set(NodeSettings.__dataclass_fields__)


def held(name: int, rank: Rank = Rank.LOW, *, outbound: bool = False, static: bool = False, score: float = 0.0) -> Held:
    return Held(bytes([name]), "192.0.2.1", outbound, static, rank, score)


def test_who_goes_first():
    peers = [
        held(1, Rank.HIGH),
        held(2, outbound=True),
        held(3, Rank.MEDIUM),
        held(4, static=True),
        held(5, score=0.5),
        held(6),
    ]
    assert surplus(peers, Slots(6, 6, 1)) == []
    assert surplus(peers, Slots(6, 2, 1)) == [b"\6", b"\5"]
    assert surplus(peers, Slots(3, 2, 1)) == [b"\6", b"\5", b"\2"]
    assert surplus(peers, Slots(1, 0, 1)) == [b"\6", b"\5", b"\3", b"\1", b"\2"]
    assert set(surplus(peers, Slots(0, 0, 1))) == {bytes([number]) for number in range(1, 7)}
