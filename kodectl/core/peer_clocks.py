"""How far this machine's clock is from those of others, by what they say in their pongs.

What a node says is kept against the monotonic clock, so that setting this machine's clock right shows at once. One network
has one voice, as in `core.observers`, and the median counts: less than half of the networks cannot move it out of what the
others say.
"""

from __future__ import annotations

from statistics import median
from typing import NamedTuple

from kodectl.core.observers import group_of

MIN_VOICES = 3
"""Networks that must have spoken before it is this clock that is held to be wrong, and not theirs."""
MAX_VOICES = 64
VALIDITY_S = 600.0
"""Clocks drift by less than a second meanwhile."""
WRONG_S = 60.0
"""From here on announcements on the local network are refused (docs/protocol.md), and from twice that on messages that seem
to come from the future."""


class ClockBelief(NamedTuple):
    """`ahead_s`: by how much this clock is ahead (negative: behind), right to within a round trip; None: nobody has spoken."""

    ahead_s: float | None
    voices: int

    @property
    def is_wrong(self) -> bool:
        return self.ahead_s is not None and self.voices >= MIN_VOICES and abs(self.ahead_s) >= WRONG_S


class PeerClocks:
    def __init__(self) -> None:
        self._words: dict[str, tuple[float, float]] = {}
        """By network: its Unix time minus our monotonic time, and when it said so."""

    def hear(self, ip: str, unix_time: float, now: float) -> None:
        """`unix_time`: what the node at `ip` says that it is."""
        group = group_of(ip)
        self._words.pop(group, None)
        if len(self._words) >= MAX_VOICES:
            del self._words[next(iter(self._words))]
        self._words[group] = (unix_time - now, now)

    def belief(self, now: float, unix_time: float) -> ClockBelief:
        recent = [offset for offset, at in self._words.values() if now - at <= VALIDITY_S]
        if not recent:
            return ClockBelief(None, 0)
        return ClockBelief(unix_time - now - median(recent), len(recent))
