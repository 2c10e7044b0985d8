"""Pings on virtual time, where what falls together falls together every time."""

import pytest

from kodectl.core.identity import Identity
from kodectl.errors import DeadlineReached
from kodectl.node.errand import Terms
from kodectl.node.node import Node
from kodectl.node.pinging import ping_target
from kodectl.settings import NodeSettings
from kodectl.sim.network import PathModel
from kodectl.sim.world import World
from kodectl.wire.enode import parse_enode
from kodectl.wire.suite import RealSuite


@pytest.mark.parametrize("answers", [0, 3])
def test_a_deadline_in_the_middle_of_a_ping_keeps_what_was_heard_before(answers):
    with World(5, PathModel(latency_s=0.02, spread_s=0.0)) as world:
        there, here = world.host("21.0.0.1"), world.host("21.0.0.2")
        node = Node(there, NodeSettings(lan=False, nat="extip:21.0.0.1"), Identity(RealSuite(), b"there".ljust(32)))
        world.call(there, node.start)
        target = parse_enode(node.enode)
        pongs = []

        def report(pong):
            pongs.append(pong)
            if len(pongs) == answers:
                world.partition(["21.0.0.1"])

        if not answers:
            world.partition(["21.0.0.1"])
        terms = Terms(bootstrap=(), network="kodechain", timeout_s=9.0, deadline_s=2.0)

        def ping():
            return ping_target(here, terms, target, mode="udp", count=9, interval_s=0.1, report=report)

        if not answers:
            with pytest.raises(DeadlineReached):
                world.call(here, ping)
        else:
            assert world.call(here, ping).received == answers
