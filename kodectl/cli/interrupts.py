"""What ends a command from outside: SIGINT, SIGTERM and the deadline.

All arrive as `SystemExit`: gevent's hub hands that to the main greenlet and prints nothing (of a KeyboardInterrupt it
prints the traceback), `finally` blocks run, and no `except Exception` on the way swallows it. They end the main greenlet,
whichever is running when they come: a task that was about to note what a router has just mapped notes it first. `node run`,
which ends in an orderly way, sets handlers of its own.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from kodectl.errors import ExitCode

DEADLINE_GRACE_S = 0.5
"""How long a procedure that minds the deadline itself has to hand over what it has."""
AGAIN_S = 0.01
"""After which an end that was lost comes again: time to leave the code that lost it."""


class Interrupted(SystemExit, KeyboardInterrupt):
    """SIGINT; a KeyboardInterrupt as well, for the code that waits for one."""


class Terminated(SystemExit):
    """SIGTERM."""


class DeadlineAlarm(SystemExit):
    """`--deadline` passed."""

    def __init__(self, deadline_s: float) -> None:
        super().__init__(int(ExitCode.DEADLINE))
        self.deadline_s = deadline_s


@contextmanager
def signals() -> Iterator[None]:
    """SIGINT and SIGTERM unwind the stack while inside. Only the main thread can have handlers; elsewhere nothing changes.

    A signal that was ignored when the program started (nohup, a background job of a script) stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in HANDLERS}
    for number, handler in HANDLERS.items():
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        with _nothing_lost():
            yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def deadline(deadline_s: float | None) -> Iterator[None]:
    """Raises DeadlineAlarm when `deadline_s` have passed inside, give or take the grace."""
    if deadline_s is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        _unwind(DeadlineAlarm(deadline_s))

    _raise_lost()
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, deadline_s + DEADLINE_GRACE_S)
    try:
        with _nothing_lost():
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _nothing_lost() -> Iterator[None]:
    """What is raised where Python lets nothing through (`__del__`, a callback of the garbage collector) it only prints: an end
    that met such code comes again, at the latest when the block is over."""
    _raise_lost()
    hook, handler = sys.unraisablehook, signal.getsignal(signal.SIGALRM)

    def hear(unraisable: Any) -> None:
        try:
            if not isinstance(unraisable.exc_value, ENDS):
                hook(unraisable)
                return
            _lost.append(unraisable.exc_value)
        except ENDS as another:  # a signal has met this code, which lets nothing through either
            _lost.append(another)
        signal.signal(signal.SIGALRM, _come_again)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)

    sys.unraisablehook = hear
    try:
        yield
    except BaseException:
        _lost.clear()  # it ends as it is
        raise
    finally:
        sys.unraisablehook = hook
        if signal.getsignal(signal.SIGALRM) is _come_again:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, handler)
    _raise_lost()


def _come_again(number: int, frame: FrameType | None) -> None:
    if _lost:
        _unwind(_lost.pop())


def _raise_lost() -> None:
    if _lost:
        raise _lost.pop()


def _interrupt(number: int, frame: FrameType | None) -> None:
    _unwind(Interrupted(int(ExitCode.SIGINT)))


def _terminate(number: int, frame: FrameType | None) -> None:
    _unwind(Terminated(int(ExitCode.SIGTERM)))


def _unwind(end: SystemExit) -> None:
    """In the main greenlet. A task that has been interrupted goes on where it was when the hub comes to it."""
    hub = _hub_of_task()
    if hub is None:
        raise end
    hub.handle_system_error(type(end), end)


def _hub_of_task() -> Any:
    """None outside of gevent's tasks, whose parent is the hub, whose parent is the main greenlet. Imports nothing, and makes
    no hub: most commands have none, and a signal may come while gevent is being imported."""
    greenlets = sys.modules.get("greenlet")
    if greenlets is None or not hasattr(greenlets, "getcurrent"):
        return None
    parent = greenlets.getcurrent().parent
    return parent if hasattr(parent, "handle_system_error") else None


_lost: list[SystemExit] = []
"""Ends that nobody has seen yet."""
ENDS = (Interrupted, Terminated, DeadlineAlarm)
HANDLERS = {signal.SIGINT: _interrupt, signal.SIGTERM: _terminate}
