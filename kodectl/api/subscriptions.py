"""Who has a place among the subscribers. Imports neither a web framework nor sockets: it is a part of every `Service`."""

from __future__ import annotations

import time
from typing import Protocol

from kodectl.errors import EnvironmentFault

MAX_SUBSCRIBERS = 32
"""At a time: a quarter of the connections, as for long polls, so that other requests always find one. Each may hold one event
on its way, 5.6 MB if it is a block."""
YIELDS_AFTER_S = 5.0
"""A subscriber that has taken nothing for so long gives its place to one that comes."""


class Subscription(Protocol):
    @property
    def stalled_since(self) -> float | None: ...
    def cut(self) -> None: ...


class Subscriptions:
    def __init__(self) -> None:
        self._inside: set[Subscription] = set()

    def __len__(self) -> int:
        return len(self._inside)

    def make_room(self) -> None:
        """For one more. Raises EnvironmentFault (busy)."""
        if len(self._inside) < MAX_SUBSCRIBERS:
            return
        stalled = [(one.stalled_since, one) for one in self._inside if one.stalled_since is not None]
        since, longest = min(stalled, key=lambda pair: pair[0], default=(None, None))
        if since is None or longest is None or time.monotonic() - since < YIELDS_AFTER_S:
            raise EnvironmentFault(
                f"the node serves {MAX_SUBSCRIBERS} subscribers at a time already",
                code="busy",
                hint="try again shortly",
            )
        longest.cut()
        self.leave(longest)

    def enter(self, one: Subscription) -> None:
        self._inside.add(one)

    def leave(self, one: Subscription) -> None:
        self._inside.discard(one)
