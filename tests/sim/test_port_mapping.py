"""The keeper of the node's ports, on virtual time: what routers do, and what the node then does."""

import logging
from collections.abc import Callable

import pytest
from simulated_router import Router

from kodectl.core.mapping import MappingRefused, Method, PortMapping, Transport, Wish
from kodectl.errors import EnvironmentFault, NegativeAnswer
from kodectl.node.events import Events
from kodectl.node.held_mappings import RENEW_BLIND_EVERY, VERIFY_EVERY
from kodectl.node.mapping_race import FIRST_OTHER_PORT, LAST_OTHER_PORT, OTHER_PORTS
from kodectl.node.natpmp import NatPmpGateway, find_natpmp
from kodectl.node.pcp import find_pcp
from kodectl.node.port_mapping import LOOK_EVERY_S, RETRY_KNOWN_S, STOP_LIMIT_S, PortMappings
from kodectl.runtime.base import LocalNetwork
from kodectl.sim.network import PathModel
from kodectl.sim.world import World
from kodectl.wire import natpmp, pcp

ROUTER, OTHER_ROUTER, HOST, NEIGHBOUR = "192.168.1.1", "192.168.1.254", "192.168.1.2", "192.168.1.3"
PORTS = {Transport.TCP: 30303, Transport.UDP: 30301}
BACK_WITHIN_S = 60.0
BLIND_S = (RENEW_BLIND_EVERY + 1) * LOOK_EVERY_S


class Home:
    """A node's ports, a router, and all that the node says about the two."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.runtime = world.host(HOST)
        self.router = Router(world.host(ROUTER))
        self.gateway: str | None = ROUTER
        self.runtime.local_network = lambda: LocalNetwork((HOST,), HOST, self.gateway, None, None)
        self.events = Events(self.runtime)
        self.finders: dict[Method, Callable] = {
            Method.NATPMP: lambda: find_natpmp(self.runtime),
            Method.PCP: lambda: find_pcp(self.runtime),
        }
        self.changes: list[float] = []

    def start(self, method: str = "auto", tcp: int = 30303, udp: int = 30301) -> PortMappings:
        self.scope = self.runtime.scope("node")
        self.mappings = PortMappings(self.runtime, self.scope, self.events, method, self.finders)
        self.mappings.on_changed = lambda: self.changes.append(self.world.now)
        self.mappings.start(tcp, udp)
        return self.mappings

    def stop(self, join_limit_s: float = 6.0) -> float:
        """How long it took. No task is left behind."""
        began = self.world.now
        self.world.call(self.runtime, self.mappings.stop)
        took_s = self.world.now - began
        self.scope.close()
        assert self.world.call(self.runtime, self.scope.join, join_limit_s) == []
        return took_s

    @property
    def state(self) -> str:
        return self.mappings.view().state

    def told(self) -> list[str]:
        return [event.type for event in self.events.since(0).events]

    def last(self) -> dict:
        return self.events.since(0).events[-1].data

    def is_mapped(self) -> bool:
        """At the router and by the node's own word, and no more than it should be."""
        outer = {transport: self.router.mapped(transport.value) for transport in PORTS}
        assert all(len(ports) <= 1 for ports in outer.values()), outer
        told = {transport: self.mappings.external(transport) for transport in PORTS}
        return all(told[one] is not None and outer[one] == [told[one][1]] for one in PORTS)

    def wait_mapped(self, limit_s: float = BACK_WITHIN_S) -> bool:
        """Also for what is told of it: the router has mapped before its answer is here."""
        before = self.world.run(self.is_mapped, limit_s)
        self.world.run_for(0.5)
        return before and self.is_mapped()

    def stays_mapped(self, seconds: float) -> bool:
        ends = self.world.now + seconds
        while self.world.now < ends and self.is_mapped():
            self.world.run_for(1.0)
        return self.is_mapped()


@pytest.fixture
def home():
    with World(7, PathModel(latency_s=0.001, spread_s=0.0)) as world:
        yield Home(world)


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="kodectl")
    return caplog


protocols = pytest.mark.parametrize("method", ["natpmp", "pcp"])


# -- mapping -----------------------------------------------------------------------------------------------------------


