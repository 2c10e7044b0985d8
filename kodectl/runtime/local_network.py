"""This machine's own addresses and the way out, as the kernel tells them."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

import psutil

from kodectl.runtime.base import LocalNetwork

ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
"""Addresses that nobody has: connecting a UDP socket sends nothing, it only chooses a route."""
DISCARD_PORT = 9
ROUTES = Path("/proc/net/route")
ROUTES6 = Path("/proc/net/ipv6_route")
HAS_GATEWAY = 0x2
"""RTF_GATEWAY of linux/route.h."""


def read_local_network() -> LocalNetwork:
    """See `runtime.base.Runtime.local_network`."""
    (source, source6) = (_source(family, elsewhere) for family, elsewhere in ELSEWHERE)
    addresses = [address.partition("%") for address in _addresses()]
    zones = tuple((ip, zone) for ip, _, zone in addresses if zone)
    return LocalNetwork(tuple(ip for ip, _, _ in addresses), source, _gateway(), source6, _gateway6(), zones)


def _addresses() -> tuple[str, ...]:
    """Link-local IPv6 ones with their interface."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    return tuple(
        entry.address
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if name in up and entry.family in (socket.AF_INET, socket.AF_INET6)
    )


def _source(family: socket.AddressFamily, elsewhere: str) -> str | None:
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((elsewhere, DISCARD_PORT))
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _gateway() -> str | None:
    """interface, destination, gateway, flags, .., .., metric, mask: hexadecimal, in the machine's byte order."""
    found = []
    for fields in _rows(ROUTES)[1:]:
        destination, gateway, flags, metric, mask = (fields[1], fields[2], fields[3], fields[6], fields[7])
        if int(destination, 16) == 0 and int(mask, 16) == 0 and int(flags, 16) & HAS_GATEWAY:
            found.append((int(metric), str(ipaddress.IPv4Address(socket.htonl(int(gateway, 16))))))
    return min(found)[1] if found else None


def _gateway6() -> str | None:
    """destination, its prefix, source, its prefix, next hop, metric, .., .., flags, interface."""
    found = []
    for fields in _rows(ROUTES6):
        if int(fields[0], 16) == 0 and fields[1] == "00" and int(fields[8], 16) & HAS_GATEWAY:
            found.append((int(fields[5], 16), str(ipaddress.IPv6Address(int(fields[4], 16)))))
    return min(found)[1] if found else None


def _rows(table: Path) -> list[list[str]]:
    try:
        return [line.split() for line in table.read_text().splitlines()]
    except OSError:  # a kernel without that family, or no /proc
        return []
