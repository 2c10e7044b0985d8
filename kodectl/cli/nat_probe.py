"""`kodectl nat probe` and `nat watch`: the NAT, as STUN servers see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from kodectl.cli.command import command, examples
from kodectl.cli.configuration import parse_enode_text, parse_host_port
from kodectl.cli.options import MAX_LIMIT_S, Parsed, Seconds, configuration_of, time_limits
from kodectl.cli.output import Outcome, Output, pairs, table
from kodectl.errors import DeadlineReached, Degraded, EnvironmentFault, KodectlError, LocalMisuse, NegativeAnswer

if TYPE_CHECKING:
    from kodectl.node.probe_views import ProbeServerView, ProbeView
    from kodectl.node.probe_watching import WatchView

MAX_ROUNDS = 1_000_000
LOOPBACKS = ("127.0.0.1", "::1")
"""A server there needs no network."""
REQUIREMENTS = ("udp", "mapped", "punchable", "open")

Function = Callable[..., Any]


def parse_rounds(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 8 or not 1 <= int(text) <= MAX_ROUNDS:
        raise ValueError(f"a number from 1 to {MAX_ROUNDS}")
    return int(text)


def asked_servers(function: Function) -> Function:
    """Which servers are asked; the function gets `server` and `via_node`."""
    function = click.option(
        "--via-node",
        type=Parsed(parse_enode_text, "enode"),
        multiple=True,
        metavar="ENODE",
        help="Ask this node as a server: every node answers STUN on its discovery port; repeatable.",
    )(function)
    return click.option(
        "--server",
        type=Parsed(parse_host_port, "host:port"),
        multiple=True,
        metavar="HOST:PORT",
        help="STUN server to ask; repeatable. One with two addresses (RFC 5780) is needed to test the filter, three "
        "in different networks see through one that lies. [default: the setting stun]",
    )(function)


@command(
    "probe",
    epilog=examples(
        "kodectl nat probe --server stun.example.org:3478",
        "kodectl nat probe --server 203.0.113.5:3478 --via-node 'enode://...@198.51.100.7:30303?discport=30301'",
        "kodectl nat probe --require punchable --json",
    ),
)
@asked_servers
@click.option("--classic", is_flag=True, help="Show what pystun3 (RFC 3489) says beside it; its word decides nothing.")
@click.option(
    "--require",
    type=click.Choice(REQUIREMENTS),
    help="Exit code 4 unless: udp, a server answered; mapped, the public address and port are known and the same towards "
    "all; punchable, others get in directly or by hole punching; open, directly.",
)
@click.option(
    "--gateway/--no-gateway",
    default=True,
    show_default=True,
    help="Look for routers that map ports (UPnP by multicast, NAT-PMP and PCP at the default gateway).",
)
@time_limits(timeout_s=3, deadline_s=15)
@click.pass_context
def probe(
    ctx: click.Context,
    server: tuple[tuple[str, int], ...],
    via_node: tuple[str, ...],
    classic: bool,
    require: str | None,
    gateway: bool,
    timeout_s: float,
    deadline_s: float,
) -> Outcome:
    """Find out how this host is seen from outside, and who can reach it.

    Names the NAT's mapping and filtering (RFC 4787), its older name, and what follows. What was not tested, or could be
    explained otherwise, is null with the reason. Exit code 3: no server answered, or UDP is blocked; 4: less than
    --require."""
    servers = chosen_servers(ctx, server, via_node)

    from kodectl.cli.errand import world
    from kodectl.cli.gateways import gateway_finders
    from kodectl.node import probing

    output = ctx.find_object(Output)
    assert output is not None, "the root group puts an Output into every context"
    output.start_logging()
    terms = probing.ProbeTerms(servers, timeout_s, deadline_s, classic)
    output.progress(f"asking {len(servers)} STUN server{'s' * (len(servers) > 1)}")
    with world() as runtime:
        view = probing.probe(runtime, terms, gateway_finders(runtime) if gateway else {})
    for finding in view.findings:
        output.warn(finding.code, finding.message, finding.hint)
    return Outcome(view, probe_text(view), failure=failure_of(view, require, deadline_s))


@command(
    "watch",
    epilog=examples(
        "kodectl nat watch --server stun.example.org:3478", "kodectl nat watch --interval 10 --count 6 --jsonl"
    ),
)
@asked_servers
@click.option("--interval", "interval_s", type=Seconds(), default=30.0, metavar="SECONDS", help="Between probes.")
@click.option("--count", type=Parsed(parse_rounds, "n"), metavar="N", help="End after so many probes.")
@time_limits(timeout_s=3, deadline_s=MAX_LIMIT_S)
@click.pass_context
def watch(
    ctx: click.Context,
    server: tuple[tuple[str, int], ...],
    via_node: tuple[str, ...],
    interval_s: float,
    count: int | None,
    timeout_s: float,
    deadline_s: float,
) -> None:
    """Watch the public address, and tell when it or the kind of NAT changes.

    One line at first, and one for each change, until SIGINT. Keeps one socket, whose mapping it watches, and asks every
    --interval. Exit code 3: no server answered the last time."""
    servers = chosen_servers(ctx, server, via_node)

    from kodectl.cli.errand import world
    from kodectl.node import probe_watching, probing

    output = ctx.find_object(Output)
    assert output is not None, "the root group puts an Output into every context"
    output.start_logging()
    terms = probing.ProbeTerms(servers, timeout_s)

    def report(change: WatchView) -> None:
        output.emit(change, watch_line(change))

    with world() as runtime:
        last = probe_watching.watch(runtime, terms, interval_s=interval_s, count=count, report=report)
    if not last.answered:
        raise unanswered(last)


def chosen_servers(
    ctx: click.Context, given: Sequence[tuple[str, int]], via_node: Sequence[str]
) -> tuple[tuple[str, int], ...]:
    """Those of the command line; without any, those of the setting. Raises LocalMisuse where there are none."""
    from kodectl.wire.enode import parse_enode

    nodes = [parse_enode(text) for text in via_node]
    servers = (*given, *((node.host, node.udp) for node in nodes))
    servers = servers or tuple(configuration_of(ctx).get("stun").value)
    if not servers:
        raise LocalMisuse(
            "no STUN server is given, and there is none that all the world uses",
            hint="name one, or better three: --server HOST:PORT, or any node: --via-node ENODE",
        )
    for host, port in servers:
        if not port:
            raise LocalMisuse(f"{host}:0 is no address of a STUN server")
    return servers


# --- exit codes ----------------------------------------------------------------------------------------------------------


def failure_of(view: ProbeView, require: str | None, deadline_s: float) -> KodectlError | None:
    if view.nat_type == "blocked":
        return NegativeAnswer("UDP does not get out: servers answer over TCP only", code="udp_blocked")
    if not view.answered:
        return unanswered(view) if view.complete else DeadlineReached(f"no server answered within {deadline_s:g} s")
    if require is not None and not is_met(view, require):
        kind = view.nat_type or "of unknown type"
        return Degraded(f"--require {require} is not met: the NAT is {kind}", code="nat_requirement_unmet")
    return None


def unanswered(view: ProbeView) -> KodectlError:
    if view.local_ip is None and not any(server.ip in LOOPBACKS for server in view.servers):
        return EnvironmentFault("no server answered, and this machine has no default route", code="no_network")
    if not view.servers:
        return NegativeAnswer("no STUN server has an address", code="name_not_resolved")
    names = ", ".join(server.server for server in view.servers)
    return NegativeAnswer(f"no STUN server answered: {names}", code="no_server_answered")


def is_met(view: ProbeView, require: str) -> bool:
    match require:
        case "udp":
            return view.answered
        case "mapped":
            return view.address is not None and view.mapping == "endpoint_independent"
        case "punchable":
            return view.verdict in ("direct", "hole_punching")
    return view.verdict == "direct"


# --- for people ----------------------------------------------------------------------------------------------------------

REASONS = {
    "no_server_answered": "no server answered",
    "servers_disagree": "servers disagree, and a majority is missing",
    "server_has_one_address": "needs a server with two addresses (RFC 5780)",
    "server_alternate_silent": "the server's other address does not answer",
    "server_inconsistent": "the server's other address is not its own",
    "server_does_not_change": "the server was not seen to answer from its other address",
    "mapping_changed": "the mapping changed during the probe, or a server makes it up",
    "mapping_varies": "another one for each destination",
    "mapping_unknown": "needs the mapping to be known",
    "ports_predictable": "the next port can be guessed, so that two servers do not prove it; name a third",
    "ports_not_compared": "depends on the address at least; no server has a second port to compare",
    "packet_loss": "too many packets are lost to tell",
    "not_tested": "not tested",
    "no_nat": "no NAT",
    "no_gateway": "no router tells its outer address",
    "gateways_not_asked": "routers were not asked",
    "gateway_no_address": "the router does not tell its outer address",
}
"""Every `Why`, for the text; `kodectl explain` has more on those that can be mended."""

_DIFFICULT = {"easy": "easy", "moderate": "takes both sides", "hard": "hard"}
_PROTOCOLS = {"pcp": "PCP", "natpmp": "NAT-PMP", "upnp": "UPnP"}


def probe_text(view: ProbeView) -> str:
    heading = f"{words(view.verdict) or 'unknown'}" + (f" ({_DIFFICULT[view.difficulty]})" if view.difficulty else "")
    entries = [
        ("verdict", heading),
        ("NAT", known(view, "nat_type")),
        ("seen as", _public(view)),
        ("here", view.local_address),
        ("mapping", known(view, "mapping")),
        ("filtering", known(view, "filtering")),
        ("ports", _ports(view)),
        ("hairpin", known(view, "hairpin")),
        ("carrier NAT", known(view, "cgnat")),
        ("double NAT", known(view, "double_nat")),
        ("router", _routers(view)),
        ("IPv6", _ipv6(view)),
    ]
    if view.classic is not None:
        entries.append(("RFC 3489", _classic(view)))
    blocks = [pairs(entries), table(_COLUMNS, [_row(server) for server in view.servers])]
    return "\n\n".join([*blocks, pairs([("so", view.advice), ("next", view.next_command)])])


def known(view: ProbeView, field: str) -> str:
    """The value in words, or why there is none."""
    value = getattr(view, field)
    if value is None:
        return f"- ({REASONS[view.why[field]]})" if field in view.why else "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return words(value) or "-"


def words(name: str | None) -> str | None:
    return name and name.replace("endpoint_", "endpoint-").replace("_dependent", "-dependent").replace("_", " ")


def _public(view: ProbeView) -> str:
    if view.ip is None:
        return f"- ({REASONS[view.why['address']]})" if "address" in view.why else "-"
    if view.port is None:
        return f"{view.ip}, port: {REASONS[view.why['port']]}"
    return view.address or "-"


def _ports(view: ProbeView) -> str:
    if view.port_preserved:
        return "the same outside as inside"
    if view.port_pattern == "sequential":
        return f"one after the other, in steps of {view.port_step}"
    if view.port_pattern == "random":
        return "random for each destination"
    if view.nat_type == "symmetric":
        return REASONS["mapping_varies"]
    return "another one outside" if view.port_preserved is False else "-"


def _routers(view: ProbeView) -> str:
    if not view.gateways:
        return "- (not asked)"
    speaking = [gateway for gateway in view.gateways if gateway.speaks]
    if not speaking:
        return f"answers none of {', '.join(_PROTOCOLS[gateway.method] for gateway in view.gateways)}"
    outer = next((gateway.external_ip for gateway in speaking if gateway.external_ip), None)
    protocols = ", ".join(_PROTOCOLS[gateway.method] for gateway in speaking)
    return f"{speaking[0].address} speaks {protocols}" + (f", its outer address is {outer}" if outer else "")


def _ipv6(view: ProbeView) -> str:
    if view.ipv6.address is None:
        return "no global address"
    state = {True: "works", False: "gets no answer", None: "no server to try it with"}[view.ipv6.works]
    return f"{view.ipv6.address}, {state}"


def _classic(view: ProbeView) -> str:
    classic = view.classic
    assert classic is not None
    if classic.nat_type is None:
        return f"- (pystun3: {classic.error})"
    agreement = {True: "agrees", False: "differs", None: "nothing to compare with"}[classic.agrees]
    return f"{words(classic.nat_type)} (pystun3: {classic.words}; {agreement})"


_COLUMNS = ("server", "sees", "rtt", "loss", "other address", "")
_ALTERNATES = {
    "none": "-",
    "unfit": "{} (cannot be)",
    "not_asked": "{} (not asked)",
    "silent": "{} (silent)",
    "inconsistent": "{} (not its own)",
    "verified": "{}",
}


def _row(server: ProbeServerView) -> tuple[object, ...]:
    remarks = [
        "no answer" if not server.answered else "",
        "contradicts the others" if server.outlier else "",
        "same network as another" if server.answered and not server.counted else "",
    ]
    return (
        server.server,
        server.mapped,
        None if server.rtt_ms is None else f"{server.rtt_ms:.1f} ms",
        None if server.loss is None else f"{server.loss:.0%}",
        _ALTERNATES[server.alternate or "none"].format(server.other_address),
        ", ".join(remark for remark in remarks if remark),
    )


def watch_line(change: WatchView) -> str:
    if not change.answered:
        return "no server answers"
    changes = [f"{words(one.field)} {words(str(one.before))} -> {words(str(one.after))}" for one in change.changes]
    told = ["servers answer again"] if change.event == "back" else []
    seen = f"seen as {change.address or change.ip or '-'}, {words(change.nat_type) or 'of unknown type'}"
    return ": ".join([*told, *([", ".join(changes)] if changes else []), seen])