@protocols
def test_both_ports_are_mapped_in_the_background(home, method):
    mappings = home.start(method)
    assert (home.state, home.world.now) == ("searching", 0.0)
    assert home.wait_mapped(1.0)
    assert mappings.external(Transport.TCP) == ("20.0.0.1", 30303)
    assert mappings.external(Transport.UDP) == ("20.0.0.1", 30301)
    view = mappings.view()
    assert (view.state, view.method, view.gateway, view.gateway_name) == ("mapped", method, ROUTER, ROUTER)
    assert (view.external_ip, view.tcp, view.udp) == ("20.0.0.1", "20.0.0.1:30303", "20.0.0.1:30301")
    assert 3500 < view.expires_s <= 3600
    assert (view.error, view.double_nat) == (None, False)
    assert home.told() == ["port_mapped"]
    assert home.last() == {
        "method": method,
        "gateway": ROUTER,
        "tcp": "20.0.0.1:30303",
        "udp": "20.0.0.1:30301",
        "reason": "found",
    }
    assert len(home.changes) == 1


def test_of_two_protocols_pcp_is_taken_and_the_other_maps_nothing(home):
    home.start()
    assert home.wait_mapped(1.0)
    assert home.mappings.view().method == "pcp"
    assert not any(isinstance(request, natpmp.MappingRequest) for request in home.router.asked)


def test_pcp_is_waited_for_a_moment(home):
    def find_slowly():
        home.scope.sleep(0.05)
        return find_pcp(home.runtime)

    home.finders[Method.PCP] = find_slowly
    home.start()
    assert home.wait_mapped(1.0)
    assert home.mappings.view().method == "pcp"


def test_a_protocol_that_hangs_holds_nothing_up(home):
    home.finders[Method.UPNP] = lambda: home.runtime.event().wait(1e6)
    home.finders[Method.PCP] = lambda: home.runtime.event().wait(1e6)
    home.start()
    assert home.wait_mapped(1.0)
    assert home.mappings.view().method == "natpmp"


def test_a_search_is_not_waited_for_at_the_end(home):
    scope = home.runtime.scope("silent")
    home.finders[Method.UPNP] = lambda: scope.sleep(60.0)
    home.start("upnp")
    home.world.run_for(1.0)
    assert home.stop(join_limit_s=0.1) < 0.1


@pytest.mark.parametrize("trouble", [NegativeAnswer("none", code="no_gateway"), EnvironmentFault("no process")])
def test_a_protocol_that_fails_leaves_it_to_the_others(home, trouble):
    def fail():
        raise trouble

    home.finders[Method.PCP] = fail
    home.start()
    assert home.wait_mapped(1.0)
    assert home.mappings.view().method == "natpmp"


def test_a_router_that_refuses_by_one_protocol_is_asked_by_the_other(home, monkeypatch):
    refuse = pcp.Answer(pcp.Opcode.MAP, pcp.Result.NOT_AUTHORIZED, 0, 0)
    real = home.router.pcp

    def answer(data: bytes, client: str) -> bytes:
        return pcp.pack_answer(refuse) if pcp.unpack_request(data).map else real(data, client)

    monkeypatch.setattr(home.router, "pcp", answer)
    home.start()
    assert home.wait_mapped(1.0)
    assert home.mappings.view().method == "natpmp"


def test_what_was_half_mapped_is_taken_back_before_the_next_protocol_is_tried(home, monkeypatch):
    real = home.router.pcp

    def tcp_alone(data: bytes, client: str) -> bytes:
        request = pcp.unpack_request(data)
        if request.map and request.map.protocol == pcp.Protocol.UDP and request.lifetime_s:
            return pcp.pack_answer(pcp.Answer(pcp.Opcode.MAP, pcp.Result.NO_RESOURCES, 0, 0))
        return real(data, client)

    monkeypatch.setattr(home.router, "pcp", tcp_alone)
    home.start("pcp")
    home.world.run_for(10.0)
    assert home.state == "refused"
    assert not home.router.table


def test_the_outer_port_of_another_host_is_left_to_it(home):
    home.router.map("tcp", NEIGHBOUR, 30303, 30303, 7200)
    home.start()
    assert home.world.run(lambda: home.mappings.external(Transport.TCP) == ("20.0.0.1", 30304), 1.0)
    assert home.router.table["tcp", 30303].client == NEIGHBOUR


