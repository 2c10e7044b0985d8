"""Discovery once more, from docs/protocol.md alone: nothing here comes from kodectl.

Both ends: `Caller` begins a handshake, `Callee` answers one. Keys and nonces are given, so that bytes can be published.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def key_material(secret: bytes, cookie: bytes, nonce: bytes, id_a: bytes, id_b: bytes) -> bytes:
    prk = hmac.new(cookie + nonce, secret, "sha256").digest()
    info = b"kodechain discovery session v1" + id_a + id_b
    t1 = hmac.new(prk, info + b"\1", "sha256").digest()
    t2 = hmac.new(prk, t1 + info + b"\2", "sha256").digest()
    t3 = hmac.new(prk, t2 + info + b"\3", "sha256").digest()
    return (t1 + t2 + t3)[:72]


class Node:
    def __init__(self, seed: bytes) -> None:
        self.key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self.key.public_key().public_bytes_raw()
        self.id = hashlib.sha256(self.public).digest()
        self.okm = b""
        self.sent = 0


class Caller(Node):
    """A of the drawing."""

    def __init__(self, seed: bytes, ephemeral: bytes, nonce: bytes) -> None:
        super().__init__(seed)
        self.ephemeral = X25519PrivateKey.from_private_bytes(ephemeral)
        self.nonce = nonce

    def hail(self, recipient: bytes) -> bytes:
        return bytes.fromhex("08010000") + recipient + self.id + self.nonce + bytes(100)

    def check_challenge(self, challenge: bytes, callee_id: bytes, unix_time: float) -> None:
        assert len(challenge) >= 184
        assert challenge[:2] == b"\x09\x01"
        assert challenge[4:20] == self.nonce
        assert hashlib.sha256(challenge[44:76]).digest() == callee_id
        assert int.from_bytes(challenge[108:116], "big") > unix_time
        signed = b"kodechain discovery prekey v1" + challenge[2:3] + challenge[76:120]
        Ed25519PublicKey.from_public_bytes(challenge[44:76]).verify(challenge[120:184], signed)

    def handshake(self, challenge: bytes, request: bytes, tcp_port: int, flags: int = 0) -> bytes:
        cookie, public_b, prekey = challenge[20:44], challenge[44:76], challenge[76:108]
        head = bytes((0x0A, 1, flags, 0)) + self.nonce + cookie + self.public
        head += self.ephemeral.public_key().public_bytes_raw() + tcp_port.to_bytes(2, "big") + bytes(2)
        head += self.key.sign(b"kodechain discovery handshake v1" + head + public_b + prekey)
        secret = self.ephemeral.exchange(X25519PublicKey.from_public_bytes(prekey))
        self.okm = key_material(secret, cookie, self.nonce, self.id, hashlib.sha256(public_b).digest())
        self.sent = 1
        return head + AESGCM(self.okm[0:16]).encrypt(self.okm[32:36] + bytes(8), request, head)

    def seal(self, message: bytes, counter: int | None = None) -> bytes:
        if counter is None:
            counter, self.sent = self.sent, self.sent + 1
        number = counter.to_bytes(8, "big")
        head = b"\x0b" + self.okm[40:48] + number
        return head + AESGCM(self.okm[0:16]).encrypt(self.okm[32:36] + number, message, head)

    def open(self, packet: bytes) -> bytes:
        assert packet[0] == 0x0B
        assert packet[1:9] == self.okm[48:56]
        return AESGCM(self.okm[16:32]).decrypt(self.okm[36:40] + packet[9:17], packet[17:], packet[:17])


class Callee(Node):
    """B of the drawing."""

    def __init__(self, seed: bytes, prekey: bytes, cookie: bytes = b"c" * 24) -> None:
        super().__init__(seed)
        self.prekey = X25519PrivateKey.from_private_bytes(prekey)
        self.cookie = cookie

    def challenge(self, hail: bytes, expiry: int, tcp_port: int = 0, flags: int = 0) -> bytes:
        assert len(hail) >= 184
        assert hail[:2] == b"\x08\x01"
        offered = self.prekey.public_key().public_bytes_raw()
        offered += expiry.to_bytes(8, "big") + tcp_port.to_bytes(2, "big") + bytes(2)
        signature = self.key.sign(b"kodechain discovery prekey v1" + bytes((flags,)) + offered)
        return bytes((9, 1, flags, 0)) + hail[68:84] + self.cookie + self.public + offered + signature

    def accept(self, handshake: bytes) -> bytes:
        """The first request."""
        assert handshake[:2] == b"\x0a\x01"
        assert handshake[20:44] == self.cookie
        public_a, ephemeral = handshake[44:76], handshake[76:108]
        offered = self.prekey.public_key().public_bytes_raw()
        signed = b"kodechain discovery handshake v1" + handshake[:112] + self.public + offered
        Ed25519PublicKey.from_public_bytes(public_a).verify(handshake[112:176], signed)
        secret = self.prekey.exchange(X25519PublicKey.from_public_bytes(ephemeral))
        id_a = hashlib.sha256(public_a).digest()
        self.okm = key_material(secret, self.cookie, handshake[4:20], id_a, self.id)
        return AESGCM(self.okm[0:16]).decrypt(self.okm[32:36] + bytes(8), handshake[176:], handshake[:176])

    def seal(self, message: bytes) -> bytes:
        number = self.sent.to_bytes(8, "big")
        self.sent += 1
        head = b"\x0b" + self.okm[48:56] + number
        return head + AESGCM(self.okm[16:32]).encrypt(self.okm[36:40] + number, message, head)

    def open(self, packet: bytes) -> bytes:
        assert packet[0] == 0x0B
        assert packet[1:9] == self.okm[40:48]
        return AESGCM(self.okm[0:16]).decrypt(self.okm[32:36] + packet[9:17], packet[17:], packet[:17])


def msgpack(value: Any) -> bytes:
    """MessagePack (github.com/msgpack/msgpack/blob/master/spec.md) of what discovery's bodies hold."""
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return bytes((value,)) if value < 128 else b"\xcf" + value.to_bytes(8, "big")
    if isinstance(value, bytes):
        return b"\xc5" + len(value).to_bytes(2, "big") + value
    if isinstance(value, str):
        return b"\xda" + len(value.encode()).to_bytes(2, "big") + value.encode()
    return b"\xdc" + len(value).to_bytes(2, "big") + b"".join(map(msgpack, value))


