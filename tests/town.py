"""A small simulated network: open nodes on the internet, and nodes behind boxes that translate."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from kodectl.core.identity import Identity
from kodectl.core.nat import Behavior
from kodectl.node.node import Node
from kodectl.settings import NodeSettings
from kodectl.sim.nat import Nat
from kodectl.sim.network import PathModel
from kodectl.sim.runtime import SimRuntime
from kodectl.sim.suite import SimSuite
from kodectl.sim.translation import PortRule
from kodectl.sim.world import World

SUITE = SimSuite()
INNER = "192.168.1.2"
SYMMETRIC = Behavior.ADDRESS_AND_PORT_DEPENDENT

KINDS: dict[str, dict[str, Any]] = {
    "full_cone": {"filtering": Behavior.ENDPOINT_INDEPENDENT},
    "restricted": {"filtering": Behavior.ADDRESS_DEPENDENT},
    "port_restricted": {"ports": PortRule.RANDOM},
    "symmetric": {"mapping": SYMMETRIC, "ports": PortRule.RANDOM},
    "blocked": {"udp_blocked": True},
}
"""Rules by the name that the node is to find."""


class Town(NamedTuple):
    world: World
    open: list[Node]
    """On the internet."""

    def node(self, runtime: SimRuntime, **settings: Any) -> Node:
        """Starts one that knows the first of the open nodes."""
        known = tuple(node.enode for node in self.open[:1])
        identity = Identity(SUITE, hashlib.sha256(runtime.name.encode()).digest())
        node = Node(runtime, NodeSettings(**{"lan": False, "bootstrap": known, **settings}), identity)
        self.world.call(runtime, node.start)
        return node

    def behind(self, nat: Nat, ip: str = INNER, **settings: Any) -> Node:
        return self.node(self.world.host(ip, behind=nat), **settings)

    def box(self, number: int, **rules: Any) -> Nat:
        return self.world.nat(f"box{number}", f"23.{number}.0.1", **rules)

    def settled(self, *nodes: Node) -> bool:
        """With every open node for a peer, and a verdict."""
        ids = {node.identity.node_id for node in self.open}
        return all(ids <= set(node.peering.links) and node.nat().state != "unknown" for node in nodes)

    def holding(self, node: Node) -> list[bool]:
        """Of each open node: whether it has `node` in its table."""
        return [node.identity.node_id in other.kademlia.table for other in self.open]


@contextmanager
def town_of(count: int = 6, seed: int = 5, **settings: Any) -> Iterator[Town]:
    """`count` open nodes that know each other."""
    with World(seed, PathModel(latency_s=0.02, spread_s=0.01, loss=0.01)) as world:
        built = Town(world, [])
        for number in range(count):
            built.open.append(built.node(world.host(f"21.{number}.0.1"), **settings))
        world.run_for(5.0)
        yield built
