"""Failures of callbacks that run in the hub: counted, logged now and then, never fatal."""

from __future__ import annotations

import logging
import time

LOG_INTERVAL_S = 60.0
"""One kind of failure is logged at most this often: a peer that can provoke one must not fill the disk."""

MAX_KINDS = 64
"""Kinds counted apart; later ones share one counter. A kind is a place in the code and an exception class, so only
a bug makes many."""

OTHER_KIND = "other"

logger = logging.getLogger(__name__)


class CallbackFaults:
    """Takes the exceptions that callbacks let out. `counts` maps "place: ExceptionClass" to how often."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._silent_until: dict[str, float] = {}

    def report(self, place: str, error: Exception, *, foreseen: bool = False) -> None:
        """`foreseen`: no bug, and no traceback is needed to understand it."""
        kind = f"{place}: {type(error).__name__}"
        if kind not in self.counts and len(self.counts) >= MAX_KINDS:
            kind = OTHER_KIND
        self.counts[kind] = self.counts.get(kind, 0) + 1
        now = time.monotonic()
        if now < self._silent_until.get(kind, now):
            return
        self._silent_until[kind] = now + LOG_INTERVAL_S
        if foreseen:
            logger.warning("%s: %s (%d so far)", place, error, self.counts[kind])
        else:
            logger.error("%s (%d so far)", kind, self.counts[kind], exc_info=error)
