"""At which address others reach this machine, as well as can be told without asking a server."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from kodectl.errors import EnvironmentFault, KodectlError

if TYPE_CHECKING:
    from kodectl.wire.enode import Enode

ASK_LIMIT_S = 2.0
"""A node on this machine answers in milliseconds, or it hangs."""
ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
"""Addresses that nobody has: connecting a UDP socket sends nothing, it only chooses a route."""
DISCARD_PORT = 9


def told_by_node(datadir: Path) -> Enode | None:
    """The running node's enode; None without a node, or when it does not know its address either."""
    from kodectl.api.files import SOCKET_FILE
    from kodectl.cli.client import Endpoint, NodeClient
    from kodectl.node.views import StatusView
    from kodectl.wire.addresses import scope_of
    from kodectl.wire.enode import parse_enode

    client = NodeClient(Endpoint(unix=datadir / SOCKET_FILE), ASK_LIMIT_S)
    try:
        told = parse_enode(client.get("/api/network/status", StatusView).enode)
    except KodectlError:
        return None
    finally:
        client.close()
    return None if scope_of(told.host) == "unspecified" else told


def of_default_route() -> tuple[str, str]:
    """Address and name of the interface that the default route leaves by. Raises EnvironmentFault (no_network)."""
    for family, elsewhere in ELSEWHERE:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((elsewhere, DISCARD_PORT))
            except OSError:
                continue
            address = probe.getsockname()[0]
            return address, _interface_of(address)
    raise EnvironmentFault(
        "no default route: this machine has no network", code="no_network", hint="kodectl enode gen --ip IP"
    )


def _interface_of(address: str) -> str:
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == address for entry in addresses):
            return str(name)
    return "an unknown interface"
