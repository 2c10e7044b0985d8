"""A node with more network cards than work, and with IPv6 that leads nowhere, is reached as fast as any other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from matrix import Machine, Network, connect
from natlab import Host, Kind, Lab, skip_without_lab

pytestmark = [pytest.mark.lab, skip_without_lab]

DIRECT_S = 20.0
"""The machine may be busy."""
DEAD_CARDS = """link add dead{number} type veth peer name far{number}
addr add 10.{number}.0.2/24 dev dead{number}
link set dead{number} up
link set far{number} up
"""
BROKEN_IPV6 = """addr add 2a00:{number}::2/64 dev eth0 nodad
route add default via 2a00:{number}::1 dev eth0
"""


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with Lab() as lab:
        yield Network(lab, tmp_path)


def add_dead_cards(host: Host) -> None:
    """Three more, each with an address that nobody answers at: four in all."""
    lines = "".join(DEAD_CARDS.format(number=number) for number in (1, 2, 3))
    host.namespace.configure(["ip", "-batch", "-"], lines)


def break_ipv6(host: Host, number: int) -> None:
    """A global address and a default route, to a router that is not there."""
    for scope in ("all", "default", "eth0"):
        host.namespace.sysctl(f"ipv6/conf/{scope}/disable_ipv6", 0)
    host.namespace.configure(["ip", "-6", "-batch", "-"], BROKEN_IPV6.format(number=number))


def test_dead_cards_and_broken_ipv6_are_no_hindrance(network: Network) -> None:
    machines: list[Machine] = []
    for number in (1, 2):
        host = network.lab.behind(Kind.PORT_RESTRICTED)
        add_dead_cards(host)
        break_ipv6(host, number)
        machines.append(network.lay(host, f"many-{number}", "--nat", "none"))
    network.settle(machines)
    assert connect(*machines, DIRECT_S).direct_s is not None
