"""At which address others reach this machine, as well as a command can tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kodectl.errors import EnvironmentFault, KodectlError

if TYPE_CHECKING:
    from kodectl.wire.enode import Enode

ASK_LIMIT_S = 2.0
"""A node on this machine answers in milliseconds, or it hangs."""


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


def told_by_stun(servers: Sequence[tuple[str, int]]) -> tuple[str, str] | None:
    """The address that the first server to answer sees, and which that was; None when none of them answers."""
    from kodectl.cli.errand import world
    from kodectl.node.stun_query import ask_any

    with world() as runtime:
        answered = ask_any(runtime, servers, ASK_LIMIT_S)
    return None if answered is None else (answered[1].mapped[0], answered[0])


def of_default_route() -> tuple[str, str]:
    """Address and name of the interface that the default route leaves by. Raises EnvironmentFault (no_network)."""
    from kodectl.runtime.local_network import read_local_network

    network = read_local_network()
    address = network.source or network.source6
    if address is None:
        raise EnvironmentFault(
            "no default route: this machine has no network", code="no_network", hint="kodectl enode gen --ip IP"
        )
    return address, _interface_of(address)


def _interface_of(address: str) -> str:
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == address for entry in addresses):
            return str(name)
    return "an unknown interface"
