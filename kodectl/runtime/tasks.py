"""Scopes, mailboxes and events over whatever runs tasks: gevent's hub, or the simulator's schedule.

An implementation supplies two things, `Waiters` and `Tasks`; all that a procedure can observe beyond them is decided
here, once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from greenlet import GreenletExit

from kodectl.runtime.base import Stopped, TimedOut

T = TypeVar("T")


class Waiters(Protocol):
    """The tasks that wait for one thing, first come, first served."""

    def wait(self, timeout_s: float | None = None) -> bool:
        """True when woken, false when the limit passed first."""
        ...

    def wake_one(self) -> None: ...
    def wake_all(self) -> None: ...


class Failure:
    """How a task ended in error. `raised`: a `join` has told its caller."""

    __slots__ = ("error", "raised", "task")

    def __init__(self, task: str, error: BaseException) -> None:
        self.task = task
        self.error = error
        self.raised = False


class Tasks(Protocol):
    """What runs tasks."""

    def now(self) -> float: ...
    def waiters(self) -> Waiters: ...

    def start(self, name: str, run: Callable[[], None], ended: Callable[[], None]) -> None:
        """Starts `run` as a task. `ended` is called when it is over in any way, even if it never began."""
        ...

    def failed(self, failure: Failure) -> None:
        """Hears of a failure when it happens, since the `join` that raises it may be far away."""
        ...


class TaskEvent:
    """See `runtime.base.Event`."""

    __slots__ = ("_set", "_waiters")

    def __init__(self, tasks: Tasks) -> None:
        self._waiters = tasks.waiters()
        self._set = False

    def set(self) -> None:
        self._set = True
        self._waiters.wake_all()

    def clear(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout_s: float | None = None) -> bool:
        return self._set or self._waiters.wait(timeout_s) or self._set


class TaskMailbox(Generic[T]):
    """See `runtime.base.Mailbox`."""

    __slots__ = ("_closed", "_items", "_limit", "_readers", "_tasks")

    def __init__(self, tasks: Tasks, limit: int) -> None:
        self._tasks = tasks
        self._items: deque[T] = deque()
        self._limit = limit
        self._readers = tasks.waiters()
        self._closed = False

    def put(self, item: T) -> bool:
        if self._closed or len(self._items) >= self._limit:
            return False
        self._items.append(item)
        self._readers.wake_one()
        return True

    def get(self, timeout_s: float | None = None) -> T:
        deadline = None if timeout_s is None else self._tasks.now() + timeout_s
        while not self._items:
            if self._closed:
                raise Stopped
            left = None if deadline is None else deadline - self._tasks.now()
            # After the limit the queue is looked at once more: an item put at that very instant must not stay behind.
            if not self._readers.wait(left) and not self._items:
                raise Stopped if self._closed else TimedOut
        return self._items.popleft()

    def close(self) -> None:
        self._closed = True
        self._readers.wake_all()

    def __len__(self) -> int:
        return len(self._items)


class Closer:
    """What a scope calls when it closes; see `runtime.base.Timer`."""

    __slots__ = ("_callback", "_closers")

    def __init__(self, closers: dict[Closer, None], callback: Callable[[], None]) -> None:
        self._closers = closers
        self._callback = callback
        closers[self] = None

    def call(self) -> None:
        self.cancel()
        self._callback()

    def cancel(self) -> None:
        self._closers.pop(self, None)


class TaskScope:
    """See `runtime.base.Scope`."""

    def __init__(self, tasks: Tasks, name: str) -> None:
        self.name = name
        self._tasks = tasks
        self._running: dict[int, str] = {}
        self._spawned = 0
        self._failure: Failure | None = None
        self._closed = False
        self._closers: dict[Closer, None] = {}
        self._sleepers = tasks.waiters()
        self._joiners = tasks.waiters()

    @property
    def closed(self) -> bool:
        return self._closed

    def spawn(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        if self._closed:
            raise Stopped
        full_name = f"{self.name}/{name}"
        number = self._spawned = self._spawned + 1
        self._running[number] = name
        self._tasks.start(full_name, lambda: self._run(full_name, function, args), lambda: self._forget(number))

    def sleep(self, seconds: float) -> None:
        if self._closed or self._sleepers.wait(seconds):
            raise Stopped

    def close(self) -> None:
        self._closed = True
        self._sleepers.wake_all()
        for closer in list(self._closers):
            closer.call()

    def on_close(self, callback: Callable[[], None]) -> Closer:
        closer = Closer(self._closers, callback)
        if self._closed:
            closer.call()
        return closer

    def join(self, timeout_s: float | None = None) -> list[str]:
        deadline = None if timeout_s is None else self._tasks.now() + timeout_s
        while self._running:
            left = None if deadline is None else deadline - self._tasks.now()
            if not self._joiners.wait(left):
                break
        if self._failure is not None:
            self._failure.raised = True
            raise self._failure.error
        return list(self._running.values())

    def _run(self, full_name: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            function(*args)
        except (Stopped, GreenletExit):
            pass
        except (KeyboardInterrupt, SystemExit) as error:
            # A signal reached the process while this task ran; it concerns the whole process.
            self._fail(Failure(full_name, error))
            raise
        except BaseException as error:  # gevent's Timeout is one, and no failure may vanish
            self._fail(Failure(full_name, error))

    def _fail(self, failure: Failure) -> None:
        self._tasks.failed(failure)
        if self._failure is None:
            self._failure = failure
        else:
            failure.raised = True  # `join` raises the first one only
        self.close()

    def _forget(self, number: int) -> None:
        del self._running[number]
        if not self._running:
            self._joiners.wake_all()
