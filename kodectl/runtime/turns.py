"""Whose turn it is. Timers and sockets wait while a task works; and what tasks do one after the other, none of them waiting
for anything, adds up."""

from __future__ import annotations

import time
from collections import deque

from gevent.hub import Hub, Waiter

TURN_S = 0.005
"""Work of all tasks together between two looks of the hub at timers and sockets, where they ask. With a limit for each, fifty
busy peers would hold up the hub fifty times as long. Shorter turns cost more for each message: bench/broadcast.py with 200
bytes took 59 us of CPU for a delivery at 2 ms, 53 at 4, 48 at 8, 46 at 16, and 42 without turns (medians of five runs). Of
fifty peers at 5,000 messages a second (bench/operated.py), the hub's delay had a 99th percentile of 25 ms at 8 and 17 at 5."""


class Turns:
    """See `Runtime.take_turn`. Who has to wait goes on in the order in which they came, before who comes later."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        # A timer, since what is put off by other means is run before the hub looks at timers and sockets.
        self._timer = hub.loop.timer(0)
        self._waiting: deque[Waiter] = deque()
        self._going_on = False
        self._look = -1
        self._began = self._cpu_began = 0.0

    def take(self) -> None:
        if self._hub.loop.iteration != self._look:
            self._begin()
        if self._is_over() or (self._waiting and not self._going_on):
            self._wait()

    def close(self) -> None:
        self._timer.stop()
        self._timer.close()

    def _begin(self) -> None:
        self._look = self._hub.loop.iteration
        self._began, self._cpu_began = time.monotonic(), time.thread_time()

    def _is_over(self) -> bool:
        # What the kernel gave to other processes is no work. Asking it takes ten times as long as looking at the clock.
        return time.monotonic() - self._began > TURN_S and time.thread_time() - self._cpu_began > TURN_S

    def _wait(self) -> None:
        waiter = Waiter(self._hub)
        self._waiting.append(waiter)
        if len(self._waiting) == 1:
            self._timer.start(self._go_on)
        waiter.get()

    def _go_on(self) -> None:
        """In the hub. One after the other runs until it waits for something: for its next turn, if this one is over."""
        self._begin()
        self._going_on = True
        while self._waiting and not self._is_over():
            self._waiting.popleft().switch(None)
        self._going_on = False
        if self._waiting:
            self._timer.start(self._go_on)
