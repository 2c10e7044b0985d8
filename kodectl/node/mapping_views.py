"""What is told of mapped ports to whoever asks for them from the shell."""

from __future__ import annotations

from typing import Literal

import msgspec

from kodectl.core.mapping import Gateway, PortMapping, Wish
from kodectl.errors import KodectlError, NegativeAnswer, PeerFault
from kodectl.node.held_mappings import NO_IPS, HeldMappings
from kodectl.node.views import MappingErrorView
from kodectl.wire.addresses import address_text

TransportName = Literal["tcp", "udp"]
MethodName = Literal["pcp", "natpmp", "upnp"]


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


def views_of(held: HeldMappings) -> list[MappingView]:
    return [view_of(mapping, mapping.internal[0]) for mapping in held.mappings]


def view_of(mapping: PortMapping, source: str | None) -> MappingView:
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


def gateway_view(gateway: Gateway, *, lists: bool) -> GatewayView:
    try:
        external_ip = gateway.external_ip()
    except (NegativeAnswer, PeerFault):
        external_ip = None
    return GatewayView(
        method=gateway.method.value, address=gateway.address, name=gateway.name, external_ip=external_ip, lists=lists
    )


def failure_view(wish: Wish, trouble: KodectlError) -> FailureView:
    return FailureView(transport=wish.transport.value, port=wish.internal_port, error=error_view(trouble))


def error_view(trouble: KodectlError) -> MappingErrorView:
    return MappingErrorView(trouble.code, trouble.message, trouble.hint)
