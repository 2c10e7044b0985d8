"""How late the hub runs what is due: the time that a datagram, a timer or a request waits behind other work."""

from __future__ import annotations

from collections import deque

from kodectl.core.histogram import Histogram
from kodectl.runtime.base import Runtime, Scope

INTERVAL_S = 0.05
"""Twenty looks a second cost a thousandth of a core; what keeps the hub for longer than this is never overlooked."""
RECENT = 1200
"""Looks behind the percentile: one minute."""
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""20 ms is what a node at full load stays below; heartbeats are at risk from seconds on."""


class HubDelay:
    """Unknown until `measure` runs, as it does in a process of its own; on virtual time nothing is ever late."""

    def __init__(self, runtime: Runtime) -> None:
        self.histogram = Histogram(BOUNDS_S)
        self._runtime = runtime
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._worst: float | None = None

    def measure(self, scope: Scope) -> None:
        """Until the scope closes."""
        while True:
            due = self._runtime.now() + INTERVAL_S
            scope.sleep(INTERVAL_S)
            self._observe(max(0.0, self._runtime.now() - due))

    def _observe(self, delay_s: float) -> None:
        self.histogram.observe(delay_s)
        self._recent.append(delay_s)
        self._worst = delay_s if self._worst is None else max(delay_s, self._worst)

    def worst(self) -> float | None:
        """Seconds, since it was asked last."""
        worst, self._worst = self._worst, None
        return worst

    def p99(self) -> float | None:
        """Seconds; of a hundred looks in the last minute, 99 were not later."""
        ordered = sorted(self._recent)
        return ordered[(len(ordered) * 99 - 1) // 100] if ordered else None
