"""The node's ports at the router: mapped in the background, kept, restored, removed at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from kodectl.core.mapping import Gateway, MappingRefused, Method, Transport, Wish
from kodectl.core.refusals import METHOD_NAMES
from kodectl.errors import NegativeAnswer
from kodectl.node.events import Events
from kodectl.node.held_mappings import HeldMappings
from kodectl.node.mapping_race import TROUBLES, MappingRace
from kodectl.node.views import MappingErrorView, PortMappingView
from kodectl.runtime.base import Address, Runtime, Scope, Stopped
from kodectl.wire.addresses import address_text, scope_of

log = logging.getLogger(__name__)

LOOK_EVERY_S = 15.0
"""Between two looks at the router, and at this machine's own address: two datagrams. A router is back in service some
ten seconds after it answers again, so mappings are back within the minute."""
LOOK_LEAST_S = 4.0
"""However short the leases are (RFC 6887, section 11.2.1)."""
SILENT_AGAIN_S = 5.0
"""After a look without an answer."""
SILENCES = 2
"""Looks without an answer after which every protocol is tried: one is a router under load, and each is five datagrams."""
RETRY_FIRST_S = 15.0
RETRY_MOST_S = 300.0
"""Where no router was ever found: one on which an operator turns port mapping on is found in five minutes."""
RETRY_KNOWN_S = 30.0
"""Where there is one: it restarts, or its line is down, or it is being set up."""
STOP_LIMIT_S = 2.0
"""For the router to take the mappings back; those of a silent one end with their lease."""

NESTED = ("private", "cgnat", "link_local", "loopback")
"""Ranges of an outer address that the internet does not reach (RFC 1918, RFC 6598)."""

State = Literal["off", "searching", "mapped", "degraded", "refused", "no_gateway"]


class PortMappings:
    """Keeps the node's ports mapped. One task does it all, and whatever the router does costs no more than that task."""

    def __init__(
        self,
        runtime: Runtime,
        scope: Scope,
        events: Events,
        method: str,
        finders: dict[Method, Callable[[], Gateway]],
    ) -> None:
        """`method`: auto (every protocol there is a finder for), none, or the one to be used."""
        self.on_changed: Callable[[], None] = lambda: None
        """Hears when `external` may answer something else."""
        self._runtime = runtime
        self._scope = scope
        self._events = events
        self._finders = {key: find for key, find in finders.items() if method in ("auto", key.value)}
        self._state: State = "off"
        self._error: MappingErrorView | None = None
        self._held: HeldMappings | None = None
        self._internal: dict[Transport, int] = {}
        self._preferred: dict[Transport, int] = {}
        """The outer ports that were had last: others may know the node by them."""
        self._has_router = False
        self._race: MappingRace | None = None
        self._stopping = False
        self._stop_signal = runtime.event()
        self._ended = runtime.event()
        self._ended.set()

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self, tcp_port: int, udp_port: int) -> None:
        """Does not wait. A port 0 is not mapped."""
        ports = {Transport.TCP: tcp_port, Transport.UDP: udp_port}
        self._internal = {transport: port for transport, port in ports.items() if port}
        if not self._finders or not self._internal:
            return
        self._state = "searching"
        self._ended.clear()
        self._scope.spawn("port mapping", self._keep)

    def stop(self) -> None:
        """Takes the mappings back. Waits for the router, 2 s at most; may be called twice."""
        self._stopping = True
        self._stop_signal.set()
        if self._race is not None:
            self._race.give_up()
        self._ended.wait(STOP_LIMIT_S)

    def _keep(self) -> None:
        try:
            while not self._stopping:
                self._hold(self._seek())
        except Stopped:
            pass
        finally:
            self._held, self._state, self._error = None, "off", None
            self._ended.set()

    def _pause(self, seconds: float) -> None:
        if self._stop_signal.wait(max(seconds, 0.0)) or self._stopping:
            raise Stopped

    # -- seeking ---------------------------------------------------------------------------------------------------

    def _seek(self) -> HeldMappings:
        """Asks every protocol, again and again. Raises Stopped."""
        retry_s = RETRY_FIRST_S
        # Apart from the node's tasks: a search of seconds, with nothing to be undone, is not waited for at the end.
        searching = self._runtime.scope("find routers")
        while True:
            route = self._route()
            self._race = MappingRace(self._runtime, searching, self._finders)
            try:
                gateway, mappings = self._race.run(self._wishes())
            except NegativeAnswer as trouble:
                self._failed(trouble)
            else:
                held = HeldMappings(self._runtime, gateway, mappings)
                self._mapped(held, "found")
                return held
            finally:
                self._race = None
            self._pause_on_route(route, retry_s)
            retry_s = min(retry_s * 2, RETRY_KNOWN_S if self._has_router else RETRY_MOST_S)

    def _wishes(self) -> list[Wish]:
        ports = self._internal.items()
        return [Wish(transport, port, self._preferred.get(transport, port)) for transport, port in ports]

    def _pause_on_route(self, route: tuple[str | None, str | None], seconds: float) -> None:
        """Ends early when the machine has moved to another network."""
        ends = self._runtime.now() + seconds
        while self._route() == route and (left := ends - self._runtime.now()) > 0:
            self._pause(min(left, LOOK_EVERY_S))

    def _route(self) -> tuple[str | None, str | None]:
        network = self._runtime.local_network()
        return network.source, network.gateway

    # -- holding ---------------------------------------------------------------------------------------------------

    def _hold(self, held: HeldMappings) -> None:
        """Until the router takes the mappings away or answers no more. Raises Stopped, with the mappings removed."""
        route = self._route()
        silences = 0
        while True:
            try:
                self._pause(self._pause_s(held, silences))
            except Stopped:
                if not silences:
                    held.release()
                raise
            if self._route() != route:
                self._has_router = False
                self._lost(held, "this machine's address or router has changed")
                return
            try:
                change = held.look()
            except MappingRefused as refusal:
                held.release()
                self._lost(held, refusal.message)
                return
            except TROUBLES as trouble:
                silences += 1
                if silences >= SILENCES:
                    self._lost(held, trouble.message)
                    return
            else:
                silences = 0
                if change is not None:
                    self._mapped(held, change)

    def _pause_s(self, held: HeldMappings, silences: int) -> float:
        if silences:
            return SILENT_AGAIN_S
        return min(LOOK_EVERY_S, max(LOOK_LEAST_S, held.next_renewal() - self._runtime.now()))

    # -- what is told ----------------------------------------------------------------------------------------------

    def _mapped(self, held: HeldMappings, why: str) -> None:
        self._held = held
        self._has_router = True
        self._preferred.update(
            (transport, address[1]) for transport in self._internal if (address := held.external(transport))
        )
        self._error = nesting_of(held.external_ip)
        self._state = "degraded" if self._error else "mapped"
        view = self.view()
        log.info("ports mapped by %s (%s): tcp %s, udp %s", _name(held.gateway), why, view.tcp, view.udp)
        if self._error is not None:
            log.warning("%s: %s", self._error.message, self._error.hint)
        self._events.emit(
            "port_mapped", method=view.method, gateway=view.gateway, tcp=view.tcp, udp=view.udp, reason=why
        )
        self.on_changed()

    def _lost(self, held: HeldMappings, why: str) -> None:
        self._held = None
        self._state, self._error = "searching", None
        log.warning("port mappings by %s lost: %s", _name(held.gateway), why)
        self._events.emit(
            "port_mapping_lost", method=held.gateway.method.value, gateway=held.gateway.address, reason=why
        )
        self.on_changed()

    def _failed(self, trouble: NegativeAnswer) -> None:
        """Told once, and again only when it is another trouble."""
        is_refused = isinstance(trouble, MappingRefused)
        self._has_router |= is_refused
        self._state = "refused" if is_refused else "no_gateway"
        error = MappingErrorView(trouble.code, trouble.message, trouble.hint)
        if self._error is not None and self._error.code == error.code:
            self._error = error
            return
        self._error = error
        # Many machines have no router that maps ports, and need none.
        log.log(logging.WARNING if is_refused else logging.INFO, "ports not mapped: %s", error.message)
        self._events.emit(
            "port_mapping_failed", state=self._state, code=error.code, message=error.message, hint=error.hint
        )

    # -- what can be asked -----------------------------------------------------------------------------------------

    def external(self, transport: Transport) -> Address | None:
        """Where the router says that it listens for the node, whether that is a public address or not: whoever dials it
        back finds out. None where nothing is mapped, or the router does not tell its address."""
        return self._held.external(transport) if self._held is not None else None

    def view(self) -> PortMappingView:
        held = self._held
        tcp, udp = self.external(Transport.TCP), self.external(Transport.UDP)
        external_ip = held.external_ip if held is not None else None
        expires_s = held.expires_s() if held is not None else None
        return PortMappingView(
            state=self._state,
            method=held.gateway.method.value if held is not None else None,
            gateway=held.gateway.address if held is not None else None,
            gateway_name=held.gateway.name if held is not None else None,
            external_ip=external_ip,
            tcp=address_text(*tcp) if tcp is not None else None,
            udp=address_text(*udp) if udp is not None else None,
            expires_s=round(expires_s, 3) if expires_s is not None else None,
            error=self._error,
            double_nat=scope_of(external_ip) in NESTED if external_ip is not None else None,
        )


def _name(gateway: Gateway) -> str:
    return f"{METHOD_NAMES[gateway.method]} ({gateway.name})"


def nesting_of(external_ip: str | None) -> MappingErrorView | None:
    """What to do about a router that stands behind another NAT; None where it does not, or that is not known."""
    scope = scope_of(external_ip) if external_ip is not None else None
    if scope not in NESTED:
        return None
    message = f"the router's own outer address, {external_ip}, is not of the internet"
    if scope == "cgnat":
        return MappingErrorView(
            "double_nat", message, "the provider shares one address among customers: ask it for one"
        )
    hint = "a second router stands before it: set that one, or this one, to bridge mode, or map the ports on both"
    return MappingErrorView("double_nat", message, hint)
