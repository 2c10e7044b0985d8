"""Cryptography for simulations: the sizes and failures of the real suite at a few microseconds.

**Forgeable by anyone.** A signature is a hash under the public key, a key agreement the hash of both public keys. What the
real suite refuses (a changed message, signature or key) this one refuses too, so protocols fail in the same places; but a
simulated attacker who wants to forge has to be refused by other means: give that world the real suite.
"""

from __future__ import annotations

import hashlib
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kodectl.errors import WireError
from kodectl.wire.suite import KEY_SIZE, SIGNATURE_SIZE, Aead, kept_cipher

SMALL_ORDER = bytes(KEY_SIZE)
"""The one public key that no agreement is made with; the real suite refuses this one and some others."""


class SimSuite:
    """See `wire.suite.Suite`."""

    def public_key(self, seed: bytes) -> bytes:
        return hashlib.blake2b(seed, digest_size=KEY_SIZE, person=b"sim identity").digest()

    def sign(self, seed: bytes, message: bytes) -> bytes:
        return _signature(self.public_key(seed), message)

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        return len(public_key) == KEY_SIZE and signature == _signature(public_key, message)

    def exchange_keypair(self, secret: bytes) -> tuple[Any, bytes]:
        public = hashlib.blake2b(secret, digest_size=KEY_SIZE, person=b"sim exchange").digest()
        return public, public

    def exchange(self, private: Any, public_key: bytes) -> bytes:
        if len(public_key) != KEY_SIZE or public_key == SMALL_ORDER:
            raise WireError("key agreement: public key of small order")
        lower, higher = sorted((private, public_key))
        return hashlib.blake2b(lower + higher, digest_size=KEY_SIZE, person=b"sim secret").digest()

    def aead(self, key: bytes) -> Aead:
        return AESGCM(key)  # real: it costs half a microsecond

    def kept_aead(self, key: bytes) -> Aead:
        return kept_cipher(key)


def _signature(public_key: bytes, message: bytes) -> bytes:
    return hashlib.blake2b(message, key=public_key, digest_size=SIGNATURE_SIZE, person=b"sim signature").digest()
