"""Frames: batches of messages, compressed and sealed as a whole (docs/protocol.md, "Frames"); no I/O.

segment = size of the ciphertext (2) | Noise transport message
plaintext of a segment = flags (1) | bytes            flags: 1 compressed, 2 more segments follow
content of a frame = message*                         message = type (1) | size (LEB128) | body
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO

import zstandard

from kodectl.errors import LocalMisuse, WireError
from kodectl.wire.noise import CipherState
from kodectl.wire.suite import TAG_SIZE

COMPRESSED = 1
MORE_FOLLOWS = 2

MIN_SEGMENT = 1 + TAG_SIZE
MAX_SEGMENT = 65_535
"""A Noise transport message is no longer, and two bytes count no further."""
SEGMENT_ROOM = MAX_SEGMENT - MIN_SEGMENT
"""Bytes of a frame that fit into one segment."""
MAX_CONTENT = (4 << 20) + (64 << 10)
"""The largest message (a block of 4 MiB) and room for its envelope."""
MAX_MESSAGES = 4096
"""In one frame. A message may be two bytes, and a compressed kilobyte could hold two million: a second of the hub."""
MAX_SIZE_BYTES = 9
"""Of a LEB128 size: 63 bits. A size of 2^63 needs a tenth byte and is refused there."""

COMPRESS_ABOVE = 1024
"""Below this, zstd gains less than its header and the time cost (ratio 1.0 to 1.15)."""
_COMPRESSION_LEVEL = 1
_MAX_WINDOW = 8 << 20
_MAX_SKIPPED = 64
"""Most frames sent without trying after one that did not shrink: keeps the cost of trying under 2 % for payloads that
are compressed or encrypted already, and finds out within a few MiB that the traffic has changed."""

Message = tuple[int, bytes]


def encode_message(kind: int, body: bytes) -> bytes:
    """type | size | body: what `FrameEncoder.seal` joins, and what several links can share.

    Raises LocalMisuse for a message that no frame can hold."""
    size = len(body)
    if size > MAX_CONTENT - 1 - MAX_SIZE_BYTES:
        raise LocalMisuse(f"message of {size} bytes; a frame holds {MAX_CONTENT}", code="payload_too_large")
    prefix = bytearray((kind,))
    while size > 0x7F:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    return b"".join((prefix, body))


def decode_messages(content: bytes, offset: int = 0) -> list[Message]:
    """The messages of a frame's content, from `offset` on. Types are not judged here. Raises WireError."""
    messages: list[Message] = []
    end = len(content)
    while offset < end:
        kind = content[offset]
        size, offset = _read_size(content, offset + 1)
        stop = offset + size
        if stop > end:
            raise WireError(f"message of {size} bytes in a frame that has {end - offset} left")
        if len(messages) == MAX_MESSAGES:
            raise WireError(f"more than {MAX_MESSAGES} messages in a frame")
        messages.append((kind, content[offset:stop]))
        offset = stop
    return messages


def _read_size(content: bytes, offset: int) -> tuple[int, int]:
    """A LEB128 number and the offset after it."""
    size = 0
    for position, byte in enumerate(content[offset : offset + MAX_SIZE_BYTES]):
        size |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return size, offset + position + 1
    if len(content) - offset < MAX_SIZE_BYTES:
        raise WireError("frame ends within a message's size")
    raise WireError(f"message size longer than {MAX_SIZE_BYTES} bytes")


