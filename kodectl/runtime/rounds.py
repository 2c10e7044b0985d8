"""Work that comes again and again, with nothing kept in between but a timer.

A task that sleeps until its next round holds its stack, 18 kB; where a process holds a hundred nodes, that is most of what
they are.
"""

from __future__ import annotations

from collections.abc import Callable

from kodectl.runtime.base import Runtime, Scope, Stopped, Timer


class Rounds:
    """Runs `work` in a task `name` of the scope, `pause_s()` after the start and after each round, until the scope closes.

    Raises Stopped when it is closed already."""

    __slots__ = ("_name", "_pause_s", "_runtime", "_scope", "_timer", "_work")

    def __init__(
        self, runtime: Runtime, scope: Scope, name: str, pause_s: Callable[[], float], work: Callable[[], None]
    ) -> None:
        if scope.closed:
            raise Stopped
        self._runtime = runtime
        self._scope = scope
        self._name = name
        self._pause_s = pause_s
        self._work = work
        self._timer = self._next()
        scope.on_close(self._stop)

    def _next(self) -> Timer:
        return self._runtime.call_later(self._pause_s(), self._begin)

    def _begin(self) -> None:
        self._scope.spawn(self._name, self._round)

    def _round(self) -> None:
        self._work()
        if not self._scope.closed:
            self._timer = self._next()

    def _stop(self) -> None:
        self._timer.cancel()
