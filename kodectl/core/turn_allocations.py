"""Allocations: what a client holds on a relay, for how long, and how many of them there may be (RFC 8656, section 3)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

from kodectl.core.limits import TokenBucket
from kodectl.core.table import subnet_of
from kodectl.core.turn_access import Client, Refused
from kodectl.core.turn_reach import Reach
from kodectl.wire.stun_attributes import Address

DEFAULT_LIFETIME_S = 600
MAX_LIFETIME_S = 3600
"""RFC 8656, section 7.2. A client that vanished holds its port no longer."""
PERMISSION_LIFETIME_S = 300.0
CHANNEL_LIFETIME_S = 600.0
"""Sections 9 and 12."""
MAX_PERMISSIONS = 256
"""Of an allocation: more than ICE has remote candidates; 30 kB."""
MAX_CHANNELS = 256
BURST_S = 1.0
"""What may pass at once, in seconds of the rate: a video frame, a congestion window."""

SHARE = 1 / 32
"""Of the rates of all, what one network has for itself: 1 Mbit/s of those of a node, a hundred times what a peer needs."""
SPARE = 5 / 8
"""Of the same, what is there for networks that want more than that: one alone can use two thirds, and eight that want everything
leave the others theirs."""


@dataclass(frozen=True)
class RelayLimits:
    """Of one relay. The rates count what leaves it, in both directions, without headers."""

    allocations: int = 1000
    """Altogether: each is a socket and a port."""
    user_allocations: int = 100
    """Of one account: a user name, which may be many people's, or a node."""
    network_allocations: int = 100
    """From one network (/24, /64), or one private address: stolen credentials, and one house that tries everything."""
    bytes_per_s: int = 2_000_000
    packets_per_s: int = 4_000
    """Of one allocation: a video call in the best quality, several times over."""
    total_bytes_per_s: int = 100_000_000
    total_packets_per_s: int = 40_000
    """Of all: a third of what one core relays, so that the rest of the process goes on."""


class Throughput:
    """Bytes and packets per second."""

    __slots__ = ("_bytes", "_packets")

    def __init__(self, bytes_per_s: float, packets_per_s: float) -> None:
        self._bytes = TokenBucket(bytes_per_s, max(bytes_per_s * BURST_S, 0xFFFF))
        self._packets = TokenBucket(packets_per_s, max(packets_per_s * BURST_S, 1.0))

    def lets(self, size: int, now: float) -> bool:
        return self._packets.take(now) and self._bytes.take(now, size)


class SharedThroughput:
    """Of all allocations: a few clients that send without end do not push out the others."""

    def __init__(self, limits: RelayLimits) -> None:
        self._rates = limits.total_bytes_per_s, limits.total_packets_per_s
        self._total = self._part(1.0)
        self._spare = self._part(SPARE)

    def share(self) -> Throughput:
        """For one network."""
        return self._part(SHARE)

    def lets(self, share: Throughput, size: int, now: float) -> bool:
        return (share.lets(size, now) or self._spare.lets(size, now)) and self._total.lets(size, now)

    def _part(self, part: float) -> Throughput:
        return Throughput(self._rates[0] * part, self._rates[1] * part)


class Relay(NamedTuple):
    """A relayed transport address. `socket` is the owner's; nothing is done with it here."""

    address: Address
    """What peers see, and clients are told."""
    socket: Any


class Channel:
    __slots__ = ("expires_at", "number", "peer", "reach")

    def __init__(self, number: int, peer: Address, reach: Reach) -> None:
        self.number = number
        self.peer = peer
        self.reach = reach
        self.expires_at = -inf


