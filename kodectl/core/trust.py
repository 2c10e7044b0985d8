"""How far a peer is trusted: a score of what this node has itself seen of it, never of what others say.

    score = uptime * 0.4 + response * 0.3 + success * 0.3          each term from 0 to 1

    uptime   = time linked / time observed       observed: linked, or wanted and out of reach
    response = 1 - mean round trip / 1 s
    success  = requests answered / requests made

The sums behind the terms halve every day, so that what was long ago fades. They belong to the node id: reconnecting
resets nothing. A term counts in full only once enough stands behind it, so that a fresh id gains nothing.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from math import log

UPTIME_WEIGHT = 0.4
RESPONSE_WEIGHT = 0.3
SUCCESS_WEIGHT = 0.3
MAX_RESPONSE_S = 1.0
"""A round trip of a second and more scores nothing. Twice round the earth, by satellite."""

HALF_LIFE_S = 24 * 3600.0
"""Nodes come and go by the day; a bad day is half forgotten after a good one."""
MIN_OBSERVED_S = 600.0
MIN_REQUESTS = 10.0
"""Ten minutes and ten heartbeats: with less behind it a peer is new, and its terms count in proportion."""
RESPONSE_GAIN = 1 / 8
"""Of a new round trip in the mean (RFC 6298, section 2)."""
FAULT_COST = 10.0
"""Failed requests that a broken protocol counts for: one takes hours of good service to make up."""

HIGH_SCORE = 0.75
MEDIUM_SCORE = 0.4
"""A peer that is always there and always answers, but slowly, has 0.7: never low for being far away."""
FAILING_BELOW = 0.5
"""Who answers less than half of the time is low, whatever its uptime."""

_SUM_LIMIT_S = HALF_LIFE_S / log(2)
"""What a sum that grows by one a second tends to under decay."""


class Rank(IntEnum):
    """The documented priorities; a higher number goes first."""

    LOW = 0
    MEDIUM = 1
    HIGH = 2


class Presence(Enum):
    UNOBSERVED = "unobserved"
    """Not linked, and no link was wanted: the time counts neither way."""
    LINKED = "linked"
    OUT_OF_REACH = "out of reach"


class Trust:
    """The decaying sums of one peer. `now` is one clock, in seconds; it never resets anything by going backwards."""

    __slots__ = ("asked", "linked_s", "observed_s", "presence", "response_s", "succeeded", "time")

    def __init__(self, now: float) -> None:
        self.linked_s = 0.0
        self.observed_s = 0.0
        self.response_s: float | None = None
        self.succeeded = 0.0
        self.asked = 0.0
        self.time = now
        self.presence = Presence.UNOBSERVED

    def observe(self, presence: Presence, now: float) -> None:
        """From now on the peer is `presence`."""
        self.advance(now)
        self.presence = presence

    def answered(self, now: float, response_s: float | None = None) -> None:
        """A request of ours was answered: a dial, a heartbeat."""
        self.advance(now)
        self.asked += 1
        self.succeeded += 1
        if response_s is not None:
            mean = response_s if self.response_s is None else self.response_s
            self.response_s = mean + (response_s - mean) * RESPONSE_GAIN

    def failed(self, now: float, cost: float = 1.0) -> None:
        self.advance(now)
        self.asked += cost

    def advance(self, now: float) -> None:
        """Decays the sums, and adds the time that has passed."""
        passed = now - self.time
        if passed <= 0:
            return
        self.time = now
        kept = 0.5 ** (passed / HALF_LIFE_S)
        gained = _SUM_LIMIT_S * (1 - kept)
        self.linked_s = self.linked_s * kept + (gained if self.presence is Presence.LINKED else 0.0)
        self.observed_s = self.observed_s * kept + (gained if self.presence is not Presence.UNOBSERVED else 0.0)
        self.succeeded *= kept
        self.asked *= kept

    def score(self, now: float) -> float:
        """From 0 to 1."""
        self.advance(now)
        uptime = self.linked_s / max(self.observed_s, MIN_OBSERVED_S)
        success = self.succeeded / max(self.asked, MIN_REQUESTS)
        response = 0.0
        if self.response_s is not None:
            response = (1 - self.response_s / MAX_RESPONSE_S) * min(1.0, self.asked / MIN_REQUESTS)
        return _clamp(uptime) * UPTIME_WEIGHT + _clamp(response) * RESPONSE_WEIGHT + _clamp(success) * SUCCESS_WEIGHT

    def rank(self, now: float, *, privileged: bool = False) -> Rank:
        """`privileged`: bootstrap nodes and validators, by configuration; nothing on the wire can claim it."""
        if privileged:
            return Rank.HIGH
        score = self.score(now)
        if self.is_new or self.succeeded < self.asked * FAILING_BELOW:
            return Rank.LOW
        if score >= HIGH_SCORE:
            return Rank.HIGH
        return Rank.MEDIUM if score >= MEDIUM_SCORE else Rank.LOW

    @property
    def is_new(self) -> bool:
        """Too little has been seen of it, ever or for days."""
        return self.observed_s < MIN_OBSERVED_S or self.asked < MIN_REQUESTS


def _clamp(term: float) -> float:
    return min(1.0, max(0.0, term))
