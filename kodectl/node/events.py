"""What happened, in order: numbered events, kept for a while for whoever reads them late.

Each type of event has a shelf of its own, bounded in number and bytes, so that a flood of one type (transactions, say) pushes
out nothing of another (the last blocks, what the NAT did yesterday). A reader's place is the number of the last event
that it knows; it needs nothing else from the node, and nothing is queued for it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from operator import attrgetter
from typing import NamedTuple, Protocol

import msgspec

from kodectl.node.topics import ALL_TYPES, TOPIC_OF
from kodectl.node.views import EventsView, EventView
from kodectl.runtime.base import Event, Runtime


class Bounds(NamedTuple):
    events: int
    size: int
    """Bytes, roughly: the texts and payloads in the events, and `EVENT_SIZE` for each."""


BOUNDS = Bounds(1024, 1 << 20)
"""Of most types: days of what an operator looks for, minutes of a storm."""
BOUNDS_OF = {"block": Bounds(512, 32 << 20), "transaction": Bounds(8192, 16 << 20)}
"""Blocks: eight of the greatest size. Transactions: a few seconds of all that a node can take, minutes of a busy day."""
EVENT_SIZE = 600
"""Of an event beside its texts: the value, its dict, the hex digits of two ids."""
PAGE = 4096
"""Events in one page, unless fewer are asked for."""
PAGE_SIZE = 8 << 20
"""Bytes of one page, or one event if that is larger: the whole of the shelves at once would be ten times as much."""


def rfc3339(unix_time: float) -> str:
    """A wall-clock time as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(unix_time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def without_payload(event: EventView) -> EventView:
    """For readers who want to know that a message came, not what is in it: a block may have megabytes."""
    if "payload" not in event.data:
        return event
    return msgspec.structs.replace(event, data={name: event.data[name] for name in event.data if name != "payload"})


class Waiter(Protocol):
    """Is told to look again."""

    def set(self) -> None: ...


class Shelf:
    """The last events of one type. `gone` counts those that were pushed out, `gone_seq` is the number of the last of them."""

    __slots__ = ("_bounds", "_kept", "_size", "_sizes", "_start", "gone", "gone_seq")

    def __init__(self, bounds: Bounds) -> None:
        self.gone = self.gone_seq = 0
        self._bounds = bounds
        # Lists with a moving start: a search by number needs an index, which a deque has only at its ends.
        self._kept: list[EventView | None] = []
        self._sizes: list[int] = []
        self._start = 0
        self._size = 0

    def put(self, event: EventView, size: int) -> None:
        self._kept.append(event)
        self._sizes.append(size)
        self._size += size
        while len(self._kept) - self._start > self._bounds.events or self._size > self._bounds.size:
            self._push_out()
        if self._start > self._bounds.events:
            del self._kept[: self._start], self._sizes[: self._start]
            self._start = 0

    def _push_out(self) -> None:
        oldest = self._kept[self._start]
        assert oldest is not None, "only what lies before the start is empty"
        self._kept[self._start] = None
        self._size -= self._sizes[self._start]
        self._start += 1
        self.gone += 1
        self.gone_seq = oldest.seq

    def after(self, seq: int, limit: int) -> Iterator[tuple[int, EventView, int]]:
        """Number, event and size of those after number `seq`, at most `limit`, oldest first."""
        start = bisect_right(self._kept, seq, lo=self._start, key=attrgetter("seq"))
        for index in range(start, min(len(self._kept), start + limit)):
            event = self._kept[index]
            assert event is not None, "only what lies before the start is empty"
            yield event.seq, event, self._sizes[index]

    def missed(self, seq: int, upto: int) -> int:
        """How many of the numbers after `seq` up to `upto` were pushed out, at most."""
        return min(self.gone, max(0, min(self.gone_seq, upto) - seq))


class Events:
    """`emit` never waits, and formats nothing that only a reader needs: payloads are bytes until somebody reads them.

    `run` tells this run of the node from others, whose numbers mean other events: it is the time of the start."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._shelves = {type_: Shelf(BOUNDS_OF.get(type_, BOUNDS)) for type_ in TOPIC_OF}
        self._waiters: dict[Waiter, frozenset[str]] = {}
        self.run = rfc3339(runtime.unix_time())
        self.gaps = self.missed = 0
        """How often a reader came too late for some events, and for how many."""
        self.last = 0
        """The number of the last event."""
        self.news = 0
        """How many events there were, without messages: those change nothing about the node."""

    def emit(self, type_: str, /, **data: object) -> None:
        """`type_` is one of `topics.TOPIC_OF`; `data` has values that JSON has, and bytes, which become base64."""
        self.last += 1
        topic = TOPIC_OF[type_]
        self.news += topic != "message"
        event = EventView(self.last, rfc3339(self._runtime.unix_time()), type_, topic, data)
        size = sum(len(value) for value in data.values() if isinstance(value, str | bytes))
        self._shelves[type_].put(event, EVENT_SIZE + size)
        for waiter, types in self._waiters.items():
            if type_ in types:
                waiter.set()

    def since(
        self,
        seq: int,
        limit: int = PAGE,
        types: frozenset[str] = ALL_TYPES,
        run: str | None = None,
        max_size: int = PAGE_SIZE,
    ) -> EventsView:
        """The events of `types` after number `seq` (0: from the oldest kept), in order, at most `limit` of them and at
        most `max_size` bytes (but one), and how many between `seq` and `next` are gone already.

        A number of another run, or one that was not given yet, stands for nothing: the reader starts over, and how much it
        missed is not known."""
        if seq > self.last or (run is not None and run != self.run):
            return self._page(0, limit, types, max_size, missed=None)
        return self._page(seq, limit, types, max_size, missed=0)

    def _page(self, seq: int, limit: int, types: frozenset[str], max_size: int, missed: int | None) -> EventsView:
        shelves = [self._shelves[type_] for type_ in types]
        found = sorted(one for shelf in shelves for one in shelf.after(seq, limit))
        events: list[EventView] = []
        size = 0
        for _, event, event_size in found[:limit]:
            size += event_size
            if events and size > max_size:
                break
            events.append(event)
        next_seq = events[-1].seq if len(events) < len(found) or len(events) == limit else self.last
        if missed is not None and seq:
            missed = _missed(shelves, seq, next_seq, events)
            self.gaps += missed > 0
            self.missed += missed
        return EventsView(events, next_seq, missed, self.run)

    def wait(
        self,
        seq: int,
        timeout_s: float,
        limit: int = PAGE,
        types: frozenset[str] = ALL_TYPES,
        run: str | None = None,
        again: Event | None = None,
        there: Callable[[], bool] = lambda: True,
    ) -> EventsView:
        """Like `since`, but waits up to `timeout_s` for the first event, while `there`; who makes that false sets `again`."""
        deadline = self._runtime.now() + timeout_s
        again = again or self._runtime.event()
        with self.watched_by(again, types):
            while True:
                found = self.since(seq, limit, types, run)
                left_s = deadline - self._runtime.now()
                if found.events or found.missed != 0 or left_s <= 0 or not there():
                    return found
                again.wait(left_s)
                again.clear()

    @contextmanager
    def watched_by(self, waiter: Waiter, types: frozenset[str]) -> Iterator[None]:
        """`waiter.set()` is called at each event of these types inside; it must not wait."""
        self.watch(waiter, types)
        try:
            yield
        finally:
            self.unwatch(waiter)

    def watch(self, waiter: Waiter, types: frozenset[str]) -> None:
        """Until `unwatch`. Called again, it changes the types."""
        self._waiters[waiter] = types

    def unwatch(self, waiter: Waiter) -> None:
        self._waiters.pop(waiter, None)


def _missed(shelves: list[Shelf], seq: int, upto: int, events: list[EventView]) -> int:
    """Exact where all that happened was of the types asked for; else no less than the truth, since what a number that is
    gone stood for is not kept."""
    last_gone = min(upto, max((shelf.gone_seq for shelf in shelves), default=0))
    still_there = bisect_right(events, last_gone, key=attrgetter("seq"))
    return max(0, min(sum(shelf.missed(seq, upto) for shelf in shelves), last_gone - seq - still_there))
