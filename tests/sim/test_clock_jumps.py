"""The wall clock of one node is set by hours, days or a year, for two minutes, and set back: what depends on it, and what must
not."""

from __future__ import annotations

import hashlib

import pytest
from town import Town, town_of

from kodectl.node.node import Node
from kodectl.wire.messages import BroadcastMode, MessageKind

HOUR, DAY = 3600.0, 86_400.0
KEY = hashlib.sha256(b"key").digest()
TTL_S = 2 * HOUR


def publish(town: Town, node: Node, payload: bytes) -> None:
    town.world.call(
        node.runtime, node.broadcasting.publish, MessageKind.TRANSACTION, payload.ljust(40), BroadcastMode.GOSSIP
    )


def arrivals(node: Node, since: int) -> int:
    return sum(event.type == "transaction" for event in node.events.since(since).events)


def everybody_hears(town: Town, *publishers: Node) -> bool:
    before = [node.events.last for node in town.open]
    for number, node in enumerate(publishers):
        publish(town, node, b"%f %d" % (town.world.now, number))
    town.world.run_for(10.0)
    return [arrivals(node, since) for node, since in zip(town.open, before, strict=True)] == [len(publishers)] * 6


@pytest.mark.parametrize(
    "jump_s",
    [
        pytest.param(7 * HOUR, marks=pytest.mark.slow),
        -5 * DAY,
        *(
            pytest.param(sign * seconds, marks=pytest.mark.slow)
            for sign in (1, -1)
            for seconds in (90.0, HOUR, DAY, 4 * DAY, 400 * DAY)
        ),
    ],
)
def test_a_clock_that_is_set_costs_no_peer_and_is_noticed(jump_s: float) -> None:
    with town_of(6) as town:
        world, (publisher, reader, node) = town.world, town.open[:3]
        world.run_for(25.0)
        world.call(publisher.runtime, publisher.values.put, KEY, b"value", TTL_S)
        links = {node_id: peer.link for node_id, peer in node.peering.links.items()}
        assert len(links) == 5

        node.runtime.clock_offset_s += jump_s
        world.run_for(60.0)
        belief = node.kademlia.clocks.belief(world.now, node.runtime.unix_time())
        assert belief.is_wrong
        assert belief.ahead_s == pytest.approx(jump_s, abs=1.0)
        # The others go on, and whoever comes finds it.
        publish(town, publisher, b"meanwhile")
        assert world.call(reader.runtime, reader.values.get, KEY)
        newcomer = town.node(world.host("21.77.0.1"))
        assert world.run(lambda: node.identity.node_id in newcomer.peering.links, 20.0)
        world.call(newcomer.runtime, newcomer.stop)
        world.run_for(40.0)

        node.runtime.clock_offset_s -= jump_s
        world.run_for(60.0)
        assert everybody_hears(town, publisher, node)
        assert world.call(node.runtime, node.values.get, KEY)
        assert {node_id: peer.link for node_id, peer in node.peering.links.items()} == links


@pytest.mark.slow
def test_a_clock_that_is_set_all_the_time_costs_no_peer() -> None:
    with town_of(6) as town:
        node = town.open[2]
        town.world.run_for(25.0)
        links = {node_id: peer.link for node_id, peer in node.peering.links.items()}
        for number in range(40):
            node.runtime.clock_offset_s = (-1) ** number * 10.0 ** (number % 9)
            town.world.run_for(5.0)
        node.runtime.clock_offset_s = 0.0
        town.world.run_for(60.0)
        assert {node_id: peer.link for node_id, peer in node.peering.links.items()} == links
        assert everybody_hears(town, town.open[0], node)
