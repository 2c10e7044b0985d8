"""What a box that translates remembers: its mappings, who may come in by them, and the ports that are always open."""

from __future__ import annotations

import random
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from kodectl.core.nat import Behavior
from kodectl.errors import LocalMisuse
from kodectl.runtime.base import Address

K = TypeVar("K")
V = TypeVar("V")

LOWEST_PORT, HIGHEST_PORT = 1_024, 65_535
"""Outer ports that a box gives by itself."""

MAX_MAPPINGS = 4_096
"""At once, of one transport: the size of a home router's table. The one unused for longest makes room."""

MAX_CONTACTS = 16_384
"""Pairs of a mapping and somebody outside whom it lets in, and of visitors that came by a forward."""

MAX_FORWARDS = 256


class PortRule(Enum):
    """Which outer port a new mapping gets; where it is taken, the next one that is free."""

    PRESERVE = "preserve"
    """That of the inner endpoint."""
    SEQUENTIAL = "sequential"
    """One more than the last."""
    RANDOM = "random"


class Expiring(Generic[K, V]):
    """A table whose entries last for `lifetime_s` since they were put there last; at most `limit`, of which the oldest
    makes room."""

    def __init__(self, lifetime_s: float, limit: int) -> None:
        self._lifetime_s = lifetime_s
        self._limit = limit
        self._entries: OrderedDict[K, tuple[V, float]] = OrderedDict()  # the next to expire first

    def get(self, key: K, now: float) -> V | None:
        value, until_s = self._entries.get(key, (None, now))
        return value if until_s > now else None

    def put(self, key: K, value: V, now: float) -> None:
        """Adds or refreshes."""
        if key not in self._entries:
            self.make_room(now)
        self._entries[key] = value, now + self._lifetime_s
        self._entries.move_to_end(key)

    def make_room(self, now: float) -> list[V]:
        """Drops what has expired, and the oldest if the table is full; answers what was dropped."""
        dropped = []
        while self._entries:
            value, until_s = next(iter(self._entries.values()))
            if until_s > now and len(self._entries) < self._limit:
                break
            self._entries.popitem(last=False)
            dropped.append(value)
        return dropped

    def remove(self, key: K) -> None:
        self._entries.pop(key, None)

    def clear(self) -> None:
        self._entries.clear()

    def __len__(self) -> int:
        """With those that have expired and were not yet in the way."""
        return len(self._entries)


MappingKey = tuple[Address, Address | str | None]


@dataclass(frozen=True, slots=True, eq=False)
class Mapping:
    """An outer port of an inner endpoint. Each is itself: one that gets the port of another later is not the same."""

    inner: Address
    port: int
    key: MappingKey


class Translations:
    """Of one transport. `is_kept_by_inbound`: what comes in refreshes a mapping too, not only what goes out (RFC 4787,
    section 4.3, leaves the choice)."""

    def __init__(
        self,
        *,
        mapping: Behavior,
        filtering: Behavior,
        ports: PortRule,
        timeout_s: float,
        is_kept_by_inbound: bool,
        rng: random.Random,
    ) -> None:
        self.forwards: dict[int, Address] = {}
        """Outer port -> inner address."""
        self._mapping = mapping
        self._filtering = filtering
        self._ports = ports
        self._is_kept_by_inbound = is_kept_by_inbound
        self._rng = rng
        self._last_port = rng.randint(LOWEST_PORT, HIGHEST_PORT)
        self._mappings: Expiring[MappingKey, Mapping] = Expiring(timeout_s, MAX_MAPPINGS)
        self._by_port: dict[int, Mapping] = {}
        self._contacts: Expiring[tuple[Mapping, Address | str | None], bool] = Expiring(timeout_s, MAX_CONTACTS)
        self._visitors: Expiring[tuple[Address, Address], int] = Expiring(timeout_s, MAX_CONTACTS)

    def outward(self, inner: Address, remote: Address, now: float) -> int:
        """The outer port for what goes from `inner` to `remote`."""
        forwarded = self._forward_of(inner, remote, now)
        if forwarded is not None:
            return forwarded
        key = (inner, _part(self._mapping, remote))
        mapping = self._mappings.get(key, now) or self._make(key, inner, now)
        self._refresh(mapping, remote, now)
        return mapping.port

    def inward(self, port: int, remote: Address, now: float) -> Address | None:
        """Whom what comes from `remote` to an outer port is for; None where it is for nobody."""
        inner = self.forwards.get(port)
        if inner is not None:
            self._visitors.put((inner, remote), port, now)
            return inner
        mapping = self._by_port.get(port)
        # Whatever refreshed the contact refreshed its mapping, too: that has not expired either.
        if mapping is None or not self._contacts.get((mapping, _part(self._filtering, remote)), now):
            return None
        if self._is_kept_by_inbound:
            self._refresh(mapping, remote, now)
        return mapping.inner

    def forward(self, port: int, inner: Address) -> None:
        """Opens a port to everybody. Raises LocalMisuse."""
        if not 1 <= port <= HIGHEST_PORT:
            raise LocalMisuse(f"there is no port {port}")
        if port not in self.forwards and len(self.forwards) >= MAX_FORWARDS:
            raise LocalMisuse(f"a box forwards at most {MAX_FORWARDS} ports")
        self.forwards[port] = inner
        former = self._by_port.pop(port, None)
        if former is not None:
            self._mappings.remove(former.key)

    def remove_forward(self, port: int) -> None:
        self.forwards.pop(port, None)

    def forget(self) -> None:
        """Loses everything but the forwards."""
        self._mappings.clear()
        self._by_port.clear()
        self._contacts.clear()
        self._visitors.clear()

    def __len__(self) -> int:
        return len(self._mappings)

    def _forward_of(self, inner: Address, remote: Address, now: float) -> int | None:
        """A forward is the mapping of its endpoint, too, where an endpoint has only one; answers in any case leave by the
        port that they answer to."""
        if self._mapping is Behavior.ENDPOINT_INDEPENDENT:
            return next((port for port, target in self.forwards.items() if target == inner), None)
        port = self._visitors.get((inner, remote), now)
        return port if port is not None and self.forwards.get(port) == inner else None

    def _make(self, key: MappingKey, inner: Address, now: float) -> Mapping:
        for dropped in self._mappings.make_room(now):
            del self._by_port[dropped.port]
        self._last_port = self._free_port(inner[1])
        mapping = self._by_port[self._last_port] = Mapping(inner, self._last_port, key)
        return mapping

    def _free_port(self, inner_port: int) -> int:
        port = self._wanted_port(inner_port)
        while port > HIGHEST_PORT or port in self._by_port or port in self.forwards:
            port = port + 1 if port < HIGHEST_PORT else LOWEST_PORT
        return port  # there is one: mappings and forwards together are fewer than ports

    def _wanted_port(self, inner_port: int) -> int:
        if self._ports is PortRule.PRESERVE:
            return inner_port
        if self._ports is PortRule.SEQUENTIAL:
            return self._last_port + 1
        return self._rng.randint(LOWEST_PORT, HIGHEST_PORT)

    def _refresh(self, mapping: Mapping, remote: Address, now: float) -> None:
        self._mappings.put(mapping.key, mapping, now)
        self._contacts.put((mapping, _part(self._filtering, remote)), True, now)


def _part(behavior: Behavior, remote: Address) -> Address | str | None:
    """What of an outer endpoint such a box looks at."""
    if behavior is Behavior.ENDPOINT_INDEPENDENT:
        return None
    return remote[0] if behavior is Behavior.ADDRESS_DEPENDENT else remote