class Compression:
    """zstd contexts, made when first needed.

    One pair serves all links of a node: a compressor grows to 1.4 MB, and no two frames are ever coded at once, because
    coding does not wait. Not for use from several threads."""

    __slots__ = ("_compressor", "_decompressor")

    def __init__(self) -> None:
        self._compressor: zstandard.ZstdCompressor | None = None
        self._decompressor: zstandard.ZstdDecompressor | None = None

    def compress(self, content: bytes) -> bytes:
        if self._compressor is None:
            self._compressor = zstandard.ZstdCompressor(level=_COMPRESSION_LEVEL, write_content_size=True)
        return self._compressor.compress(content)

    def decompress(self, frame: bytes) -> bytes:
        """Raises WireError. What a frame declares is judged before anything is allocated for it: zstandard would
        believe a declared size over any `max_output_size`."""
        if self._decompressor is None:
            self._decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        try:
            declared = zstandard.get_frame_parameters(frame)
            if declared.content_size == zstandard.CONTENTSIZE_UNKNOWN:
                raise WireError("zstd frame that does not declare its size")
            if declared.content_size > MAX_CONTENT:
                raise WireError(f"zstd frame of {declared.content_size} bytes; the limit is {MAX_CONTENT}")
            if declared.window_size > _MAX_WINDOW:
                raise WireError(f"zstd frame with a window of {declared.window_size} bytes; the limit is {_MAX_WINDOW}")
            return self._decompressor.decompress(frame, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise WireError(f"zstd: {error}") from error


class _Trial:
    """Whether compressing is worth a try: after frames that did not shrink, the next 1, 2, 4 ... are not tried."""

    __slots__ = ("_pause", "_skipping")

    def __init__(self) -> None:
        self._pause = 0
        self._skipping = 0

    def due(self) -> bool:
        if self._skipping:
            self._skipping -= 1
            return False
        return True

    def record(self, shrank: bool) -> None:
        self._pause = 0 if shrank else min(max(1, 2 * self._pause), _MAX_SKIPPED)
        self._skipping = self._pause


class FrameEncoder:
    """Messages to segments, in the order they are to be written."""

    __slots__ = ("_cipher", "_compression", "_trial")

    def __init__(self, cipher: CipherState, compression: Compression) -> None:
        self._cipher = cipher
        self._compression = compression
        self._trial = _Trial()

    def seal(self, messages: Sequence[bytes]) -> Iterator[bytes]:
        """The segments of one frame of encoded messages. Each is sealed when it is asked for, so a block needs no
        second copy of itself; the iterator has to be used up before the next frame is begun."""
        size = sum(map(len, messages))
        if size > COMPRESS_ABOVE and self._trial.due():
            content = b"".join(messages)
            compressed = self._compression.compress(content)
            shrank = len(compressed) < size
            self._trial.record(shrank)
            return self._split(compressed, COMPRESSED) if shrank else self._split(content, 0)
        if size > SEGMENT_ROOM:
            return self._split(b"".join(messages), 0)
        return iter((self._segment(b"".join((b"\0", *messages))),))

    def _split(self, content: bytes, flags: int) -> Iterator[bytes]:
        view = memoryview(content)
        for offset in range(0, len(content), SEGMENT_ROOM):
            more = MORE_FOLLOWS if offset + SEGMENT_ROOM < len(content) else 0
            yield self._segment(b"".join((bytes((flags | more,)), view[offset : offset + SEGMENT_ROOM])))

    def _segment(self, plaintext: bytes) -> bytes:
        sealed = self._cipher.encrypt(plaintext)
        return len(sealed).to_bytes(2) + sealed


class FrameDecoder:
    """Segments to messages. After a WireError the stream has no meaning any more: the link ends."""

    __slots__ = ("_cipher", "_compressed", "_compression", "_partial")

    def __init__(self, cipher: CipherState, compression: Compression) -> None:
        self._cipher = cipher
        self._compression = compression
        self._partial: BytesIO | None = None
        """What has come of a frame of several segments."""
        self._compressed = 0

    def open(self, segment: bytes) -> list[Message]:
        """Takes a segment's ciphertext. The messages of the frame that it completes; none while more follow."""
        plaintext = self._cipher.decrypt(segment)
        if not plaintext:
            raise WireError("segment without flags")
        flags = plaintext[0]
        if flags > COMPRESSED | MORE_FOLLOWS:
            raise WireError(f"segment with flags {flags:#04x}")
        if self._partial is None and not flags:
            return decode_messages(plaintext, 1)
        content = self._join(flags, plaintext)
        if content is None:
            return []
        return decode_messages(self._compression.decompress(content) if self._compressed else content)

    def _join(self, flags: int, plaintext: bytes) -> bytes | None:
        """The whole frame, once it is there. In one buffer, not a list of parts: a peer may send a byte a segment."""
        if self._partial is None:
            self._partial = BytesIO()
            self._compressed = flags & COMPRESSED
        if self._partial.tell() + len(plaintext) - 1 > MAX_CONTENT:
            raise WireError(f"frame of more than {MAX_CONTENT} bytes")
        self._partial.write(memoryview(plaintext)[1:])
        if flags & MORE_FOLLOWS:
            if len(plaintext) == 1:
                raise WireError("empty segment that promises more")
            return None
        content = self._partial.getvalue()
        self._partial = None
        return content


def check_segment_size(size: int) -> None:
    """Before waiting for the segment. Raises WireError; two bytes cannot say too much."""
    if size < MIN_SEGMENT:
        raise WireError(f"segment of {size} bytes; the least is {MIN_SEGMENT}")
