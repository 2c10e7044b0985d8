"""Signed records: the values of the DHT (docs/protocol.md, "Values").

version (1) | publisher (32) | key (32) | sequence (8) | expiry (8) | size (2) | value | signature (64)
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from kodectl.errors import WireError
from kodectl.wire.suite import SIGNATURE_SIZE

VERSION = 1
MAX_VALUE = 1000
"""Keeps a record, its token and the packet around them within one datagram."""
CONTEXT = b"kodechain record v1"

_head = struct.Struct("!B32s32sQQH")
HEAD_SIZE = _head.size
MAX_RECORD = HEAD_SIZE + MAX_VALUE + SIGNATURE_SIZE
_MAX_U64 = 2**64 - 1


class Record(NamedTuple):
    """`key` is SHA-256 of what the user named, `expiry` Unix seconds, `packed` the whole record as on the wire."""

    publisher: bytes
    key: bytes
    sequence: int
    expiry: int
    value: bytes
    signature: bytes
    packed: bytes

    def statement(self) -> bytes:
        """What the signature covers."""
        return CONTEXT + self.packed[: HEAD_SIZE + len(self.value)]


def record_statement(publisher: bytes, key: bytes, sequence: int, expiry: int, value: bytes) -> bytes:
    """What the publisher signs. Raises WireError for a value over 1,000 bytes or a number out of range."""
    if len(value) > MAX_VALUE:
        raise WireError(f"value of {len(value)} bytes; the limit is {MAX_VALUE}")
    if not (0 <= sequence <= _MAX_U64 and 0 <= expiry <= _MAX_U64):
        raise WireError("sequence or expiry out of range")
    return CONTEXT + _head.pack(VERSION, publisher, key, sequence, expiry, len(value)) + value


def pack_record(statement: bytes, signature: bytes) -> bytes:
    return statement[len(CONTEXT) :] + signature


def unpack_record(data: bytes) -> Record:
    """Checks the layout, not the signature. Bytes after the signature are left off."""
    if len(data) < HEAD_SIZE + SIGNATURE_SIZE:
        raise WireError("record cut short")
    version, publisher, key, sequence, expiry, size = _head.unpack_from(data)
    if version != VERSION:
        raise WireError(f"record version {version}")
    if size > MAX_VALUE:
        raise WireError(f"record value of {size} bytes; the limit is {MAX_VALUE}")
    end = HEAD_SIZE + size
    if len(data) < end + SIGNATURE_SIZE:
        raise WireError("record cut short")
    value, signature = data[HEAD_SIZE:end], data[end : end + SIGNATURE_SIZE]
    return Record(publisher, key, sequence, expiry, value, signature, data[: end + SIGNATURE_SIZE])
