"""Broadcasts between whole nodes, over loopback, with real signatures."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from kodectl.core.identity import Identity
from kodectl.node.node import Node
from kodectl.runtime.green import GreenRuntime
from kodectl.settings import NodeSettings
from kodectl.wire.messages import MAX_BLOCK, BroadcastMode, MessageKind, new_envelope, pack_envelope
from kodectl.wire.suite import RealSuite

LIMIT_S = 10.0
"""For anything here to happen; a test that waits so long has failed."""


class Line:
    """Nodes of which each is connected to the next."""

    def __init__(self, size):
        self.runtime = GreenRuntime()
        self.nodes = [self._start(number) for number in range(size)]
        self.delivered = [Counter() for _ in self.nodes]
        for node, delivered in zip(self.nodes, self.delivered, strict=True):
            node.broadcasting.subscribe(lambda envelope, delivered=delivered: delivered.update([envelope.id.hex()]))
        for node, following in zip(self.nodes, self.nodes[1:], strict=False):
            # Peers tell each other of peers, so that the next may be a neighbour already.
            assert node.connect(following.enode, LIMIT_S).outcome in ("connected", "already_connected")

    def _start(self, number):
        settings = NodeSettings(listen_host="127.0.0.1", tcp_port=0, udp_port=0, lan=False)
        node = Node(self.runtime, settings, Identity(RealSuite(), bytes([number + 1]) * 32))
        node.start()
        return node

    def until(self, condition):
        for _ in range(int(LIMIT_S / 0.01)):
            if condition():
                return
            self.nodes[0].scope.sleep(0.01)
        raise AssertionError("it never happened")

    def everyone_has(self, ids):
        return all(delivered.keys() >= ids for delivered in self.delivered)

    def stop(self):
        for node in self.nodes:
            node.stop()
        self.runtime.close()


@pytest.fixture
def line():
    line = Line(4)
    yield line
    line.stop()


def test_blocks_and_transactions_reach_every_node_once(line):
    rng = random.Random(1)
    block, payload = rng.randbytes(MAX_BLOCK), rng.randbytes(100)
    ids = {line.nodes[0].broadcast("block", block, "flood").id, line.nodes[3].broadcast("block", b"two", "gossip").id}
    small = line.nodes[1].broadcast("transaction", payload, "gossip").id
    line.until(lambda: line.everyone_has({*ids, small}))
    assert all(count == 1 for delivered in line.delivered for count in delivered.values())
    [event] = [event for event in line.nodes[3].events.since(0).events if event.data.get("id") == small]
    assert event.type == "transaction"
    assert event.data["origin"] == line.nodes[1].identity.node_id.hex()
    assert event.data["payload"] == payload


def test_hundreds_of_transactions_in_a_loop_reach_every_node_once(line):
    ids = {line.nodes[number % 4].broadcast("transaction", b"%d" % number, "gossip").id for number in range(400)}
    line.until(lambda: line.everyone_has(ids))
    assert all(count == 1 for delivered in line.delivered for count in delivered.values())
    assert all(node.stats().broadcast["delivered"] == 400 for node in line.nodes)


def test_a_message_signed_by_another_ends_the_link_it_came_over(line):
    sender, victim = line.nodes[0], line.nodes[1]
    someone = Identity(RealSuite(), b"x" * 32)
    envelope = new_envelope(
        MessageKind.TRANSACTION,
        b"forged",
        BroadcastMode.FLOOD,
        origin=line.nodes[2].identity.public_key,
        time_ms=int(line.runtime.unix_time() * 1000),
        nonce=bytes(8),
        sign=someone.sign,
    )
    peer = sender.peering.links[victim.identity.node_id]
    peer.send(MessageKind.TRANSACTION, pack_envelope(envelope))
    line.until(lambda: peer.link.closed)
    assert peer.link.close_reason.name == "PROTOCOL_ERROR"
    assert not any(line.delivered)
    assert line.nodes[2].identity.node_id in victim.peering.links
