"""What can be read of a QUIC packet without its keys (RFC 8999; RFC 9000, section 17), and the bytes that are ours.

long header     1 form ... | version 4 | n 1 | destination id n | m 1 | source id m | (Initial:) token length, token
short header    0 1 .....  | destination id, of the length that its owner chose: here CONNECTION_ID_SIZE
"""

from __future__ import annotations

from typing import NamedTuple

from kodectl.errors import WireError

VERSION_1 = 1
ALPN = "kodechain/1"
OPENING = b"\x01"
"""The first byte that the dialler sends on the data stream: the version of what follows."""
DATA_STREAM = 0
"""The dialler's first bidirectional stream."""
CREDIT_STREAMS = {True: 2, False: 3}
"""Is it the dialler: the first unidirectional stream of that side."""
CREDIT_WINDOW = 1024 * 1024
"""Bytes of the data stream that may be under way or unread in one direction: what each side must be ready to hold, and
20 MB/s at 50 ms."""
LIMIT_SIZE = 8

CONNECTION_ID_SIZE = 8
"""Of ours. Random, so that nobody guesses one."""
MAX_CONNECTION_ID = 20
"""RFC 9000, section 17.2."""
MIN_INITIAL = 1200
"""Bytes of a datagram that holds a client's Initial (RFC 9000, section 14.1)."""

_LONG, _FIXED = 0x80, 0x40
_TYPE = 0x30
_INITIAL = 0x00


class Initial(NamedTuple):
    """The packet that asks for a connection. `version` may be one that is not spoken here; `token` is then empty."""

    version: int
    destination: bytes
    source: bytes
    token: bytes


def destination_id(data: bytes) -> bytes | None:
    """Whom a packet is for; None where it is too short to say."""
    if not data:
        return None
    if not data[0] & _LONG:
        found = data[1 : 1 + CONNECTION_ID_SIZE]
        return found if data[0] & _FIXED and len(found) == CONNECTION_ID_SIZE else None
    if len(data) < 6 or data[5] > MAX_CONNECTION_ID or len(data) < 6 + data[5]:
        return None
    return data[6 : 6 + data[5]]


def is_initial(data: bytes) -> bool:
    """Whether this looks like the first packet of a connection, of any version: long, large, and not an answer."""
    return len(data) >= MIN_INITIAL and data[0] & (_LONG | _FIXED) == _LONG | _FIXED and any(data[1:5])


def unpack_initial(data: bytes) -> Initial:
    """Raises WireError, also for other packets than an Initial."""
    if not is_initial(data):
        raise WireError("not an Initial packet in a datagram of its size")
    version = int.from_bytes(data[1:5])
    destination, end = _sized(data, 5, "destination id")
    source, end = _sized(data, end, "source id")
    if version != VERSION_1:
        return Initial(version, destination, source, b"")
    if data[0] & _TYPE != _INITIAL:
        raise WireError("a long header that is not an Initial's")
    if max(len(destination), len(source)) > MAX_CONNECTION_ID or len(destination) < 8:
        raise WireError("a connection id has a length that version 1 does not allow")
    size, end = unpack_varint(data, end)
    if len(data) - end < size:
        raise WireError("the token is longer than the packet")
    return Initial(version, destination, source, data[end : end + size])


def _sized(data: bytes, offset: int, what: str) -> tuple[bytes, int]:
    start = offset + 1
    end = start + (data[offset] if offset < len(data) else 0)
    if start > len(data) or end > len(data):
        raise WireError(f"the {what} is longer than the packet")
    return data[start:end], end


def unpack_varint(data: bytes, offset: int) -> tuple[int, int]:
    """The integer and where it ends (RFC 9000, section 16). Raises WireError."""
    if offset >= len(data):
        raise WireError("an integer is missing")
    end = offset + (1 << (data[offset] >> 6))
    if end > len(data):
        raise WireError("an integer is cut off")
    bits = 8 * (end - offset) - 2
    return int.from_bytes(data[offset:end]) & ((1 << bits) - 1), end


def pack_version_negotiation(question: Initial) -> bytes:
    """ "Version 1 is spoken here" (RFC 9000, section 17.2.1)."""
    ids = bytes([len(question.source)]) + question.source + bytes([len(question.destination)]) + question.destination
    return bytes([_LONG | _FIXED]) + bytes(4) + ids + VERSION_1.to_bytes(4)


def pack_limit(limit: int) -> bytes:
    return limit.to_bytes(LIMIT_SIZE)


def unpack_limits(data: bytes) -> tuple[int | None, bytes]:
    """The last whole limit in `data`, and what is left of the next one."""
    whole = len(data) - len(data) % LIMIT_SIZE
    limit = int.from_bytes(data[whole - LIMIT_SIZE : whole]) if whole else None
    return limit, data[whole:]
