"""Datagrams over a stream (RFC 4571, section 2), as ICE has them over TCP (RFC 6544, section 3):

length (2) | datagram
"""

from __future__ import annotations

from kodectl.errors import WireError

HEADER_SIZE = 2
MAX_DATAGRAM = 0xFFFF


def pack_frame(data: bytes) -> bytes:
    if len(data) > MAX_DATAGRAM:
        raise WireError(f"datagram of {len(data)} bytes; a frame holds {MAX_DATAGRAM}")
    return len(data).to_bytes(HEADER_SIZE) + data


def unpack_length(header: bytes) -> int:
    """How many bytes of datagram follow; an empty one is allowed."""
    if len(header) < HEADER_SIZE:
        raise WireError("length of a frame cut short")
    return int.from_bytes(header[:HEADER_SIZE])
