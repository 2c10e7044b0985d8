"""Whatever a wait can raise, wherever a node waits: the fault stays where it is, and the node goes on."""

from __future__ import annotations

import base64
import hashlib
import random
from typing import Any

import pytest
from saboteur import Saboteur, sabotaged
from town import INNER, KINDS, Town, town_of

from kodectl.errors import KodectlError
from kodectl.node.node import Node

SETTLE_S = 30.0
WORK_S = 90.0
AFTERWARDS_S = 180.0
"""In which a node is to be well again: back-offs end, and what has gone unheard is asked for."""
KINDS_OF_VICTIM = ("open", "port_restricted", "symmetric", "blocked")
FOUND_S = 60.0
STRIKES = (1, 4, 11)
"""Which visits to a place fail: the first, with nothing to fall back on, and later ones, in the middle of things."""


class Worker:
    """Makes its node do all that a node does, over and over; what fails meanwhile is not looked at."""

    def __init__(self, node: Node, other: Node) -> None:
        self._node = node
        self._other = other.identity.node_id.hex()
        self._over = False

    def stop(self) -> None:
        self._over = True

    def work(self) -> None:
        turn = 0
        while not self._over:
            for step in self._steps(turn):
                try:
                    step()
                except KodectlError:
                    pass
                self._node.runtime.event().wait(0.5)
            turn += 1

    def _steps(self, turn: int) -> list[Any]:
        node, key = self._node, hashlib.sha256(b"%d" % turn).digest()
        return [
            lambda: node.connect(self._other, 10.0),
            lambda: node.broadcast("transaction", key + node.identity.node_id, "gossip"),
            lambda: node.dht_put(key, b"value", 600.0),
            lambda: node.dht_get(key),
            node.rediscover,
            lambda: node.disconnect(self._other),
        ]


class Trial:
    """A town, and in it a node, the victim, whose waits fail as the saboteur chooses while it joins and works."""

    def __init__(self, town: Town, kind: str) -> None:
        self.town = town
        world = town.world
        behind = None if kind == "open" else town.box(1, **KINDS[kind])
        self.runtime = world.host("24.0.0.1" if behind is None else INNER, behind=behind)
        self.has_udp = kind != "blocked"

    def run(self, saboteur: Saboteur) -> None:
        with sabotaged(self.runtime, saboteur):
            victim = self.town.node(self.runtime, bootstrap=tuple(node.enode for node in self.town.open))
            saboteur.armed = True
            other = self.town.behind(self.town.box(2, **KINDS["port_restricted"]))
            self.town.world.run_for(SETTLE_S)
            self._work(victim, other)
            saboteur.armed = False
            self._look(victim, other)

    def _work(self, victim: Node, other: Node) -> None:
        workers = Worker(victim, other), Worker(other, victim)
        self.town.world.spawn(victim.runtime, "work", workers[0].work)
        self.town.world.spawn(other.runtime, "work", workers[1].work)
        self.town.world.run_for(WORK_S)
        for worker in workers:
            worker.stop()

    def _look(self, victim: Node, other: Node) -> None:
        """It has its peers, is heard and hears, is connected by its id, stores and finds, and ends in an orderly way."""
        world = self.town.world
        assert world.run(lambda: self.town.settled(victim, other), AFTERWARDS_S)
        for sender, receiver in ((victim, other), (other, victim)):
            heard: list[bytes] = []
            receiver.broadcasting.subscribe(lambda envelope, heard=heard: heard.append(envelope.payload))
            payload = b"afterwards, by " + sender.identity.node_id
            world.call(sender.runtime, sender.broadcast, "transaction", payload, "gossip")
            assert world.run(lambda heard=heard, payload=payload: payload in heard, 30.0)
        assert self._is_found(victim, other)
        if self.has_udp:
            world.call(victim.runtime, victim.dht_put, b"afterwards", b"stored", 600.0)
            found = world.call(other.runtime, other.dht_get, b"afterwards")
            assert [record.value for record in found.records] == [base64.b64encode(b"stored").decode()]
        world.call(victim.runtime, victim.stop)
        assert world.run(lambda: not self.runtime.host.tasks.running, 10.0), self.runtime.host.tasks.report()

    def _is_found(self, victim: Node, other: Node) -> bool:
        """By its id, soon after it is well again: where it is met is to be known first."""
        until = self.town.world.now + FOUND_S
        while self.town.world.now < until:
            view = self.town.world.call(other.runtime, other.connect, victim.identity.node_id.hex(), 20.0)
            if view.outcome in ("connected", "already_connected"):
                return True
            self.town.world.run_for(5.0)
        return False


@pytest.mark.parametrize("kind", KINDS_OF_VICTIM)
def test_a_node_outlives_a_failure_of_each_of_its_waits(kind: str) -> None:
    saboteur = Saboteur(lambda place, count: count in STRIKES)
    with town_of(4) as town:
        Trial(town, kind).run(saboteur)
    kinds = {what.split(",")[0] for what, _ in saboteur.struck}
    assert kinds >= {"connect", "resolve", "in_thread", "read", "write", "get"}
    assert len(saboteur.struck) >= 15, "few places were visited"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS_OF_VICTIM)
def test_a_node_outlives_a_place_that_fails_all_the_time(kind: str) -> None:
    """Each of them, one after the other."""
    everywhere = Saboteur(lambda place, count: False)
    with town_of(4) as town:
        Trial(town, kind).run(everywhere)
    failed = {}
    for chosen in sorted(everywhere.visits):
        with town_of(4) as town:
            try:
                Trial(town, kind).run(Saboteur(lambda place, count, chosen=chosen: place == chosen))
            except Exception as error:
                failed[chosen] = error
    assert not failed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kind", KINDS_OF_VICTIM)
def test_a_node_outlives_waits_of_which_every_tenth_fails(kind: str, seed: int) -> None:
    rng = random.Random(seed)
    with town_of(4, seed) as town:
        Trial(town, kind).run(Saboteur(lambda place, count: rng.random() < 0.1))