@pytest.mark.parametrize(("method", "tcp", "udp"), [("none", 1, 2), ("upnp", 1, 2), ("auto", 0, 0)])
def test_with_nothing_to_do_it_is_off(home, method, tcp, udp):
    home.start(method, tcp, udp)
    home.world.run_for(60.0)
    assert (home.state, home.told(), home.router.asked) == ("off", [], [])
    assert home.stop() == 0.0


def test_one_transport_alone_is_mapped_alone(home):
    home.start("natpmp", tcp=0)
    assert home.world.run(lambda: home.mappings.external(Transport.UDP) is not None, 1.0)
    assert list(home.router.table) == [("udp", 30301)]


@pytest.mark.parametrize("restarts", [True, False])
def test_the_outer_port_that_was_had_last_is_asked_for_again(home, restarts):
    """Also when the router was away so long that it had to be looked for."""
    home.router.map("tcp", NEIGHBOUR, 30303, 30303, 7200)
    home.start("natpmp")
    home.world.run_for(100.0)
    home.router.restart()
    if not restarts:
        home.router.manners.mute = ("natpmp",)
        home.world.run_for(60.0)
        assert home.mappings.external(Transport.TCP) is None
        home.router.manners.mute = ()
    assert home.wait_mapped()
    assert home.mappings.external(Transport.TCP) == ("20.0.0.1", 30304)


class TellingGateway(NatPmpGateway):
    """As one of UPnP: it can be read back, and refuses a port of another host."""

    def __init__(self, home: Home) -> None:
        super().__init__(home.runtime, HOST, ROUTER)
        self.home = home
        self.forgets = False
        self.tried: list[int] = []

    def add(self, wish: Wish) -> PortMapping:
        self.tried.append(wish.external_port)
        if self.home.router.is_taken(wish.transport.value, wish.external_port, HOST):
            raise MappingRefused("taken", method=Method.UPNP, number=718, code="mapping_conflict", hint="another")
        mapping = super().add(wish)
        if self.forgets:
            self.home.router.table.clear()
        return mapping

    def verify(self, mapping: PortMapping) -> bool:
        return mapping.external[1] in self.home.router.mapped(mapping.transport.value)


@pytest.fixture
def telling(home):
    gateway = TellingGateway(home)
    home.finders = {Method.UPNP: lambda: gateway}
    return gateway


def test_a_refused_port_is_replaced_by_one_that_is_free(home, telling):
    home.router.map("tcp", NEIGHBOUR, 30303, 30303, 7200)
    home.start()
    assert home.world.run(lambda: home.mappings.external(Transport.TCP) is not None, 1.0)
    assert FIRST_OTHER_PORT <= home.mappings.external(Transport.TCP)[1] <= LAST_OTHER_PORT
    assert home.mappings.external(Transport.UDP)[1] == 30301


def test_it_does_not_try_ports_without_end(home, telling, monkeypatch):
    monkeypatch.setattr(home.router, "is_taken", lambda *_: True)
    home.start()
    home.world.run_for(5.0)
    assert (home.state, home.mappings.view().error.code) == ("refused", "mapping_conflict")
    assert len(telling.tried) == 1 + OTHER_PORTS
    assert telling.tried[0] == 30303


def test_a_mapping_that_is_not_there_when_read_back_is_none(home, telling):
    telling.forgets = True
    home.start()
    home.world.run_for(5.0)
    view = home.mappings.view()
    assert (view.state, view.error.code, view.tcp) == ("refused", "mapping_refused", None)
    assert "does not have it" in view.error.message
    telling.forgets = False
    assert home.wait_mapped()


def test_a_mapping_that_is_not_there_any_more_is_made_again(home, telling):
    home.start()
    home.world.run_for(100.0)
    home.router.table.clear()
    assert home.wait_mapped(VERIFY_EVERY * LOOK_EVERY_S + 1)
    assert home.last()["reason"] == "the router had dropped them"


