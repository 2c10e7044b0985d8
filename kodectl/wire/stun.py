"""STUN messages (RFC 8489), those of RFC 3489 with them: one `encode`, one `decode`; attributes are in `stun_attributes`.

type (2) | length (2) | magic cookie (4) | transaction id (12) | attributes        `length` counts the attributes only

type: 0 0 | method, bits 11-7 | class, high bit | method, bits 6-4 | class, low bit | method, bits 3-0

RFC 3489 has no cookie, and a transaction id of 16 bytes in its place. Two attributes may seal what stands before them,
with the length field counting up to and with themselves: MESSAGE-INTEGRITY (HMAC) and FINGERPRINT (CRC-32).
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Container, Iterable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple
from zlib import crc32

from kodectl.errors import WireError
from kodectl.wire.stun_attributes import (
    CODECS,
    FIRST_OPTIONAL,
    SHA1_SIZE,
    SHA256_SIZE,
    Address,
    AddressError,
    Attribute,
    Change,
    PasswordAlgorithm,
    StunError,
)

__all__ = [
    "Address",
    "AddressError",
    "Attribute",
    "Change",
    "Message",
    "MessageClass",
    "Method",
    "PasswordAlgorithm",
    "StunError",
    "decode",
    "encode",
    "looks_like_stun",
    "verifies",
]

HEADER_SIZE = 20
COOKIE = bytes.fromhex("2112a442")
ID_SIZE, CLASSIC_ID_SIZE = 12, 16
MAX_LENGTH = 0xFFFC
"""Of the attributes together: what the length field can say, in steps of four."""
MAX_ATTRIBUTES = 64
"""More than there are types. Decoding costs by the attribute, not by the byte."""
FINGERPRINT_MASK = 0x5354554E
FIRST_BYTES = range(4)
"""RFC 9443: what tells STUN from everything else on the same socket."""

_header = struct.Struct("!HH16s")
_head = struct.Struct("!HH")


class MessageClass(IntEnum):
    REQUEST = 0
    INDICATION = 1
    SUCCESS = 2
    ERROR = 3


class Method(IntEnum):
    BINDING = 0x001
    SHARED_SECRET = 0x002
    """RFC 3489 only."""
    ALLOCATE = 0x003
    REFRESH = 0x004
    SEND = 0x006
    DATA = 0x007
    CREATE_PERMISSION = 0x008
    CHANNEL_BIND = 0x009


class Message(NamedTuple):
    """`transaction_id` has 12 bytes, or 16 in a message of RFC 3489. `attributes` are (type, value) in their order, the
    values as `stun_attributes` gives them; of an unknown type, bytes."""

    kind: MessageClass
    method: int
    transaction_id: bytes
    attributes: tuple[tuple[int, Any], ...] = ()

    @property
    def is_classic(self) -> bool:
        """Whether it is RFC 3489's, whose reader may know nothing newer."""
        return len(self.transaction_id) == CLASSIC_ID_SIZE

    def get(self, attribute: int) -> Any:
        """The first of that type, which is the one that counts (RFC 8489, section 14); None without one."""
        for number, value in self.attributes:
            if number == attribute:
                return value
        return None

    def unknown_required(self, understood: Container[int]) -> tuple[int, ...]:
        """Types that must be understood and are not among `understood`, each once: what 420 is for (section 6.3.1)."""
        unknown = [number for number, _ in self.attributes if number < FIRST_OPTIONAL and number not in understood]
        return tuple(dict.fromkeys(unknown))


def looks_like_stun(data: bytes) -> bool:
    """By the first byte and the cookie; never true of RFC 3489, which has none."""
    return len(data) >= HEADER_SIZE and data[0] in FIRST_BYTES and data[4:8] == COOKIE


def is_binding_request(data: bytes) -> bool:
    return data[:2] == _BINDING_REQUEST and looks_like_stun(data)


def transaction_id_of(data: bytes) -> bytes:
    """Of what looks like STUN; of anything else some bytes, or none."""
    return data[HEADER_SIZE - ID_SIZE : HEADER_SIZE]


def encode(
    message: Message,
    *,
    key: bytes | None = None,
    integrity: Iterable[Attribute] = (Attribute.MESSAGE_INTEGRITY,),
    fingerprint: bool = False,
    padding: bytes = b"\0",
) -> bytes:
    """With `key`, sealed with each of `integrity`, in the order MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256. `padding`
    is the byte that fills attributes up: any will do, and RFC 5769 uses a space."""
    block = _block_of(message.transaction_id)
    packed = b"".join([_packed(number, value, block, padding) for number, value in message.attributes])
    head = pack_type(message.kind, message.method)
    if key is not None:
        for attribute in sorted(integrity):
            body = _sealable(head, block, packed, 4 + _MAC_SIZES[attribute])
            packed += _framed(attribute, _mac(attribute, key, body))
    if fingerprint:
        packed += _framed(Attribute.FINGERPRINT, _fingerprint(_sealable(head, block, packed, 8)))
    if len(packed) > MAX_LENGTH:
        raise WireError(f"STUN attributes of {len(packed)} bytes; the limit is {MAX_LENGTH}")
    return _header.pack(head, len(packed), block) + packed


