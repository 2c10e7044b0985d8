"""Mutations without a fuzzer, from a seed: what the smoke test runs beside the kept inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

EDGES = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\r\n", b"%", b"0" * 20, b'"')
MAX_SIZE = 4096


def mutations(inputs: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """`count` of them; each is one of `inputs`, changed in one to four places."""
    random = Random(seed)
    for _ in range(count):
        data = bytearray(random.choice(inputs))
        for _ in range(random.randint(1, 4)):
            _change(data, inputs, random)
        yield bytes(data[:MAX_SIZE])


def _change(data: bytearray, inputs: Sequence[bytes], random: Random) -> None:
    at = random.randint(0, len(data))
    match random.randrange(6):
        case 0:
            data[at : at + 1] = bytes((random.randrange(256),))
        case 1 if at < len(data):
            data[at] ^= 1 << random.randrange(8)
        case 2:
            del data[at : at + random.randint(1, 8)]
        case 3:
            data[at:at] = random.choice(EDGES)
        case 4:
            data[at:at] = data[at : at + random.randint(1, 32)]
        case _:
            other = random.choice(inputs)
            data[at:] = other[min(at, len(other)) :]
