"""The birthday spray on virtual time: that it connects what nothing else does, how soon, and what it costs."""

from __future__ import annotations

import random
from statistics import quantiles
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spray_places import PORT, Side

from kodectl.core.ice.checks import Credentials, Peer, Role, pack_request
from kodectl.core.ice.requests import answer
from kodectl.core.nat import Behavior
from kodectl.core.spray import (
    HIGHEST_PORT,
    LIMIT_S,
    LOWEST_PORT,
    MAX_AT_ONCE,
    MAX_PACKETS,
    PACKET_EVERY_S,
    PRIORITY,
    SOCKETS,
    Aim,
    Hit,
    Pace,
    Spray,
    Terms,
    chance,
    many_ports,
    many_sockets,
)
from kodectl.errors import LocalMisuse
from kodectl.node.spraying import LINGER_S, MAX_ADOPTED, NETWORK_SPRAY_BURST, NETWORK_SPRAYS_PER_S, SprayRoom
from kodectl.sim.network import PathModel
from kodectl.sim.translation import PortRule
from kodectl.sim.world import World
from kodectl.wire.stun import decode

ROUND_TRIP_S = 0.1
LATENCY_S = ROUND_TRIP_S / 2
DRAWING, FILTERING = "21.0.0.1", "21.1.0.1"
INNER = "192.168.1.2"


class Scene:
    """`many` is behind the NAT that draws its ports, and controls."""

    def __init__(self, seed: object, loss: float = 0.0, **rules: Any) -> None:
        model = PathModel(latency_s=LATENCY_S, spread_s=0.0, jitter_s=0.0, loss=loss)
        self.world = World(f"spray {seed}", model)
        drawing = {"mapping": Behavior.ADDRESS_AND_PORT_DEPENDENT, "ports": PortRule.RANDOM, **rules}
        self.drawing = self.world.nat("drawing", DRAWING, **drawing)
        self.filtering = self.world.nat("filtering", FILTERING)
        self.many = self._side(self.drawing, (DRAWING, 9), is_controlling=True)
        self.one = self._side(self.filtering, (FILTERING, PORT), is_controlling=False)
        theirs, ours = self.one.session.description, self.many.session.description
        self.many.session.set_remote(theirs)
        self.one.session.set_remote(ours)
        self.theirs, self.ours = theirs, ours

    def _side(self, nat: Any, seen_at: tuple[str, int], *, is_controlling: bool) -> Side:
        return Side(self.world.host(INNER, behind=nat), INNER, seen_at, is_controlling=is_controlling)

    def spray(self, lag_s: float = 0.0) -> None:
        """The side of many ports begins later by `lag_s`, earlier where that is negative."""
        sides = [
            (max(0.0, -lag_s), lambda: self.many.open(self.theirs, (FILTERING, PORT))),
            (max(0.0, lag_s), lambda: self.one.try_ports(self.ours, DRAWING)),
        ]
        for delay_s, begin in sides:
            self.world.at(self.world.now + delay_s, begin)

    @property
    def is_connected(self) -> bool:
        return self.many.session.selected is not None and self.one.session.selected is not None

    def run(self, limit_s: float = LIMIT_S) -> float | None:
        """How long it took."""
        began = self.world.now
        return self.world.now - began if self.world.run(lambda: self.is_connected, limit_s) else None

    def close(self) -> None:
        for side in (self.many, self.one):
            if side.spraying is not None:
                side.spraying.close()
            side.session.close()
            side.close()
        self.world.close()


@pytest.fixture
def scene(request: pytest.FixtureRequest) -> Any:
    made = Scene(request.node.name)
    yield made
    made.close()


def took_s(seed: object, **options: Any) -> float:
    made = Scene(seed, **options)
    try:
        made.spray()
        return made.run() or float("inf")
    finally:
        made.close()


