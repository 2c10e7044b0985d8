"""PCP messages (RFC 6887, sections 7 and 11), as frozen values and twins. Numbers are big-endian.

Request    version (2) | opcode | reserved (2) | lifetime (4) | client address (16) | body | options
Answer     version (2) | 128 + opcode | reserved (1) | result (1) | lifetime (4) | epoch (4) | reserved (12) | body | options

MAP        nonce (12) | protocol (1) | reserved (3) | internal port (2) | external port (2) | external address (16)
ANNOUNCE   empty
Option     code (1) | reserved (1) | length (2) | data, padded to a multiple of 4

Addresses are IPv6, or IPv4 mapped into it (::ffff:192.0.2.1).  An answer of another version, such as the 8 bytes of a
router that speaks NAT-PMP alone, is read as far as it is the same: opcode and result (RFC 6887, section 9).
"""

from __future__ import annotations

import struct
from enum import IntEnum
from ipaddress import IPv6Address
from typing import NamedTuple

from kodectl.errors import WireError
from kodectl.wire.contacts import pack_ip

PORT = 5351
VERSION = 2
ANSWER = 0x80
"""Set in the opcode of every answer."""
MAX_SIZE = 1100
NONCE_SIZE = 12

ANY_IP = "0.0.0.0"
"""For "any outer address" in a suggestion (RFC 6887, section 11.1)."""

_request_head = struct.Struct("!BBHI16s")
_answer_head = struct.Struct("!BBBBII12x")
_map = struct.Struct("!12sB3xHH16s")
_option_head = struct.Struct("!BxH")
_SHORTEST_ANSWER = 4
"""Up to the result, which stands where NAT-PMP has it."""


class Opcode(IntEnum):
    ANNOUNCE = 0
    MAP = 1


class OptionCode(IntEnum):
    THIRD_PARTY = 1
    PREFER_FAILURE = 2
    FILTER = 3


class Protocol(IntEnum):
    """IANA's numbers."""

    TCP = 6
    UDP = 17


class Result(IntEnum):
    """RFC 6887, section 7.4."""

    SUCCESS = 0
    UNSUPP_VERSION = 1
    NOT_AUTHORIZED = 2
    MALFORMED_REQUEST = 3
    UNSUPP_OPCODE = 4
    UNSUPP_OPTION = 5
    MALFORMED_OPTION = 6
    NETWORK_FAILURE = 7
    NO_RESOURCES = 8
    UNSUPP_PROTOCOL = 9
    USER_EX_QUOTA = 10
    CANNOT_PROVIDE_EXTERNAL = 11
    ADDRESS_MISMATCH = 12
    EXCESSIVE_REMOTE_PEERS = 13


class Option(NamedTuple):
    code: int
    data: bytes = b""


PREFER_FAILURE = Option(OptionCode.PREFER_FAILURE)
"""The suggested outer address and port, or nothing."""


class Map(NamedTuple):
    """In a request the external half is a suggestion, in an answer what was assigned."""

    nonce: bytes
    """12 bytes; whoever does not know them cannot change the mapping."""
    protocol: int
    internal_port: int
    external_port: int
    external_ip: str


class Request(NamedTuple):
    opcode: Opcode
    lifetime_s: int
    client_ip: str
    map: Map | None = None
    """Of MAP; None of ANNOUNCE."""
    options: tuple[Option, ...] = ()


class Answer(NamedTuple):
    opcode: int
    result: int
    lifetime_s: int
    """Of a refusal: how long the same question will get the same answer."""
    epoch_s: int
    map: Map | None = None
    """Of a refusal: as it was asked for, as far as the server brings it back."""
    options: tuple[Option, ...] = ()
    version: int = VERSION
    """Another one only together with a refusal, and then there is nothing more than a result."""


def pack_request(request: Request) -> bytes:
    opcode, lifetime_s, client_ip, body, options = request
    head = _request_head.pack(VERSION, opcode, 0, lifetime_s, _pack_ip(client_ip))
    return head + _pack_body(body) + _pack_options(options)


