"""Tasks on virtual time: plain greenlets that the world resumes from its schedule."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType

from greenlet import GreenletExit, getcurrent, greenlet

from kodectl.errors import LocalMisuse
from kodectl.runtime.base import Stopped
from kodectl.runtime.tasks import Failure
from kodectl.sim.schedule import Schedule

PLUMBING = ("/kodectl/sim/", "/kodectl/runtime/")
"""Where every wait ends up; reports name the procedure that called."""


class SimTasks:
    """The tasks of one host (see `runtime.tasks.Tasks`). After `freeze` none of them runs again."""

    def __init__(self, schedule: Schedule, hub: greenlet, host: str, failed: Callable[[Failure], None]) -> None:
        self.schedule = schedule
        self.failed = failed
        self._hub = hub
        self._host = host
        self._running: dict[greenlet, str] = {}
        self._frozen = False
        self._ended = False

    def now(self) -> float:
        return self.schedule.now

    def waiters(self) -> SimWaiters:
        return SimWaiters(self)

    @property
    def count(self) -> int:
        return len(self._running)

    def start(self, name: str, run: Callable[[], None], ended: Callable[[], None]) -> None:
        def whole(_: bool) -> None:
            try:
                run()
            finally:
                del self._running[task]
                ended()

        task = greenlet(whole, self._hub)
        self._running[task] = f"{self._host} {name}"
        self.schedule.soon(self.resume, task)

    def resume(self, task: greenlet, value: bool = True) -> None:
        if not self._frozen:
            task.switch(value)

    def wait(self) -> bool:
        """Hands control back to the schedule until `resume`, and returns its value."""
        if self._ended:
            raise Stopped  # the world is being taken down, and what unwinds must not wait
        if getcurrent() is self._hub:
            raise LocalMisuse("a callback, or code outside the world's tasks, waits on virtual time")
        return self._hub.switch()

    @property
    def running(self) -> bool:
        return bool(self._running) and not self._frozen

    def freeze(self) -> None:
        """The host has crashed. Its tasks are kept, not ended: ended, their `finally` blocks would run."""
        self._frozen = True

    def end(self) -> None:
        """Takes the tasks down, so that their frames let go of what they hold."""
        self._ended = True
        for task in list(self._running):
            task.throw(GreenletExit)

    def report(self) -> list[str]:
        """Each task with the place it waits at."""
        return [] if self._frozen else [f"{name}, {_place(task.gr_frame)}" for task, name in self._running.items()]


class SimWaiters:
    """See `runtime.tasks.Waiters`."""

    __slots__ = ("_tasks", "_waiting")

    def __init__(self, tasks: SimTasks) -> None:
        self._tasks = tasks
        self._waiting: dict[greenlet, None] = {}

    def wait(self, timeout_s: float | None = None) -> bool:
        task = getcurrent()
        timer = None if timeout_s is None else self._tasks.schedule.timer(timeout_s, lambda: self._expire(task))
        self._waiting[task] = None
        try:
            return self._tasks.wait()
        finally:
            self._waiting.pop(task, None)
            if timer is not None:
                timer.cancel()

    def _expire(self, task: greenlet) -> None:
        # A task woken at this very instant has left the queue already, and is not resumed twice.
        if task in self._waiting:
            del self._waiting[task]
            self._tasks.resume(task, False)

    def wake_one(self) -> None:
        for task in self._waiting:
            del self._waiting[task]
            self._tasks.schedule.soon(self._tasks.resume, task)
            return

    def wake_all(self) -> None:
        while self._waiting:
            self.wake_one()


def _place(innermost: FrameType | None) -> str:
    """Function, file and line of the innermost frame that is not plumbing."""
    if innermost is None:
        return "not started"
    frame: FrameType | None = innermost
    while frame is not None and any(part in frame.f_code.co_filename for part in PLUMBING):
        frame = frame.f_back
    frame = frame or innermost
    return f"waiting in {frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})"
