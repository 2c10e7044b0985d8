"""Where a relay may send to. It stands inside of networks that its users are outside of, and must not be their way in."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from kodectl.wire.addresses import scope_of
from kodectl.wire.contacts import is_unicast

Network = IPv4Network | IPv6Network

PRIVATE: tuple[Network, ...] = tuple(
    ip_network(network) for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
_NAT64 = ip_network("64:ff9b::/96")
_NAT64_LOCAL = ip_network("64:ff9b:1::/48")
MAX_REMEMBERED = 4096
"""Verdicts, which cost 40 us each: a relay asks for every datagram that has no channel."""


class Reach(Enum):
    FORBIDDEN = "forbidden"
    ANY_PORT = "any_port"
    RELAYS = "relays"
    """The server's own address: only the ports that other clients have there."""


class ReachPolicy:
    """Public addresses, and what `allowed` names. `own`: the server's addresses, as seen from inside and outside; with
    `to_relays` clients of this server may meet there, each at the other's relayed address. `neighbours` are allowed too,
    but for what is `own`."""

    def __init__(
        self,
        own: Iterable[str] = (),
        allowed: Iterable[Network] = (),
        *,
        neighbours: Iterable[Network] = (),
        to_relays: bool = False,
    ) -> None:
        self._own = frozenset(str(ip_address(ip.partition("%")[0])) for ip in own)
        self._allowed = tuple(allowed)
        self._neighbours = tuple(neighbours)
        self._to_own = Reach.RELAYS if to_relays else Reach.FORBIDDEN
        self.reach = lru_cache(MAX_REMEMBERED)(self._reach)

    def _reach(self, ip: str) -> Reach:
        """Of `ip`, in its normal form. Groups, broadcasts and IPv4 in IPv6's clothes are out of reach whatever is allowed."""
        if not is_unicast(ip):
            return Reach.FORBIDDEN
        address = ip_address(ip)
        if any(address in network for network in self._allowed):
            return Reach.ANY_PORT
        if ip in self._own:
            return self._to_own
        if any(address in network for network in self._neighbours):
            return Reach.ANY_PORT
        if isinstance(address, IPv6Address) and _leads_to_ipv4(address):
            return Reach.FORBIDDEN
        return Reach.ANY_PORT if scope_of(ip) == "public" else Reach.FORBIDDEN


def _leads_to_ipv4(address: IPv6Address) -> bool:
    """NAT64, 6to4, Teredo, and ::a.b.c.d: the IPv4 address inside may be any."""
    is_compatible = int(address) >> 32 == 0
    is_translated = address in _NAT64 or address in _NAT64_LOCAL
    return is_compatible or is_translated or address.sixtofour is not None or address.teredo is not None
