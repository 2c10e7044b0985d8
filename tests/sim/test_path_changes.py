"""A link between two nodes behind boxes, while its way changes under it: nothing is lost, doubled or overtaken.

Numbered messages go both ways all the time; whole nodes, on virtual time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from linked_pair import BACK_LIMIT_S, RANDOM_PORTS, SYMMETRIC_BOX, Pair, Talk
from town import Town, town_of

from kodectl.core.signal_routes import ROUTE_S

CUT_S = 5.0
LONG_S = 100_000.0
RELAY_LIMIT_S = 5.0
DIRECT_LIMIT_S = 15.0
"""For a direct path where there is a relayed one: it is looked for again every few seconds."""


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
