"""The probe behind simulated boxes of every kind: among servers that are dead, slow, lossy or lie it is right, or silent."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import pytest
from lying_servers import FALSE_IP, PLACES, PORT, Liar, Lie

from kodectl.core.mapping import Gateway, Method
from kodectl.core.nat import Behavior
from kodectl.core.stun_answers import Grid
from kodectl.errors import LocalMisuse, NegativeAnswer
from kodectl.node.probe_views import ProbeView
from kodectl.node.probe_watching import WatchView, watch
from kodectl.node.probing import MAX_SERVERS, ProbeTerms, probe
from kodectl.node.routers import Finders
from kodectl.node.stun_server import StunServer
from kodectl.node.subject import ALTERNATE_SENDINGS
from kodectl.runtime.base import Address
from kodectl.sim.network import PathModel
from kodectl.sim.runtime import SimRuntime
from kodectl.sim.translation import PortRule
from kodectl.sim.world import World

EI, AD, APD = Behavior
OUTER_IP, HOST_IP = "20.0.0.1", "192.168.1.2"
NEAR = PathModel(latency_s=0.02, spread_s=0.01)
LOSSY = PathModel(latency_s=0.02, spread_s=0.01, loss=0.2)


class Box(NamedTuple):
    """A kind of box, and what a probe is to find."""

    nat_type: str
    mapping: Behavior | None
    filtering: Behavior = APD
    ports: PortRule = PortRule.PRESERVE


BOXES = {
    "open": Box("open", None),
    "full_cone": Box("full_cone", EI, EI),
    "restricted": Box("restricted", EI, AD),
    "port_restricted": Box("port_restricted", EI, APD),
    "port_restricted, random ports": Box("port_restricted", EI, APD, PortRule.RANDOM),
    "full_cone, sequential ports": Box("full_cone", EI, EI, PortRule.SEQUENTIAL),
    "port_restricted, sequential ports": Box("port_restricted", EI, APD, PortRule.SEQUENTIAL),
    "symmetric": Box("symmetric", APD, APD, PortRule.RANDOM),
    "symmetric by address": Box("symmetric", AD, APD, PortRule.RANDOM),
    "symmetric, sequential ports": Box("symmetric", APD, APD, PortRule.SEQUENTIAL),
    "symmetric, full filter": Box("symmetric", APD, EI, PortRule.RANDOM),
}
KINDS = pytest.mark.parametrize("box", BOXES)


class Scene:
    """A host behind a box, and servers on the internet: number n at 20.n.0.1, its other address 20.n.1.1."""

    def __init__(
        self, box: str, seed: object = 1, model: PathModel = NEAR, *, hairpin: bool = True, udp_blocked: bool = False
    ) -> None:
        self.world = World(f"{box} {seed}", model)
        rules = BOXES[box]
        self.expected = rules.nat_type
        self.asked: Counter[Address] = Counter()
        if rules.mapping is None:
            self.host = self.world.host(OUTER_IP)
        else:
            self.box = self.world.nat(
                "box",
                OUTER_IP,
                mapping=rules.mapping,
                filtering=rules.filtering,
                ports=rules.ports,
                hairpin=hairpin,
                udp_blocked=udp_blocked,
            )
            self.host = self.world.host(HOST_IP, behind=self.box)

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self.world.close()

    def serve(
        self, number: int, lie: Lie = Lie.HONEST, *, addresses: int = 2, third: Address = ("20.98.98.9", PORT + 1)
    ) -> tuple[str, int]:
        ips = [f"20.{number}.{index}.1" for index in range(addresses)]
        grid = Grid((ips[0], ips[1]), (PORT, PORT + 1)) if addresses == 2 else None
        liar = Liar(lie, grid, third, seed=number)
        hosts = [self.world.host(ip) for ip in ips]
        sockets: dict[Any, Any] = {}
        for place in PLACES if grid else PLACES[:1]:
            host = hosts[place.ip]

            def receive(data: bytes, sender: Address, place: Any = place, host: SimRuntime = host) -> None:
                self.asked[ips[place.ip], PORT + place.port] += 1
                reply = liar.reply(data, sender, host.now(), place)
                if reply is not None:
                    sockets[reply.place].send(reply.data, reply.target)

            sockets[place] = host.open_datagram((ips[place.ip], PORT + place.port), receive)
        return ips[0], PORT

    def listen(self, address: Address) -> None:
        """Somebody who counts what arrives and says nothing."""

        def receive(data: bytes, sender: Address) -> None:
            self.asked[address] += 1

        self.world.host(address[0]).open_datagram(address, receive)

    def probe(self, *servers: tuple[str, int], finders: Finders | None = None, **terms: Any) -> ProbeView:
        return self.world.call(self.host, probe, self.host, ProbeTerms(servers, **terms), finders or {})


DEAD = ("20.90.0.1", PORT)
LIES = pytest.mark.parametrize("lie", [lie for lie in Lie if lie is not Lie.HONEST], ids=lambda lie: lie.value)


# --- the plain case ------------------------------------------------------------------------------------------------------


@KINDS
def test_one_server_with_two_addresses_shows_every_kind(box: str) -> None:
    with Scene(box) as scene:
        view = scene.probe(scene.serve(1))
        rules = BOXES[box]
        mapping = rules.mapping or EI
        filtering = rules.filtering if rules.mapping else EI
        assert (view.nat_type, view.mapping, view.filtering) == (scene.expected, mapping.value, filtering.value)
        assert (view.ip, view.answered, view.complete, view.findings) == (OUTER_IP, True, True, [])


@pytest.mark.parametrize(
    ("box", "ports", "preserved", "pattern", "step", "hairpin"),
    [
        ("open", "same", True, None, None, None),
        ("port_restricted", "same", True, None, None, True),
        ("port_restricted, random ports", "same", False, None, None, True),
        ("symmetric", None, False, "random", None, None),
        ("symmetric, sequential ports", None, False, "sequential", 1, None),
    ],
)
def test_ports_and_hairpin(
    box: str, ports: str | None, preserved: bool, pattern: str | None, step: int | None, hairpin: bool | None
) -> None:
    with Scene(box) as scene:
        view = scene.probe(scene.serve(1))
        assert (view.port is not None) is (ports == "same")
        assert (view.port_preserved, view.port_pattern, view.port_step) == (preserved, pattern, step)
        assert view.hairpin is hairpin
        assert (view.address is None) is (view.port is None)


def test_no_hairpin() -> None:
    with Scene("restricted", hairpin=False) as scene:
        assert scene.probe(scene.serve(1)).hairpin is False


def test_three_plain_servers_leave_the_filter_open() -> None:
    with Scene("restricted") as scene:
        view = scene.probe(*(scene.serve(number, addresses=1) for number in (1, 2, 3)))
        assert (view.nat_type, view.mapping, view.verdict) == (None, "endpoint_independent", "hole_punching")
        assert view.why["filtering"] == "server_has_one_address"


def test_one_plain_server_shows_the_address_alone() -> None:
    with Scene("restricted") as scene:
        view = scene.probe(scene.serve(1, addresses=1))
        assert (view.ip, view.port, view.port_preserved) == (OUTER_IP, view.local_port, True)
        assert (view.mapping, view.nat_type, view.verdict) == (None, None, None)


def test_both_addresses_of_a_server_may_be_named() -> None:
    with Scene("symmetric") as scene:
        first = scene.serve(1)
        view = scene.probe(first, ("20.1.1.1", PORT))
        assert view.nat_type == "symmetric"


def test_names_are_resolved_and_those_that_are_not_are_told() -> None:
    with Scene("restricted") as scene:
        host, port = scene.serve(1)
        scene.world.names["stun.example.org"] = [host]
        view = scene.probe(("stun.example.org", port), ("nowhere.example.org", port), (host, port))
        assert view.nat_type == "restricted"
        assert [server.server for server in view.servers] == [f"stun.example.org:{port}"]
        assert [finding.code for finding in view.findings] == ["name_not_resolved"]


# --- servers that are dead, slow or lie, and packets that are lost ------------------------------------------------------


@KINDS
@LIES
def test_one_liar_among_three_changes_no_class(box: str, lie: Lie) -> None:
    with Scene(box, lie) as scene:
        view = scene.probe(scene.serve(1), scene.serve(2), scene.serve(3, lie, third=("20.1.1.1", PORT + 1)))
        assert view.nat_type == scene.expected


@KINDS
@LIES
@pytest.mark.parametrize("addresses", [1, 2])
def test_one_honest_one_dead_one_lying(box: str, lie: Lie, addresses: int) -> None:
    with Scene(box, f"{lie} {addresses}", LOSSY) as scene:
        honest, liar = scene.serve(1), scene.serve(3, lie, addresses=addresses, third=("20.1.1.1", PORT + 1))
        view = scene.probe(liar, DEAD, honest)
        assert view.nat_type in (None, scene.expected)
        assert view.nat_type or view.why["nat_type"]
        assert "server_silent" in {finding.code for finding in view.findings}


@KINDS
@pytest.mark.parametrize("seed", range(5))
def test_loss_changes_no_class(box: str, seed: int) -> None:
    with Scene(box, seed, LOSSY) as scene:
        view = scene.probe(scene.serve(1))
        assert view.nat_type == scene.expected


@pytest.mark.parametrize("seed", range(20))
def test_where_most_is_lost_nothing_is_said_of_the_filter(seed: int) -> None:
    with Scene("full_cone", seed, PathModel(latency_s=0.02, spread_s=0.0, loss=0.6)) as scene:
        assert scene.probe(scene.serve(1)).nat_type in (None, "full_cone")


@pytest.mark.parametrize("latency_s", [0.15, 0.4])
@pytest.mark.parametrize("box", ["full_cone", "port_restricted", "symmetric"])
def test_slow_servers_are_waited_for(box: str, latency_s: float) -> None:
    with Scene(box, 1, PathModel(latency_s=latency_s, spread_s=0.0)) as scene:
        assert scene.probe(scene.serve(1)).nat_type == scene.expected


def test_a_server_alone_that_lies_about_its_other_address_shows_no_filter() -> None:
    for lie, why in [
        (Lie.OWN_OTHER_ADDRESS, "server_inconsistent"),
        (Lie.PRIVATE_OTHER_ADDRESS, "server_inconsistent"),
        (Lie.CHANGING_OTHER_ADDRESS, "server_inconsistent"),
        (Lie.THIRD_PARTY, "server_alternate_silent"),
        (Lie.SILENT_TO_CHANGE_REQUEST, "server_does_not_change"),
        (Lie.DEAF_TO_CHANGE_REQUEST, "server_has_one_address"),
    ]:
        with Scene("restricted", lie) as scene:
            view = scene.probe(scene.serve(1, lie))
            assert (view.nat_type, view.filtering, view.why["filtering"]) == (None, None, why), lie


def test_a_third_party_is_asked_once_and_not_told_on() -> None:
    third = ("20.50.0.1", 4000)
    with Scene("full_cone") as scene:
        scene.listen(third)
        scene.probe(scene.serve(1, Lie.THIRD_PARTY, third=third))
        assert 0 < scene.asked[third] <= ALTERNATE_SENDINGS
        assert scene.asked.keys() <= {("20.1.0.1", PORT), third}


def test_a_third_party_that_answers_is_not_taken_for_the_server() -> None:
    """What it sees is its own word, and honest; but who speaks for it is the liar, and may speak for others too."""
    with Scene("symmetric") as scene:
        scene.serve(2)
        view = scene.probe(scene.serve(1, Lie.THIRD_PARTY, third=("20.2.0.1", PORT + 1)))
        assert [server.alternate for server in view.servers] == ["inconsistent"]
        assert (view.nat_type, view.why["mapping"]) == (None, "server_inconsistent")


def test_the_address_that_a_liar_names_alone_is_not_knocked_at() -> None:
    with Scene("full_cone") as scene:
        view = scene.probe(scene.serve(1, Lie.FALSE_MAPPED_IP), scene.serve(2), scene.serve(3))
        assert (view.hairpin, view.ip) == (True, OUTER_IP)
        assert [server.outlier for server in view.servers] == [True, False, False]
        (finding,) = view.findings
        assert finding.code == "servers_disagree"
        assert FALSE_IP in finding.message


def test_who_makes_up_what_it_says_need_not_be_outvoted() -> None:
    with Scene("port_restricted") as scene:
        assert scene.probe(scene.serve(1), scene.serve(2, Lie.RANDOM_PORTS)).nat_type == "port_restricted"
    with Scene("symmetric") as scene:
        servers = scene.serve(1), scene.serve(2, Lie.RANDOM_PORTS), scene.serve(3, addresses=1)
        assert scene.probe(*servers).nat_type == "symmetric"


def test_nobody_is_asked_whom_a_server_may_not_name() -> None:
    router = ("192.168.1.1", PORT + 1)
    with Scene("full_cone") as scene:
        asked: list[bytes] = []
        scene.box.runtime.open_datagram(router, lambda data, sender: asked.append(data))
        view = scene.probe(scene.serve(1, Lie.PRIVATE_OTHER_ADDRESS))
        assert (asked, view.servers[0].alternate) == ([], "unfit")


def test_a_server_is_not_asked_more_than_nodes_answer() -> None:
    """A node gives a network 60 answers at once; with a plain server a probe is far from that."""
    with Scene("port_restricted") as scene:
        scene.probe(scene.serve(1, addresses=1))
        assert scene.asked["20.1.0.1", PORT] < 10


def test_a_router_that_forgets_in_the_middle_makes_no_class_wrong() -> None:
    for moment in (0.3, 0.6, 0.9, 1.0, 1.02, 1.05, 1.08, 1.1, 1.2):
        with Scene("full_cone, sequential ports", moment) as scene:
            server = scene.serve(1)
            scene.world.at(scene.world.now + moment, scene.box.forget)
            assert scene.probe(server).nat_type in (None, "full_cone"), moment


# --- when there is no answer ---------------------------------------------------------------------------------------------


def test_nobody_answers() -> None:
    with Scene("restricted") as scene:
        view = scene.probe(DEAD, ("20.91.0.1", PORT))
        assert (view.answered, view.nat_type, view.why["nat_type"]) == (False, None, "no_server_answered")


def test_blocked() -> None:
    with Scene("port_restricted", udp_blocked=True) as scene:
        server = StunServer(scene.world.host("20.1.0.1"))
        server.start(("20.1.0.1", PORT))
        for dead in (DEAD,), ():
            view = scene.probe(*dead, ("20.1.0.1", PORT), timeout_s=9.0)
            assert (view.answered, view.nat_type, view.verdict) == (False, "blocked", "turn_relay")
            assert view.took_ms < 4_000, "the dead one is not waited for"


@pytest.mark.parametrize("latency_s", [0.8, 0.95, 1.5, 3.0])
def test_a_server_that_is_only_slow_is_no_network_without_udp(latency_s: float) -> None:
    with Scene("port_restricted", 1, PathModel(latency_s=latency_s, spread_s=0.0, jitter_s=0.0)) as scene:
        server = StunServer(scene.world.host("20.1.0.1"))
        server.start(("20.1.0.1", PORT))
        assert scene.probe(("20.1.0.1", PORT), timeout_s=30.0, deadline_s=60.0).nat_type is None


def test_the_deadline_cuts_the_probe_short() -> None:
    with Scene("port_restricted") as scene:
        begun = scene.world.now
        view = scene.probe(scene.serve(1), DEAD, deadline_s=0.5)
        assert scene.world.now - begun < 0.7
        assert (view.complete, view.answered, view.nat_type) == (False, True, None)


def test_sockets_are_closed() -> None:
    with Scene("restricted") as scene:
        scene.probe(scene.serve(1), scene.serve(2))
        assert not scene.host.host.sockets


def test_too_many_servers_are_a_misuse() -> None:
    with Scene("restricted") as scene:
        for number in (0, MAX_SERVERS + 1):
            with pytest.raises(LocalMisuse, match="1 to 8"):
                scene.probe(*[DEAD] * number)


# --- routers -------------------------------------------------------------------------------------------------------------


class Router:
    """A `Gateway`, as far as a probe asks it."""

    method = Method.UPNP
    address = "192.168.1.1"
    name = "a router"

    def __init__(self, external_ip: str | None) -> None:
        self._external_ip = external_ip

    def external_ip(self) -> str | None:
        return self._external_ip


def fails() -> Gateway:
    raise NegativeAnswer("nobody", code="no_gateway")


def test_routers_are_asked_beside() -> None:
    with Scene("restricted") as scene:
        hanging = scene.host.event()
        finders: Finders = {
            Method.PCP: fails,
            Method.NATPMP: lambda: hanging.wait() and fails(),  # type: ignore[return-value]
            Method.UPNP: lambda: Router("10.1.2.3"),  # type: ignore[return-value]
        }
        view = scene.probe(scene.serve(1), finders=finders)
        assert [(one.method, one.speaks, one.error) for one in view.gateways] == [
            ("pcp", False, "no_gateway"),
            ("natpmp", False, "no_answer"),
            ("upnp", True, None),
        ]
        assert (view.double_nat, view.cgnat, view.why["cgnat"]) == (True, None, "gateway_no_address")
        hanging.set()


def test_a_router_that_maps_is_what_to_do_next() -> None:
    with Scene("restricted") as scene:
        view = scene.probe(scene.serve(1), finders={Method.UPNP: lambda: Router(OUTER_IP)})  # type: ignore[dict-item,return-value]
        assert (view.double_nat, view.cgnat) == (False, False)
        assert view.next_command.startswith("kodectl nat map")


# --- pystun3 beside it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [name for name, rules in BOXES.items() if rules != BOXES["symmetric, full filter"]])
def test_pystun3_agrees(box: str) -> None:
    with Scene(box) as scene:
        view = scene.probe(scene.serve(1), with_classic=True)
        assert view.classic is not None
        assert (view.classic.nat_type, view.classic.agrees) == (scene.expected, True)


@LIES
def test_the_faults_of_pystun3_are_contained(lie: Lie) -> None:
    with Scene("restricted", lie) as scene:
        view = scene.probe(scene.serve(1, lie), with_classic=True)
        assert lie is Lie.REFUSING or view.classic is not None
        assert view.nat_type in (None, "restricted") or lie in ALONE_IS_BELIEVED


ALONE_IS_BELIEVED = {Lie.PORT_BY_PLACE, Lie.GUESSED_LOCAL}


def test_pystun3_ends_with_the_probe() -> None:
    with Scene("port_restricted") as scene:
        view = scene.probe(scene.serve(1), with_classic=True, deadline_s=2.0)
        assert view.classic is not None
        assert (view.classic.nat_type, view.classic.error) == (None, "deadline")
        assert view.nat_type == "port_restricted"


# --- watching ------------------------------------------------------------------------------------------------------------


def test_watching_tells_what_changes_and_nothing_else() -> None:
    with Scene("port_restricted") as scene:
        server = scene.serve(1)
        seen: list[WatchView] = []
        start = scene.world.now
        scene.world.at(start + 25, lambda: scene.box.change_address("20.0.0.9"))
        scene.world.at(start + 55, lambda: scene.world.cut("box", "20.1.0.1"))
        scene.world.at(start + 85, scene.world.heal)
        last = scene.world.call(
            scene.host,
            lambda: watch(
                scene.host, ProbeTerms((server,)), interval_s=10.0, count=12, report=lambda one: seen.append(one)
            ),
        )
        assert [one.event for one in seen] == ["first", "changed", "silent", "back"]
        assert [(one.field, one.before, one.after) for one in seen[1].changes] == [("ip", OUTER_IP, "20.0.0.9")]
        assert [one.round for one in seen] == [1, 4, 7, 10]
        assert (last.nat_type, last.ip) == ("port_restricted", "20.0.0.9")
        assert {one.port for one in seen if one.port} == {last.local_port}, "one socket, one mapping"
