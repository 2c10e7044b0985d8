"""Boxes that translate addresses: routers, and the large ones of providers, each with a realm of its own behind it."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kodectl.core.mapping import Transport
from kodectl.core.nat import Behavior
from kodectl.runtime.base import Address
from kodectl.sim.network import LAN_PATH, Host, Network, Step
from kodectl.sim.realm import Realm, Station
from kodectl.sim.translation import PortRule, Translations

if TYPE_CHECKING:
    from kodectl.sim.runtime import SimRuntime

UDP_TIMEOUT_S = 120.0
"""The least that RFC 4787, section 4.3, allows; many a real box has 30."""

TCP_TIMEOUT_S = 7_440.0
"""RFC 5382, section 5: no less than 2 hours and 4 minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NatRules:
    """How a box behaves, in the words of RFC 4787.

    Mappings of streams are made by the same rule as those of datagrams; what is let in to them is always only who was
    dialled, as most boxes do it."""

    mapping: Behavior = Behavior.ENDPOINT_INDEPENDENT
    filtering: Behavior = Behavior.ADDRESS_AND_PORT_DEPENDENT
    ports: PortRule = PortRule.PRESERVE
    hairpin: bool = False
    """Those inside reach each other by outer addresses, and see them as senders (section 6)."""
    udp_timeout_s: float = UDP_TIMEOUT_S
    """Since the last datagram that went out, for a mapping and for each who is let in to it."""
    udp_blocked: bool = False


