"""Two ICE sessions on virtual time: direct, behind boxes, with loss, trickled, restarted, and when all dies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ice_sides import A_IP, B_IP, RELAY_IP, STUN, Relay, Side, Two, stun_server

from kodectl.core.nat import Behavior
from kodectl.errors import NegativeAnswer
from kodectl.node.ice import PATIENCE_S
from kodectl.sim.nat import Nat
from kodectl.sim.network import PathModel
from kodectl.sim.runtime import SimRuntime
from kodectl.sim.world import World
from kodectl.wire.candidates import Candidate, CandidateType

DEAD = ("20.9.9.9", 3478)
LOSS = 0.2


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
    """Half of them as other agents have it."""
    model = PathModel(latency_s=0.05, jitter_s=0.02, loss=LOSS, reordering=0.2, duplication=0.1)
    with World(f"lossy {seed}", model) as world:
        stun_server(world)
        two = Two(
            world, behind(world, "left", 1), behind(world, "right", 2), stun_servers=(STUN,), keeps_paths=seed % 2 == 0
        )
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


@pytest.mark.parametrize("keeps_paths", [True, False])
def test_consent_keeps_the_mapping_and_is_withdrawn_in_30_seconds(world: World, keeps_paths: bool) -> None:
    a, b = behind(world, "left", 1, udp_timeout_s=10.0), behind(world, "right", 2, udp_timeout_s=10.0)
    two = Two(world, a, b, stun_servers=(STUN,), keeps_paths=keeps_paths)
    two.connect()
    world.run_for(600.0)
    assert two.exchange()
    world.crash(b.name)
    assert world.run(lambda: two.a.selected is None, 31.0)
    assert not two.a.session.send(b"\x80nothing")


@pytest.mark.parametrize("keeps_paths", [True, False])
def test_a_restart_moves_nothing_that_works(world: World, keeps_paths: bool) -> None:
    two = Two(world, world.host(A_IP), world.host(B_IP), keeps_paths=keeps_paths)
    two.connect()
    ours = two.a.session.restart()
    assert two.exchange()
    world.run_for(60.0)
    assert two.exchange(), "the peer still consents, with the credentials of before"
    theirs = two.b.session.restart()
    two.b.session.set_remote(ours)
    two.a.session.set_remote(theirs)
    assert two.exchange(), "before the new pair has proved itself"
    assert world.run(two.connected, 2.0)
    assert two.exchange()


def test_a_restart_after_the_router_got_another_address(world: World) -> None:
    box: Nat = world.nat("left", "20.5.0.1", mapping=Behavior.ADDRESS_AND_PORT_DEPENDENT)
    two = Two(world, world.host("192.168.1.2", behind=box), world.host(B_IP), keeps_paths=False)
    two.connect()
    box.change_address("20.5.0.9")
    assert world.run(lambda: not two.connected(), 40.0)
    two.restart()
    assert world.run(two.connected, 5.0)
    assert two.exchange()


def relayed(world: World, **terms: Any) -> tuple[Two, Relay]:
    """With nothing but one relay on the controlling side."""
    relay = Relay(world.host(RELAY_IP), 5000)
    two = Two(world, world.host(A_IP), world.host(B_IP), **terms)
    two.a = Side(world, world.host("20.2.0.1"), True, relays=(relay.allocate,), is_relay_only=True, **terms)
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
    two.restart()
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
