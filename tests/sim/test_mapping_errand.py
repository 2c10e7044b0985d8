"""Ports mapped for the time of one command, on virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from simulated_router import Router

from kodectl.core.mapping import Method, Transport, Wish
from kodectl.errors import DeadlineReached, EnvironmentFault, NegativeAnswer
from kodectl.node import mapping_lists
from kodectl.node.mapping_errand import MappingErrand, MappingTerms, mapping_errand, require_network
from kodectl.node.mapping_views import KeptEvent, ListView, MapView, UnmapView
from kodectl.node.natpmp import find_natpmp
from kodectl.node.pcp import find_pcp
from kodectl.runtime.base import LocalNetwork, Stopped
from kodectl.sim.network import PathModel
from kodectl.sim.world import World

ROUTER, HOST = "192.168.1.1", "192.168.1.2"
WISHES = [Wish(Transport.TCP, 30303, 30303, 600), Wish(Transport.UDP, 30301, 30301, 600)]
BACK_WITHIN_S = 90.0


class Home:
    def __init__(self, world: World) -> None:
        self.world = world
        self.runtime = world.host(HOST)
        self.router = Router(world.host(ROUTER))
        self.source: str | None = HOST
        self.runtime.local_network = lambda: LocalNetwork((HOST,), self.source, ROUTER, None, None)  # type: ignore[method-assign]
        self.finders = {
            Method.NATPMP: lambda: find_natpmp(self.runtime),
            Method.PCP: lambda: find_pcp(self.runtime),
        }
        self.events: list[KeptEvent] = []
        self.open = ExitStack()

    def errand(self, timeout_s: float = 20.0) -> MappingErrand:
        terms = MappingTerms(lease_s=600, timeout_s=timeout_s)
        return self.open.enter_context(mapping_errand(self.runtime, self.finders, terms))

    def kept(self) -> MappingErrand:
        errand = self.errand()
        self.call(errand.map, WISHES)
        scope = self.runtime.scope("command")
        scope.spawn("keep", self.keep, errand)
        return errand

    def keep(self, errand: MappingErrand) -> None:
        with pytest.raises(Stopped):
            errand.keep(self.begun, self.events.append)

    def call(self, *what: object) -> object:
        return self.world.call(self.runtime, *what)

    def is_mapped(self) -> bool:
        return all(self.router.mapped(wish.transport.value) == [wish.external_port] for wish in WISHES)

    def begun(self) -> None:
        """What a command does as soon as the ports are mapped."""

    def told(self) -> list[str]:
        return [event.event for event in self.events]


@pytest.fixture
def home() -> Iterator[Home]:
    with World(7, PathModel(latency_s=0.001, spread_s=0.0)) as world:
        home = Home(world)
        yield home
        world.call(home.runtime, home.open.close)


def test_what_is_mapped_stays_when_the_command_has_ended(home: Home) -> None:
    view = home.call(home.errand().map, WISHES)
    assert isinstance(view, MapView)
    assert [mapping.external for mapping in view.mappings] == ["20.0.0.1:30303", "20.0.0.1:30301"]
    assert (view.method, view.gateway, view.external_ip, view.double_nat) == ("pcp", ROUTER, "20.0.0.1", False)
    home.call(home.open.close)
    assert home.is_mapped()


def test_nothing_stays_when_the_command_was_interrupted(home: Home) -> None:
    def interrupted() -> None:
        with mapping_errand(home.runtime, home.finders, MappingTerms(lease_s=600, timeout_s=20)) as errand:
            errand.map(WISHES)
            assert home.is_mapped()
            raise SystemExit(130)

    def contained() -> None:
        with pytest.raises(SystemExit):
            interrupted()

    home.call(contained)
    assert not home.router.mapped("tcp") + home.router.mapped("udp")


def test_a_search_is_given_up_at_once(home: Home) -> None:
    home.router.manners.mute = ("pcp", "natpmp")
    errand = home.errand()
    scope = home.runtime.scope("command")
    scope.spawn("map", _fail_to_map, errand)
    home.world.run_for(0.5)
    began = home.world.now
    home.call(errand.abandon)
    assert home.world.now - began < 0.1


def _fail_to_map(errand: MappingErrand) -> None:
    with pytest.raises(DeadlineReached):
        errand.map(WISHES)


def test_a_router_behind_another_is_told(home: Home) -> None:
    home.router.manners.external_ip = "100.64.3.4"
    view = home.call(home.errand().map, WISHES)
    assert isinstance(view, MapView)
    assert (view.external_ip, view.double_nat) == ("100.64.3.4", True)


def test_the_time_limit_holds(home: Home) -> None:
    home.router.manners.mute = ("pcp", "natpmp")
    with pytest.raises(DeadlineReached):
        home.call(home.errand(timeout_s=1.0).map, WISHES)
    with pytest.raises(NegativeAnswer) as nobody:
        home.call(mapping_lists.list_mappings, home.runtime, home.finders, 1.0)
    assert nobody.value.code == "no_gateway"


def test_without_a_network_there_is_no_router(home: Home) -> None:
    home.source = None
    with pytest.raises(EnvironmentFault) as fault:
        require_network(home.runtime)
    assert fault.value.code == "no_network"


def test_kept_ports_are_renewed_with_the_lease_that_was_asked_for(home: Home) -> None:
    home.kept()
    for _ in range(60):
        home.world.run_for(60.0)
        assert home.is_mapped()
    assert set(home.told()) == {"renewed"}
    assert all(mapping.lease_s == 600 for event in home.events for mapping in event.mappings)


def test_kept_ports_are_back_after_a_restart(home: Home) -> None:
    home.kept()
    home.world.run_for(30.0)
    home.router.restart()
    assert not home.is_mapped()
    assert home.world.run(home.is_mapped, BACK_WITHIN_S)
    home.world.run_for(1.0)
    assert home.told() == ["changed"]
    assert home.events[0].reason


def test_kept_ports_are_mapped_again_when_a_silent_router_speaks(home: Home) -> None:
    home.kept()
    home.router.manners.mute = ("pcp", "natpmp")
    assert home.world.run(lambda: "failed" in home.told(), 200.0)
    assert home.told()[0] == "lost"
    home.router.restart()
    home.router.manners.mute = ()
    assert home.world.run(home.is_mapped, BACK_WITHIN_S)
    home.world.run_for(1.0)
    assert home.told()[-1] == "mapped"


def test_kept_ports_are_removed_at_the_end_and_that_is_told(home: Home) -> None:
    errand = home.kept()
    home.call(errand.close)
    assert home.world.run(lambda: home.told() == ["removed"], 10.0)
    assert home.events[0].reason is None
    assert [mapping.internal_port for mapping in home.events[0].mappings] == [30303, 30301]
    assert not home.router.mapped("tcp") + home.router.mapped("udp")


def test_what_a_silent_router_keeps_is_told(home: Home) -> None:
    errand = home.kept()
    home.router.manners.mute = ("pcp", "natpmp")
    home.call(errand.close)
    assert home.world.run(lambda: home.told() == ["removed"], 20.0)
    assert "30303/tcp, 30301/udp" in (home.events[0].reason or "")


def test_a_machine_that_has_moved_maps_again(home: Home) -> None:
    home.kept()
    home.source = "192.168.1.77"
    assert home.world.run(lambda: "lost" in home.told(), 60.0)
    assert "address" in (home.events[0].reason or "")


def test_without_a_list_unmapping_is_taken_at_the_routers_word(home: Home) -> None:
    home.call(home.errand().map, WISHES)
    del home.finders[Method.PCP]
    view = home.call(mapping_lists.unmap, home.runtime, home.finders, [(Transport.TCP, 30303)], 5.0)
    assert isinstance(view, UnmapView)
    assert (view.ports[0].state, view.ports[0].outer_ports, view.ports[0].error) == ("removed", None, None)


def test_a_router_without_a_list_says_so(home: Home) -> None:
    view = home.call(mapping_lists.list_mappings, home.runtime, home.finders, 5.0)
    assert isinstance(view, ListView)
    assert view.mappings is None
    assert [(gateway.method, gateway.lists) for gateway in view.gateways] == [("natpmp", False), ("pcp", False)]


def test_an_interrupt_as_soon_as_the_ports_are_told_is_answered_too(home: Home) -> None:
    def begun() -> None:
        raise Stopped

    home.begun = begun  # type: ignore[method-assign]
    home.kept()
    assert home.world.run(lambda: home.told() == ["removed"], 30.0)
    assert not home.is_mapped()
