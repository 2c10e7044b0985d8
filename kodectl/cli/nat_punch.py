"""`kodectl nat punch`: ICE between any two machines, without a node."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from kodectl.cli.command import command, examples
from kodectl.cli.options import Parsed, setting, time_limits
from kodectl.cli.output import Outcome, Output
from kodectl.errors import Degraded, KodectlError, LocalMisuse, NegativeAnswer

if TYPE_CHECKING:
    from kodectl.node.ice import Allocate, Description, IceSession
    from kodectl.node.punch_errand import Connection, Exchange
    from kodectl.runtime.base import Runtime, Scope
    from kodectl.wire.candidates import Candidate

MAX_COUNT = 100_000
"""A minute's worth at a round trip of half a millisecond."""


def parse_punch_count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 8 or int(text) > MAX_COUNT:
        raise ValueError(f"a number from 0 to {MAX_COUNT}")
    return int(text)


@command(
    "punch",
    epilog=examples(
        "kodectl nat punch --stun stun.example.org:3478",
        "kodectl nat punch --role controlled --stun stun.example.org:3478 --jsonl",
        "kodectl nat punch --relay-only --turn user:secret@turn.example.org:3478",
    ),
)
@click.option(
    "--role",
    type=click.Choice(["controlling", "controlled"]),
    default="controlling",
    show_default=True,
    help="Who chooses the path, and pings; two of one role settle it between them.",
)
@setting("stun", "turn")
@click.option("--relay-only", is_flag=True, help="Use relayed addresses of this side alone.")
@click.option("--family", type=click.Choice(["4", "6"]), help="Use one family of addresses alone.")
@click.option(
    "--count", type=Parsed(parse_punch_count, "n"), default="5", show_default=True, metavar="N", help="How many pings."
)
@time_limits(timeout_s=15, deadline_s=3600)
@click.pass_obj
def punch(
    output: Output,
    role: str,
    stun: tuple[tuple[str, int], ...],
    turn: tuple[str, ...],
    relay_only: bool,
    family: str | None,
    count: int,
    timeout_s: float,
    deadline_s: float,
) -> Outcome | None:
    """Connect to another machine by ICE: directly if the NATs allow it, else through a relay.

    Prints a ticket, one line for the other side, and takes the other side's on stdin; with --jsonl both are JSON objects
    with ufrag, pwd and candidates (RFC 8839), so that any ICE agent can be the other side. Then the events connected and
    done, or failed. --timeout counts from the other side's ticket on. Exit code 0: direct; 4: through a relay; 3: no
    path."""
    from kodectl.cli.errand import world
    from kodectl.node.ice import FAMILIES, IceSession, IceTerms

    if relay_only and not turn:
        raise LocalMisuse("--relay-only needs a TURN server", hint="kodectl nat punch --turn USER:PASS@HOST:PORT")
    output.start_logging()
    with world() as runtime:
        scope = runtime.scope("punch")
        terms = IceTerms(
            role == "controlling",
            stun,
            relays_of(runtime, scope, turn),
            (int(family),) if family else FAMILIES,
            relay_only,
            keeps_paths=False,
        )
        session = IceSession(runtime, scope, terms)
        try:
            return _punch(output, runtime, scope, session, count, timeout_s)
        finally:
            session.close()
            scope.close()
            scope.join(0)


def relays_of(runtime: Runtime, scope: Scope, servers: tuple[str, ...]) -> tuple[Allocate, ...]:
    """Raises LocalMisuse for what names no TURN server."""
    from kodectl.errors import WireError
    from kodectl.node.turn_client import Allocation, allocate
    from kodectl.wire.turn_server import TurnServer, parse_turn

    def relay_on(server: TurnServer) -> Callable[[int], Allocation]:
        return lambda family: allocate(runtime, scope, server, family=family)

    try:
        return tuple(relay_on(parse_turn(text)) for text in servers)
    except WireError as error:
        raise LocalMisuse(error.message) from error


