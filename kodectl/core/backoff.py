"""When a peer may be dialled again: twice as long after each failure, with jitter, remembered across restarts."""

from __future__ import annotations

import random
from typing import NamedTuple

BASE_S = 2.0
"""A node that restarts is back within seconds; two tries fit in that."""
CAP_S = 600.0
"""Who has been away for a day is found again within ten minutes of its return."""
MAX_FAILURES = 16
"""Far over the cap already; bounds the number that is kept."""
LASTED_S = 60.0
"""A link that lived for two heartbeats worked. One that ends sooner counts as a failed dial, or two nodes that
cannot agree would redial each other for ever."""


class Backoff(NamedTuple):
    """`failures` in a row, and the time before which not to dial."""

    failures: int = 0
    retry_at: float = float("-inf")

    def is_over(self, now: float) -> bool:
        return now >= self.retry_at

    def after_failure(self, now: float, rng: random.Random, cap_s: float = CAP_S) -> Backoff:
        failures = min(self.failures + 1, MAX_FAILURES)
        return Backoff(failures, now + _jittered(min(cap_s, BASE_S * 2 ** (failures - 1)), rng))

    def after_link(self, lasted_s: float, now: float, rng: random.Random, cap_s: float = CAP_S) -> Backoff:
        """A link has ended, for whatever reason."""
        if lasted_s < LASTED_S:
            return self.after_failure(now, rng, cap_s)
        return Backoff(0, now + _jittered(BASE_S, rng))

    def paused(self, now: float, seconds: float) -> Backoff:
        """No dial for so long: the peer said that it makes no sense, or the operator did not want it."""
        return Backoff(self.failures, max(self.retry_at, now + seconds))


def _jittered(delay_s: float, rng: random.Random) -> float:
    """Between half and all of it: nodes that lost the same peer do not come back in one moment."""
    return delay_s * rng.uniform(0.5, 1.0)