class TestConnects:
    def test_what_nothing_else_does(self, scene: Scene) -> None:
        assert scene.run(15.0) is None
        scene.spray()
        assert scene.run() is not None
        (socket, *_) = scene.many.adopted
        selected = scene.one.session.selected
        assert selected is not None
        assert selected.remote.address[0] == DRAWING
        assert not selected.is_relayed
        got: list[bytes] = []
        scene.many.session.on_data = lambda data, *_: got.append(data)
        scene.one.session.send(b"through the hole")
        scene.world.run_for(1.0)
        assert got == [b"through the hole"]
        assert scene.many.spraying is not None
        assert socket.address[0] == INNER

    def test_half_in_four_seconds_and_nearly_all_in_twenty(self) -> None:
        took = sorted(took_s(number, loss=0.02) for number in range(40))
        assert took[19] <= 4.0, took
        assert took[37] <= 20.0, took

    @pytest.mark.parametrize("lag_s", [-2.0, 2.0])
    def test_whoever_begins_later(self, scene: Scene, lag_s: float) -> None:
        scene.spray(lag_s)
        took = scene.run()
        assert took is not None
        assert took > 2.0

    def test_without_flooding_the_agents(self, scene: Scene) -> None:
        pairs = [len(side.session.agent.pairs) for side in (scene.many, scene.one)]
        scene.spray()
        scene.world.run(lambda: bool(scene.many.adopted), LIMIT_S)
        scene.world.run_for(5.0)
        for side, before in zip((scene.many, scene.one), pairs, strict=True):
            assert len(side.session.agent.pairs) <= before + 3 * MAX_ADOPTED
        assert len(scene.many.adopted) <= MAX_ADOPTED

    def test_ends_with_the_hit_and_closes_what_missed(self, scene: Scene) -> None:
        scene.spray()
        assert scene.run() is not None
        scene.world.run_for(0.2)
        assert scene.many.spraying is not None
        assert scene.one.spraying is not None
        sent = scene.many.spraying.sent, scene.one.spraying.sent
        scene.world.run_for(5.0)
        assert (scene.many.spraying.sent, scene.one.spraying.sent) == sent
        assert (scene.many.over, scene.one.over) == (1, 1)
        assert len(scene.many.runtime.host.sockets) == 1 + len(scene.many.adopted)  # type: ignore[attr-defined]


class TestStaysWithinItsBudget:
    def test_where_nothing_hits(self, scene: Scene) -> None:
        scene.world.cut(scene.drawing.inner.name, scene.filtering.inner.name)
        scene.many.open(scene.theirs, ("22.0.0.1", PORT))
        scene.one.try_ports(scene.ours, "22.0.0.2")
        scene.world.run_for(LIMIT_S + LINGER_S + 1.0)
        for side in (scene.many, scene.one):
            assert side.spraying is not None
            assert side.spraying.sent == MAX_PACKETS
        assert len(scene.many.runtime.host.sockets) == 1  # type: ignore[attr-defined]
        assert (scene.many.over, scene.one.over) == (1, 1)

    def test_closed_it_sends_no_more(self, scene: Scene) -> None:
        scene.spray()
        scene.world.run_for(0.5)
        for side in (scene.many, scene.one):
            assert side.spraying is not None
            side.spraying.close()
            side.spraying.close()
            assert side.over == 1
            sent = side.spraying.sent
            assert 0 < sent <= 60
        scene.world.run_for(5.0)
        assert scene.one.spraying is not None
        assert scene.one.spraying.sent == sent
        assert len(scene.many.runtime.host.sockets) == 1  # type: ignore[attr-defined]

    def test_only_so_many_are_under_way(self) -> None:
        room = SprayRoom(2)
        assert [room.take(f"23.{number}.0.1", 0.0) for number in range(3)] == [True, True, False]
        room.leave()
        assert [room.take(f"23.{number}.0.1", 0.0) for number in range(3, 5)] == [True, False]

    def test_no_network_is_sprayed_more_often_than_that(self) -> None:
        """Whoever has a relay's address for its own shares it with others, at whom the packets go."""
        room = SprayRoom(100)
        taken = [room.take(f"23.0.0.{number % 250}", float(number)) for number in range(600)]
        assert sum(taken) == NETWORK_SPRAY_BURST + 600 * NETWORK_SPRAYS_PER_S - 1
        assert room.take("23.0.1.1", 600.0)

    def test_nobody_unverified_is_sprayed(self, scene: Scene) -> None:
        with pytest.raises(LocalMisuse, match="verified"):
            scene.many.open(scene.theirs, (FILTERING, PORT), is_verified=False)
        with pytest.raises(LocalMisuse, match="verified"):
            scene.one.try_ports(scene.ours, DRAWING, is_verified=False)


OURS, THEIRS = Credentials("ourufrag", "o" * 24), Credentials("theirufrag", "t" * 24)
TERMS = Terms(OURS, THEIRS, Role(True, 7))
PEER = ("21.1.0.1", 4_000)


def spray(aims: Any = None, now: float = 0.0, **options: Any) -> Spray:
    aims = many_sockets(PEER) if aims is None else aims
    return Spray(TERMS, aims, random.Random(1).randbytes, now, is_verified=True, **options)


