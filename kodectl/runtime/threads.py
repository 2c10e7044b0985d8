"""Threads for what blocks: gevent's pool, with an end that can be waited for."""

from __future__ import annotations

import os
from _thread import get_native_id
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import AsyncResult
from gevent.hub import Hub
from gevent.threadpool import ThreadPool

from kodectl.errors import EnvironmentFault

END_LIMIT_S = 1.0
"""For idle threads to end, which takes a millisecond; with all processors busy a hundred."""
LOOK_EVERY_S = 0.001


class Threads:
    """At most `count`, made when they are needed."""

    def __init__(self, count: int, hub: Hub) -> None:
        self._count = count
        self._pool = ThreadPool(0, hub)
        self._numbers: set[str] = set()
        self._busy: set[str] = set()

    def spawn(self, function: Callable[..., Any], *args: Any) -> AsyncResult:
        """Runs `function` in a thread; waits for a free one, also where the system grants fewer than `count`.

        Raises EnvironmentFault (no_threads) where it grants none at all."""
        if self._pool.size >= self._count or len(self._pool) < self._pool.size:
            # None is made: all are, or one has nothing to do. Looking would take 20 us or more each time.
            return self._pool.spawn(self._work, function, args)
        # With room for one more nothing waits, so that what is new afterwards was made here.
        before = _threads_of_process()
        self._grow()
        self._numbers |= _threads_of_process() - before
        return self._pool.spawn(self._work, function, args)

    def _grow(self) -> None:
        """One thread more, if the system grants it; else those that there are have to do, until it is asked again.

        The pool may never have more than it has: a thread that it cannot make in the midst of its own `spawn` would leave the
        work in its queue, and the caller with an error."""
        size = self._pool.size
        try:
            self._pool.maxsize = size + 1
            self._pool.size = size + 1
        except RuntimeError as error:
            self._pool.maxsize = size
            if not size:
                raise EnvironmentFault(
                    f"the system grants this process no thread: {error}",
                    code="no_threads",
                    hint="raise the limit of processes and threads (ulimit -u; in a systemd unit: TasksMax=)",
                ) from error

    def _work(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        number = str(get_native_id())
        self._busy.add(number)
        try:
            return function(*args)
        finally:
            self._busy.discard(number)

    def end(self) -> None:
        """Ends the threads, those at work when they have done it, and waits for the others.

        gevent forgets a thread when its work is over. One that still unwinds its greenlet when the interpreter ends takes
        the process down with a segmentation fault."""
        self._pool.maxsize = 0
        for _ in range(int(END_LIMIT_S / LOOK_EVERY_S)):
            if not _threads_of_process() & self._numbers - self._busy:
                return
            gevent.sleep(LOOK_EVERY_S)


def _threads_of_process() -> set[str]:
    return set(os.listdir("/proc/self/task"))
