"""The cryptographic primitives that the protocol names, behind one small surface.

Two implementations: `RealSuite` (OpenSSL through `cryptography`; libsodium through PyNaCl for checking signatures, which is
what a node does most: 41 us where OpenSSL takes 67), and the simulator's, which keeps sizes and failures but not the cost,
so that a thousand nodes fit in seconds.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

from kodectl.errors import WireError

KEY_SIZE = 32
SIGNATURE_SIZE = 64
TAG_SIZE = 16
KEPT_CIPHERS = 128
"""Of the whole process, 350 kB: both directions of 64 peers that ask one question after the other."""


class Aead(Protocol):
    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...
    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Raises `AeadFailure`."""
        ...


AeadFailure = InvalidTag
"""What every suite's AEAD raises for data that was not sealed with its key."""


class Suite(Protocol):
    def public_key(self, seed: bytes) -> bytes:
        """The Ed25519 public key (32) of a private seed (32)."""
        ...

    def sign(self, seed: bytes, message: bytes) -> bytes: ...
    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """False for what has not the right size, too."""
        ...

    def exchange_keypair(self, secret: bytes) -> tuple[Any, bytes]:
        """An X25519 key pair from 32 random bytes: an opaque private half and the public key (32)."""
        ...

    def exchange(self, private: Any, public_key: bytes) -> bytes:
        """The shared secret (32). Raises WireError for a key of small order (RFC 7748, section 6.1)."""
        ...

    def aead(self, key: bytes) -> Aead:
        """AES-GCM with a key of 16 or 32 bytes, nonce 12, tag 16."""
        ...

    def kept_aead(self, key: bytes) -> Aead:
        """The same for who has the key and not the room for a cipher, which takes 2.7 kB: those used last are kept, as making
        one takes 1.2 us."""
        ...


class RealSuite:
    """Ed25519, X25519 and AES-GCM."""

    def public_key(self, seed: bytes) -> bytes:
        return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()

    def sign(self, seed: bytes, message: bytes) -> bytes:
        return Ed25519PrivateKey.from_private_bytes(seed).sign(message)

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        # libsodium also refuses public keys of small order, under which anybody can sign.
        if len(public_key) != KEY_SIZE or len(signature) != SIGNATURE_SIZE:
            return False
        try:
            crypto_sign_open(signature + message, public_key)
        except BadSignatureError:
            return False
        return True

    def exchange_keypair(self, secret: bytes) -> tuple[Any, bytes]:
        private = X25519PrivateKey.from_private_bytes(secret)
        return private, private.public_key().public_bytes_raw()

    def exchange(self, private: Any, public_key: bytes) -> bytes:
        try:
            return private.exchange(X25519PublicKey.from_public_bytes(public_key))
        except ValueError as error:
            raise WireError("key agreement: public key of small order") from error

    def aead(self, key: bytes) -> Aead:
        return AESGCM(key)

    def kept_aead(self, key: bytes) -> Aead:
        return kept_cipher(key)


@lru_cache(maxsize=KEPT_CIPHERS)
def kept_cipher(key: bytes) -> Aead:
    return AESGCM(key)


def node_id_of(public_key: bytes) -> bytes:
    """The node id: SHA-256 of the public key."""
    return hashlib.sha256(public_key).digest()
