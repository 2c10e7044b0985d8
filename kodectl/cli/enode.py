"""`kodectl enode`: who a node is, and where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import click

from kodectl.cli.command import command, examples
from kodectl.cli.options import Parsed, read_targets, setting, time_limits
from kodectl.cli.output import Outcome, Output, pairs
from kodectl.errors import Degraded, KodectlError, LocalMisuse, WireError

if TYPE_CHECKING:
    from pathlib import Path

    from kodectl.wire.enode import Enode

EXAMPLE = f"enode://{'ab' * 32}@203.0.113.5:30303?discport=30301"
AUTO = "auto"


def parse_ip(text: str) -> str:
    import ipaddress

    if text == AUTO:
        return AUTO
    try:
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError as error:
        raise ValueError("an IP address or auto") from error


def parse_port(text: str) -> int:
    from kodectl.cli.configuration import parse_port as parse

    return parse(text)


@command(
    "parse",
    epilog=examples(
        "kodectl enode parse 'enode://...@203.0.113.5:30303?discport=30301'",
        "kodectl node peers --jsonl | kodectl enode parse - --jsonl",
    ),
)
@click.argument("enodes", nargs=-1, metavar="ENODE...")
@click.pass_obj
def parse(output: Output, enodes: tuple[str, ...]) -> Outcome:
    """Take enodes apart: ids, host and its scope, ports, and what is odd about them.

    `-` reads them from stdin, one a line, or JSON objects with an `enode`. Exit code 2: none can be
    read; 4: only some can.
    """
    found = [describe(text) for text in read_targets(enodes, name="ENODE")]
    if len(enodes) == 1 and "-" not in enodes:
        return _one(found[0])
    for number, description in enumerate(found, 1):
        if description.enode is None:
            output.warn("malformed", f"number {number}: {description.problems[0]}")
    text = "\n\n".join(_as_text(description) for description in found if description.enode is not None)
    return Outcome({"enodes": found, "count": len(found)}, text, rows=found, failure=_verdict_on(found))


@command("gen", epilog=examples("kodectl enode gen --ip 203.0.113.5", "kodectl enode gen --key node.key --ip auto"))
@click.option(
    "--key",
    "key_file",
    type=click.Path(),
    metavar="FILE",
    help="Key file, made if absent. Default: node.key in the data directory.",
)
@click.option("--passphrase-file", type=click.Path(), metavar="FILE", help="File whose first line is the passphrase.")
@click.option("--ip", type=Parsed(parse_ip, "ip"), default=AUTO, metavar="IP|auto", help="The address to write.")
@click.option("--tcp", type=Parsed(parse_port, "port"), metavar="PORT", help="TCP port. Default: the node's, or 30303.")
@click.option("--udp", type=Parsed(parse_port, "port"), metavar="PORT", help="UDP port. Default: the node's, or 30301.")
@setting("datadir", "listen", "discovery_port", "stun")
@click.pass_obj
def gen(
    output: Output,
    key_file: str | None,
    passphrase_file: str | None,
    ip: str,
    tcp: int | None,
    udp: int | None,
    datadir: Path,
    listen: tuple[str, int],
    discovery_port: int,
    stun: tuple[tuple[str, int], ...],
) -> Outcome:
    """Write an enode of this machine's identity: one line, always with discport.

    `--ip auto` asks the running node; without one the STUN servers, if some are configured; else it takes the address of
    the default route's interface. It says which.
    """
    from kodectl.cli.identity import key_path, open_or_make
    from kodectl.cli.own_address import told_by_node
    from kodectl.wire.enode import Enode

    key = open_or_make(output, key_path(key_file, datadir), passphrase_file)
    told = told_by_node(datadir) if ip == AUTO else None
    if ip != AUTO:
        host, source = ip, "option"
    elif told is not None:
        host, source = told.host, "node"
    else:
        host, source = _address_without_node(output, stun)
    # The node's own ports, where the enode is the node's: it may have been told to take any that are free.
    ports = (told.tcp, told.udp) if told and told.node_id == key.node_id else (listen[1], discovery_port)
    enode = Enode(key.node_id, host, ports[0] if tcp is None else tcp, ports[1] if udp is None else udp)
    if enode.tcp == enode.udp == 0:
        raise LocalMisuse("neither a TCP nor a UDP port", hint="give --tcp and --udp")
    data = {
        "enode": str(enode),
        "id": key.node_id.hex(),
        "ip": host,
        "ip_source": source,
        "tcp": enode.tcp,
        "udp": enode.udp,
    }
    return Outcome(data, str(enode))


@command("verify", epilog=examples(f"kodectl enode verify '{EXAMPLE}'"))
@click.argument("enode")
@setting("network")
@time_limits(timeout_s=5, deadline_s=15)
def verify(enode: str, network: str, timeout_s: float, deadline_s: float) -> Outcome:
    """Dial a node, and have it prove that it is who the enode says.

    Exit code 3: not reachable, with the stage and reason; 9: somebody else answers there.
    """
    from kodectl.cli.errand import terms_of, world
    from kodectl.node.errands import verify_enode
    from kodectl.wire.enode import parse_enode

    try:
        parsed = parse_enode(enode.strip())
    except WireError as error:  # the caller's misuse here, not a peer's fault
        raise LocalMisuse(error.message, code="bad_target", hint=f"as in {EXAMPLE}") from error
    if not parsed.id_known:
        raise LocalMisuse("an enode of unknown id (zeros) says nothing that could be verified", code="bad_target")
    with world() as runtime:
        view = verify_enode(runtime, terms_of((), network, timeout_s, deadline_s), parsed)
    text = f"{view.id} proved its identity at {view.addr} in {view.rtt_ms:.1f} ms"
    if view.reason is not None:
        text += f" (it did not want the connection: {view.reason})"
    return Outcome(view, text)


class Description(NamedTuple):
    """What `enode parse` tells of one text; `enode` null: it cannot be read, and the one problem says why."""

    input: str
    enode: str | None = None
    id: str | None = None
    """As written: 64 or 128 hex digits."""
    node_id: str | None = None
    host: str | None = None
    ip: str | None = None
    scope: str | None = None
    tcp: int | None = None
    udp: int | None = None
    udp_source: str | None = None
    """discport | tcp_port"""
    problems: tuple[str, ...] = ()


def describe(text: str) -> Description:
    from kodectl.wire.addresses import NAME, scope_of
    from kodectl.wire.enode import parse_enode

    try:
        enode = parse_enode(text.strip())
    except WireError as error:
        return Description(text, problems=(error.message,))
    scope = scope_of(enode.host)
    return Description(
        input=text,
        enode=str(enode),
        id=(enode.long_id or enode.node_id).hex(),
        node_id=enode.node_id.hex(),
        host=enode.host,
        ip=None if scope == NAME else enode.host,
        scope=scope,
        tcp=enode.tcp,
        udp=enode.udp,
        udp_source="discport" if enode.udp_given else "tcp_port",
        problems=tuple(_problems(enode, scope)),
    )


UNREACHABLE_SCOPES = {
    "unspecified": "the address is a placeholder: nobody can be reached at it",
    "loopback": "the address is reached from this machine only",
    "link_local": "the address is reached from its own link only",
    "private": "the address is reached from its own private network only",
    "cgnat": "the address belongs to a provider's NAT: it is not reached from outside",
    "documentation": "the address is from a range for documentation: nobody has it",
    "benchmark": "the address is from a range for benchmarks: it is not reached from outside",
    "multicast": "the address is a group's, not a node's",
    "reserved": "the address is from a reserved range: nobody has it",
}


def _problems(enode: Enode, scope: str) -> Iterator[str]:
    if not enode.id_known:
        yield "the node id is unknown (zeros): whoever answers there counts"
    if enode.long_id is not None:
        yield "the id has 128 hex digits: the node id is the SHA-256 of their bytes"
    if scope in UNREACHABLE_SCOPES:
        yield UNREACHABLE_SCOPES[scope]
    if not enode.udp_given:
        yield "no discport: the UDP port is taken to be the TCP port"
    if enode.tcp == 0:
        yield "TCP port 0: the node takes no connections"
    if enode.udp == 0:
        yield "UDP port 0: the node takes no part in discovery"
    for name in enode.ignored:
        yield f"unknown parameter {name!r} is ignored"


def _as_text(found: Description) -> str:
    shown = ("enode", "id", "node_id", "host", "scope", "tcp", "udp", "udp_source")
    return pairs([*((name, getattr(found, name)) for name in shown), *(("problem", text) for text in found.problems)])


def _one(found: Description) -> Outcome:
    if found.enode is None:
        failure = LocalMisuse(found.problems[0], code="malformed", hint=f"as in {EXAMPLE}")
        return Outcome(found, failure=failure)
    return Outcome(found, _as_text(found))


def _verdict_on(found: list[Description]) -> KodectlError | None:
    broken = sum(description.enode is None for description in found)
    if not broken:
        return None
    message = f"{broken} of {len(found)} enodes are malformed"
    return (LocalMisuse if broken == len(found) else Degraded)(message, code="malformed")


def _address_without_node(output: Output, stun: tuple[tuple[str, int], ...]) -> tuple[str, str]:
    """Address, and where it is from."""
    from kodectl.cli.own_address import of_default_route, told_by_stun

    told = told_by_stun(stun) if stun else None
    if told is not None:
        output.note(f"no running node to ask: {told[0]} is what the STUN server {told[1]} sees")
        return told[0], "stun"
    address, interface = of_default_route()
    output.warn(
        "address_guessed",
        f"no running node to ask: {address} is the address of {interface}, the interface of the default route",
        "others may see this machine at another address; give it with --ip, or a server to ask with --stun",
    )
    return address, "default_route"
