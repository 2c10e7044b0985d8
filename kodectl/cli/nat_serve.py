"""`kodectl nat serve`: a STUN server for others, and a TURN server for users."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kodectl.cli.command import command, examples
from kodectl.cli.configuration import parse_host_port
from kodectl.cli.options import Parsed
from kodectl.cli.output import Outcome, Output, pairs
from kodectl.cli.quotas import QUOTAS, parse_quota
from kodectl.errors import EnvironmentFault, LocalMisuse

if TYPE_CHECKING:
    from kodectl.core.turn_reach import Network
    from kodectl.node.stun_server import StunServer
    from kodectl.node.turn_server import TurnService, TurnSettings
    from kodectl.runtime.base import Runtime

WILDCARDS = ("0.0.0.0", "::")
MAX_PORT = 65_535
DEFAULT_REALM = "kodectl"
MAX_USER_FILE = 1024 * 1024
"""Bytes: some ten thousand users; anything larger is another file."""

COUNTERS = {
    "answered": "answered",
    "refused": "refused",
    "over_rate": "over the rate",
    "malformed": "malformed",
    "connections": "connections",
    "connections_refused": "connections refused",
}
"""What the summary tells, and how for people."""
TURN_COUNTERS = {
    "allocations": "allocations",
    "expired": "allocations expired",
    "relayed_packets": "packets relayed",
    "relayed_bytes": "bytes relayed",
    "answered": "TURN requests answered",
    "challenged": "TURN requests challenged",
    "refused": "TURN requests refused",
    "over_rate": "TURN requests over the rate",
    "over_throughput": "packets over the rate",
    "no_permission": "packets without permission",
}


def parse_ip(text: str) -> str:
    import ipaddress

    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise ValueError("an IP address") from error


def parse_user(text: str) -> tuple[str, str]:
    name, _, password = text.partition(":")
    if not name or not password:
        # Without the text: half of it may be a password.
        raise ValueError("a user is NAME:PASS")
    return name, password


def parse_peers(text: str) -> str:
    import ipaddress

    if text in ("private", "loopback", "relays"):
        return text
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError as error:
        raise ValueError("a network (203.0.113.0/24), private, loopback or relays") from error


@command(
    "serve",
    epilog=examples(
        "kodectl nat serve",
        "kodectl nat serve --listen 203.0.113.5:3478 --alt-ip 203.0.113.6",
        "kodectl nat serve --user-file users.txt --realm example.org",
        "kodectl nat serve --listen 10.0.0.5:3478 --external 203.0.113.5 --user-file users.txt --quota user=4",
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
    help="How the address is seen from outside, where a NAT translates it one to one: what TURN's relayed addresses are "
    "told as. With --alt-ip twice: for the address of --listen, then for --alt-ip.",
)
@click.option(
    "--user",
    "users",
    type=Parsed(parse_user, "user"),
    multiple=True,
    metavar="NAME:PASS",
    help="Relay for this user (TURN). Others on this machine can read it in the list of processes: for anything but a "
    "trial take --user-file.",
)
@click.option(
    "--user-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File with a NAME:PASS on each line; empty ones, and those that begin with #, are passed over.",
)
@click.option("--realm", default=DEFAULT_REALM, show_default=True, help="What the users' passwords are for.")
@click.option(
    "--allow-peer",
    "allowed",
    type=Parsed(parse_peers, "cidr"),
    multiple=True,
    metavar="CIDR|private|loopback|relays",
    help="Relay to these too, beside public addresses; relays: users may meet at their relayed addresses here.",
)
@click.option(
    "--quota",
    "quotas",
    type=Parsed(parse_quota, "quota"),
    multiple=True,
    metavar="NAME=N",
    help=f"Change a limit of relaying: {', '.join(QUOTAS)}. The last four are per second, of one allocation and of all.",
)
@click.pass_obj
def serve(
    output: Output,
    listen: tuple[str, int],
    alt_ip: str | None,
    external: tuple[str, ...],
    users: tuple[tuple[str, str], ...],
    user_file: Path | None,
    realm: str,
    allowed: tuple[str, ...],
    quotas: tuple[tuple[str, int], ...],
) -> Outcome:
    """Answer STUN requests, and relay for users, over UDP and TCP, until SIGTERM or SIGINT.

    Prints where it serves as soon as it does, and how much it has served at the end; with --json a line for each. Anybody
    may ask for his address; how much one network (/24, /64) gets is limited. Only users get a relay (TURN)."""
    passwords = {**(read_users(output, user_file) if user_file else {}), **dict(users)}
    check_addresses(listen, alt_ip, external, is_relay=bool(passwords))
    settings = turn_settings(passwords, realm, allowed, quotas)

    from gevent.event import Event

    from kodectl.cli.errand import world
    from kodectl.cli.leaving import watch_signals
    from kodectl.node.stun_server import StunServer

    output.start_logging()
    with ExitStack() as cleanup:
        runtime = cleanup.enter_context(world())
        leaving = Event()
        watch_signals(leaving, cleanup)
        turn = relay_of(runtime, settings, listen[0], external) if settings else None
        server = StunServer(runtime, turn)
        cleanup.callback(server.stop)
        server.start(listen, alt_ip, (external[0], external[1]) if alt_ip and external else None)
        ready = ready_view(server, turn)
        runtime.in_thread(output.emit, ready, ready_text(ready))
        leaving.wait()
    return Outcome(summary_view(server, turn), summary_text(server, turn))


def read_users(output: Output, path: Path) -> dict[str, str]:
    """Warns when others could read them too. Raises EnvironmentFault, and LocalMisuse that names the line and repeats
    nothing of it."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_USER_FILE + 1)
            mode = os.fstat(file.fileno()).st_mode & 0o777
        if mode & 0o077:
            output.warn("users_exposed", f"{path} is open to others (mode {mode:o})", f"chmod 600 {path}")
        if len(content) > MAX_USER_FILE:
            raise LocalMisuse(f"{path} has more than {MAX_USER_FILE} bytes: is it the file of users?")
        lines = content.decode().splitlines()
    except OSError as error:
        raise EnvironmentFault(f"cannot read {path}: {error.strerror}", code="file_unreadable") from error
    except UnicodeDecodeError as error:
        raise LocalMisuse(f"{path} is not a text file") from error
    users: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.startswith("#"):
            try:
                name, password = parse_user(line)
            except ValueError as error:
                raise LocalMisuse(f"{path}, line {number}: not NAME:PASS") from error
            users[name] = password
    if not users:
        raise LocalMisuse(f"{path} names no user", hint="write a NAME:PASS on each line")
    return users


