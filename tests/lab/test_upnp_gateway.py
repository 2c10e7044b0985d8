"""Finding a router by UPnP, in namespaces: a real one, hostile ones, and hostile hosts beside a real one.

A search is a multicast on the default route, so everything here runs inside a namespace and refuses to run elsewhere.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import psutil
import pytest
from natlab import Host, Kind, Lab, Router, skip_without_lab
from scripted_igd import (
    CONTROL,
    IP_SERVICE,
    Answer,
    HttpServer,
    ScriptedIgd,
    SearchAnswerer,
    description,
    endless,
    found_at,
    http,
    refuse_outside_a_namespace,
    trickle,
)

from kodectl.core.mapping import MappingRefused, PortMapping, Transport, Wish
from kodectl.errors import NegativeAnswer
from kodectl.runtime import upnp
from kodectl.runtime.green import GreenRuntime
from kodectl.runtime.upnp import UpnpGateway, find_upnp
from kodectl.wire.upnp import SEARCH_TARGETS

pytestmark = [pytest.mark.lab, skip_without_lab]

TCP = Wish(Transport.TCP, 30303, 30303)
UDP = Wish(Transport.UDP, 30301, 30301)
LEASES = (3599, 3600)
"""Of one hour: the router answers what is left, and a second may just have begun."""


@contextmanager
def living_at(host: Host) -> Iterator[GreenRuntime]:
    """The test's own process on a host of the lab, with all that it starts."""
    with host.namespace.entered():
        refuse_outside_a_namespace()
        runtime = GreenRuntime()
        try:
            yield runtime
        finally:
            runtime.close()
    left = [child.cmdline() for child in psutil.Process(os.getpid()).children() if child.status() != "zombie"]
    assert not [command for command in left if "kodectl.runtime.upnp_worker" in command]


def test_no_search_leaves_for_a_real_network() -> None:
    with pytest.raises(AssertionError, match="multicast"):
        refuse_outside_a_namespace()


# --- a real router ---


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as one:
        yield one


def redirections(router: Router) -> list[str]:
    """What the router's kernel really does."""
    rules = router.namespace.run(["nft", "list", "chain", "inet", "miniupnpd", "upnp_arriving"]).stdout
    return [line.strip() for line in rules.splitlines() if "dnat" in line]


def is_reached(stranger: Host, address: tuple[str, int], listener: socket.socket) -> bool:
    with stranger.connect(address) as connection:
        accepted, _ = listener.accept()
        with accepted:
            connection.sendall(b"hello")
            return accepted.recv(5) == b"hello"


def test_a_stranger_comes_through_until_the_port_is_unmapped(lab: Lab) -> None:
    host, stranger = lab.behind(Kind.IGD, igd=["upnp"]), lab.public()
    assert host.router is not None
    with living_at(host) as runtime:
        gateway = find_upnp(runtime)
        assert (gateway.address, gateway.external_ip()) == (host.router.inner_ip, host.router.outer_ip)
        tcp, udp = gateway.add(TCP), gateway.add(UDP)
        assert tcp.external == (host.router.outer_ip, 30303)
        assert tcp.lease_s in LEASES
        assert gateway.verify(tcp)
        assert {mapping.external for mapping in gateway.mappings()} == {tcp.external, udp.external}
    assert is_reached(stranger, tcp.external, host.listen(30303))
    with host.udp(30301) as inside, stranger.udp() as outside:
        outside.sendto(b"hello", udp.external)
        assert inside.recv(5) == b"hello"
    with living_at(host):
        assert replace(gateway.add(TCP), lease_s=tcp.lease_s) == tcp, "renewed"
        gateway.remove(tcp)
        gateway.remove(udp)
        assert gateway.mappings() == []
    assert redirections(host.router) == []
    with pytest.raises(ConnectionRefusedError):
        stranger.connect(tcp.external)


def test_two_hosts_share_a_router(lab: Lab) -> None:
    """miniupnpd is of version 2, and chooses another port for the second."""
    first = lab.behind(Kind.IGD, igd=["upnp"])
    second = lab.behind(router=first.router)
    with living_at(first) as runtime:
        of_first = find_upnp(runtime).add(TCP)
    with living_at(second) as runtime:
        gateway = find_upnp(runtime)
        of_second = gateway.add(TCP)
        assert of_second.external[1] != of_first.external[1]
        assert of_second.internal == (second.ip, 30303)
        assert of_second.lease_s in LEASES
        with pytest.raises(MappingRefused) as refused:
            gateway.remove(of_first)
        assert refused.value.code == "mapping_conflict"
    assert first.router is not None
    assert len(redirections(first.router)) == 2


