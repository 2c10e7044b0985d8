"""Discovery packets (docs/protocol.md, "Discovery: UDP"): the six packet types, as frozen values and twins.

The first byte tells discovery from STUN, TURN channels and QUIC on the same socket (RFC 9443).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from kodectl.errors import WireError

VERSION = 1
MAX_PACKET = 1232
"""What fits the smallest IPv6 path (1,280) with its headers: never fragmented."""

HAIL, CHALLENGE, HANDSHAKE, MESSAGE, RESET, KNOCK = 0x08, 0x09, 0x0A, 0x0B, 0x0C, 0x0D
DISCOVERY_TYPES = range(HAIL, KNOCK + 1)

HAIL_SIZE = CHALLENGE_SIZE = 184
HANDSHAKE_HEAD = 176
MESSAGE_HEAD = 17
RESET_SIZE = 17
NONCE_SIZE = 16
TAG_SIZE = 16
MAX_FIRST_MESSAGE = MAX_PACKET - HANDSHAKE_HEAD - TAG_SIZE
"""What fits a HANDSHAKE, whose head is larger than a MESSAGE's."""
FLAG_CLIENT = 0x01

PREKEY_CONTEXT = b"kodechain discovery prekey v1"
HANDSHAKE_CONTEXT = b"kodechain discovery handshake v1"

_hail = struct.Struct("!BBH32s32s16s")
_challenge = struct.Struct("!BBBB16s24s32s32sQHH64s")
_handshake = struct.Struct("!BBBB16s24s32s32sHH64s")
_message = struct.Struct("!B8sQ")


class Hail(NamedTuple):
    recipient: bytes
    sender: bytes
    nonce: bytes


class Challenge(NamedTuple):
    flags: int
    nonce: bytes
    cookie: bytes
    public_key: bytes
    prekey: bytes
    prekey_expiry: int
    tcp_port: int
    signature: bytes

    def signed_part(self) -> bytes:
        return prekey_statement(self.flags, self.prekey, self.prekey_expiry, self.tcp_port)


class Handshake(NamedTuple):
    flags: int
    nonce: bytes
    cookie: bytes
    public_key: bytes
    ephemeral: bytes
    tcp_port: int
    signature: bytes


def prekey_statement(flags: int, prekey: bytes, expiry: int, tcp_port: int) -> bytes:
    """What the signature of a CHALLENGE covers."""
    return PREKEY_CONTEXT + bytes((flags,)) + prekey + struct.pack("!QHH", expiry, tcp_port, 0)


def handshake_statement(head: bytes, public_key: bytes, prekey: bytes) -> bytes:
    """What the signature of a HANDSHAKE covers: the packet up to there, and the recipient's two keys."""
    return HANDSHAKE_CONTEXT + head[:112] + public_key + prekey


def pack_hail(hail: Hail) -> bytes:
    return _hail.pack(HAIL, VERSION, 0, *hail).ljust(HAIL_SIZE, b"\0")


def unpack_hail(data: bytes) -> Hail:
    if len(data) < HAIL_SIZE:
        raise WireError("HAIL shorter than its answer")
    _check(data, HAIL)
    return Hail(*_hail.unpack_from(data)[3:])


def pack_challenge(challenge: Challenge) -> bytes:
    flags, nonce, cookie, public_key, prekey, expiry, tcp_port, signature = challenge
    return _challenge.pack(
        CHALLENGE, VERSION, flags, 0, nonce, cookie, public_key, prekey, expiry, tcp_port, 0, signature
    )


def unpack_challenge(data: bytes) -> Challenge:
    if len(data) < CHALLENGE_SIZE:
        raise WireError("CHALLENGE cut short")
    _check(data, CHALLENGE)
    _, _, flags, _, nonce, cookie, public_key, prekey, expiry, tcp_port, _, signature = _challenge.unpack_from(data)
    return Challenge(flags, nonce, cookie, public_key, prekey, expiry, tcp_port, signature)


def pack_handshake_head(handshake: Handshake) -> bytes:
    """The 176 bytes before the sealed request, which are also its associated data."""
    flags, nonce, cookie, public_key, ephemeral, tcp_port, signature = handshake
    return _handshake.pack(HANDSHAKE, VERSION, flags, 0, nonce, cookie, public_key, ephemeral, tcp_port, 0, signature)


def unpack_handshake(data: bytes) -> tuple[Handshake, bytes]:
    """The clear part and the sealed request."""
    if len(data) < HANDSHAKE_HEAD + TAG_SIZE:
        raise WireError("HANDSHAKE cut short")
    _check(data, HANDSHAKE)
    _, _, flags, _, nonce, cookie, public_key, ephemeral, tcp_port, _, signature = _handshake.unpack_from(data)
    return Handshake(flags, nonce, cookie, public_key, ephemeral, tcp_port, signature), data[HANDSHAKE_HEAD:]


def pack_message_head(session_id: bytes, counter: int) -> bytes:
    return _message.pack(MESSAGE, session_id, counter)


def unpack_message_head(data: bytes) -> tuple[bytes, int]:
    """Session id and counter."""
    if len(data) < MESSAGE_HEAD + TAG_SIZE:
        raise WireError("MESSAGE cut short")
    return data[1:9], int.from_bytes(data[9:17])


def pack_reset(message: bytes) -> bytes:
    return bytes((RESET,)) + message[-16:]


def unpack_reset(data: bytes) -> bytes:
    """The tag of the MESSAGE that found no session."""
    if len(data) < RESET_SIZE:
        raise WireError("RESET cut short")
    return data[1:RESET_SIZE]


def pack_knock(nonce: bytes) -> bytes:
    return bytes((KNOCK,)) + nonce


def unpack_knock(data: bytes) -> bytes:
    """The nonce that the one who is knocked at has given out."""
    if len(data) < 1 + NONCE_SIZE:
        raise WireError("KNOCK cut short")
    return data[1 : 1 + NONCE_SIZE]


def _check(data: bytes, expected_type: int) -> None:
    if data[0] != expected_type:
        raise WireError(f"packet type 0x{data[0]:02x}, expected 0x{expected_type:02x}")
    if data[1] != VERSION:
        raise WireError(f"discovery version {data[1]}")
