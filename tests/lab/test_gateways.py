"""NAT-PMP and PCP against miniupnpd: what the keeper of ports does is what a stranger outside gets."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from natlab import Host, Kind, Lab, Router, skip_without_lab

pytestmark = [pytest.mark.lab, skip_without_lab]

KEEPER = Path(__file__).parents[1] / "port_keeper.py"
REPOSITORY = Path(__file__).parents[2]
TCP, UDP = 30303, 30301
LIMIT_S = 60.0
"""Within which a restarted router has its mappings again."""

protocols = pytest.mark.parametrize("protocol", ["natpmp", "pcp"])


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as one:
        yield one


class Keeper:
    """The keeper of ports on a host of the lab."""

    def __init__(self, host: Host, output: Path, method: str = "auto") -> None:
        self.host = host
        self._output = output
        with output.open("w") as stdout:
            command = [sys.executable, str(KEEPER), method, str(TCP), str(UDP)]
            environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
            self.process = host.popen(command, stdout=stdout, stderr=stdout, env=environment)

    def views(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._output.read_text().splitlines() if line.startswith("{")]

    def wait(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The view that it has now, as soon as it is so."""
        return wait_for(lambda: (views := self.views()) and holds(views[-1]) and views[-1], self._output.read_text)

    def wait_mapped(self) -> dict[str, Any]:
        return self.wait(lambda view: view["tcp"] and view["udp"])

    def leave(self) -> None:
        self.process.terminate()
        assert self.process.wait(20.0) == 0, self._output.read_text()


def wait_for(look: Callable[[], Any], explain: Callable[[], Any]) -> Any:
    ends = time.monotonic() + LIMIT_S
    while not (found := look()):
        assert time.monotonic() < ends, explain()
        time.sleep(0.05)
    return found


def redirections(router: Router) -> str:
    """miniupnpd's own state, as the kernel has it."""
    return router.namespace.run(["nft", "list", "chain", "inet", "miniupnpd", "upnp_arriving"]).stdout


def has_both(router: Router) -> bool:
    return redirections(router).count("dnat") == 2


def is_reached(stranger: Host, outside: str, listener: socket.socket) -> bool:
    """Whether what a stranger sends to this outer address ("ip:port") over TCP arrives."""
    ip, _, port = outside.rpartition(":")
    try:
        with stranger.connect((ip, int(port))) as stream:
            accepted, _ = listener.accept()
            with accepted:
                stream.sendall(b"knock")
                return accepted.recv(16) == b"knock"
    except OSError:
        return False


@protocols
def test_strangers_come_in_through_the_mapping_and_no_more_after_the_end(lab, tmp_path, protocol):
    stranger = lab.public("stranger")
    host = lab.behind(Kind.IGD, igd=(protocol,))
    listener, inbox = host.listen(TCP), host.udp(UDP)
    outside = f"{host.external_ip}:{TCP}"
    assert not is_reached(stranger, outside, listener)

    keeper = Keeper(host, tmp_path / "keeper")
    view = keeper.wait_mapped()
    assert (view["state"], view["method"], view["gateway"]) == ("mapped", protocol, host.router.inner_ip)
    assert (view["tcp"], view["udp"]) == (outside, f"{host.external_ip}:{UDP}")
    assert (view["external_ip"], view["double_nat"], view["error"]) == (host.external_ip, False, None)
    assert f"dport {TCP} dnat ip to {host.ip}:{TCP}" in redirections(host.router)
    assert f"dport {UDP} dnat ip to {host.ip}:{UDP}" in redirections(host.router)
    assert is_reached(stranger, outside, listener)
    stranger.udp().sendto(b"knock", (host.external_ip, UDP))
    assert inbox.recv(16) == b"knock"

    keeper.leave()
    assert "dnat" not in redirections(host.router)
    assert not is_reached(stranger, outside, listener)


def test_a_router_of_both_is_asked_for_one_mapping_each(lab, tmp_path):
    host = lab.behind(Kind.IGD, igd=("natpmp", "pcp"))
    keeper = Keeper(host, tmp_path / "keeper")
    assert keeper.wait_mapped()["method"] == "pcp"
    assert has_both(host.router)
    keeper.leave()
    assert "dnat" not in redirections(host.router)


def test_a_restarted_router_has_its_mappings_again(lab, tmp_path):
    """Both protocols at once, each at a router of its own: it takes as long as for one."""
    stranger = lab.public("stranger")
    hosts = [lab.behind(Kind.IGD, igd=(protocol,)) for protocol in ("natpmp", "pcp")]
    listeners = [host.listen(TCP) for host in hosts]
    keepers = [Keeper(host, tmp_path / host.ip) for host in hosts]
    outsides = [keeper.wait_mapped()["tcp"] for keeper in keepers]
    time.sleep(6.0)  # a router that has only just started cannot be told from one that has started again
    for host in hosts:
        host.router.restart()
        assert "dnat" not in redirections(host.router)
    for host, outside, listener in zip(hosts, outsides, listeners, strict=True):
        wait_for(partial(has_both, host.router), partial(redirections, host.router))
        assert is_reached(stranger, outside, listener)
    for keeper in keepers:
        keeper.leave()


@protocols
def test_two_hosts_that_want_one_port_get_one_each(lab, tmp_path, protocol):
    stranger = lab.public("stranger")
    first = lab.behind(Kind.IGD, igd=(protocol,))
    second = lab.behind(router=first.router)
    outsides = set()
    for host in (first, second):
        listener = host.listen(TCP)
        outside = Keeper(host, tmp_path / host.ip).wait_mapped()["tcp"]
        assert is_reached(stranger, outside, listener)
        outsides.add(outside)
    assert len(outsides) == 2


def test_a_router_behind_another_is_told_with_advice(lab, tmp_path):
    """miniupnpd does not map ports of a private address."""
    host = lab.behind(Kind.IGD, igd=("natpmp", "pcp"), upstream=lab.router(Kind.PORT_RESTRICTED))
    view = Keeper(host, tmp_path / "keeper").wait(lambda view: view["state"] != "searching")
    assert (view["state"], view["error"]["code"]) == ("refused", "gateway_no_address")
    assert "behind another NAT" in view["error"]["message"]
    assert "dnat" not in redirections(host.router)


def test_a_router_that_maps_nothing_is_told(lab, tmp_path):
    host = lab.behind(Kind.PORT_RESTRICTED)
    view = Keeper(host, tmp_path / "keeper").wait(lambda view: view["state"] != "searching")
    assert (view["state"], view["error"]["code"]) == ("no_gateway", "no_gateway")
