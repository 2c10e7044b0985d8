"""The key of a node that many handshakes use: signed once, changed daily."""

from __future__ import annotations

from collections.abc import Callable

from kodectl.core.identity import Identity
from kodectl.wire import packets
from kodectl.wire.packets import Challenge, Handshake

PREKEY_ROTATION_S = 24 * 3600.0
PREKEY_VALIDITY_S = 72 * 3600
"""Three rotations: clocks may differ by a day or two before a node refuses another's key."""
OVERLAP_S = 20.0
"""After a rotation, handshakes with the key before are still accepted for as long as a cookie is good."""


class Prekey:
    """An X25519 key pair and its signed statement."""

    def __init__(self, identity: Identity, secret: bytes, now: float, expiry: int) -> None:
        self.private, self.public = identity.suite.exchange_keypair(secret)
        self.made = now
        self._identity = identity
        self._expiry = expiry
        self._signed: tuple[int, int, bytes] | None = None

    def is_current(self, now: float, unix_time: float) -> bool:
        """Young enough, and its expiry means what it meant: a clock set by more than a day would have others refuse it."""
        left_s = self._expiry - unix_time
        is_meant = PREKEY_ROTATION_S <= left_s <= PREKEY_VALIDITY_S + PREKEY_ROTATION_S
        return now - self.made <= PREKEY_ROTATION_S and is_meant

    def challenge(self, flags: int, tcp_port: int, nonce: bytes, cookie: bytes) -> Challenge:
        """Signs again only when flags or port have changed since."""
        if self._signed is None or self._signed[:2] != (flags, tcp_port):
            statement = packets.prekey_statement(flags, self.public, self._expiry, tcp_port)
            self._signed = (flags, tcp_port, self._identity.sign(statement))
        public_key = self._identity.public_key
        return Challenge(flags, nonce, cookie, public_key, self.public, self._expiry, tcp_port, self._signed[2])


class Prekeys:
    """The current prekey, and for a moment the one before it."""

    def __init__(self, identity: Identity, random_bytes: Callable[[int], bytes]) -> None:
        self._identity = identity
        self._random = random_bytes
        self._kept: list[Prekey] = []

    def current(self, now: float, unix_time: float) -> Prekey:
        if not self._kept or not self._kept[-1].is_current(now, unix_time):
            newest = Prekey(self._identity, self._random(32), now, int(unix_time) + PREKEY_VALIDITY_S)
            self._kept = [*self._kept[-1:], newest]
        return self._kept[-1]

    def signed_for(self, handshake: Handshake, packet: bytes, now: float, unix_time: float) -> Prekey | None:
        """The prekey that the signature of a HANDSHAKE names; None when it is no signature of its sender's."""
        newest = self.current(now, unix_time)
        for prekey in reversed(self._kept):
            if prekey is not newest and now - newest.made > OVERLAP_S:
                return None
            statement = packets.handshake_statement(packet, self._identity.public_key, prekey.public)
            if self._identity.suite.verify(handshake.public_key, statement, handshake.signature):
                return prekey
        return None
