"""Rates: how much of something may happen per second."""

from __future__ import annotations

from collections import OrderedDict


class TokenBucket:
    """Lets `rate` pass a second on average, and `burst` at once."""

    __slots__ = ("_burst", "_level", "_rate", "_time")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._time = float("-inf")

    def take(self, now: float, amount: float = 1.0) -> bool:
        """Whether `amount` may pass now; if so, it is taken."""
        if now > self._time:
            self._gain(now)
        if self._level < amount:
            return False
        self._level -= amount
        return True

    def spend(self, now: float, amount: float = 1.0) -> None:
        """Takes `amount` in any case: for what was found to be within the limit before it was known to count."""
        if now > self._time:
            self._gain(now)
        self._level -= amount

    def wait_s(self, now: float, amount: float = 1.0) -> float:
        """How long until `amount` may pass, if nothing else does meanwhile; 0 for now. Takes nothing."""
        gained = max(0.0, now - self._time) * self._rate
        return max(0.0, amount - min(self._burst, self._level + gained)) / self._rate

    def _gain(self, now: float) -> None:
        gained = (now - self._time) * self._rate
        self._level = min(self._burst, self._level + gained)
        self._time = now


MAX_SOURCES = 1024
"""Buckets kept of those asked last; who has more networks than that at hand is held by the bucket of all."""


class SharedBudget:
    """A bucket for all, and a smaller one for each source, so that one source cannot use up what all need."""

    def __init__(self, total: TokenBucket, rate: float, burst: float) -> None:
        self._total = total
        self._rate = rate
        self._burst = burst
        self._sources: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, source: str | None, now: float) -> bool:
        """`source` None: one that is not to be held apart from others."""
        return (source is None or self._bucket_of(source).take(now)) and self._total.take(now)

    def _bucket_of(self, source: str) -> TokenBucket:
        bucket = self._sources.get(source)
        if bucket is None:
            if len(self._sources) >= MAX_SOURCES:
                self._sources.popitem(last=False)
            bucket = self._sources[source] = TokenBucket(self._rate, self._burst)
        self._sources.move_to_end(source)
        return bucket
