"""A node as a relay for others, and the relays that a node keeps at hand, on virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import pytest
from town import Town, town_of

from kodectl.core.stun_answers import NETWORK_BURST
from kodectl.core.turn_allocations import RelayLimits
from kodectl.core.turn_requests import LENGTHENING
from kodectl.errors import KodectlError, NegativeAnswer, NotAuthorised, PeerFault
from kodectl.node.node import Node
from kodectl.node.relay_pool import (
    FIRST_PAUSE_S,
    KEPT,
    LONGEST_PAUSE_S,
    MAX_LIFETIME_S,
    MIN_LIFETIME_S,
    USED,
    RelayPool,
)
from kodectl.node.relaying import NODE_LIMITS, Relaying
from kodectl.node.turn_client import Allocation, TurnServer, allocate
from kodectl.node.turn_server import RelayPlace
from kodectl.runtime.base import Address, Runtime
from kodectl.sim.network import PathModel
from kodectl.sim.runtime import SimRuntime
from kodectl.sim.world import World
from kodectl.wire import rpc
from kodectl.wire.rpc import Relayed, RelayStatus
from kodectl.wire.stun import Attribute, Message, MessageClass, Method, encode

ANN, BOB = b"a" * 32, b"b" * 32
ASKED_OF = "25.1.0.1"
UDP_PORT, TCP_PORT = 30_301, 30_302
Transport = Literal["udp", "tcp"]


def server_of(host: str, granted: Relayed, transport: Transport = "udp") -> TurnServer:
    port = granted.udp_port if transport == "udp" else granted.tcp_port
    return TurnServer(host, port, transport, granted.username, granted.password)


def allocated(world: World, client: Runtime, server: TurnServer) -> Allocation:
    assert isinstance(client, SimRuntime)
    allocation: Allocation = world.call(client, allocate, client, client.scope("turn client"), server)
    return allocation


def carries(world: World, near: Allocation, far: Allocation) -> bool:
    """Whether data gets from one to the other, each at its relayed address."""
    heard: list[bytes] = []
    far.on_data = lambda data, peer: heard.append(data)
    far.permit([near.relayed[0]])
    near.permit([far.relayed[0]])
    world.run_for(1.0)
    for _ in range(3):
        near.send(b"there", far.relayed)
        world.run_for(0.5)
    return b"there" in heard


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    with town_of(4) as town:
        yield town


@pytest.fixture(scope="module")
def hidden(town: Town) -> Node:
    node = town.behind(town.box(1, udp_blocked=True))
    assert town.world.run(lambda: town.settled(node), 60.0)
    return node


class TestNodes:
    """Whole ones, of which all but one are on the internet."""

    @staticmethod
    def asked(town: Town, asker: Node, relay: Node) -> Relayed:
        peer = asker.peering.links[relay.identity.node_id]
        answer: Relayed = town.world.call(asker.runtime, asker.connectivity.link_requests.ask, peer, rpc.Relay(), 3.0)
        return answer

    def test_one_that_is_reached_relays(self, town: Town, hidden: Node) -> None:
        world, relay = town.world, town.open[0]
        granted = self.asked(town, hidden, relay)
        assert granted.status == RelayStatus.GRANTED
        assert (granted.udp_port, granted.tcp_port) == (relay.udp_port, relay.tcp_port)
        hosts = [world.host(f"24.{number}.0.1") for number in (1, 2)]
        near, far = (allocated(world, host, server_of("21.0.0.1", granted)) for host in hosts)
        assert carries(world, near, far)
        assert relay.connectivity.relaying.view().allocations == 2
        for one in (near, far):
            one.close()

    def test_one_without_udp_is_relayed_for_over_the_tcp_port(self, town: Town, hidden: Node) -> None:
        world, relay = town.world, town.open[0]
        granted = self.asked(town, hidden, relay)
        with pytest.raises(NegativeAnswer) as silent:
            allocated(world, hidden.runtime, server_of("21.0.0.1", granted))
        assert silent.value.code == "no_answer"
        near = allocated(world, hidden.runtime, server_of("21.0.0.1", granted, "tcp"))
        far = allocated(world, world.host("24.3.0.1"), server_of("21.0.0.1", granted))
        assert carries(world, near, far)
        assert carries(world, far, near)
        assert relay.identity.node_id in hidden.peering.links
        near.close()
        far.close()

    def test_one_behind_a_box_refuses(self, town: Town, hidden: Node) -> None:
        relaying = hidden.connectivity.relaying
        assert relaying.grant(ANN) == Relayed(RelayStatus.OFF)
        assert relaying.view().state == "unreachable"

    def test_one_that_is_told_not_to_refuses(self, town: Town) -> None:
        node = town.node(town.world.host("24.4.0.1"), relay=None)
        assert town.world.run(lambda: town.settled(node), 60.0)
        assert node.connectivity.relaying.grant(ANN) == Relayed(RelayStatus.OFF)
        assert node.connectivity.relaying.view().state == "off"

    def test_what_one_gave_is_worth_nothing_on_another(self, town: Town, hidden: Node) -> None:
        granted = self.asked(town, hidden, town.open[0])
        with pytest.raises(NotAuthorised):
            allocated(town.world, town.world.host("24.5.0.1"), server_of("21.1.0.1", granted))

    def test_one_without_udp_has_relays_at_hand(self, town: Town, hidden: Node) -> None:
        assert town.world.run(lambda: hidden.connectivity.relays.at_hand >= USED, 30.0)


class Served(NamedTuple):
    """A relay alone, on a host's sockets."""

    world: World
    relaying: Relaying
    places: list[RelayPlace | None]
    """The last one holds."""
    answers: list[tuple[bytes, Address]]

    def client(self, ip: str, node_id: bytes, transport: Transport = "udp") -> Allocation:
        return self.with_grant(ip, self.relaying.grant(node_id), transport)

    def with_grant(self, ip: str, granted: Relayed, transport: Transport = "udp") -> Allocation:
        return allocated(self.world, self.world.host(ip), server_of(ASKED_OF, granted, transport))

    def moved(self, place: RelayPlace | None) -> None:
        self.places.append(place)
        self.relaying.follow()
        self.world.run_for(1.0)


