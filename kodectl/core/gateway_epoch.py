"""Whether a router has forgotten its mappings, told from the seconds that it counts since its epoch began."""

from __future__ import annotations

NATPMP_DRIFT = 1 / 8
"""By which the router's clock may be off (RFC 6886, section 3.6)."""
PCP_DRIFT = 1 / 16
"""The same of RFC 6887, section 8.5."""
TOLERANCE_S = 2.0
"""For rounding and the way of an answer (both sections)."""


class EpochWatch:
    """Compares each epoch with the one before, as RFC 6887, section 8.5, does.

    RFC 6886 looks only for clocks that have fallen behind. One that ran ahead says that this machine has slept, or that
    another router has taken over: its mappings are in doubt too, and making them again does no harm."""

    def __init__(self, drift: float) -> None:
        self._drift = drift
        self._last: tuple[float, float] | None = None
        self._has_reset = False

    def observe(self, epoch_s: float, now: float) -> None:
        """An answer with this epoch has come."""
        if self._last is not None:
            theirs, ours = epoch_s - self._last[0], now - self._last[1]
            fell_behind = theirs + TOLERANCE_S < ours - ours * self._drift
            ran_ahead = ours + TOLERANCE_S < theirs - theirs * self._drift
            self._has_reset |= fell_behind or ran_ahead
        self._last = epoch_s, now

    def take_reset(self) -> bool:
        """Whether the epoch has begun anew since the last call."""
        has_reset, self._has_reset = self._has_reset, False
        return has_reset
