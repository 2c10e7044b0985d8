"""Samples of the last ten minutes, on virtual time."""

import hashlib
from itertools import pairwise
from random import Random

import pytest

from kodectl.core.identity import Identity
from kodectl.node.history import INTERVAL_S, MAX_SAMPLES, SPAN_S
from kodectl.node.node import Node
from kodectl.settings import NodeSettings
from kodectl.sim.network import PathModel
from kodectl.sim.suite import SimSuite
from kodectl.sim.world import World


@pytest.fixture
def world():
    with World(11, PathModel(latency_s=0.02, spread_s=0.0)) as one:
        yield one


def make(world: World, ip: str, *bootstrap: Node) -> Node:
    identity = Identity(SimSuite(), hashlib.sha256(ip.encode()).digest())
    settings = NodeSettings(lan=False, bootstrap=tuple(node.enode for node in bootstrap), nat=f"extip:{ip}")
    runtime = world.host(ip)
    node = Node(runtime, settings, identity)
    world.call(runtime, node.start)
    return node


def test_samples_follow_peers_counters_and_latency(world):
    first = make(world, "21.0.0.1")
    second = make(world, "21.0.1.1", first)
    assert world.run(lambda: len(first.peering.links) == len(second.peering.links) == 1, 30.0)
    world.call(first.runtime, lambda: first.broadcast("transaction", Random(1).randbytes(5000), "gossip"))
    world.run(lambda: False, 3 * INTERVAL_S)

    samples = first.recent().samples
    assert (samples[0].inbound, samples[0].outbound, samples[0].latency_ms) == (0, 0, None)
    last = samples[-1]
    assert last.inbound + last.outbound == 1
    assert last.inbound == sum(not peer.outbound for peer in first.peering.links.values())
    assert last.relayed == 0
    assert last.latency_ms == pytest.approx(40, abs=10)
    assert last.bytes_sent > 5000 > samples[0].bytes_sent
    assert last.messages_received > 0
    assert last.hub_delay_ms is None, "nobody measures it on virtual time"

    counters = [(one.bytes_sent, one.bytes_received, one.messages_sent, one.messages_received) for one in samples]
    for before, after in pairwise(counters):
        assert all(old <= new for old, new in zip(before, after, strict=True))

    world.call(second.runtime, second.stop)
    assert world.run(lambda: not first.peering.links, 10.0)
    world.run(lambda: False, INTERVAL_S)
    gone = first.recent().samples[-1]
    assert (gone.inbound, gone.outbound, gone.latency_ms) == (0, 0, None)
    assert gone.bytes_sent >= last.bytes_sent, "what an ended link has counted stays counted"


def test_it_keeps_ten_minutes_and_no_more(world):
    node = make(world, "21.0.0.1")
    world.run(lambda: False, SPAN_S + 100)
    found = node.recent()
    assert len(found.samples) == MAX_SAMPLES
    times = [sample.at_s for sample in found.samples]
    assert times == sorted(times)
    assert found.now_s - times[0] <= SPAN_S
    assert found.now_s - times[-1] <= INTERVAL_S


def test_a_reader_goes_on_from_what_it_has(world):
    node = make(world, "21.0.0.1")
    world.run(lambda: False, 5 * INTERVAL_S)
    before = node.recent()
    assert before.samples[0].at_s < 0.1
    assert before.run == node.events.run
    world.run(lambda: False, 2 * INTERVAL_S)
    after = node.recent(before.samples[-1].at_s)
    assert [sample.at_s for sample in after.samples] == [
        before.samples[-1].at_s + INTERVAL_S,
        before.samples[-1].at_s + 2 * INTERVAL_S,
    ]


def test_what_is_measured_elsewhere_is_in_the_samples(world):
    node = make(world, "21.0.0.1")
    node.history.hub_delay_s = lambda: 0.0042
    world.run(lambda: False, INTERVAL_S)
    assert node.recent().samples[-1].hub_delay_ms == 4.2
