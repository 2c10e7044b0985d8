"""Nodes that only a punch beside ICE connects directly: foretold ports, a spray, TCP simultaneous open; on virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from town import SYMMETRIC, Town, town_of

from kodectl.core.port_prediction import all_predicted
from kodectl.node import port_step
from kodectl.node.new_port import NewPort
from kodectl.node.node import Node
from kodectl.runtime.base import Stopped
from kodectl.sim.translation import PortRule

SEQUENTIAL = {"mapping": SYMMETRIC, "ports": PortRule.SEQUENTIAL}
DRAWING = {"mapping": SYMMETRIC, "ports": PortRule.RANDOM}
FILTERING = {"ports": PortRule.RANDOM}
KEEPING: dict[str, Any] = {}
"""Ports as they are inside, as most routers do it: for TCP too."""
BLOCKED = {"udp_blocked": True}
SETTLE_LIMIT_S = 90.0
MEASURE_S = 15.0
"""For the step of ports, and the outer TCP port: looked for every few seconds."""
CONNECT_LIMIT_S = 20.0
PREDICTED_S = PUNCHED_S = 5.0
SPRAYED_S = 25.0
SECOND_PUNCH_S = 5.0
"""The first one lasts 2.5 s; then ports are opened, and told."""


@pytest.fixture
def town() -> Iterator[Town]:
    with town_of() as built:
        yield built


def connected(town: Town, here: dict[str, Any], there: dict[str, Any]) -> tuple[Node, Node]:
    return brought_together(town, [town.behind(town.box(number, **rules)) for number, rules in ((1, here), (2, there))])


def brought_together(town: Town, nodes: list[Node]) -> tuple[Node, Node]:
    assert town.world.run(lambda: town.settled(*nodes), SETTLE_LIMIT_S)
    assert town.world.run(lambda: all(node.connectivity.rendezvous.is_told for node in nodes), SETTLE_LIMIT_S)
    town.world.run_for(MEASURE_S)
    one, other = nodes
    view = town.world.call(one.runtime, one.connect, other.identity.node_id.hex(), CONNECT_LIMIT_S)
    assert view.outcome == "connected", view
    return one, other


def route(one: Node, other: Node) -> Any:
    return one.peering.links[other.identity.node_id].route


PAIRS = {
    "sequential-filtering": (SEQUENTIAL, FILTERING, PREDICTED_S),
    "filtering-sequential": (FILTERING, SEQUENTIAL, PREDICTED_S),
    "drawing-filtering": (DRAWING, FILTERING, SPRAYED_S),
    "filtering-drawing": (FILTERING, DRAWING, SPRAYED_S),
    "blocked-keeping": (BLOCKED, KEEPING, PUNCHED_S),
    "keeping-blocked": (KEEPING, BLOCKED, PUNCHED_S),
    "blocked-blocked": (BLOCKED, BLOCKED, PUNCHED_S),
}


@pytest.mark.parametrize(("here", "there", "limit_s"), PAIRS.values(), ids=PAIRS)
def test_is_direct_in_the_end(town: Town, here: dict[str, Any], there: dict[str, Any], limit_s: float) -> None:
    one, other = connected(town, here, there)
    assert town.world.run(lambda: route(one, other).path == "direct", limit_s), route(one, other)
    transport = "tcp" if BLOCKED in (here, there) else "udp"
    remote = route(one, other).remote
    assert remote is not None
    assert remote.transport == transport


@pytest.mark.parametrize(("dark_s", "limit_s"), [(8.0, 10.0), (60.0, 100.0)])
def test_a_punch_that_came_to_nothing_is_made_again(town: Town, dark_s: float, limit_s: float) -> None:
    """After boxes have forgotten what it left there."""
    town.world.cut("box1", "box2")
    one, other = connected(town, BLOCKED, KEEPING)
    town.world.run_for(dark_s)
    assert route(one, other).path == "relay"
    town.world.mend("box1", "box2")
    assert town.world.run(lambda: route(one, other).path == "direct", limit_s), route(one, other)


def test_the_next_punch_is_from_ports_that_no_box_has_seen(town: Town) -> None:
    """Between the listening ports a box has a connection that it lets no other one into."""
    boxes = [town.box(number, **rules) for number, rules in ((1, BLOCKED), (2, KEEPING))]
    nodes = [town.behind(box) for box in boxes]
    listening = nodes[0].tcp_port
    boxes[1].clog(listening, (boxes[0].outer_ip, listening))
    one, other = brought_together(town, nodes)
    assert town.world.run(lambda: route(one, other).path == "direct", SECOND_PUNCH_S), route(one, other)
    for side in (one, other):
        pair = route(side, other if side is one else one)
        assert pair.remote is not None
        assert pair.remote.address[1] != listening
    town.world.run_for(1.0)
    assert [len(node.runtime.host.listeners) for node in nodes] == [1, 1], "the ports of the punch are closed"


def test_ports_that_were_foretold_wrongly_are_foretold_again(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where other hosts of the same box have opened more at that moment than anybody saw."""
    foretold: list[list[int]] = []

    def wrong_at_first(*about: Any) -> list[int]:
        ports = all_predicted(*about)
        foretold.append([port + 500 for port in ports] if not foretold else ports)
        return foretold[-1]

    monkeypatch.setattr(port_step, "all_predicted", wrong_at_first)
    one, other = connected(town, SEQUENTIAL, FILTERING)
    assert town.world.run(lambda: route(one, other).path == "direct", PREDICTED_S), route(one, other)
    town.world.run_for(20.0)
    assert len(foretold) == 2


@pytest.mark.parametrize("liar", [0, 1], ids=["who asks", "who is asked"])
def test_a_new_port_at_another_address_is_none(town: Town, liar: int) -> None:
    boxes = [town.box(number, **rules) for number, rules in ((1, BLOCKED), (2, KEEPING))]
    nodes = [town.behind(box) for box in boxes]
    listening = nodes[0].tcp_port
    boxes[1].clog(listening, (boxes[0].outer_ip, listening))
    victim, met = town.world.host("25.0.0.1"), []
    victim.listen(("25.0.0.1", 2_500), met.append)
    nodes[liar].connectivity.traversal.situation.outer_tcp_port = lambda port: ("25.0.0.1", 2_500)
    one, other = brought_together(town, nodes)
    town.world.run_for(2 * SECOND_PUNCH_S)
    assert route(one, other).path == "relay"
    assert not met


def test_a_new_port_that_nobody_tells_about_is_closed(town: Town) -> None:
    runtime = town.world.host("25.0.0.1")

    def stopped(port: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        NewPort(runtime, stopped)
    assert not runtime.host.listeners
