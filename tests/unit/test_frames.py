"""Frames: what one side seals the other reads, and nothing else gets through, cheaply."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kodectl.errors import LocalMisuse, WireError
from kodectl.wire.frames import (
    MAX_CONTENT,
    MAX_MESSAGES,
    MAX_SEGMENT,
    SEGMENT_ROOM,
    Compression,
    FrameDecoder,
    FrameEncoder,
    check_segment_size,
    decode_messages,
    encode_message,
)
from kodectl.wire.noise import CipherState
from kodectl.wire.suite import RealSuite

KEY = bytes(range(32))
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "frames.json").read_text())


def cipher() -> CipherState:
    return CipherState(RealSuite().aead(KEY))


def encoder() -> FrameEncoder:
    return FrameEncoder(cipher(), Compression())


def decoder() -> FrameDecoder:
    return FrameDecoder(cipher(), Compression())


def read(segments: list[bytes], reader: FrameDecoder) -> list[tuple[int, bytes]]:
    """The messages of all frames in wire segments, whose sizes are checked."""
    found = []
    for segment in segments:
        assert int.from_bytes(segment[:2]) == len(segment) - 2 <= MAX_SEGMENT
        found += reader.open(segment[2:])
    return found


def plain(*plaintexts: bytes) -> list[tuple[int, bytes]]:
    """What a decoder makes of segments with these plaintexts: what a peer with valid keys can say."""
    sender, reader = cipher(), decoder()
    found = []
    for plaintext in plaintexts:
        found += reader.open(sender.encrypt(plaintext))
    return found


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=lambda vector: vector["name"])
def test_vector(vector):
    messages = [(kind, bytes.fromhex(body)) for kind, body in vector["messages"]]
    key = RealSuite().aead(bytes.fromhex(VECTORS["key"]))
    segments = [bytes.fromhex(segment) for segment in vector["segments"]]
    assert read(segments, FrameDecoder(CipherState(key), Compression())) == messages
    if vector["encodes"]:  # zstd's bytes may differ from version to version.
        sealed = FrameEncoder(CipherState(key), Compression()).seal([encode_message(*m) for m in messages])
        assert list(sealed) == segments


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda vector: vector["name"])
def test_refused_vector(vector):
    key = RealSuite().aead(bytes.fromhex(VECTORS["key"]))
    with pytest.raises(WireError, match=vector["why"]):
        read([bytes.fromhex(segment) for segment in vector["segments"]], FrameDecoder(CipherState(key), Compression()))


BODIES = st.one_of(
    st.binary(max_size=300),
    st.integers(0, 200_000).map(bytes),
    st.integers(0, 200_000).map(noise),
)


@given(st.lists(st.lists(st.tuples(st.integers(0, 255), BODIES), max_size=6), max_size=4))
def test_what_is_sealed_is_read(frames):
    writer, reader = encoder(), decoder()
    for messages in frames:
        segments = list(writer.seal([encode_message(kind, body) for kind, body in messages]))
        assert read(segments, reader) == messages


@given(st.binary(max_size=400))
def test_any_plaintext_gives_messages_or_a_wire_error(plaintext):
    try:
        plain(plaintext)
    except WireError:
        pass


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=60)), max_size=8))
def test_any_segments_give_messages_or_a_wire_error(segments):
    try:
        plain(*(bytes((flags,)) + data for flags, data in segments))
    except WireError:
        pass


@given(st.binary(max_size=200), st.binary(max_size=20))
def test_any_zstd_frame_gives_bytes_or_a_wire_error(content, junk):
    frame = bytearray(zstandard.ZstdCompressor().compress(content))
    for position, byte in enumerate(junk):
        frame[(position * 7) % len(frame)] ^= byte
    try:
        assert len(Compression().decompress(bytes(frame))) <= MAX_CONTENT
    except WireError:
        pass


@given(st.binary(max_size=200))
def test_unsealed_bytes_are_refused(data):
    with pytest.raises(WireError, match="not sealed"):
        decoder().open(data)


# Sizes


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2**21, 4 << 20])
def test_size_is_leb128(size):
    encoded = encode_message(5, bytes(size))
    assert decode_messages(encoded) == [(5, bytes(size))]
    assert len(encoded) == 1 + max(1, (size.bit_length() + 6) // 7) + size


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("05", "ends within a message's size"),
        ("0580", "ends within a message's size"),
        ("050261", "message of 2 bytes in a frame that has 1 left"),
        # 2^63: the tenth byte is never looked at.
        ("05" + "80" * 9 + "01", "size longer than 9 bytes"),
        # 2^63 - 1: well-formed, and refused for what the frame holds.
        ("05" + "ff" * 8 + "7f", "message of 9223372036854775807 bytes"),
    ],
)
def test_bad_size_is_refused(content, why):
    with pytest.raises(WireError, match=why):
        plain(b"\0" + bytes.fromhex(content))


def test_message_that_no_frame_holds_is_not_made():
    with pytest.raises(LocalMisuse):
        encode_message(4, bytes(MAX_CONTENT))


@pytest.mark.parametrize("size", [0, 16])
def test_short_segment_is_refused(size):
    with pytest.raises(WireError, match="segment of"):
        check_segment_size(size)


def test_segment_of_the_least_size():
    check_segment_size(17)
    assert plain(b"\0") == []


# Several segments


def test_large_message_spans_segments():
    body = noise(4 << 20)
    segments = list(encoder().seal([encode_message(4, body)]))
    assert len(segments) == -(-(len(body) + 5) // SEGMENT_ROOM)
    assert all(len(segment) == 2 + MAX_SEGMENT for segment in segments[:-1])
    assert read(segments, decoder()) == [(4, body)]


def test_frame_that_fills_a_segment_is_one_segment():
    body = noise(SEGMENT_ROOM - 4)
    assert len(encode_message(4, body)) == SEGMENT_ROOM
    assert len(list(encoder().seal([encode_message(4, body)]))) == 1
    assert len(list(encoder().seal([encode_message(4, body + b"+")]))) == 2


def test_frame_over_the_limit_is_refused():
    piece = bytes((2,)) + bytes(SEGMENT_ROOM)
    with pytest.raises(WireError, match="frame of more than"):
        plain(*[piece] * (MAX_CONTENT // SEGMENT_ROOM + 1))


def test_empty_segments_cannot_go_on_for_ever():
    with pytest.raises(WireError, match="empty segment"):
        plain(b"\x02")


def test_tiny_segments_take_no_more_memory_than_they_bring():
    sender, reader = cipher(), decoder()
    segments = [sender.encrypt(b"\x02a") for _ in range(50_000)]
    tracemalloc.start()
    for segment in segments:
        reader.open(segment)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000


@pytest.mark.parametrize("flags", [4, 0x80, 0xFF])
def test_unknown_flag_is_refused(flags):
    with pytest.raises(WireError, match="flags"):
        plain(bytes((flags,)))


def test_segment_without_flags_is_refused():
    with pytest.raises(WireError, match="without flags"):
        plain(b"")


def test_too_many_messages_are_refused():
    assert len(plain(b"\0" + b"\x07\0" * MAX_MESSAGES)) == MAX_MESSAGES
    with pytest.raises(WireError, match="more than 4096 messages"):
        plain(b"\0" + b"\x07\0" * (MAX_MESSAGES + 1))


# Compression


def flag_of(segment: bytes) -> int:
    return cipher().decrypt(segment[2:])[0]


@pytest.mark.parametrize(
    ("body", "flag"),
    [(bytes(1021), 0), (bytes(1022), 1), (noise(5000), 0)],
    ids=["1 KiB", "over 1 KiB", "does not shrink"],
)
def test_compresses_only_what_is_large_and_shrinks(body, flag):
    (segment,) = encoder().seal([encode_message(5, body)])
    assert flag_of(segment) == flag


class CountingCompression(Compression):
    tries = 0

    def compress(self, content: bytes) -> bytes:
        self.tries += 1
        return super().compress(content)


def test_tries_less_and_less_while_nothing_shrinks():
    compression = CountingCompression()
    writer = FrameEncoder(cipher(), compression)
    for _ in range(1000):
        list(writer.seal([encode_message(5, noise(2000))]))
    assert 1000 / 64 <= compression.tries < 25


def test_finds_out_that_frames_shrink_again():
    compression = CountingCompression()
    writer = FrameEncoder(cipher(), compression)
    for _ in range(200):
        list(writer.seal([encode_message(5, noise(2000))]))
    before = compression.tries
    for _ in range(64 + 100):
        list(writer.seal([encode_message(5, bytes(2000))]))
    assert compression.tries - before >= 100


def bomb(size: int, **options: bool) -> bytes:
    return zstandard.ZstdCompressor(level=19, **options).compress(bytes(size))


def streamed(size: int, window_log: int) -> bytes:
    """Declares no size, and a window of its own."""
    parameters = zstandard.ZstdCompressionParameters(window_log=window_log)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return stream.compress(bytes(size)) + stream.flush()


def declares(size: int) -> bytes:
    """A whole zstd frame whose header claims `size` and whose only block is empty."""
    return bytes.fromhex("28b52ffde0") + size.to_bytes(8, "little") + bytes.fromhex("010000")


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (bomb(64 << 20), "zstd frame of 67108864 bytes"),
        (bomb(MAX_CONTENT + 1), "zstd frame of 4259841 bytes"),
        (declares(2**63), "zstd frame of 9223372036854775808 bytes"),
        (bomb(1 << 20, write_content_size=False), "does not declare its size"),
        (streamed(1 << 20, 27), "does not declare its size"),
        (b"", "zstd: "),
        (noise(100), "zstd: "),
        (bomb(100) + b"more", "zstd: "),
        (bomb(100)[:-1], "zstd: "),
    ],
    ids=["64 MiB", "one over", "2^63", "no size", "window 128 MiB", "empty", "noise", "extra", "cut"],
)
def test_bomb_is_refused_without_memory(frame, why):
    compression = Compression()
    compression.decompress(bomb(0))
    tracemalloc.start()
    with pytest.raises(WireError, match=why):
        compression.decompress(frame)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_frame_that_declares_what_it_does_not_hold_is_refused():
    with pytest.raises(WireError, match="zstd: "):
        Compression().decompress(declares(4 << 20))


def test_window_over_the_limit_is_refused():
    # Not a single segment: window descriptor 0x90 = 2^28 bytes; content size 8 bytes = 100.
    frame = bytes.fromhex("28b52ffdc090") + (100).to_bytes(8, "little") + bytes.fromhex("010000")
    with pytest.raises(WireError, match="window of 268435456 bytes"):
        Compression().decompress(frame)


def test_largest_frame_passes_compressed():
    assert Compression().decompress(bomb(MAX_CONTENT)) == bytes(MAX_CONTENT)


def test_messages_within_a_small_compressed_frame_are_bounded():
    frame = zstandard.ZstdCompressor(level=19).compress(b"\x07\0" * 2_000_000)
    assert len(frame) < 2000
    with pytest.raises(WireError, match="more than 4096 messages"):
        plain(b"\x01" + frame)
