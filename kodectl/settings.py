"""Frozen settings of a node. How they come together (flag, variable, file, default) is the command line's business.

A dataclass: the defaults here are part of every command's options, and commands start without msgspec.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_TCP_PORT = 30303
DEFAULT_UDP_PORT = 30301
DEFAULT_API_PORT = 8545
DEFAULT_MAX_PEERS = 50
DEFAULT_NETWORK = "kodechain"
DEFAULT_VALUE_TTL_S = 86_400.0
MAX_VALUE_TTL_S = 48 * 3_600.0
"""Nodes refuse a record whose expiry is further ahead (docs/protocol.md, Values)."""
MAX_BAN_S = 366 * 86_400.0
"""For longer there is the ban without an end."""

DEFAULT_BOOTSTRAP = tuple(
    f"enode://{'0' * 64}@seed{number}.kodechain.io:{DEFAULT_TCP_PORT}?discport={DEFAULT_UDP_PORT}"
    for number in (1, 2, 3)
)
"""The documented placeholders. Their ids are not known yet: an id of zeros means "whoever answers there"."""


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """Everything that a node needs to be told; times of procedures are constants beside the procedures."""

    datadir: Path | None = None
    """Where key, store and API socket live; None keeps nothing (ephemeral nodes, simulation)."""
    listen_host: str = "0.0.0.0"
    tcp_port: int = DEFAULT_TCP_PORT
    """0: any free port."""
    udp_port: int = DEFAULT_UDP_PORT
    bootstrap: tuple[str, ...] = ()
    """Enodes."""
    max_peers: int = DEFAULT_MAX_PEERS
    lan: bool = True
    nat: str = "auto"
    """auto | none | upnp | natpmp | pcp | extip:IP"""
    stun: tuple[tuple[str, int], ...] = ()
    """Host and port of STUN servers that are asked beside the peers."""
    turn: tuple[str, ...] = ()
    """TURN servers that are used beside the relays of peers, as `wire.turn_server.parse_turn` reads them."""
    relay: tuple[tuple[str, int], ...] | None = ()
    """What this node relays for others, while strangers reach it: changes of the default limits, by the fields of
    RelayLimits; None: nothing."""
    network: str = DEFAULT_NETWORK
    validators: tuple[str, ...] = ()
    """Node ids (hex) that rank high."""
    dht_client: bool = False
    """True: answer, but ask not to be entered into routing tables."""
