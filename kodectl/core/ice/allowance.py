"""How much a node lets its peers have it send to addresses that nobody has verified: what a peer names as its own may be
somebody else's, whom a hundred candidates in each of many conversations would flood.

An answer verifies an address (it has the id of the check, which nobody else has seen), a request does not: its sender can be
forged by a peer that has the passwords."""

from __future__ import annotations

from kodectl.core.limits import SharedBudget, TokenBucket
from kodectl.core.table import subnet_of

CHECKS_PER_S, CHECK_BURST = 5.0, 60.0
"""Of all sessions together, at one /24 or /64, or one private address. A connection that works takes five of them or so, one
that does not twenty; at 150 bytes each the rate is that of a slow modem, and stays so whoever asks."""
ALL_CHECKS_PER_S, ALL_CHECK_BURST = 300.0, 1_000.0
"""At all of them."""


class Allowance:
    """What is not allowed is as good as lost on the way: the check is repeated when its time comes."""

    def __init__(self) -> None:
        self._checks = SharedBudget(TokenBucket(ALL_CHECKS_PER_S, ALL_CHECK_BURST), CHECKS_PER_S, CHECK_BURST)

    def may_check(self, ip: str, now: float) -> bool:
        """Takes one of those that are left, if so."""
        return self._checks.take(subnet_of(ip) or ip, now)
