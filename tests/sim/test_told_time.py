"""Nodes tell each other what time it is, and each learns how far its own clock is off."""

from __future__ import annotations

import pytest
from town import town_of


def test_a_node_learns_how_far_its_clock_is_off():
    with town_of(5) as town:
        ahead = town.node(town.world.host("24.0.0.1", clock_offset_s=300.0))
        right = town.node(town.world.host("24.1.0.1"))
        assert town.world.run(lambda: min(node.status().clock_voices for node in (ahead, right)) >= 5, 30.0)
        assert ahead.status().clock_ahead_s == pytest.approx(300.0, abs=1.0)
        assert right.status().clock_ahead_s == pytest.approx(0.0, abs=1.0)


def test_a_clock_days_ahead_finds_no_bootstrap_node_and_knows_why():
    with town_of(3) as town:
        node = town.node(town.world.host("24.0.0.1", clock_offset_s=10 * 86_400.0))
        assert town.world.run(lambda: node.bootstrap().bootstrap[0].state == "clock_skew", 30.0)