def test_a_real_router_refuses_with_its_numbers(lab: Lab) -> None:
    rules = [
        "secure_mode=yes",
        "force_igd_desc_v1=yes",
        "allow 30000-65535 0.0.0.0/0 1024-65535",
        "deny 0-65535 0.0.0.0/0 0-65535",
    ]
    host = lab.behind(Kind.IGD, igd=["upnp"], igd_settings=rules)
    other = lab.behind(router=host.router)
    with living_at(other) as runtime:
        find_upnp(runtime).add(TCP)
    with living_at(host) as runtime:
        gateway = find_upnp(runtime)
        assert _refusal(gateway, Wish(Transport.TCP, 8080, 80)) == (606, "mapping_not_authorised")
        assert _refusal(gateway, TCP) == (718, "mapping_conflict")


def _refusal(gateway: UpnpGateway, wish: Wish) -> tuple[int | None, str]:
    with pytest.raises(MappingRefused) as refused:
        gateway.add(wish)
    return refused.value.number, refused.value.code


def test_a_restart_is_noticed_and_so_is_silence(lab: Lab) -> None:
    host = lab.behind(Kind.IGD, igd=["upnp"])
    assert host.router is not None
    with living_at(host) as runtime:
        gateway = find_upnp(runtime)
        mapping = gateway.add(TCP)
        host.router.restart()
        assert not gateway.verify(mapping)
        assert gateway.add(TCP) == mapping
        assert host.router.igd is not None
        host.router.igd.stop()
        for question in (gateway.external_ip, gateway.has_restarted, gateway.mappings, lambda: gateway.verify(mapping)):
            with pytest.raises(NegativeAnswer) as silent:
                question()
            assert silent.value.code == "no_gateway"


def test_without_a_router_there_is_no_gateway(lab: Lab) -> None:
    with living_at(lab.behind(Kind.PORT_RESTRICTED)) as runtime, pytest.raises(NegativeAnswer) as nobody:
        find_upnp(runtime)
    assert nobody.value.code == "no_gateway"


def test_without_a_route_nothing_is_sent(lab: Lab) -> None:
    host = lab.public()
    host.namespace.configure(["ip", "-batch", "-"], "route del default\n")
    with living_at(host) as runtime, pytest.raises(NegativeAnswer, match="no IPv4 default route"):
        find_upnp(runtime)


# --- hostile ones ---


class Home:
    """A router without UPnP, a host behind it, another host beside; whatever answers is made by the test."""

    def __init__(self, lab: Lab) -> None:
        self.host = lab.behind(Kind.PORT_RESTRICTED)
        assert self.host.router is not None
        self.router = self.host.router
        self.neighbour = lab.behind(router=self.router)
        self._made = ExitStack()

    def close(self) -> None:
        self._made.close()
        self._made = ExitStack()

    def made(self, at: Host | Router, make: Any, *arguments: Any) -> Any:
        """A server in the namespace of a host or of the router."""
        with at.namespace.entered():
            made = make(*arguments)
        self._made.callback(made.close)
        return made

    def igd(self, at: Host | Router, deaf_to: int = 0) -> ScriptedIgd:
        """A router's service at a host, which answers searches too."""
        ip = at.inner_ip if isinstance(at, Router) else at.ip
        igd: ScriptedIgd = self.made(at, ScriptedIgd, ip)
        self.made(at, SearchAnswerer, ip, [found_at(igd.server.url())], None, deaf_to)
        return igd

    def search(self) -> UpnpGateway:
        with living_at(self.host) as runtime:
            return find_upnp(runtime)

    def refusal(self) -> str:
        with pytest.raises(NegativeAnswer) as nobody:
            self.search()
        assert nobody.value.code == "no_gateway"
        return nobody.value.message


@pytest.fixture(scope="module")
def shared_home() -> Iterator[Home]:
    with Lab() as lab:
        yield Home(lab)


@pytest.fixture
def home(shared_home: Home) -> Iterator[Home]:
    yield shared_home
    shared_home.close()


