"""As much of MessagePack (github.com/msgpack/msgpack/blob/master/spec.md) as the protocol's bodies need."""

from __future__ import annotations

import struct
from typing import Any

_SIZED = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I", 0xD9: ">B", 0xDA: ">H", 0xDB: ">I", 0xDC: ">H", 0xDD: ">I"}
_NUMBERS = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_TEXTS = (0xD9, 0xDA, 0xDB)
_ARRAYS = (0xDC, 0xDD)


def pack(value: Any) -> bytes:
    """Not in the shortest form everywhere: a reader takes every form."""
    if value is None or isinstance(value, bool):
        return b"\xc0" if value is None else b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return bytes((value,)) if 0 <= value < 128 else struct.pack(">BQ", 0xCF, value)
    if isinstance(value, bytes):
        return struct.pack(">BI", 0xC6, len(value)) + value
    if isinstance(value, str):
        return struct.pack(">BH", 0xDA, len(value.encode())) + value.encode()
    return struct.pack(">BH", 0xDC, len(value)) + b"".join(map(pack, value))


def unpack(packed: bytes) -> Any:
    """The one value that `packed` is."""
    value, end = _read(packed, 0)
    if end != len(packed):
        raise ValueError(f"{len(packed) - end} bytes after the value")
    return value


def _read(packed: bytes, at: int) -> tuple[Any, int]:
    first, at = packed[at], at + 1
    if first < 0x80 or first >= 0xE0:
        return (first if first < 0x80 else first - 256), at
    if first in _CONSTANTS:
        return _CONSTANTS[first], at
    if first in _NUMBERS:
        (number,) = struct.unpack_from(_NUMBERS[first], packed, at)
        return number, at + struct.calcsize(_NUMBERS[first])
    if 0x90 <= first < 0xA0:
        return _items(packed, at, first & 0x0F)
    if 0xA0 <= first < 0xC0:
        size = first & 0x1F
        return packed[at : at + size].decode(), at + size
    (size,) = struct.unpack_from(_SIZED[first], packed, at)
    at += struct.calcsize(_SIZED[first])
    if first in _ARRAYS:
        return _items(packed, at, size)
    content = packed[at : at + size]
    if len(content) < size:
        raise ValueError("cut short")
    return (content.decode() if first in _TEXTS else content), at + size


def _items(packed: bytes, at: int, count: int) -> tuple[list[Any], int]:
    items = []
    for _ in range(count):
        item, at = _read(packed, at)
        items.append(item)
    return items, at
