"""Consent to send, on the selected pair (RFC 7675), which also keeps the NATs' mappings (RFC 8445, section 11)."""

from __future__ import annotations

import random
from collections.abc import Callable

from kodectl.core.ice.checks import Peer, Role, pack_request
from kodectl.core.ice.effects import Transmit
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

    def __init__(self, pair: Pair, peer: Peer, now: float, rng: random.Random) -> None:
        self.pair = pair
        self._peer = peer
        self._rng = rng
        self._waiting: list[bytes] = []
        self.expires_at = now + LIFETIME_S
        self._next_at = now + self._pause()

    @property
    def key(self) -> bytes:
        return self._peer.key

    def request(self, role: Role, now: float, random_bytes: Callable[[int], bytes]) -> Transmit | None:
        """The next one, if it is time."""
        if now < self._next_at:
            return None
        self._next_at = now + self._pause()
        transaction_id = random_bytes(ID_SIZE)
        self._waiting = [*self._waiting[1 - MAX_WAITING :], transaction_id]
        local = self.pair.local
        packet = pack_request(transaction_id, self._peer, role, local.candidate.priority, False)
        return Transmit(local.base, packet, self.pair.remote.address)

    def is_asked(self, transaction_id: bytes) -> bool:
        return transaction_id in self._waiting

    def answered(self, sender: Address, now: float) -> None:
        """By an answer whose integrity has been found right."""
        if sender == self.pair.remote.address:
            self.expires_at = now + LIFETIME_S

    def next_deadline(self) -> float:
        return min(self._next_at, self.expires_at)

    def _pause(self) -> float:
        return INTERVAL_S * self._rng.uniform(1 - SPREAD, 1 + SPREAD)
