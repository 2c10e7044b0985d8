"""This machine's addresses, looked at again and again: one look for all the sessions that have candidates of them.

Linux would tell by itself (netlink), other systems in other ways, and some only if asked; a look takes a quarter of a
millisecond."""

from __future__ import annotations

from collections.abc import Callable

from kodectl.runtime.base import LocalNetwork, Runtime, Scope

LOOK_PAUSE_S = 2.0
"""Less than a user needs to plug in a cable and to wonder; a dead path is left by its own checks, sooner."""


class InterfaceWatch:
    def __init__(self, runtime: Runtime, scope: Scope) -> None:
        self._runtime = runtime
        self._scope = scope
        self._subscribers: dict[object, Callable[[], None]] = {}

    def start(self) -> None:
        self._scope.spawn("watch interfaces", self._watch)

    def subscribe(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """`on_change` runs after every change of addresses or default routes and must not wait; gives how to end that."""
        key = object()
        self._subscribers[key] = on_change

        def end() -> None:
            self._subscribers.pop(key, None)

        return end

    def _watch(self) -> None:
        known = self._look()
        while True:
            self._scope.sleep(LOOK_PAUSE_S)
            seen = self._look()
            if seen != known:
                known = seen
                for on_change in tuple(self._subscribers.values()):
                    on_change()

    def _look(self) -> LocalNetwork:
        """In no order: the kernel's may change by itself."""
        network = self._runtime.local_network()
        return network._replace(addresses=tuple(sorted(network.addresses)))
