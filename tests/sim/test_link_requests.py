"""Requests over links on virtual time: answers, refusals, limits, and the end of a link in the middle of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kodectl.core.identity import Identity
from kodectl.errors import KodectlError, NegativeAnswer, PeerFault
from kodectl.node.events import Events
from kodectl.node.link_requests import (
    MAX_MESSAGE,
    MAX_TASKS_PER_PEER,
    MAX_UNDER_WAY,
    MESSAGES_BURST,
    SERVED_BURST,
    LinkRequests,
)
from kodectl.node.peer import Peer
from kodectl.node.peering import Peering
from kodectl.node.persistence import MemoryStore
from kodectl.settings import NodeSettings
from kodectl.sim.runtime import SimRuntime
from kodectl.sim.suite import SimSuite
from kodectl.sim.world import World
from kodectl.wire import rpc
from kodectl.wire.announcement import Ports
from kodectl.wire.enode import Enode
from kodectl.wire.messages import DisconnectReason, Hello, MessageKind

SUITE = SimSuite()
PORT = 30303
LIMIT_S = 5.0
NODES = rpc.Nodes(b"")


class Resident:
    """A node reduced to its peering and the requests over it."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.runtime: SimRuntime = world.host(f"10.0.0.{number}")
        self.scope = self.runtime.scope("resident")
        settings = NodeSettings(listen_host=self.runtime.ip, tcp_port=PORT)
        identity = Identity(SUITE, number.to_bytes(32))
        self.node_id = identity.node_id
        hello = Hello((1,), "kodectl/test", settings.network, (), Ports(PORT, 30301))
        events = Events(self.runtime)
        self.peering = Peering(self.runtime, settings, identity, lambda: hello, self.scope, events, MemoryStore(), {})
        self.requests = LinkRequests(self.runtime, self.scope, self.peering)
        world.call(self.runtime, self.peering.start)

    @property
    def enode(self) -> Enode:
        return Enode(self.node_id, self.runtime.ip, PORT, 30301)

    def peer(self, other: Resident) -> Peer:
        return self.peering.links[other.node_id]

    def asks(self, other: Resident, body: rpc.Body, limit_s: float = LIMIT_S) -> Any:
        return self.world.call(self.runtime, self.requests.ask, self.peer(other), body, limit_s)

    def asks_many(self, other: Resident, body: rpc.Body, count: int) -> list[Any]:
        """Without waiting between them; the outcomes in the order of their arrival."""
        outcomes: list[Any] = []
        for _ in range(count):
            self.requests.request(self.peer(other), body, outcomes.append, LIMIT_S)
        assert self.world.run(lambda: len(outcomes) == count, 2 * LIMIT_S)
        return outcomes

    def stop(self) -> None:
        self.peering.stop()
        self.scope.close()
        assert self.scope.join(10.0) == []


@pytest.fixture
def two() -> Iterator[tuple[Resident, Resident]]:
    world = World(1)
    one, other = Resident(world, 1), Resident(world, 2)
    assert world.call(one.runtime, one.peering.connect, other.enode, 10.0).outcome == "connected"
    yield one, other
    with world:
        for resident in (one, other):
            world.spawn(resident.runtime, "stop", resident.stop)
        assert world.run(lambda: not any(resident.runtime.host.tasks.running for resident in (one, other)), 60.0)


FIND = rpc.FindNode(bytes(32))


def test_a_quick_handler_answers_both_sides(two):
    one, other = two
    for asker, asked in ((one, other), (other, one)):
        asked.requests.quick_handlers[rpc.Kind.FIND_NODE] = lambda peer, body: rpc.Nodes(peer.node_id)
        assert asker.asks(asked, FIND) == rpc.Nodes(asker.node_id)


