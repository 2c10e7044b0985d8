"""`kodectl nat map|mappings|unmap`: the ports that the router maps to this host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from kodectl.cli.command import command, examples
from kodectl.cli.configuration import parse_port
from kodectl.cli.options import MAX_LIMIT_S, Parsed, configuration_of, time_limits
from kodectl.cli.output import Outcome, Output, table
from kodectl.errors import Degraded, KodectlError, LocalMisuse, NegativeAnswer

if TYPE_CHECKING:
    from kodectl.node.mapping_race import Finders
    from kodectl.node.mapping_views import KeptEvent, ListView, MappingView, MapView, UnmappedView, UnmapView
    from kodectl.runtime.base import Runtime

DEFAULT_LEASE_S = 3600
MIN_LEASE_S = 60
"""Shorter ones would be renewed all the time; PCP servers give two minutes at least (RFC 6887, section 15)."""
MAX_LEASE_S = 7 * 86_400
"""UPnP's second version gives no more, and what nobody has renewed for a week nobody wants."""
MAX_PORTS = 32
"""Of one command; routers have room for some dozens."""
TRANSPORTS = ("tcp", "udp")
METHODS = ("auto", "upnp", "natpmp", "pcp")

Function = Callable[..., Any]


class Port(NamedTuple):
    """`transport` None: both. `outer` None: the same, or another if need be."""

    number: int
    transport: str | None
    outer: int | None

    @property
    def transports(self) -> tuple[str, ...]:
        return TRANSPORTS if self.transport is None else (self.transport,)


def parse_mapping(text: str) -> Port:
    inner, colon, outer = text.partition(":")
    try:
        port = parse_inner(inner)
        return port._replace(outer=_parse_named_port(outer)) if colon else port
    except ValueError as error:
        raise ValueError("PORT[/tcp|udp][:EXT], ports from 1 to 65535") from error


def parse_inner(text: str) -> Port:
    number, slash, transport = text.partition("/")
    try:
        if slash and transport not in TRANSPORTS:
            raise ValueError
        return Port(_parse_named_port(number), transport or None, None)
    except ValueError as error:
        raise ValueError("PORT[/tcp|udp], a port from 1 to 65535") from error


def _parse_named_port(text: str) -> int:
    port = parse_port(text)
    if not port:
        raise ValueError
    return port


def parse_lease(text: str) -> int:
    lease_s = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    if lease_s and not MIN_LEASE_S <= lease_s <= MAX_LEASE_S:
        raise ValueError(f"a number of seconds from {MIN_LEASE_S} to {MAX_LEASE_S}, or 0 for no end")
    return lease_s


def by_protocol(function: Function) -> Function:
    return click.option(
        "--proto",
        type=click.Choice(METHODS),
        default="auto",
        show_default=True,
        help="How to talk to the router; auto: all ways side by side.",
    )(function)


@command(
    "map",
    epilog=examples(
        "kodectl nat map",
        "kodectl nat map 30303/tcp 30301/udp --keep",
        "kodectl nat map 8080/tcp:80 --proto upnp --lease 86400 --json",
    ),
)
@click.argument("ports", metavar="[PORT[/tcp|udp][:EXT]]...", type=Parsed(parse_mapping, "port"), nargs=-1)
@by_protocol
@click.option(
    "--lease",
    "lease_s",
    type=Parsed(parse_lease, "seconds"),
    default=str(DEFAULT_LEASE_S),
    show_default=True,
    metavar="SECONDS",
    help="How long the router is to keep a mapping that nobody renews; 0: without an end.",
)
@click.option(
    "--keep", is_flag=True, help="Stay: renew at half the lease, restore, and remove the mappings at the end."
)
@time_limits(timeout_s=20, deadline_s=MAX_LIMIT_S)
@click.pass_context
def map_(
    ctx: click.Context,
    ports: tuple[Port, ...],
    proto: str,
    lease_s: int,
    keep: bool,
    timeout_s: float,
    deadline_s: float,
) -> Outcome:
    """Have the router map ports of this host, and read back whether it did.

    Without PORT: both ports of a node, by its settings. Without /tcp or /udp: both. Without :EXT the outer port is the
    same, or another if that is taken. --timeout is for finding the router and mapping, --deadline ends --keep.
    Exit code 3: no router answers, or it refuses; 4: some ports only, another port than EXT, or a router that stands
    behind another NAT."""
    wanted = check_ports(ports or ports_of_node(ctx))

    from kodectl.cli.errand import world
    from kodectl.core.mapping import Transport, Wish
    from kodectl.node.mapping_errand import MappingTerms, mapping_errand, require_network

    output = output_of(ctx)
    output.start_logging()
    terms = MappingTerms(lease_s=lease_s, timeout_s=timeout_s, **_other_ports(wanted))
    wishes = [
        Wish(Transport(transport), port.number, port.outer or port.number, lease_s)
        for port in wanted
        for transport in port.transports
    ]
    output.progress("looking for a router that maps ports")
    with world() as runtime:
        require_network(runtime)
        with mapping_errand(runtime, finders_for(runtime, proto), terms) as errand:
            view = errand.map(wishes)
            warn(output, view, wanted, lease_s)
            if keep:
                errand.keep(
                    lambda: output.emit({"event": "mapped", **_fields(view)}, map_text(view)),
                    lambda event: output.emit(event, kept_line(event)),
                )
    return Outcome(view, map_text(view), failure=failure_of(view, wanted))