def test_a_scripted_router_is_found_and_used(home: Home) -> None:
    igd = home.igd(home.router)
    gateway = home.search()
    assert (gateway.address, gateway.name) == (home.router.inner_ip, "A router")
    with living_at(home.host):
        mapping = gateway.add(TCP)
    assert mapping == PortMapping(
        gateway.method, Transport.TCP, (home.host.ip, 30303), ("20.9.9.9", 30303), 3600, home.router.inner_ip, "kodectl"
    )
    assert igd.names() == ["AddPortMapping"]


def test_another_router_of_the_network_serves_where_the_gateway_is_none(home: Home) -> None:
    home.igd(home.neighbour)
    assert home.search().address == home.neighbour.ip


def test_the_gateway_comes_first_however_fast_others_are(home: Home) -> None:
    fast = home.igd(home.neighbour)
    home.igd(home.router, deaf_to=2 * len(SEARCH_TARGETS))  # the first search, by multicast and to it alone
    assert home.search().address == home.router.inner_ip
    assert fast.server.connections == 0


def test_a_location_at_a_third_party_is_not_visited(home: Home) -> None:
    third = home.made(home.neighbour, HttpServer, home.neighbour.ip, lambda _: http(description()))
    home.made(home.router, SearchAnswerer, home.router.inner_ip, [found_at(third.url())])
    assert "another address" in home.refusal()
    assert third.connections == 0


def test_a_redirect_to_a_third_party_is_not_followed(home: Home) -> None:
    third = home.made(home.neighbour, HttpServer, home.neighbour.ip, lambda _: http(description()))
    igd = home.igd(home.router)
    igd.description = http(b"", f"Location: {third.url()}", status="302 Found")
    assert "redirects" in home.refusal()
    assert third.connections == 0


def test_a_service_at_a_third_party_is_not_used(home: Home) -> None:
    third = home.made(home.neighbour, ScriptedIgd, home.neighbour.ip)
    igd = home.igd(home.router)
    igd.description = http(description((IP_SERVICE, str(third.server.url(CONTROL)))))
    assert "another address" in home.refusal()
    assert third.server.connections == 0


def test_an_answer_from_elsewhere_is_not_listened_to(home: Home) -> None:
    outer, inner = home.router.outer_ip, home.router.inner_ip
    igd = home.made(home.router, ScriptedIgd, outer)
    home.made(home.router, SearchAnswerer, outer, [found_at(igd.server.url())], inner)
    assert "not of the local network" in home.refusal()
    assert igd.server.connections == 0


HOSTILE: dict[str, tuple[Answer, str]] = {
    "entities": (http(description(name="&b;", head='<!DOCTYPE r [<!ENTITY b "bbbbbbbb">]>')), "document type"),
    "ten megabytes": (http(b" " * 10_000_000), "announces more"),
    "no end": (endless(b"HTTP/1.1 200 OK\r\n\r\n"), "more than"),
    "a length that is not kept": (b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + description(), "of 5000"),
    "one byte at a time": (trickle(b"HTTP/1.1 200 OK\r\n\r\n"), "timed out"),
}


@pytest.mark.parametrize(("answer", "why"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_gateway_is_passed_over(home: Home, answer: Answer, why: str) -> None:
    igd = home.igd(home.router)
    igd.description = answer
    assert why in home.refusal()
    assert igd.actions == []


def test_garbage_beside_a_router_changes_nothing(home: Home) -> None:
    garbage = [os.urandom(size) for size in (0, 1, 500, 3_000)]
    lies = [found_at(f"http://{home.router.inner_ip}:{port}/") for port in range(5001, 5050)]
    home.made(home.neighbour, SearchAnswerer, home.neighbour.ip, garbage + lies)
    home.igd(home.router)
    assert home.search().address == home.router.inner_ip


def test_many_lies_of_one_host_leave_room_for_a_true_answer(home: Home) -> None:
    lies = [found_at(f"http://{home.router.inner_ip}:{port}/") for port in range(5001, 5003)]
    igd = home.made(home.router, ScriptedIgd, home.router.inner_ip)
    home.made(home.router, SearchAnswerer, home.router.inner_ip, [*lies, found_at(igd.server.url())])
    assert home.search().address == home.router.inner_ip


def test_a_search_has_an_end_whatever_answers(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was vetted can still hang in the calls to its service, which only the end of the process ends."""
    monkeypatch.setattr(upnp, "FIND_LIMIT_S", 1.0)
    igd = home.igd(home.router)
    igd.script["GetStatusInfo"] = trickle(b"HTTP/1.1 200 OK\r\n\r\n")
    assert "does not answer as a router should" in home.refusal()
