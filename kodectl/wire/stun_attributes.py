"""STUN attributes: the table of their types, and the twins that pack and unpack each one's value.

type (2) | length (2) | value | padding to a multiple of four, not counted in the length

Names and numbers are IANA's ("STUN Attributes"). A value of a type that is not in the table stays bytes. Addresses are
(numeric text, port). `block` is bytes 4 to 20 of the message's header: what addresses are XORed with, so that no NAT
that rewrites addresses in payloads finds them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Any, NamedTuple

from kodectl.errors import WireError
from kodectl.wire.contacts import pack_ip, unpack_ip

Address = tuple[str, int]

MAX_USERNAME = 508
"""RFC 8489, section 14.3: fewer than 509 bytes."""
MAX_TEXT = 763
"""RFC 8489, sections 14.8 to 14.14: what a realm, nonce, software or reason may have when it is read."""
SHA1_SIZE, SHA256_SIZE = 20, 32
USERHASH_SIZE = 32
TOKEN_SIZE = 8

FIRST_OPTIONAL = 0x8000
"""Types from here on are comprehension-optional (RFC 8489, section 14): who does not know them leaves them out."""


class Attribute(IntEnum):
    # RFC 3489; what RFC 8489 has kept of it is below
    MAPPED_ADDRESS = 0x0001
    RESPONSE_ADDRESS = 0x0002
    CHANGE_REQUEST = 0x0003
    SOURCE_ADDRESS = 0x0004
    CHANGED_ADDRESS = 0x0005
    REFLECTED_FROM = 0x000B
    # RFC 8489
    USERNAME = 0x0006
    MESSAGE_INTEGRITY = 0x0008
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000A
    REALM = 0x0014
    NONCE = 0x0015
    MESSAGE_INTEGRITY_SHA256 = 0x001C
    PASSWORD_ALGORITHM = 0x001D
    USERHASH = 0x001E
    XOR_MAPPED_ADDRESS = 0x0020
    PASSWORD_ALGORITHMS = 0x8002
    ALTERNATE_DOMAIN = 0x8003
    OLD_XOR_MAPPED_ADDRESS = 0x8020
    """Of the drafts between RFC 3489 and 5389; servers of that time still answer with it."""
    SOFTWARE = 0x8022
    ALTERNATE_SERVER = 0x8023
    FINGERPRINT = 0x8028
    # RFC 8656 (TURN)
    CHANNEL_NUMBER = 0x000C
    LIFETIME = 0x000D
    XOR_PEER_ADDRESS = 0x0012
    DATA = 0x0013
    XOR_RELAYED_ADDRESS = 0x0016
    REQUESTED_ADDRESS_FAMILY = 0x0017
    EVEN_PORT = 0x0018
    REQUESTED_TRANSPORT = 0x0019
    DONT_FRAGMENT = 0x001A
    RESERVATION_TOKEN = 0x0022
    ADDITIONAL_ADDRESS_FAMILY = 0x8000
    ADDRESS_ERROR_CODE = 0x8001
    ICMP = 0x8004
    # RFC 8445 (ICE)
    PRIORITY = 0x0024
    USE_CANDIDATE = 0x0025
    ICE_CONTROLLED = 0x8029
    ICE_CONTROLLING = 0x802A
    # RFC 5780 (NAT behaviour discovery)
    PADDING = 0x0026
    RESPONSE_PORT = 0x0027
    RESPONSE_ORIGIN = 0x802B
    OTHER_ADDRESS = 0x802C


class Change(NamedTuple):
    """CHANGE-REQUEST: answer from the other address, the other port."""

    ip: bool
    port: bool


class StunError(NamedTuple):
    """ERROR-CODE. `code`: 300 to 699."""

    code: int
    reason: str


class PasswordAlgorithm(NamedTuple):
    """`number`: 1 MD5, 2 SHA-256 (RFC 8489, section 18.5)."""

    number: int
    parameters: bytes = b""


class AddressError(NamedTuple):
    """ADDRESS-ERROR-CODE: why there is no relayed address of `family` (1: IPv4, 2: IPv6)."""

    family: int
    code: int
    reason: str


class Codec(NamedTuple):
    pack: Callable[[Any, bytes], bytes]
    """From the value and the header's block."""
    unpack: Callable[[bytes, bytes], Any]


# 0 (1) | family (1: 1 or 2) | port (2) | ip (4 or 16); XORed: port and ip, with the block from its beginning

_FAMILIES = {1: 4, 2: 16}
_NO_XOR = bytes(16)


