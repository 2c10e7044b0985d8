"""Ports mapped, listed and unmapped at the router for the time of one command, without a running node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NoReturn

import msgspec

from kodectl.core.mapping import Gateway, MappingRefused, Method, PortMapping, Transport, Wish
from kodectl.errors import DeadlineReached, EnvironmentFault, KodectlError, NegativeAnswer, PeerFault
from kodectl.node.held_mappings import NO_IPS, HeldMappings
from kodectl.node.mapping_race import OTHER_PORTS, Finders, MappingRace
from kodectl.node.port_mapping import LOOK_EVERY_S, LOOK_LEAST_S, SILENCES, nesting_of
from kodectl.node.views import MappingErrorView
from kodectl.runtime.base import Address, Mailbox, Runtime, Stopped, TimedOut
from kodectl.wire.addresses import address_text

ABANDON_LIMIT_S = 6.0
"""For the one request that may be under way: those of UPnP end within five seconds."""
END_LIMIT_S = 0.1
"""For finders whose routers are no longer needed; they end by themselves."""

NO_IP = "0.0.0.0"

TransportName = Literal["tcp", "udp"]
MethodName = Literal["pcp", "natpmp", "upnp"]


class MappingTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a router. `lease_s` 0: without an end. `timeout_s`: for finding it and for all the ports."""

    lease_s: int
    timeout_s: float
    other_ports: int = OTHER_PORTS
    """Outer ports tried besides the one wanted, where that is another's."""


class MappingView(msgspec.Struct, frozen=True, kw_only=True):
    """`external` null: the router does not tell its outer address, or has none. `lease_s` null: without an end."""

    transport: TransportName
    internal: str
    internal_ip: str
    internal_port: int
    external: str | None
    external_ip: str | None
    external_port: int
    lease_s: int | None
    method: MethodName
    gateway: str
    description: str | None
    this_host: bool


class FailureView(msgspec.Struct, frozen=True, kw_only=True):
    """A port that is not mapped, and why."""

    transport: TransportName
    port: int
    error: MappingErrorView


class MapView(msgspec.Struct, frozen=True, kw_only=True):
    """`double_nat`: the router's own outer address is not of the internet; null where it does not tell that."""

    gateway: str | None
    gateway_name: str | None
    method: MethodName | None
    external_ip: str | None
    double_nat: bool | None
    mappings: list[MappingView]
    failed: list[FailureView]


class GatewayView(msgspec.Struct, frozen=True, kw_only=True):
    """`lists`: whether it tells which ports are mapped; only UPnP can."""

    method: MethodName
    address: str
    name: str
    external_ip: str | None
    lists: bool


class ListView(msgspec.Struct, frozen=True, kw_only=True):
    """`mappings` null: no router tells of any."""

    gateways: list[GatewayView]
    mappings: list[MappingView] | None