def test_trouble_of_this_machine_is_no_end(home, telling, monkeypatch):
    """Out of descriptors, say, when it maps and when it looks."""

    def fail(*_):
        raise EnvironmentFault("too many open files", code="too_many_open_files")

    with monkeypatch.context() as patched:
        patched.setattr(telling, "add", fail)
        home.start()
        home.world.run_for(5.0)
        assert home.state == "no_gateway"
        assert "too many open files" in home.mappings.view().error.message
    assert home.wait_mapped()
    with monkeypatch.context() as patched:
        patched.setattr(telling, "external_ip", fail)
        assert home.world.run(lambda: home.state == "searching", BACK_WITHIN_S)
    assert home.wait_mapped()


# -- no router, or none that helps -------------------------------------------------------------------------------------


def test_without_a_router_that_maps_it_says_so_once_and_asks_ever_more_rarely(home, log):
    home.router.manners.mute = ("natpmp", "pcp")
    heard = []
    home.router.socket.receive = lambda data, sender: heard.append(data)
    home.start()
    home.world.run_for(10.0)
    view = home.mappings.view()
    assert (view.state, view.error.code) == ("no_gateway", "no_gateway")
    assert "PCP" in view.error.message
    assert "NAT-PMP" in view.error.message
    home.world.run_for(3600.0)
    assert home.told() == ["port_mapping_failed"]
    assert len(log.records) == 1
    assert len(heard) < 200
    assert home.changes == []


def test_without_a_network_nothing_is_sent_until_there_is_one(home):
    home.gateway = None
    home.start()
    home.world.run_for(1000.0)
    assert (home.state, home.router.asked) == ("no_gateway", [])
    home.gateway = ROUTER
    assert home.wait_mapped(LOOK_EVERY_S + 1)


@protocols
def test_a_refusal_is_told_once_with_advice_and_tried_again(home, method, log):
    home.router.manners.refuses = 2
    home.start(method)
    home.world.run_for(3600.0)
    view = home.mappings.view()
    assert (view.state, view.error.code) == ("refused", "mapping_not_authorised")
    assert "settings" in view.error.hint
    assert home.told() == ["port_mapping_failed"]
    assert home.last()["code"] == "mapping_not_authorised"
    assert len(log.records) == 1
    maps = [
        request for request in home.router.asked if getattr(request, "map", None) or hasattr(request, "internal_port")
    ]
    assert len(maps) < 3600 / RETRY_KNOWN_S + 3
    home.router.manners.refuses = 4 if method == "natpmp" else 8
    home.world.run_for(BACK_WITHIN_S)
    assert home.mappings.view().error.code == "gateway_full"
    home.router.manners.refuses = 0
    assert home.wait_mapped()
    assert home.told() == ["port_mapping_failed", "port_mapping_failed", "port_mapped"]


def test_garbage_costs_nothing_but_the_task(home):
    home.router.manners.garbage, home.router.manners.garbage_only = (b"", b"\xff" * 1400, bytes(16)), True
    home.start()
    home.world.run_for(600.0)
    assert home.state == "no_gateway"
    home.router.manners.garbage_only = False
    assert home.wait_mapped(300.0 + 60.0)


@pytest.mark.parametrize("answers", range(1, 8))
def test_a_router_that_falls_silent_in_the_middle_is_asked_again(home, answers):
    home.router.manners.stops_after = answers
    home.start("natpmp")
    home.world.run_for(20.0)
    assert home.told() == ["port_mapping_failed"] or home.is_mapped()
    home.router.manners.stops_after = None
    assert home.wait_mapped(600.0)


@pytest.mark.parametrize(
    ("ip", "state", "advice"),
    [
        ("20.0.0.1", "mapped", None),
        ("198.51.100.1", "mapped", None),
        ("10.1.2.3", "degraded", "second router"),
        ("192.168.0.2", "degraded", "second router"),
        ("100.64.0.9", "degraded", "provider"),
    ],
)
def test_a_router_behind_another_nat_is_found_out(home, ip, state, advice):
    home.router.manners.external_ip = ip
    home.start()
    assert home.wait_mapped(1.0)
    view = home.mappings.view()
    assert (view.state, view.double_nat, view.external_ip) == (state, state == "degraded", ip)
    assert home.mappings.external(Transport.TCP) == (ip, 30303)
    if advice is None:
        assert view.error is None
    else:
        assert view.error.code == "double_nat"
        assert advice in view.error.hint


# -- keeping -----------------------------------------------------------------------------------------------------------