class Nat:
    """A box between two realms: `inside` is its own, of the other it has one address.

    It has a machine of its own at its inner address (`runtime`), for the services of a router. What is to reach that from
    outside is forwarded to it like to any other. While that machine is crashed nothing gets through the box, and once
    restarted it has forgotten its mappings; forwards count as configuration and stay.

    A stream whose mapping is forgotten is taken up again by the next piece that goes out, as Linux does it
    (nf_conntrack_tcp_loose): it goes on if the port is the same as before, and is reset by the other side if not."""

    runtime: SimRuntime

    def __init__(
        self, network: Network, name: str, rules: NatRules, around: Realm, outer_ip: str, inner_ip: str, seed: str
    ) -> None:
        self.name = name
        self.rules = rules
        self.inner_ip = inner_ip
        self.network = network
        self.inside = Realm(name, LAN_PATH, gateway=self)
        self._around = around
        self._rng = random.Random(f"{seed} nat {name}")
        self._tables = self._empty_tables()
        self._clogged: set[tuple[int, Address]] = set()
        self._move_to(outer_ip)

    @property
    def outer_ip(self) -> str:
        return self._outside.ip

    @property
    def inner(self) -> Host:
        return self.runtime.host

    # What is done to it

    def started(self, runtime: SimRuntime) -> None:
        """Its machine has come up."""
        self.runtime = runtime
        self.forget()

    def forward(self, transport: Transport, outer_port: int, inner: Address) -> None:
        """Opens an outer port to everybody, until it is removed; takes the place of what was on that port before."""
        self._tables[transport].forward(outer_port, inner)

    def remove_forward(self, transport: Transport, outer_port: int) -> None:
        """One that is not there is no error."""
        self._tables[transport].remove_forward(outer_port)

    def forwards(self, transport: Transport) -> dict[int, Address]:
        """Outer port -> inner address."""
        return dict(self._tables[transport].forwards)

    def mappings(self, transport: Transport) -> int:
        """How many the box has in its table; some of them may have expired."""
        return len(self._tables[transport])

    def forget(self) -> None:
        """All mappings are lost, of datagrams and of streams."""
        for table in self._tables.values():
            table.forget()

    def clog(self, outer_port: int, remote: Address) -> None:
        """From now on the box drops streams between these two ends: as Linux does, for as long as it knows a connection that
        was opened by half."""
        self._clogged.add((outer_port, remote))

    def change_rules(self, **rules: Any) -> None:
        """As if another box had taken its place, with its address and its forwards, but nothing of what it remembers."""
        forwards = {transport: self.forwards(transport) for transport in Transport}
        self.rules = replace(self.rules, **rules)
        self._tables = self._empty_tables()
        for transport, ports in forwards.items():
            self._tables[transport].forwards.update(ports)

    def _empty_tables(self) -> dict[Transport, Translations]:
        udp = Translations(
            mapping=self.rules.mapping,
            filtering=self.rules.filtering,
            ports=self.rules.ports,
            timeout_s=self.rules.udp_timeout_s,
            is_kept_by_inbound=False,
            rng=self._rng,
        )
        tcp = Translations(
            mapping=self.rules.mapping,
            filtering=Behavior.ADDRESS_AND_PORT_DEPENDENT,
            ports=self.rules.ports,
            timeout_s=TCP_TIMEOUT_S,
            is_kept_by_inbound=True,
            rng=self._rng,
        )
        return {Transport.UDP: udp, Transport.TCP: tcp}

    def change_address(self, outer_ip: str) -> None:
        """The box gets another outer address; mappings do not survive that."""
        self._around.require_free(outer_ip)
        self._outside.alive = False
        self.forget()
        self._move_to(outer_ip)

    def _move_to(self, outer_ip: str) -> None:
        self._outside = OuterSide(self, self._around, outer_ip, self.network.next_number())
        self.network.place(self._outside)

    # What it does

    def exit(self, ip: str) -> Exit:
        """Where what is for `ip` leaves the realm inside."""
        return Exit(self, ip)

    def pass_out(self, transport: Transport, sender: Address, target: Address) -> Step | None:
        to_itself = target[0] == self.outer_ip
        if not self._carries(transport) or (to_itself and not self.rules.hairpin):
            return None
        port = self._tables[transport].outward(sender, target, self.network.schedule.now)
        outer: Address = (self.outer_ip, port)
        if transport is Transport.TCP and (port, target) in self._clogged:
            return None
        return self.pass_in(transport, outer, target[1]) if to_itself else Step(self._outside, outer, target)

    def pass_in(self, transport: Transport, sender: Address, port: int) -> Step | None:
        if not self._carries(transport) or (transport is Transport.TCP and (port, sender) in self._clogged):
            return None
        inner = self._tables[transport].inward(port, sender, self.network.schedule.now)
        if inner is None or inner[0] not in self.inside.stations:
            return None
        return Step(self.inner, sender, inner)

    def _carries(self, transport: Transport) -> bool:
        return self.inner.alive and not (self.rules.udp_blocked and transport is Transport.UDP)

    def hand_on(self, data: bytes, step: Step | None) -> None:
        """Sends a datagram on its way; None: it is dropped."""
        if step is not None:
            self.network.send_datagram(step.station, step.sender, data, step.target)


class Exit:
    """A `Passage`: the inner side of a box, for what goes to one address beyond it."""

    __slots__ = ("_ip", "_nat")

    def __init__(self, nat: Nat, ip: str) -> None:
        self._nat = nat
        self._ip = ip

    @property
    def number(self) -> int:
        return self._nat.inner.number

    def pass_on(self, transport: Transport, sender: Address, port: int) -> Step | None:
        return self._nat.pass_out(transport, sender, (self._ip, port))

    def deliver(self, data: bytes, sender: Address, port: int) -> None:
        self._nat.hand_on(data, self.pass_on(Transport.UDP, sender, port))


class OuterSide(Station):
    """A `Passage`: a box as its address outside. With another address it has another."""

    def __init__(self, nat: Nat, realm: Realm, ip: str, number: int) -> None:
        super().__init__(realm, ip, nat.name, number)
        self._nat = nat

    def pass_on(self, transport: Transport, sender: Address, port: int) -> Step | None:
        return self._nat.pass_in(transport, sender, port) if self.alive else None

    def deliver(self, data: bytes, sender: Address, port: int) -> None:
        self._nat.hand_on(data, self.pass_on(Transport.UDP, sender, port))
