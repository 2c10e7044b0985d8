"""Consent to send, on the selected pair (RFC 7675), which also keeps the NATs' mappings (RFC 8445, section 11)."""

from __future__ import annotations

import random
from collections.abc import Callable

from kodectl.core.ice.checks import Peer, Role, pack_request
from kodectl.core.ice.effects import Transmit
from kodectl.core.ice.local import Base
from kodectl.core.ice.pairs import Pair
from kodectl.wire.candidates import Address
from kodectl.wire.stun import ID_SIZE

INTERVAL_S = 5.0
"""Between requests, each time varied by a fifth (RFC 7675, section 5.1)."""
SPREAD = 0.2
LIFETIME_S = 30.0
"""Since the last answer."""
MAX_WAITING = 8
"""Requests whose answers still count: more do not fit into the lifetime."""


class Consent:
    """Of one pair; requests are not repeated, each one is new."""

    def __init__(
        self, pair: Pair, peer: Peer, now: float, rng: random.Random, random_bytes: Callable[[int], bytes]
    ) -> None:
        self.path = pair
        self._peer = peer
        self._rng = rng
        self._random_bytes = random_bytes
        self._waiting: list[bytes] = []
        self._expires_at = now + LIFETIME_S
        self._next_at = now + self._pause()

    def find(self, base: Base, remote: Address) -> Pair | None:
        return self.path if self.path.key == (base, remote) else None

    def requests(self, role: Role, now: float) -> list[Transmit]:
        """The next one, if it is time."""
        if now < self._next_at:
            return []
        self._next_at = now + self._pause()
        transaction_id = self._random_bytes(ID_SIZE)
        self._waiting = [*self._waiting[1 - MAX_WAITING :], transaction_id]
        local = self.path.local
        packet = pack_request(transaction_id, self._peer, role, local.candidate.priority, False)
        return [Transmit(local.base, packet, self.path.remote.address)]

    def key_of(self, transaction_id: bytes) -> bytes | None:
        """What proves an answer to one of the requests; None for any other."""
        return self._peer.key if transaction_id in self._waiting else None

    def answered(self, transaction_id: bytes, base: Base, sender: Address, now: float) -> None:
        """By an answer whose integrity has been found right."""
        if transaction_id in self._waiting and self.path.key == (base, sender):
            self._expires_at = now + LIFETIME_S

    def has_expired(self, now: float) -> bool:
        return now >= self._expires_at

    def next_deadline(self) -> float:
        return min(self._next_at, self._expires_at)

    def _pause(self) -> float:
        return INTERVAL_S * self._rng.uniform(1 - SPREAD, 1 + SPREAD)
