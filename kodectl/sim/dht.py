"""A network of DHT nodes on virtual time: discovery, table and values, without links. For tests, figures and `sim`."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import NamedTuple

from kodectl.core.identity import Identity
from kodectl.core.sessions import Address
from kodectl.errors import NegativeAnswer
from kodectl.node.discovery import Discovery
from kodectl.node.kademlia import Found, Kademlia
from kodectl.node.values import Values
from kodectl.sim.network import PathModel
from kodectl.sim.runtime import SimRuntime
from kodectl.sim.suite import SimSuite
from kodectl.sim.world import World
from kodectl.wire.suite import Suite

UDP_PORT = 30301
JOIN_INTERVAL_S = 0.02
"""Between two nodes that come up: a thousand within twenty seconds of virtual time."""


class DhtNode(NamedTuple):
    runtime: SimRuntime
    identity: Identity
    discovery: Discovery
    kademlia: Kademlia
    values: Values
    address: Address


def public_ip(number: int) -> str:
    """An address of host `number`, each in a /24 of its own, none of a private or reserved range."""
    return f"{20 + number // 60_000}.{number // 250 % 240}.{number % 250}.{1 + number % 200}"


class DhtNetwork:
    """`size` nodes that join one after the other through any earlier one."""

    def __init__(self, size: int, seed: int, model: PathModel, suite: Suite | None = None) -> None:
        self.world = World(seed, model)
        self.rng = random.Random(f"{seed} dht")
        self.suite = suite or SimSuite()
        self.nodes: list[DhtNode] = []
        self._made = 0
        for _ in range(size):
            self._add()

    def build(self, settle_s: float = 15.0) -> None:
        """Lets everybody join, and the network come to rest."""
        for number, node in enumerate(self.nodes[1:], 1):
            entry = self.nodes[self.rng.randrange(number)]
            start = number * JOIN_INTERVAL_S
            self.world.spawn(node.runtime, "join", _join, node, entry, start)
        self.world.run_for(len(self.nodes) * JOIN_INTERVAL_S + settle_s)

    def _add(self) -> DhtNode:
        number = self._made
        self._made += 1
        runtime = self.world.host(public_ip(number))
        identity = Identity(self.suite, hashlib.sha256(b"dht node %d" % number + self.rng.randbytes(8)).digest())
        scope = runtime.scope("dht")
        discovery = Discovery(runtime, identity)
        kademlia = Kademlia(runtime, discovery, scope)
        values = Values(runtime, discovery, kademlia, scope)
        address = discovery.open(("0.0.0.0", UDP_PORT))
        kademlia.start()
        values.start()
        node = DhtNode(runtime, identity, discovery, kademlia, values, (runtime.host.ip, address[1]))
        self.nodes.append(node)
        return node

    def join_newcomer(self, entry: DhtNode) -> DhtNode:
        """One more node, which joins through `entry` now."""
        node = self._add()
        self.world.spawn(node.runtime, "join", _join, node, entry, 0.0)
        return node

    def crash(self, victims: list[DhtNode]) -> None:
        for node in victims:
            self.world.crash(node.runtime.host.ip)

    def lookups(self, count: int, among: list[DhtNode], at_once: int = 250) -> list[Found]:
        """`count` lookups for the exact id of a random node, each from another random one; not of oneself."""
        found: list[Found] = []
        pairs = [self.rng.sample(among, 2) for _ in range(count)]
        for start in range(0, count, at_once):
            batch = pairs[start : start + at_once]
            for asker, target in batch:
                self._spawn_lookup(asker, target.identity.node_id, found.append)
            self._run_until(found, start + len(batch))
        return found

    def _run_until(self, found: list[Found], count: int) -> None:
        self.world.run(lambda: len(found) >= count)

    def _spawn_lookup(self, asker: DhtNode, target: bytes, tell: Callable[[Found], None]) -> None:
        self.world.spawn(asker.runtime, "lookup", lambda: tell(asker.kademlia.find(target)))


def _join(node: DhtNode, entry: DhtNode, start_s: float) -> None:
    runtime = node.runtime
    runtime.event().wait(start_s)
    while not len(node.kademlia.table):
        try:
            node.discovery.ask(entry.identity.node_id, entry.address, node.kademlia.ping_body())
        except NegativeAnswer:
            continue  # all attempts were lost
    node.kademlia.join()