def serve(world: World, limits: RelayLimits = NODE_LIMITS, ip: str = ASKED_OF) -> Served:
    runtime = world.host(ip)
    scope = runtime.scope("node")
    places: list[RelayPlace | None] = [RelayPlace(ip, ip)]
    relaying = Relaying(runtime, scope, limits, lambda: places[-1], lambda: (UDP_PORT, TCP_PORT))

    def received(data: bytes, sender: Address) -> None:
        relaying.received(data, sender)

    socket = runtime.open_datagram((ip, UDP_PORT), received)
    answers: list[tuple[bytes, Address]] = []

    def send(data: bytes, address: Address) -> None:
        answers.append((data, address))
        socket.send(data, address)

    runtime.listen((ip, TCP_PORT), lambda stream: scope.spawn("client", relaying.serve_stream, stream))
    relaying.start(send)
    return Served(world, relaying, places, answers)


@pytest.fixture
def world() -> Iterator[World]:
    with World(7, PathModel(latency_s=0.02, spread_s=0.01)) as world:
        yield world


@pytest.fixture
def served(world: World) -> Served:
    return serve(world)


def refusal(attempt: Callable[[], Any]) -> str | None:
    with pytest.raises(PeerFault) as refused:
        attempt()
    return refused.value.code


class TestQuotas:
    def test_are_by_the_node_wherever_it_is_and_by_whatever_name(self, world: World) -> None:
        served = serve(world, RelayLimits(user_allocations=2))
        served.client("26.1.0.1", ANN)
        world.run_for(1900.0)
        served.client("26.2.0.1", ANN)
        assert refusal(lambda: served.client("26.3.0.1", ANN)) == "turn_quota"
        served.client("26.4.0.1", BOB)

    def test_are_by_the_network_whoever_it_is(self, world: World) -> None:
        served = serve(world, RelayLimits(network_allocations=2))
        for number in (1, 2):
            served.client(f"26.1.0.{number}", bytes([number]) * 32)
        assert refusal(lambda: served.client("26.1.0.3", ANN)) == "turn_quota"
        served.client("26.1.1.1", ANN)

    def test_who_asks_a_full_one_is_told_before_it_tries(self, world: World) -> None:
        served = serve(world, RelayLimits(allocations=2))
        granted = served.relaying.grant(BOB)
        held = [served.client(f"26.{number}.0.1", ANN) for number in (1, 2)]
        assert served.relaying.grant(ANN) == Relayed(RelayStatus.FULL)
        assert refusal(lambda: served.with_grant("26.3.0.1", granted)) == "turn_capacity"
        held[0].close()
        world.run_for(1.0)
        assert served.relaying.grant(ANN).status == RelayStatus.GRANTED
        served.with_grant("26.4.0.1", granted)

    def test_a_place_is_free_again_when_a_connection_ends(self, world: World) -> None:
        served = serve(world, RelayLimits(allocations=1))
        served.client("26.1.0.1", ANN, "tcp")
        world.crash("26.1.0.1")
        assert world.run(lambda: served.relaying.view().allocations == 0, 700.0)


