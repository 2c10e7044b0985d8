"""Handshakes that others have begun and not finished: who may begin one, and who has to make way. Costs no cryptography."""

from __future__ import annotations

from collections import Counter
from typing import Generic, NamedTuple, TypeVar

from kodectl.core.admission import scarce_subnet
from kodectl.core.limits import SharedBudget, TokenBucket

Name = TypeVar("Name")

HANDSHAKES_PER_S = 100.0
HANDSHAKE_BURST = 200.0
"""About 0.3 ms of CPU for one that is never finished: strangers can take a thirtieth of a core."""
NETWORK_HANDSHAKES_PER_S = 5.0
NETWORK_HANDSHAKE_BURST = 20.0
"""Of one /24 (IPv6: /64): one network that connects without end leaves nine tenths to all others. Private and loopback ranges
are exempt."""
MAX_PENDING_INBOUND = 32
"""Each lasts 5 s at most."""
MAX_PENDING_PER_SUBNET = 8
"""Of them from one /24: one network cannot hold all the places."""
MAKES_WAY_AFTER_S = 0.3
"""Whoever was let in has sent all that is asked of him after one round trip. Silence from five networks would hold all the
places for good; so the one who has been there for longest gives up his, but not before others had a chance."""


class Entry(NamedTuple, Generic[Name]):
    enters: bool
    makes_way: Name | None = None
    """Whose place it was: he is to be sent away."""


class Waiting(NamedTuple):
    subnet: str | None
    since: float
    stays: bool


class Arrivals(Generic[Name]):
    """By whatever names the caller has for connections."""

    def __init__(self) -> None:
        self._waiting: dict[Name, Waiting] = {}
        self._subnets: Counter[str | None] = Counter()
        total = TokenBucket(HANDSHAKES_PER_S, HANDSHAKE_BURST)
        self._budget = SharedBudget(total, NETWORK_HANDSHAKES_PER_S, NETWORK_HANDSHAKE_BURST)

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, name: Name, ip: str, now: float, *, stays: bool = False) -> Entry[Name]:
        """`stays`: makes way for nobody, since more is known of him than his address."""
        subnet = scarce_subnet(ip)
        if subnet is not None and self._subnets[subnet] >= MAX_PENDING_PER_SUBNET:
            return Entry(False)
        makes_way = None
        if len(self._waiting) >= MAX_PENDING_INBOUND:
            makes_way = self._longest_there(now)
            if makes_way is None:
                return Entry(False)
        if not self._budget.take(subnet, now):
            return Entry(False)
        if makes_way is not None:
            self.leave(makes_way)
        self._waiting[name] = Waiting(subnet, now, stays)
        self._subnets[subnet] += 1
        return Entry(True, makes_way)

    def _longest_there(self, now: float) -> Name | None:
        oldest = next((name for name, waiting in self._waiting.items() if not waiting.stays), None)
        if oldest is None or now - self._waiting[oldest].since < MAKES_WAY_AFTER_S:
            return None
        return oldest

    def leave(self, name: Name) -> None:
        """It has finished, or has gone; without effect on one that had to make way."""
        waiting = self._waiting.pop(name, None)
        if waiting is not None:
            self._subnets[waiting.subnet] -= 1
            if not self._subnets[waiting.subnet]:
                del self._subnets[waiting.subnet]
