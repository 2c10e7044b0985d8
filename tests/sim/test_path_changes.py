"""A link between two nodes behind boxes, while its way changes under it: nothing is lost, doubled or overtaken.

Numbered messages go both ways all the time; whole nodes, on virtual time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from town import SYMMETRIC, Town, town_of

from kodectl.core.signal_routes import ROUTE_S
from kodectl.node.node import Node
from kodectl.sim.translation import PortRule
from kodectl.wire.messages import MessageKind

NUMBERED = MessageKind.TRANSACTION
"""Read by this test instead of the broadcast; what a link carries most of. Other kinds are rated."""
MESSAGES = 1000
SETTLE_LIMIT_S = 90.0
CONNECT_LIMIT_S = 20.0
CUT_S = 5.0
BACK_LIMIT_S = 10.0
"""After whatever has happened, for a path to be there again."""
LONG_S = 100_000.0
RELAY_LIMIT_S = 5.0
DIRECT_LIMIT_S = 15.0
"""For a direct path where there is a relayed one: it is looked for again every few seconds."""


class Talk:
    """One number after the other from each side to the other, from now to `end`."""

    def __init__(self, town: Town, one: Node, other: Node) -> None:
        self.town = town
        self.one = one
        self.other = other
        self.sent = {one: 0, other: 0}
        self.heard: dict[Node, list[int]] = {one: [], other: []}
        self._is_over = False
        for node, peer in ((one, other), (other, one)):
            node.peering.handlers[NUMBERED] = self._hearer(node)
            town.world.spawn(node.runtime, "talk", self._talk, node, peer)

    def _hearer(self, node: Node) -> Callable[[Any, bytes], None]:
        return lambda _peer, body: self.heard[node].append(int.from_bytes(body, "big"))

    def _talk(self, node: Node, peer: Node) -> None:
        scope = node.runtime.scope("talk")
        link = node.peering.links[peer.identity.node_id]
        while not self._is_over or self.sent[node] < MESSAGES:
            assert link.send(NUMBERED, self.sent[node].to_bytes(4, "big"))
            self.sent[node] += 1
            scope.sleep(0.03)

    def flows(self, limit_s: float) -> bool:
        """Whether what is said from now on arrives, both ways."""
        said = dict(self.sent)
        peers = {self.one: self.other, self.other: self.one}
        return self.town.world.run(lambda: all(len(self.heard[peers[node]]) > said[node] for node in said), limit_s)

    def end(self) -> None:
        """All has arrived, once and in order, on the links of the beginning."""
        self._is_over = True
        world = self.town.world
        assert world.run(lambda: min(self.sent.values()) >= MESSAGES, 60.0)
        world.run_for(BACK_LIMIT_S)
        for node, peer in ((self.one, self.other), (self.other, self.one)):
            assert self.heard[peer] == list(range(self.sent[node]))


class Pair:
    """Two nodes behind a box each, linked."""

    def __init__(self, town: Town, here: dict[str, Any], there: dict[str, Any], *, is_direct: bool = True) -> None:
        self.town = town
        self.world = town.world
        self.boxes = town.box(1, **here), town.box(2, **there)
        self.one, self.other = (town.behind(box) for box in self.boxes)
        assert self.world.run(lambda: town.settled(self.one, self.other), SETTLE_LIMIT_S)
        told = [node.connectivity.rendezvous for node in (self.one, self.other)]
        assert self.world.run(lambda: all(one.is_told for one in told), SETTLE_LIMIT_S)
        if not is_direct:
            self.cut_direct()
        asked = self.other.identity.node_id.hex()
        view = self.world.call(self.one.runtime, self.one.connect, asked, CONNECT_LIMIT_S)
        assert view.outcome == "connected", view
        self.link = self.one.peering.links[self.other.identity.node_id]

    def cut_direct(self) -> None:
        self.world.cut("box1", "box2")

    def mend_direct(self) -> None:
        self.world.mend("box1", "box2")

    def cut_all(self, seconds: float) -> None:
        """The first node's box is off the net for a while."""
        self.world.partition(["box1"])
        self.world.run_for(seconds)
        self.world.partition()

    def comes_to(self, path: str, limit_s: float) -> bool:
        return self.world.run(lambda: self.link.route.path == path, limit_s)

    def is_the_first_link(self) -> bool:
        return self.one.peering.links.get(self.other.identity.node_id) is self.link


RANDOM_PORTS = {"ports": PortRule.RANDOM}
SYMMETRIC_BOX = {"mapping": SYMMETRIC, "ports": PortRule.RANDOM}


@pytest.fixture
def town() -> Iterator[Town]:
    with town_of(4) as built:
        yield built


def really_direct(pair: Pair, talk: Talk) -> bool:
    """Not only said to be: while no relay can be reached, all goes on."""
    town = pair.town
    for node in town.open:
        town.world.cut("box1", node.runtime.name)
    town.world.run_for(0.5)
    flows = talk.flows(1.0)
    for node in town.open:
        town.world.mend("box1", node.runtime.name)
    return flows


