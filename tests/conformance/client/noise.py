"""Noise_XX_25519_AESGCM_SHA256 (noiseprotocol.org, revision 34), both sides, as short as the specification's pseudocode."""

from __future__ import annotations

import hashlib

from conformance.client.discovery import hkdf
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PROTOCOL = b"Noise_XX_25519_AESGCM_SHA256"
PATTERN = (("e",), ("e", "ee", "s", "es"), ("s", "se"))
KEY_SIZE = 32
TAG_SIZE = 16


class Cipher:
    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)
        self._counter = 0

    def encrypt(self, plaintext: bytes, associated: bytes = b"") -> bytes:
        return self._aead.encrypt(self._nonce(), plaintext, associated)

    def decrypt(self, sealed: bytes, associated: bytes = b"") -> bytes:
        return self._aead.decrypt(self._nonce(), sealed, associated)

    def _nonce(self) -> bytes:
        self._counter += 1
        return (self._counter - 1).to_bytes(12, "big")


class Handshake:
    """`write` and `read` in turn; then `split`. `ephemeral_public`: sent in the place of the true one."""

    def __init__(
        self, initiator: bool, prologue: bytes, protocol: bytes = PROTOCOL, ephemeral_public: bytes = b""
    ) -> None:
        self.hash = self._chaining_key = protocol.ljust(32, b"\0") if len(protocol) <= 32 else _sha256(protocol)
        self._mix_hash(prologue)
        self._initiator = initiator
        self.static = X25519PrivateKey.generate()
        self._ephemeral = X25519PrivateKey.generate()
        self._ephemeral_public = ephemeral_public or public_of(self._ephemeral)
        self.remote_static = b""
        self.remote_ephemeral = b""
        self._cipher: Cipher | None = None
        self._step = 0

    @property
    def static_public(self) -> bytes:
        return public_of(self.static)

    def write(self, payload: bytes = b"") -> bytes:
        message = b""
        for token in PATTERN[self._step]:
            if token == "e":
                message += self._ephemeral_public
                self._mix_hash(self._ephemeral_public)
            elif token == "s":
                message += self._seal(self.static_public)
            else:
                self._mix_key(token)
        self._step += 1
        return message + self._seal(payload)

    def read(self, message: bytes) -> bytes:
        for token in PATTERN[self._step]:
            if token == "e":
                self.remote_ephemeral, message = message[:KEY_SIZE], message[KEY_SIZE:]
                self._mix_hash(self.remote_ephemeral)
            elif token == "s":
                size = KEY_SIZE + (TAG_SIZE if self._cipher else 0)
                self.remote_static, message = self._open(message[:size]), message[size:]
            else:
                self._mix_key(token)
        self._step += 1
        return self._open(message)

    def split(self) -> tuple[Cipher, Cipher]:
        """For sending and receiving."""
        keys = hkdf(b"", self._chaining_key, b"", 64)
        first, second = Cipher(keys[:32]), Cipher(keys[32:])
        return (first, second) if self._initiator else (second, first)

    def _mix_key(self, token: str) -> None:
        """Of `es` and `se` the first letter is the initiator's key, the second the responder's."""
        mine, others = token if self._initiator else reversed(token)
        private = self._ephemeral if mine == "e" else self.static
        public = self.remote_ephemeral if others == "e" else self.remote_static
        secret = private.exchange(X25519PublicKey.from_public_bytes(public))
        keys = hkdf(secret, self._chaining_key, b"", 64)
        self._chaining_key, self._cipher = keys[:32], Cipher(keys[32:])

    def _mix_hash(self, data: bytes) -> None:
        self.hash = _sha256(self.hash + data)

    def _seal(self, plaintext: bytes) -> bytes:
        sealed = self._cipher.encrypt(plaintext, self.hash) if self._cipher else plaintext
        self._mix_hash(sealed)
        return sealed

    def _open(self, sealed: bytes) -> bytes:
        plaintext = self._cipher.decrypt(sealed, self.hash) if self._cipher else sealed
        self._mix_hash(sealed)
        return plaintext


def public_of(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
