"""What a node has acknowledged to its operator is on the disk by then: it outlives the process, however that ends."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence

import pytest

from kodectl.core.identity import Identity
from kodectl.errors import EnvironmentFault
from kodectl.node.node import Node
from kodectl.node.persistence import MemoryStore, StoredBan, StoredPeer
from kodectl.settings import NodeSettings
from kodectl.sim.network import PathModel
from kodectl.sim.runtime import SimRuntime
from kodectl.sim.suite import SimSuite
from kodectl.sim.world import World

SUITE = SimSuite()
HOUR_S = 3600.0
ONE, OTHER = "21.0.0.1", "21.1.0.1"
STRANGER_HEX = "ab" * 32


class FullDisk(MemoryStore):
    """Takes no writes while it is full."""

    full = False

    def _check(self) -> None:
        if self.full:
            raise EnvironmentFault("no space left on the disk", code="disk_full", hint="free some space")

    def save_bans(self, bans: Sequence[StoredBan]) -> None:
        self._check()
        super().save_bans(bans)

    def save_peers(self, changed: Sequence[StoredPeer], removed: Sequence[bytes] = ()) -> None:
        self._check()
        super().save_peers(changed, removed)

    def save_records(self, changed: Sequence[bytes], removed: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self._check()
        super().save_records(changed, removed)


@pytest.fixture
def world() -> Iterator[World]:
    with World(7, PathModel()) as one:
        yield one


@pytest.fixture
def disk() -> FullDisk:
    return FullDisk()


def start(world: World, ip: str, disk: MemoryStore | None = None, runtime: SimRuntime | None = None) -> Node:
    runtime = runtime or world.host(ip)
    settings = NodeSettings(lan=False, nat=f"extip:{ip}")
    node = Node(runtime, settings, Identity(SUITE, hashlib.sha256(ip.encode()).digest()), disk)
    world.call(runtime, node.start)
    return node


def killed_and_restarted(world: World, disk: FullDisk) -> Node:
    """At the instant at which the last order was answered."""
    return start(world, ONE, disk, world.restart(ONE))


def test_a_value_is_saved_before_its_put_is_answered(world: World, disk: FullDisk) -> None:
    node = start(world, ONE, disk)
    world.call(node.runtime, node.dht_put, b"motd", b"hello", HOUR_S)
    again = killed_and_restarted(world, disk)
    view = world.call(again.runtime, again.dht_get, b"motd")
    assert [base64.b64decode(record.value) for record in view.records] == [b"hello"]


def test_bans_are_saved_before_they_are_answered(world: World, disk: FullDisk) -> None:
    node = start(world, ONE, disk)
    world.call(node.runtime, node.ban, STRANGER_HEX, None)
    again = killed_and_restarted(world, disk)
    assert again.peering.is_banned(bytes.fromhex(STRANGER_HEX))
    world.call(again.runtime, again.unban, STRANGER_HEX)
    assert not killed_and_restarted(world, disk).peering.is_banned(bytes.fromhex(STRANGER_HEX))


def test_whom_to_redial_is_saved_before_a_connect_or_disconnect_is_answered(world: World, disk: FullDisk) -> None:
    node, other = start(world, ONE, disk), start(world, OTHER)
    assert world.call(node.runtime, node.connect, other.enode, 5.0).outcome == "connected"
    again = killed_and_restarted(world, disk)
    assert [peer.static for peer in disk.load_peers()] == [True]
    world.run(lambda: other.identity.node_id in again.peering.links, 30.0)
    world.call(again.runtime, again.disconnect, other.identity.node_id.hex())
    assert [peer.static for peer in disk.load_peers()] == [False]


def test_an_order_waits_for_the_save_that_is_under_way_with_it(world: World, disk: FullDisk) -> None:
    """The periodic save has taken it along; the order must not be answered before that is through."""
    node = start(world, ONE, disk)
    node.peering.ban(bytes.fromhex(STRANGER_HEX), None)
    world.spawn(node.runtime, "periodic", node.peering.save)
    world.call(node.runtime, node.peering.save)
    assert [ban.node_id.hex() for ban in disk.load_bans()] == [STRANGER_HEX]

    world.call(node.runtime, node.values.put, bytes(32), b"v", HOUR_S)
    world.spawn(node.runtime, "periodic", node._saving.save_records)
    world.call(node.runtime, node._saving.save_records)
    assert len(disk.load_records()) == 1


@pytest.mark.parametrize(("order", "said"), [("ban", "it is banned until"), ("unban", "it is banned no more until")])
def test_an_order_that_could_not_be_saved_holds_and_says_so(
    world: World, disk: FullDisk, order: str, said: str
) -> None:
    node = start(world, ONE, disk)
    banned = order == "ban"
    if not banned:
        world.call(node.runtime, node.ban, STRANGER_HEX, None)
    disk.full = True
    with pytest.raises(EnvironmentFault, match=f"^{said} this node ends, and not saved: no space left") as caught:
        world.call(node.runtime, getattr(node, order), STRANGER_HEX, *([None] if banned else []))
    assert (caught.value.code, caught.value.hint) == ("disk_full", "free some space")
    assert node.peering.is_banned(bytes.fromhex(STRANGER_HEX)) is banned
    assert not node.health("ready").ok
    disk.full = False
    world.run_for(40.0)
    assert node.health("ready").ok
    assert bool(disk.load_bans()) is banned


def test_a_value_that_others_took_counts_without_ours_when_the_disk_is_full(world: World, disk: FullDisk) -> None:
    node, other = start(world, ONE, disk), start(world, OTHER)
    world.call(node.runtime, node.connect, other.enode, 5.0)
    world.run_for(30.0)
    disk.full = True
    view = world.call(node.runtime, node.dht_put, b"a", b"v", HOUR_S)
    assert (view.stored, view.asked) == (1, 2)
