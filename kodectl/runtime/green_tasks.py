"""Tasks on gevent: waiting, starting, timers.

gevent's own `join`, `Group` and `kill` lose failures in several ways; here every task has an owner that hears of its
end through the task itself, so that none can vanish.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from gevent import Greenlet
from gevent.hub import Hub, Waiter

from kodectl.runtime.faults import CallbackFaults
from kodectl.runtime.tasks import Failure

logger = logging.getLogger(__name__)


def park(hub: Hub, waiter: Waiter, timeout_s: float | None) -> bool:
    """Waits until somebody switches `waiter` (its value comes back), or until the limit (False).

    A waiter is used once, so a wake-up that comes after the limit goes nowhere."""
    if timeout_s is None:
        return waiter.get()
    timer = hub.loop.timer(max(timeout_s, 0.0))
    # The loop's clock stands still while a task runs: without `update` a timer set late in a long run fires early.
    timer.start(waiter.switch, False, update=True)
    try:
        return waiter.get()
    finally:
        timer.stop()
        timer.close()


class GreenWaiters:
    """See `runtime.tasks.Waiters`."""

    __slots__ = ("_hub", "_waiting")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._waiting: dict[Waiter, None] = {}

    def wait(self, timeout_s: float | None = None) -> bool:
        waiter = Waiter(self._hub)
        self._waiting[waiter] = None
        try:
            return park(self._hub, waiter, timeout_s)
        finally:
            self._waiting.pop(waiter, None)

    def wake_one(self) -> None:
        for waiter in self._waiting:
            del self._waiting[waiter]
            self._hub.loop.run_callback(waiter.switch, True)
            return

    def wake_all(self) -> None:
        while self._waiting:
            self.wake_one()


class GreenTasks:
    """See `runtime.tasks.Tasks`."""

    __slots__ = ("_hub", "count")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.count = 0

    def now(self) -> float:
        return time.monotonic()

    def waiters(self) -> GreenWaiters:
        return GreenWaiters(self._hub)

    def start(self, name: str, run: Callable[[], None], ended: Callable[[], None]) -> None:
        task = Greenlet(run)
        task.name = name

        def over(_: Greenlet) -> None:
            self.count -= 1
            ended()

        # Linked rather than left to a `finally`: a greenlet killed before its first switch runs none.
        task.rawlink(over)
        self.count += 1
        task.start()

    def failed(self, failure: Failure) -> None:
        logger.error("task %s failed", failure.task, exc_info=failure.error)


class GreenTimer:
    """See `runtime.base.Timer`."""

    __slots__ = ("_callback", "_faults", "_timer")

    def __init__(self, hub: Hub, delay_s: float, callback: Callable[[], None], faults: CallbackFaults) -> None:
        self._callback = callback
        self._faults = faults
        self._timer = hub.loop.timer(max(delay_s, 0.0))
        self._timer.start(self._fire, update=True)

    def cancel(self) -> None:
        self._timer.stop()
        self._timer.close()

    def _fire(self) -> None:
        self.cancel()
        try:
            self._callback()
        except Exception as error:
            self._faults.report("timer", error)
