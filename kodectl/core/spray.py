"""Birthday spray: a way between a NAT that draws a port for every destination and one that lets only known ports in.

    many sockets   the symmetric side sends from 256 sockets to the one address of the other: 256 unknown outer ports,
                   each open to that address
    many ports     the other side sends from its one socket to port after port of the symmetric side's address: each opens
                   its own filter

Wherever a port that was tried is one that was opened, the next packet of either side gets through. After each side has sent n
packets, n <= 256, that has happened with a probability of 1 - exp(-n * n / 64512), whoever began first: 50 % after 211
packets; from then on the pairs grow by 256 with each port (`chance`).

Every packet is a connectivity check of the ICE session that it is to help (RFC 8445, section 7.1), so a hit proves itself
to both sides, and nobody else can bring one about. The agent knows nothing of these checks until one hits: then
the socket that was hit becomes a base of its own, and on the other side the peer's check from the port that was hit
makes a peer-reflexive candidate, as any check from an unknown address does.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from itertools import cycle, islice
from typing import NamedTuple

from kodectl.core.ice.checks import Credentials, Peer, Role, pack_request
from kodectl.core.ice.local import MAX_LOCAL_PREFERENCE, priority_of
from kodectl.core.ice.requests import Requested, read_request
from kodectl.errors import LocalMisuse, WireError
from kodectl.wire.candidates import Address, CandidateType
from kodectl.wire.stun import ID_SIZE, Attribute, MessageClass, Method, decode, verifies

SOCKETS = 256
"""As many mappings as a home router spares for one host, and descriptors this process."""
LOWEST_PORT, HIGHEST_PORT = 1_024, 65_535
"""What NATs draw from (RFC 4787, REQ-3)."""
PORTS = HIGHEST_PORT - LOWEST_PORT + 1
PACKET_EVERY_S = 0.01
"""100 a second, 13 kB/s with headers: no line notices, no flood protection of a router either."""
MAX_PACKETS = 2_100
"""21 s. All but 1 of 3,000 sprays have hit by then; two NATs that have not are left to their relay."""
LIMIT_S = 35.0
"""Whatever held the packets up: the first mappings are about to be forgotten."""
MAX_AT_ONCE = 4
"""Packets that a timer which came late may make up for."""
PREFERENCE = MAX_LOCAL_PREFERENCE // 2
PRIORITY = priority_of(CandidateType.PEER_REFLEXIVE, PREFERENCE)
"""Of the candidate that a hit makes: below those of the socket that everything else shares."""


class Terms(NamedTuple):
    """Of the ICE session: what its checks carry, and are known by."""

    ours: Credentials
    theirs: Credentials
    role: Role


class Pace(NamedTuple):
    every_s: float = PACKET_EVERY_S
    packets: int = MAX_PACKETS


FULL_PACE = Pace()


class Aim(NamedTuple):
    """`socket`: which of this side's; there is only number 0 where many ports are tried."""

    socket: int
    address: Address


class Shot(NamedTuple):
    aim: Aim
    packet: bytes


class Hit(Enum):
    """What the peer has got through with."""

    CHECK = "a check of its own"
    ANSWER = "its answer to a check of this spray"


def many_sockets(peer: Address, sockets: int = SOCKETS) -> Iterator[Aim]:
    """Each in turn, again and again: its first packet opens a mapping, the later ones find out whether the peer has tried
    its port meanwhile, and make up for losses."""
    return (Aim(number, peer) for number in cycle(range(sockets)))


def many_ports(peer_ip: str, rng: random.Random) -> Iterator[Aim]:
    """No port twice: its filter stays open."""
    return (Aim(0, (peer_ip, port)) for port in rng.sample(range(LOWEST_PORT, HIGHEST_PORT + 1), MAX_PACKETS))


class Spray:
    """What is sent when, and what proves a hit. Nothing that arrives raises anything.

    `is_verified`: whether the peer has proved to be at `peer_ip`, by something other than its word. What is sent here could
    be a flood for somebody else otherwise: LocalMisuse."""

    def __init__(
        self,
        terms: Terms,
        aims: Iterable[Aim],
        random_bytes: Callable[[int], bytes],
        now: float,
        *,
        is_verified: bool,
        pace: Pace = FULL_PACE,
    ) -> None:
        if not is_verified:
            raise LocalMisuse("nothing is sprayed to an address that nobody has verified")
        self._ours = terms.ours
        self._peer = Peer.of(terms.theirs, terms.ours)
        self._role = terms.role
        self._aims = islice(aims, min(pace.packets, MAX_PACKETS))
        self._random_bytes = random_bytes
        self._every_s = pace.every_s
        self._next_at: float | None = now
        self._ends_at = now + LIMIT_S
        self._ids: dict[Aim, bytes] = {}
        self._asked: dict[bytes, Aim] = {}
        self._ips: set[str] = set()
        self.sent = 0

    def due(self, now: float) -> list[Shot]:
        """What is to be sent now."""
        shots: list[Shot] = []
        while self._next_at is not None and self._next_at <= now and len(shots) < MAX_AT_ONCE:
            aim = next(self._aims, None) if now < self._ends_at else None
            if aim is None:
                self.end()
                break
            shots.append(Shot(aim, self._packet(aim)))
            self._next_at = max(self._next_at, now - MAX_AT_ONCE * self._every_s) + self._every_s
        self.sent += len(shots)
        return shots

    def next_deadline(self) -> float | None:
        """None: nothing more is sent. What was sent may still hit."""
        return self._next_at

    def end(self) -> None:
        self._next_at = None

    def hit(self, socket: int, data: bytes, sender: Address) -> Hit | None:
        """What the datagram proves that came to a socket of the spray; None for nothing. From where it aims at, that is: the
        peer's checks come by its relay too, which is no hit."""
        if sender[0] not in self._ips:
            return None
        try:
            message = decode(data)
        except WireError:
            return None
        if message.method != Method.BINDING or message.get(Attribute.FINGERPRINT) is None:
            return None
        if message.kind is MessageClass.REQUEST:
            return Hit.CHECK if isinstance(read_request(data, message, self._ours), Requested) else None
        is_answer = message.kind is MessageClass.SUCCESS and self._asked.get(message.transaction_id) == Aim(
            socket, sender
        )
        return Hit.ANSWER if is_answer and verifies(data, self._peer.key) else None

    def _packet(self, aim: Aim) -> bytes:
        """A packet that is repeated is the same request (RFC 8489, section 6.2.1)."""
        transaction_id = self._ids.get(aim)
        if transaction_id is None:
            transaction_id = self._ids[aim] = self._random_bytes(ID_SIZE)
            self._asked[transaction_id] = aim
            self._ips.add(aim.address[0])
        return pack_request(transaction_id, self._peer, self._role, PRIORITY, nominates=False)


def chance(elapsed_s: float, sockets: int = SOCKETS) -> float:
    """The share of sprays that have hit, after both sides have been sending for so long without any loss."""
    packets = min(MAX_PACKETS, max(0, math.floor(elapsed_s / PACKET_EVERY_S) + 1))
    pairs = min(packets, sockets) * packets
    return 1.0 - math.exp(-pairs / PORTS)
