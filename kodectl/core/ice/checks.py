"""Connectivity checks as packets, and the requests under way (RFC 8445, sections 7.1, 7.2 and 14.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from kodectl.core.ice.local import Base
from kodectl.core.ice.pairs import Pair
from kodectl.wire.candidates import Address
from kodectl.wire.stun import ID_SIZE, Attribute, Message, MessageClass, Method, encode
from kodectl.wire.stun_credentials import short_term_key

RTO_S = 0.5
"""RFC 8445, section 14.3: the least."""
MAX_SENDINGS = 7
LAST_WAIT = 16
"""Rc and Rm of RFC 8489, section 6.2.1: 39.5 s altogether, with the least RTO."""
MAX_CHECKS = 512
"""Requests whose answers are waited for, the given up ones too; the oldest goes first."""


class Credentials(NamedTuple):
    ufrag: str
    password: str

    @property
    def key(self) -> bytes:
        return short_term_key(self.password)


class Peer(NamedTuple):
    """What our requests to a peer carry: its name before ours, and its key."""

    username: str
    key: bytes

    @classmethod
    def of(cls, remote: Credentials, local: Credentials) -> Peer:
        return cls(f"{remote.ufrag}:{local.ufrag}", remote.key)


class Role(NamedTuple):
    is_controlling: bool
    tie_breaker: int

    @property
    def attribute(self) -> tuple[Attribute, int]:
        kind = Attribute.ICE_CONTROLLING if self.is_controlling else Attribute.ICE_CONTROLLED
        return kind, self.tie_breaker


def pack_request(transaction_id: bytes, peer: Peer, role: Role, priority: int, nominates: bool) -> bytes:
    attributes: list[tuple[int, Any]] = [
        (Attribute.USERNAME, peer.username),
        (Attribute.PRIORITY, priority),
        role.attribute,
    ]
    if nominates:
        attributes.append((Attribute.USE_CANDIDATE, True))
    message = Message(MessageClass.REQUEST, Method.BINDING, transaction_id, tuple(attributes))
    return encode(message, key=peer.key, fingerprint=True)


class Check:
    """One request, and its repetitions. `rto_s` doubles from sending to sending."""

    __slots__ = (
        "address",
        "base",
        "ends_at",
        "is_given_up",
        "key",
        "next_at",
        "nominates",
        "packet",
        "pair",
        "priority",
        "role",
        "rto_s",
        "sendings",
        "sent_at",
        "transaction_id",
    )

    def __init__(
        self, transaction_id: bytes, pair: Pair, peer: Peer, role: Role, priority: int, nominates: bool, rto_s: float
    ) -> None:
        self.transaction_id = transaction_id
        self.pair = pair
        self.base: Base = pair.local.base
        self.address: Address = pair.remote.address
        self.key = peer.key
        self.role = role
        self.priority = priority
        self.nominates = nominates
        self.packet = pack_request(transaction_id, peer, role, priority, nominates)
        self.rto_s = rto_s
        self.sendings = 0
        self.sent_at = 0.0
        self.next_at = 0.0
        """When it is repeated, or has failed."""
        self.ends_at = 0.0
        self.is_given_up = False
        """Not repeated, and no failure without an answer; an answer counts all the same (section 7.3.1.4)."""

    def sent(self, now: float) -> None:
        if not self.sendings:
            self.ends_at = now + self.rto_s * (2 ** (MAX_SENDINGS - 1) - 1 + LAST_WAIT)
        self.next_at = min(self.ends_at, now + self.rto_s * 2**self.sendings)
        self.sendings += 1
        self.sent_at = now

    @property
    def due_at(self) -> float:
        return self.ends_at if self.is_given_up else self.next_at


class Checks:
    """Those under way, by transaction id, oldest first."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._waiting: dict[bytes, Check] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, pair: Pair, peer: Peer, role: Role, priority: int, nominates: bool, rto_s: float) -> Check:
        while len(self._waiting) >= MAX_CHECKS:
            self.end(next(iter(self._waiting.values())))
        check = Check(self._random_bytes(ID_SIZE), pair, peer, role, priority, nominates, rto_s)
        self._waiting[check.transaction_id] = check
        return check

    def find(self, transaction_id: bytes) -> Check | None:
        return self._waiting.get(transaction_id)

    def end(self, check: Check) -> None:
        self._waiting.pop(check.transaction_id, None)
        if check.pair.check is check:
            check.pair.check = None

    def give_up_all(self) -> None:
        for check in self._waiting.values():
            check.is_given_up = True

    def clear(self) -> None:
        for check in list(self._waiting.values()):
            self.end(check)

    def forget(self, base: Base) -> None:
        for check in [check for check in self._waiting.values() if check.base is base]:
            self.end(check)

    def due(self, now: float) -> list[Check]:
        return [check for check in self._waiting.values() if check.due_at <= now]

    def next_deadline(self) -> float | None:
        return min((check.due_at for check in self._waiting.values()), default=None)