class UnmappedView(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one port. `not_mapped`: the router lists its mappings, and this was none of them. `outer_ports`: those
    that it was mapped to, null where no router tells."""

    transport: TransportName
    port: int
    state: Literal["removed", "not_mapped", "refused"]
    outer_ports: list[int] | None
    error: MappingErrorView | None


class UnmapView(msgspec.Struct, frozen=True, kw_only=True):
    ports: list[UnmappedView]


class KeptEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What has happened to mappings that are kept, and why, where that is more than that time has passed."""

    event: Literal["renewed", "changed", "lost", "failed", "mapped", "removed"]
    reason: str | None
    mappings: list[MappingView]


def require_network(runtime: Runtime) -> None:
    """Raises EnvironmentFault (no_network)."""
    if runtime.local_network().source is None:
        raise EnvironmentFault(
            "no IPv4 default route: this machine has no network with a router to ask", code="no_network"
        )


# --- mapping ---


@contextmanager
def mapping_errand(runtime: Runtime, finders: Finders, terms: MappingTerms) -> Iterator[MappingErrand]:
    """When the block ends with an exception, nothing stays mapped; otherwise what is mapped stays."""
    errand = MappingErrand(runtime, finders, terms)
    try:
        yield errand
    except BaseException:
        errand.abandon()
        raise
    finally:
        errand.close()


class MappingErrand:
    """Maps ports at the first router that gives them, and keeps them mapped if it is told to.

    Races run in a task of their own: a signal that ends the waiting command does not tear a request in two, of which
    nobody would know whether the router has done it."""

    def __init__(self, runtime: Runtime, finders: Finders, terms: MappingTerms) -> None:
        self._runtime = runtime
        self._finders = finders
        self._terms = terms
        self._scope = runtime.scope("mapping errand")
        self._race: MappingRace | None = None
        self._idle = runtime.event()
        self._idle.set()
        self._held: list[HeldMappings] = []
        self._lost: list[Wish] = []
        self._silences = 0
        self._route = runtime.local_network()[1:]

    def map(self, wishes: Sequence[Wish]) -> MapView:
        """All of them at one router if that gives all, else each wherever it is to be had; waits.

        Raises MappingRefused or NegativeAnswer (no_gateway) when none of them is mapped; DeadlineReached."""
        failed: list[FailureView] = []
        trouble: NegativeAnswer | None = None
        try:
            self._map(wishes)
        except MappingRefused as refusal:
            trouble = refusal
            if len(wishes) > 1:
                failed = self._map_singly(wishes)
        if not self._held:
            assert trouble is not None
            raise trouble
        return self._view(failed)

    def keep(self, report: Callable[[KeptEvent], None]) -> NoReturn:
        """Renews, and maps again what the router has lost, until something interrupts the waiting; then removes them."""
        try:
            while True:
                self._scope.sleep(self._pause_s())
                self._mind_route(report)
                for held in list(self._held):
                    self._look(held, report)
                if self._lost:
                    self._map_again(report)
        except BaseException:
            mappings = self.mappings()
            left = self.abandon()
            why = f"not {', '.join(left)}: the router keeps them until their leases end" if left else None
            report(KeptEvent(event="removed", reason=why, mappings=mappings))
            raise

    def abandon(self) -> list[str]:
        """Removes what is mapped. Answers what the router does not let go. Waits."""
        if self._race is not None:
            self._race.give_up()
        self._idle.wait(ABANDON_LIMIT_S)
        left = []
        while self._held:
            left += _remove_all(self._held.pop())
        return left

    def close(self) -> None:
        self._scope.close()
        self._scope.join(END_LIMIT_S)

    def mappings(self) -> list[MappingView]:
        return [view for held in self._held for view in _views(held)]

    # -- one race --------------------------------------------------------------------------------------------------

    def _map_singly(self, wishes: Sequence[Wish]) -> list[FailureView]:
        failed = []
        for wish in wishes:
            try:
                self._map([wish])
            except NegativeAnswer as trouble:
                failed.append(_failure(wish, trouble))
        return failed

    def _map(self, wishes: Sequence[Wish]) -> None:
        outcomes: Mailbox[Exception | None] = self._runtime.mailbox(1)
        self._race = race = MappingRace(self._runtime, self._scope, self._finders)
        self._idle.clear()
        self._scope.spawn("map ports", self._run, race, wishes, outcomes)
        timer = self._runtime.call_later(self._terms.timeout_s, race.give_up)
        try:
            trouble = outcomes.get()
        finally:
            timer.cancel()
        if isinstance(trouble, Stopped):
            raise DeadlineReached(f"no router has mapped the ports within {self._terms.timeout_s:g} s")
        if trouble is not None:
            raise trouble

    def _run(self, race: MappingRace, wishes: Sequence[Wish], outcomes: Mailbox[Exception | None]) -> None:
        try:
            gateway, mappings = race.run(wishes, self._terms.other_ports)
        except (KodectlError, Stopped) as trouble:
            outcomes.put(trouble)
        else:
            self._held.append(HeldMappings(self._runtime, gateway, mappings, self._terms.lease_s))
            outcomes.put(None)
        finally:
            self._race = None
            self._idle.set()
            outcomes.close()

    # -- keeping ---------------------------------------------------------------------------------------------------

    def _pause_s(self) -> float:
        renewals = [held.next_renewal() - self._runtime.now() for held in self._held]
        return min(LOOK_EVERY_S, max(LOOK_LEAST_S, min(renewals, default=LOOK_EVERY_S)))

    def _mind_route(self, report: Callable[[KeptEvent], None]) -> None:
        route = self._runtime.local_network()[1:]
        if route != self._route:
            self._route = route
            for held in list(self._held):
                self._lose(held, "this machine's address or router has changed", report)

    def _look(self, held: HeldMappings, report: Callable[[KeptEvent], None]) -> None:
        before_s = held.expires_s()
        try:
            change = held.look()
        except MappingRefused as refusal:
            held.release()
            self._lose(held, refusal.message, report)
        except (NegativeAnswer, PeerFault) as trouble:
            self._silences += 1
            if self._silences >= SILENCES:
                self._lose(held, trouble.message, report)
        else:
            self._silences = 0
            after_s = held.expires_s()
            if change is not None:
                report(KeptEvent(event="changed", reason=change, mappings=_views(held)))
            elif before_s is not None and after_s is not None and after_s > before_s:
                report(KeptEvent(event="renewed", reason=None, mappings=_views(held)))

    def _lose(self, held: HeldMappings, why: str, report: Callable[[KeptEvent], None]) -> None:
        self._held.remove(held)
        self._silences = 0
        self._lost += [
            Wish(mapping.transport, mapping.internal[1], mapping.external[1], self._terms.lease_s)
            for mapping in held.mappings
        ]
        report(KeptEvent(event="lost", reason=why, mappings=_views(held)))

    def _map_again(self, report: Callable[[KeptEvent], None]) -> None:
        known = len(self._held)
        try:
            self._map(self._lost)
        except (NegativeAnswer, DeadlineReached) as trouble:
            report(KeptEvent(event="failed", reason=trouble.message, mappings=[]))
        else:
            self._lost = []
            report(KeptEvent(event="mapped", reason=None, mappings=_views(self._held[known])))

    def _view(self, failed: list[FailureView]) -> MapView:
        first = self._held[0]
        external_ip = next((held.external_ip for held in self._held if held.external_ip), None)
        return MapView(
            gateway=first.gateway.address,
            gateway_name=first.gateway.name,
            method=first.gateway.method.value,
            external_ip=external_ip,
            double_nat=None if external_ip is None else nesting_of(external_ip) is not None,
            mappings=self.mappings(),
            failed=failed,
        )


# --- listing and removing ---


def list_mappings(runtime: Runtime, finders: Finders, timeout_s: float) -> ListView:
    """What the routers here are, and what they tell of their mappings. Raises NegativeAnswer (no_gateway)."""
    source = runtime.local_network().source
    gateways: list[GatewayView] = []
    views: list[MappingView] = []
    for gateway in find_all(runtime, finders, timeout_s):
        listed = gateway.mappings()
        gateways.append(_gateway_view(gateway, lists=listed is not None))
        views += [_view(mapping, source) for mapping in listed or ()]
    return ListView(gateways=gateways, mappings=views if any(gateway.lists for gateway in gateways) else None)


def unmap(runtime: Runtime, finders: Finders, ports: Sequence[tuple[Transport, int]], timeout_s: float) -> UnmapView:
    """Removes what this host has mapped to these ports of its own, whichever protocol it was mapped by.

    Raises NegativeAnswer (no_gateway)."""
    source = runtime.local_network().source
    assert source is not None, "see require_network"
    routers = [(gateway, gateway.mappings()) for gateway in find_all(runtime, finders, timeout_s)]
    return UnmapView(ports=[_unmap_port(routers, (source, port), transport) for transport, port in ports])


def find_all(runtime: Runtime, finders: Finders, timeout_s: float) -> list[Gateway]:
    """Every router that answers a protocol within the limit, those that list mappings first.

    Raises NegativeAnswer (no_gateway)."""
    scope = runtime.scope("find routers")
    outcomes = runtime.mailbox(len(finders))
    for method, find in finders.items():
        scope.spawn(f"find {method.value}", _find, find, outcomes)
    ends = runtime.now() + timeout_s
    found: list[Gateway] = []
    why: list[str] = []
    try:
        for _ in finders:
            outcome = outcomes.get(max(0.0, ends - runtime.now()))
            if isinstance(outcome, KodectlError):
                why.append(outcome.message)
            else:
                found.append(outcome)
    except TimedOut:
        pass
    finally:
        scope.close()
        scope.join(END_LIMIT_S)
    if not found:
        raise NegativeAnswer(f"no router answers{': ' if why else ''}{'; '.join(why)}", code="no_gateway")
    return sorted(found, key=lambda gateway: list(Method).index(gateway.method), reverse=True)


def _find(find: Callable[[], Gateway], outcomes: Mailbox[Gateway | KodectlError]) -> None:
    try:
        outcomes.put(find())
    except KodectlError as trouble:
        outcomes.put(trouble)


Router = tuple[Gateway, list[PortMapping] | None]
"""And what it tells of its mappings, if it does."""


def _unmap_port(routers: Sequence[Router], internal: Address, transport: Transport) -> UnmappedView:
    """By those who list first: then the others have nothing left to refuse, where all protocols share a table."""
    is_listed = any(listed is not None for _, listed in routers)
    outer_ports: list[int] = []
    refusals: list[KodectlError] = []
    is_accepted = False
    for gateway, listed in routers:
        for mapping in _candidates(gateway, listed, internal, transport):
            try:
                gateway.remove(mapping)
            except (NegativeAnswer, PeerFault) as trouble:
                # What one without a list refuses may not have been there.
                refusals += [trouble] if listed is not None or not is_listed else []
            else:
                is_accepted = True
                outer_ports += [mapping.external[1]] if listed is not None else []
    is_removed = bool(outer_ports) and not refusals if is_listed else is_accepted
    return UnmappedView(
        transport=transport.value,
        port=internal[1],
        state="removed" if is_removed else "refused" if refusals else "not_mapped",
        outer_ports=outer_ports if is_listed else None,
        error=_error(refusals[0]) if refusals and not is_removed else None,
    )


def _candidates(
    gateway: Gateway, listed: list[PortMapping] | None, internal: Address, transport: Transport
) -> list[PortMapping]:
    """What to remove: of a list what is ours, else whatever there may be."""
    if listed is None:
        return [PortMapping(gateway.method, transport, internal, (NO_IP, internal[1]), 0, gateway.address)]
    return [mapping for mapping in listed if (mapping.internal, mapping.transport) == (internal, transport)]


def _remove_all(held: HeldMappings) -> list[str]:
    """Answers what is left: refused, or not asked for any more because the router has fallen silent."""
    left: list[str] = []
    is_silent = False
    for mapping in held.mappings:
        try:
            if not is_silent:
                held.gateway.remove(mapping)
                continue
        except MappingRefused:
            pass
        except (NegativeAnswer, PeerFault):
            is_silent = True
        left.append(f"{mapping.internal[1]}/{mapping.transport.value}")
    return left


# --- views ---


def _views(held: HeldMappings) -> list[MappingView]:
    return [_view(mapping, mapping.internal[0]) for mapping in held.mappings]


def _view(mapping: PortMapping, source: str | None) -> MappingView:
    ip, port = mapping.external
    is_told = ip not in NO_IPS
    return MappingView(
        transport=mapping.transport.value,
        internal=address_text(*mapping.internal),
        internal_ip=mapping.internal[0],
        internal_port=mapping.internal[1],
        external=address_text(ip, port) if is_told else None,
        external_ip=ip if is_told else None,
        external_port=port,
        lease_s=mapping.lease_s or None,
        method=mapping.method.value,
        gateway=mapping.gateway,
        description=mapping.description or None,
        this_host=mapping.internal[0] == source,
    )


def _gateway_view(gateway: Gateway, *, lists: bool) -> GatewayView:
    try:
        external_ip = gateway.external_ip()
    except (NegativeAnswer, PeerFault):
        external_ip = None
    return GatewayView(
        method=gateway.method.value, address=gateway.address, name=gateway.name, external_ip=external_ip, lists=lists
    )


def _failure(wish: Wish, trouble: KodectlError) -> FailureView:
    return FailureView(transport=wish.transport.value, port=wish.internal_port, error=_error(trouble))


def _error(trouble: KodectlError) -> MappingErrorView:
    return MappingErrorView(trouble.code, trouble.message, trouble.hint)
