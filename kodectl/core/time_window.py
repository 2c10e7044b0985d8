"""Which message times are acceptable, also while the wall clock is being set."""

from __future__ import annotations

MAX_AGE_S = 600.0
"""Older messages are dropped (docs/protocol.md, envelope)."""
MAX_AHEAD_S = 120.0
"""Messages further in the future are dropped: clocks of honest nodes are seconds apart."""
JUMP_S = 2.0
"""Clock discipline slews by less than a millisecond a second; a larger step means that somebody set the clock."""
JUMP_GRACE_S = MAX_AGE_S
"""How long the clock from before a step counts as well. Either may be the right one, and a window later it no longer matters."""
MAX_FORMER = 4
"""Clocks from before a step that are remembered; a clock that is set more often than that has no use to anyone."""


class TimeWindow:
    """The window is measured by the wall clock and, for a while after it was set, by the clock it was before.

    So a wall clock set wrong, or set right, makes no node deaf to its peers' messages from one moment to the next.
    """

    __slots__ = ("_former", "_offset")

    def __init__(self) -> None:
        self._offset: float | None = None
        self._former: list[tuple[float, float]] = []

    def observe(self, now: float, unix_time: float) -> None:
        """Takes note of the clocks; call it before the questions below."""
        offset = unix_time - now
        if self._offset is not None and abs(offset - self._offset) > JUMP_S:
            self._former = [*self._former[1 - MAX_FORMER :], (self._offset, now + JUMP_GRACE_S)]
        self._offset = offset
        if self._former:
            self._former = [clock for clock in self._former if clock[1] > now]

    def lateness(self, time_s: float, now: float) -> float:
        """0 inside the window; else by how many seconds a message is too old (positive) or too far ahead (negative)."""
        nearest = _outside(self._age(self._offset, time_s, now))
        for offset, _until in self._former:
            nearest = min(nearest, _outside(self._age(offset, time_s, now)), key=abs)
        return nearest

    def age(self, time_s: float, now: float) -> float:
        """Seconds since `time_s` (Unix), negative for a time to come, by the clock by which it is nearest."""
        nearest = self._age(self._offset, time_s, now)
        for offset, _until in self._former:
            nearest = min(nearest, self._age(offset, time_s, now), key=abs)
        return nearest

    def oldest(self, now: float) -> float:
        """Messages from before this Unix time are too old by every clock."""
        offsets = [offset for offset, _until in self._former]
        return now + min([self._offset or 0.0, *offsets]) - MAX_AGE_S

    @staticmethod
    def _age(offset: float | None, time_s: float, now: float) -> float:
        return now + (offset or 0.0) - time_s


def _outside(age_s: float) -> float:
    if age_s > MAX_AGE_S:
        return age_s - MAX_AGE_S
    if age_s < -MAX_AHEAD_S:
        return age_s + MAX_AHEAD_S
    return 0.0
