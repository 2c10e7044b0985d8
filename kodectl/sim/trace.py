"""A hash of everything that went over the network: two runs were the same if theirs are."""

from __future__ import annotations

import hashlib
from enum import IntEnum
from struct import Struct

HEADER = Struct(">BddIiIiI")
"""Kind, time of sending, time of arrival (negative: never), source host and port, target host and port, length."""

NO_HOST = 0xFFFFFFFF

BATCH = 512
"""Records hashed at once: the hash costs less for one large piece than for many small ones."""


class Kind(IntEnum):
    DATAGRAM = 0
    ANNOUNCEMENT = 1
    DIAL = 2
    REFUSAL = 3
    ACCEPTANCE = 4
    DATA = 5
    CREDIT = 6
    END = 7
    RESET = 8


class Trace:
    """`has_contents`: whether the bytes count, or only when how many of them went where."""

    def __init__(self, *, has_contents: bool = True) -> None:
        self._has_contents = has_contents
        self._hash = hashlib.blake2b(digest_size=32)
        self._pending: list[bytes] = []

    def record(
        self, kind: int, sent: float, arrival: float, source: int, port: int, target: int, target_port: int, data: bytes
    ) -> None:
        """`source` and `target` are numbers of hosts."""
        pending = self._pending
        pending.append(HEADER.pack(kind, sent, arrival, source, port, target, target_port, len(data)))
        if self._has_contents:
            pending.append(data)
        if len(pending) >= 2 * BATCH:
            self._flush()

    def hexdigest(self) -> str:
        self._flush()
        return self._hash.hexdigest()

    def _flush(self) -> None:
        self._hash.update(b"".join(self._pending))
        self._pending.clear()
