"""Ports that routers map, listed and unmapped without a running node."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kodectl.core.mapping import Gateway, Method, PortMapping, Transport
from kodectl.errors import KodectlError, NegativeAnswer, PeerFault
from kodectl.node.mapping_race import Finders
from kodectl.node.mapping_views import (
    GatewayView,
    ListView,
    MappingView,
    UnmappedView,
    UnmapView,
    error_view,
    gateway_view,
    view_of,
)
from kodectl.runtime.base import Address, Mailbox, Runtime, TimedOut

NO_ADDRESS = "0.0.0.0"
END_LIMIT_S = 0.1
"""For finders whose routers are no longer waited for; they end by themselves."""


def list_mappings(runtime: Runtime, finders: Finders, timeout_s: float) -> ListView:
    """What the routers here are, and what they tell of their mappings. Raises NegativeAnswer (no_gateway)."""
    source = runtime.local_network().source
    gateways: list[GatewayView] = []
    views: list[MappingView] = []
    for gateway in find_all(runtime, finders, timeout_s):
        listed = gateway.mappings()
        gateways.append(gateway_view(gateway, lists=listed is not None))
        views += [view_of(mapping, source) for mapping in listed or ()]
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
        error=error_view(refusals[0]) if refusals and not is_removed else None,
    )


def _candidates(
    gateway: Gateway, listed: list[PortMapping] | None, internal: Address, transport: Transport
) -> list[PortMapping]:
    """What to remove: of a list what is ours, else whatever there may be."""
    if listed is None:
        return [PortMapping(gateway.method, transport, internal, (NO_ADDRESS, internal[1]), 0, gateway.address)]
    return [mapping for mapping in listed if (mapping.internal, mapping.transport) == (internal, transport)]
