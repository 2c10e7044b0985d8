"""Announcements on the local networks: multicast and limited broadcast on every interface."""

from __future__ import annotations

import time
from _socket import socket as KernelSocket
from collections.abc import Callable
from contextlib import ExitStack, closing
from ipaddress import ip_address
from socket import (
    AF_INET,
    IP_ADD_MEMBERSHIP,
    IP_MULTICAST_IF,
    IP_MULTICAST_LOOP,
    IP_MULTICAST_TTL,
    IPPROTO_IP,
    SO_BROADCAST,
    SOCK_DGRAM,
    SOL_SOCKET,
    inet_aton,
)

from gevent.hub import Hub

from kodectl.runtime.base import Address
from kodectl.runtime.binding import IP_MULTICAST_ALL, bind_fault, bound_socket, family_of, interface_addresses
from kodectl.runtime.datagrams import Inbox
from kodectl.runtime.faults import CallbackFaults

GROUP = "239.255.75.67"
BROADCAST = "255.255.255.255"
LOOPBACK = "127.0.0.1"

TIME_TO_LIVE = 1
"""Announcements stay on the link."""

INTERFACES_AGE_S = 30.0
"""How old the list of interfaces may be when something is announced: cables get plugged and VPNs come up."""

MAX_INTERFACES = 16
"""A socket of Linux joins a group at most 20 times (net.ipv4.igmp_max_memberships); machines with many container
bridges have more interfaces than that."""


class GreenLan:
    """See `runtime.base.LanSocket`. Any number of nodes of one machine may share the port."""

    def __init__(self, hub: Hub, port: int, receive: Callable[[bytes, Address], None], faults: CallbackFaults) -> None:
        self._port = port
        self._outlets: list[str] = []
        self._outlets_read_at = -INTERFACES_AGE_S
        with ExitStack() as undo:
            self._group = undo.enter_context(closing(_listening((GROUP, port))))
            broadcast = undo.enter_context(closing(_listening((BROADCAST, port))))
            self._read_interfaces()
            undo.pop_all()
        self._inboxes = [Inbox(hub, sock, receive, faults) for sock in (self._group, broadcast)]

    def announce(self, data: bytes) -> None:
        if self._group.fileno() < 0:
            return
        if time.monotonic() - self._outlets_read_at > INTERFACES_AGE_S:
            self._read_interfaces()
        for host in self._outlets:
            _send_from(host, data, self._port)

    def close(self) -> None:
        for inbox in self._inboxes:
            inbox.close()

    def _read_interfaces(self) -> None:
        addresses = _first_ipv4_of_each_interface()
        for host in addresses:
            _join(self._group, host)
        self._outlets = [host for host in addresses if not ip_address(host).is_loopback] or [LOOPBACK]
        self._outlets_read_at = time.monotonic()


def _join(group: KernelSocket, host: str) -> None:
    """Listens to the group on the interface with address `host`.

    Asked again at each reading of the interfaces, since one that went away and came back is another to the kernel."""
    try:
        group.setsockopt(IPPROTO_IP, IP_ADD_MEMBERSHIP, inet_aton(GROUP) + inet_aton(host))
    except OSError:
        pass  # joined already, or an interface that cannot multicast


def _listening(local: Address) -> KernelSocket:
    """A socket that hears only what is sent to the group or broadcast address itself. Raises EnvironmentFault."""
    try:
        sock = bound_socket(local, SOCK_DGRAM, reuse=True)
    except OSError as error:
        raise bind_fault(error, "udp", local) from error
    # Only the interfaces joined here, not what other programs of this machine have joined.
    sock.setsockopt(IPPROTO_IP, IP_MULTICAST_ALL, 0)
    return sock


def _first_ipv4_of_each_interface() -> list[str]:
    first: dict[str, str] = {}
    for name, host in interface_addresses():
        if family_of(host) == AF_INET:
            first.setdefault(name, host)
    return list(first.values())[:MAX_INTERFACES]


def _send_from(host: str, data: bytes, port: int) -> None:
    """Sends to group and broadcast out of the interface that has address `host`.

    A socket for each announcement: it keeps no state that a changed interface could make stale. The source address
    makes Linux choose the interface for 255.255.255.255 as well."""
    with closing(KernelSocket(AF_INET, SOCK_DGRAM)) as sender:
        try:
            sender.setblocking(False)
            sender.setsockopt(SOL_SOCKET, SO_BROADCAST, 1)
            sender.setsockopt(IPPROTO_IP, IP_MULTICAST_IF, inet_aton(host))
            sender.setsockopt(IPPROTO_IP, IP_MULTICAST_TTL, TIME_TO_LIVE)
            sender.setsockopt(IPPROTO_IP, IP_MULTICAST_LOOP, 1)
            sender.bind((host, 0))
        except OSError:
            return
        for target in (GROUP, BROADCAST):
            try:
                sender.sendto(data, (target, port))
            except OSError:
                pass  # an interface without broadcast, without a route, or with a full queue
