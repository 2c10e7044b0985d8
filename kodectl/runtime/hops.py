"""The way out, as far as it can be seen without privileges: the first routers on it, as traceroute finds them.

A datagram with a short time to live dies at a router, which says so; Linux keeps that word in the socket's error queue
(ip(7), IP_RECVERR). Blocking: for a thread.
"""

from __future__ import annotations

import select
import socket
import struct
import time

IP_RECVERR = 11
"""linux/in.h; Python has no name for it."""
ORIGIN_ICMP = 2
TIME_EXCEEDED = 11
FIRST_PORT = 33_434
"""Where traceroute begins: nobody listens there."""
_ERROR = struct.Struct("=IBBBxII")
"""struct sock_extended_err of linux/errqueue.h; the address of who complained follows it."""


def first_hops(target: str, count: int, limit_s: float) -> list[str | None]:
    """Addresses of the first `count` IPv4 routers on the way to `target` (numeric); None for one that says nothing. Sends a
    datagram for each. Raises OSError where there is no way at all."""
    probes = [_probe(target, ttl) for ttl in range(1, count + 1)]
    found: dict[int, str] = {}
    try:
        ends = time.monotonic() + limit_s
        poller = select.poll()
        for probe in probes:
            poller.register(probe, 0)
        while len(found) < count and (left_s := ends - time.monotonic()) > 0:
            for descriptor, _ in poller.poll(left_s * 1000):
                number = next(index for index, probe in enumerate(probes) if probe.fileno() == descriptor)
                complainant = _complainant(probes[number])
                poller.unregister(descriptor)
                found[number] = complainant or ""
    finally:
        for probe in probes:
            probe.close()
    return [found.get(number) or None for number in range(count)]


def may_send(host: str, port: int) -> bool:
    """Whether the kernel takes an empty datagram to that numeric address: what a firewall of this machine drops on its way
    out is refused to who sends it."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        try:
            probe.sendto(b"", (host, port))
        except PermissionError:
            return False
        except OSError:
            pass
    return True


def _probe(target: str, ttl: int) -> socket.socket:
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        probe.setblocking(False)
        probe.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        probe.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        probe.sendto(b"", (target, FIRST_PORT + ttl))
    except OSError:
        probe.close()
        raise
    return probe


def _complainant(probe: socket.socket) -> str | None:
    """Who has let the datagram die of age; None for any other complaint."""
    try:
        _, ancillary, _, _ = probe.recvmsg(0, 512, socket.MSG_ERRQUEUE)
    except OSError:
        return None
    for level, kind, data in ancillary:
        if (level, kind) != (socket.IPPROTO_IP, IP_RECVERR) or len(data) < _ERROR.size + 8:
            continue
        _, origin, icmp_type, *_ = _ERROR.unpack_from(data)
        if (origin, icmp_type) == (ORIGIN_ICMP, TIME_EXCEEDED):
            return socket.inet_ntoa(data[_ERROR.size + 4 : _ERROR.size + 8])
    return None
