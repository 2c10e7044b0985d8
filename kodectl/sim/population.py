"""The nodes of a scenario: whole ones, each on a host of its own, behind a box or not, that come, go, and come again."""

from __future__ import annotations

import random

from kodectl.core.identity import Identity
from kodectl.node.node import Node
from kodectl.node.persistence import MemoryStore
from kodectl.settings import NodeSettings
from kodectl.sim.dht import public_ip
from kodectl.sim.runtime import SimRuntime
from kodectl.sim.scenario import BOXES, OPEN, Scenario
from kodectl.sim.suite import SimSuite
from kodectl.sim.world import World

FIRST = 3
"""Nodes that are open, stay, and are the bootstrap nodes of all others."""
INNER_IP = "192.168.1.2"
NETWORK = "simulated"


class Member:
    """One node through all its lives. `node` is the one of now, or None while it is away."""

    def __init__(
        self, number: int, kind: str, runtime: SimRuntime, identity: Identity, store: MemoryStore | None = None
    ) -> None:
        self.number = number
        self.kind = kind
        self.runtime = runtime
        self.identity = identity
        self.node: Node | None = None
        self.lives = 0
        self._store = store if store is not None else MemoryStore()

    @property
    def id(self) -> bytes:
        return self.identity.node_id

    @property
    def is_first(self) -> bool:
        return self.number < FIRST

    @property
    def is_linked(self) -> bool:
        return self.node is not None and bool(self.node.peering.links)

    def begin(self, runtime: SimRuntime, bootstrap: tuple[str, ...]) -> Node:
        """A life with the memory of the former ones; the node is not started."""
        self.runtime = runtime
        self.lives += 1
        settings = NodeSettings(lan=False, bootstrap=bootstrap, network=NETWORK)
        self.node = Node(runtime, settings, self.identity, self._store)
        return self.node


class Population:
    """Nothing waits: nodes start and stop in tasks of their hosts."""

    def __init__(self, world: World, scenario: Scenario, rng: random.Random) -> None:
        self.members: list[Member] = []
        self._world = world
        self._scenario = scenario
        self._rng = rng
        self._suite = SimSuite()

    @property
    def present(self) -> list[Member]:
        return [member for member in self.members if member.node is not None]

    @property
    def linked(self) -> list[Member]:
        return [member for member in self.members if member.is_linked]

    def add(self, store: MemoryStore | None = None) -> Member:
        number = len(self.members)
        kind = OPEN if number < FIRST else self._drawn_kind()
        outer_ip = public_ip(number)
        if kind == OPEN:
            runtime = self._world.host(outer_ip)
        else:
            box = self._world.nat(f"box{number}", outer_ip, **BOXES[kind])
            runtime = self._world.host(INNER_IP, behind=box)
        member = Member(number, kind, runtime, Identity(self._suite, self._rng.randbytes(32)), store)
        self.members.append(member)
        self._begin(member, runtime)
        return member

    def come_again(self, member: Member) -> None:
        """With the identity and the memory that it had."""
        self._begin(member, self._world.restart(member.runtime.name))

    def crash(self, member: Member) -> None:
        """Its host loses power."""
        member.node = None
        self._world.crash(member.runtime.name)

    def stop(self, member: Member) -> None:
        """It says goodbye, which takes a moment."""
        node, member.node = member.node, None
        if node is not None:
            self._world.spawn(member.runtime, "stop", node.stop)

    def _begin(self, member: Member, runtime: SimRuntime) -> None:
        bootstrap = tuple(first.node.enode for first in self.members[:FIRST] if first.node and first is not member)
        self._world.spawn(runtime, "start", member.begin(runtime, bootstrap).start)

    def _drawn_kind(self) -> str:
        mix = self._scenario.mix
        return self._rng.choices(list(mix), list(mix.values()))[0]
