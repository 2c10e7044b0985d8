"""ChannelData of TURN (RFC 8656, section 12.4): data to or from the peer that a channel is bound to.

channel number (2) | length (2) | data | padding, over streams, to a multiple of four (not counted in the length)
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from kodectl.errors import WireError

FIRST_CHANNEL, LAST_CHANNEL = 0x4000, 0x4FFF
"""RFC 8656, section 12: the others up to 0x7FFF are reserved, and those of RFC 5766 that QUIC shares a socket with."""
FIRST_BYTES = range(FIRST_CHANNEL >> 8, (LAST_CHANNEL >> 8) + 1)
"""RFC 9443: what tells ChannelData from everything else that a TURN server may send."""
OLD_LAST_CHANNEL = 0x7FFF
OLD_FIRST_BYTES = range(FIRST_CHANNEL >> 8, (OLD_LAST_CHANNEL >> 8) + 1)
"""RFC 5766: clients of that time take any of them, so a server that shares its socket with no QUIC grants them."""
HEADER_SIZE = 4
MAX_DATA = 0xFFFF

_header = struct.Struct("!HH")


class ChannelData(NamedTuple):
    number: int
    data: bytes


def pack_channel_data(number: int, data: bytes, *, padded: bool = False) -> bytes:
    """`padded`: for a stream."""
    size = len(data)
    if size > MAX_DATA:
        raise WireError(f"ChannelData of {size} bytes; the limit is {MAX_DATA}")
    packed = _header.pack(number, size) + data
    return packed + bytes(-size % 4) if padded else packed


def unpack_channel_data(data: bytes) -> ChannelData:
    """What follows the data is left off: it may be padded over UDP too."""
    if len(data) < HEADER_SIZE:
        raise WireError("ChannelData cut short")
    number, size = _header.unpack_from(data)
    if not FIRST_CHANNEL <= number <= LAST_CHANNEL:
        raise WireError(f"0x{number:04x} is no channel number")
    if len(data) < HEADER_SIZE + size:
        raise WireError("ChannelData cut short")
    return ChannelData(number, data[HEADER_SIZE : HEADER_SIZE + size])
