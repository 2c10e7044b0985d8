"""Paths kept alive side by side, on virtual time: the first that works, a better one, the next best, and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
from ice_sides import A_IP, B_IP, RELAY_IP, STUN, Relay, Side, Two, stun_server

from kodectl.core.ice.agent import FAILURE_PATIENCE_S, RETRY_S
from kodectl.core.ice.live import DEAD_AFTER_S, INTERVAL_S, QUICK_S, SPREAD
from kodectl.core.mapping import Transport
from kodectl.core.nat import Behavior
from kodectl.errors import NegativeAnswer
from kodectl.node.ice_bases import SocketBase
from kodectl.node.tcp_base import TcpBase
from kodectl.runtime.base import Stream
from kodectl.sim.nat import Nat
from kodectl.sim.network import PathModel
from kodectl.sim.runtime import SimRuntime
from kodectl.sim.world import World
from kodectl.wire.candidates import Candidate, CandidateType

ROUND_TRIP_S = 0.1
UNPROMPTED_S = INTERVAL_S * (1 + SPREAD) + DEAD_AFTER_S + ROUND_TRIP_S
"""Until a path is known to be dead by who does not use it."""


@pytest.fixture
def world() -> Iterator[World]:
    with World("paths", PathModel(latency_s=ROUND_TRIP_S / 2, spread_s=0.0, jitter_s=0.0)) as made:
        stun_server(made)
        yield made


def relay(world: World) -> dict[str, Any]:
    return {"relays": (Relay(world.host(RELAY_IP), 5000).allocate,)}


def two_open(world: World) -> Two:
    """Each with an address of its own, and with a relay that the controlling side has."""
    two = Two(world, world.host(A_IP), world.host(B_IP))
    two.a = Side(world, two.a.runtime, True, **relay(world))
    return two


def home(world: World, name: str, number: int, **rules: Any) -> tuple[Nat, SimRuntime]:
    box = world.nat(name, f"20.5.0.{number}", **rules)
    return box, world.host("192.168.1.2", behind=box)


def test_a_relay_first_and_the_direct_path_as_soon_as_there_is_one(world: World) -> None:
    two = two_open(world)
    world.cut(A_IP, B_IP)
    two.introduce()
    assert world.run(lambda: two.a.way == two.b.way == "relay", 1.0)
    assert world.run(two.connected, 2.0), "the relay is nominated, since nothing better works"
    world.run_for(2.0)
    assert two.exchange()
    world.mend(A_IP, B_IP)
    assert world.run(lambda: two.a.way == two.b.way == "direct", 5.0)
    assert two.a.ways == two.b.ways == ["relay", "direct"]
    assert two.exchange()


def relayed_over(relay: Relay, world: World) -> Two:
    """Nothing gets through but by that."""
    two = Two(world, world.host(A_IP), world.host(B_IP))
    two.a = Side(world, two.a.runtime, True, relays=(relay.allocate,))
    world.cut(A_IP, B_IP)
    two.introduce()
    assert world.run(lambda: two.a.way == two.b.way == "relay", 1.0)
    return two


def test_a_relay_that_is_dead_gives_way_to_another(world: World) -> None:
    dead, alive = Relay(world.host(RELAY_IP), 5000), Relay(world.host("20.7.0.2"), 5000)
    two = relayed_over(dead, world)
    dead.socket.close()
    assert world.run(lambda: two.a.way is None, UNPROMPTED_S)
    assert not dead.is_closed
    two.a.session.renew_relays([alive.allocate])
    assert world.run(lambda: two.a.way == two.b.way == "relay", 2.0)
    assert dead.is_closed
    assert [base.address for base in two.a.session.bases if base.address[0] != A_IP] == [alive.relayed]


def test_a_relay_that_works_is_kept(world: World) -> None:
    relay, another = Relay(world.host(RELAY_IP), 5000), Relay(world.host("20.7.0.2"), 5000)
    two = relayed_over(relay, world)
    two.a.session.renew_relays([another.allocate])
    world.run_for(5.0)
    assert not relay.is_closed
    assert two.a.ways == ["relay"]
    assert not another.permitted, "nobody has asked for it"


def test_where_no_other_relay_is_to_be_had_the_former_one_stays_and_may_come_back(world: World) -> None:
    relay = Relay(world.host(RELAY_IP), 5000)
    two = relayed_over(relay, world)
    world.cut(RELAY_IP, B_IP)
    assert world.run(lambda: two.a.way is None, UNPROMPTED_S)
    two.a.session.renew_relays([lambda family: refused()])
    world.run_for(5.0)
    world.mend(RELAY_IP, B_IP)
    assert world.run(lambda: two.a.way == "relay", 5.0)


def refused() -> NoReturn:
    raise NegativeAnswer("no room", code="turn_refused")


def test_a_direct_path_that_opens_late_is_found_without_a_restart(world: World) -> None:
    two = two_open(world)
    world.cut(A_IP, B_IP)
    two.introduce()
    world.run_for(300.0)
    assert (two.a.ways, two.b.ways) == (["relay"], ["relay"])
    world.mend(A_IP, B_IP)
    assert world.run(lambda: two.a.way == two.b.way == "direct", FAILURE_PATIENCE_S + RETRY_S)


def test_a_direct_path_that_dies_is_left_for_the_relay_and_taken_again(world: World) -> None:
    two = two_open(world)
    two.connect()
    world.run_for(10.0)
    assert (two.a.way, two.b.way) == ("direct", "direct")
    world.cut(A_IP, B_IP)
    for side in two.sides:
        side.session.doubt()
    assert world.run(lambda: two.a.way == two.b.way == "relay", DEAD_AFTER_S + QUICK_S)
    assert two.exchange()
    world.run_for(50.0)
    assert (two.a.way, two.b.way) == ("relay", "relay")
    assert two.a.selected is not None, "another path has the peer's consent"
    world.mend(A_IP, B_IP)
    assert world.run(lambda: two.a.way == two.b.way == "direct", 1.5)
    assert two.exchange()
    assert two.a.ways == ["direct", "relay", "direct"]


def test_a_dead_path_is_noticed_without_anybody_who_uses_it(world: World) -> None:
    two = two_open(world)
    two.connect()
    world.run_for(10.0)
    world.cut(A_IP, B_IP)
    assert world.run(lambda: two.a.way == two.b.way == "relay", UNPROMPTED_S)


def test_a_path_that_answers_is_kept_whatever_the_doubts(world: World) -> None:
    two = two_open(world)
    two.connect()
    for _ in range(100):
        two.a.session.doubt()
        world.run_for(0.05)
    assert two.a.ways == ["direct"]


@pytest.mark.parametrize("loss", [0.05, 0.2])
def test_lost_packets_are_no_dead_path(loss: float) -> None:
    """At a fifth each way a path may seem dead for a moment, a few times an hour."""
    with World(f"loss {loss}", PathModel(latency_s=0.05, jitter_s=0.02, loss=loss)) as world:
        two = two_open(world)
        two.connect(30.0)
        assert world.run(lambda: two.a.way == two.b.way == "direct", 60.0)
        for side in two.sides:
            side.paths.clear()
        world.run_for(600.0)
        assert max(len(side.ways) for side in two.sides) <= (0 if loss < 0.1 else 6)


def test_a_long_way_is_not_dead(world: World) -> None:
    world.set_path(A_IP, B_IP, PathModel(latency_s=1.0, spread_s=0.0, jitter_s=0.0))
    two = Two(world, world.host(A_IP), world.host(B_IP))
    two.connect()
    world.run_for(60.0)
    assert two.a.ways == two.b.ways == ["direct"]


def test_when_all_is_dead_it_is_said_at_once_and_consent_ends_in_30_seconds(world: World) -> None:
    two = two_open(world)
    two.connect()
    lost: list[float] = []
    two.a.session.on_lost = lambda: lost.append(world.now)
    cut_at = world.now
    world.crash(B_IP)
    assert world.run(lambda: two.a.way is None, UNPROMPTED_S)
    assert not two.a.session.send(b"\x80nobody")
    assert world.run(lambda: bool(lost), 31.0)
    assert lost[0] - cut_at <= 30.1
    assert two.a.selected is None


def test_a_restart_by_both_keeps_the_path_until_there_is_a_new_one(world: World) -> None:
    two = two_open(world)
    two.connect()
    world.run_for(10.0)
    for side in two.sides:
        side.session.restart()
    world.run_for(60.0)
    assert (two.a.ways, two.b.ways) == (["direct"], ["direct"])
    assert two.exchange(), "with the credentials of before"
    told = two.a.session.description, two.b.session.description
    two.a.session.set_remote(told[1])
    two.b.session.set_remote(told[0])
    assert world.run(two.connected, 2.0)
    world.run_for(60.0)
    assert (two.a.ways, two.b.ways) == (["direct"], ["direct"])
    assert two.exchange()
    world.cut(A_IP, B_IP)
    assert world.run(lambda: two.a.way == two.b.way == "relay", UNPROMPTED_S), "the new relayed pair is alive too"
    assert two.exchange()


def test_restarts_in_vain_leave_the_path_to_come_back(world: World) -> None:
    """Only one side has noticed; the other one has never heard of its offers."""
    two = Two(world, world.host(A_IP), world.host(B_IP))
    two.connect()
    world.cut(A_IP, B_IP)
    assert world.run(lambda: two.a.way is None, UNPROMPTED_S)
    for _ in range(3):
        two.a.session.restart()
        world.run_for(2.0)
    world.mend(A_IP, B_IP)
    assert world.run(lambda: two.a.way == two.b.way == "direct", 2.0)
    assert two.exchange()


def test_a_router_that_forgets_is_followed_without_a_restart(world: World) -> None:
    """The other side sees new requests from another port, and keeps those alive from then on."""
    box, runtime = home(world, "left", 1, mapping=Behavior.ADDRESS_AND_PORT_DEPENDENT)
    two = Two(world, runtime, world.host(B_IP))
    two.connect()
    world.run_for(5.0)
    for _ in range(3):
        box.forget()
        world.run_for(UNPROMPTED_S)
        assert two.exchange()


def test_a_router_that_changes_its_address_costs_seconds_where_there_is_a_relay(world: World) -> None:
    box, runtime = home(world, "left", 1)
    _, other = home(world, "right", 2)
    two = Two(world, runtime, other, stun_servers=(STUN,))
    two.a = Side(world, runtime, True, stun_servers=(STUN,), **relay(world))
    two.connect()
    assert (two.a.way, two.b.way) == ("direct", "direct")
    box.change_address("20.5.0.9")
    assert world.run(lambda: two.a.way == two.b.way == "relay", UNPROMPTED_S)
    assert two.exchange()


def test_paths_of_an_agent_that_keeps_none_are_only_the_selected_one(world: World) -> None:
    two = Two(world, world.host(A_IP), world.host(B_IP), keeps_paths=False)
    two.a = Side(world, two.a.runtime, True, keeps_paths=False, **relay(world))
    two.connect()
    world.run_for(10.0)
    world.cut(A_IP, B_IP)
    world.run_for(25.0)
    assert two.a.way == "direct"
    assert world.run(lambda: two.a.way is None, 10.0)


def connection(world: World, two: Two) -> None:
    """A TCP connection between the two, both ends of which are adopted."""

    def adopt(side: Side, stream: Stream) -> None:
        base = TcpBase(side.runtime, side.scope, stream, side.session.received)
        base.on_closed = lambda: side.session.dismiss(base)
        side.session.adopt(base, kind=CandidateType.HOST, preference=1, remote=base.remote)

    two.b.runtime.listen((B_IP, 30303), lambda stream: adopt(two.b, stream))
    adopt(two.a, world.call(two.a.runtime, two.a.runtime.connect, (B_IP, 30303), 5.0))


def kind_of(side: Side) -> type:
    path = side.session.path
    assert path is not None
    return type(path.local.base)


def test_a_connection_is_better_than_a_relay_and_worse_than_a_direct_datagram(world: World) -> None:
    two = two_open(world)
    two.introduce()
    world.run_for(5.0)
    assert (two.a.way, two.b.way) == ("direct", "direct")
    connection(world, two)
    world.run_for(5.0)
    assert [kind_of(side) for side in two.sides] == [SocketBase, SocketBase]
    [socket] = [base for base in two.a.session.bases if isinstance(base, SocketBase)]
    socket.close()
    two.a.session.dismiss(socket)
    assert kind_of(two.a) is TcpBase
    assert world.run(lambda: kind_of(two.b) is TcpBase, UNPROMPTED_S)
    assert two.exchange()
    bases = [base for side in two.sides for base in side.session.bases if isinstance(base, TcpBase)]
    bases[0].close()
    assert world.run(lambda: two.a.way == two.b.way == "relay", UNPROMPTED_S)
    assert two.exchange()
    assert all(not isinstance(base, TcpBase) for side in two.sides for base in side.session.bases)


def test_a_connection_alone_connects_and_nobody_is_told_of_it(world: World) -> None:
    box, runtime = home(world, "left", 1, udp_blocked=True)
    two = Two(world, runtime, world.host(B_IP))
    two.introduce()
    told: list[Candidate] = []
    two.a.session.on_candidate = told.append
    connection(world, two)
    assert world.run(two.connected, 2.0)
    assert two.exchange()
    assert told == []
    assert len(two.a.session.description.candidates) == 1
    two.restart()
    assert two.exchange()
    assert world.run(two.connected, 2.0)
    assert two.a.ways == two.b.ways == ["direct"]
    assert box.mappings(Transport.UDP) == 0


def test_what_is_adopted_is_closed_with_the_session(world: World) -> None:
    two = Two(world, world.host(A_IP), world.host(B_IP))
    two.connect()
    connection(world, two)
    world.run_for(1.0)
    [base] = [base for base in two.a.session.bases if isinstance(base, TcpBase)]
    closed: list[float] = []
    base.on_closed = lambda: closed.append(world.now)
    two.close()
    assert closed