@command("mappings", epilog=examples("kodectl nat mappings", "kodectl nat mappings --jsonl"))
@by_protocol
@time_limits(timeout_s=10, deadline_s=30)
@click.pass_context
def mappings(ctx: click.Context, proto: str, timeout_s: float, deadline_s: float) -> Outcome:
    """List the ports that the routers here map, and which of them to this host.

    Only UPnP has a list; one that a router shows there may have been made by any protocol. Exit code 3: no router
    answers, or none has a list."""
    from kodectl.cli.errand import world
    from kodectl.node.mapping_errand import require_network
    from kodectl.node.mapping_lists import list_mappings

    output = output_of(ctx)
    output.start_logging()
    output.progress("looking for routers that map ports")
    with world() as runtime:
        require_network(runtime)
        view = list_mappings(runtime, finders_for(runtime, proto), timeout_s)
    return Outcome(view, list_text(view), rows=view.mappings or [], failure=_unlisted(view))


@command("unmap", epilog=examples("kodectl nat unmap 30303/tcp 30301/udp", "kodectl nat unmap 8080"))
@click.argument("ports", metavar="PORT[/tcp|udp]...", type=Parsed(parse_inner, "port"), nargs=-1, required=True)
@by_protocol
@time_limits(timeout_s=10, deadline_s=60)
@click.pass_context
def unmap(ctx: click.Context, ports: tuple[Port, ...], proto: str, timeout_s: float, deadline_s: float) -> Outcome:
    """Remove what the router maps to ports of this host, whatever the outer port is.

    Without /tcp or /udp: both. Exit code 3: none of them was mapped, or the router refuses; 4: some of them only."""
    wanted = check_ports(ports)

    from kodectl.cli.errand import world
    from kodectl.core.mapping import Transport
    from kodectl.node.mapping_errand import require_network
    from kodectl.node.mapping_lists import unmap as unmap_ports

    output = output_of(ctx)
    output.start_logging()
    asked = [(Transport(transport), port.number) for port in wanted for transport in port.transports]
    output.progress("looking for routers that map ports")
    with world() as runtime:
        require_network(runtime)
        view = unmap_ports(runtime, finders_for(runtime, proto), asked, timeout_s)
    return Outcome(view, unmap_text(view), rows=view.ports, failure=_remaining(view, wanted))


# --- what is asked for ---------------------------------------------------------------------------------------------------


def output_of(ctx: click.Context) -> Output:
    output = ctx.find_object(Output)
    assert output is not None, "the root group puts an Output into every context"
    return output


def ports_of_node(ctx: click.Context) -> tuple[Port, ...]:
    """By the settings, as a node on this host would take them. Raises LocalMisuse when it would take any."""
    configuration = configuration_of(ctx)
    tcp, udp = configuration.get("listen").value[1], configuration.get("discovery_port").value
    if not tcp or not udp:
        raise LocalMisuse(
            "by its settings the node takes any free port", hint="name the ports: kodectl nat map 30303/tcp 30301/udp"
        )
    return Port(tcp, "tcp", None), Port(udp, "udp", None)


def check_ports(ports: Sequence[Port]) -> Sequence[Port]:
    """Raises LocalMisuse for a port named twice, or too many."""
    if len(ports) > MAX_PORTS:
        raise LocalMisuse(f"more than {MAX_PORTS} ports")
    inner = [(port.number, transport) for port in ports for transport in port.transports]
    outer = [(port.outer or port.number, transport) for port in ports for transport in port.transports]
    for named in (inner, outer):
        for number, transport in named:
            if named.count((number, transport)) > 1:
                raise LocalMisuse(f"{number}/{transport} is named twice")
    return ports


def finders_for(runtime: Runtime, proto: str) -> Finders:
    from kodectl.cli.gateways import gateway_finders

    return {method: find for method, find in gateway_finders(runtime).items() if proto in ("auto", method.value)}


def _other_ports(ports: Sequence[Port]) -> dict[str, int]:
    """Who names outer ports wants no others."""
    return {"other_ports": 0} if any(port.outer is not None for port in ports) else {}


# --- what came of it -----------------------------------------------------------------------------------------------------


