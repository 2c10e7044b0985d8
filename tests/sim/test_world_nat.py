"""Boxes that translate addresses in the simulated world: who gets through, as whom, and for how long."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kodectl.core.mapping import Transport
from kodectl.core.nat import Behavior
from kodectl.errors import LocalMisuse
from kodectl.runtime.base import Address, ConnectFailed, Stream, StreamClosed
from kodectl.sim.nat import Nat
from kodectl.sim.network import PathModel
from kodectl.sim.runtime import SimRuntime
from kodectl.sim.translation import HIGHEST_PORT, LOWEST_PORT, PortRule
from kodectl.sim.world import World

STEADY = PathModel(latency_s=0.05, spread_s=0.0, jitter_s=0.0)
OUTER, OTHER_OUTER = "21.0.0.1", "21.1.0.1"
INNER = "192.168.1.2"
SERVER, OTHER_SERVER = "22.0.0.1", "22.1.0.1"
PORT, OTHER_PORT = 30_301, 30_302
TCP_PORT = 30_303

FREE, ADDRESS, ENDPOINT = Behavior
BEHAVIORS = pytest.mark.parametrize("behavior", list(Behavior), ids=lambda behavior: behavior.value)


class Radio:
    """A socket that keeps what it hears, with the sender as it sees him."""

    def __init__(self, runtime: SimRuntime, port: int = PORT) -> None:
        self.heard: list[tuple[bytes, Address]] = []
        self.address: Address = (runtime.ip, port)
        self._socket = runtime.open_datagram(("0.0.0.0", port), lambda *heard: self.heard.append(heard))

    def say(self, data: bytes, address: Address) -> None:
        self._socket.send(data, address)

    @property
    def texts(self) -> list[bytes]:
        return [data for data, _ in self.heard]


class Mirror(Radio):
    """Tells every sender how it sees him, as a STUN server does."""

    def __init__(self, runtime: SimRuntime, port: int = PORT) -> None:
        super().__init__(runtime, port)
        self._socket.close()
        self._socket = runtime.open_datagram(
            ("0.0.0.0", port), lambda _, sender: self.say(f"{sender[0]} {sender[1]}".encode(), sender)
        )


def seen_at(world: World, radio: Radio, mirror: Radio) -> Address:
    """The address of `radio` as `mirror` tells it."""
    radio.heard.clear()
    radio.say(b"", mirror.address)
    world.run_for(1.0)
    [(text, _)] = radio.heard
    ip, port = text.decode().split()
    return ip, int(port)


@pytest.fixture
def world() -> Iterator[World]:
    with World(1, STEADY) as one:
        yield one


class TestMapping:
    @BEHAVIORS
    @pytest.mark.parametrize("filtering", list(Behavior), ids=lambda behavior: behavior.value)
    def test_one_endpoint_has_as_many_outer_ports_as_the_rule_says(
        self, world: World, behavior: Behavior, filtering: Behavior
    ) -> None:
        nat = world.nat("router", OUTER, mapping=behavior, filtering=filtering)
        radio = Radio(world.host(INNER, behind=nat))
        server, other = world.host(SERVER), world.host(OTHER_SERVER)
        mirrors = [Mirror(server, PORT), Mirror(server, OTHER_PORT), Mirror(other, PORT)]
        seen = [seen_at(world, radio, mirror) for mirror in mirrors]
        assert {ip for ip, _ in seen} == {OUTER}
        ports = [port for _, port in seen]
        assert (ports[0] == ports[1], ports[0] == ports[2]) == {
            FREE: (True, True),
            ADDRESS: (True, False),
            ENDPOINT: (False, False),
        }[behavior]
        assert [seen_at(world, radio, mirror)[1] for mirror in mirrors] == ports

    def test_each_endpoint_inside_has_a_port_of_its_own(self, world: World) -> None:
        nat = world.nat("router", OUTER)
        mirror = Mirror(world.host(SERVER))
        hosts = [world.host(f"192.168.1.{number}", behind=nat) for number in range(2, 6)]
        radios = [Radio(host, port) for host in hosts for port in (PORT, OTHER_PORT)]
        assert len({seen_at(world, radio, mirror) for radio in radios}) == len(radios)

    def test_the_box_takes_no_time_worth_mentioning(self, world: World) -> None:
        nat = world.nat("router", OUTER)
        radio, server = Radio(world.host(INNER, behind=nat)), Radio(world.host(SERVER))
        radio.say(b"x", server.address)
        assert world.run(lambda: bool(server.heard))
        assert world.now == pytest.approx(0.05, abs=0.001)


class TestPorts:
    def seen_ports(self, world: World, rule: PortRule, inner_ports: list[int]) -> list[int]:
        nat = world.nat("router", OUTER, ports=rule)
        host, mirror = world.host(INNER, behind=nat), Mirror(world.host(SERVER))
        return [seen_at(world, Radio(host, port), mirror)[1] for port in inner_ports]

    def test_preserved(self, world: World) -> None:
        assert self.seen_ports(world, PortRule.PRESERVE, [5_000, 40_000, 7]) == [5_000, 40_000, 7]

    def test_preserved_where_it_is_free(self, world: World) -> None:
        nat = world.nat("router", OUTER)
        mirror = Mirror(world.host(SERVER))
        radios = [Radio(world.host(f"192.168.1.{number}", behind=nat), 65_535) for number in (2, 3, 4)]
        assert [seen_at(world, radio, mirror)[1] for radio in radios] == [65_535, LOWEST_PORT, LOWEST_PORT + 1]

    def test_in_sequence(self, world: World) -> None:
        ports = self.seen_ports(world, PortRule.SEQUENTIAL, [5_000, 40_000, 7, 8])
        assert ports == list(range(ports[0], ports[0] + 4))

    def test_at_random(self, world: World) -> None:
        ports = self.seen_ports(world, PortRule.RANDOM, list(range(5_000, 5_020)))
        assert len(set(ports)) == 20
        assert ports != sorted(ports)
        assert all(LOWEST_PORT <= port <= HIGHEST_PORT for port in ports)


class TestFiltering:
    @BEHAVIORS
    @pytest.mark.parametrize("mapping", list(Behavior), ids=lambda behavior: behavior.value)
    def test_who_gets_through(self, world: World, mapping: Behavior, behavior: Behavior) -> None:
        nat = world.nat("router", OUTER, mapping=mapping, filtering=behavior)
        radio = Radio(world.host(INNER, behind=nat))
        server, other = world.host(SERVER), world.host(OTHER_SERVER)
        dialled, other_port, stranger = Radio(server), Radio(server, OTHER_PORT), Radio(other)
        stranger.say(b"before anything", (OUTER, PORT))
        world.run_for(1.0)
        radio.say(b"hello", dialled.address)
        world.run_for(1.0)
        [(_, seen)] = dialled.heard
        dialled.say(b"answer", seen)
        other_port.say(b"other port", seen)
        stranger.say(b"stranger", seen)
        stranger.say(b"port without a mapping", (OUTER, seen[1] + 1))
        world.run_for(1.0)
        assert radio.heard == [
            (b"answer", dialled.address),
            *([] if behavior is ENDPOINT else [(b"other port", other_port.address)]),
            *([(b"stranger", stranger.address)] if behavior is FREE else []),
        ]

    def test_two_behind_boxes_get_through_once_both_have_sent(self, world: World) -> None:
        homes = [world.nat("left", OUTER), world.nat("right", OTHER_OUTER)]
        left, right = (Radio(world.host(INNER, behind=nat)) for nat in homes)
        left.say(b"opens", (OTHER_OUTER, PORT))
        world.run_for(1.0)
        assert right.heard == []
        right.say(b"comes in", (OUTER, PORT))
        left.say(b"comes in, too", (OTHER_OUTER, PORT))
        world.run_for(1.0)
        assert left.heard == [(b"comes in", (OTHER_OUTER, PORT))]
        assert right.heard == [(b"comes in, too", (OUTER, PORT))]

    def test_blocked_means_no_datagram_in_or_out(self, world: World) -> None:
        nat = world.nat("router", OUTER, udp_blocked=True, filtering=FREE, hairpin=True)
        nat.forward(Transport.UDP, PORT, (INNER, PORT))
        radio, server = Radio(world.host(INNER, behind=nat)), Radio(world.host(SERVER))
        radio.say(b"out", server.address)
        radio.say(b"round", (OUTER, PORT))
        server.say(b"in", (OUTER, PORT))
        world.run_for(1.0)
        assert radio.heard == server.heard == []


class Scene(NamedTuple):
    """One host behind one box, which has said hello to one server."""

    world: World
    nat: Nat
    radio: Radio
    server: Radio
    seen: Address

    def gets_through(self) -> bool:
        before = len(self.radio.heard)
        self.server.say(b"answer", self.seen)
        self.world.run_for(1.0)
        return len(self.radio.heard) > before


def scene(world: World, **rules: Any) -> Scene:
    nat = world.nat("router", OUTER, **rules)
    radio, server = Radio(world.host(INNER, behind=nat)), Radio(world.host(SERVER))
    radio.say(b"hello", server.address)
    world.run_for(1.0)
    return Scene(world, nat, radio, server, server.heard[0][1])


class TestTime:
    def test_a_mapping_lasts_as_long_as_said(self, world: World) -> None:
        made = scene(world, udp_timeout_s=30.0)
        world.run(29.0)
        assert made.gets_through()
        assert not made.gets_through()

    def test_what_goes_out_refreshes_it_and_what_comes_in_does_not(self, world: World) -> None:
        made = scene(world, udp_timeout_s=30.0, ports=PortRule.SEQUENTIAL)
        world.run(25.0)
        made.radio.say(b"again", made.server.address)
        world.run(50.0)
        assert made.server.heard[-1] == (b"again", made.seen)
        assert made.gets_through()
        world.run(56.0)
        assert not made.gets_through()
        made.radio.say(b"anew", made.server.address)
        world.run_for(1.0)
        assert made.server.heard[-1] == (b"anew", (OUTER, made.seen[1] + 1))

    def test_each_who_is_let_in_has_a_time_of_his_own(self, world: World) -> None:
        made = scene(world, udp_timeout_s=30.0, filtering=ADDRESS)
        other = Radio(world.host(OTHER_SERVER))
        world.run(20.0)
        made.radio.say(b"keeps the mapping", other.address)
        world.run(40.0)
        assert not made.gets_through()
        other.say(b"still let in", made.seen)
        world.run_for(1.0)
        assert made.radio.texts == [b"still let in"]

    def test_a_port_can_go_to_another_once_it_is_free(self, world: World) -> None:
        made = scene(world, udp_timeout_s=30.0)
        second = Radio(world.host("192.168.1.3", behind=made.nat))
        world.run(32.0)
        second.say(b"mine now", made.server.address)
        world.run_for(1.0)
        assert made.server.heard[-1] == (b"mine now", made.seen)
        assert not made.gets_through()
        assert second.texts == [b"answer"]


class TestWhatHappensToABox:
    def test_it_forgets(self, world: World) -> None:
        made = scene(world, ports=PortRule.SEQUENTIAL)
        assert made.gets_through()
        made.nat.forget()
        assert not made.gets_through()
        made.radio.say(b"anew", made.server.address)
        world.run_for(1.0)
        assert made.server.heard[-1] == (b"anew", (OUTER, made.seen[1] + 1))

    def test_it_gets_another_address(self, world: World) -> None:
        made = scene(world, filtering=FREE)
        made.nat.forward(Transport.UDP, 40_000, made.radio.address)
        made.server.say(b"on its way", (OUTER, 40_000))
        made.nat.change_address(OTHER_OUTER)
        assert made.nat.outer_ip == OTHER_OUTER
        assert not made.gets_through()
        made.server.say(b"to the mapping there was", (OTHER_OUTER, PORT))
        world.run_for(1.0)
        assert made.radio.heard == []
        made.nat.remove_forward(Transport.UDP, 40_000)
        made.radio.say(b"moved", made.server.address)
        world.run_for(1.0)
        assert made.server.heard[-1] == (b"moved", (OTHER_OUTER, PORT))
        made.server.say(b"found", (OTHER_OUTER, PORT))
        world.run_for(1.0)
        assert made.radio.texts == [b"found"]
        world.host(OUTER)  # the old address is free for another

    def test_it_is_off_while_its_machine_is(self, world: World) -> None:
        made = scene(world, filtering=FREE, ports=PortRule.SEQUENTIAL)
        made.nat.forward(Transport.UDP, OTHER_PORT, (INNER, PORT))
        world.crash(made.nat.runtime.name)
        assert not made.gets_through()
        made.radio.say(b"into the void", made.server.address)
        world.run_for(1.0)
        assert len(made.server.heard) == 1
        assert made.nat.runtime is not world.restart(made.nat.runtime.name)
        assert not made.gets_through()
        made.server.say(b"forwarded", (OUTER, OTHER_PORT))
        world.run_for(1.0)
        assert made.radio.texts == [b"forwarded"]

    def test_hosts_behind_it_crash_and_come_back(self, world: World) -> None:
        made = scene(world)
        world.crash("router/192.168.1.2")
        assert not made.gets_through()
        again = Radio(world.restart("router/192.168.1.2"))
        assert not made.gets_through()
        assert again.texts == [b"answer"]


class TestHairpin:
    @pytest.mark.parametrize("hairpin", [True, False])
    def test_outer_addresses_lead_back_inside_only_with_it(self, world: World, hairpin: bool) -> None:
        nat = world.nat("router", OUTER, filtering=FREE, hairpin=hairpin)
        first, second = (Radio(world.host(f"192.168.1.{number}", behind=nat)) for number in (2, 3))
        mirror = Mirror(world.host(SERVER))
        seen_first, seen_second = (seen_at(world, radio, mirror) for radio in (first, second))
        first.heard.clear()
        second.heard.clear()
        first.say(b"round", seen_second)
        first.say(b"straight", second.address)
        world.run_for(1.0)
        # RFC 4787, section 6: the sender is the outer address.
        assert (b"straight", first.address) in second.heard
        assert ((b"round", seen_first) in second.heard) is hairpin

    def test_the_filter_stands_there_too(self, world: World) -> None:
        nat = world.nat("router", OUTER, hairpin=True)
        first, second = (Radio(world.host(f"192.168.1.{number}", behind=nat)) for number in (2, 3))
        mirror = Mirror(world.host(SERVER))
        seen_first, seen_second = (seen_at(world, radio, mirror) for radio in (first, second))
        second.heard.clear()
        first.say(b"closed", seen_second)
        world.run_for(1.0)
        assert second.heard == []
        second.say(b"opens", seen_first)
        first.say(b"open", seen_second)
        world.run_for(1.0)
        assert second.heard == [(b"open", seen_first)]


class TestRealms:
    def test_one_inner_address_is_behind_two_boxes(self, world: World) -> None:
        homes = [world.nat("left", OUTER), world.nat("right", OTHER_OUTER)]
        radios = [Radio(world.host(INNER, behind=nat)) for nat in homes]
        neighbour = Radio(world.host("192.168.1.3", behind=homes[1]))
        mirror = Mirror(world.host(SERVER))
        assert [seen_at(world, radio, mirror)[0] for radio in radios] == [OUTER, OTHER_OUTER]
        for radio in radios:
            radio.heard.clear()
        neighbour.say(b"here", (INNER, PORT))
        world.run_for(1.0)
        assert [radio.heard for radio in radios] == [[], [(b"here", neighbour.address)]]

    def test_inner_addresses_mean_nothing_outside(self, world: World) -> None:
        nat = world.nat("router", OUTER, filtering=FREE)
        radio, server = Radio(world.host(INNER, behind=nat)), Radio(world.host(SERVER))
        server.say(b"x", (INNER, PORT))
        other = Radio(world.host("192.168.2.2", behind=world.nat("other", OTHER_OUTER)))
        other.say(b"x", (INNER, PORT))
        world.run_for(1.0)
        assert radio.heard == []

    def test_hosts_draw_secrets_of_their_own(self, world: World) -> None:
        hosts = [world.host(INNER, behind=world.nat(name, ip)) for name, ip in (("a", OUTER), ("b", OTHER_OUTER))]
        assert len({host.random_bytes(16) for host in hosts}) == 2
        assert [host.name for host in hosts] == ["a/192.168.1.2", "b/192.168.1.2"]

    @pytest.mark.parametrize("inner", [FREE, ENDPOINT], ids=["cone in it", "symmetric in it"])
    @pytest.mark.parametrize("outer", [FREE, ENDPOINT], ids=["cone", "symmetric"])
    def test_two_boxes_in_a_row_are_as_strict_as_the_stricter(
        self, world: World, outer: Behavior, inner: Behavior
    ) -> None:
        provider = world.nat("provider", OUTER, inner_ip="100.64.0.1", mapping=outer, filtering=FREE)
        home = world.nat("home", "100.64.0.2", mapping=inner, filtering=FREE, behind=provider)
        radio = Radio(world.host(INNER, behind=home))
        mirrors = [Mirror(world.host(ip)) for ip in (SERVER, OTHER_SERVER)]
        seen = [seen_at(world, radio, mirror) for mirror in mirrors]
        assert {ip for ip, _ in seen} == {OUTER}
        assert (seen[0] == seen[1]) is (outer is inner is FREE)
        # Through both of them back in.
        assert [sender for _, sender in radio.heard] == [mirrors[1].address]

    def test_two_homes_of_one_provider_meet_by_the_addresses_he_gave_them(self, world: World) -> None:
        provider = world.nat("provider", OUTER, inner_ip="100.64.0.1")
        homes = [world.nat(f"home{number}", f"100.64.0.{number}", filtering=FREE, behind=provider) for number in (2, 3)]
        radios = [Radio(world.host(INNER, behind=nat)) for nat in homes]
        homes[1].forward(Transport.UDP, OTHER_PORT, radios[1].address)
        radios[0].say(b"next door", ("100.64.0.3", OTHER_PORT))
        world.run_for(1.0)
        assert radios[1].heard == [(b"next door", ("100.64.0.2", PORT))]
        assert provider.mappings(Transport.UDP) == 0

    def test_what_a_host_knows_of_its_place(self, world: World) -> None:
        nat = world.nat("router", OUTER, inner_ip="10.0.0.138")
        inside, outside = world.host("10.0.0.7", behind=nat), world.host(SERVER)
        assert inside.local_network()[:3] == (("10.0.0.7", "127.0.0.1"), "10.0.0.7", "10.0.0.138")
        assert outside.local_network()[:3] == ((SERVER, "127.0.0.1"), SERVER, None)
        assert nat.runtime.local_network().gateway is None

    def test_what_goes_wrong_is_said_of_neighbours_by_name(self, world: World) -> None:
        made = scene(world)
        for cut in ((("router", SERVER),), (("router/192.168.1.1", "router/192.168.1.2"),)):
            world.cut(*cut[0])
            assert not made.gets_through()
            world.heal()
            assert made.gets_through()
        world.partition([SERVER])
        assert not made.gets_through()
        world.partition([SERVER, "router"])
        assert made.gets_through()
        world.set_path("router", SERVER, PathModel(loss=1.0))
        assert not made.gets_through()

    def test_the_ways_a_host_keeps(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kodectl.sim.network.MAX_PATHS", 100)
        host = world.host(INNER, behind=world.nat("router", OUTER))
        radio = Radio(host)
        for number in range(1_000):
            radio.say(b"x", (f"30.0.{number // 250}.{number % 250}", 1))
        assert len(host.host.paths) <= 100

    def test_segments_lie_within_a_realm(self, world: World) -> None:
        homes = [world.nat("left", OUTER), world.nat("right", OTHER_OUTER)]
        heard: list[tuple[str, Address]] = []
        lans = {}
        for host in [world.host(f"192.168.1.{number}", behind=nat) for nat in homes for number in (2, 3)]:
            lans[host.name] = host.open_lan(PORT, lambda _, sender, host=host: heard.append((host.name, sender)))
        world.lan("left", ["left/192.168.1.2", "left/192.168.1.3"])
        world.lan("right", ["right/192.168.1.2", "right/192.168.1.3"])
        lans["left/192.168.1.3"].announce(b"x")
        world.run_for(1.0)
        assert {name for name, _ in heard} == {"left/192.168.1.2", "left/192.168.1.3"}
        assert {sender[0] for _, sender in heard} == {"192.168.1.3"}
        with pytest.raises(LocalMisuse, match="goes through a box"):
            world.lan("both", ["left/192.168.1.2", "right/192.168.1.2"])

    def test_names_and_addresses_are_given_once(self, world: World) -> None:
        nat = world.nat("router", OUTER)
        world.host(INNER, behind=nat)
        world.host(INNER)
        for wrong in (
            lambda: world.nat("router", OTHER_OUTER),
            lambda: world.nat("a/b", OTHER_OUTER),
            lambda: world.nat("21.7.0.1", OTHER_OUTER),
            lambda: world.nat("other", OUTER),
            lambda: world.host(OUTER),
            lambda: world.host(INNER, behind=nat),
            lambda: world.host("192.168.1.1", behind=nat),
            lambda: nat.change_address(INNER),
            lambda: nat.change_address(OUTER),
        ):
            with pytest.raises(LocalMisuse):
                wrong()


class TestForwards:
    @BEHAVIORS
    def test_let_anybody_in_and_answers_out_by_the_same_port(self, world: World, behavior: Behavior) -> None:
        nat = world.nat("router", OUTER, mapping=behavior, filtering=ENDPOINT, ports=PortRule.RANDOM)
        mirror = Mirror(world.host(INNER, behind=nat))
        stranger = Radio(world.host(SERVER))
        nat.forward(Transport.UDP, 40_000, mirror.address)
        stranger.say(b"", (OUTER, 40_000))
        world.run_for(1.0)
        assert stranger.heard == [(f"{SERVER} {PORT}".encode(), (OUTER, 40_000))]
        assert nat.forwards(Transport.UDP) == {40_000: mirror.address}
        nat.remove_forward(Transport.UDP, 40_000)
        nat.remove_forward(Transport.UDP, 40_000)
        stranger.say(b"", (OUTER, 40_000))
        world.run_for(1.0)
        assert len(stranger.heard) == 1
        assert nat.forwards(Transport.UDP) == nat.forwards(Transport.TCP) == {}

    @pytest.mark.parametrize("end", ["removed", "forgotten"])
    def test_answers_to_who_came_in_before_its_end_leave_by_another_port(self, world: World, end: str) -> None:
        nat = world.nat("router", OUTER, mapping=ENDPOINT, ports=PortRule.SEQUENTIAL)
        inside, stranger = Radio(world.host(INNER, behind=nat)), Radio(world.host(SERVER))
        nat.forward(Transport.UDP, 40_000, inside.address)
        stranger.say(b"hello", (OUTER, 40_000))
        world.run_for(1.0)
        nat.forget() if end == "forgotten" else nat.remove_forward(Transport.UDP, 40_000)
        inside.say(b"late", stranger.address)
        world.run_for(1.0)
        [(_, (_, port))] = stranger.heard
        assert port != 40_000

    @BEHAVIORS
    def test_are_the_mapping_of_their_endpoint_where_it_has_one(self, world: World, behavior: Behavior) -> None:
        made = scene(world, mapping=behavior, ports=PortRule.SEQUENTIAL)
        made.nat.forward(Transport.UDP, 40_000, made.radio.address)
        others = [Mirror(world.host(ip)) for ip in (OTHER_SERVER, "22.2.0.1")]
        seen = {seen_at(world, made.radio, other) for other in others}
        assert (seen == {(OUTER, 40_000)}) is (behavior is FREE)
        assert behavior is FREE or (OUTER, 40_000) not in seen

    def test_take_the_place_of_a_mapping(self, world: World) -> None:
        made = scene(world)
        second = Radio(world.host("192.168.1.3", behind=made.nat))
        made.nat.forward(Transport.UDP, made.seen[1], second.address)
        assert not made.gets_through()
        assert second.texts == [b"answer"]
        made.radio.say(b"elsewhere now", made.server.address)
        world.run_for(1.0)
        assert made.server.heard[-1] == (b"elsewhere now", (OUTER, made.seen[1] + 1))

    def test_lead_to_a_service_of_the_box_and_nowhere_out(self, world: World) -> None:
        nat = world.nat("router", OUTER, hairpin=True)
        inside, server = Radio(world.host(INNER, behind=nat)), Radio(world.host(SERVER))
        service = Mirror(nat.runtime, 5_351)
        inside.say(b"", service.address)
        nat.forward(Transport.UDP, 5_351, service.address)
        nat.forward(Transport.UDP, 2, (OUTER, 2))
        nat.forward(Transport.UDP, 3, server.address)
        for port in (5_351, 2, 3):
            server.say(b"", (OUTER, port))
        world.run_for(1.0)
        assert inside.heard == [(b"192.168.1.2 30301", ("192.168.1.1", 5_351))]
        assert server.heard == [(b"22.0.0.1 30301", (OUTER, 5_351))]
        assert nat.inner_ip == "192.168.1.1"

    def test_the_box_sends_out_as_itself(self, world: World) -> None:
        nat = world.nat("router", OUTER)
        assert seen_at(world, Radio(nat.runtime), Mirror(world.host(SERVER))) == (OUTER, PORT)

    def test_of_ports_that_are_none_are_refused(self, world: World) -> None:
        nat = world.nat("router", OUTER)
        for port in (0, -1, 65_536):
            with pytest.raises(LocalMisuse):
                nat.forward(Transport.UDP, port, (INNER, PORT))


def chatter(runtime: SimRuntime, addresses: list[Address]) -> None:
    """Sends, dials and answers for ever, as its generator decides."""
    scope = runtime.scope("chatter")
    socket = runtime.open_datagram(
        ("0.0.0.0", PORT), lambda data, sender: data != b"pong" and socket.send(b"pong", sender)
    )

    def serve(stream: Stream) -> None:
        try:
            while True:
                stream.write(stream.read_exactly(1_000))
        except StreamClosed:
            stream.close()

    def dial(address: Address) -> None:
        try:
            stream = runtime.connect((address[0], TCP_PORT), 3.0)
            stream.write(runtime.random_bytes(5_000))
            stream.read_exactly(5_000)
            stream.close()
        except (ConnectFailed, StreamClosed):
            return

    def talk() -> None:
        while True:
            scope.sleep(runtime.rng.uniform(0.1, 1.0))
            address = runtime.rng.choice(addresses)
            socket.send(runtime.random_bytes(runtime.rng.randrange(200)), address)
            scope.spawn(f"dial {address[0]}", dial, address)

    runtime.listen(("0.0.0.0", TCP_PORT), lambda stream: scope.spawn("serve", serve, stream))
    scope.spawn("talk", talk)


def town(seed: int) -> str:
    """Boxes of every kind, with hosts of the same addresses behind them, and what may happen to them."""
    with World(seed, PathModel(loss=0.05, duplication=0.02, reordering=0.05)) as world:
        provider = world.nat("provider", "21.9.0.1", inner_ip="100.64.0.1", ports=PortRule.RANDOM)
        boxes = [world.nat("nested", "100.64.0.2", behind=provider)]
        kinds = zip(Behavior, reversed(Behavior), PortRule, strict=True)
        for number, (mapping, filtering, ports) in enumerate(kinds):
            ip = f"21.{number}.0.1"
            box = world.nat(f"box{number}", ip, mapping=mapping, filtering=filtering, ports=ports, hairpin=True)
            boxes.append(box)
        addresses = [(ip, PORT) for ip in (SERVER, OTHER_SERVER, "192.168.1.3", *(box.outer_ip for box in boxes))]
        for box in boxes:
            box.forward(Transport.TCP, TCP_PORT, (INNER, TCP_PORT))
            for ip in (INNER, "192.168.1.3"):
                chatter(world.host(ip, behind=box), addresses)
        for ip in (SERVER, OTHER_SERVER):
            chatter(world.host(ip), addresses)
        world.at(3.0, boxes[1].forget)
        world.at(4.0, lambda: boxes[2].change_address("21.8.0.1"))
        world.at(5.0, lambda: world.crash("box1/192.168.1.2"))
        world.at(6.0, lambda: chatter(world.restart("box1/192.168.1.2"), addresses))
        world.at(7.0, lambda: world.restart("box2/192.168.1.1"))
        world.run(10.0)
        return world.trace_hash()


def town_elsewhere(seed: int, hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, __file__, str(seed)]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def test_a_seed_gives_the_same_trace_again_and_under_any_hash_seed() -> None:
    assert {town(1), town(1), town_elsewhere(1, "1"), town_elsewhere(1, "2")} == {town(1)}
    assert town(1) != town(2)


def test_the_trace_shows_under_which_port_something_went_on() -> None:
    def trace(forward_port: int, inner_port: int) -> str:
        with World(1, STEADY) as world:
            nat = world.nat("router", OUTER)
            radio = Radio(world.host(INNER, behind=nat), inner_port)
            nat.forward(Transport.UDP, forward_port, radio.address)
            radio.say(b"x", (SERVER, PORT))
            world.host(SERVER)
            world.run_for(1.0)
            return world.trace_hash()

    assert trace(40_000, PORT) == trace(40_000, PORT)
    assert len({trace(40_000, PORT), trace(40_001, PORT), trace(40_000, OTHER_PORT)}) == 3


if __name__ == "__main__":
    print(town(int(sys.argv[1])))
