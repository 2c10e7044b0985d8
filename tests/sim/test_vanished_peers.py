"""A peer that loses power, or whose way is cut: how soon those that were linked with it know."""

from __future__ import annotations

import pytest
from town import KINDS, Town, town_of

from kodectl.node.node import Node
from kodectl.wire.enode import Enode

OVER_UDP_S, OVER_TCP_S = 30.0, 90.0
SETTLE_LIMIT_S = 60.0
SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 12))]
WAYS = [("port_restricted", "port_restricted"), ("symmetric", "symmetric"), ("full_cone", "port_restricted")]


def linked_pair(town: Town, kinds: tuple[str, str], seed: int) -> tuple[Node, Node]:
    one, other = (town.behind(town.box(number, **KINDS[kind])) for number, kind in enumerate(kinds, 1))
    assert town.world.run(lambda: town.settled(one, other), SETTLE_LIMIT_S)
    assert town.world.run(lambda: all(node.connectivity.rendezvous.is_told for node in (one, other)), SETTLE_LIMIT_S)
    town.world.run_for(5.0)
    one.peering.dial(Enode(other.identity.node_id, "", 0, 0))
    assert town.world.run(lambda: other.identity.node_id in one.peering.links, SETTLE_LIMIT_S)
    # Any moment between two heartbeats.
    town.world.run_for(10.0 + 3.7 * seed)
    return one, other


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kinds", [WAYS[0], *(pytest.param(kinds, marks=pytest.mark.slow) for kinds in WAYS[1:])])
def test_a_peer_without_power_is_missed(kinds: tuple[str, str], seed: int) -> None:
    with town_of(6, seed) as town:
        one, other = linked_pair(town, kinds, seed)
        lost = other.identity.node_id
        assert one.peering.links[lost].route.transport == "quic"
        assert all(lost in node.peering.links for node in town.open)
        gone_at = town.world.now
        town.world.crash(other.runtime.name)
        assert town.world.run(lambda: lost not in one.peering.links, OVER_UDP_S)
        left_s = OVER_TCP_S - (town.world.now - gone_at)
        assert town.world.run(lambda: not any(lost in node.peering.links for node in town.open), left_s)
