"""What happened, in order: a bounded ring of numbered events that the API and the log read."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime

from kodectl.node.views import EventsView, EventView
from kodectl.runtime.base import Event, Runtime

RING_SIZE = 4096
"""Events kept for late readers: minutes of a busy node, about 1 MB."""


def rfc3339(unix_time: float) -> str:
    """A wall-clock time as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(unix_time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Events:
    """`emit` never waits; a reader that fell behind learns how many it missed."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._ring: deque[EventView] = deque(maxlen=RING_SIZE)
        self._next = 1
        self._waiters: set[Event] = set()

    def emit(self, type: str, **data: object) -> None:
        self._ring.append(EventView(self._next, rfc3339(self._runtime.unix_time()), type, data))
        self._next += 1
        for waiter in self._waiters:
            waiter.set()

    def since(self, seq: int, limit: int = RING_SIZE) -> EventsView:
        """The events after number `seq` (0: from the oldest kept), at most `limit`, and how many are gone already."""
        oldest = self._ring[0].seq if self._ring else self._next
        # A number from before a restart lies ahead of ours: the reader starts over.
        first = seq + 1 if seq < self._next else oldest
        missed = max(0, oldest - first) if seq else 0
        start = max(first, oldest) - oldest
        events = [self._ring[index] for index in range(start, min(len(self._ring), start + limit))]
        return EventsView(events, events[-1].seq if events else max(first, oldest) - 1, missed)

    def wait(self, seq: int, timeout_s: float, limit: int = RING_SIZE) -> EventsView:
        """Like `since`, but waits up to `timeout_s` for the first event."""
        found = self.since(seq, limit)
        if found.events or timeout_s <= 0:
            return found
        waiter = self._runtime.event()
        self._waiters.add(waiter)
        try:
            waiter.wait(timeout_s)
        finally:
            self._waiters.discard(waiter)
        return self.since(seq, limit)