class TestCore:
    def test_every_packet_is_a_check_of_the_session(self) -> None:
        (shot,) = spray().due(0.0)
        message = decode(shot.packet)
        assert shot.packet == pack_request(message.transaction_id, Peer.of(THEIRS, OURS), TERMS.role, PRIORITY, False)

    def test_sockets_take_turns_and_repeat_their_own_request(self) -> None:
        one = spray(many_sockets(PEER, 3), pace=Pace(every_s=1.0))
        shots = [shot for number in range(6) for shot in one.due(float(number))]
        assert [shot.aim for shot in shots] == [Aim(number % 3, PEER) for number in range(6)]
        assert shots[:3] == shots[3:]
        assert len({shot.packet for shot in shots}) == 3

    def test_ports_are_each_tried_once_and_drawn_from_all(self) -> None:
        aims = list(many_ports("21.1.0.1", random.Random(1)))
        ports = [aim.address[1] for aim in aims]
        assert len(set(ports)) == len(ports) == MAX_PACKETS
        assert LOWEST_PORT <= min(ports) < LOWEST_PORT + 200
        assert HIGHEST_PORT - 200 < max(ports) <= HIGHEST_PORT
        assert quantiles(ports, n=4) == pytest.approx([17_152, 33_280, 49_408], rel=0.1)

    def test_a_hit_is_the_peers_check_or_its_answer_from_there(self) -> None:
        one = spray()
        (shot,) = one.due(0.0)
        theirs = pack_request(bytes(12), Peer.of(OURS, THEIRS), Role(False, 8), 1, nominates=False)
        answered = answer(decode(shot.packet), ("21.0.0.1", 5_000), THEIRS)
        assert one.hit(0, theirs, PEER) is Hit.CHECK
        assert one.hit(0, theirs, (PEER[0], 9)) is Hit.CHECK
        assert one.hit(0, answered, PEER) is Hit.ANSWER
        assert one.hit(1, answered, PEER) is None
        assert one.hit(0, answered, (PEER[0], 9)) is None
        assert one.hit(0, theirs, ("21.9.0.1", 4_000)) is None, "through the peer's relay"
        forged = pack_request(bytes(12), Peer("ourufrag:theirufrag", b"guessed"), Role(False, 8), 1, nominates=False)
        assert one.hit(0, forged, PEER) is None
        assert one.hit(0, answer(decode(shot.packet), PEER, OURS), PEER) is None
        assert one.hit(0, answer(decode(theirs), PEER, THEIRS), PEER) is None

    @given(st.integers(0, SOCKETS), st.binary(max_size=200), st.sampled_from([PEER, ("21.9.0.1", 1)]))
    def test_anything_else_is_none(self, socket: int, data: bytes, sender: tuple[str, int]) -> None:
        one = spray()
        one.due(0.0)
        assert one.hit(socket, data, sender) is None

    @given(st.lists(st.floats(0.0, 12.0), max_size=60), st.booleans())
    def test_whatever_the_times_the_pace_and_the_budget_hold(self, pauses: list[float], tries_ports: bool) -> None:
        one = spray(many_ports(PEER[0], random.Random(1)) if tries_ports else None)
        now = sent = 0.0
        for pause in pauses:
            now += pause
            shots = one.due(now)
            sent += len(shots)
            assert len(shots) <= MAX_AT_ONCE
            assert sent <= now / PACKET_EVERY_S + 1
            assert not shots or now < LIMIT_S
            assert all(0 <= shot.aim.socket < SOCKETS for shot in shots)
        assert sent == one.sent <= MAX_PACKETS

    def test_a_late_timer_makes_up_for_little(self) -> None:
        one = spray()
        assert len(one.due(0.0)) == 1
        assert len(one.due(10.0)) == MAX_AT_ONCE
        assert len(one.due(10.0)) <= 1
        assert one.due(10.0) == []

    def test_ends_in_time_and_by_order(self) -> None:
        one = spray()
        assert one.due(LIMIT_S) == []
        assert one.next_deadline() is None
        other = spray()
        other.end()
        assert other.due(0.0) == []

    def test_the_chance_is_that_of_the_theory(self) -> None:
        assert chance(0.0) == pytest.approx(1 / 64_512, rel=0.01)
        assert chance(2.1) == pytest.approx(0.5, abs=0.01)
        assert chance(4.0) > 0.78
        assert 0.9997 > chance(20.0) > 0.9995
        assert chance(1_000.0) == chance(21.0)