def test_nothing_is_lost_over_relay_direct_cut_relay_and_direct(town: Town) -> None:
    pair = Pair(town, {}, {}, is_direct=False)
    talk = Talk(town, pair.one, pair.other)
    assert pair.comes_to("relay", 0.0)
    town.world.run_for(5.0)
    pair.mend_direct()
    assert pair.comes_to("direct", DIRECT_LIMIT_S)
    assert really_direct(pair, talk)
    pair.cut_all(CUT_S)
    pair.cut_direct()
    assert pair.comes_to("relay", BACK_LIMIT_S)
    assert talk.flows(RELAY_LIMIT_S)
    town.world.run_for(5.0)
    pair.mend_direct()
    assert pair.comes_to("direct", DIRECT_LIMIT_S)
    assert really_direct(pair, talk)
    talk.end()
    assert pair.is_the_first_link()


@pytest.mark.parametrize("side", [0, 1])
def test_a_box_that_forgets_is_survived(town: Town, side: int) -> None:
    pair = Pair(town, {}, {})
    assert pair.comes_to("direct", DIRECT_LIMIT_S)
    talk = Talk(town, pair.one, pair.other)
    town.world.run_for(3.0)
    pair.boxes[side].forget()
    town.world.run_for(0.2)
    assert talk.flows(BACK_LIMIT_S)
    assert pair.comes_to("direct", DIRECT_LIMIT_S)
    talk.end()
    assert pair.is_the_first_link()


def test_a_relay_that_loses_power_is_replaced(town: Town) -> None:
    """Two symmetric boxes: there is nothing else to go on with."""
    pair = Pair(town, SYMMETRIC_BOX, SYMMETRIC_BOX)
    assert pair.comes_to("relay", 0.0)
    talk = Talk(town, pair.one, pair.other)
    town.world.run_for(3.0)
    route = pair.link.route
    assert route.local is not None
    town.world.crash(route.local.address[0])
    town.world.run_for(BACK_LIMIT_S)
    talk.end()
    assert pair.is_the_first_link()


def test_a_relay_that_loses_power_disturbs_no_direct_path(town: Town) -> None:
    pair = Pair(town, {}, {})
    assert pair.comes_to("direct", DIRECT_LIMIT_S)
    talk = Talk(town, pair.one, pair.other)
    for node in town.open[:2]:
        town.world.crash(node.runtime.name)
    talk.end()
    assert pair.link.route.path == "direct"
    assert pair.is_the_first_link()


@pytest.mark.parametrize("rules", [{}, SYMMETRIC_BOX], ids=["direct", "relayed"])
def test_mappings_of_thirty_seconds_are_kept_alive(town: Town, rules: dict[str, Any]) -> None:
    pair = Pair(town, {**rules, "udp_timeout_s": 30.0}, {**rules, "udp_timeout_s": 30.0})
    town.world.run_for(600.0)
    assert pair.is_the_first_link()
    talk = Talk(town, pair.one, pair.other)
    talk.end()


@pytest.mark.parametrize("side", [0, 1])
def test_another_outer_address_is_survived(town: Town, side: int) -> None:
    """Nothing that either side knows of the other is true any more: they write to each other through rendezvous nodes."""
    pair = Pair(town, {}, {})
    assert pair.comes_to("direct", DIRECT_LIMIT_S)
    talk = Talk(town, pair.one, pair.other)
    town.world.run_for(3.0)
    pair.boxes[side].change_address("29.9.9.9")
    assert talk.flows(15.0)
    talk.end()
    assert pair.is_the_first_link()


# -- through whom they write to each other -------------------------------------------------------------------------------


def test_who_was_asked_is_direct_again_after_its_box_forgot(town: Town) -> None:
    """Its letters can only go by what it looks up now: nobody who passes letters on is linked with both, and the ways by which
    the others' letters came are forgotten."""
    pair = Pair(town, RANDOM_PORTS, RANDOM_PORTS)
    town.world.run_for(ROUTE_S)
    for node, kept in ((pair.one, town.open[:2]), (pair.other, town.open[2:])):
        for stranger in set(town.open) - set(kept):
            town.world.call(node.runtime, node.ban, stranger.identity.node_id.hex(), LONG_S)
    town.world.run_for(ROUTE_S)
    assert not set(pair.one.peering.links) & set(pair.other.peering.links)
    assert pair.comes_to("direct", 0.0)
    talk = Talk(town, pair.one, pair.other)
    pair.boxes[1].forget()
    assert pair.comes_to("relay", BACK_LIMIT_S)
    assert pair.comes_to("direct", DIRECT_LIMIT_S)
    talk.end()
    assert pair.is_the_first_link()