class TestCredentials:
    def test_expire_for_who_comes_late_and_not_for_who_is_served(self, served: Served) -> None:
        granted = served.relaying.grant(ANN)
        near, far = (served.with_grant(f"26.{number}.0.1", granted) for number in (1, 2))
        served.world.run_for(granted.lifetime_s + 1.0)
        with pytest.raises(NotAuthorised):
            served.with_grant("26.3.0.1", granted)
        served.world.run_for(1200.0)
        assert carries(served.world, near, far)

    def test_are_worth_nothing_in_the_name_of_another(self, served: Served) -> None:
        ann, bob = served.relaying.grant(ANN), served.relaying.grant(BOB)
        forged = Relayed(RelayStatus.GRANTED, bob.username, ann.password, 60, UDP_PORT, TCP_PORT)
        with pytest.raises(NotAuthorised):
            served.with_grant("26.1.0.1", forged)


class TestAddress:
    OTHER = RelayPlace(ASKED_OF, "25.2.0.1")
    """As behind a box that translates one to one."""

    def test_is_followed(self, served: Served) -> None:
        granted = served.relaying.grant(ANN)
        assert served.with_grant("26.1.0.1", granted).relayed[0] == ASKED_OF
        served.moved(self.OTHER)
        assert served.relaying.view().address == self.OTHER.external_ip
        assert served.with_grant("26.2.0.1", granted).relayed[0] == self.OTHER.external_ip

    def test_is_kept_while_it_is_the_same(self, served: Served) -> None:
        near, far = (served.client(f"26.{number}.0.1", ANN) for number in (1, 2))
        served.moved(RelayPlace(ASKED_OF, ASKED_OF))
        assert carries(served.world, near, far)

    def test_is_given_up_where_strangers_do_not_get_through(self, served: Served) -> None:
        held = served.client("26.1.0.1", ANN)
        lost: list[KodectlError] = []
        held.on_lost = lost.append
        served.moved(None)
        assert served.relaying.grant(ANN) == Relayed(RelayStatus.OFF)
        assert served.relaying.view().allocations == 0
        assert served.world.run(lambda: bool(lost), 1200.0)
        served.moved(RelayPlace(ASKED_OF, ASKED_OF))
        served.client("26.2.0.1", ANN)

    def test_is_no_relays_any_more_once_it_has_stopped(self, served: Served) -> None:
        served.world.call(served.world.host("26.9.0.1"), served.relaying.stop)
        served.moved(self.OTHER)
        assert served.relaying.grant(ANN) == Relayed(RelayStatus.OFF)


class TestKeepalives:
    @pytest.mark.parametrize("kind", [MessageClass.INDICATION, MessageClass.REQUEST])
    def test_over_tcp_do_not_end_what_is_relayed(self, served: Served, kind: MessageClass) -> None:
        """As foreign clients send them, and also when the answers are used up."""
        world, client = served.world, served.world.host("26.1.0.1")
        near = allocated(world, client, server_of(ASKED_OF, served.relaying.grant(ANN), "tcp"))
        line: Any = near._line
        for number in range(100):
            world.call(client, line.send, [encode(Message(kind, Method.BINDING, number.to_bytes(12), ()))])
        world.run_for(1.0)
        far = served.client("26.2.0.1", BOB)
        assert carries(world, near, far)
        assert served.relaying.view().allocations == 2