def message(kind: int, request_id: int, body: Any) -> bytes:
    """`body`: bytes as they are, anything else as MessagePack."""
    return bytes((kind,)) + request_id.to_bytes(4, "big") + (body if isinstance(body, bytes) else msgpack(body))


def record(key: Ed25519PrivateKey, place: bytes, sequence: int, expiry: int, value: bytes) -> bytes:
    head = b"\1" + key.public_key().public_bytes_raw() + place
    head += sequence.to_bytes(8, "big") + expiry.to_bytes(8, "big") + len(value).to_bytes(2, "big") + value
    return head + key.sign(b"kodechain record v1" + head)


LETTER_CONTEXT = b"kodechain offer v1"


def letter(
    key: Ed25519PrivateKey, target: bytes, session: bytes, time_ms: int, kind: int = 1, number: int = 1, heard: int = 0
) -> bytes:
    """Without candidates, or anything else but a ufrag and a password where it is an offer."""
    public = key.public_key().public_bytes_raw()
    content = bytes((kind, 1, 0)) + bytes(2) + number.to_bytes(2, "big") * 2 + heard.to_bytes(2, "big")
    content += time_ms.to_bytes(8, "big")
    content += b"\4ufrg" + b"\x16password-of-22-letters" + bytes(1) + bytes(2) + bytes(1)
    signed = LETTER_CONTEXT + target + hashlib.sha256(public).digest() + session + content
    return key.sign(signed) + public + content


def check_letter(packed: bytes, target: bytes, sender: bytes, session: bytes) -> tuple[int, int]:
    """Kind, and the number up to which all of ours have been heard."""
    signature, public, content = packed[:64], packed[64:96], packed[96:]
    assert hashlib.sha256(public).digest() == sender
    Ed25519PublicKey.from_public_bytes(public).verify(signature, LETTER_CONTEXT + target + sender + session + content)
    return content[0], int.from_bytes(content[9:11], "big")
