"""Two ICE sessions on virtual time: direct, behind boxes, with loss, trickled, restarted, and when all dies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kodectl.core.nat import Behavior
from kodectl.core.stun_answers import BindingResponder
from kodectl.errors import NegativeAnswer
from kodectl.node.ice import PATIENCE_S, Description, IceSession, IceTerms, SelectedPair
from kodectl.runtime.base import Address
from kodectl.sim.nat import Nat
from kodectl.sim.network import PathModel
from kodectl.sim.runtime import SimRuntime
from kodectl.sim.world import World
from kodectl.wire.candidates import Candidate, CandidateType

STUN, DEAD = ("20.9.0.1", 3478), ("20.9.9.9", 3478)
A_IP, B_IP = "20.0.0.1", "20.1.0.1"
LOSS = 0.2


def stun_server(world: World) -> None:
    runtime = world.host(STUN[0])
    responder = BindingResponder()

    def received(data: bytes, sender: Address) -> None:
        reply = responder.answer(data, sender, runtime.now())
        if reply is not None:
            socket.send(reply, sender)

    socket = runtime.open_datagram(STUN, received)


class Side:
    def __init__(self, world: World, runtime: SimRuntime, is_controlling: bool, **terms: Any) -> None:
        self.world = world
        self.runtime = runtime
        self.scope = runtime.scope("ice")
        self.session = IceSession(runtime, self.scope, IceTerms(is_controlling, **terms))
        self.heard: list[bytes] = []
        self.session.on_data = lambda data, base, sender: self.heard.append(data)

    def gather(self) -> Description:
        described: Description = self.world.call(self.runtime, self.session.gather)
        return described

    @property
    def selected(self) -> SelectedPair | None:
        return self.session.selected


class Two:
    """The controlling side `a` and the controlled `b`."""

    def __init__(self, world: World, a: SimRuntime, b: SimRuntime, **terms: Any) -> None:
        self.world = world
        self.a, self.b = Side(world, a, True, **terms), Side(world, b, False, **terms)

    def introduce(self) -> float:
        """Both know each other from now on, with what comes later too; when that is."""
        told = self.a.gather(), self.b.gather()
        self.a.session.on_candidate = self.b.session.add_remote
        self.b.session.on_candidate = self.a.session.add_remote
        self.a.session.set_remote(told[1])
        self.b.session.set_remote(told[0])
        return self.world.now

    def connected(self) -> bool:
        return self.a.selected is not None and self.b.selected is not None

    def connect(self, limit_s: float = 15.0) -> float:
        """How long it took."""
        began = self.introduce()
        assert self.world.run(self.connected, limit_s), (self.a.session.agent.pairs, self.b.session.agent.pairs)
        return self.world.now - began

    def exchange(self) -> bool:
        for side, other in ((self.a, self.b), (self.b, self.a)):
            assert side.session.send(b"\x80from " + side.runtime.name.encode())
            other.heard.clear()
        return self.world.run(lambda: bool(self.a.heard and self.b.heard), 2.0)

    def close(self) -> None:
        for side in (self.a, self.b):
            side.session.close()
            side.scope.close()


@pytest.fixture
def world() -> Iterator[World]:
    with World("ice", PathModel(latency_s=0.05, spread_s=0.0, jitter_s=0.0)) as made:
        stun_server(made)
        yield made


def behind(world: World, name: str, number: int, **rules: Any) -> SimRuntime:
    return world.host("192.168.1.2", behind=world.nat(name, f"20.5.0.{number}", **rules))


def test_direct_in_one_and_a_half_round_trips(world: World) -> None:
    two = Two(world, world.host(A_IP), world.host(B_IP))
    assert two.connect() == pytest.approx(0.2, abs=0.01)
    assert two.a.selected is not None
    assert (two.a.selected.local.address[0], two.a.selected.remote.address[0]) == (A_IP, B_IP)
    assert two.exchange()


def test_data_flows_before_anything_is_nominated(world: World) -> None:
    two = Two(world, world.host(A_IP), world.host(B_IP))
    two.introduce()
    assert world.run(lambda: two.b.session.agent.path is not None, 1.0)
    assert not two.connected()
    assert two.b.session.send(b"\x80early")
    assert world.run(lambda: two.a.heard == [b"\x80early"], 1.0)


CONES = (Behavior.ENDPOINT_INDEPENDENT, Behavior.ADDRESS_DEPENDENT, Behavior.ADDRESS_AND_PORT_DEPENDENT)


@pytest.mark.parametrize("filtering", CONES)
@pytest.mark.parametrize("other_filtering", CONES)
def test_two_cones(world: World, filtering: Behavior, other_filtering: Behavior) -> None:
    a = behind(world, "left", 1, filtering=filtering)
    b = behind(world, "right", 2, filtering=other_filtering)
    two = Two(world, a, b, stun_servers=(STUN,))
    assert two.connect() < 2.0
    assert two.a.selected is not None
    assert two.a.selected.local.type is not CandidateType.HOST
    assert two.exchange()


def test_a_full_cone_and_a_symmetric_one_meet_as_peer_reflexive(world: World) -> None:
    a = behind(world, "left", 1, mapping=Behavior.ADDRESS_AND_PORT_DEPENDENT)
    b = behind(world, "right", 2, filtering=Behavior.ENDPOINT_INDEPENDENT)
    two = Two(world, a, b, stun_servers=(STUN,))
    assert two.connect() < 2.0
    assert two.b.selected is not None
    assert two.b.selected.remote.type is CandidateType.PEER_REFLEXIVE


def test_two_symmetric_ones_do_not_and_it_is_said(world: World) -> None:
    a = behind(
        world,
        "left",
        1,
        mapping=Behavior.ADDRESS_AND_PORT_DEPENDENT,
    )
    b = behind(world, "right", 2, mapping=Behavior.ADDRESS_AND_PORT_DEPENDENT)
    two = Two(world, a, b, stun_servers=(STUN,))
    two.introduce()
    with pytest.raises(NegativeAnswer, match="none worked within 15 s"):
        world.call(two.a.runtime, two.a.session.wait_connected, 15.0)
    with pytest.raises(NegativeAnswer, match="none works"):
        world.call(two.a.runtime, two.a.session.wait_connected, 60.0)


def test_two_behind_one_box_use_their_host_candidates(world: World) -> None:
    box = world.nat("home", "20.5.0.1")
    two = Two(world, world.host("192.168.1.2", behind=box), world.host("192.168.1.3", behind=box), stun_servers=(STUN,))
    assert two.connect() < 0.05
    assert two.a.selected is not None
    assert two.a.selected.remote.address[0] == "192.168.1.3"


def test_dead_servers_hold_nothing_up(world: World) -> None:
    two = Two(world, world.host(A_IP), world.host(B_IP), stun_servers=(DEAD,))
    began = world.now
    told = two.a.gather()
    assert world.now - began == pytest.approx(PATIENCE_S, abs=0.01)
    assert not told.is_complete
    assert two.connect() < 0.3


@pytest.mark.parametrize("seed", range(20))
def test_with_loss_reordering_and_duplicates(seed: int) -> None:
    model = PathModel(latency_s=0.05, jitter_s=0.02, loss=LOSS, reordering=0.2, duplication=0.1)
    with World(f"lossy {seed}", model) as world:
        stun_server(world)
        two = Two(world, behind(world, "left", 1), behind(world, "right", 2), stun_servers=(STUN,))
        two.connect(30.0)
        assert any(two.exchange() for _ in range(10))


@pytest.mark.parametrize("is_controlling", [True, False])
def test_a_conflict_of_roles_is_settled(world: World, is_controlling: bool) -> None:
    two = Two(world, world.host(A_IP), world.host(B_IP))
    two.b = Side(world, world.host("20.2.0.1"), is_controlling)
    two.a = Side(world, world.host("20.3.0.1"), is_controlling)
    assert two.connect() < 1.0
    roles = {side.session.agent.role.is_controlling for side in (two.a, two.b)}
    assert roles == {True, False}
    assert two.exchange()


@pytest.mark.parametrize("late_is_a", [True, False])
def test_checks_that_come_before_the_description_are_answered_and_remembered(world: World, late_is_a: bool) -> None:
    two = Two(world, world.host(A_IP), world.host(B_IP))
    early, late = (two.b, two.a) if late_is_a else (two.a, two.b)
    told = early.gather(), late.gather()
    early.session.set_remote(told[1])
    world.run_for(3.0)
    assert early.session.agent.path is not None
    late.session.set_remote(told[0])
    began = world.now
    assert world.run(two.connected, 5.0)
    assert world.now - began < 0.6
    assert late.selected is not None
    assert late.selected.remote.type is CandidateType.HOST


def test_candidates_that_trickle(world: World) -> None:
    two = Two(world, world.host(A_IP), world.host(B_IP))
    told = two.a.gather(), two.b.gather()
    two.a.session.set_remote(told[1]._replace(candidates=(), is_complete=False))
    two.b.session.set_remote(told[0]._replace(candidates=(), is_complete=False))
    world.run_for(60.0)
    assert not two.connected()
    two.a.session.add_remote(told[1].candidates[0])
    assert world.run(two.connected, 1.0)


def test_consent_keeps_the_mapping_and_is_withdrawn_in_30_seconds(world: World) -> None:
    a, b = behind(world, "left", 1, udp_timeout_s=10.0), behind(world, "right", 2, udp_timeout_s=10.0)
    two = Two(world, a, b, stun_servers=(STUN,))
    two.connect()
    world.run_for(600.0)
    assert two.exchange()
    world.crash(b.name)
    assert world.run(lambda: two.a.selected is None, 31.0)
    assert not two.a.session.send(b"\x80nothing")


def restart(two: Two) -> None:
    for side in (two.a, two.b):
        side.session.restart()
    told: list[Description] = [two.a.session.description, two.b.session.description]
    two.a.session.set_remote(told[1])
    two.b.session.set_remote(told[0])


def test_a_restart_moves_nothing_that_works(world: World) -> None:
    two = Two(world, world.host(A_IP), world.host(B_IP))
    two.connect()
    ours = two.a.session.restart()
    assert two.exchange()
    world.run_for(60.0)
    assert two.exchange(), "the peer still consents, with the credentials of before"
    theirs = two.b.session.restart()
    two.b.session.set_remote(ours)
    two.a.session.set_remote(theirs)
    assert world.run(two.connected, 2.0)
    assert two.exchange()


def test_a_restart_after_the_router_forgot(world: World) -> None:
    box: Nat = world.nat("left", "20.5.0.1", mapping=Behavior.ADDRESS_AND_PORT_DEPENDENT)
    two = Two(world, world.host("192.168.1.2", behind=box), world.host(B_IP))
    two.connect()
    box.forget()
    world.run(lambda: not two.connected(), 40.0)
    restart(two)
    assert world.run(two.connected, 5.0)
    assert two.exchange()


class Relay:
    """A relay on a host of its own, that permits who it is told to."""

    def __init__(self, runtime: SimRuntime, port: int) -> None:
        self._open(runtime, port)
        self.mapped: Address = (A_IP, 1)
        self.on_data: Any = None
        self.on_lost: Any = None
        self.on_moved: Any = None
        self.permitted: set[str] = set()
        self.is_closed = False

    def _open(self, runtime: SimRuntime, port: int) -> None:
        self.socket = runtime.open_datagram((runtime.ip, port), self._received)
        self.relayed = self.server = self.socket.local

    def move_to(self, runtime: SimRuntime, port: int) -> None:
        self.socket.close()
        self._open(runtime, port)
        self.on_moved()

    def _received(self, data: bytes, peer: Address) -> None:
        if peer[0] in self.permitted:
            self.on_data(data, peer)

    def permit(self, ips: Any) -> None:
        self.permitted |= set(ips)

    def send(self, data: bytes, peer: Address) -> None:
        assert peer[0] in self.permitted, "permissions come before the first check"
        self.socket.send(data, peer)

    def close(self) -> None:
        self.is_closed = True


def relayed(world: World, **terms: Any) -> tuple[Two, Relay]:
    """With nothing but one relay on the controlling side."""
    relay = Relay(world.host("20.7.0.1"), 5000)

    def allocate(family: int) -> Relay:
        if family == 6:
            raise NegativeAnswer("no IPv6 here")
        return relay

    two = Two(world, world.host(A_IP), world.host(B_IP), **terms)
    two.a = Side(world, world.host("20.2.0.1"), True, relays=(allocate,), is_relay_only=True, **terms)
    assert two.connect() < 0.5
    assert two.a.selected is not None
    assert two.a.selected.is_relayed
    assert [fault.message for fault in two.a.session.faults] == ["no IPv6 here"]
    assert two.exchange()
    return two, relay


def test_relays_alone_are_permitted_first_and_a_moved_one_is_found_by_a_restart(world: World) -> None:
    two, relay = relayed(world, keeps_paths=False)
    lost: list[float] = []
    two.a.session.on_lost = lambda: lost.append(world.now)
    relay.move_to(world.host("20.8.0.1"), 6000)
    assert world.run(lambda: bool(lost), 31.0)
    restart(two)
    assert world.run(two.connected, 5.0)
    assert two.a.selected is not None
    assert two.a.selected.local.address == ("20.8.0.1", 6000)
    two.close()
    assert relay.is_closed


def test_a_relay_that_moved_is_followed_without_a_restart(world: World) -> None:
    two, relay = relayed(world)
    relay.move_to(world.host("20.8.0.1"), 6000)
    assert two.a.session.path is None
    assert world.run(lambda: two.a.session.path is not None, 1.0)
    two.b.session.doubt()
    world.run_for(2.0)
    assert two.exchange()


def test_nothing_in_common(world: World) -> None:
    two = Two(world, world.host(A_IP), world.host(B_IP))
    told = two.b.gather()
    hidden: tuple[Candidate, ...] = (told.candidates[0]._replace(address=("x.local", 5000)),)
    two.a.gather()
    two.a.session.set_remote(told._replace(candidates=hidden))
    with pytest.raises(NegativeAnswer, match="no candidate of the peer fits"):
        world.call(two.a.runtime, two.a.session.wait_connected, 5.0)