def test_a_handler_may_wait(two):
    one, other = two

    def handler(peer: Peer, body: rpc.FindNode) -> rpc.Nodes:
        other.scope.sleep(3.0)
        return rpc.Nodes(body.target)

    other.requests.handlers[rpc.Kind.FIND_NODE] = handler
    began = one.world.now
    assert one.asks(other, FIND) == rpc.Nodes(FIND.target)
    assert one.world.now - began >= 3.0


def test_answers_may_overtake_each_other(two):
    one, other = two
    pauses = {b"a" * 32: 2.0, b"b" * 32: 1.0}

    def handler(peer: Peer, body: rpc.FindNode) -> rpc.Nodes:
        other.scope.sleep(pauses[body.target])
        return rpc.Nodes(body.target)

    other.requests.handlers[rpc.Kind.FIND_NODE] = handler
    told: list[tuple[bytes, Any]] = []
    for target in pauses:
        one.requests.request(
            one.peer(other), rpc.FindNode(target), lambda body, target=target: told.append((target, body)), LIMIT_S
        )
    assert one.world.run(lambda: len(told) == 2, LIMIT_S)
    assert told == [(b"b" * 32, rpc.Nodes(b"b" * 32)), (b"a" * 32, rpc.Nodes(b"a" * 32))]


def refuses(error: Exception) -> Any:
    def handler(peer: Peer, body: Any) -> rpc.Body:
        raise error

    return handler


@pytest.mark.parametrize("error", [PeerFault("not for you"), NegativeAnswer("not here"), ZeroDivisionError("a bug")])
def test_what_a_handler_raises_is_a_refusal_and_the_link_goes_on(two, error):
    one, other = two
    other.requests.handlers[rpc.Kind.FIND_NODE] = refuses(error)
    other.requests.quick_handlers[rpc.Kind.PING] = refuses(error)
    for body in (FIND, rpc.Ping(0, 0)):
        with pytest.raises(PeerFault, match=error.message if isinstance(error, KodectlError) else "internal error"):
            one.asks(other, body)
    other.requests.handlers[rpc.Kind.FIND_NODE] = lambda peer, body: NODES
    assert one.asks(other, FIND) == NODES


def test_a_kind_that_nobody_serves_is_refused(two):
    one, other = two
    with pytest.raises(PeerFault, match="kind 3"):
        one.asks(other, FIND)
    assert other.requests.counters["refused_unknown_kind"] == 1


def test_a_body_that_makes_no_sense_is_refused(two):
    one, other = two
    other.requests.quick_handlers[rpc.Kind.FIND_NODE] = lambda peer, body: NODES
    one.peer(other).send(MessageKind.REQUEST, rpc.pack_message(5, FIND)[:-1])
    one.world.run_for(1.0)
    assert other.requests.counters["refused_malformed"] == 1
    assert one.asks(other, FIND) == NODES


def test_an_answer_of_another_kind_or_that_nobody_asked_for_is_dropped(two):
    one, other = two
    other.requests.quick_handlers[rpc.Kind.FIND_NODE] = lambda peer, body: rpc.Stored(0)
    with pytest.raises(NegativeAnswer) as caught:
        one.asks(other, FIND)
    assert caught.value.code == "no_answer"
    other.peer(one).send(MessageKind.ANSWER, rpc.pack_message(77, NODES))
    one.world.run_for(1.0)
    assert one.requests.counters["unsolicited"] == 2


def test_nobody_answers_for_somebody_else(two):
    one, other = two
    third = Resident(one.world, 3)
    assert one.world.call(third.runtime, third.peering.connect, one.enode, 10.0).outcome == "connected"
    other.requests.handlers[rpc.Kind.FIND_NODE] = lambda peer, body: other.scope.sleep(1.0) or NODES
    outcomes: list[Any] = []
    one.requests.request(one.peer(other), FIND, outcomes.append, LIMIT_S)
    for request_id in range(10):
        third.peer(one).send(MessageKind.ANSWER, rpc.pack_message(request_id, rpc.Nodes(b"false")))
    assert one.world.run(lambda: bool(outcomes), LIMIT_S)
    assert outcomes == [NODES]
    one.world.call(third.runtime, third.stop)


