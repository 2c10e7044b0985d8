"""The answer that a route gave last, as bytes: whoever asks the same a moment later gets it again.

With fifty peers, making and encoding the answer of `/api/network/peers` takes four times as long as everything else about
a request. Clients that ask thousands of times a second would starve the node's own work with it."""

from __future__ import annotations

from collections.abc import Hashable

KEPT_S = 0.05
"""Shorter than anybody's next look, and long enough for hundreds of requests of those who do nothing else."""


class Kept:
    """One answer at a time: `state` is what must be the same for it to hold, beside the time; so nothing that has just
    been done, or told as an event, is missing from it."""

    __slots__ = ("_answer", "_state", "_until")

    def __init__(self) -> None:
        self._answer = b""
        self._state: Hashable = None
        self._until = float("-inf")

    def get(self, state: Hashable, now: float) -> bytes | None:
        return self._answer if now < self._until and state == self._state else None

    def put(self, state: Hashable, now: float, answer: bytes) -> None:
        self._answer, self._state, self._until = answer, state, now + KEPT_S
