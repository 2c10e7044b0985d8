"""Socket addresses and bound sockets.

Two nodes of one machine share the announcement port, each with sockets bound to the group and broadcast addresses
(see `lan`), and the discovery socket of one of them may be bound to the same number. Linux allows that only if every
one of these sockets has SO_REUSEADDR, and then it also lets two discovery sockets share the port, each stealing the
other's datagrams. So a discovery socket first claims its port with guards: sockets bound to the same number without
SO_REUSEADDR, on addresses that announcements never use.
"""

from __future__ import annotations

import errno
import os
from _socket import AI_NUMERICHOST, getaddrinfo
from _socket import socket as KernelSocket
from contextlib import ExitStack, closing
from ipaddress import IPv6Address, ip_address
from socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    SO_REUSEADDR,
    SO_REUSEPORT,
    SOCK_DGRAM,
    SOCK_STREAM,
    SOL_SOCKET,
)
from typing import Any

from kodectl.errors import EnvironmentFault
from kodectl.runtime.base import Address
from kodectl.wire.addresses import address_text

SockAddr = tuple[Any, ...]
"""What the kernel calls take: (host, port), for IPv6 with flow and scope."""

IP_MULTICAST_ALL = 49
"""linux/in.h; Python has no name for it."""

WILDCARDS = ("0.0.0.0", "::")

FAULT_CODES = {
    errno.EADDRINUSE: "port_in_use",
    errno.EADDRNOTAVAIL: "address_not_available",
    errno.EAFNOSUPPORT: "address_not_available",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.EMFILE: "too_many_open_files",
    errno.ENFILE: "too_many_open_files",
}
"""What keeps a socket from being opened, as codes; anything else is `environment`."""

HINTS = {
    "port_in_use": "stop that process, or choose another port (0 takes any free one)",
    "address_not_available": "listen on an address of this machine, or on 0.0.0.0",
    "permission": "choose a port above 1023, or grant CAP_NET_BIND_SERVICE",
    "too_many_open_files": "raise the limit of open files (ulimit -n)",
}


def numeric_text(host: str) -> str | None:
    """A numeric address in its normal form, IPv4-mapped as IPv4; None for a name."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def family_of(host: str) -> int:
    return AF_INET6 if ":" in host else AF_INET


def sockaddr(address: Address, family: int) -> SockAddr:
    """The kernel's form of a numeric address, IPv4 mapped for an IPv6 socket. Raises OSError for anything else.

    Never asks a name server: the kernel calls would, and block the process, if a name got to them."""
    host, port = address
    if not 0 <= port <= 65535:
        raise OSError(errno.EINVAL, f"port {port} is not between 0 and 65535")
    if family == AF_INET6 and ":" not in host:
        host = f"::ffff:{host}"
    try:
        return getaddrinfo(host, port, family, 0, 0, AI_NUMERICHOST)[0][4]
    except (OSError, ValueError) as error:  # ValueError: a zero byte, or text that is no host name at all
        raise OSError(errno.EADDRNOTAVAIL, f"{host!r} is not a numeric address of this family") from error


def shown(raw: SockAddr) -> Address:
    """The kernel's form as an `Address`: IPv4-mapped as IPv4, a link-local address with its scope."""
    host, port = raw[0], raw[1]
    if host.startswith("::ffff:") and "." in host:
        return host[7:], port
    if len(raw) == 4 and raw[3]:
        return f"{host}%{raw[3]}", port
    return host, port


def bound_socket(local: Address, kind: int, *, reuse: bool) -> KernelSocket:
    """A non-blocking socket bound to `local`; "::" takes IPv4 as well. Raises OSError."""
    family = family_of(local[0])
    sock = KernelSocket(family, kind)
    try:
        sock.setblocking(False)
        if family == AF_INET6:
            sock.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0)
        if reuse:
            sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        sock.bind(sockaddr(local, family))
    except OSError:
        sock.close()
        raise
    return sock


