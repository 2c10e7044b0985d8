"""STUN over TCP (RFC 8489, section 6.2.2): messages one after the other, each saying where it ends."""

from __future__ import annotations

from kodectl.errors import WireError
from kodectl.runtime.base import Stream
from kodectl.wire.channel_data import FIRST_BYTES as CHANNEL_FIRST_BYTES
from kodectl.wire.channel_data import HEADER_SIZE as CHANNEL_HEADER_SIZE
from kodectl.wire.stun import FIRST_BYTES, HEADER_SIZE


def read_framed(stream: Stream, limit: int) -> bytes:
    """The next message. Raises StreamClosed, and WireError where more than `limit` bytes of attributes are announced, or
    what comes is not STUN: such a stream can only be closed."""
    header = stream.read_exactly(HEADER_SIZE)
    length = int.from_bytes(header[2:4])
    if header[0] & 0xC0 or length > limit:
        raise WireError(f"STUN over TCP with {length} bytes of attributes; the limit is {limit}")
    return header + stream.read_exactly(length)


def read_turn_framed(stream: Stream, channel_first_bytes: range = CHANNEL_FIRST_BYTES) -> bytes:
    """The next message between a TURN client and its server: STUN, or ChannelData without its padding (RFC 8656, section
    12.5). Raises StreamClosed, and WireError where what comes is neither: such a stream can only be closed. The lengths
    have 16 bits each, which is their limit."""
    start = stream.read_exactly(CHANNEL_HEADER_SIZE)
    length = int.from_bytes(start[2:4])
    if start[0] in channel_first_bytes:
        return start + stream.read_exactly(length + -length % 4)[:length]
    if start[0] not in FIRST_BYTES or length % 4:
        raise WireError("neither STUN nor ChannelData over TCP")
    return start + stream.read_exactly(HEADER_SIZE - CHANNEL_HEADER_SIZE + length)
