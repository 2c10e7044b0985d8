"""The peers of an allocation: who may send to it (permissions), and who has a channel (RFC 8656, sections 9 to 12)."""

from __future__ import annotations

from collections import OrderedDict
from math import inf

from kodectl.wire.channel_data import FIRST_CHANNEL, LAST_CHANNEL
from kodectl.wire.stun_attributes import Address

MAX_PERMISSIONS = 256
"""Above what any spray or crowd of candidates needs; each costs the server memory, and us a share of a request."""
MAX_PERMITTED_AT_ONCE = 20
"""In one request: 480 bytes of IPv6 addresses, so that it fits into any datagram with the credentials beside them."""
PERMISSION_REFRESH_S = 240.0
"""A permission lasts 300 s and cannot be made to last longer; a request may take 39.5 s."""
CHANNEL_LIFETIME_S = 600.0
CHANNEL_REFRESH_S = 540.0
MAX_CHANNELS = 256
CHANNEL_AFTER = 10
"""Datagrams to a peer before it gets a channel: more than a connectivity check that nobody answers sends."""
MAX_COUNTED = 1024
"""Peers whose datagrams are counted; forgotten all at once when full, and counted anew."""


class Permission:
    __slots__ = ("is_refused", "refresh_at", "used_at")

    def __init__(self, now: float) -> None:
        self.used_at = now
        self.refresh_at = inf
        """Never while a request for it is under way, or when the server has refused it."""
        self.is_refused = False


class Permissions:
    """By IP address: ports do not count (section 9)."""

    def __init__(self) -> None:
        self._by_ip: dict[str, Permission] = {}

    def __len__(self) -> int:
        return len(self._by_ip)

    def allows(self, ip: str, now: float) -> bool:
        permission = self._by_ip.get(ip)
        if permission is None or permission.is_refused:
            return False
        permission.used_at = now
        return True

    def add(self, ip: str, now: float) -> bool:
        """Whether it has to be asked for. When full, the one that was unused for the longest time lapses."""
        permission = self._by_ip.get(ip)
        if permission is not None:
            permission.used_at = now
            return False
        if len(self._by_ip) >= MAX_PERMISSIONS:
            del self._by_ip[min(self._by_ip, key=lambda other: self._by_ip[other].used_at)]
        self._by_ip[ip] = Permission(now)
        return True

    def granted(self, ips: tuple[str, ...], now: float) -> None:
        self._refresh_at(ips, now + PERMISSION_REFRESH_S)

    def ask_again(self, ips: tuple[str, ...], now: float) -> None:
        self._refresh_at(ips, now)

    def _refresh_at(self, ips: tuple[str, ...], when: float) -> None:
        for ip in ips:
            if ip in self._by_ip:
                self._by_ip[ip].refresh_at = when

    def refused(self, ip: str) -> None:
        if ip in self._by_ip:
            self._by_ip[ip].is_refused = True
            self._by_ip[ip].refresh_at = inf

    def forgotten(self, now: float) -> None:
        """By the server: all have to be asked for again."""
        for permission in self._by_ip.values():
            permission.refresh_at = now
            permission.is_refused = False

    def take_due(self, now: float) -> list[tuple[str, ...]]:
        """In portions of one request each; a request for them is taken to be under way from now on."""
        due = [ip for ip, permission in self._by_ip.items() if permission.refresh_at <= now]
        for ip in due:
            self._by_ip[ip].refresh_at = inf
        return portions(due)

    def next_deadline(self) -> float:
        return min((permission.refresh_at for permission in self._by_ip.values()), default=inf)


def portions(ips: list[str]) -> list[tuple[str, ...]]:
    return [tuple(ips[at : at + MAX_PERMITTED_AT_ONCE]) for at in range(0, len(ips), MAX_PERMITTED_AT_ONCE)]