def bind_datagram(local: Address) -> KernelSocket:
    """A UDP socket that has its port to itself, except for announcement sockets. Raises EnvironmentFault."""
    host, port = local
    try:
        with ExitStack() as guards:
            if port:
                guards.enter_context(claimed(host, port))
            # A port that the kernel chooses is bound without SO_REUSEADDR, or it could choose one that is shared.
            sock = bound_socket(local, SOCK_DGRAM, reuse=port != 0)
    except OSError as error:
        raise bind_fault(error, "udp", local) from error
    sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    # Else a socket on 0.0.0.0 hears every group that any program of this machine has joined.
    sock.setsockopt(IPPROTO_IP, IP_MULTICAST_ALL, 0)
    return sock


def claimed(host: str, port: int) -> ExitStack:
    """Holds `port` with a guard on each address that `host` stands for. Raises OSError (EADDRINUSE).

    A guard cannot be bound while a discovery socket has the port, nor beside another guard. Once bound it gets
    SO_REUSEADDR, so that the socket it stands for can be bound beside it: from the first guard on, no moment is left
    for a second node to slip in."""
    with ExitStack() as guards:
        for address in stood_for(host):
            try:
                guard = guards.enter_context(closing(bound_socket((address, port), SOCK_DGRAM, reuse=False)))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise
                continue  # an address that just went away, or is not ready yet: nobody can hold it either
            guard.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        return guards.pop_all()


def stood_for(host: str) -> list[str]:
    """The addresses that a socket bound to `host` gets datagrams for."""
    if host not in WILDCARDS:
        return [host]
    addresses = [address for _, address in interface_addresses()]
    return addresses if host == "::" else [address for address in addresses if family_of(address) == AF_INET]


def bind_stream(local: Address) -> KernelSocket:
    """A TCP socket ready to listen. Raises EnvironmentFault."""
    try:
        # SO_REUSEADDR: connections of an earlier run that linger do not hold the port; a live listener does.
        return bound_socket(local, SOCK_STREAM, reuse=True)
    except OSError as error:
        raise bind_fault(error, "tcp", local) from error


def share_port(listener: KernelSocket) -> None:
    """Lets connections be dialled from the port of `listener`, which listens already.

    Linux allows that where both sockets have SO_REUSEPORT. Set this late, it lets no second listener in: that one would
    have to ask for it before it listens, and nobody here does."""
    listener.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)


def bind_dialling(sock: KernelSocket, family: int, port: int) -> None:
    """Gives a socket that is to be connected the port of a listener (`share_port`). Raises OSError."""
    sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    sock.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)
    sock.bind(sockaddr(("::" if family == AF_INET6 else "0.0.0.0", port), family))


def interface_addresses() -> list[tuple[str, str]]:
    """(interface, address) of every interface that is up; link-local IPv6 left out."""
    import psutil  # 15 ms at start-up, and only a process that opens sockets needs it

    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    return [
        (name, entry.address)
        for name, entries in psutil.net_if_addrs().items()
        if name in up
        for entry in entries
        if entry.family in (AF_INET, AF_INET6) and "%" not in entry.address
    ]


def bind_fault(error: OSError, protocol: str, local: Address) -> EnvironmentFault:
    """What kept `local` from being bound, in words, with the process that holds the port where it can be seen."""
    code = FAULT_CODES.get(error.errno or 0, "environment")
    host, port = local
    if code == "port_in_use":
        message = f"{protocol.upper()} port {port} is in use by {port_holder(protocol, port)}"
    else:
        where = address_text(host, port)
        message = f"cannot bind {protocol.upper()} {where}: {os.strerror(error.errno) if error.errno else error}"
    return EnvironmentFault(message, code=code, hint=HINTS.get(code))


def port_holder(protocol: str, port: int) -> str:
    """Names the process behind a port, as far as this user may see it."""
    import psutil

    try:
        for entry in psutil.net_connections(protocol):
            if entry.pid and entry.laddr and entry.laddr.port == port and is_unicast(entry.laddr.ip):
                if entry.pid == os.getpid():
                    return f"this very process ({entry.pid})"
                return f"process {entry.pid} ({psutil.Process(entry.pid).name()})"
    except (psutil.Error, OSError):  # it ended meanwhile, or /proc is closed to us
        pass
    return "a process that this user cannot see"


def is_unicast(host: str) -> bool:
    """False for the addresses of announcement sockets, which hold no port against anybody."""
    return not ip_address(host).is_multicast and host != "255.255.255.255"
