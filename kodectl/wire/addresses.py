"""Addresses as text, and what their range tells: advice only, what answers decides reachability."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

NAME = "name"

# The first match counts. RFC 6890 and the IANA special-purpose registries.
_RANGES = [
    (scope, [ipaddress.ip_network(network) for network in networks])
    for scope, networks in (
        ("unspecified", ("0.0.0.0/8", "::/128")),
        ("loopback", ("127.0.0.0/8", "::1/128")),
        ("link_local", ("169.254.0.0/16", "fe80::/10")),
        ("private", ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")),
        ("cgnat", ("100.64.0.0/10",)),
        ("documentation", ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20")),
        ("benchmark", ("198.18.0.0/15", "2001:2::/48")),
        ("multicast", ("224.0.0.0/4", "ff00::/8")),
        ("reserved", ("240.0.0.0/4", "100::/64")),
    )
]


def address_text(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@lru_cache(maxsize=4096)
def scope_of(host: str) -> str:
    """The scope of a host as `parse_enode` gives it: `name` for a host name, `public` outside all special ranges."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return NAME
    for scope, networks in _RANGES:
        if any(address in network for network in networks):
            return scope
    return "public"
