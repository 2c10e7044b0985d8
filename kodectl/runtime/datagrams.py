"""UDP on gevent: a callback in the hub drains the socket, a few datagrams at a time."""

from __future__ import annotations

import errno
import sys
from _socket import socket as KernelSocket
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from socket import AF_INET6, IPPROTO_UDP, SO_RCVBUF, SOL_SOCKET

from gevent.hub import Hub

from kodectl.runtime.base import Address
from kodectl.runtime.binding import bind_datagram, shown, sockaddr
from kodectl.runtime.faults import CallbackFaults

DRAIN_LIMIT = 32
"""Datagrams taken before the hub looks at everything else: a loop without a limit starves timers and other sockets
under flood, a limit of one pays the hub's turn for each (32 datagrams of 60 us are 2 ms)."""

RECEIVE_SIZE = 65_536
"""More than any datagram holds: none is cut without a sign. Costs nothing measurable over 2,048."""

RECEIVE_BUFFER = 4 * 1024 * 1024
"""Asked of the kernel, which gives what net.core.rmem_max allows: seconds of bursts while the hub is busy."""

MAX_TARGETS = 4_096
"""Addresses of peers kept in the kernel's form, for all sockets of the process: those used last."""

UDP_SEGMENT = 103
"""linux/udp.h: the kernel cuts one large send into datagrams of this size (since Linux 4.18)."""

MAX_SEGMENTS = 64
"""Of one send: UDP_MAX_SEGMENTS of the older kernels."""

MAX_SEND = 65_000
"""Bytes of one send: what fits into an IP packet with its headers."""

NOT_CUT = (errno.EIO, errno.EOPNOTSUPP)
"""What a kernel answers whose device cannot make the checksums (udp(7)); EINVAL may be the address's fault, or be said
of segments too large for that way."""

READ = 1
"""The event mask of libev for "can be read"."""


def rows(datagrams: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Cuts into rows that one send can carry: of equal size, but for a last one that may be smaller."""
    start = 0
    while start < len(datagrams):
        size = len(datagrams[start])
        limit = min(start + max(1, min(MAX_SEGMENTS, MAX_SEND // max(size, 1))), len(datagrams))
        end = start + 1
        while size and end < limit and len(datagrams[end]) == size:
            end += 1
        if end < limit and 0 < len(datagrams[end]) < size:
            end += 1
        yield datagrams[start:end]
        start = end


class Inbox:
    """Hands the datagrams of one bound socket to `receive`, in the hub."""

    def __init__(
        self, hub: Hub, sock: KernelSocket, receive: Callable[[bytes, Address], None], faults: CallbackFaults
    ) -> None:
        self._sock = sock
        self._recvfrom = sock.recvfrom
        self._receive = receive
        self._faults = faults
        self._is_ipv6 = sock.family == AF_INET6
        sock.setsockopt(SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER)
        self._watcher = hub.loop.io(sock.fileno(), READ)
        self._watcher.start(self._drain)

    def _drain(self) -> None:
        for _ in range(DRAIN_LIMIT):
            try:
                data, sender = self._recvfrom(RECEIVE_SIZE)
            except BlockingIOError:
                return
            except OSError:
                if self._sock.fileno() < 0:  # closed by the callback of the datagram before
                    return
                continue  # an ICMP error that belongs to some earlier send
            if self._is_ipv6:
                sender = shown(sender)
            try:
                self._receive(data, sender)
            except Exception as error:
                self._faults.report("datagram", error)

    def close(self) -> None:
        self._watcher.stop()
        self._watcher.close()
        self._sock.close()


kept_sockaddr = lru_cache(maxsize=MAX_TARGETS)(sockaddr)


def _can_cut(sock: KernelSocket) -> bool:
    try:
        sock.getsockopt(IPPROTO_UDP, UDP_SEGMENT)
    except OSError:
        return False
    return True


class GreenDatagramSocket:
    """See `runtime.base.DatagramSocket`. `lost` counts what the kernel did not take."""

    def __init__(
        self, hub: Hub, local: Address, receive: Callable[[bytes, Address], None], faults: CallbackFaults
    ) -> None:
        self._sock = bind_datagram(local)
        self._sendto = self._sock.sendto
        self._family = self._sock.family
        self._cuts = _can_cut(self._sock)
        self.lost = 0
        self.local: Address = shown(self._sock.getsockname())
        self._inbox = Inbox(hub, self._sock, receive, faults)

    def send(self, data: bytes, address: Address) -> None:
        try:
            self._sendto(data, kept_sockaddr(address, self._family))
        except OSError:
            self.lost += 1

    def send_many(self, datagrams: Sequence[bytes], address: Address) -> None:
        for row in rows(datagrams):
            if len(row) == 1 or not self._cuts or not self._send_row(row, address):
                for data in row:
                    self.send(data, address)

    def _send_row(self, row: Sequence[bytes], address: Address) -> bool:
        """False where the row did not go out as one; then it is to be tried one by one."""
        size = len(row[0]).to_bytes(2, sys.byteorder)
        try:
            target = kept_sockaddr(address, self._family)
            self._sock.sendmsg(row, [(IPPROTO_UDP, UDP_SEGMENT, size)], 0, target)
        except BlockingIOError:
            self.lost += len(row)
        except OSError as error:
            self._cuts = error.errno not in NOT_CUT
            return False
        return True

    def close(self) -> None:
        self._inbox.close()