def pack_address(address: Address, block: bytes = _NO_XOR) -> bytes:
    packed_ip = pack_ip(address[0])
    family = 1 if len(packed_ip) == 4 else 2
    return bytes((0, family)) + _xored(address[1].to_bytes(2), block) + _xored(packed_ip, block)


def unpack_address(data: bytes, block: bytes = _NO_XOR) -> Address:
    if len(data) < 8:
        raise WireError("STUN address cut short")
    size = _FAMILIES.get(data[1])
    if size is None:
        raise WireError(f"STUN address of family {data[1]}")
    if len(data) < 4 + size:
        raise WireError("STUN address cut short")
    return unpack_ip(_xored(data[4 : 4 + size], block)), int.from_bytes(_xored(data[2:4], block))


def _xored(data: bytes, block: bytes) -> bytes:
    size = len(data)
    return (int.from_bytes(data) ^ int.from_bytes(block[:size])).to_bytes(size)


# 0 (2) | 0 (5 bits) | class (3 bits) | number (1) | reason


def pack_error(error: StunError) -> bytes:
    return bytes((0, 0, error.code // 100, error.code % 100)) + error.reason.encode()


def unpack_error(data: bytes) -> StunError:
    if len(data) < 4:
        raise WireError("STUN error cut short")
    code = _error_number(data[2], data[3])
    if len(data) > 4 + MAX_TEXT:
        raise WireError("STUN error with a reason that is too long")
    # The reason is for people only: bytes that are no text cost nothing but themselves.
    return StunError(code, data[4:].decode(errors="replace"))


def _error_number(hundreds: int, rest: int) -> int:
    hundreds &= 0x07
    if not (3 <= hundreds <= 6 and rest <= 99):
        raise WireError(f"STUN error {hundreds}/{rest}")
    return hundreds * 100 + rest


# 0 (29 bits) | change ip (1 bit) | change port (1 bit) | 0 (1 bit)


def pack_change(change: Change) -> bytes:
    return (change.ip << 2 | change.port << 1).to_bytes(4)


def unpack_change(data: bytes) -> Change:
    if len(data) < 4:
        raise WireError("CHANGE-REQUEST cut short")
    return Change(bool(data[3] & 4), bool(data[3] & 2))


# type (2) each


def pack_types(types: Iterable[int]) -> bytes:
    return b"".join([number.to_bytes(2) for number in types])


def unpack_types(data: bytes) -> tuple[int, ...]:
    # RFC 3489 repeats one of an odd number, to fill the last four bytes.
    return tuple(int.from_bytes(data[at : at + 2]) for at in range(0, len(data) - 1, 2))


# number (2) | length (2) | parameters | padding to a multiple of four

_MAX_ALGORITHMS = 16


def pack_algorithms(algorithms: Iterable[PasswordAlgorithm]) -> bytes:
    packed = b""
    for number, parameters in algorithms:
        packed += struct.pack("!HH", number, len(parameters)) + parameters + bytes(-len(parameters) % 4)
    return packed


def unpack_algorithms(data: bytes) -> tuple[PasswordAlgorithm, ...]:
    algorithms: list[PasswordAlgorithm] = []
    at = 0
    while at < len(data):
        if len(algorithms) >= _MAX_ALGORITHMS:
            raise WireError(f"more than {_MAX_ALGORITHMS} password algorithms")
        if len(data) - at < 4:
            raise WireError("password algorithm cut short")
        number, size = struct.unpack_from("!HH", data, at)
        parameters = data[at + 4 : at + 4 + size]
        if len(parameters) < size:
            raise WireError("password algorithm cut short")
        algorithms.append(PasswordAlgorithm(number, parameters))
        at += 4 + size + -size % 4
    return tuple(algorithms)


def unpack_algorithm(data: bytes) -> PasswordAlgorithm:
    algorithms = unpack_algorithms(data)
    if not algorithms:
        raise WireError("password algorithm cut short")
    return algorithms[0]


# family (1) | 0 (1) | 0 (5 bits) | class (3 bits) | number (1) | reason


def pack_address_error(error: AddressError) -> bytes:
    return bytes((error.family,)) + pack_error(StunError(error.code, error.reason))[1:]


def unpack_address_error(data: bytes) -> AddressError:
    return AddressError(data[0] if data else 0, *unpack_error(data))


def number(size: int, width: int | None = None) -> Codec:
    """An unsigned integer of `size` bytes, followed by zeros up to `width`."""
    pad = bytes((width or size) - size)

    def unpack(data: bytes, _: bytes) -> int:
        if len(data) < size:
            raise WireError(f"STUN attribute of {len(data)} bytes; {size} are needed")
        return int.from_bytes(data[:size])

    return Codec(lambda value, _: value.to_bytes(size) + pad, unpack)


def opaque(least: int, most: int) -> Codec:
    def unpack(data: bytes, _: bytes) -> bytes:
        if not least <= len(data) <= most:
            raise WireError(f"STUN attribute of {len(data)} bytes, not {least} to {most}")
        return data

    return Codec(lambda value, _: value, unpack)


def text(limit: int, errors: str = "strict") -> Codec:
    def unpack(data: bytes, _: bytes) -> str:
        if len(data) > limit:
            raise WireError(f"STUN text of {len(data)} bytes; the limit is {limit}")
        try:
            return data.decode(errors=errors)
        except UnicodeDecodeError as error:
            raise WireError("STUN text that is not UTF-8") from error

    return Codec(lambda value, _: value.encode(), unpack)


def _without_block(pack: Callable[[Any], bytes], unpack: Callable[[bytes], Any]) -> Codec:
    return Codec(lambda value, _: pack(value), lambda data, _: unpack(data))


_ANY_SIZE = 0xFFFF
_address = _without_block(pack_address, unpack_address)
_xor_address = Codec(pack_address, unpack_address)
_flag = Codec(lambda value, _: b"", lambda data, _: True)

CODECS: dict[int, Codec] = {
    Attribute.MAPPED_ADDRESS: _address,
    Attribute.RESPONSE_ADDRESS: _address,
    Attribute.CHANGE_REQUEST: _without_block(pack_change, unpack_change),
    Attribute.SOURCE_ADDRESS: _address,
    Attribute.CHANGED_ADDRESS: _address,
    Attribute.REFLECTED_FROM: _address,
    Attribute.USERNAME: text(MAX_USERNAME),
    Attribute.MESSAGE_INTEGRITY: opaque(SHA1_SIZE, SHA1_SIZE),
    Attribute.ERROR_CODE: _without_block(pack_error, unpack_error),
    Attribute.UNKNOWN_ATTRIBUTES: _without_block(pack_types, unpack_types),
    Attribute.REALM: text(MAX_TEXT),
    Attribute.NONCE: opaque(0, MAX_TEXT),
    Attribute.MESSAGE_INTEGRITY_SHA256: opaque(16, SHA256_SIZE),
    Attribute.PASSWORD_ALGORITHM: _without_block(lambda value: pack_algorithms((value,)), unpack_algorithm),
    Attribute.USERHASH: opaque(USERHASH_SIZE, USERHASH_SIZE),
    Attribute.XOR_MAPPED_ADDRESS: _xor_address,
    Attribute.PASSWORD_ALGORITHMS: _without_block(pack_algorithms, unpack_algorithms),
    Attribute.ALTERNATE_DOMAIN: text(255),
    Attribute.OLD_XOR_MAPPED_ADDRESS: _xor_address,
    Attribute.SOFTWARE: text(MAX_TEXT, errors="replace"),
    Attribute.ALTERNATE_SERVER: _address,
    Attribute.FINGERPRINT: number(4),
    Attribute.CHANNEL_NUMBER: number(2, 4),
    Attribute.LIFETIME: number(4),
    Attribute.XOR_PEER_ADDRESS: _xor_address,
    Attribute.DATA: opaque(0, _ANY_SIZE),
    Attribute.XOR_RELAYED_ADDRESS: _xor_address,
    Attribute.REQUESTED_ADDRESS_FAMILY: number(1, 4),
    Attribute.EVEN_PORT: number(1),
    Attribute.REQUESTED_TRANSPORT: number(1, 4),
    Attribute.DONT_FRAGMENT: _flag,
    Attribute.RESERVATION_TOKEN: opaque(TOKEN_SIZE, TOKEN_SIZE),
    Attribute.ADDITIONAL_ADDRESS_FAMILY: number(1, 4),
    Attribute.ADDRESS_ERROR_CODE: _without_block(pack_address_error, unpack_address_error),
    Attribute.ICMP: opaque(8, 8),
    Attribute.PRIORITY: number(4),
    Attribute.USE_CANDIDATE: _flag,
    Attribute.ICE_CONTROLLED: number(8),
    Attribute.ICE_CONTROLLING: number(8),
    Attribute.PADDING: opaque(0, _ANY_SIZE),
    # RFC 5780, section 7.5, leaves open whether its two bytes of padding count; coturn does not count them.
    Attribute.RESPONSE_PORT: number(2),
    Attribute.RESPONSE_ORIGIN: _address,
    Attribute.OTHER_ADDRESS: _address,
}
