"""Identities (docs/protocol.md, "Identity")."""

from __future__ import annotations

import hashlib
import itertools

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_NUMBERS = itertools.count(1)


class Identity:
    def __init__(self, key: Ed25519PrivateKey | None = None) -> None:
        self.key = key or Ed25519PrivateKey.generate()
        self.public = self.key.public_key().public_bytes_raw()
        self.id = node_id(self.public)

    def sign(self, statement: bytes) -> bytes:
        return self.key.sign(statement)


def node_id(public: bytes) -> bytes:
    return hashlib.sha256(public).digest()


def is_signed(public: bytes, signature: bytes, statement: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, statement)
    except InvalidSignature:
        return False
    return True


def new_key() -> bytes:
    """32 bytes that no other case uses: a place for values, an id, a session."""
    return hashlib.sha256(b"case %d" % next(_NUMBERS)).digest()


def changed(packed: bytes, position: int, value: int | None = None) -> bytes:
    """With one byte set, or its lowest bit turned."""
    position %= len(packed)
    new = packed[position] ^ 1 if value is None else value
    return packed[:position] + bytes((new,)) + packed[position + 1 :]
