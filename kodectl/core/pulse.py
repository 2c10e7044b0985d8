"""The heartbeat of one link: when to ask, what an answer tells, when the other side counts as gone.

every 30 s since the last answer    ask
10 s without an answer              missed: ask again
three missed                        gone, after 60 s; with the sweeper's step never more than 75 s
"""

from __future__ import annotations

from collections import deque
from enum import Enum

INTERVAL_S = 30.0
ANSWER_LIMIT_S = 10.0
OVERDUE_LIMIT_S = 120.0
"""An answer may wait behind two blocks of 4 MiB at 70 kB/s; later it is missed, whatever else comes."""
MAX_MISSED = 3
SAMPLES = 20
"""Ten minutes of heartbeats behind average and loss."""


class Beat(Enum):
    QUIET = "nothing to do"
    ASK = "ask"
    ASK_AGAIN = "the last one was missed; ask"
    GONE = "three were missed"


class Pulse:
    """`now` is monotonic seconds. One question is open at a time, so a machine that slept misses one at most."""

    __slots__ = ("_asked_at", "_bytes_when_asked", "_next_at", "_open", "_sent_at", "missed", "samples")

    def __init__(self, now: float) -> None:
        self.samples: deque[float | None] = deque(maxlen=SAMPLES)
        """Round trips in seconds, the newest last; None for one that was missed."""
        self.missed = 0
        """In a row."""
        self._next_at = now
        self._open: int | None = None
        self._asked_at = now
        self._bytes_when_asked = 0
        self._sent_at: dict[int, float] = {}

    def check(self, now: float, bytes_received: int) -> Beat:
        """To be called every few seconds. `bytes_received`: by the link so far.

        A link over which other bytes came is not silent, its answer waits behind a block: then a late one is no miss."""
        if self._open is None:
            return Beat.ASK if now >= self._next_at else Beat.QUIET
        if now - self._asked_at < ANSWER_LIMIT_S:
            return Beat.QUIET
        overdue = now - self._sent_at[self._open] >= OVERDUE_LIMIT_S
        if bytes_received > self._bytes_when_asked and not overdue:
            self._asked_at = now
            self._bytes_when_asked = bytes_received
            return Beat.QUIET
        self._open = None
        self.missed += 1
        self.samples.append(None)
        return Beat.GONE if self.missed >= MAX_MISSED else Beat.ASK_AGAIN

    def asked(self, number: int, now: float, bytes_received: int) -> None:
        """A question with this number has been sent."""
        self._open = number
        self._asked_at = self._sent_at[number] = now
        self._bytes_when_asked = bytes_received
        if len(self._sent_at) > MAX_MISSED:
            del self._sent_at[next(iter(self._sent_at))]

    def answered(self, number: int, now: float) -> float | None:
        """The round trip in seconds; None for an answer to nothing that was asked. A late answer counts as life."""
        sent_at = self._sent_at.pop(number, None)
        if sent_at is None:
            return None
        self._open = None
        self.missed = 0
        self._next_at = now + INTERVAL_S
        self.samples.append(now - sent_at)
        return now - sent_at

    @property
    def round_trips_s(self) -> list[float]:
        return [sample for sample in self.samples if sample is not None]

    @property
    def loss(self) -> float | None:
        """Share of the recent heartbeats that were missed; unknown before the first."""
        return 1 - len(self.round_trips_s) / len(self.samples) if self.samples else None
