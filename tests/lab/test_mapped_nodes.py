"""Running nodes behind a real router with miniupnpd: each protocol alone, restarts, and what is left behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_nodes import REPOSITORY, LabNode, open_network
from natlab import Host, Kind, Lab, Router, skip_without_lab

from kodectl.node.views import StatusView

METHODS = ("upnp", "natpmp", "pcp")
BLACK_HOLE = f"enode://{'ab' * 32}@seed.example.org:30303?discport=30301"

pytestmark = [pytest.mark.lab, skip_without_lab]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mapped")


@pytest.fixture(scope="module")
def internet(home: Path) -> Iterator[tuple[Lab, list[LabNode]]]:
    with Lab() as lab:
        yield lab, open_network(lab, home, honest=5)


def is_mapped(status: StatusView) -> bool:
    return bool(status.nat.port_mapping.tcp and status.nat.port_mapping.udp)


def test_each_protocol_alone_makes_a_node_reachable(internet, home):
    """All three at the same time, each at a router of its own. From the start to the end: mapped, proved from outside,
    mapped again after the router was off, and gone with the node."""
    lab, observers = internet
    stranger = lab.public("stranger")
    first = observers[0].wait().enode
    hosts = {method: lab.behind(Kind.IGD, igd=(method,)) for method in METHODS}
    nodes = {method: LabNode(host, home, method, "--bootstrap", first) for method, host in hosts.items()}
    for method, node in nodes.items():
        mapping = node.wait(is_mapped).nat.port_mapping
        assert (mapping.method, mapping.state, mapping.gateway) == (method, "mapped", node.host.router.inner_ip)
        outer = node.host.external_ip
        assert (mapping.tcp, mapping.udp) == (f"{outer}:30303", f"{outer}:30301")
    for node in nodes.values():
        status = node.wait(lambda status: status.nat.reachable_udp and status.nat.reachable_tcp)
        assert (status.nat.state, status.dht_mode) == ("direct", "server")
        assert is_verified(stranger, status.enode)

    for node in nodes.values():
        node.host.router.restart()
        assert "dnat" not in redirections(node.host.router)
    for node in nodes.values():
        node.wait(lambda status, node=node: redirections(node.host.router).count("dnat") == 2)
        assert is_verified(stranger, node.wait(is_mapped).enode)

    for node in nodes.values():
        enode = node.wait().enode
        node.leave()
        assert "dnat" not in redirections(node.host.router)
        assert not is_verified(stranger, enode)


def is_verified(stranger: Host, enode: str) -> bool:
    """Whether a command elsewhere on the internet reaches the node over TCP, and it proves its identity."""
    command = [sys.executable, "-m", "kodectl", "enode", "verify", enode, "--timeout", "1"]
    return stranger.run(command, cwd=REPOSITORY).returncode == 0


def redirections(router: Router) -> str:
    """miniupnpd's own state, as the kernel has it."""
    return router.namespace.run(["nft", "list", "chain", "inet", "miniupnpd", "upnp_arriving"]).stdout


def test_nothing_is_waited_for_where_nothing_answers(home):
    """STUN servers, router and name server are black holes; two nodes of one network find each other all the same."""
    with Lab() as lab:
        one = lab.behind(Kind.PORT_RESTRICTED, is_silent=True)
        other = lab.behind(router=one.router)
        silent = ["--stun", "198.51.100.1:3478", "--stun", "stun.example.org:3478", "--bootstrap", BLACK_HOLE, "--lan"]
        nodes = [LabNode(host, home, f"silent{host.ip}", *silent) for host in (one, other)]
        for node in nodes:
            node.wait(lambda status: status.peers == 1)
            assert node.events()[0]["type"] == "ready"
        for node in nodes:
            node.leave()