@protocols
@pytest.mark.parametrize("lease_s", [12, 120, 7200])
def test_leases_are_renewed_before_they_end(home, method, lease_s):
    home.router.manners.longest_lease_s = lease_s
    home.start(method)
    assert home.wait_mapped(1.0)
    assert home.stays_mapped(max(300.0, lease_s * 2))
    assert home.told() == ["port_mapped"]
    assert len(home.changes) == 1
    assert home.mappings.view().expires_s > 0


@protocols
def test_a_router_that_restarts_gets_its_mappings_again(home, method):
    home.start(method)
    home.world.run_for(600.0)
    home.router.restart()
    assert not home.is_mapped()
    assert home.wait_mapped(LOOK_EVERY_S + 1)
    assert home.told() == ["port_mapped", "port_mapped"]
    assert home.last()["reason"] == "the router had forgotten them"


@protocols
@pytest.mark.parametrize("away_s", [8.0, 40.0, 600.0])
def test_a_router_that_is_away_is_found_again(home, method, away_s):
    home.start(method)
    home.world.run_for(100.0)
    home.router.manners.mute = ("natpmp", "pcp")
    home.world.run_for(away_s)
    home.router.restart()
    home.router.manners.mute = ()
    assert home.wait_mapped()
    assert home.state == "mapped"
    lost = ["port_mapping_lost", "port_mapping_failed"] if away_s >= 40.0 else []
    assert home.told() == ["port_mapped", *lost, "port_mapped"]
    assert home.mappings.external(Transport.TCP) == ("20.0.0.1", 30303)


def test_when_it_is_away_nobody_is_told_the_old_address(home):
    home.start("pcp")
    home.world.run_for(100.0)
    home.router.manners.mute = ("natpmp", "pcp")
    assert home.world.run(lambda: home.mappings.external(Transport.TCP) is None, BACK_WITHIN_S)
    view = home.mappings.view()
    assert view.state in ("searching", "no_gateway")
    assert (view.tcp, view.expires_s, view.method) == (None, None, None)
    assert len(home.changes) == 2


@protocols
def test_mappings_that_a_router_drops_are_made_again(home, method):
    home.start(method)
    home.world.run_for(100.0)
    home.router.table.clear()
    assert home.wait_mapped(BLIND_S)
    assert home.told() == ["port_mapped"]


@protocols
def test_a_port_that_has_gone_to_another_host_is_replaced(home, method):
    home.start(method)
    home.world.run_for(100.0)
    home.router.table.clear()
    home.router.map("tcp", NEIGHBOUR, 30303, 30303, 7200)
    moved = ("20.0.0.1", 30304)
    assert home.world.run(lambda: home.mappings.external(Transport.TCP) == moved, BLIND_S)
    home.world.run_for(BACK_WITHIN_S)
    owners = [(port, entry.client) for (kind, port), entry in home.router.table.items() if kind == "tcp"]
    assert sorted(owners) == [(30303, NEIGHBOUR), (30304, HOST)]
    assert home.last()["tcp"] == "20.0.0.1:30304"


@protocols
def test_a_new_outer_address_is_noticed(home, method):
    home.start(method)
    home.world.run_for(100.0)
    home.router.change_address("20.0.0.99")
    assert home.world.run(lambda: home.mappings.external(Transport.UDP) == ("20.0.0.99", 30301), LOOK_EVERY_S + 1)
    assert home.last()["tcp"] == "20.0.0.99:30303"
    assert home.told() == ["port_mapped", "port_mapped"]


def test_a_new_outer_address_of_which_the_epoch_says_nothing_is_noticed(home):
    home.start("natpmp")
    home.world.run_for(100.0)
    home.router.manners.external_ip = "20.0.0.99"
    assert home.world.run(lambda: home.mappings.external(Transport.UDP) == ("20.0.0.99", 30301), LOOK_EVERY_S + 1)
    assert home.last()["reason"] == "the router's outer address has changed"


def test_another_protocol_takes_over_from_one_that_falls_silent(home):
    home.start()
    home.world.run_for(100.0)
    assert home.mappings.view().method == "pcp"
    home.router.manners.mute = ("pcp",)
    assert home.world.run(lambda: home.mappings.view().method == "natpmp", BACK_WITHIN_S)
    assert home.stays_mapped(300.0)
    assert home.told() == ["port_mapped", "port_mapping_lost", "port_mapped"]


