"""Two nodes behind a box each, linked, and numbered messages between them all the time; on virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from town import SYMMETRIC, Town

from kodectl.node.node import Node
from kodectl.sim.translation import PortRule
from kodectl.wire.messages import MessageKind

NUMBERED = MessageKind.TRANSACTION
"""Read by these tests instead of the broadcast; what a link carries most of. Other kinds are rated."""
MESSAGES = 1000
SETTLE_LIMIT_S = 90.0
CONNECT_LIMIT_S = 20.0
BACK_LIMIT_S = 10.0
"""After whatever has happened, for a path to be there again."""

RANDOM_PORTS = {"ports": PortRule.RANDOM}
SYMMETRIC_BOX = {"mapping": SYMMETRIC, "ports": PortRule.RANDOM}


class Talk:
    """One number after the other from each side to the other, from now to `end`; so many at least."""

    def __init__(self, town: Town, one: Node, other: Node, messages: int = MESSAGES) -> None:
        self.town = town
        self.one = one
        self.other = other
        self.sent = {one: 0, other: 0}
        self.heard: dict[Node, list[int]] = {one: [], other: []}
        self._messages = messages
        self._is_over = False
        for node, peer in ((one, other), (other, one)):
            node.peering.handlers[NUMBERED] = self._hearer(node)
            town.world.spawn(node.runtime, "talk", self._talk, node, peer)

    def _hearer(self, node: Node) -> Callable[[Any, bytes], None]:
        return lambda _peer, body: self.heard[node].append(int.from_bytes(body, "big"))

    def _talk(self, node: Node, peer: Node) -> None:
        scope = node.runtime.scope("talk")
        link = node.peering.links[peer.identity.node_id]
        while not self._is_over or self.sent[node] < self._messages:
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
        assert world.run(lambda: min(self.sent.values()) >= self._messages, 60.0)
        world.run_for(BACK_LIMIT_S)
        for node, peer in ((self.one, self.other), (self.other, self.one)):
            assert self.heard[peer] == list(range(self.sent[node]))


class Pair:
    """Two nodes behind a box each, linked."""

    def __init__(
        self, town: Town, here: dict[str, Any], there: dict[str, Any], *, is_direct: bool = True, **settings: Any
    ) -> None:
        self.town = town
        self.world = town.world
        self.boxes = town.box(1, **here), town.box(2, **there)
        self.one, self.other = (town.behind(box, **settings) for box in self.boxes)
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
