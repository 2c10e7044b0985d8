"""STUN over TCP (RFC 8489, section 6.2.2): messages one after the other, each saying where it ends."""

from __future__ import annotations

from kodectl.errors import WireError
from kodectl.runtime.base import Stream
from kodectl.wire.stun import HEADER_SIZE


def read_framed(stream: Stream, limit: int) -> bytes:
    """The next message. Raises StreamClosed, and WireError where more than `limit` bytes of attributes are announced, or
    what comes is not STUN: such a stream can only be closed."""
    header = stream.read_exactly(HEADER_SIZE)
    length = int.from_bytes(header[2:4])
    if header[0] & 0xC0 or length > limit:
        raise WireError(f"STUN over TCP with {length} bytes of attributes; the limit is {limit}")
    return header + stream.read_exactly(length)
