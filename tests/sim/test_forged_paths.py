"""Forged and repeated datagrams on the way between two nodes, by somebody who sees everything and can forge any sender, but drops
nothing: the link is made all the same, and stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, cycle
from typing import Any, NamedTuple

import pytest
from third_party import Tally
from town import KINDS, Town, town_of

from kodectl.core.ice.book import MAX_REMOTES
from kodectl.node.multiplexer import MAX_STUN_FIRST_BYTE
from kodectl.node.node import Node
from kodectl.runtime.base import Address
from kodectl.sim.network import PathModel
from kodectl.wire.channel_data import pack_channel_data
from kodectl.wire.enode import Enode
from kodectl.wire.stun import Attribute, Message, MessageClass, Method, StunError, encode

SETTLE_LIMIT_S = 90.0
LINK_LIMIT_S = 15.0
FORGER = "77.0.0.1"
ELSEWHERE: Address = ("78.0.0.1", 7_878)


class Seen(NamedTuple):
    sender: Address
    target: Address
    data: bytes


class Scene:
    """Two behind boxes of one kind, and a host next to everybody that sees and forges."""

    def __init__(self, town: Town, kind: str) -> None:
        self.town, self.world = town, town.world
        self.boxes = [town.box(number, **KINDS[kind]) for number in (1, 2)]
        self.nodes = [town.behind(box) for box in self.boxes]
        assert self.world.run(lambda: town.settled(*self.nodes), SETTLE_LIMIT_S)
        assert self.world.run(self._are_told, SETTLE_LIMIT_S)
        self.world.run_for(5.0)
        self.forger = self.world.host(FORGER).host
        for name in [*(box.name for box in self.boxes), *(node.runtime.name for node in town.open)]:
            self.world.set_path(FORGER, name, PathModel(latency_s=0.001, spread_s=0.0, jitter_s=0.0))
        self.forged = 0
        self._watched = Tally(self.world)
        self._addresses = {station.number: station.ip for station in self.world._network.stations.values()}

    def _are_told(self) -> bool:
        return all(node.connectivity.rendezvous.is_told for node in self.nodes)

    def watch(self, hear: Callable[[Seen], None]) -> None:
        """Datagrams on the internet between the two, or one of them and a relay."""
        ends = {box.outer_ip for box in self.boxes}

        def on_datagram(source: int, port: int, target: int, target_port: int, data: bytes) -> None:
            sender, to = self._addresses.get(source), self._addresses.get(target)
            if sender is not None and to is not None and sender != FORGER and (sender in ends or to in ends):
                hear(Seen((sender, port), (to, target_port), data))

        self._watched.on_datagram = on_datagram

    def forge(self, sender: Address, target: Address, data: bytes) -> None:
        self.forged += 1
        self.world._network.send_datagram(self.forger, sender, data, target)

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.world.at(self.world.now + delay_s, callback)

    def links(self) -> bool:
        one, other = self.nodes
        one.peering.dial(Enode(other.identity.node_id, "", 0, 0))
        return self.world.run(lambda: self.is_linked, LINK_LIMIT_S)

    @property
    def is_linked(self) -> bool:
        return all(peer.identity.node_id in node.peering.links for node, peer in self._pairs)

    @property
    def _pairs(self) -> list[tuple[Node, Node]]:
        one, other = self.nodes
        return [(one, other), (other, one)]

    def stays_linked(self, seconds: float) -> bool:
        links = [node.peering.links[peer.identity.node_id] for node, peer in self._pairs]
        self.world.run_for(seconds)
        return links == [node.peering.links.get(peer.identity.node_id) for node, peer in self._pairs]

    @property
    def paths(self) -> list[str]:
        return [node.peering.links[peer.identity.node_id].route.path for node, peer in self._pairs]


def scene_of(kind: str, seed: int = 5) -> Iterator[Scene]:
    with town_of(6, seed=seed) as town:
        yield Scene(town, kind)


# -- repeated ----------------------------------------------------------------------------------------------------------


def is_stun(seen: Seen) -> bool:
    """And not QUIC, whose first packets have no secret: whoever is quicker than an answer to them keeps the connection from being
    made (RFC 9000, section 21.2)."""
    return bool(seen.data) and seen.data[0] <= MAX_STUN_FIRST_BYTE


def from_elsewhere(scene: Scene, seen: Seen) -> None:
    """It comes before the original does."""
    if is_stun(seen):
        scene.forge(ELSEWHERE, seen.target, seen.data)


def from_the_same(scene: Scene, seen: Seen) -> None:
    for delay_s in (0.0, 0.5):
        scene.later(delay_s, lambda: scene.forge(seen.sender, seen.target, seen.data))


def from_the_same_later(scene: Scene, seen: Seen) -> None:
    scene.later(20.0, lambda: scene.forge(seen.sender, seen.target, seen.data))


def sent_back(scene: Scene, seen: Seen) -> None:
    if is_stun(seen):
        scene.forge(seen.target, seen.sender, seen.data)


def from_the_next_port(scene: Scene, seen: Seen) -> None:
    if is_stun(seen):
        scene.forge((seen.sender[0], seen.sender[1] ^ 1), seen.target, seen.data)


REPEATS = [from_elsewhere, from_the_same, from_the_same_later, sent_back, from_the_next_port]


def repeated(scene: Scene, repeat: Callable[[Scene, Seen], None], seconds: float) -> None:
    scene.watch(lambda seen: repeat(scene, seen))
    assert scene.links()
    scene.world.run_for(10.0)
    assert scene.paths == ["direct", "direct"]
    assert scene.stays_linked(seconds)
    assert scene.paths == ["direct", "direct"]
    for node in scene.nodes:
        (passage,) = node.connectivity.traversal._passages
        assert len(passage.session.remote_candidates) <= MAX_REMOTES
    assert scene.forged > 0


@pytest.mark.parametrize("repeat", [from_elsewhere, sent_back])
def test_who_repeats_what_he_sees_changes_nothing(repeat: Any) -> None:
    for scene in scene_of("full_cone"):
        repeated(scene, repeat, 20.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full_cone", "port_restricted"])
@pytest.mark.parametrize("repeat", REPEATS)
def test_who_repeats_what_he_sees_changes_nothing_whatever_the_seed(repeat: Any, kind: str) -> None:
    forged = 0
    for seed in range(10):
        for scene in scene_of(kind, seed):
            repeated(scene, repeat, 60.0)
            forged += scene.forged
    print(repeat.__name__, kind, forged)


# -- forged ------------------------------------------------------------------------------------------------------------


def forgeries() -> Iterator[bytes]:
    """What a relay might send to its client, and a peer might answer, as far as it needs no key."""
    numbers = cycle(range(0x4000, 0x5000))
    refusals = cycle((400, 401, 403, 437, 438, 441, 486, 508))
    for serial in count():
        transaction = serial.to_bytes(12)
        peer = (Attribute.XOR_PEER_ADDRESS, ELSEWHERE)
        yield pack_channel_data(next(numbers), serial.to_bytes(40))
        yield encode(Message(MessageClass.INDICATION, Method.DATA, transaction, (peer, (Attribute.DATA, b"x" * 40))))
        error = (Attribute.ERROR_CODE, StunError(next(refusals), "No"))
        for method in (Method.ALLOCATE, Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND, Method.BINDING):
            yield encode(Message(MessageClass.ERROR, method, transaction, (error,)), fingerprint=True)
            mapped = (Attribute.XOR_MAPPED_ADDRESS, ELSEWHERE)
            yield encode(
                Message(MessageClass.SUCCESS, method, transaction, (mapped,)), key=b"guessed", fingerprint=True
            )
        yield b"\xc0" + serial.to_bytes(1_199)
        yield b"\x40" + serial.to_bytes(60)


def forged(scene: Scene, per_s: int, seconds: float) -> None:
    """To both, in the name of whomever they hear from."""
    heard: dict[tuple[Address, Address], None] = {}
    inside = {box.outer_ip for box in scene.boxes}

    def note(seen: Seen) -> None:
        if seen.target[0] in inside:
            heard[seen.sender, seen.target] = None

    scene.watch(note)
    assert scene.links()
    scene.world.run_for(5.0)
    before = scene.paths
    links = [node.peering.links[peer.identity.node_id] for node, peer in scene._pairs]
    packets = forgeries()
    for _ in range(int(seconds * per_s / 10)):
        for sender, target in list(heard)[-10:]:
            scene.forge(sender, target, next(packets))
        scene.world.run_for(10.0 / per_s)
    scene.world.run_for(5.0)
    assert links == [node.peering.links.get(peer.identity.node_id) for node, peer in scene._pairs]
    assert scene.paths == before


@pytest.mark.parametrize("kind", ["symmetric"])
def test_forgeries_in_the_name_of_relays_and_peers_change_nothing(kind: str) -> None:
    for scene in scene_of(kind):
        forged(scene, 200, 10.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full_cone", "port_restricted", "symmetric"])
def test_forgeries_at_a_high_rate_change_nothing(kind: str) -> None:
    total = 0
    for seed in range(3):
        for scene in scene_of(kind, seed):
            forged(scene, 1_000, 60.0)
            total += scene.forged
    print(kind, total)
