"""UDP on gevent: a callback in the hub drains the socket, a few datagrams at a time."""

from __future__ import annotations

from _socket import socket as KernelSocket
from collections.abc import Callable
from socket import AF_INET6, SO_RCVBUF, SOL_SOCKET

from gevent.hub import Hub

from kodectl.runtime.base import Address
from kodectl.runtime.binding import SockAddr, bind_datagram, shown, sockaddr
from kodectl.runtime.faults import CallbackFaults

DRAIN_LIMIT = 32
"""Datagrams taken before the hub looks at everything else: a loop without a limit starves timers and other sockets
under flood, a limit of one pays the hub's turn for each (32 datagrams of 60 us are 2 ms)."""

RECEIVE_SIZE = 65_536
"""More than any datagram holds: none is cut without a sign. Costs nothing measurable over 2,048."""

RECEIVE_BUFFER = 4 * 1024 * 1024
"""Asked of the kernel, which gives what net.core.rmem_max allows: seconds of bursts while the hub is busy."""

MAX_TARGETS = 4_096
"""Peers' addresses kept in the kernel's form; forgotten all at once when full, since they are cheap to make again."""

READ = 1
"""The event mask of libev for "can be read"."""


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


class GreenDatagramSocket:
    """See `runtime.base.DatagramSocket`. `lost` counts what the kernel did not take."""

    def __init__(
        self, hub: Hub, local: Address, receive: Callable[[bytes, Address], None], faults: CallbackFaults
    ) -> None:
        self._sock = bind_datagram(local)
        self._sendto = self._sock.sendto
        self._family = self._sock.family
        self._targets: dict[Address, SockAddr] = {}
        self.lost = 0
        self.local: Address = shown(self._sock.getsockname())
        self._inbox = Inbox(hub, self._sock, receive, faults)

    def send(self, data: bytes, address: Address) -> None:
        try:
            self._sendto(data, self._targets.get(address) or self._learn(address))
        except OSError:
            self.lost += 1

    def _learn(self, address: Address) -> SockAddr:
        target = sockaddr(address, self._family)
        if len(self._targets) >= MAX_TARGETS:
            self._targets.clear()
        self._targets[address] = target
        return target

    def close(self) -> None:
        self._inbox.close()
