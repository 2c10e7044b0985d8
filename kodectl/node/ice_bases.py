"""What ICE's datagrams leave from: sockets of this machine's addresses, and relays."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, zip_longest
from typing import Protocol

from kodectl.errors import KodectlError
from kodectl.node.stun_client import StunClient
from kodectl.runtime.base import Address, DatagramSocket, LocalNetwork, Runtime
from kodectl.wire.addresses import scope_of

FAMILIES = (4, 6)
MAX_ADDRESSES = 16
"""Of this machine that become candidates: a host of containers has a bridge for each, and the limit of pairs is near."""

_SITE_LOCAL = "fec"
"""Deprecated, and not to be used (RFC 8445, section 5.1.1.1); fec0::/10 begins so, or with fed, fee, fef."""


class SendingBase(Protocol):
    """A base of candidates. A socket of one's own, one that is shared, or a relay."""

    @property
    def address(self) -> Address: ...
    def send(self, data: bytes, address: Address) -> None: ...
    def close(self) -> None: ...


class Relay(Protocol):
    """An allocation on a TURN server."""

    relayed: Address
    mapped: Address
    server: Address
    on_data: Callable[[bytes, Address], None]
    on_lost: Callable[[KodectlError], None]
    on_moved: Callable[[], None]
    """`relayed` has changed."""

    def permit(self, ips: Iterable[str]) -> None: ...
    def send(self, data: bytes, peer: Address) -> None: ...
    def close(self) -> None: ...


Allocate = Callable[[int], Relay]
"""Allocates an address of that family on one server; waits, and raises KodectlError where there is none to be had."""


class SocketBase:
    """A socket of this session, and the STUN requests that leave from it."""

    def __init__(
        self,
        runtime: Runtime,
        ip: str,
        zone: str | None,
        preference: int,
        receive: Callable[[SendingBase, bytes, Address], None],
    ) -> None:
        """`zone`: the interface of a link-local IPv6 address; being bound to it, the socket needs no zone to send."""
        self._receive = receive
        self.preference = preference
        self.family = family_of(ip)
        self._has_zone = zone is not None
        local = f"{ip}%{zone}" if self._has_zone else ip
        self._socket: DatagramSocket = runtime.open_datagram((local, 0), self._received)
        self.address: Address = (ip, self._socket.local[1])
        self.stun = StunClient(runtime, self._socket.send)

    def send(self, data: bytes, address: Address) -> None:
        self._socket.send(data, address)

    def _received(self, data: bytes, sender: Address) -> None:
        if self._has_zone:  # it says nothing elsewhere, and candidates have none
            sender = (sender[0].partition("%")[0], sender[1])
        if not self.stun.received(data, sender):
            self._receive(self, data, sender)

    def close(self) -> None:
        self.stun.close()
        self._socket.close()


class RelayBase:
    """An allocation of this session."""

    def __init__(self, relay: Relay, receive: Callable[[SendingBase, bytes, Address], None]) -> None:
        self.address = relay.relayed
        self.relay = relay
        relay.on_data = lambda data, peer: receive(self, data, peer)

    def send(self, data: bytes, address: Address) -> None:
        self.relay.send(data, address)

    def close(self) -> None:
        self.relay.close()


def family_of(ip: str) -> int:
    return 6 if ":" in ip else 4


def host_addresses(network: LocalNetwork, families: Iterable[int] = FAMILIES) -> list[str]:
    """What host candidates are made of, best first: those of the default routes, IPv6 and IPv4 in turn (RFC 8421).

    Not those of RFC 8445, section 5.1.1.1. Only where there are no others: IPv6's link-local ones, which reach hosts of one
    link, and would tell what privacy addresses hide; loopback ones, by which two processes of one machine find each other."""
    wanted = set(families)
    zones = dict(network.zones)
    own = [ip for ip in dict.fromkeys(network.addresses) if family_of(ip) in wanted and _is_candidate(ip)]
    loopback = [ip for ip in own if scope_of(ip) == "loopback"]
    link_local = [ip for ip in own if is_link_local6(ip) and ip in zones]
    chosen = [ip for ip in own if ip not in loopback and not is_link_local6(ip)] or link_local or loopback
    chosen.sort(key=lambda ip: ip not in (network.source, network.source6))
    turns = zip_longest(*([ip for ip in chosen if family_of(ip) == family] for family in (6, 4)))
    return [ip for ip in chain.from_iterable(turns) if ip is not None][:MAX_ADDRESSES]


def _is_candidate(ip: str) -> bool:
    is_ipv6 = family_of(ip) == 6
    if is_ipv6 and (ip[:3].lower() in (_SITE_LOCAL, "fed", "fee", "fef") or ip.lower().startswith("::ffff:")):
        return False
    return scope_of(ip) not in ("unspecified", "multicast")


def is_link_local6(ip: str) -> bool:
    return family_of(ip) == 6 and scope_of(ip) == "link_local"
