"""Crawls of a network of 200 nodes on virtual time, some of them dead, some of them liars."""

import hashlib
import random

import pytest

from kodectl.core.crawl import CrawlTerms
from kodectl.node.crawl_views import CrawledNode
from kodectl.node.crawling import Crawler
from kodectl.node.errand import Terms
from kodectl.sim.dht import DhtNetwork
from kodectl.sim.network import PathModel
from kodectl.wire.contacts import Contact, pack_contacts
from kodectl.wire.enode import Enode
from kodectl.wire.suite import RealSuite

SIZE = 200
DEAD = 30
LIARS = 10


class Notes:
    """A state file in memory. `fails_at`: the line that it does not take."""

    def __init__(self):
        self.lines = []
        self.synced = 0

    def append(self, line):
        self.lines.append(line)

    def sync(self):
        self.synced = len(self.lines)


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def network():
    network = DhtNetwork(SIZE, seed=11, model=PathModel(loss=0.02), suite=RealSuite())
    with network.world:
        network.build()
        network.rng.shuffle(network.nodes)
        network.crash(network.nodes[:DEAD])
        for node in network.nodes[DEAD : DEAD + LIARS]:
            lie(node, random.Random(node.identity.node_id))
        yield network


def lie(node, rng):
    """It names nodes that there are none of, so that they fit the question."""

    def closest_packed(target, limit=16):
        made_up = (
            Contact(target[:3] + rng.randbytes(29), f"{rng.randrange(40, 90)}.9.{rng.randrange(256)}.1", 5, 5)
            for _ in range(16)
        )
        return pack_contacts(made_up)

    node.kademlia.closest_packed = closest_packed


def enode_of(node):
    return Enode(node.identity.node_id, node.address[0], 30303, node.address[1])


def crawler(network, here, notes, report, bootstrap=None, deadline_s=900.0, **terms):
    entry = network.nodes[-1]
    told = Terms(
        bootstrap=(enode_of(entry),) if bootstrap is None else bootstrap,
        network="kodechain",
        timeout_s=5.0,
        deadline_s=deadline_s,
    )
    crawl_terms = CrawlTerms(**{"max_nodes": 10_000, "rate": 100.0, "handshake": False} | terms)
    return Crawler(here, told, crawl_terms, notebook=notes, report=report, progress=lambda so_far: None)


def crawl(network, number, **options):
    here = network.world.host(f"99.0.0.{number}")
    found, notes = [], Notes()
    this = crawler(network, here, notes, found.append, **options)
    ended = network.world.call(here, this.run)
    assert [line for line in notes.lines if isinstance(line, CrawledNode)] == found
    assert notes.synced == len(notes.lines)
    return this.summary(ended), found


def ids(nodes):
    return {node.identity.node_id.hex() for node in nodes}


def test_everybody_alive_is_found_among_the_dead_and_in_spite_of_liars(network):
    summary, found = crawl(network, 1)
    assert summary.ended == "complete"
    live = ids(network.nodes[DEAD:])
    assert {node.id for node in found if node.reachable} == live
    assert summary.reachable == len(live)
    assert sum(one.nodes for one in summary.by_network) == len(live)
    assert summary.by_reason == {"timeout": summary.unreachable}
    dead = ids(network.nodes[:DEAD])
    assert {node.id for node in found if not node.reachable} >= dead
    assert summary.questions < 100 * summary.elapsed_s + 20
    assert summary.unreachable < DEAD + LIARS * 33
    assert summary.unasked_by_reason["doubted_source"] > 1000


@pytest.mark.parametrize("moments", [[1], [5, 40, 200, 700]])
def test_a_crawl_that_was_broken_off_goes_on_where_it_was(network, moments):
    """Broken off after so many lines of the state file."""
    lines, found = [], []
    here = network.world.host(f"99.1.{len(moments)}.1")
    for moment in [*moments, None]:
        notes = Notes()
        this = crawler(network, here, notes, found.append, bootstrap=() if lines else None, deadline_s=2000.0)
        for line in lines:
            this.remember(line)

        def append(line, notes=notes, moment=moment):
            if len(notes.lines) == moment:
                raise Stop
            notes.lines.append(line)

        notes.append = append
        if moment is None:
            assert network.world.call(here, this.run) == "complete"
        else:
            with pytest.raises(Stop):
                network.world.call(here, this.run)
        lines += notes.lines
    assert len({node.id for node in found}) == len(found)
    assert {node.id for node in found if node.reachable} == ids(network.nodes[DEAD:])


def test_limits_end_it_with_what_it_has(network):
    summary, found = crawl(network, 2, max_nodes=20)
    assert (summary.ended, summary.reachable, len(found)) == ("max_nodes", 20, 20)
    assert summary.waiting
    summary, found = crawl(network, 3, deadline_s=3.0)
    assert summary.ended == "deadline"
    assert 0 < summary.reachable == len(found) < SIZE
    assert 2.9 < summary.elapsed_s < 3.2
    assert summary.unfinished, "with 200 ms to each there is always somebody who has just answered"


def test_without_an_answer_it_says_whose(network):
    nobody = Enode(hashlib.sha256(b"nobody").digest(), "99.9.9.9", 1, 2)
    nowhere = Enode(bytes(31) + b"1", "nowhere.example", 1, 2)
    summary, found = crawl(network, 4, bootstrap=(nobody, nowhere))
    assert (summary.ended, summary.found, found) == ("complete", 0, [])
    assert sorted(summary.bootstrap_troubles) == [
        "99.9.9.9:2: no answer from 99.9.9.9:2 over UDP",
        "nowhere.example:2: host name 'nowhere.example' does not resolve",
    ]


def test_a_bootstrap_node_may_be_known_by_its_address_alone(network):
    entry = enode_of(network.nodes[-1])
    summary, _ = crawl(network, 5, bootstrap=(Enode(bytes(32), entry.host, 0, entry.udp),), max_nodes=3)
    assert summary.reachable == 3


def test_who_takes_a_connection_and_keeps_silent_holds_up_no_end(network):
    """Neither that of the deadline, nor that of somebody who interrupts it."""
    entry = network.nodes[-1]
    entry.runtime.listen(("0.0.0.0", 30303), lambda stream: None)
    entry.discovery.sessions.tcp_port = 30303
    here = network.world.host("99.0.0.6")
    began = here.now()
    this = crawler(network, here, Notes(), lambda node: None, handshake=True, deadline_s=3.0)
    summary = this.summary(network.world.call(here, this.run))
    assert (summary.ended, summary.unfinished > 0) == ("deadline", True)
    assert here.now() - began < 3.2

    def interrupt(node):
        if here.now() - began > 3.0:
            raise Stop

    began = here.now()
    with pytest.raises(Stop):
        network.world.call(here, crawler(network, here, Notes(), interrupt, handshake=True).run)
    assert here.now() - began < 3.5
