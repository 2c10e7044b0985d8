"""Two nodes behind boxes of every kind find each other by id and connect, on virtual time.

Nobody but ordinary open nodes helps. What is expected of each pair is what its boxes allow.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
from town import KINDS, Town, town_of

from kodectl.node.lookups import enode_of
from kodectl.node.node import Node
from kodectl.node.signalling import Located
from kodectl.sim.network import PathModel
from kodectl.wire.contacts import Contact

USABLE_S = 2.0
DIRECT_S = 5.0
SPRAYED_S = 20.0
SETTLE_LIMIT_S = 60.0
EVERYBODY = ["open", *KINDS]
SPRAYED = {("symmetric", "port_restricted"), ("port_restricted", "symmetric")}
RELAYED = {("symmetric", "symmetric"), ("symmetric", "blocked"), ("blocked", "symmetric"), ("blocked", "blocked")}


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    """One network for all pairs: two nodes of every kind, each behind a box of its own."""
    with town_of() as built:
        yield built


@pytest.fixture(scope="module")
def pairs(town: Town) -> dict[str, tuple[Node, Node]]:
    nodes: dict[str, tuple[Node, Node]] = {}
    number = 1
    for name, rules in KINDS.items():
        nodes[name] = town.behind(town.box(number, **rules)), town.behind(town.box(number + 1, **rules))
        number += 2
    nodes["open"] = town.open[1], town.open[2]
    everybody = [node for both in nodes.values() for node in both]
    hidden = [node for name, both in nodes.items() if name != "open" for node in both]
    assert town.world.run(lambda: town.settled(*hidden), SETTLE_LIMIT_S)
    assert town.world.run(lambda: all(node.connectivity.rendezvous.is_told for node in hidden), SETTLE_LIMIT_S)
    assert len(everybody) == 2 * len(EVERYBODY)
    return nodes


def part(town: Town, one: Node, other: Node) -> None:
    town.world.call(one.runtime, one.disconnect, other.identity.node_id.hex())
    ids = one.identity.node_id, other.identity.node_id
    assert town.world.run(lambda: ids[1] not in one.peering.links and ids[0] not in other.peering.links, 10.0)
    town.world.run_for(1.0)


@pytest.mark.parametrize(("here", "there"), list(product(EVERYBODY, EVERYBODY)))
def test_everybody_connects_to_everybody(
    town: Town, pairs: dict[str, tuple[Node, Node]], here: str, there: str
) -> None:
    one, other = pairs[here][0], pairs[there][1]
    if other.identity.node_id in one.peering.links:
        part(town, one, other)
    began = town.world.now
    view = town.world.call(one.runtime, one.connect, other.identity.node_id.hex(), 20.0)
    assert view.outcome == "connected", view
    assert town.world.now - began <= USABLE_S
    peer = one.peering.links[other.identity.node_id]
    assert town.world.run(lambda: one.identity.node_id in other.peering.links, 1.0)
    if (here, there) not in RELAYED:
        limit_s = SPRAYED_S if (here, there) in SPRAYED else DIRECT_S
        assert town.world.run(lambda: peer.route.path == "direct", limit_s), peer.route
    assert town.world.run(lambda: peer.last_rtt_s is not None, 10.0)
    part(town, one, other)


def test_who_was_punched_at_too_often_stays_on_the_relay(town: Town, pairs: dict[str, tuple[Node, Node]]) -> None:
    """The address of a TCP punch is the peer's word, unless it has answered from there: nobody has it aimed at somebody else
    again and again. These two have not met before, so that no box lets anybody through."""
    one, other = pairs["blocked"][0], pairs["port_restricted"][0]
    traversal = other.connectivity.traversal
    target = one.connectivity.situation.tcp_seen()
    assert target is not None
    now = town.world.now
    while traversal.punch_budget.take(target[0], now):
        pass
    view = town.world.call(one.runtime, one.connect, other.identity.node_id.hex(), 20.0)
    assert view.outcome == "connected"
    assert not town.world.run(lambda: one.peering.links[other.identity.node_id].route.path == "direct", 10.0)
    part(town, one, other)


@pytest.mark.parametrize("is_named", [False, True], ids=["by id", "by enode"])
def test_a_port_that_nobody_gets_to_is_not_waited_for(
    town: Town, pairs: dict[str, tuple[Node, Node]], is_named: bool
) -> None:
    """The table has it from before the node knew its NAT; an operator's note may be as old."""
    one, other = pairs["restricted"][0], pairs["full_cone"][1]
    stale = Contact(other.identity.node_id, other.nat_traversal.address(), other.udp_port, 9)
    target = str(enode_of(stale)) if is_named else other.identity.node_id.hex()
    one.kademlia.table.heard(stale, town.world.now)
    began = town.world.now
    view = town.world.call(one.runtime, one.connect, target, 20.0)
    assert view.outcome == "connected", view
    assert town.world.now - began <= USABLE_S
    town.world.run_for(10.0)
    assert other.identity.node_id in one.peering.links
    part(town, one, other)


def test_a_port_that_the_table_still_has_is_not_the_end(town: Town, pairs: dict[str, tuple[Node, Node]]) -> None:
    """A node that has just found out that nobody gets to its TCP port is told over UDP, record or not."""
    one, other = pairs["restricted"][0], pairs["full_cone"][1]
    ip = other.nat_traversal.address()
    stale = Located(Contact(other.identity.node_id, ip, other.udp_port, 9), ())
    one.connectivity.signalling.locate = lambda node_id, limit_s: stale  # type: ignore[method-assign]
    view = town.world.call(one.runtime, one.connect, other.identity.node_id.hex(), 20.0)
    assert view.outcome == "connected", view
    part(town, one, other)


@pytest.mark.parametrize("seed", range(4))
def test_a_long_way_is_gone_once(seed: int) -> None:
    """The connection takes longer than the head start that a known port has: both ways get through, and one link stays."""
    with town_of(4, seed) as far:
        one, other = far.open[1], far.open[2]
        if other.identity.node_id in one.peering.links:
            part(far, one, other)
        far.world.set_path(one.runtime.name, other.runtime.name, PathModel(latency_s=0.4, spread_s=0.0))
        connected: list[object] = []
        one.peering.on_connected.append(connected.append)
        view = far.world.call(one.runtime, one.connect, other.enode, 20.0)
        assert view.outcome == "connected", view
        far.world.run_for(30.0)
        assert other.identity.node_id in one.peering.links
        assert one.identity.node_id in other.peering.links
        assert len(connected) == 1
