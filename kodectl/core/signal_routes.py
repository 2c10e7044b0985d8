"""The way back: through whom a session's letters have come, so that the answers find their way.

A rendezvous node keeps nothing else of what it passes on. Whoever came first with a session keeps it: sessions are random
and known only to those on the way, and a second one could be somebody who wants to read along.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from kodectl.core.table import subnet_of

Address = tuple[str, int]

ROUTE_S = 60.0
"""Since the last letter from there. A connection is there or given up within half of it."""
MAX_ROUTES = 4096
"""1.5 MB: sixty a second for as long as a route lasts."""
MAX_OF_GROUP = 256
"""Of one neighbour over its link, or of one /24 or /64 over UDP: sixteen crowded networks fill the table."""


class Way(NamedTuple):
    """To a neighbour: over the link with it, or to the UDP address at which it has proved who it is."""

    node_id: bytes
    address: Address | None = None


class _Route:
    __slots__ = ("until", "way")

    def __init__(self, way: Way, until: float) -> None:
        self.way = way
        self.until = until


Name = tuple[bytes, bytes]
"""Node id and session."""


class SignalRoutes:
    """Bounded: a group that has too many loses its oldest, and so does the largest group when the table is full."""

    def __init__(self) -> None:
        self._routes: dict[Name, _Route] = {}
        self._groups: dict[str, OrderedDict[Name, None]] = {}
        """Of each group the names of its routes, the one used longest ago first."""

    def __len__(self) -> int:
        return len(self._routes)

    def learn(self, sender: bytes, session: bytes, way: Way, now: float) -> None:
        """A letter of `sender` has come by this way. One that it has brought itself shows where it is now: it may have lost
        the link or the address by which it wrote before."""
        name = (sender, session)
        route = self._routes.get(name)
        if route is not None and (route.until <= now or (route.way != way and way.node_id == sender)):
            self._remove(name)
            route = None
        if route is None:
            self._make_room(_group_of(way), now)
            route = self._routes[name] = _Route(way, now)
            self._groups.setdefault(_group_of(way), OrderedDict())[name] = None
        if route.way == way:
            route.until = now + ROUTE_S
            self._groups[_group_of(way)].move_to_end(name)

    def find(self, target: bytes, session: bytes, now: float) -> Way | None:
        route = self._routes.get((target, session))
        return route.way if route is not None and route.until > now else None

    def forget(self, target: bytes, session: bytes, way: Way) -> None:
        """It leads nowhere; another one may be learned."""
        route = self._routes.get((target, session))
        if route is not None and route.way == way:
            self._remove((target, session))

    def link_lost(self, node_id: bytes) -> None:
        for name in list(self._groups.get(_group_of(Way(node_id)), ())):
            self._remove(name)

    def _make_room(self, group: str, now: float) -> None:
        if len(self._groups.get(group, ())) >= MAX_OF_GROUP:
            self._remove(next(iter(self._groups[group])))
        if len(self._routes) >= MAX_ROUTES:
            self._expire(now)
        if len(self._routes) >= MAX_ROUTES:
            largest = max(self._groups.values(), key=len)
            self._remove(next(iter(largest)))

    def _expire(self, now: float) -> None:
        for name in [name for name, route in self._routes.items() if route.until <= now]:
            self._remove(name)

    def _remove(self, name: Name) -> None:
        group = _group_of(self._routes.pop(name).way)
        names = self._groups[group]
        del names[name]
        if not names:
            del self._groups[group]


def _group_of(way: Way) -> str:
    subnet = subnet_of(way.address[0]) if way.address is not None else None
    return subnet or way.node_id.hex()
