"""Tasks on gevent: waiting, scopes, mailboxes, timers.

gevent's own `join`, `Group` and `kill` lose failures in several ways; here every task has an owner that hears of its
end through the task itself, so that none can vanish.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from gevent import Greenlet, GreenletExit
from gevent.hub import Hub, Waiter

from kodectl.runtime.base import Stopped, TimedOut
from kodectl.runtime.faults import CallbackFaults

T = TypeVar("T")

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


class Waiters:
    """The tasks that wait for one thing, first come, first served."""

    __slots__ = ("_hub", "_waiting")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._waiting: dict[Waiter, None] = {}

    def wait(self, timeout_s: float | None = None) -> bool:
        """True when woken, false when the limit passed first."""
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


class GreenMailbox(Generic[T]):
    """See `runtime.base.Mailbox`."""

    __slots__ = ("_closed", "_items", "_limit", "_readers")

    def __init__(self, hub: Hub, limit: int) -> None:
        self._items: deque[T] = deque()
        self._limit = limit
        self._readers = Waiters(hub)
        self._closed = False

    def put(self, item: T) -> bool:
        if self._closed or len(self._items) >= self._limit:
            return False
        self._items.append(item)
        self._readers.wake_one()
        return True

    def get(self, timeout_s: float | None = None) -> T:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._items:
            if self._closed:
                raise Stopped
            left = None if deadline is None else deadline - time.monotonic()
            # The queue is looked at once more after a late wake-up: its item must not stay behind.
            if not self._readers.wait(left) and not self._items:
                raise Stopped if self._closed else TimedOut
        return self._items.popleft()

    def close(self) -> None:
        self._closed = True
        self._readers.wake_all()

    def __len__(self) -> int:
        return len(self._items)


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


class GreenScope:
    """See `runtime.base.Scope`. A failure is logged when it happens, since `join` may be far away."""

    def __init__(self, hub: Hub, name: str) -> None:
        self.name = name
        self._tasks: dict[Greenlet, str] = {}
        self._failure: BaseException | None = None
        self._closed = False
        self._sleepers = Waiters(hub)
        self._joiners = Waiters(hub)

    @property
    def closed(self) -> bool:
        return self._closed

    def spawn(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        if self._closed:
            raise Stopped
        task = Greenlet(self._run, name, function, args)
        task.name = f"{self.name}/{name}"
        self._tasks[task] = name
        # Linked rather than left to a `finally` in `_run`: a greenlet killed before its first switch runs neither.
        task.rawlink(self._forget)
        task.start()

    def sleep(self, seconds: float) -> None:
        if self._closed or self._sleepers.wait(seconds):
            raise Stopped

    def close(self) -> None:
        self._closed = True
        self._sleepers.wake_all()

    def join(self, timeout_s: float | None = None) -> list[str]:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self._tasks:
            left = None if deadline is None else deadline - time.monotonic()
            if not self._joiners.wait(left):
                break
        if self._failure is not None:
            raise self._failure
        return list(self._tasks.values())

    def _run(self, name: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            function(*args)
        except (Stopped, GreenletExit):
            pass
        except (KeyboardInterrupt, SystemExit) as error:
            # The signal reached the process while this task ran; gevent hands it on to the main greenlet.
            self._fail(error)
            raise
        except BaseException as error:  # gevent's Timeout is one, and no failure may vanish
            logger.error("task %s/%s failed", self.name, name, exc_info=error)
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self.close()

    def _forget(self, task: Greenlet) -> None:
        del self._tasks[task]
        if not self._tasks:
            self._joiners.wake_all()
