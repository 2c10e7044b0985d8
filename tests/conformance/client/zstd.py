"""zstd frames (RFC 8878) of raw and RLE blocks: enough to say what a receiver has to take and to refuse.

frame = magic (4) | descriptor (1) | window (0 or 1) | content size (0 or 8) | block*
block = last (bit 0), type (bits 1-2: 0 raw, 1 RLE), size (21 bits), little-endian (3) | bytes
"""

from __future__ import annotations

from collections.abc import Iterable

MAGIC = b"\x28\xb5\x2f\xfd"
BLOCK_ROOM = 128 << 10
RAW, RLE = 0, 1
_SINGLE_SEGMENT = 0x20
_SIZE_OF_8 = 0xC0


def frame(content: bytes, size: int | None = None) -> bytes:
    """In one segment; `size`: declared in the place of the true one."""
    parts = [content[at : at + BLOCK_ROOM] for at in range(0, len(content), BLOCK_ROOM)] or [b""]
    head = (
        MAGIC + bytes((_SIZE_OF_8 | _SINGLE_SEGMENT,)) + (len(content) if size is None else size).to_bytes(8, "little")
    )
    return head + _blocks((RAW, len(part), part) for part in parts)


def repeated(byte: bytes, count: int) -> bytes:
    """A frame of a few bytes that is `count` times `byte`."""
    sizes = [BLOCK_ROOM] * (count // BLOCK_ROOM) + [count % BLOCK_ROOM] * (count % BLOCK_ROOM > 0)
    head = MAGIC + bytes((_SIZE_OF_8 | _SINGLE_SEGMENT,)) + count.to_bytes(8, "little")
    return head + _blocks((RLE, size, byte) for size in sizes)


def frame_of_unknown_size(content: bytes) -> bytes:
    """With a window of 1 KiB, and no content size."""
    return MAGIC + b"\0\0" + _blocks([(RAW, len(content), content)])


def frame_with_window(content: bytes, exponent: int) -> bytes:
    """With a window of 2 to that power, at least 10."""
    head = MAGIC + bytes((_SIZE_OF_8, exponent - 10 << 3)) + len(content).to_bytes(8, "little")
    return head + _blocks([(RAW, len(content), content)])


def _blocks(parts: Iterable[tuple[int, int, bytes]]) -> bytes:
    parts = list(parts)
    return b"".join(
        (size << 3 | kind << 1 | (number == len(parts))).to_bytes(3, "little") + content
        for number, (kind, size, content) in enumerate(parts, 1)
    )
