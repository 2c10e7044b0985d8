"""NAT-PMP messages (RFC 6886, section 3), as frozen values and twins. Numbers are big-endian.

External address     version (0) | opcode 0
  its answer         version (0) | opcode 128 | result (2) | epoch (4) | external address (4)
Mapping              version (0) | opcode 1 UDP, 2 TCP | reserved (2) | internal port (2) | external port (2) | lifetime (4)
  its answer         version (0) | 128 + opcode | result (2) | epoch (4) | internal port (2) | external port (2) | lifetime (4)

A refusal may end after the epoch.  A router of PCP alone answers with version 2 and a result in the same place
(RFC 6887, appendix A); that is read as what it means, an unsupported version.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from kodectl.errors import WireError
from kodectl.wire.contacts import pack_ip, unpack_ip

PORT = 5351
VERSION = 0
ANSWER = 0x80
"""Set in the opcode of every answer."""

_head = struct.Struct("!BBHI")
_mapping_request = struct.Struct("!BBHHHI")
_mapping = struct.Struct("!HHI")


class Opcode(IntEnum):
    EXTERNAL_ADDRESS = 0
    MAP_UDP = 1
    MAP_TCP = 2


class Result(IntEnum):
    SUCCESS = 0
    UNSUPPORTED_VERSION = 1
    NOT_AUTHORISED = 2
    NETWORK_FAILURE = 3
    OUT_OF_RESOURCES = 4
    UNSUPPORTED_OPCODE = 5


class MappingRequest(NamedTuple):
    opcode: Opcode
    internal_port: int
    external_port: int
    """Suggested; 0 for any, and to remove."""
    lifetime_s: int
    """0 removes."""


class Refusal(NamedTuple):
    opcode: int
    result: int
    """Never 0; beyond `Result` too."""
    epoch_s: int


class ExternalAddress(NamedTuple):
    epoch_s: int
    ip: str


class Mapping(NamedTuple):
    opcode: Opcode
    epoch_s: int
    internal_port: int
    external_port: int
    lifetime_s: int


Answer = Refusal | ExternalAddress | Mapping


def pack_external_address_request() -> bytes:
    return bytes((VERSION, Opcode.EXTERNAL_ADDRESS))


def pack_mapping_request(request: MappingRequest) -> bytes:
    opcode, internal_port, external_port, lifetime_s = request
    return _mapping_request.pack(VERSION, opcode, 0, internal_port, external_port, lifetime_s)


def unpack_request(data: bytes) -> Opcode | MappingRequest:
    """What a router reads: the bare opcode of a question for the address, or a request to map."""
    if len(data) < 2:
        raise WireError("NAT-PMP request cut short")
    if data[0] != VERSION:
        raise WireError(f"NAT-PMP version {data[0]}")
    opcode = _opcode(data[1])
    if opcode is Opcode.EXTERNAL_ADDRESS:
        return opcode
    if len(data) < _mapping_request.size:
        raise WireError("NAT-PMP mapping request cut short")
    return MappingRequest(opcode, *_mapping_request.unpack_from(data)[3:])


def pack_answer(answer: Answer) -> bytes:
    match answer:
        case Refusal(opcode, result, epoch_s):
            return _head.pack(VERSION, ANSWER | opcode, result, epoch_s)
        case ExternalAddress(epoch_s, ip):
            return _head.pack(VERSION, ANSWER, 0, epoch_s) + pack_ip(ip)
        case Mapping(opcode, epoch_s):
            return _head.pack(VERSION, ANSWER | opcode, 0, epoch_s) + _mapping.pack(*answer[2:])


def unpack_answer(data: bytes) -> Answer:
    if len(data) < _head.size:
        raise WireError("NAT-PMP answer cut short")
    version, number, result, epoch_s = _head.unpack_from(data)
    if not number & ANSWER:
        raise WireError("a NAT-PMP request where an answer should be")
    number ^= ANSWER
    if result:
        return Refusal(number, result, epoch_s)
    if version != VERSION:
        raise WireError(f"NAT-PMP version {version}")
    opcode = _opcode(number)
    body = data[_head.size :]
    if opcode is Opcode.EXTERNAL_ADDRESS:
        if len(body) < 4:
            raise WireError("NAT-PMP external address cut short")
        return ExternalAddress(epoch_s, unpack_ip(body[:4]))
    if len(body) < _mapping.size:
        raise WireError("NAT-PMP mapping cut short")
    return Mapping(opcode, epoch_s, *_mapping.unpack_from(body))


def _opcode(number: int) -> Opcode:
    try:
        return Opcode(number)
    except ValueError as error:
        raise WireError(f"NAT-PMP opcode {number}") from error
