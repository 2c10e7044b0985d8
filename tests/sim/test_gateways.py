"""NAT-PMP and PCP against a simulated router, well behaved or not."""

from collections.abc import Callable

import pytest
from simulated_router import Router

from kodectl.cli.explanations import EXPLANATIONS
from kodectl.core.mapping import DEFAULT_LEASE_S, LONGEST_LEASE_S, MappingRefused, Transport, Wish
from kodectl.core.refusals import NATPMP, PCP
from kodectl.errors import NegativeAnswer, WireError
from kodectl.node.gateway_line import SCHEDULE_S
from kodectl.node.natpmp import find_natpmp
from kodectl.node.pcp import find_pcp
from kodectl.runtime.base import LocalNetwork
from kodectl.sim.network import PathModel
from kodectl.sim.world import World
from kodectl.wire import natpmp, pcp

ROUTER, HOST, NEIGHBOUR = "192.168.1.1", "192.168.1.2", "192.168.1.3"
LAN = PathModel(latency_s=0.001, spread_s=0.0)
FINDERS = {"natpmp": find_natpmp, "pcp": find_pcp}
WISH = Wish(Transport.TCP, 30303, 30303)


class Home:
    """A host and its router."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.runtime = self.host(HOST)
        self.router = Router(world.host(ROUTER))

    def host(self, ip: str):
        runtime = self.world.host(ip)
        runtime.local_network = lambda: LocalNetwork((ip,), ip, ROUTER, None, None)
        return runtime

    def call(self, function: Callable, *args):
        return self.world.call(self.runtime, function, *args)

    def find(self, protocol: str):
        return self.call(FINDERS[protocol], self.runtime)


@pytest.fixture
def home():
    with World(3, LAN) as world:
        yield Home(world)


both = pytest.mark.parametrize("protocol", FINDERS)


@both
def test_a_port_is_mapped_and_removed(home, protocol):
    gateway = home.find(protocol)
    assert (gateway.method.value, gateway.address) == (protocol, ROUTER)
    mapping = home.call(gateway.add, WISH)
    assert (mapping.internal, mapping.external) == ((HOST, 30303), ("20.0.0.1", 30303))
    assert mapping.lease_s == DEFAULT_LEASE_S
    assert home.router.mapped("tcp") == [30303]
    assert home.call(gateway.verify, mapping) is None
    assert home.call(gateway.external_ip) == "20.0.0.1"
    assert home.call(gateway.mappings) is None
    home.call(gateway.remove, mapping)
    assert not home.router.table
    home.call(gateway.remove, mapping)
    assert not home.runtime.host.sockets


@both
def test_the_router_may_give_another_port_and_a_shorter_lease(home, protocol):
    home.router.map("tcp", NEIGHBOUR, 1, 30303, 7200)
    home.router.manners.longest_lease_s = 120
    mapping = home.call(home.find(protocol).add, WISH)
    assert (mapping.external[1], mapping.lease_s) == (30304, 120)


@both
def test_for_ever_is_asked_for_as_a_year(home, protocol):
    home.router.manners.longest_lease_s = 10**9
    mapping = home.call(home.find(protocol).add, Wish(Transport.UDP, 30301, 0, 0))
    assert mapping.lease_s == LONGEST_LEASE_S
    assert home.router.mapped("udp") == [30301]


@both
@pytest.mark.parametrize("change", [{"external_port": 0}, {"lease_s": 0}])
def test_a_mapping_of_no_port_or_no_time_is_nonsense(home, protocol, change, monkeypatch):
    gateway = home.find(protocol)
    given = (change.get("external_port", 30303), change.get("lease_s", 60))
    monkeypatch.setattr(home.router, "map", lambda *_, **__: given)
    with pytest.raises(WireError, match="maps 30303"):
        home.call(gateway.add, WISH)


@both
def test_silence_is_told_after_a_few_sendings(home, protocol):
    home.router.manners.mute = ("natpmp", "pcp")
    heard = []
    home.router.socket.receive = lambda *_: heard.append(home.world.now)
    with pytest.raises(NegativeAnswer, match="does not answer") as caught:
        home.find(protocol)
    assert caught.value.code == "no_gateway"
    assert len(heard) == len(SCHEDULE_S)
    assert home.world.now < 1.2 * sum(SCHEDULE_S)


@pytest.mark.parametrize(
    ("protocol", "other", "complaint"),
    [("natpmp", "pcp", "does not speak NAT-PMP"), ("pcp", "natpmp", "speaks NAT-PMP alone")],
)
def test_a_router_of_the_other_protocol_says_so_at_once(home, protocol, other, complaint):
    home.router.manners.protocols = (other,)
    with pytest.raises(NegativeAnswer, match=complaint) as caught:
        home.find(protocol)
    assert caught.value.code == "no_gateway"
    assert home.world.now < SCHEDULE_S[0]


def test_a_router_of_another_version_of_pcp_says_so(home, monkeypatch):
    answer = pcp.pack_answer(pcp.Answer(pcp.Opcode.ANNOUNCE, pcp.Result.UNSUPP_VERSION, 0, 9, version=3))
    monkeypatch.setattr(home.router, "answer", lambda *_: answer)
    with pytest.raises(NegativeAnswer, match="version 3 of PCP, not 2"):
        home.find("pcp")


@both
def test_no_default_gateway_is_told_at_once(home, protocol):
    home.runtime.local_network = lambda: LocalNetwork((HOST,), HOST, None, None, None)
    with pytest.raises(NegativeAnswer, match="no default gateway"):
        home.find(protocol)
    assert home.world.now == 0.0


@both
def test_an_address_that_this_machine_has_no_more_is_no_gateway(home, protocol):
    gateway = home.find(protocol)
    gateway._line.local_ip = "192.168.1.77"
    with pytest.raises(NegativeAnswer, match="cannot be asked from") as caught:
        home.call(gateway.add, WISH)
    assert caught.value.code == "no_gateway"


@both
def test_lost_datagrams_are_sent_again(protocol):
    with World(5, PathModel(latency_s=0.001, spread_s=0.0, loss=0.1)) as world:
        home = Home(world)
        gateway = home.find(protocol)
        for port in range(20):
            home.call(gateway.add, Wish(Transport.UDP, 30000 + port, 0))
        assert len(home.router.mapped("udp")) == 20


NOISE = (b"", b"\0", bytes(8), b"\0\x80", b"\xff" * 60, bytes(2000), b"\x02\x81\0\0")


@both
def test_garbage_before_the_answer_does_not_matter(home, protocol):
    home.router.manners.garbage = NOISE
    assert home.call(home.find(protocol).add, WISH).external[1] == 30303


@both
def test_garbage_alone_is_told_as_such(home, protocol):
    home.router.manners.garbage, home.router.manners.garbage_only = NOISE, True
    with pytest.raises(WireError):
        home.find(protocol)


@both
def test_answers_of_another_port_or_host_are_not_heard(home, protocol):
    gateway = home.find(protocol)
    home.router.manners.from_port = 5350
    with pytest.raises(NegativeAnswer, match="does not answer"):
        home.call(gateway.add, WISH)


def test_answers_with_a_nonce_of_nobody_are_not_heard(home):
    gateway = home.find("pcp")
    home.router.manners.other_nonce = True
    with pytest.raises(NegativeAnswer, match="does not answer"):
        home.call(gateway.add, WISH)
    home.router.manners.refuses = pcp.Result.NOT_AUTHORIZED
    with pytest.raises(NegativeAnswer, match="does not answer"):
        home.call(gateway.add, WISH)


def test_an_answer_about_another_port_is_not_taken(home, monkeypatch):
    gateway = home.find("natpmp")
    answers = [
        natpmp.Mapping(natpmp.Opcode.MAP_TCP, 0, 1, 2, 3),
        natpmp.Mapping(natpmp.Opcode.MAP_UDP, 0, 30303, 2, 3),
        natpmp.Refusal(natpmp.Opcode.MAP_UDP, 4, 0),
    ]
    home.router.manners.garbage = tuple(natpmp.pack_answer(answer) for answer in answers)
    assert home.call(gateway.add, WISH).external[1] == 30303


@pytest.mark.parametrize(
    ("protocol", "number"), [("natpmp", number) for number in NATPMP] + [("pcp", number) for number in PCP]
)
def test_every_result_code_becomes_advice(home, protocol, number):
    gateway = home.find(protocol)
    home.router.manners.refuses = number
    with pytest.raises(MappingRefused) as caught:
        home.call(gateway.add, WISH)
    refusal = caught.value
    assert (refusal.method.value, refusal.number) == (protocol, number)
    assert f"result {number}" in refusal.message
    assert "30303/tcp" in refusal.message
    assert refusal.hint
    assert refusal.code in EXPLANATIONS


def test_every_result_of_the_specifications_has_a_meaning():
    assert set(NATPMP) == set(natpmp.Result) - {0}
    assert set(PCP) == set(pcp.Result) - {0}


@both
def test_a_result_that_no_specification_has_is_a_refusal_all_the_same(home, protocol):
    gateway = home.find(protocol)
    home.router.manners.refuses = 200
    with pytest.raises(MappingRefused, match="result 200") as caught:
        home.call(gateway.add, WISH)
    assert caught.value.code == "mapping_refused"


def test_a_natpmp_router_without_an_address_refuses_and_has_none(home):
    home.router.manners.external_ip = "0.0.0.0"
    gateway = home.find("natpmp")
    assert home.call(gateway.external_ip) is None
    with pytest.raises(MappingRefused) as caught:
        home.call(gateway.add, WISH)
    assert caught.value.code == "gateway_no_address"
    assert not home.router.table


@both
@pytest.mark.parametrize("ip", ["224.0.0.1", "255.255.255.255"])
def test_an_outer_address_of_no_host_is_nonsense(home, protocol, ip):
    gateway = home.find(protocol)
    home.router.manners.external_ip = ip
    with pytest.raises(WireError, match=ip):
        home.call(gateway.add, WISH)
    assert not home.router.table


@both
def test_a_restart_is_told_once(home, protocol):
    home.world.run_for(100.0)
    gateway = home.find(protocol)
    home.world.run_for(100.0)
    assert home.call(gateway.has_restarted) is False
    home.router.restart()
    home.world.run_for(10.0)
    assert home.call(gateway.has_restarted) is True
    assert home.call(gateway.has_restarted) is False


def test_a_node_that_was_killed_has_its_ports_back_with_the_same_nonce_only(home):
    nonce = bytes(range(12))
    first = home.call(find_pcp, home.runtime, nonce)
    home.call(first.add, WISH)
    with pytest.raises(MappingRefused) as caught:
        home.call(home.find("pcp").add, WISH)
    assert caught.value.code == "mapping_not_authorised"
    again = home.call(find_pcp, home.runtime, nonce)
    assert home.call(again.add, WISH).external[1] == 30303