def decode(data: bytes) -> Message:
    """Bytes after the message are left off. A wrong FINGERPRINT is an error; integrity is for who has the key: `verifies`.

    What stands after MESSAGE-INTEGRITY is not covered by it and is dropped, but for MESSAGE-INTEGRITY-SHA256 and
    FINGERPRINT (section 14.5)."""
    if len(data) < HEADER_SIZE:
        raise WireError("STUN message cut short")
    head, length, block = _header.unpack_from(data)
    if head & 0xC000:
        raise WireError("not STUN: the first two bits are not zero")
    if length % 4:
        raise WireError(f"STUN length {length} is no multiple of four")
    if len(data) < HEADER_SIZE + length:
        raise WireError("STUN message cut short")
    kind, method = unpack_type(head)
    transaction_id = block[4:] if block.startswith(COOKIE) else block
    return Message(kind, method, transaction_id, tuple(_attributes(data, HEADER_SIZE + length, block)))


def verifies(data: bytes, key: bytes, attribute: Attribute = Attribute.MESSAGE_INTEGRITY) -> bool:
    """Whether `data` has that seal, made with `key`; `attribute` may be MESSAGE_INTEGRITY_SHA256, which must then have all
    its 32 bytes (section 14.6 lets a usage allow less; none here does). Raises WireError for what `decode` refuses."""
    decode(data)
    for number, start, size in _framing(data, HEADER_SIZE + int.from_bytes(data[2:4])):
        if number == attribute:
            head, _, block = _header.unpack_from(data)
            body = _sealable(head, block, data[HEADER_SIZE : start - 4], 4 + size)
            return hmac.compare_digest(_mac(attribute, key, body), data[start : start + size])
    return False


def pack_type(kind: MessageClass, method: int) -> int:
    return (method & 0xF80) << 2 | (kind & 2) << 7 | (method & 0x070) << 1 | (kind & 1) << 4 | method & 0x00F


def unpack_type(head: int) -> tuple[MessageClass, int]:
    kind = MessageClass(head >> 7 & 2 | head >> 4 & 1)
    return kind, head >> 2 & 0xF80 | head >> 1 & 0x070 | head & 0x00F


_BINDING_REQUEST = pack_type(MessageClass.REQUEST, Method.BINDING).to_bytes(2)


def _block_of(transaction_id: bytes) -> bytes:
    return transaction_id if len(transaction_id) == CLASSIC_ID_SIZE else COOKIE + transaction_id


def _packed(number: int, value: Any, block: bytes, padding: bytes) -> bytes:
    codec = CODECS.get(number)
    return _framed(number, value if codec is None else codec.pack(value, block), padding)


def _framed(number: int, value: bytes, padding: bytes = b"\0") -> bytes:
    return _head.pack(number, len(value)) + value + padding * (-len(value) % 4)


# What may follow: nothing is covered by FINGERPRINT but what stands before it, and so on down.
_SEALS: Sequence[int] = (
    Attribute.MESSAGE_INTEGRITY,
    Attribute.MESSAGE_INTEGRITY_SHA256,
    Attribute.FINGERPRINT,
)


def _attributes(data: bytes, end: int, block: bytes) -> list[tuple[int, Any]]:
    attributes: list[tuple[int, Any]] = []
    sealed = -1
    for number, start, size in _framing(data, end):
        if sealed >= 0 and number not in _SEALS[sealed + 1 :]:
            continue
        value = data[start : start + size]
        codec = CODECS.get(number)
        attributes.append((number, value if codec is None else codec.unpack(value, block)))
        if number in _SEALS:
            sealed = _SEALS.index(number)
            if number == Attribute.FINGERPRINT:
                _check_fingerprint(data, start, end, block)
    return attributes


def _framing(data: bytes, end: int) -> list[tuple[int, int, int]]:
    """(type, where the value starts, its length) of each attribute."""
    framing: list[tuple[int, int, int]] = []
    at = HEADER_SIZE
    while at < end:
        if len(framing) >= MAX_ATTRIBUTES:
            raise WireError(f"more than {MAX_ATTRIBUTES} STUN attributes")
        number, size = _head.unpack_from(data, at)
        at += 4
        if at + size > end:
            raise WireError(f"STUN attribute 0x{number:04x} cut short")
        framing.append((number, at, size))
        at += size + -size % 4
    return framing


def _check_fingerprint(data: bytes, start: int, end: int, block: bytes) -> None:
    if start + 4 != end:
        raise WireError("FINGERPRINT is not the last STUN attribute")
    covered = _sealable(int.from_bytes(data[:2]), block, data[HEADER_SIZE : start - 4], 8)
    if _fingerprint(covered) != data[start : start + 4]:
        raise WireError("wrong STUN FINGERPRINT")


def _sealable(head: int, block: bytes, packed: bytes, seal_size: int) -> bytes:
    """What a seal covers: everything before it, with the length field counting it too."""
    return _header.pack(head, len(packed) + seal_size & 0xFFFF, block) + packed


_MAC_SIZES: dict[Attribute, int] = {
    Attribute.MESSAGE_INTEGRITY: SHA1_SIZE,
    Attribute.MESSAGE_INTEGRITY_SHA256: SHA256_SIZE,
}
_MAC_HASHES: dict[Attribute, str] = {
    Attribute.MESSAGE_INTEGRITY: "sha1",
    Attribute.MESSAGE_INTEGRITY_SHA256: "sha256",
}


def _mac(attribute: Attribute, key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, body, _MAC_HASHES[attribute])


def _fingerprint(body: bytes) -> bytes:
    return (crc32(body) ^ FINGERPRINT_MASK).to_bytes(4)