class TestAbuse:
    @staticmethod
    def allocate_packet(number: int, *more: tuple[int, Any]) -> bytes:
        contents = ((Attribute.REQUESTED_TRANSPORT, 17), *more)
        return encode(Message(MessageClass.REQUEST, Method.ALLOCATE, number.to_bytes(12), contents))

    def test_strangers_are_answered_at_a_rate_of_a_node_beside_its_work(self, served: Served) -> None:
        flooder = served.world.host("26.1.0.1")
        socket = flooder.open_datagram(("26.1.0.1", 0), lambda data, sender: None)
        for number in range(1000):
            socket.send(self.allocate_packet(number, LENGTHENING), (ASKED_OF, UDP_PORT))
        served.world.run_for(1.0)
        assert 0 < len(served.answers) <= NETWORK_BURST + 20
        served.client("26.2.0.1", ANN)

    def test_strangers_get_no_more_than_they_send(self, served: Served) -> None:
        """The sender of each may be forged; and not his to whom the relay has given credentials."""
        flooder = served.world.host("26.1.0.1")
        socket = flooder.open_datagram(("26.1.0.1", 0), lambda data, sender: None)
        for length in range(0, 124, 4):
            socket.send(self.allocate_packet(length, (Attribute.SOFTWARE, "x" * length)), (ASKED_OF, UDP_PORT))
        served.world.run_for(1.0)
        assert served.answers
        assert all(len(answer) <= 20 + 8 + 4 + answer[19] for answer, _ in served.answers)
        served.answers.clear()
        served.relaying.grant(ANN, "26.1.0.1")
        socket.send(self.allocate_packet(1), (ASKED_OF, UDP_PORT))
        served.world.run_for(1.0)
        assert len(served.answers) == 1

    @pytest.mark.parametrize("ip", ["127.0.0.1", "127.0.0.53", "10.0.0.1", "192.168.1.1", "169.254.169.254"])
    def test_nobody_gets_into_the_relays_own_networks(self, served: Served, ip: str) -> None:
        allocation = served.client("26.1.0.1", ANN)
        refused: list[Any] = []
        allocation.on_lost = refused.append
        allocation.permit([ip])
        allocation.send(b"x", (ip, 9))
        served.world.run_for(2.0)
        assert served.relaying.view().relayed_packets == 0

    def test_of_the_relay_itself_only_relayed_ports_are_reached(self, served: Served) -> None:
        near = served.client("26.1.0.1", ANN)
        for port in (UDP_PORT, TCP_PORT, 80):
            near.permit([ASKED_OF])
            near.send(b"x", (ASKED_OF, port))
        served.world.run_for(2.0)
        assert served.relaying.view().relayed_packets == 0
        assert carries(served.world, near, served.client("26.2.0.1", BOB))


class LinkState:
    closed = False


class Linked(NamedTuple):
    """As much of a peer as the pool sees."""

    node_id: bytes
    remote: Address
    link: LinkState


def linked(number: int) -> Linked:
    return Linked(bytes([number]) * 32, (f"27.{number}.0.1", 1), LinkState())


class Pool:
    """A pool whose peers answer as a test says, and when they were asked."""

    def __init__(self, world: World, count: int, lifetime_s: int = 3000) -> None:
        self.world = world
        self.runtime = runtime = world.host("28.0.0.1")
        self.peers: list[Any] = [linked(number) for number in range(1, count + 1)]
        self.asked: dict[bytes, list[float]] = {}
        self.refusing: set[bytes] = set()
        self.silent: set[bytes] = set()
        self.lifetime_s = lifetime_s
        self.tcp_port = 2
        self.granting: dict[str, Callable[[], Relayed]] = {}
        """Real relays, by where they are."""
        self.pool = RelayPool(runtime, runtime.scope("pool"), lambda: self.peers, self.answer)
        self.pool.start()
        world.run_for(0.5)

    def answer(self, peer: Any, body: rpc.Body, limit_s: float) -> Relayed:
        self.asked.setdefault(peer.node_id, []).append(self.world.now)
        if peer.node_id in self.silent:
            raise NegativeAnswer("no answer", code="no_answer")
        if peer.node_id in self.refusing:
            return Relayed(RelayStatus.FULL)
        if self.granting:
            return self.granting[peer.remote[0]]()
        return Relayed(RelayStatus.GRANTED, "name", "password", self.lifetime_s, 1, self.tcp_port)

    def times(self, place: int) -> list[float]:
        return self.asked.get(self.peers[place].node_id, [])


def gaps(times: Sequence[float]) -> list[float]:
    return [later - former for former, later in pairwise(times)]


