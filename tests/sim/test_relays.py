"""Relays of peers on virtual time: credentials fetched beforehand and renewed, relays that refuse, are silent or go away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kodectl.core.identity import Identity
from kodectl.core.relay_credentials import HELD_S, SLOT_S
from kodectl.core.turn_allocations import RelayLimits
from kodectl.errors import KodectlError, NegativeAnswer
from kodectl.node.events import Events
from kodectl.node.ice_bases import Relay
from kodectl.node.lasting_relay import LOOK_EVERY_S, SILENT_LOOKS
from kodectl.node.link_requests import LinkRequests
from kodectl.node.peering import MAX_STUN_STREAMS_OF_NETWORK, Peering
from kodectl.node.persistence import MemoryStore
from kodectl.node.relay_pool import FIRST_PAUSE_S, KEPT, LONGEST_PAUSE_S, RACING, USED, RelayPool
from kodectl.node.relay_race import HEAD_START_S
from kodectl.node.relaying import BINDING_LIMIT_S, NODE_LIMITS, Relaying
from kodectl.node.stun_client import ask_over_tcp
from kodectl.node.turn_server import UNUSED_LIMIT_S, RelayPlace
from kodectl.runtime.base import Address, Stream, StreamClosed
from kodectl.settings import NodeSettings
from kodectl.sim.runtime import SimRuntime
from kodectl.sim.suite import SimSuite
from kodectl.sim.world import World
from kodectl.wire import rpc
from kodectl.wire.announcement import Ports
from kodectl.wire.enode import Enode
from kodectl.wire.messages import Hello

SUITE = SimSuite()
TCP, UDP = 30303, 30301
LIMIT_S = 5.0
HOUR = 3600.0


class Resident:
    """A node reduced to links, requests over them, and its relay."""

    def __init__(self, world: World, number: int, limits: RelayLimits | None = NODE_LIMITS) -> None:
        self.world = world
        self.runtime: SimRuntime = world.host(f"20.{number}.0.1")
        self.ip = self.runtime.ip
        self.scope = self.runtime.scope("resident")
        told = NodeSettings(listen_host=self.ip, tcp_port=TCP)
        identity = Identity(SUITE, number.to_bytes(32))
        self.node_id = identity.node_id
        hello = Hello((1,), "kodectl/test", told.network, (), Ports(TCP, UDP))
        events = Events(self.runtime)
        self.peering = Peering(self.runtime, told, identity, lambda: hello, self.scope, events, MemoryStore(), {})
        self.requests = LinkRequests(self.runtime, self.scope, self.peering)
        self.place: RelayPlace | None = RelayPlace(self.ip, self.ip)
        self.relaying = Relaying(self.runtime, self.scope, limits, lambda: self.place, lambda: (UDP, TCP))
        self.socket = self.runtime.open_datagram((self.ip, UDP), self.relaying.received)
        self.peering.on_stun = self.relaying.serve_stream
        self.asked = 0
        self.requests.quick_handlers[rpc.Kind.RELAY] = self.grant
        self.pool = RelayPool(self.runtime, self.scope, lambda: list(self.peering.links.values()), self.requests.ask)
        world.call(self.runtime, self.peering.start)
        world.call(self.runtime, self.relaying.start, self.socket.send)

    def grant(self, peer: Any, question: rpc.Relay) -> rpc.Relayed:
        self.asked += 1
        return self.relaying.grant(peer.node_id)

    @property
    def enode(self) -> Enode:
        return Enode(self.node_id, self.ip, TCP, UDP)

    def connect(self, *others: Resident) -> None:
        for other in others:
            view = self.world.call(self.runtime, self.peering.connect, other.enode, 10.0)
            assert view.outcome == "connected"

    def relays(self, *, over_tcp: bool = False) -> list[Relay]:
        return [self.world.call(self.runtime, allocate, 4) for allocate in self.pool.allocators(over_tcp=over_tcp)]

    def stop(self) -> None:
        self.peering.stop()
        self.relaying.stop()
        self.socket.close()
        self.scope.close()
        assert self.scope.join(10.0) == []


class Scene:
    """`here` is linked with three that relay."""

    def __init__(self) -> None:
        self.world = World("relays")
        self.here = Resident(self.world, 1, None)
        self.there = [Resident(self.world, number) for number in (2, 3, 4)]
        self.peer = self.world.host("20.9.0.1")
        self.echo = self.peer.open_datagram(("20.9.0.1", 700), lambda data, sender: self.echo.send(data, sender))

    def link(self) -> None:
        self.here.connect(*self.there)
        self.here.pool.start()

    def start(self) -> None:
        self.link()
        assert self.world.run(lambda: self.here.pool.at_hand == KEPT, LIMIT_S)

    def carries(self, relay: Relay) -> bool:
        heard: list[bytes] = []

        def on_data(data: bytes, peer: Address) -> None:
            heard.append(data)

        relay.on_data = on_data
        relay.permit([self.echo.local[0]])
        self.world.run_for(0.5)
        relay.send(b"there and back", self.echo.local)
        return self.world.run(lambda: heard == [b"there and back"], LIMIT_S)

    def relay_of(self, relay: Relay) -> Resident:
        return next(one for one in self.there if one.ip == relay.relayed[0])


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    with scene.world as world:
        scene.echo.close()
        everybody = (scene.here, *scene.there)
        for resident in everybody:
            world.spawn(resident.runtime, "stop", resident.stop)
        assert world.run(lambda: not any(one.runtime.host.tasks.running for one in everybody), 60.0)


@pytest.mark.parametrize("over_tcp", [False, True])
def test_two_peers_relay_with_credentials_that_were_at_hand(scene: Scene, over_tcp: bool) -> None:
    scene.start()
    asked = sum(one.asked for one in scene.there)
    relays = scene.here.relays(over_tcp=over_tcp)
    assert len({relay.relayed[0] for relay in relays}) == USED
    assert all(scene.carries(relay) for relay in relays)
    assert sum(one.asked for one in scene.there) == asked
    view = scene.relay_of(relays[0]).relaying.view()
    assert (view.state, view.allocations, view.relayed_packets) == ("on", 1, 2)
    for relay in relays:
        relay.close()
    scene.world.run_for(1.0)
    assert [one.relaying.view().allocations for one in scene.there] == [0, 0, 0]


def test_where_udp_gets_nowhere_it_is_relays_over_tcp(scene: Scene) -> None:
    scene.start()
    for one in scene.there:
        one.socket.close()
    began = scene.world.now
    relays = scene.here.relays()
    assert len(relays) == USED
    assert scene.world.now - began <= USED * (RACING * HEAD_START_S + 1.0)
    assert all(scene.carries(relay) for relay in relays)
    scene.world.run_for(1.0)
    assert sum(one.relaying.view().allocations for one in scene.there) == USED


def test_a_silent_relay_is_not_waited_for(scene: Scene) -> None:
    scene.start()
    first = next(one for one in scene.there if one.node_id == next(iter(scene.here.pool._grants)))
    first.socket.close()
    began = scene.world.now
    relay = scene.here.relays()[0]
    assert scene.world.now - began <= 2 * (HEAD_START_S + 1.0)
    assert relay.relayed[0] != first.ip
    assert scene.carries(relay)


def test_relays_are_to_be_had_after_their_links_have_gone(scene: Scene) -> None:
    scene.start()
    for one in scene.there:
        scene.world.call(scene.here.runtime, scene.here.peering.disconnect, one.node_id)
    scene.world.run_for(30.0)
    assert scene.here.pool.at_hand == 0
    relays = scene.here.relays()
    assert len(relays) == USED
    assert all(scene.carries(relay) for relay in relays)


def test_no_relay_at_all_is_told_when_the_last_has_failed(scene: Scene) -> None:
    scene.start()
    for one in scene.there:
        one.place = None
        scene.world.call(one.runtime, one.relaying.follow)
    with pytest.raises(KodectlError):
        scene.here.relays()


def test_credentials_are_renewed_at_half_life(scene: Scene) -> None:
    scene.start()
    scene.world.run_for(4 * HOUR)
    assert scene.here.pool.at_hand == KEPT
    for one in scene.there:
        assert 4 * HOUR / (2 * SLOT_S) <= one.asked <= 4 * HOUR / (SLOT_S / 2) + 1
    assert all(scene.carries(relay) for relay in scene.here.relays())


@pytest.mark.parametrize("over_tcp", [False, True])
def test_what_is_relayed_outlives_its_credentials_and_the_link(scene: Scene, over_tcp: bool) -> None:
    scene.start()
    relay = scene.here.relays(over_tcp=over_tcp)[0]
    giver = scene.relay_of(relay)
    scene.world.call(scene.here.runtime, scene.here.peering.disconnect, giver.node_id)
    address = relay.relayed
    scene.world.run_for(2 * SLOT_S + HOUR)
    assert relay.relayed == address
    assert scene.carries(relay)


def test_nobody_keeps_an_address_for_good(scene: Scene) -> None:
    scene.start()
    relay = scene.here.relays()[0]
    before = relay.relayed
    moved: list[Address] = []
    relay.on_moved = lambda: moved.append(relay.relayed)
    scene.world.run_for(2 * SLOT_S + HELD_S + HOUR)
    assert moved[0] != before
    assert scene.carries(relay)


def test_a_relay_that_goes_is_replaced_by_another_peers(scene: Scene) -> None:
    scene.start()
    relay, _ = scene.here.relays(over_tcp=True)
    giver = scene.relay_of(relay)
    moved: list[Address] = []
    lost: list[KodectlError] = []
    relay.on_moved, relay.on_lost = lambda: moved.append(relay.relayed), lost.append
    scene.world.run_for(60.0)
    giver.place = None
    scene.world.call(giver.runtime, giver.relaying.follow)
    assert scene.world.run(lambda: bool(moved), 60.0)
    assert moved[0][0] != giver.ip
    assert scene.carries(relay)
    assert lost == []
    assert giver.relaying.view().state == "unreachable"


def talk(scene: Scene, relay: Relay, seconds: float) -> None:
    """As ICE does with a path that nothing comes from."""
    for _ in range(int(seconds)):
        relay.permit([scene.echo.local[0]])
        relay.send(b"anybody?", scene.echo.local)
        scene.world.run_for(1.0)


def test_a_relay_that_dies_without_a_word_is_replaced(scene: Scene) -> None:
    scene.start()
    relay = scene.here.relays()[0]
    assert scene.carries(relay)
    talk(scene, relay, 60)
    moved: list[Address] = []
    relay.on_moved = lambda: moved.append(relay.relayed)
    for one in scene.there:
        if one.ip == relay.relayed[0]:
            scene.world.cut(scene.here.ip, one.ip)
    talk(scene, relay, 4 * LOOK_EVERY_S)
    assert len(moved) == 1
    assert scene.carries(relay)
    talk(scene, relay, 120)
    assert len(moved) == 1
    scene.world.heal()


def test_where_the_other_side_is_gone_few_relays_are_tried(scene: Scene) -> None:
    scene.start()
    relay = scene.here.relays()[0]
    moved: list[Address] = []
    relay.on_moved = lambda: moved.append(relay.relayed)
    scene.world.cut(scene.peer.ip, "20.2.0.1")
    scene.world.cut(scene.peer.ip, "20.3.0.1")
    scene.world.cut(scene.peer.ip, "20.4.0.1")
    talk(scene, relay, 600)
    assert len(moved) == len(SILENT_LOOKS)
    assert sum(one.relaying.view().allocations for one in scene.there) == USED
    scene.world.heal()
    assert scene.carries(relay)


def test_who_says_nothing_need_not_hear_anything(scene: Scene) -> None:
    scene.start()
    relay = scene.here.relays()[0]
    moved: list[Address] = []
    relay.on_moved = lambda: moved.append(relay.relayed)
    scene.world.run_for(HOUR)
    assert moved == []


def test_where_nobody_relays_any_more_it_is_told(scene: Scene) -> None:
    scene.start()
    relay = scene.here.relays(over_tcp=True)[0]
    lost: list[KodectlError] = []
    relay.on_lost = lost.append
    scene.world.run_for(60.0)
    for one in scene.there:
        one.place = None
        scene.world.call(one.runtime, one.relaying.follow)
    assert scene.world.run(lambda: bool(lost), 120.0)


@pytest.mark.parametrize("over_tcp", [False, True])
def test_a_node_that_needs_none_asks_when_it_is_urgent(scene: Scene, over_tcp: bool) -> None:
    here = scene.here
    here.connect(*scene.there)
    links, ask = here.peering.links, here.requests.ask
    here.pool = RelayPool(here.runtime, here.scope, lambda: list(links.values()), ask, is_needed=lambda: False)
    here.pool.start()
    scene.world.run_for(60.0)
    assert here.pool.at_hand == 0
    assert here.pool.allocators(over_tcp=over_tcp) == ()
    relays = [
        scene.world.call(here.runtime, allocate, 4)
        for allocate in here.pool.allocators(over_tcp=over_tcp, is_urgent=True)
    ]
    assert len({relay.relayed[0] for relay in relays}) == USED
    assert all(scene.carries(relay) for relay in relays)
    assert sum(one.asked for one in scene.there) == KEPT


def test_where_nobody_grants_anything_an_urgent_question_has_its_answer_at_once(scene: Scene) -> None:
    for one in scene.there:
        one.place = None
        scene.world.call(one.runtime, one.relaying.follow)
    scene.here.connect(*scene.there)
    began = scene.world.now
    for _ in range(2):
        allocate = scene.here.pool.allocators(over_tcp=False, is_urgent=True)[0]
        with pytest.raises(NegativeAnswer, match="no peer relays"):
            scene.world.call(scene.here.runtime, allocate, 4)
    assert scene.world.now - began < 1.0
    assert sum(one.asked for one in scene.there) == KEPT, "who has refused is left alone for a while"


def test_refusals_are_remembered_and_forgotten_in_time(scene: Scene) -> None:
    for one in scene.there:
        one.place = None
        scene.world.call(one.runtime, one.relaying.follow)
    scene.link()
    scene.world.run_for(HOUR)
    assert scene.here.pool.at_hand == 0
    assert scene.here.pool.allocators(over_tcp=False) == ()
    for one in scene.there:
        assert 5 <= one.asked <= HOUR / LONGEST_PAUSE_S + 8
        one.place = RelayPlace(one.ip, one.ip)
        scene.world.call(one.runtime, one.relaying.follow)
    assert scene.world.run(lambda: scene.here.pool.at_hand == KEPT, LONGEST_PAUSE_S + LIMIT_S)


def test_who_is_silent_holds_up_nobody(scene: Scene) -> None:
    silent = scene.there[0]
    del silent.requests.quick_handlers[rpc.Kind.RELAY]
    silent.requests.handlers[rpc.Kind.RELAY] = lambda peer, question: silent.scope.sleep(HOUR)
    scene.link()
    assert scene.world.run(lambda: scene.here.pool.at_hand == 2, 1.0)
    assert all(scene.carries(relay) for relay in scene.here.relays())


@pytest.mark.parametrize(
    "answer",
    [
        rpc.Relayed(99, "1:ab", "secret", 3600, UDP, TCP),
        rpc.Relayed(0, "", "", 3600, UDP, TCP),
        rpc.Relayed(0, "1:ab", "", 3600, UDP, TCP),
        rpc.Relayed(0, "1:ab", "secret", 0, UDP, TCP),
        rpc.Relayed(0, "1:ab", "secret", 1, UDP, TCP),
        rpc.Relayed(0, "1:ab", "secret", 2**32 - 1, 0, 0),
        rpc.ErrorAnswer(rpc.ErrorCode.BUSY),
    ],
)
def test_answers_that_are_of_no_use(scene: Scene, answer: rpc.Body) -> None:
    liar = scene.there[0]
    asked: list[float] = []

    def lie(peer: Any, question: rpc.Relay) -> rpc.Body:
        asked.append(scene.world.now)
        return answer

    liar.requests.quick_handlers[rpc.Kind.RELAY] = lie
    scene.link()
    scene.world.run_for(60.0)
    assert len(asked) <= 60.0 / FIRST_PAUSE_S
    assert {relay.relayed[0] for relay in scene.here.relays()} == {one.ip for one in scene.there[1:]}
    scene.world.run_for(2 * HOUR)
    assert len(asked) <= 2 * HOUR / LONGEST_PAUSE_S + 8


@pytest.mark.parametrize("relays", [False, True])
def test_binding_is_answered_over_tcp_with_and_without_a_relay(scene: Scene, relays: bool) -> None:
    one = scene.there[1]
    one.place = one.place if relays else None
    scene.world.call(one.runtime, one.relaying.follow)
    answer = scene.world.call(scene.here.runtime, ask_over_tcp, scene.here.runtime, (one.ip, TCP), LIMIT_S)
    assert answer.mapped[0] == scene.here.ip


@pytest.mark.parametrize(("relays", "limit_s"), [(False, BINDING_LIMIT_S), (True, UNUSED_LIMIT_S)])
def test_connections_that_only_begin_end(scene: Scene, relays: bool, limit_s: float) -> None:
    one, here = scene.there[0], scene.here.runtime
    one.place = one.place if relays else None
    scene.world.call(one.runtime, one.relaying.follow)

    def lasts() -> float:
        stream = here.connect((one.ip, TCP), LIMIT_S)
        began = here.now()
        stream.write(b"\x00\x01")
        with pytest.raises(StreamClosed):
            stream.read_exactly(1)
        return here.now() - began

    assert scene.world.call(here, lasts) == pytest.approx(limit_s, abs=1.0)


def test_one_network_does_not_take_all_places_for_connections(scene: Scene) -> None:
    one, here = scene.there[0], scene.here.runtime

    def begun() -> list[Stream]:
        streams = []
        for _ in range(MAX_STUN_STREAMS_OF_NETWORK + 3):
            streams.append(here.connect((one.ip, TCP), LIMIT_S))
            streams[-1].write(b"\x00\x03")
            here.event().wait(0.5)
        return streams

    streams = scene.world.call(here, begun)
    with pytest.raises(NegativeAnswer):
        scene.world.call(here, ask_over_tcp, here, (one.ip, TCP), LIMIT_S)
    assert scene.world.call(scene.peer, ask_over_tcp, scene.peer, (one.ip, TCP), LIMIT_S).mapped[0] == scene.peer.ip
    for stream in streams:
        stream.close()
    scene.world.run_for(1.0)
    assert scene.world.call(here, ask_over_tcp, here, (one.ip, TCP), LIMIT_S).mapped[0] == scene.here.ip


SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
KINDS = [b"\x00\x01", b"\x00\x03", b"\x00\x04", b"\x00\x08", b"\x00\x09", b"\x00\x16", b"\x40\x00"]


@SETTINGS
@given(kind=st.sampled_from(KINDS), rest=st.binary(max_size=60), has_cookie=st.booleans())
def test_any_datagram_of_a_stranger_leaves_nothing(scene: Scene, kind: bytes, rest: bytes, has_cookie: bool) -> None:
    one = scene.there[0]
    head = kind + len(rest).to_bytes(2) + b"\x21\x12\xa4\x42" + bytes(12) if has_cookie else kind
    one.relaying.received(head + rest, ("20.66.0.1", 666))
    assert one.relaying.view().allocations == 0


@SETTINGS
@given(kind=st.sampled_from([b"\x00\x01", b"\x00\x03"]), rest=st.binary(max_size=60), relays=st.booleans())
def test_any_bytes_over_tcp_end_at_most_their_own_connection(
    scene: Scene, kind: bytes, rest: bytes, relays: bool
) -> None:
    one, here = scene.there[0], scene.here.runtime
    one.place = RelayPlace(one.ip, one.ip) if relays else None
    scene.world.call(one.runtime, one.relaying.follow)

    def talks() -> None:
        stream = here.connect((one.ip, TCP), LIMIT_S)
        stream.write(kind + rest)
        here.event().wait(0.2)
        stream.close()

    scene.world.call(here, talks)
    scene.world.run_for(0.5)
    assert scene.world.call(here, ask_over_tcp, here, (one.ip, TCP), LIMIT_S).mapped[0] == scene.here.ip


def test_a_bug_met_in_what_a_stranger_sends_costs_his_stream_alone(scene: Scene) -> None:
    there = scene.there[0]

    def fails(stream: Stream) -> NoReturn:
        raise ZeroDivisionError

    there.peering.on_stun = fails
    with pytest.raises(NegativeAnswer):
        scene.world.call(scene.peer, ask_over_tcp, scene.peer, (there.ip, TCP), LIMIT_S, 0)
    scene.here.connect(there)
