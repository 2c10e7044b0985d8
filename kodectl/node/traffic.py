"""Bytes and messages of all links since the start, and messages a second over the last minute."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from kodectl.node.link import Link

WINDOW_S = 60.0
MAX_SAMPLES = 64
"""A sample at most every second of the window."""


class Totals(NamedTuple):
    bytes_sent: int = 0
    bytes_received: int = 0
    messages_sent: int = 0
    messages_received: int = 0

    def plus(self, link: Link) -> Totals:
        return Totals(
            self.bytes_sent + link.bytes_sent,
            self.bytes_received + link.bytes_received,
            self.messages_sent + link.messages_sent,
            self.messages_received + link.messages_received,
        )

    @property
    def messages(self) -> int:
        return self.messages_sent + self.messages_received


class Traffic:
    """Links count themselves; what an ended one has counted is added here."""

    def __init__(self, now: float) -> None:
        self._ended = Totals()
        self._samples: deque[tuple[float, int]] = deque([(now, 0)], maxlen=MAX_SAMPLES)

    def add_ended(self, link: Link) -> None:
        self._ended = self._ended.plus(link)

    def totals(self, links: Iterable[Link]) -> Totals:
        """`links` are those alive."""
        totals = self._ended
        for link in links:
            totals = totals.plus(link)
        return totals

    def sample(self, totals: Totals, now: float) -> None:
        """To be called every few seconds."""
        self._samples.append((now, totals.messages))
        while now - self._samples[0][0] > WINDOW_S:
            self._samples.popleft()

    def messages_per_second(self, totals: Totals, now: float) -> float:
        since, messages = self._samples[0]
        return (totals.messages - messages) / max(now - since, 1.0)