def unpack_request(data: bytes) -> Request:
    """What a router reads."""
    if len(data) < _request_head.size:
        raise WireError("PCP request cut short")
    version, opcode, _, lifetime_s, client_ip = _request_head.unpack_from(data)
    if version != VERSION:
        raise WireError(f"PCP version {version}")
    _check_size(data)
    body, options = _unpack_body(opcode, data[_request_head.size :])
    return Request(_opcode(opcode), lifetime_s, _unpack_ip(client_ip), body, options)


def pack_answer(answer: Answer) -> bytes:
    opcode, result, lifetime_s, epoch_s, body, options, version = answer
    head = _answer_head.pack(version, ANSWER | opcode, 0, result, lifetime_s, epoch_s)
    return head + _pack_body(body) + _pack_options(options)


def unpack_answer(data: bytes) -> Answer:
    if len(data) < _SHORTEST_ANSWER:
        raise WireError("PCP answer cut short")
    version, opcode, _, result = data[:_SHORTEST_ANSWER]
    if not opcode & ANSWER:
        raise WireError("a PCP request where an answer should be")
    opcode ^= ANSWER
    if version != VERSION:
        if not result:
            raise WireError(f"PCP version {version}")
        return Answer(opcode, result, 0, 0, version=version)
    if len(data) < _answer_head.size:
        raise WireError("PCP answer cut short")
    _check_size(data)
    _, _, _, _, lifetime_s, epoch_s = _answer_head.unpack_from(data)
    body, options = (_unpack_copy if result else _unpack_body)(opcode, data[_answer_head.size :])
    return Answer(opcode, result, lifetime_s, epoch_s, body, options)


def _unpack_copy(opcode: int, data: bytes) -> tuple[Map | None, tuple[Option, ...]]:
    """A refusal brings back the body of the request (RFC 6887, section 8.2), or less if the server could not read it."""
    return (_unpack_map(data) if opcode == Opcode.MAP and len(data) >= _map.size else None), ()


def _unpack_body(opcode: int, data: bytes) -> tuple[Map | None, tuple[Option, ...]]:
    if _opcode(opcode) is Opcode.ANNOUNCE:
        return None, _unpack_options(data)
    return _unpack_map(data), _unpack_options(data[_map.size :])


def _pack_body(body: Map | None) -> bytes:
    if body is None:
        return b""
    nonce, protocol, internal_port, external_port, external_ip = body
    return _map.pack(nonce, protocol, internal_port, external_port, _pack_ip(external_ip))


def _unpack_map(data: bytes) -> Map:
    if len(data) < _map.size:
        raise WireError("PCP MAP cut short")
    nonce, protocol, internal_port, external_port, external_ip = _map.unpack_from(data)
    return Map(nonce, protocol, internal_port, external_port, _unpack_ip(external_ip))


def _pack_options(options: tuple[Option, ...]) -> bytes:
    return b"".join(_option_head.pack(code, len(data)) + data + bytes(-len(data) % 4) for code, data in options)


def _unpack_options(data: bytes) -> tuple[Option, ...]:
    options = []
    while len(data) >= _option_head.size:
        code, length = _option_head.unpack_from(data)
        end = _option_head.size + length
        if len(data) < end:
            raise WireError("PCP option cut short")
        options.append(Option(code, data[_option_head.size : end]))
        data = data[end + -length % 4 :]
    return tuple(options)


def _check_size(data: bytes) -> None:
    """RFC 6887, section 7: a multiple of four, and no more than fits every path."""
    if len(data) > MAX_SIZE or len(data) % 4:
        raise WireError(f"a PCP message does not have {len(data)} bytes")


def _opcode(number: int) -> Opcode:
    try:
        return Opcode(number)
    except ValueError as error:
        raise WireError(f"PCP opcode {number}") from error


def _pack_ip(ip: str) -> bytes:
    packed = pack_ip(ip)
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed


def _unpack_ip(packed: bytes) -> str:
    address = IPv6Address(packed)
    return str(address.ipv4_mapped or address)