def turn_settings(
    passwords: dict[str, str], realm: str, allowed: tuple[str, ...], quotas: tuple[tuple[str, int], ...]
) -> TurnSettings | None:
    """None without users. Raises LocalMisuse."""
    if not passwords:
        if allowed or quotas:
            raise LocalMisuse("--allow-peer and --quota are about relaying, which is for users: --user-file FILE")
        return None
    from kodectl.core.turn_access import keys_of
    from kodectl.core.turn_allocations import RelayLimits
    from kodectl.node.turn_server import TurnSettings
    from kodectl.wire.channel_data import OLD_FIRST_BYTES

    return TurnSettings(
        realm,
        keys_of(passwords, realm),
        RelayLimits(**dict(quotas)),
        allowed_networks(allowed),
        to_relays="relays" in allowed,
        channel_first_bytes=OLD_FIRST_BYTES,
    )


def allowed_networks(allowed: tuple[str, ...]) -> tuple[Network, ...]:
    from ipaddress import ip_network

    from kodectl.core.turn_reach import LOOPBACK, PRIVATE

    named = {"private": PRIVATE, "loopback": LOOPBACK, "relays": ()}
    return tuple(network for text in allowed for network in (named[text] if text in named else (ip_network(text),)))


def relay_of(runtime: Runtime, settings: TurnSettings, host: str, external: tuple[str, ...]) -> TurnService:
    """Raises EnvironmentFault where it cannot be known what to tell clients."""
    from kodectl.node.turn_server import relay_places, turn_service

    places = relay_places(host, external[0] if external else None, runtime.local_network())
    if not places:
        raise EnvironmentFault(
            "there is no default route that would tell this machine's address",
            code="no_network",
            hint="name the address that relays are to have: kodectl nat serve --listen IP:PORT",
        )
    return turn_service(runtime, settings, places)


def check_addresses(listen: tuple[str, int], alt_ip: str | None, external: tuple[str, ...], *, is_relay: bool) -> None:
    """Raises LocalMisuse for a combination that cannot serve RFC 5780, or TURN."""
    host, port = listen
    if external and alt_ip is None and not is_relay:
        raise LocalMisuse("--external is for --alt-ip, or for users (--user-file): nobody else is told an address")
    if external and len(external) != (1 if alt_ip is None else 2):
        count = "once, for the address of --listen" if alt_ip is None else "twice, for --listen and for --alt-ip"
        raise LocalMisuse(f"--external is given {count}")
    if len(external) == 2 and len(set(external)) == 1:
        raise LocalMisuse("the two --external addresses are the same")
    if alt_ip is None:
        if external and host not in WILDCARDS and (":" in external[0]) != (":" in host):
            raise LocalMisuse("--listen and --external must be of one family, IPv4 or IPv6")
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


def ready_view(server: StunServer, turn: TurnService | None) -> dict[str, Any]:
    from kodectl.wire.addresses import address_text

    return {
        "type": "ready",
        "udp": [address_text(*address) for address in server.udp],
        "tcp": [address_text(*address) for address in server.tcp],
        "other_address": address_text(*server.other) if server.other else None,
        "relay_ips": turn.external_ips if turn else [],
    }


def ready_text(view: dict[str, Any]) -> str:
    entries = [(name, ", ".join(view[name])) for name in ("udp", "tcp")]
    if view["relay_ips"]:
        entries.append(("relays at", ", ".join(view["relay_ips"])))
    return pairs([*entries, ("other address", view["other_address"])])


def summary_view(server: StunServer, turn: TurnService | None) -> dict[str, object]:
    """`turn`: null without users."""
    relayed = {name: turn.counters.get(name, 0) for name in TURN_COUNTERS} if turn else None
    return {"type": "summary", **{name: server.counters[name] for name in COUNTERS}, "turn": relayed}


def summary_text(server: StunServer, turn: TurnService | None) -> str:
    entries = [(words, server.counters[name]) for name, words in COUNTERS.items()]
    if turn:
        entries += [(words, turn.counters.get(name, 0)) for name, words in TURN_COUNTERS.items()]
    return pairs(entries)