def _punch(
    output: Output, runtime: Runtime, scope: Scope, session: IceSession, count: int, timeout_s: float
) -> Outcome | None:
    from kodectl.node.ice import PATIENCE_S
    from kodectl.node.punch_errand import Punch

    errand = Punch(runtime, scope, session, count)
    ours = session.gather(PATIENCE_S, max(PATIENCE_S, timeout_s))
    _warn_of(output, session, ours)
    if not ours.candidates:
        return _failed(output, nothing_gathered(session))
    _show_ticket(output, ours)
    theirs = _read_description()
    try:
        connection = errand.connect(theirs, timeout_s)
    except NegativeAnswer as error:
        return _failed(output, error)
    output.emit_line(connected_view(connection), connected_text(connection))
    exchange = errand.exchange(timeout_s)
    output.emit_line({"event": "done", **exchange._asdict()}, done_text(exchange, count))
    if not connection.is_controlling:
        errand.linger()
    failure = verdict(connection, exchange, count)
    return None if failure is None else Outcome({"event": "summary", **exchange._asdict()}, failure=failure)


def _show_ticket(output: Output, ours: Description) -> None:
    from kodectl.wire.tickets import encode_ticket, ticket_object

    told = (ours.ufrag, ours.password, ours.candidates)
    output.note("This side's ticket, for the other side; give the other side's on stdin:")
    output.emit_line(ticket_object(*told), encode_ticket(*told))


def _read_description() -> Description:
    """Raises LocalMisuse (ticket_missing), WireError (ticket_malformed)."""
    from kodectl.node.ice import Description
    from kodectl.wire.tickets import MAX_TICKET, decode_ticket

    line = _line_of_stdin(MAX_TICKET + 1)
    if not line.strip():
        raise LocalMisuse("stdin ended without the other side's ticket", code="ticket_missing")
    return Description(*decode_ticket(line.decode(errors="replace")))


def _line_of_stdin(limit: int) -> bytes:
    """The first line that is not empty. Waits for stdin as for a socket: a thread that reads would outlive the command."""
    from gevent.socket import wait_read

    try:
        number = sys.stdin.fileno()
    except (OSError, ValueError):  # no descriptor: what a program has put in place of stdin
        return sys.stdin.readline(limit).encode()
    data = b""
    while b"\n" not in data and len(data) < limit:
        wait_read(number)
        piece = os.read(number, limit - len(data))
        if not piece:
            break
        data = (data + piece).lstrip()
    return data.partition(b"\n")[0]


def _warn_of(output: Output, session: IceSession, ours: Description) -> None:
    """Of relays alone: a server that gave no reflexive address is missed only where nothing connects."""
    from kodectl.wire.candidates import CandidateType

    if any(candidate.type is CandidateType.RELAYED for candidate in ours.candidates):
        return
    for fault in session.faults:
        output.warn(fault.code, fault.message, fault.hint)


def _failed(output: Output, failure: KodectlError) -> Outcome:
    event = {"event": "failed", "why": failure.message}
    output.emit_line(event, "")
    return Outcome(event, failure=failure)


def nothing_gathered(session: IceSession) -> KodectlError:
    """The first reason why; without one there was nobody who answered in time."""
    if session.faults:
        return session.faults[0]
    return NegativeAnswer("no candidates on this side: no address, or no relay that answers", code="ice_failed")


def verdict(connection: Connection, exchange: Exchange, count: int) -> KodectlError | None:
    if count and connection.is_controlling and not exchange.echoed:
        return NegativeAnswer("connected, but no ping was echoed", code="no_echo")
    if connection.pair.is_relayed:
        return Degraded("connected through a relay only", code="relay_only")
    return None


def connected_view(connection: Connection) -> dict[str, Any]:
    pair = connection.pair
    return {
        "event": "connected",
        "local": _place(pair.local),
        "remote": _place(pair.remote),
        "local_type": pair.local.type.value,
        "remote_type": pair.remote.type.value,
        "role": "controlling" if connection.is_controlling else "controlled",
        "path": "relay" if pair.is_relayed else "direct",
        "ms": round(connection.ms, 3),
    }


def connected_text(connection: Connection) -> str:
    view = connected_view(connection)
    ends = f"{view['local']} ({view['local_type']}) to {view['remote']} ({view['remote_type']})"
    return f"connected: {ends}, {view['path']}, in {view['ms']} ms"


def done_text(exchange: Exchange, count: int) -> str:
    rtt = "" if exchange.rtt_ms_median is None else f", median round trip {exchange.rtt_ms_median} ms"
    return f"{exchange.echoed} of {count} pings echoed{rtt}"


def _place(candidate: Candidate) -> str:
    from kodectl.wire.addresses import address_text

    return address_text(*candidate.address)