def test_silence_ends_with_the_limit(two):
    one, other = two
    other.requests.handlers[rpc.Kind.FIND_NODE] = lambda peer, body: other.scope.sleep(LIMIT_S + 1) or NODES
    began = one.world.now
    with pytest.raises(NegativeAnswer):
        one.asks(other, FIND)
    assert one.world.now - began == pytest.approx(LIMIT_S)


def test_the_end_of_the_link_ends_the_question(two):
    one, other = two
    other.requests.handlers[rpc.Kind.FIND_NODE] = lambda peer, body: other.scope.sleep(3.0) or NODES
    outcomes: list[Any] = []
    one.requests.request(one.peer(other), FIND, outcomes.append, 60.0)
    one.world.run_for(1.0)
    other.peering.disconnect(one.node_id, DisconnectReason.SHUTTING_DOWN)
    assert one.world.run(lambda: len(outcomes) == 1, 2.0)
    assert isinstance(outcomes[0], NegativeAnswer)
    one.world.run_for(5.0)
    assert len(outcomes) == 1


def test_a_closed_link_is_told_of_at_once(two):
    one, other = two
    peer = one.peer(other)
    peer.disconnect(DisconnectReason.SHUTTING_DOWN)
    outcomes: list[Any] = []
    one.requests.request(peer, FIND, outcomes.append, 60.0)
    assert isinstance(outcomes[0], NegativeAnswer)


def test_handlers_that_wait_are_bounded_for_each_peer(two):
    one, other = two
    other.requests.handlers[rpc.Kind.FIND_NODE] = lambda peer, body: other.scope.sleep(1.0) or NODES
    outcomes = one.asks_many(other, FIND, MAX_TASKS_PER_PEER + 3)
    assert [outcome == NODES for outcome in outcomes] == [False] * 3 + [True] * MAX_TASKS_PER_PEER
    assert other.requests.counters["refused_busy"] == 3
    # The places come back.
    assert one.asks(other, FIND) == NODES


def test_questions_under_way_are_bounded(two):
    one, other = two
    other.requests.quick_handlers[rpc.Kind.FIND_NODE] = lambda peer, body: NODES
    outcomes = one.asks_many(other, FIND, MAX_UNDER_WAY + 5)
    assert sum(isinstance(outcome, NegativeAnswer) for outcome in outcomes) == 5


def test_who_asks_too_often_is_told_that_this_node_is_busy(two):
    one, other = two
    other.requests.quick_handlers[rpc.Kind.FIND_NODE] = lambda peer, body: NODES
    message = rpc.pack_message(1, FIND)
    for _ in range(int(SERVED_BURST) + 50):
        one.peer(other).send(MessageKind.REQUEST, message)
    one.world.run_for(1.0)
    assert other.requests.counters["served"] in range(int(SERVED_BURST), int(SERVED_BURST) + 25)
    assert other.requests.counters["refused_busy"] >= 25
    assert one.asks(other, FIND) == NODES


@pytest.mark.parametrize("kind", [MessageKind.REQUEST, MessageKind.ANSWER])
def test_who_floods_loses_the_link(two, kind):
    one, other = two
    message = rpc.pack_message(1, FIND)
    for _ in range(int(MESSAGES_BURST) + 200):
        one.peer(other).send(kind, message)
    assert one.world.run(lambda: one.node_id not in other.peering.links, 5.0)


@pytest.mark.parametrize("message", [b"", b"\3", bytes(MAX_MESSAGE + 1)])
def test_what_is_no_message_ends_the_link(two, message):
    one, other = two
    one.peer(other).send(MessageKind.REQUEST, message)
    assert one.world.run(lambda: one.node_id not in other.peering.links, 5.0)