class TestPool:
    def test_keeps_some_at_hand_and_uses_two(self, world: World) -> None:
        pool = Pool(world, KEPT + 2)
        assert pool.pool.at_hand == KEPT
        assert len(pool.pool.allocators(over_tcp=False)) == len(pool.pool.allocators(over_tcp=True)) == USED
        assert list(pool.asked) == [peer.node_id for peer in pool.peers[:KEPT]]

    def test_renews_at_half_of_a_life(self, world: World) -> None:
        pool = Pool(world, 1)
        world.run_for(6100.0)
        assert [round(gap, -1) for gap in gaps(pool.times(0))] == [1500] * 4
        assert pool.pool.at_hand == 1

    @pytest.mark.parametrize("lifetime_s", [2**31, 10**9])
    def test_believes_no_long_life(self, world: World, lifetime_s: int) -> None:
        pool = Pool(world, 1, lifetime_s)
        world.run_for(MAX_LIFETIME_S / 2 + 2.0)
        assert len(pool.times(0)) == 2

    @pytest.mark.parametrize("lifetime_s", [0, MIN_LIFETIME_S - 1])
    def test_does_not_ask_for_what_is_over_at_once(self, world: World, lifetime_s: int) -> None:
        pool = Pool(world, 1, lifetime_s)
        world.run_for(60.0)
        assert pool.pool.at_hand == 0
        assert len(pool.times(0)) < 6

    def test_forgets_whom_it_is_not_linked_with(self, world: World) -> None:
        pool = Pool(world, 2)
        pool.peers[0].link.closed = True
        assert pool.pool.at_hand == 1
        del pool.peers[0]
        world.run_for(2000.0)
        assert pool.pool.at_hand == 1

    def test_has_new_ones_for_a_new_link_to_the_same_node(self, world: World) -> None:
        pool = Pool(world, 1)
        pool.peers[0].link.closed = True
        pool.peers[0] = linked(1)
        world.run_for(1.5)
        assert (pool.pool.at_hand, len(pool.times(0))) == (1, 2)

    @pytest.mark.parametrize("how", ["refusing", "silent"])
    def test_asks_ever_more_rarely_who_does_not_relay(self, world: World, how: str) -> None:
        pool = Pool(world, 0)
        pool.peers = [linked(1)]
        getattr(pool, how).add(pool.peers[0].node_id)
        world.run_for(2000.0)
        between = gaps(pool.times(0))
        assert between == sorted(between)
        assert FIRST_PAUSE_S <= between[0] < 2 * FIRST_PAUSE_S
        assert LONGEST_PAUSE_S <= between[-1] <= LONGEST_PAUSE_S + 2.0
        assert len(between) < 12
        getattr(pool, how).clear()
        world.run_for(LONGEST_PAUSE_S + 2.0)
        assert pool.pool.at_hand == 1

    def test_asks_others_in_place_of_who_does_not_relay(self, world: World) -> None:
        pool = Pool(world, 0)
        pool.peers = [linked(number) for number in range(1, KEPT + 3)]
        pool.refusing |= {peer.node_id for peer in pool.peers[:2]}
        world.run_for(3.0)
        assert pool.pool.at_hand == KEPT

    def test_uses_over_tcp_who_has_a_port_for_it(self, world: World) -> None:
        pool = Pool(world, 0)
        pool.tcp_port = 0
        pool.peers = [linked(1)]
        world.run_for(1.5)
        assert len(pool.pool.allocators(over_tcp=False)) == 1
        assert pool.pool.allocators(over_tcp=True) == ()

    def test_uses_two_different_ones_also_when_one_has_gone(self, world: World) -> None:
        pool = Pool(world, 0)
        relays = {f"27.{number}.0.1": serve(world, ip=f"27.{number}.0.1").relaying for number in (1, 2, 3)}
        pool.granting = {ip: partial(relay.grant, ANN) for ip, relay in relays.items()}
        pool.peers = [linked(number) for number in (1, 2, 3)]
        world.run_for(2.0)
        held = [world.call(pool.runtime, one, 4) for one in pool.pool.allocators(over_tcp=False)]
        used = [one.server[0] for one in held]
        assert len(set(used)) == USED
        world.crash(used[0])
        gone = next(peer for peer in pool.peers if peer.remote[0] == used[0])
        gone.link.closed = True
        pool.peers.remove(gone)
        for one in held:
            one.permit(["29.0.0.1"])

        for _ in range(240):
            if held[0].server[0] == used[0]:
                held[0].send(b"x", ("29.0.0.1", 9))
                world.run_for(1.0)
        assert {one.server[0] for one in held} == set(relays) - {used[0]}
