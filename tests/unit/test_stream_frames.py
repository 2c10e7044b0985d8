"""Datagrams over a stream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.errors import WireError
from kodectl.wire.stream_frames import HEADER_SIZE, MAX_DATAGRAM, pack_frame, unpack_length


def test_a_frame_is_the_length_and_the_datagram() -> None:
    assert pack_frame(b"\x00\x01abc") == bytes.fromhex("0005 0001 616263")
    assert pack_frame(b"") == bytes.fromhex("0000")


def test_more_than_the_length_can_say_is_not_packed() -> None:
    assert len(pack_frame(bytes(MAX_DATAGRAM))) == MAX_DATAGRAM + HEADER_SIZE
    with pytest.raises(WireError, match="65536 bytes"):
        pack_frame(bytes(MAX_DATAGRAM + 1))


@given(st.binary(max_size=8))
def test_any_header_is_a_length_or_too_short(data: bytes) -> None:
    if len(data) < HEADER_SIZE:
        with pytest.raises(WireError, match="short"):
            unpack_length(data)
    else:
        assert unpack_length(data) == data[0] << 8 | data[1]


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_what_is_packed_in_a_row_is_read_in_a_row(datagrams: list[bytes]) -> None:
    stream = b"".join(pack_frame(data) for data in datagrams)
    read = []
    while stream:
        size = unpack_length(stream)
        read.append(stream[HEADER_SIZE : HEADER_SIZE + size])
        stream = stream[HEADER_SIZE + size :]
    assert read == datagrams
