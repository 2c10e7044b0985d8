"""Peering on virtual time: limits, heartbeats, crossed dials, exchange, restarts."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest

from kodectl.core.arrivals import NETWORK_HANDSHAKE_BURST, NETWORK_HANDSHAKES_PER_S
from kodectl.core.identity import Identity
from kodectl.errors import EnvironmentFault
from kodectl.node.dialling import Place
from kodectl.node.events import Events
from kodectl.node.handshake import LocalEnd
from kodectl.node.link import accept, dial
from kodectl.node.peering import Peering
from kodectl.node.persistence import MemoryStore, StoredPeer
from kodectl.node.stream_race import Reached
from kodectl.node.views import ConnectView
from kodectl.runtime.base import ConnectFailed, StreamClosed
from kodectl.settings import NodeSettings
from kodectl.sim.network import PathModel
from kodectl.sim.runtime import SimRuntime
from kodectl.sim.suite import SimSuite
from kodectl.sim.world import World
from kodectl.wire.announcement import Ports
from kodectl.wire.enode import ZERO_ID, Enode
from kodectl.wire.messages import DisconnectReason, Hello, MessageKind

SUITE = SimSuite()
PORT = 30303
TRANSACTION = int(MessageKind.TRANSACTION)


def identity_of(number: int) -> Identity:
    return Identity(SUITE, number.to_bytes(32))


class Resident:
    """A node reduced to its peering."""

    def __init__(self, runtime: SimRuntime, number: int, store: MemoryStore | None = None, **settings: Any) -> None:
        self.runtime = runtime
        self.identity = identity_of(number)
        self.node_id = self.identity.node_id
        self.store = store or MemoryStore()
        self.scope = runtime.scope(f"resident {number}")
        self.events = Events(runtime)
        self.received: list[tuple[bytes, bytes]] = []
        self.settings = NodeSettings(listen_host=runtime.ip, tcp_port=PORT, **settings)
        self.peering = Peering(
            runtime,
            self.settings,
            self.identity,
            self._hello,
            self.scope,
            self.events,
            self.store,
            {TRANSACTION: self._take},
        )

    def _hello(self) -> Hello:
        return Hello((1,), "kodectl/test", self.settings.network, (), Ports(self.peering.tcp_port, 30301))

    def _take(self, peer: Any, body: bytes) -> None:
        if body == b"bug":
            raise ZeroDivisionError("a handler's bug")
        self.received.append((peer.node_id, body))

    @property
    def enode(self) -> Enode:
        return Enode(self.node_id, self.runtime.ip, PORT, 30301)

    @property
    def linked(self) -> set[bytes]:
        return set(self.peering.links)

    def knows(self, *others: Resident) -> None:
        for other in others:
            self.peering.add_candidate(other.enode, "test")

    def stop(self) -> None:
        self.peering.stop()
        self.scope.close()
        assert self.scope.join(10.0) == []

    def happened(self, kind: str) -> list[dict[str, Any]]:
        return [event.data for event in self.events.since(0).events if event.type == kind]


class Town:
    def __init__(self, seed: int = 1, model: PathModel | None = None) -> None:
        self.world = World(seed, model)
        self.residents: list[Resident] = []

    def settle(self, ip: str, **settings: Any) -> Resident:
        resident = Resident(self.world.host(ip), len(self.residents) + 1, **settings)
        self.residents.append(resident)
        self.world.call(resident.runtime, resident.peering.start)
        return resident

    def settle_many(self, count: int, **settings: Any) -> list[Resident]:
        return [self.settle(f"10.0.{number // 250}.{number % 250 + 1}", **settings) for number in range(count)]

    def connect(self, near: Resident, target: Enode, timeout_s: float = 12.0) -> ConnectView:
        return self.world.call(near.runtime, near.peering.connect, target, timeout_s)

    def end(self) -> None:
        """Everybody leaves, and no task stays behind."""
        here = [resident for resident in self.residents if resident.runtime.host.alive]
        with self.world:
            for resident in here:
                self.world.spawn(resident.runtime, "stop", resident.stop)
            assert self.world.run(lambda: not any(resident.runtime.host.tasks.running for resident in here), 60.0)


@pytest.fixture
def town() -> Iterator[Town]:
    made = Town()
    yield made
    made.end()


def both_linked(one: Resident, other: Resident) -> bool:
    return other.node_id in one.linked and one.node_id in other.linked


class TestConnecting:
    def test_a_candidate_is_dialled_and_measured(self, town: Town) -> None:
        one, other = town.settle_many(2)
        one.knows(other)
        assert town.world.run(lambda: both_linked(one, other), 5.0)
        town.world.run_for(1.0)
        (mine,), (its,) = one.peering.peers(), other.peering.peers()
        assert (mine.direction, its.direction) == ("outbound", "inbound")
        assert mine.latency_ms == pytest.approx(its.latency_ms, rel=0.2)
        assert mine.enode == str(other.enode)
        assert its.enode == str(one.enode)
        assert one.peering.dials == {"connected": 1}
        assert other.peering.dials == {"inbound_accepted": 1}
        assert [data["id"] for data in one.happened("peer_connected")] == [other.node_id.hex()]

    def test_messages_go_to_the_handler(self, town: Town) -> None:
        one, other = town.settle_many(2)
        town.connect(one, other.enode)
        one.peering.links[other.node_id].send(TRANSACTION, b"hello")
        town.world.run_for(1.0)
        assert other.received == [(one.node_id, b"hello")]
        assert other.peering.messages_per_second() > 0
        assert one.peering.totals()["messages_sent"] == other.peering.totals()["messages_received"]

    def test_outcomes_without_a_dial(self, town: Town) -> None:
        one, other = town.settle_many(2)
        assert town.connect(one, other.enode).outcome == "connected"
        assert town.connect(one, other.enode).outcome == "already_connected"
        assert town.connect(one, Enode(ZERO_ID, other.runtime.ip, PORT, 0)).outcome == "already_connected"
        assert town.connect(one, one.enode).outcome == "self"
        assert town.connect(one, Enode(ZERO_ID, other.runtime.ip, 0, 1)).outcome == "no_route"
        assert one.peering.dials == {"connected": 1}

    def test_only_an_id_is_enough_where_somebody_knows_the_way(self, town: Town) -> None:
        one, other = town.settle_many(2)

        def reach(node_id: bytes, at: Callable[[str], None], tried: Place | None) -> Reached:
            assert node_id == other.node_id
            at("path")
            stream = one.runtime.connect((other.runtime.ip, PORT), 4.0)
            return Reached(stream, Enode(node_id, other.runtime.ip, 0, 0))

        one.peering.reach_by(reach)
        view = town.connect(one, Enode(other.node_id, "", 0, 0))
        assert view.outcome == "connected"
        assert view.peer is not None
        assert view.peer.static
        assert both_linked(one, other)
        # What an operator wants stays wanted, whatever way leads there.
        one.peering.links[other.node_id].disconnect(DisconnectReason.SHUTTING_DOWN)
        assert town.world.run(lambda: not both_linked(one, other), 5.0)
        assert town.world.run(lambda: both_linked(one, other), 60.0)

    @pytest.mark.parametrize(
        ("reason", "outcome"), [("unreachable", "no_route"), ("timeout", "timeout"), ("refused", "refused")]
    )
    def test_how_far_it_got_is_told(self, town: Town, reason: str, outcome: str) -> None:
        stages = ["locate", "signal"]

        def reach(node_id: bytes, at: Callable[[str], None], tried: Place | None) -> Reached:
            for stage in stages:
                at(stage)
            raise ConnectFailed(reason, "what is wrong")

        one = town.settle("10.0.0.1")
        one.peering.reach_by(reach)
        view = town.connect(one, Enode(b"x" * 32, "", 0, 0))
        assert (view.outcome, view.stage, view.detail) == (outcome, "signal", "what is wrong")
        town.world.run_for(2.0)
        # Two ways: the one that has led further tells what is wrong.
        assert town.connect(one, Enode(b"y" * 32, "10.9.9.9", PORT, 0)).detail == "what is wrong"
        del stages[1:]
        view = town.connect(one, Enode(b"z" * 32, "10.9.9.8", PORT, 0))
        assert (view.outcome, view.stage) == ("timeout", "tcp")

    def test_who_is_told_to_come_is_waited_for(self, town: Town) -> None:
        one, other = town.settle_many(2)
        world = town.world
        world.spawn(other.runtime, "dial", lambda: other.peering.dial(one.enode))
        assert world.call(one.runtime, one.peering.await_link, other.node_id, 5.0)
        assert not world.call(one.runtime, one.peering.await_link, b"x" * 32, 1.0)

    def test_whoever_answers_counts_with_its_real_id(self, town: Town) -> None:
        one, other = town.settle_many(2)
        view = town.connect(one, Enode(ZERO_ID, other.runtime.ip, PORT, PORT))
        assert (view.outcome, view.id) == ("connected", other.node_id.hex())
        assert view.peer is not None
        assert view.peer.static

    def test_a_placeholder_among_the_bootstrap_nodes_is_dialled_and_ranks_high(self, town: Town) -> None:
        seed = town.settle("10.0.0.1")
        town.world.names["seed1.example"] = ["10.0.0.1"]
        newcomer = town.settle("10.0.0.2", bootstrap=(f"enode://{'0' * 64}@seed1.example:{PORT}?discport=30301",))
        assert town.world.run(lambda: both_linked(seed, newcomer), 5.0)
        assert newcomer.peering.peers()[0].priority == "high"
        assert seed.peering.peers()[0].priority == "low"

    def test_itself_among_the_bootstrap_nodes_is_dialled_once(self, town: Town) -> None:
        one = town.settle("10.0.0.1", bootstrap=(f"enode://{'0' * 64}@10.0.0.1:{PORT}?discport=30301",))
        town.world.run_for(300.0)
        assert one.peering.dials["self"] == 1

    def test_refused_and_too_soon(self, town: Town) -> None:
        one = town.settle("10.0.0.1")
        town.world.host("10.0.0.9")
        nobody = Enode(b"n" * 32, "10.0.0.9", PORT, PORT)
        assert town.connect(one, nobody).outcome == "refused"
        assert town.connect(one, nobody).outcome == "recently_dialed"
        town.world.run_for(1.0)
        assert town.connect(one, nobody).outcome == "refused"

    def test_silence_is_a_timeout(self, town: Town) -> None:
        one, other = town.settle_many(2)
        town.world.cut("10.0.0.1", "10.0.0.2")
        before = town.world.now
        view = town.connect(one, other.enode)
        assert view.outcome == "timeout"
        assert town.world.now - before < 6.0
        assert town.connect(one, Enode(other.node_id, "10.0.0.2", 4, 4), timeout_s=0.5).outcome in (
            "timeout",
            "refused",
        )

    def test_another_identity_is_told(self, town: Town) -> None:
        one, other = town.settle_many(2)
        view = town.connect(one, Enode(b"x" * 32, other.runtime.ip, PORT, PORT))
        assert view.outcome == "identity_mismatch"
        assert view.peer is None
        assert other.linked == set()

    def test_a_name_that_does_not_resolve_is_no_route(self, town: Town) -> None:
        one = town.settle("10.0.0.1")
        view = town.connect(one, Enode(b"x" * 32, "nowhere.example", PORT, PORT))
        assert view.outcome == "no_route"
        assert "nowhere.example" in (view.detail or "")

    def test_another_network_is_refused_and_left_alone(self, town: Town) -> None:
        one = town.settle("10.0.0.1")
        other = town.settle("10.0.0.2", network="elsewhere")
        view = town.connect(one, other.enode)
        assert view.outcome == "refused"
        assert "elsewhere" in (view.detail or "")
        one.knows(other)
        town.world.run_for(600.0)
        assert sum(one.peering.dials.values()) <= 2

    def test_full_is_told_to_the_one_who_dials(self, town: Town) -> None:
        full = town.settle("10.0.0.1", max_peers=2)
        first, second, third = (town.settle(f"10.0.0.{number}") for number in (2, 3, 4))
        assert town.connect(first, full.enode).outcome == "connected"
        view = town.connect(second, full.enode)
        assert (view.outcome, view.peer) == ("too_many_peers", None)
        assert second.happened("peer_connected") == []
        # The other slot is for peers that the full node dials itself.
        assert town.connect(full, third.enode).outcome == "connected"
        assert full.linked == {first.node_id, third.node_id}

    def test_an_operators_peer_gets_the_slot_of_another(self, town: Town) -> None:
        full = town.settle("10.0.0.1", max_peers=1)
        first, second = (town.settle(f"10.0.0.{number}") for number in (2, 3))
        town.connect(first, full.enode)
        assert town.connect(full, second.enode).outcome == "connected"
        town.world.run_for(2.0)
        assert full.linked == {second.node_id}
        assert first.happened("peer_disconnected")[0]["reason"] == "too_many_peers"

    def test_three_of_a_subnet_and_no_more(self, town: Town) -> None:
        one = town.settle("198.41.0.4")
        others = [town.settle(f"193.0.14.{number}") for number in range(1, 6)]
        outcomes = [town.connect(other, one.enode).outcome for other in others]
        assert outcomes == ["connected"] * 3 + ["too_many_peers"] * 2
        assert others[4].peering.dials["subnet_limit"] == 1

    def test_the_keeper_takes_three_of_a_subnet(self, town: Town) -> None:
        one = town.settle("198.41.0.4")
        one.knows(*(town.settle(f"193.0.14.{number}") for number in range(1, 8)))
        town.world.run_for(60.0)
        assert len(one.linked) == 3
        assert one.peering.dials["connected"] == 3
        assert "subnet_limit" not in one.peering.dials


class TestGoing:
    def test_both_sides_hear_the_reason(self, town: Town) -> None:
        one, other = town.settle_many(2)
        town.connect(one, other.enode)
        assert one.peering.disconnect(other.node_id)
        assert not one.peering.disconnect(other.node_id)
        assert one.linked == set()
        town.world.run_for(1.0)
        (mine,), (its,) = one.happened("peer_disconnected"), other.happened("peer_disconnected")
        assert (mine["reason"], mine["by"]) == ("requested", "this_node")
        assert (its["reason"], its["by"]) == ("requested", "peer")
        assert one.peering.disconnects == other.peering.disconnects == {"requested": 1}

    def test_what_an_operator_ended_is_not_redialled_at_once(self, town: Town) -> None:
        one, other = town.settle_many(2)
        town.connect(one, other.enode)
        one.peering.disconnect(other.node_id)
        town.world.run_for(300.0)
        assert one.linked == other.linked == set()

    def test_a_stopped_node_says_so(self, town: Town) -> None:
        one, other = town.settle_many(2)
        town.connect(one, other.enode)
        town.world.call(other.runtime, other.stop)
        assert one.happened("peer_disconnected")[0]["reason"] == "shutting_down"

    @pytest.mark.parametrize("moment_s", [0.01, 0.06, 0.12, 0.18, 0.24, 0.3, 0.36])
    def test_a_node_may_stop_at_any_moment_of_a_dial(self, town: Town, moment_s: float) -> None:
        one, other = town.settle_many(2)
        one.knows(other)
        town.world.run_for(moment_s)
        town.world.call(one.runtime, one.stop)
        town.world.run_for(10.0)
        assert one.linked == other.linked == set()

    def test_a_lost_peer_is_redialled(self, town: Town) -> None:
        one, other = town.settle_many(2)
        one.knows(other)
        town.world.run(lambda: both_linked(one, other), 5.0)
        town.world.run_for(100.0)
        town.world.call(other.runtime, other.stop)
        again = Resident(town.world.restart("10.0.0.2"), 2)
        town.residents[1] = again
        town.world.call(again.runtime, again.peering.start)
        assert town.world.run(lambda: both_linked(one, again), 5.0)

    def test_a_ban_ends_the_link_and_keeps_it_away(self, town: Town) -> None:
        one, other = town.settle_many(2)
        town.connect(one, other.enode)
        assert one.peering.ban(other.node_id, 100.0).until is not None
        town.world.run_for(2.0)
        assert one.linked == other.linked == set()
        assert other.happened("peer_disconnected")[0]["reason"] == "banned"
        assert town.connect(one, other.enode).outcome == "banned"
        assert town.connect(other, one.enode).outcome == "banned"
        town.world.run_for(100.0)
        assert town.connect(other, one.enode).outcome == "connected"

    def test_a_lifted_ban_is_forgotten(self, town: Town) -> None:
        one, other = town.settle_many(2)
        one.peering.ban(other.node_id, None)
        assert town.connect(one, other.enode).outcome == "banned"
        assert one.peering.unban(other.node_id).banned is False
        assert town.connect(one, other.enode).outcome == "connected"

    def test_a_handlers_bug_costs_one_link(self, town: Town) -> None:
        one, other, third = town.settle_many(3)
        town.connect(one, other.enode)
        town.connect(third, other.enode)
        one.peering.links[other.node_id].send(TRANSACTION, b"bug")
        town.world.run_for(1.0)
        assert other.linked == {third.node_id}

    def test_a_callbacks_bug_costs_nothing(self, town: Town) -> None:
        one, other = town.settle_many(2)
        one.peering.on_connected.insert(0, lambda peer: 1 // 0)
        assert town.connect(one, other.enode).outcome == "connected"
        town.world.run_for(60.0)
        assert both_linked(one, other)


class TestHeartbeats:
    def test_idle_links_live_and_count(self, town: Town) -> None:
        one, other = town.settle_many(2)
        town.connect(one, other.enode)
        town.world.run_for(600.0)
        assert both_linked(one, other)
        (entry,) = one.peering.latency().peers
        assert entry.samples in range(18, 21)
        assert entry.loss == 0.0
        assert entry.min_ms is not None
        assert entry.min_ms <= entry.average_ms <= entry.max_ms

    def test_silence_ends_the_link_on_both_sides(self, town: Town) -> None:
        one, other = town.settle_many(2)
        town.connect(one, other.enode)
        town.world.run_for(20.0)
        town.world.cut("10.0.0.1", "10.0.0.2")
        cut_at = town.world.now
        assert town.world.run(lambda: not one.linked and not other.linked, 90.0)
        assert town.world.now - cut_at > 30.0
        assert one.happened("peer_disconnected")[0]["reason"] == "timeout"

    def test_a_short_silence_does_not(self, town: Town) -> None:
        one, other = town.settle_many(2)
        town.connect(one, other.enode)
        link = one.peering.links[other.node_id].link
        town.world.cut("10.0.0.1", "10.0.0.2")
        town.world.run_for(20.0)
        town.world.mend("10.0.0.1", "10.0.0.2")
        town.world.run_for(120.0)
        assert one.peering.links[other.node_id].link is link

    def test_a_half_open_link_is_replaced(self, town: Town) -> None:
        """The other node lost power: this one still believes in the old link when it comes back."""
        one, other = town.settle_many(2)
        town.connect(other, one.enode)
        town.world.run_for(5.0)
        again = Resident(town.world.restart("10.0.0.2"), 2, other.store)
        town.residents[1] = again
        town.world.call(again.runtime, again.peering.start)
        assert other.node_id in one.linked
        assert town.world.run(lambda: both_linked(one, again), 5.0)
        assert one.happened("peer_disconnected")[0]["reason"] in ("duplicate_connection", "unspecified")
        town.world.run_for(100.0)
        assert len(one.happened("peer_disconnected")) == 1
        assert both_linked(one, again)


class Stranger:
    """Speaks the handshake, then does what a test wants."""

    def __init__(self, town: Town, ip: str, number: int = 90) -> None:
        self.town = town
        self.runtime = town.world.host(ip)
        self.local = LocalEnd(identity_of(number), bytes(32))
        self.heard: list[tuple[int, bytes]] = []
        self.hello = Hello((1,), "stranger/1", "kodechain", (), Ports(0, 0))

    def visit(self, other: Resident, *messages: tuple[int, bytes]) -> DisconnectReason:
        """Sends the messages, then listens to the end of the link; it answers nothing."""

        def visit() -> DisconnectReason:
            stream = self.runtime.connect((other.runtime.ip, PORT), 5.0)
            link = dial(self.runtime, self.local, stream, None, self.hello)
            for message in messages:
                link.send(*message)
            return link.run(lambda link, kind, body: self.heard.append((kind, body)))

        return self.town.world.call(self.runtime, visit)


class TestStrangers:
    def test_who_answers_no_heartbeat_is_let_go(self, town: Town) -> None:
        host = town.settle("10.0.0.1")
        began = town.world.now
        assert Stranger(town, "10.0.0.2").visit(host) is DisconnectReason.TIMEOUT
        assert town.world.now - began < 90.0

    def test_a_flood_of_control_messages_ends_the_link(self, town: Town) -> None:
        host = town.settle("10.0.0.1")
        flood = [(99, b"")] * 60
        assert Stranger(town, "10.0.0.2").visit(host, *flood) is DisconnectReason.PROTOCOL_ERROR
        town.world.run_for(2.0)
        assert host.peering.disconnects == {"protocol_error": 1}

    def test_a_broken_protocol_costs_minutes(self, town: Town) -> None:
        host = town.settle("10.0.0.1")
        stranger = Stranger(town, "10.0.0.2")
        assert stranger.visit(host, (MessageKind.HEARTBEAT, b"\xff")) is DisconnectReason.PROTOCOL_ERROR
        assert stranger.visit(host) is DisconnectReason.BANNED
        town.world.run_for(300.0)
        assert stranger.visit(host) is DisconnectReason.TIMEOUT

    def test_unasked_peers_are_not_taken(self, town: Town) -> None:
        host = town.settle("10.0.0.1", max_peers=4)
        town.settle("10.0.0.3")
        told = f'{{"type":"peer_response","peers":["{town.residents[1].enode}"]}}'.encode()
        # The first answers the request that every new link gets; the second nobody asked for.
        empty = b'{"type":"peer_response","peers":[]}'
        Stranger(town, "10.0.0.2").visit(host, (MessageKind.PEER_RESPONSE, empty), (MessageKind.PEER_RESPONSE, told))
        assert host.peering.dials == {"inbound_accepted": 1}

    def test_who_asks_for_peers_without_end_gets_three_answers(self, town: Town) -> None:
        host = town.settle("10.0.0.1")
        stranger = Stranger(town, "10.0.0.2")
        ask = (MessageKind.PEER_REQUEST, b'{"type":"peer_request","requested_count":20}')
        stranger.visit(host, *[ask] * 10)
        assert sum(kind == MessageKind.PEER_RESPONSE for kind, _ in stranger.heard) == 3

    def test_connections_that_say_nothing_do_not_keep_others_out(self, town: Town) -> None:
        host, honest = town.settle("193.0.14.1"), town.settle("192.33.4.1")
        sitter = town.world.host("198.41.0.4")

        def sit() -> None:
            for _ in range(10):
                stream = sitter.connect((host.runtime.ip, PORT), 5.0)
                sitter.call_later(0.5, stream.close)
                try:
                    stream.read_exactly(1)
                except StreamClosed:
                    continue

        for _ in range(10):
            town.world.spawn(sitter, "sit", sit)
        town.world.run_for(2.0)
        assert town.connect(honest, host.enode).outcome == "connected"
        assert host.peering.dials["inbound_turned_away"] > 0
        town.world.run_for(10.0)

    def test_a_peer_that_is_said_to_be_where_the_node_itself_is_can_be_found_elsewhere(self, town: Town) -> None:
        one, other = town.settle_many(2)
        one.peering.add_candidate(Enode(other.node_id, one.runtime.ip, PORT, 30301), "a liar")
        town.world.run_for(5.0)
        assert one.peering.dials["self"] >= 1
        one.knows(other)
        assert town.world.run(lambda: both_linked(one, other), 120.0)

    @pytest.mark.parametrize("networks", [1, 20])
    def test_silence_from_many_networks_keeps_nobody_out(self, town: Town, networks: int) -> None:
        """They hold every place that they can get, and come back at once for those that they lose."""
        host = town.settle("193.0.14.1")

        def sit(sitter: SimRuntime) -> None:
            while True:
                with suppress(StreamClosed, ConnectFailed):
                    sitter.connect((host.runtime.ip, PORT), 5.0).read_exactly(1)
                sitter.event().wait(0.5)

        for number in range(networks):
            sitter = town.world.host(f"198.41.{number}.4")
            for _ in range(3):
                town.world.spawn(sitter, "sit", sit, sitter)
        town.world.run_for(3.0)
        for number in range(5):
            honest = town.settle(f"192.33.{number}.1")
            assert town.connect(honest, host.enode).outcome == "connected"
            town.world.run_for(3.0)

    def test_one_network_that_comes_and_goes_keeps_nobody_out(self, town: Town) -> None:
        """Some hundred connections a second, each for a moment."""
        host = town.settle("193.0.14.1")
        comer = town.world.host("198.41.0.4")

        def come_and_go() -> None:
            while True:
                with suppress(ConnectFailed):
                    comer.connect((host.runtime.ip, PORT), 5.0).close()
                comer.event().wait(0.01)

        for _ in range(100):
            town.world.spawn(comer, "come and go", come_and_go)
        town.world.run_for(5.0)
        for number in range(5):
            honest = town.settle(f"192.33.{number}.1")
            assert town.connect(honest, host.enode).outcome == "connected"
        its_part = NETWORK_HANDSHAKE_BURST + NETWORK_HANDSHAKES_PER_S * town.world.now
        assert host.peering.dials["inbound_failed"] <= its_part < host.peering.dials["inbound_turned_away"] / 10

    def test_a_silent_acceptor_is_a_timeout(self, town: Town) -> None:
        """It finishes the handshake and gives no sign after that."""
        one = town.settle("10.0.0.1")
        silent = town.world.host("10.0.0.2")
        scope, local = silent.scope("silent"), LocalEnd(identity_of(77), bytes(32))
        hello = Hello((1,), "silent/1", "kodechain", (), Ports(PORT, 0))
        held: list[Any] = []
        silent.listen(
            ("10.0.0.2", PORT),
            lambda stream: scope.spawn("accept", lambda: held.append(accept(silent, local, stream, hello))),
        )
        view = town.connect(one, Enode(ZERO_ID, "10.0.0.2", PORT, PORT), timeout_s=30.0)
        assert view.outcome == "timeout"
        assert town.world.now < 12.0
        assert one.happened("peer_connected") == []


class TestCrossedDials:
    @pytest.mark.parametrize(
        ("seed", "pairs"),
        [(0, 250), (1, 250), *(pytest.param(seed, 500, marks=pytest.mark.slow) for seed in range(20))],
    )
    def test_always_one_link_and_the_same_on_both_sides(self, seed: int, pairs: int) -> None:
        """Pairs that dial each other at moments up to two round trips apart; ten thousand with the slow ones."""
        rng = random.Random(seed)
        town = Town(seed, PathModel(latency_s=0.05, spread_s=0.04, jitter_s=0.03))
        crossed = 0
        couples = []
        for number in range(pairs):
            ips = [f"10.{side}.{number // 250}.{number % 250 + 1}" for side in (1, 2)]
            couple = [town.settle(ip) for ip in ips]
            couples.append(couple)
            base = town.world.now + 1.0
            for one, other in (couple, couple[::-1]):
                town.world.at(base + rng.uniform(0.0, 0.2), lambda one=one, other=other: one.knows(other))
        town.world.run_for(20.0)
        for one, other in couples:
            assert one.linked == {other.node_id}
            assert other.linked == {one.node_id}
            mine, its = one.peering.links[other.node_id].link, other.peering.links[one.node_id].link
            assert mine.outbound != its.outbound
            if one.peering.dials.get("duplicate_connection") or other.peering.dials.get("duplicate_connection"):
                crossed += 1
                smaller = min(one, other, key=lambda resident: resident.node_id)
                assert smaller.peering.links[max(one.node_id, other.node_id)].outbound
        assert crossed > pairs / 5
        town.end()

    def test_the_operator_who_lost_the_race_hears_connected(self) -> None:
        for seed in range(20):
            town = Town(seed)
            one, other = town.settle_many(2)
            outcomes: list[str] = []

            def connect(near: Resident, far: Resident, outcomes: list[str] = outcomes) -> None:
                outcomes.append(near.peering.connect(far.enode, 10.0).outcome)

            town.world.spawn(one.runtime, "connect", connect, one, other)
            town.world.spawn(other.runtime, "connect", connect, other, one)
            town.world.run_for(10.0)
            assert outcomes == ["connected", "connected"]
            town.end()


class TestExchange:
    def test_three_that_know_one_find_each_other(self, town: Town) -> None:
        middle, *others = town.settle_many(4)
        for other in others:
            other.knows(middle)
        everybody = {resident.node_id for resident in town.residents}
        met = all_met(town.residents, everybody)
        assert town.world.run(met, 60.0)

    def test_nobody_is_told_what_he_cannot_reach(self, town: Town) -> None:
        middle = town.settle("10.0.0.1")
        private = town.settle("10.0.0.2")
        public = town.settle("193.0.14.1")
        town.connect(private, middle.enode)
        town.connect(public, middle.enode)
        town.world.run_for(120.0)
        # The private one has heard of the public one and dialled it; not the other way round.
        assert public.peering.links[private.node_id].outbound is False
        assert public.peering.dials == {"connected": 1, "inbound_accepted": 1}

    def test_thirty_nodes_have_eight_peers_soon(self) -> None:
        town = Town(5)
        first, *others = town.settle_many(30)
        for other in others:
            other.knows(first)
        assert town.world.run(lambda: all(len(one.linked) >= 8 for one in town.residents), 20.0)
        town.world.run_for(30.0)
        outbound = [sum(peer.outbound for peer in one.peering.links.values()) for one in town.residents]
        assert max(outbound) <= 16
        town.end()


def all_met(residents: list[Resident], everybody: set[bytes]) -> Callable[[], bool]:
    return lambda: all(resident.linked == everybody - {resident.node_id} for resident in residents)


class FailingDisk(MemoryStore):
    full = False

    def save_peers(self, changed: Sequence[StoredPeer], removed: Sequence[bytes] = ()) -> None:
        if self.full:
            raise EnvironmentFault("no space left on the disk", code="disk_full")
        super().save_peers(changed, removed)


class TestRestart:
    def test_a_killed_node_returns_to_its_peers_by_itself(self, town: Town) -> None:
        """No bootstrap node, no announcement: it has only what it saved, at most five seconds before."""
        residents = town.settle_many(6)
        victim, *others = residents
        victim.knows(*others)
        town.world.run(lambda: len(victim.linked) == 5, 10.0)
        town.world.run_for(6.0)
        town.world.crash(victim.runtime.ip)
        town.world.run_for(200.0)
        assert all(victim.node_id not in other.linked for other in others)
        again = Resident(town.world.restart(victim.runtime.ip), 1, victim.store)
        town.residents[0] = again
        town.world.call(again.runtime, again.peering.start)
        assert town.world.run(lambda: len(again.linked) == 5, 5.0)

    def test_trust_bans_and_static_peers_survive(self, town: Town) -> None:
        one, other, banned = town.settle_many(3)
        town.connect(one, other.enode)
        one.peering.ban(banned.node_id, 3600.0)
        town.world.run_for(900.0)
        before = one.peering.peers()[0]
        assert before.priority == "high"
        town.world.call(one.runtime, one.stop)
        town.world.run_for(60.0)
        again = Resident(town.world.restart("10.0.0.1"), 1, one.store)
        town.residents[0] = again
        town.world.call(again.runtime, again.peering.start)
        town.world.run(lambda: bool(again.linked), 5.0)
        after = again.peering.peers()[0]
        assert after.static
        assert after.trust == pytest.approx(before.trust, abs=0.02)
        assert town.connect(again, banned.enode).outcome == "banned"

    def test_back_off_is_remembered(self, town: Town) -> None:
        one = town.settle("10.0.0.1")
        town.world.host("10.0.0.9")
        one.peering.add_candidate(Enode(b"n" * 32, "10.0.0.9", PORT, PORT), "test")
        town.world.run(lambda: one.peering.dials.get("refused", 0) == 4, 60.0)
        town.world.call(one.runtime, one.stop)
        again = Resident(town.world.restart("10.0.0.1"), 1, one.store)
        town.residents[0] = again
        town.world.call(again.runtime, again.peering.start)
        town.world.run_for(3.0)
        assert "refused" not in again.peering.dials
        town.world.run_for(20.0)
        assert again.peering.dials["refused"] == 1

    @pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
    def test_surrounded_at_its_restart_it_still_finds_the_honest(self, town: Town, count: int) -> None:
        """Strangers of as many networks press in; what it dials itself they cannot take."""
        honest = [town.settle(f"11.{number}.0.1") for number in range(20)]
        victim = town.settle("193.0.14.129")
        victim.knows(*honest)
        town.world.run(lambda: len(victim.linked) >= 16, 20.0)
        town.world.run_for(6.0)
        town.world.crash(victim.runtime.ip)
        attackers = [town.settle(f"{12 + number // 250}.{number % 250}.0.1") for number in range(count)]
        again = Resident(town.world.restart(victim.runtime.ip), 21, victim.store)
        town.residents[20] = again
        for attacker in attackers:
            attacker.knows(again)
        town.world.run_for(10.0)
        # The honest are out of reach at first: the strangers have all the time to take every slot there is.
        for one in honest:
            town.world.cut(again.runtime.ip, one.runtime.ip)
        town.world.call(again.runtime, again.peering.start)
        town.world.run_for(30.0)
        town.world.heal()
        town.world.run_for(30.0)
        outbound = {peer.node_id for peer in again.peering.links.values() if peer.outbound}
        assert len(outbound & {one.node_id for one in honest}) >= 8
        assert len(again.linked) <= 50
        assert again.linked & {one.node_id for one in attackers}

    def test_a_disk_that_fails_for_a_while_loses_nothing(self, town: Town) -> None:
        disk = FailingDisk()
        one, other = town.settle("10.0.0.1", store=disk), town.settle("10.0.0.2")
        disk.full = True
        town.connect(one, other.enode)
        one.peering.ban(b"b" * 32, None)
        town.world.run_for(100.0)
        assert disk.load_peers() == []
        assert [data["code"] for data in one.happened("warning")] == ["disk_full"]
        disk.full = False
        town.world.run_for(40.0)
        assert [peer.node_id for peer in disk.load_peers()] == [other.node_id]
        assert [ban.node_id for ban in disk.load_bans()] == [b"b" * 32]

    def test_it_runs_the_same_twice(self) -> None:
        def course() -> str:
            town = Town(11, PathModel(loss=0.02))
            first, *others = town.settle_many(8)
            for other in others:
                other.knows(first)
            town.world.run_for(100.0)
            fingerprint = town.world.trace_hash()
            town.end()
            return fingerprint

        assert course() == course()