def warn(output: Output, view: MapView, wanted: Sequence[Port], lease_s: int) -> None:
    if lease_s and any(mapping.lease_s is None for mapping in view.mappings):
        output.warn(
            "mapping_permanent_only",
            "the router makes only mappings without an end",
            "kodectl nat unmap removes them; --keep does so at its end",
        )
    for mapping in view.mappings:
        if _outer_of(wanted, mapping) is None and mapping.external_port != mapping.internal_port:
            output.warn(
                "other_outer_port",
                f"{mapping.internal_port}/{mapping.transport} is reached at the outer port {mapping.external_port}: its own "
                "is taken",
            )


def failure_of(view: MapView, wanted: Sequence[Port]) -> KodectlError | None:
    if view.failed:
        error = view.failed[0].error
        names = ", ".join(f"{failed.port}/{failed.transport}" for failed in view.failed)
        return Degraded(f"not mapped: {names}: {error.message}", code="partly_mapped", hint=error.hint)
    for mapping in view.mappings:
        outer = _outer_of(wanted, mapping)
        if outer is not None and outer != mapping.external_port:
            message = f"the router gives the outer port {mapping.external_port} instead of {outer}"
            return Degraded(message, code="other_outer_port")
    if view.double_nat:
        message = f"the router's own outer address, {view.external_ip}, is not of the internet"
        return Degraded(message, code="double_nat")
    return None


def _outer_of(wanted: Sequence[Port], mapping: MappingView) -> int | None:
    """The outer port that was named for it."""
    for port in wanted:
        if port.number == mapping.internal_port and mapping.transport in port.transports:
            return port.outer
    return None


def _unlisted(view: ListView) -> KodectlError | None:
    if view.mappings is not None:
        return None
    names = ", ".join(sorted({gateway.method for gateway in view.gateways}))
    return NegativeAnswer(
        f"the router answers by {names}, which has no list of mappings",
        code="mapping_unsupported",
        hint="switch on UPnP in the router to see its list",
    )


def _remaining(view: UnmapView, wanted: Sequence[Port]) -> KodectlError | None:
    """Of a port that was named without a transport, one is enough."""
    answers = iter(view.ports)
    by_name = [[next(answers) for _ in port.transports] for port in wanted]
    bad = [ports for ports in by_name if not _is_removed(ports)]
    if not bad:
        return None
    kind = NegativeAnswer if len(bad) == len(by_name) else Degraded
    errors = [port.error for ports in bad for port in ports if port.error is not None]
    if errors:
        return kind(f"not removed: {errors[0].message}", code=errors[0].code, hint=errors[0].hint)
    names = ", ".join(f"{port.port}/{port.transport}" for ports in bad for port in ports)
    return kind(f"the router maps nothing to {names} of this host", code="not_mapped")


def _is_removed(ports: Sequence[UnmappedView]) -> bool:
    states = {port.state for port in ports}
    return "removed" in states and "refused" not in states


# --- for people ----------------------------------------------------------------------------------------------------------


def map_text(view: MapView) -> str:
    lines = [_table_of(view.mappings)]
    lines += [f"{failed.port}/{failed.transport}: {failed.error.message}" for failed in view.failed]
    return "\n".join(lines)


def list_text(view: ListView) -> str:
    headers = ("router", "name", "by", "outer address")
    rows = [(gateway.address, gateway.name, gateway.method, gateway.external_ip) for gateway in view.gateways]
    routers = table(headers, rows)
    if view.mappings is None:
        return routers
    return f"{routers}\n\n{_table_of(view.mappings, all_hosts=True) if view.mappings else 'no port is mapped'}"


def _table_of(mappings: Sequence[MappingView], *, all_hosts: bool = False) -> str:
    from kodectl.cli.wording import duration

    rows = []
    for mapping in mappings:
        lease = "no end" if mapping.lease_s is None else duration(mapping.lease_s)
        outer = mapping.external or f"port {mapping.external_port}"
        row = (mapping.transport, mapping.internal, outer, lease)
        rows.append((*row, mapping.this_host, mapping.description) if all_hosts else (*row, mapping.method))
    beside = ("here", "name") if all_hosts else ("by",)
    return table(("", "inside", "outside", "lease", *beside), rows)


def unmap_text(view: UnmapView) -> str:
    return "\n".join(_unmapped_line(port) for port in view.ports)


def _unmapped_line(port: UnmappedView) -> str:
    name = f"{port.port}/{port.transport}"
    match port.state:
        case "removed":
            outer = f" (outer port {', '.join(map(str, port.outer_ports))})" if port.outer_ports else ""
            return f"{name}: removed{outer}"
        case "not_mapped":
            return f"{name}: was not mapped"
    return f"{name}: refused"


def kept_line(event: KeptEvent) -> str:
    names = ", ".join(
        f"{mapping.internal_port}/{mapping.transport} at {mapping.external or mapping.external_port}"
        for mapping in event.mappings
    )
    return f"{event.event}: {'; '.join(filter(None, (names, event.reason)))}"


def _fields(view: MapView) -> dict[str, object]:
    return {name: getattr(view, name) for name in view.__struct_fields__}