class Channel:
    __slots__ = ("expires_at", "is_asked", "is_used", "number", "peer", "refresh_at")

    def __init__(self, number: int, peer: Address) -> None:
        self.number = number
        self.peer = peer
        self.is_asked = True
        """A request for it is under way."""
        self.is_used = False
        """Since it was asked for the last time."""
        self.refresh_at = inf
        self.expires_at = -inf


class Channels:
    """A channel without traffic is not refreshed. No number is used twice: it may not be for another peer for five minutes
    (section 12), and there are 4,096."""

    def __init__(self) -> None:
        self._by_peer: dict[Address, Channel] = {}
        self._by_number: dict[int, Channel] = {}
        self._sent: OrderedDict[Address, int] = OrderedDict()
        self._next_number = FIRST_CHANNEL

    def __len__(self) -> int:
        return len(self._by_peer)

    def bound(self, peer: Address, now: float) -> int | None:
        """The number to send on."""
        channel = self._by_peer.get(peer)
        if channel is None or now >= channel.expires_at:
            return None
        channel.is_used = True
        return channel.number

    def peer_of(self, number: int) -> Address | None:
        """Known from the first request on: its answer may come after the first data."""
        channel = self._by_number.get(number)
        if channel is None:
            return None
        channel.is_used = True
        return channel.peer

    def wanted(self, peer: Address, now: float) -> Channel | None:
        """Counts a datagram to `peer` that no channel takes; the one to ask for, when it is one too many for indications."""
        channel = self._by_peer.get(peer)
        if channel is not None:
            return self._asked(channel) if channel.refresh_at <= now else None
        if self._next_number > LAST_CHANNEL or len(self._by_peer) >= MAX_CHANNELS:
            return None
        if len(self._sent) >= MAX_COUNTED:
            self._sent.clear()
        self._sent[peer] = self._sent.get(peer, 0) + 1
        if self._sent[peer] < CHANNEL_AFTER:
            return None
        del self._sent[peer]
        channel = self._by_peer[peer] = self._by_number[self._next_number] = Channel(self._next_number, peer)
        self._next_number += 1
        return channel

    def granted(self, number: int, now: float) -> None:
        channel = self._by_number.get(number)
        if channel is not None:
            channel.is_asked = False
            channel.refresh_at = now + CHANNEL_REFRESH_S
            channel.expires_at = now + CHANNEL_LIFETIME_S

    def refused(self, number: int) -> None:
        """It keeps its place, unbound: its peer is sent indications, and it is not asked for again."""
        channel = self._by_number.get(number)
        if channel is not None:
            channel.is_asked = False
            channel.refresh_at = inf
            channel.expires_at = -inf

    def ask_again(self, number: int, now: float) -> None:
        """With the same number, when there is something to send: the server may have bound it, and its answer was lost."""
        channel = self._by_number.get(number)
        if channel is not None:
            channel.is_asked = False
            channel.refresh_at = now

    def take_due(self, now: float) -> list[Channel]:
        """Those to ask for again. Those that nobody used lapse."""
        for channel in [channel for channel in self._by_peer.values() if self._is_over(channel, now)]:
            del self._by_peer[channel.peer], self._by_number[channel.number]
        due = [channel for channel in self._by_peer.values() if channel.refresh_at <= now and channel.is_used]
        return [self._asked(channel) for channel in due]

    @staticmethod
    def _asked(channel: Channel) -> Channel:
        channel.is_asked, channel.is_used, channel.refresh_at = True, False, inf
        return channel

    def _is_over(self, channel: Channel, now: float) -> bool:
        return not channel.is_asked and -inf < channel.expires_at <= now

    def next_deadline(self) -> float:
        """An unused channel that is due waits for its end; whether it is used meanwhile is looked at then."""
        return min((self._deadline(channel) for channel in self._by_peer.values()), default=inf)

    @staticmethod
    def _deadline(channel: Channel) -> float:
        if channel.is_asked:
            return inf
        if channel.refresh_at < inf and not channel.is_used:
            return channel.expires_at if channel.expires_at > -inf else inf
        return channel.refresh_at
