"""Cryptography for simulations: the sizes and failures of the real suite at a few microseconds.

**Forgeable by anyone.** A signature is a hash under the public key, a key agreement is Diffie-Hellman in a group of 61
bits. What the real suite refuses (a changed message, signature or key) this one refuses too, so protocols fail in the
same places; but a simulated attacker who wants to forge has to be refused by other means: give that world the real
suite.
"""

from __future__ import annotations

import hashlib
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kodectl.errors import WireError
from kodectl.wire.suite import KEY_SIZE, SIGNATURE_SIZE, Aead, kept_cipher

PRIME = 2**61 - 1
GENERATOR = 37
"""Generates the whole group."""

EXPONENT_SIZE = 4
"""Bytes of the private exponent: short, since raising to it is what costs."""

VALUE_SIZE = 8
CHECK_SIZE = KEY_SIZE - VALUE_SIZE
SMALL_ORDER = (0, 1, PRIME - 1)


class SimSuite:
    """See `wire.suite.Suite`."""

    def public_key(self, seed: bytes) -> bytes:
        return hashlib.blake2b(seed, digest_size=KEY_SIZE, person=b"sim identity").digest()

    def sign(self, seed: bytes, message: bytes) -> bytes:
        return _signature(self.public_key(seed), message)

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        return len(public_key) == KEY_SIZE and signature == _signature(public_key, message)

    def exchange_keypair(self, secret: bytes) -> tuple[Any, bytes]:
        digest = hashlib.blake2b(secret, digest_size=EXPONENT_SIZE, person=b"sim exchange").digest()
        exponent = int.from_bytes(digest, "big") | 2  # never 0 or 1, whose powers are of small order
        value = pow(GENERATOR, exponent, PRIME).to_bytes(VALUE_SIZE, "big")
        return exponent, value + _check(value)

    def exchange(self, private: Any, public_key: bytes) -> bytes:
        value = public_key[:VALUE_SIZE]
        number = int.from_bytes(value, "big") % PRIME
        if len(public_key) != KEY_SIZE or number in SMALL_ORDER:
            raise WireError("key agreement: public key of small order")
        shared = pow(number, private, PRIME).to_bytes(VALUE_SIZE, "big")
        if public_key[VALUE_SIZE:] != _check(value):
            # A changed key is another key: the real agreement would go through, to a secret the other side lacks.
            shared += public_key
        return hashlib.blake2b(shared, digest_size=KEY_SIZE, person=b"sim secret").digest()

    def aead(self, key: bytes) -> Aead:
        return AESGCM(key)  # real: it costs half a microsecond

    def kept_aead(self, key: bytes) -> Aead:
        return kept_cipher(key)


def _signature(public_key: bytes, message: bytes) -> bytes:
    return hashlib.blake2b(message, key=public_key, digest_size=SIGNATURE_SIZE, person=b"sim signature").digest()


def _check(value: bytes) -> bytes:
    """What fills a public key up to its size, so that a change anywhere in it is seen."""
    return hashlib.blake2b(value, digest_size=CHECK_SIZE, person=b"sim public key").digest()