class Allocation:
    """A client's relayed address, who may send to it, and the channels. Permissions and channels end by the clock: what
    has ended makes room when room is needed."""

    __slots__ = (
        "_permitted_until",
        "account",
        "channel_to",
        "channels",
        "client",
        "expires_at",
        "family",
        "network",
        "relay",
        "share",
        "throughput",
        "username",
    )

    def __init__(
        self,
        client: Client,
        username: str,
        account: str,
        family: int,
        relay: Relay,
        limits: RelayLimits,
        share: Throughput,
    ) -> None:
        """`share`: of its network, see `SharedThroughput`."""
        self.client = client
        self.username = username
        self.account = account
        self.family = family
        self.relay = relay
        self.network = network_of(client[0])
        self.expires_at = inf
        self.throughput = Throughput(limits.bytes_per_s, limits.packets_per_s)
        self.share = share
        self.channels: dict[int, Channel] = {}
        self.channel_to: dict[Address, Channel] = {}
        self._permitted_until: dict[str, float] = {}

    def permits(self, ip: str, now: float) -> bool:
        return self._permitted_until.get(ip, -inf) > now

    def permit(self, ips: set[str], now: float) -> None:
        """All of them or, raising Refused, none."""
        until = self._permitted_until
        if len(until.keys() | ips) > MAX_PERMISSIONS:
            for ip in [ip for ip, ends in until.items() if ends <= now]:
                del until[ip]
            if len(until.keys() | ips) > MAX_PERMISSIONS:
                raise Refused(508, "Insufficient Capacity")
        for ip in ips:
            until[ip] = now + PERMISSION_LIFETIME_S

    def bind(self, number: int, peer: Address, reach: Reach, now: float) -> None:
        """Binds the channel, or keeps it bound, and permits the peer. Raises Refused."""
        self._end_channels(now)
        channel = self.channels.get(number)
        if channel is not self.channel_to.get(peer):
            raise Refused(400, "Bad Request")  # the number is another peer's, or the peer has another number
        if channel is None and len(self.channels) >= MAX_CHANNELS:
            raise Refused(508, "Insufficient Capacity")
        self.permit({peer[0]}, now)
        if channel is None:
            channel = self.channels[number] = self.channel_to[peer] = Channel(number, peer, reach)
        channel.expires_at = now + CHANNEL_LIFETIME_S

    def _end_channels(self, now: float) -> None:
        for channel in [channel for channel in self.channels.values() if channel.expires_at <= now]:
            del self.channels[channel.number], self.channel_to[channel.peer]


class Allocations:
    """The table, by client, held to the quotas."""

    def __init__(self, limits: RelayLimits) -> None:
        self._limits = limits
        self._of_client: dict[Client, Allocation] = {}
        self._at: dict[Address, Allocation] = {}
        self._of_account: Counter[str] = Counter()
        self._of_network: Counter[str] = Counter()
        self._shares: dict[str, Throughput] = {}
        self._total = SharedThroughput(limits)
        self.total_lets = self._total.lets
        self.get = self._of_client.get
        self.at = self._at.get

    def __len__(self) -> int:
        return len(self._of_client)

    def check_quota(self, client: Client, account: str) -> None:
        """Raises Refused when there is no room for another one."""
        limits, network = self._limits, network_of(client[0])
        if self._of_account[account] >= limits.user_allocations:
            raise Refused(486, "Allocation Quota Reached")
        if self._of_network[network] >= limits.network_allocations:
            raise Refused(486, "Allocation Quota Reached")
        if len(self) >= limits.allocations:
            raise Refused(508, "Insufficient Capacity")

    def share_of(self, client: Client) -> Throughput:
        """For an allocation that is about to be added."""
        return self._shares.get(network_of(client[0])) or self._total.share()

    def add(self, allocation: Allocation) -> None:
        self._shares[allocation.network] = allocation.share
        self._of_client[allocation.client] = allocation
        self._at[allocation.relay.address] = allocation
        self._of_account[allocation.account] += 1
        self._of_network[allocation.network] += 1

    def remove(self, allocation: Allocation) -> None:
        del self._of_client[allocation.client]
        del self._at[allocation.relay.address]
        _uncount(self._of_account, allocation.account)
        _uncount(self._of_network, allocation.network)
        if allocation.network not in self._of_network:
            del self._shares[allocation.network]

    def is_other_relay(self, peer: Address, allocation: Allocation) -> bool:
        """Whether `peer` is what another client was given here."""
        return self._at.get(peer, allocation) is not allocation

    def expired(self, now: float) -> list[Allocation]:
        return [allocation for allocation in self._of_client.values() if allocation.expires_at <= now]

    def next_deadline(self) -> float:
        return min((allocation.expires_at for allocation in self._of_client.values()), default=inf)


def network_of(ip: str) -> str:
    return subnet_of(ip) or ip


def _uncount(counter: Counter[str], name: str) -> None:
    counter[name] -= 1
    if counter[name] <= 0:
        del counter[name]
