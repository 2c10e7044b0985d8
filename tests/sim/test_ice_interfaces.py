"""Addresses that come and go under an ICE session, on virtual time: a machine that is two hosts of the simulated network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ice_sides import B_IP, RELAY_IP, Relay, Side, Two

from kodectl.node.ice import SendingBase
from kodectl.node.ice_watch import LOOK_PAUSE_S, InterfaceWatch
from kodectl.runtime.base import Address, DatagramSocket, LocalNetwork
from kodectl.sim.network import PathModel
from kodectl.sim.world import World

CABLE, RADIO = "20.0.0.1", "20.0.0.2"
PORT = 30301
NOTICED_S = LOOK_PAUSE_S + 0.5
"""And two round trips."""


class Machine:
    """A runtime with the interfaces that are up: `runtime` is that of the cable."""

    def __init__(self, world: World, *up: str) -> None:
        self._interfaces = {CABLE: world.host(CABLE), RADIO: world.host(RADIO)}
        self._world = world
        self.up: set[str] = set(up)
        self.opened: list[Address] = []
        self.runtime = self._interfaces[CABLE]
        self._open = {ip: interface.open_datagram for ip, interface in self._interfaces.items()}
        self.runtime.open_datagram = self.open_datagram  # type: ignore[method-assign]
        self.runtime.local_network = self.local_network  # type: ignore[method-assign]
        self.watch = InterfaceWatch(self.runtime, self.runtime.scope("interfaces"))
        self.watch.start()

    def open_datagram(self, local: Address, receive: Callable[[bytes, Address], None]) -> DatagramSocket:
        def received(data: bytes, sender: Address) -> None:
            if local[0] in self.up:
                receive(data, sender)

        self.opened.append(local)
        return self._open[local[0]](local, received)

    def local_network(self) -> LocalNetwork:
        return LocalNetwork((*sorted(self.up), "127.0.0.1"), min(self.up, default=None), None, None, None)

    def unplug(self, ip: str) -> None:
        self.up.discard(ip)
        self._world.cut(ip, B_IP)


class Everywhere:
    """A socket on all interfaces, as discovery's: what it sends leaves by the first that is up."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.address: Address = (CABLE, PORT)
        self.side: Side | None = None
        self._sockets = {ip: machine.open_datagram((ip, PORT), self._received) for ip in (CABLE, RADIO)}

    def send(self, data: bytes, address: Address) -> None:
        if self._machine.up:
            self._sockets[min(self._machine.up)].send(data, address)

    def close(self) -> None:
        raise AssertionError("it is not the session's to close")

    def _received(self, data: bytes, sender: Address) -> None:
        assert self.side is not None
        session = self.side.session
        if session.hears(data) or data[:1] == b"\x80":
            session.received(self, data, sender)


@pytest.fixture
def world() -> Iterator[World]:
    with World("interfaces", PathModel(latency_s=0.05, spread_s=0.0, jitter_s=0.0)) as made:
        yield made


def two_with(world: World, machine: Machine, **terms: Any) -> Two:
    two = Two(world, machine.runtime, world.host(B_IP))
    two.a = Side(world, machine.runtime, True, interfaces=machine.watch, **terms)
    return two


def source(two: Two) -> str | None:
    path = two.a.session.path
    return None if path is None else path.local.base.address[0]


def test_an_interface_that_comes_up_is_used_when_the_other_goes(world: World) -> None:
    machine = Machine(world, RADIO)
    two = two_with(world, machine)
    two.connect()
    assert source(two) == RADIO
    [gone] = two.a.session.bases
    told: list[SendingBase] = []
    two.a.session.on_base_gone = told.append
    machine.up.add(CABLE)
    assert world.run(lambda: len(two.a.session.agent.local_candidates) == 2, NOTICED_S)
    world.run_for(2.0)
    machine.unplug(RADIO)
    assert world.run(lambda: source(two) == CABLE, NOTICED_S)
    assert [local.candidate.address[0] for local in two.a.session.agent.local_candidates] == [CABLE]
    two.b.session.doubt()
    world.run_for(2.0)
    assert two.exchange()
    assert two.a.ways == ["direct"], "there was a way all the time"
    assert told == [gone]


def test_the_last_interface_takes_the_path_along_and_a_restart_finds_another(world: World) -> None:
    machine = Machine(world, RADIO)
    two = two_with(world, machine)
    two.connect()
    machine.unplug(RADIO)
    assert world.run(lambda: two.a.ways == ["direct", None], NOTICED_S)
    world.run_for(20.0)
    machine.up.add(CABLE)
    world.run_for(NOTICED_S)
    two.restart()
    assert world.run(lambda: source(two) == CABLE, 2.0)
    assert two.exchange()


def test_a_shared_socket_goes_on_by_another_interface(world: World) -> None:
    machine = Machine(world, CABLE)
    shared = Everywhere(machine)
    two = two_with(world, machine, shared=shared)
    shared.side = two.a
    two.connect()
    told = [local.candidate.address for local in two.a.session.agent.local_candidates]
    assert told == [(CABLE, PORT)]
    machine.up.add(RADIO)
    world.run_for(NOTICED_S)
    machine.unplug(CABLE)
    world.run_for(NOTICED_S + 2.0)
    told = [local.candidate.address for local in two.a.session.agent.local_candidates]
    assert told == [(RADIO, PORT)]
    assert two.exchange()
    path = two.b.session.path
    assert path is not None
    assert path.remote.address == (RADIO, PORT)
    two.a.session.close()


def test_where_others_see_a_shared_socket_is_told_without_a_round_trip_but_not_twice(world: World) -> None:
    machine = Machine(world, CABLE)
    shared = Everywhere(machine)
    shared.side = side = Side(world, machine.runtime, True, shared=shared)
    side.session.add_reflexive(shared, (CABLE, PORT), "observers")
    side.session.add_reflexive(shared, ("20.9.9.9", 4242), "observers")
    began = world.now
    told = side.gather()
    assert world.now == began
    assert [(candidate.type.value, candidate.address) for candidate in told.candidates] == [
        ("srflx", ("20.9.9.9", 4242)),
        ("host", (CABLE, PORT)),
    ]
    assert machine.opened == [(CABLE, PORT), (RADIO, PORT)], "none but the shared one"


def test_a_relay_takes_over_where_no_address_is_left(world: World) -> None:
    machine = Machine(world, RADIO)
    two = two_with(world, machine, relays=(Relay(world.host(RELAY_IP), 5000).allocate,))
    two.connect()
    world.run_for(2.0)
    machine.unplug(RADIO)
    assert world.run(lambda: two.a.way == "relay", NOTICED_S)


def test_a_watch_tells_of_changes_alone_and_only_who_wants_to_know(world: World) -> None:
    machine = Machine(world, RADIO)
    told: list[float] = []
    end = machine.watch.subscribe(lambda: told.append(world.now))
    world.run_for(10.0)
    assert told == []
    machine.up.add(CABLE)
    world.run_for(10.0)
    assert len(told) == 1
    end()
    end()
    machine.up.discard(CABLE)
    world.run_for(10.0)
    assert len(told) == 1


def test_a_closed_session_hears_of_nothing(world: World) -> None:
    machine = Machine(world, RADIO)
    two = two_with(world, machine)
    two.connect()
    two.close()
    machine.up.add(CABLE)
    world.run_for(10.0)
    assert len(machine.opened) == 1
