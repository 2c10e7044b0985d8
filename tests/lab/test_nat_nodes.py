"""Running nodes behind real NATs: what they find out about themselves, and how they notice that it has changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_nodes import LabNode, open_network
from natlab import Kind, Lab, skip_without_lab

from kodectl.node.views import StatusView

pytestmark = [pytest.mark.lab, skip_without_lab]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nat")


@pytest.fixture(scope="module")
def internet(home: Path) -> Iterator[tuple[Lab, list[LabNode]]]:
    with Lab() as lab:
        yield lab, open_network(lab, home, honest=6)


# What a node says of itself: NAT type, what others can do, UDP and TCP reachable, part in the DHT.
EXPECTED = {
    Kind.OPEN: ("open", "direct", True, True, "server"),
    Kind.FULL_CONE: ("full_cone", "direct", True, False, "server"),
    Kind.RESTRICTED: ("restricted", "hole_punching", False, False, "client"),
    Kind.PORT_RESTRICTED: ("port_restricted", "hole_punching", False, False, "client"),
    Kind.SYMMETRIC: ("symmetric", "turn_relay", False, False, "client"),
    Kind.SYMMETRIC_SEQUENTIAL: ("symmetric", "turn_relay", False, False, "client"),
    Kind.CGNAT: ("port_restricted", "hole_punching", False, False, "client"),
    Kind.BLOCKED: ("blocked", "turn_relay", False, None, "client"),
}


def verdict(status: StatusView) -> tuple[str | None, str, bool | None, bool | None, str]:
    nat = status.nat
    return nat.nat_type, nat.state, nat.reachable_udp, nat.reachable_tcp, status.dht_mode


def begin_behind(lab: Lab, kind: Kind, first: LabNode, home: Path, name: str, **options) -> LabNode:
    return LabNode(lab.behind(kind, **options), home, name, "--bootstrap", first.wait().enode, "--nat", "none")


def test_a_node_knows_its_nat_whatever_it_is(internet, home):
    """All kinds at the same time, as they would be on the internet."""
    lab, observers = internet
    nodes = {kind: begin_behind(lab, kind, observers[0], home, kind.value) for kind in EXPECTED}
    for kind, node in nodes.items():
        status = node.wait(lambda status, kind=kind: verdict(status) == EXPECTED[kind])
        verdicts = [event["data"]["nat_type"] for event in node.events() if event["type"] == "nat_changed"]
        assert set(verdicts) <= {EXPECTED[kind][0], None}, f"{kind}: it thought otherwise at first: {verdicts}"
        if kind is not Kind.BLOCKED:
            assert status.nat.observed_address == node.host.external_ip
            assert f"@{node.host.external_ip}:" in status.enode
        assert bool(status.nat.advice) == (status.nat.state != "direct")
    for kind, node in nodes.items():
        is_listed = any(node.wait().id in bucket for observer in observers for bucket in listed(observer))
        assert is_listed == (EXPECTED[kind][4] == "server"), f"{kind}: in the table of an observer: {is_listed}"
    for node in nodes.values():
        node.leave()


def listed(observer: LabNode) -> list[list[str]]:
    return [bucket.nodes for bucket in observer.table().buckets]


@pytest.mark.parametrize("kind", [Kind.FULL_CONE, Kind.PORT_RESTRICTED], ids=lambda kind: kind.value)
def test_a_router_that_forgets_is_noticed(internet, home, kind):
    lab, observers = internet
    node = begin_behind(lab, kind, observers[0], home, f"forgotten {kind.value}", preserve_ports=False)
    before = node.wait(lambda status: verdict(status) == EXPECTED[kind] and status.nat.observed_port).nat.observed_port
    node.host.router.forget()
    after = node.wait(lambda status: status.nat.observed_port not in (before, None))
    assert f"discport={after.nat.observed_port}" in after.enode
    node.leave()


def test_a_new_address_is_noticed(internet, home):
    lab, observers = internet
    node = begin_behind(lab, Kind.FULL_CONE, observers[0], home, "moved")
    before = node.wait(lambda status: verdict(status) == EXPECTED[Kind.FULL_CONE])
    node.host.router.change_address()
    after = node.wait(lambda status: status.nat.observed_address == node.host.external_ip)
    assert before.nat.observed_address != after.nat.observed_address
    assert f"@{node.host.external_ip}:" in node.wait(lambda status: status.nat.reachable_udp).enode
    node.leave()


def test_a_manual_forward_is_found_out(internet, home):
    lab, observers = internet
    host = lab.behind(Kind.PORT_RESTRICTED)
    for transport, port in (("udp", 30301), ("tcp", 30303)):
        host.router.forward(transport, port, host, port)
    node = LabNode(host, home, "forwarded", "--bootstrap", observers[0].wait().enode, "--nat", "none")
    node.wait(lambda status: verdict(status) == ("port_restricted", "direct", True, True, "server"))
    node.leave()


def test_three_liars_of_eight_change_nothing(home, tmp_path):
    """They name another address and port, in pongs and as STUN servers, and say that they knock."""
    with Lab() as lab:
        observers = open_network(lab, tmp_path, honest=5, liars=3)
        kinds = (Kind.FULL_CONE, Kind.PORT_RESTRICTED, Kind.SYMMETRIC)
        nodes = {kind: begin_behind(lab, kind, observers[0], tmp_path, kind.value) for kind in kinds}
        for kind, node in nodes.items():
            status = node.wait(lambda status, kind=kind: verdict(status) == EXPECTED[kind])
            seen = [event["data"] for event in node.events() if event["type"] == "nat_changed"]
            assert {event["observed_address"] for event in seen} <= {node.host.external_ip, None}
            assert {event["nat_type"] for event in seen} <= {EXPECTED[kind][0], None}
            assert f"@{node.host.external_ip}:" in status.enode
        for observer in observers[:5]:
            assert verdict(observer.wait()) == EXPECTED[Kind.OPEN]
