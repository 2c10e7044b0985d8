"""`kodectl nat serve`: a STUN server for others."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from kodectl.cli.command import command, examples
from kodectl.cli.configuration import parse_host_port
from kodectl.cli.options import Parsed
from kodectl.cli.output import Outcome, Output, pairs
from kodectl.errors import LocalMisuse

if TYPE_CHECKING:
    from kodectl.node.stun_server import StunServer

WILDCARDS = ("0.0.0.0", "::")
MAX_PORT = 65_535

COUNTERS = {
    "answered": "answered",
    "refused": "refused",
    "over_rate": "over the rate",
    "malformed": "malformed",
    "connections": "connections",
    "connections_refused": "connections refused",
}
"""What the summary tells, and how for people."""


def parse_ip(text: str) -> str:
    import ipaddress

    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise ValueError("an IP address") from error


@command(
    "serve",
    epilog=examples(
        "kodectl nat serve",
        "kodectl nat serve --listen 203.0.113.5:3478 --alt-ip 203.0.113.6",
        "kodectl nat serve --listen 10.0.0.5:3478 --alt-ip 10.0.0.6 --external 203.0.113.5 --external 203.0.113.6",
    ),
)
@click.option(
    "--listen",
    type=Parsed(parse_host_port, "host:port"),
    default="0.0.0.0:3478",
    show_default=True,
    metavar="HOST:PORT",
    help="Where to listen, UDP and TCP; port 0 takes any free one.",
)
@click.option(
    "--alt-ip",
    type=Parsed(parse_ip, "ip"),
    metavar="IP",
    help="A second address of this machine: clients can then find out how their NAT behaves (RFC 5780). "
    "Both addresses serve the port of --listen and the next one.",
)
@click.option(
    "--external",
    type=Parsed(parse_ip, "ip"),
    multiple=True,
    metavar="IP",
    help="How the two addresses are seen from outside, where a NAT translates them one to one. Twice: for the address of "
    "--listen, then for --alt-ip.",
)
@click.pass_obj
def serve(output: Output, listen: tuple[str, int], alt_ip: str | None, external: tuple[str, ...]) -> Outcome:
    """Answer STUN requests, over UDP and TCP, until SIGTERM or SIGINT.

    Prints where it serves as soon as it does, and how much it has served at the end; with --json a line for each. Anybody
    may ask; how much one network (/24, /64) gets is limited."""
    check_addresses(listen, alt_ip, external)

    from gevent.event import Event

    from kodectl.cli.errand import world
    from kodectl.cli.leaving import watch_signals
    from kodectl.node.stun_server import StunServer

    output.start_logging()
    with ExitStack() as cleanup:
        runtime = cleanup.enter_context(world())
        leaving = Event()
        watch_signals(leaving, cleanup)
        server = StunServer(runtime)
        cleanup.callback(server.stop)
        server.start(listen, alt_ip, (external[0], external[1]) if external else None)
        ready = ready_view(server)
        runtime.in_thread(output.emit, ready, ready_text(ready))
        leaving.wait()
    return Outcome(summary_view(server), summary_text(server))


def check_addresses(listen: tuple[str, int], alt_ip: str | None, external: tuple[str, ...]) -> None:
    """Raises LocalMisuse for a combination that cannot serve RFC 5780."""
    host, port = listen
    if external and (alt_ip is None or len(external) != 2):
        raise LocalMisuse("--external is given twice, for the addresses of --listen and of --alt-ip")
    if len(set(external)) == 1:
        raise LocalMisuse("the two --external addresses are the same")
    if alt_ip is None:
        return
    if host in WILDCARDS or alt_ip in WILDCARDS:
        raise LocalMisuse(
            f"with --alt-ip both addresses must be named, not {host if host in WILDCARDS else alt_ip}",
            hint=f"kodectl nat serve --listen IP:{port} --alt-ip {alt_ip}",
        )
    if host == alt_ip:
        raise LocalMisuse(f"--alt-ip {alt_ip} is the address of --listen")
    if len({":" in ip for ip in (host, alt_ip, *external)}) != 1:
        raise LocalMisuse("--listen, --alt-ip and --external must be of one family, IPv4 or IPv6")
    if port == MAX_PORT:
        raise LocalMisuse(f"with --alt-ip the next port is used too, and there is none after {MAX_PORT}")


def ready_view(server: StunServer) -> dict[str, Any]:
    from kodectl.wire.addresses import address_text

    return {
        "type": "ready",
        "udp": [address_text(*address) for address in server.udp],
        "tcp": [address_text(*address) for address in server.tcp],
        "other_address": address_text(*server.other) if server.other else None,
    }


def ready_text(view: dict[str, Any]) -> str:
    entries = [(name, ", ".join(view[name])) for name in ("udp", "tcp")]
    return pairs([*entries, ("other address", view["other_address"])])


def summary_view(server: StunServer) -> dict[str, object]:
    return {"type": "summary", **{name: server.counters[name] for name in COUNTERS}}


def summary_text(server: StunServer) -> str:
    return pairs((words, server.counters[name]) for name, words in COUNTERS.items())
