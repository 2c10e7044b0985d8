"""What goes wrong around a link between two nodes behind boxes, and around those that help: whole nodes, on virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from town import SYMMETRIC, Town, town_of

from kodectl.node.node import Node
from kodectl.sim.translation import PortRule
from kodectl.wire.contacts import Contact

SETTLE_LIMIT_S = 90.0
CONNECT_LIMIT_S = 20.0
LINKED_LIMIT_S = 5.0
BACK_LIMIT_S = 15.0
"""After whatever has happened, for a path to be there again."""
DIRECT_LIMIT_S = 15.0
DIRECT_AGAIN_LIMIT_S = 90.0
"""Pairs that have failed are tried again every 30 s, by each side in its own time."""
REPLACED_LIMIT_S = 60.0
"""For another rendezvous node to be chosen, and the record that names it to be published."""
PARTED_LIMIT_S = 5.0
"""Some round trips, and repetitions of what was lost."""
CRASHES = 3
SYMMETRIC_BOX = {"mapping": SYMMETRIC, "ports": PortRule.RANDOM}
BOXES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    (SYMMETRIC_BOX, SYMMETRIC_BOX),
    ({}, {"udp_blocked": True}),
]


@pytest.fixture
def town() -> Iterator[Town]:
    with town_of(8) as built:
        yield built


def hidden(town: Town, here: dict[str, Any], there: dict[str, Any]) -> tuple[Node, Node]:
    """A node behind a box each; both can be found."""
    one, other = town.behind(town.box(1, **here)), town.behind(town.box(2, **there))
    assert town.world.run(lambda: town.settled(one, other), SETTLE_LIMIT_S)
    assert town.world.run(lambda: all(is_findable(node) for node in (one, other)), SETTLE_LIMIT_S)
    return one, other


def is_findable(node: Node) -> bool:
    """Its record names only nodes that are there."""
    rendezvous = node.connectivity.rendezvous
    return rendezvous.is_told and len(rendezvous.nodes()) >= 3


def linked(one: Node, other: Node) -> bool:
    return other.identity.node_id in one.peering.links and one.identity.node_id in other.peering.links


def connect(town: Town, one: Node, other: Node) -> None:
    view = town.world.call(one.runtime, one.connect, other.identity.node_id.hex(), CONNECT_LIMIT_S)
    assert view.outcome == "connected", view
    assert town.world.run(lambda: linked(one, other), LINKED_LIMIT_S)


def told(node: Node, kind: str, about: Node) -> list[dict[str, Any]]:
    """Its events of that kind and peer, from the first."""
    events = [event.data for event in node.events.since(0).events if event.type == kind]
    return [data for data in events if data.get("id") == about.identity.node_id.hex()]


def path_now(town: Town, node: Node, peer: Node) -> str:
    return node.peering.links[peer.identity.node_id].route.path


# -- what is told --------------------------------------------------------------------------------------------------------


def test_both_sides_tell_each_change_of_the_path(town: Town) -> None:
    one, other = hidden(town, {}, {})
    world = town.world
    world.cut("box1", "box2")
    connect(town, one, other)
    world.run_for(5.0)
    world.mend("box1", "box2")
    for node, peer in ((one, other), (other, one)):
        assert world.run(lambda node=node, peer=peer: path_now(town, node, peer) == "direct", DIRECT_LIMIT_S)
    world.cut("box1", "box2")
    for node, peer in ((one, other), (other, one)):
        assert world.run(lambda node=node, peer=peer: path_now(town, node, peer) == "relay", BACK_LIMIT_S)
    for node, peer in ((one, other), (other, one)):
        changes = told(node, "path_changed", peer)
        paths = [change["path"] for change in changes]
        assert [path for at, path in enumerate(paths) if at == 0 or paths[at - 1] != path] == [
            "relay",
            "direct",
            "relay",
        ]
        assert {change["transport"] for change in changes} == {"quic"}
        assert all(
            "relay" in (change["local_type"], change["remote_type"]) for change in changes if change["path"] == "relay"
        )


@pytest.mark.parametrize("side", [0, 1])
def test_boxes_that_give_other_ports_after_they_forgot_are_passed_directly_again(town: Town, side: int) -> None:
    """The mappings that worked get nowhere; the peer has to hear of the new one."""
    rules = {"ports": PortRule.RANDOM}
    one, other = hidden(town, rules, rules)
    connect(town, one, other)
    world, route = town.world, one.peering.links[other.identity.node_id]
    assert world.run(lambda: route.route.path == "direct", DIRECT_LIMIT_S)
    (one, other)[side].runtime.host.realm.gateway.forget()
    assert world.run(lambda: route.route.path == "relay", BACK_LIMIT_S)
    assert world.run(lambda: route.route.path == "direct", DIRECT_AGAIN_LIMIT_S)
    assert one.peering.links[other.identity.node_id] is route


# -- both at once --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("here", "there"), BOXES, ids=["cones", "symmetric", "blocked"])
@pytest.mark.parametrize("apart_s", [0.0, 0.05, 0.2])
def test_two_that_connect_at_the_same_moment_have_one_link(
    town: Town, here: dict[str, Any], there: dict[str, Any], apart_s: float
) -> None:
    one, other = hidden(town, here, there)
    views: dict[Node, Any] = {}

    def ask(node: Node, peer: Node) -> None:
        views[node] = node.connect(peer.identity.node_id.hex(), CONNECT_LIMIT_S)

    town.world.spawn(one.runtime, "connect", ask, one, other)
    town.world.run_for(apart_s)
    town.world.spawn(other.runtime, "connect", ask, other, one)
    assert town.world.run(lambda: len(views) == 2, CONNECT_LIMIT_S + 1.0)
    assert {view.outcome for view in views.values()} == {"connected"}, views
    town.world.run_for(BACK_LIMIT_S)
    assert linked(one, other)
    ends = [node.peering.links[peer.identity.node_id].outbound for node, peer in ((one, other), (other, one))]
    assert sorted(ends) == [False, True]
    assert town.world.run(lambda: all(len(passages(node)) <= 1 for node in (one, other)), 40.0)
    town.world.run_for(30.0)
    assert linked(one, other)


def passages(node: Node) -> set[Any]:
    return node.connectivity.traversal._passages


@pytest.mark.parametrize(("here", "there"), BOXES)
def test_who_have_parted_keep_nothing_of_it(town: Town, here: dict[str, Any], there: dict[str, Any]) -> None:
    """The next connection needs the same ports, and relays may be few."""
    one, other = hidden(town, here, there)
    connect(town, one, other)
    town.world.run_for(DIRECT_LIMIT_S)
    assert passages(one)
    assert passages(other)
    assert town.world.call(one.runtime, one.disconnect, other.identity.node_id.hex())
    assert town.world.run(lambda: not passages(one) and not passages(other), PARTED_LIMIT_S)


def test_an_old_port_in_the_table_is_no_dead_end(town: Town) -> None:
    one, other = hidden(town, {}, {})
    stale = Contact(other.identity.node_id, "23.2.0.1", 30301, 30303)
    one.kademlia.table.heard(stale, town.world.now)
    assert one.kademlia.table.contact(stale.node_id) == stale
    connect(town, one, other)


# -- those that help -----------------------------------------------------------------------------------------------------


def test_whose_rendezvous_nodes_crash_one_after_the_other_stays_findable(town: Town) -> None:
    one, other = hidden(town, {}, {})
    world, rendezvous = town.world, other.connectivity.rendezvous
    crashed: set[bytes] = set()
    for _ in range(CRASHES):
        # The first open node is the one that everybody begins with; the rest may go.
        victim = next(peer for peer in rendezvous.nodes() if peer.remote[0] != town.open[0].runtime.name)
        crashed.add(victim.node_id)
        world.crash(victim.remote[0])
        assert world.run(lambda victim=victim: victim not in rendezvous.nodes(), REPLACED_LIMIT_S)
        assert world.run(lambda: is_findable(other), REPLACED_LIMIT_S)
    world.run_for(REPLACED_LIMIT_S)
    assert not crashed & {peer.node_id for peer in rendezvous.nodes()}
    connect(town, one, other)
    assert world.run(lambda: path_now(town, one, other) == "direct", DIRECT_LIMIT_S)


def test_a_rendezvous_node_that_has_just_crashed_keeps_nobody_out(town: Town) -> None:
    """Its record names the dead one still, and three others."""
    one, other = hidden(town, {}, {})
    town.world.crash(other.connectivity.rendezvous.nodes()[0].remote[0])
    connect(town, one, other)


def test_a_link_goes_on_when_both_relays_of_one_side_have_crashed(town: Town) -> None:
    one, other = hidden(town, SYMMETRIC_BOX, SYMMETRIC_BOX)
    connect(town, one, other)
    world = town.world
    world.run_for(5.0)
    for _ in range(2):
        route = one.peering.links[other.identity.node_id].route
        relay = next(
            end.address[0] for end in (route.local, route.remote) if end is not None and end.address[0][:3] == "21."
        )
        world.crash(relay)
        world.run_for(BACK_LIMIT_S)
    peer = one.peering.links[other.identity.node_id]
    heard = peer.link.messages_received
    assert world.run(lambda: peer.link.messages_received > heard + 1, 60.0)
    assert linked(one, other)
    assert len(told(one, "peer_disconnected", other)) == 0


# -- a link that cannot go on --------------------------------------------------------------------------------------------


def test_a_link_that_was_cut_for_too_long_is_made_again(town: Town) -> None:
    """Asked for by an operator, it is static: redialled by its id."""
    one, other = hidden(town, {}, {})
    connect(town, one, other)
    world = town.world
    world.partition(["box1"])
    assert world.run(lambda: not one.peering.links, 120.0)
    world.partition()
    assert world.run(lambda: linked(one, other), 180.0)
    assert world.run(lambda: path_now(town, one, other) == "direct", DIRECT_LIMIT_S)


# -- a link that nobody uses ---------------------------------------------------------------------------------------------


def test_mappings_of_thirty_seconds_are_kept_for_ten_minutes() -> None:
    """By two boxes that would give other ports, and say nothing of it."""
    forgetful = {"udp_timeout_s": 30.0, "ports": PortRule.RANDOM}
    with town_of(4) as town:
        one, other = hidden(town, forgetful, forgetful)
        connect(town, one, other)
        assert town.world.run(lambda: path_now(town, one, other) == "direct", DIRECT_LIMIT_S)
        ends = ((one, other), (other, one))
        routes = [node.peering.links[peer.identity.node_id].route for node, peer in ends]
        changes = [len(told(node, "path_changed", peer)) for node, peer in ends]
        town.world.run_for(600.0)
        assert [node.peering.links[peer.identity.node_id].route for node, peer in ends] == routes
        assert [len(told(node, "path_changed", peer)) for node, peer in ends] == changes