@pytest.mark.parametrize("times", [1, 3])
def test_a_single_silence_now_and_then_is_no_loss(home, times):
    home.start()
    home.world.run_for(100.0)
    for _ in range(times):
        let_one_look_fail(home)


def let_one_look_fail(home: Home) -> None:
    home.router.manners.mute = ("natpmp", "pcp")
    assert home.world.run(lambda: bool(home.runtime.host.sockets), BACK_WITHIN_S)
    home.world.run_for(4.0)
    assert not home.runtime.host.sockets
    home.router.manners.mute = ()
    assert home.stays_mapped(60.0)
    assert home.told() == ["port_mapped"]


def test_in_another_network_the_router_there_is_asked(home):
    other = Router(home.world.host(OTHER_ROUTER))
    other.manners.external_ip = "20.9.9.9"
    home.start()
    home.world.run_for(100.0)
    home.gateway = OTHER_ROUTER
    assert home.world.run(lambda: home.mappings.external(Transport.TCP) == ("20.9.9.9", 30303), LOOK_EVERY_S + 1)
    assert "this machine's address or router has changed" in [
        event.data.get("reason") for event in home.events.since(0).events
    ]


@protocols
def test_a_renewal_that_is_refused_is_a_loss(home, method):
    home.router.manners.longest_lease_s = 60
    home.start(method)
    home.world.run_for(10.0)
    home.router.manners.refuses = 2
    assert home.world.run(lambda: home.state == "refused", 60.0)
    assert home.told() == ["port_mapped", "port_mapping_lost", "port_mapping_failed"]
    assert not home.router.table


def test_lost_datagrams_change_nothing():
    with World(11, PathModel(latency_s=0.001, spread_s=0.0, loss=0.2)) as world:
        home = Home(world)
        home.start()
        assert home.wait_mapped(10.0)
        assert home.stays_mapped(1200.0)


# -- the end -----------------------------------------------------------------------------------------------------------


@protocols
def test_at_the_end_nothing_is_left(home, method):
    home.start(method)
    home.world.run_for(100.0)
    assert home.stop(join_limit_s=0.1) < 0.1
    assert not home.router.table
    assert home.mappings.external(Transport.TCP) is None
    assert home.state == "off"
    assert home.stop() == 0.0


def test_a_silent_router_does_not_hold_up_the_end(home):
    home.start()
    home.world.run_for(100.0)
    home.router.manners.mute = ("natpmp", "pcp")
    assert home.stop() <= STOP_LIMIT_S


def test_a_router_that_has_just_been_silent_is_not_asked_at_the_end(home):
    home.start("natpmp")
    home.world.run_for(100.0)
    home.router.manners.mute = ("natpmp",)
    assert home.world.run(lambda: bool(home.runtime.host.sockets), BACK_WITHIN_S)
    home.world.run_for(4.0)
    assert home.stop() == 0.0


@protocols
def test_ended_between_the_two_ports_it_tells_of_neither(home, method):
    home.start(method)
    assert home.world.run(lambda: len(home.router.table) == 1, 1.0)
    assert home.stop(join_limit_s=0.1) < 0.1
    assert home.told() == []
    assert not home.router.table


@pytest.mark.parametrize("after_s", [0.0, 0.0005, 0.0015, 0.003, 0.005, 0.007, 0.009, 0.02])
@pytest.mark.parametrize("method", ["auto", "natpmp", "pcp"])
def test_ended_in_the_middle_it_leaves_nothing_either(home, after_s, method):
    home.start(method)
    home.world.run_for(after_s)
    assert home.stop(join_limit_s=0.1) < 0.1
    assert not home.router.table


def test_ended_while_a_finder_hangs_it_does_not_wait_for_it(home):
    home.gateway = None
    gone = home.runtime.event()
    home.finders = {Method.UPNP: lambda: gone.wait(5.0)}
    home.start()
    home.world.run_for(1.0)
    assert home.stop() == 0.0


def test_ended_between_two_tries_it_ends_at_once(home):
    home.gateway = None
    home.start()
    home.world.run_for(20.0)
    assert home.stop() == 0.0
