"""Virtual time: what happens when, in one order that depends on nothing but what was asked for."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Any

MAX_EVENTS_AT_ONCE = 1_000_000
"""Events at one instant before it counts as a loop that never waits: a thousand nodes make a few thousand."""

MIN_COMPACTION = 4_096
"""Cancelled timers are left in the heap until they are this many, and half of it: nearly every wait with a limit cancels
its timer, and compacting at each would cost more than they do."""


class Livelock(Exception):
    """Something goes on for ever without letting time pass."""


class SimTimer:
    """An entry that can be cancelled."""

    __slots__ = ("_callback", "_schedule", "cancelled", "due")

    def __init__(self, schedule: Schedule, due: float, callback: Callable[[], Any]) -> None:
        self._schedule = schedule
        self._callback = callback
        self.due = due
        self.cancelled = False

    def cancel(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            self._schedule.one_cancelled(self)

    def fire(self) -> None:
        self.cancelled = True  # a later `cancel` has nothing to take back
        self._callback()


Entry = tuple[float, int, Callable[..., Any], tuple[Any, ...]]


class Schedule:
    """A heap of (time, number, callback, arguments). What is due at the same time runs in the order it was asked for.

    `now` moves only between entries: an entry takes no time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[Entry] = []
        self._number = count().__next__
        self._cancelled = 0
        self._stopped = False

    def at(self, due: float, callback: Callable[..., Any], *args: Any) -> None:
        heappush(self._heap, (due, self._number(), callback, args))

    def soon(self, callback: Callable[..., Any], *args: Any) -> None:
        heappush(self._heap, (self.now, self._number(), callback, args))

    def timer(self, delay_s: float, callback: Callable[[], Any]) -> SimTimer:
        timer = SimTimer(self, self.now + max(delay_s, 0.0), callback)
        heappush(self._heap, (timer.due, self._number(), _fire, (timer,)))
        return timer

    @property
    def empty(self) -> bool:
        """True when nothing will happen any more."""
        return len(self._heap) <= self._cancelled

    def run(self, until_s: float = inf, done: Callable[[], bool] | None = None) -> None:
        """Runs what is due up to and including `until_s`, until `done()` (asked before each entry), `stop`, or empty.

        An exception of a callback comes out; the schedule can be run on. Raises Livelock."""
        heap = self._heap
        at_once = 0
        self._stopped = False
        while heap and not self._stopped and not (done is not None and done()):
            due, _, callback, args = heap[0]
            if due > until_s:
                break
            heappop(heap)
            if callback is _fire and args[0].cancelled:
                self._cancelled -= 1  # and the clock does not move for it
                continue
            if due > self.now:
                self.now = due
                at_once = 0
            at_once += 1
            if at_once > MAX_EVENTS_AT_ONCE:
                raise Livelock(f"{MAX_EVENTS_AT_ONCE} events at {due:.6f} s, the last one {callback!r}")
            callback(*args)

    def stop(self) -> None:
        """Makes `run` return after the entry at hand."""
        self._stopped = True

    def one_cancelled(self, timer: SimTimer) -> None:
        self._cancelled += 1
        if self._cancelled >= MIN_COMPACTION and self._cancelled * 2 > len(self._heap):
            # In place: `run` holds on to the list.
            self._heap[:] = [entry for entry in self._heap if not (entry[2] is _fire and entry[3][0].cancelled)]
            heapify(self._heap)
            self._cancelled = 0


def _fire(timer: SimTimer) -> None:
    timer.fire()
