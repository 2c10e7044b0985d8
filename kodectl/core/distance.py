"""Kademlia's XOR distance over 256-bit ids."""

from __future__ import annotations

ID_BITS = 256


def distance(a: bytes, b: bytes) -> int:
    return int.from_bytes(a) ^ int.from_bytes(b)


def shared_bits(a: bytes, b: bytes) -> int:
    """Number of leading bits that two ids share; 256 for equal ids."""
    return ID_BITS - distance(a, b).bit_length()
