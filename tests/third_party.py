"""Somebody who takes no part, and what nodes are made to send there: counted where it leaves, whether or not it arrives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from kodectl.sim.trace import Kind
from kodectl.sim.world import World

UDP_HEADERS, TCP_HEADERS, ANNOUNCED = 28, 40, 20
"""Of IPv4 and the transport; a SYN has options of 20 bytes."""


class Sent(NamedTuple):
    packets: int = 0
    bytes: int = 0

    def plus(self, size: int) -> Sent:
        return Sent(self.packets + 1, self.bytes + size)


class Tally:
    """Packets and bytes, with headers, between stations of the internet (a box that translates counts for those behind it),
    from its making on."""

    def __init__(self, world: World) -> None:
        network = world._network
        self._stations = network.stations
        self._sent: dict[tuple[int, int], Sent] = {}
        self.ports: Counter[tuple[int, int]] = Counter()
        """By target and its port."""
        self.on_datagram: Callable[[int, int, int, int, bytes], None] = lambda *datagram: None
        """Hears every one: from and to which station, by their numbers, each with its port."""
        record = network.trace.record

        def counted(
            kind: int, sent: float, arrival: float, source: int, port: int, target: int, target_port: int, data: bytes
        ) -> None:
            headers = UDP_HEADERS if kind == Kind.DATAGRAM else TCP_HEADERS + ANNOUNCED * (kind == Kind.DIAL)
            between = (source, target)
            self._sent[between] = self._sent.get(between, Sent()).plus(headers + len(data))
            self.ports[target, target_port] += 1
            if kind == Kind.DATAGRAM:
                self.on_datagram(source, port, target, target_port, data)
            record(kind, sent, arrival, source, port, target, target_port, data)

        network.trace.record = counted  # type: ignore[method-assign]

    def forget(self) -> None:
        self._sent.clear()
        self.ports.clear()

    def to(self, victim: str, *sources: str) -> Sent:
        """What `sources` (without any: everybody) have sent to `victim`; names of stations."""
        numbers = {self.number(source) for source in sources}
        target = self.number(victim)
        found = [
            sent for (source, to), sent in self._sent.items() if to == target and (not sources or source in numbers)
        ]
        return Sent(sum(sent.packets for sent in found), sum(sent.bytes for sent in found))

    def by(self, *sources: str) -> Sent:
        """All that they have sent, to whomever."""
        numbers = {self.number(source) for source in sources}
        found = [sent for (source, _), sent in self._sent.items() if source in numbers]
        return Sent(sum(sent.packets for sent in found), sum(sent.bytes for sent in found))

    def ports_of(self, victim: str) -> set[int]:
        number = self.number(victim)
        return {port for target, port in self.ports if target == number}

    def number(self, name: str) -> int:
        return self._stations[name].number
