"""`kodectl peer`: one peer, asked from here."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from kodectl.cli.command import command, examples
from kodectl.cli.options import Parsed, Seconds, setting, time_limits
from kodectl.cli.output import Outcome, Output
from kodectl.errors import DeadlineReached, Degraded, KodectlError, NegativeAnswer

if TYPE_CHECKING:
    from kodectl.node.pinging import PingView, PongView

MAX_PINGS = 1_000_000
"""A week at one a second, which is the longest deadline."""


def parse_ping_count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 8 or not 1 <= int(text) <= MAX_PINGS:
        raise ValueError(f"a number from 1 to {MAX_PINGS}")
    return int(text)


@command(
    "ping",
    epilog=examples(
        "kodectl peer ping 203.0.113.5:30301",
        "kodectl peer ping 'enode://...@203.0.113.5:30303?discport=30301' --mode handshake -c 1",
    ),
)
@click.argument("target")
@click.option("-c", "--count", type=Parsed(parse_ping_count, "n"), default="4", metavar="N", help="How many pings.")
@click.option("-i", "--interval", "interval_s", type=Seconds(), default=1.0, metavar="SECONDS", help="Between pings.")
@click.option(
    "--mode",
    type=click.Choice(["auto", "udp", "tcp", "handshake"]),
    default="auto",
    help="udp: the discovery socket; tcp: connect only; handshake: prove the identity over TCP; "
    "auto: udp, and handshake where that does not answer.",
)
@setting("bootstrap", "network")
@time_limits(timeout_s=3, deadline_s=60)
@click.pass_obj
def ping(
    output: Output,
    target: str,
    count: int,
    interval_s: float,
    mode: str,
    bootstrap: tuple[str, ...],
    network: str,
    timeout_s: float,
    deadline_s: float,
) -> Outcome:
    """Ping a node, and say how far one comes when it does not answer.

    TARGET is an enode, a node id (looked up through the bootstrap nodes), or IP:PORT. Exit code 3: no answer, with the
    stage (resolve, udp, tcp, handshake, identity); 4: some answers, or through a relay only; 9: another identity.
    """
    began = time.monotonic()
    from kodectl.cli.errand import terms_of, world
    from kodectl.node.pinging import WrongIdentity, ping_target, summary_of
    from kodectl.node.targets import parse_target

    whom = parse_target(target)
    output.start_logging()
    # The alarm of the deadline counts from here, imports and all.
    terms = terms_of(bootstrap, network, timeout_s, max(0.0, deadline_s - (time.monotonic() - began)))
    pongs: list[PongView] = []

    def report(pong: PongView) -> None:
        pongs.append(pong)
        output.emit({"event": "pong", **_fields(pong)}, _pong_line(pong))

    with world() as runtime:
        try:
            view = ping_target(
                runtime,
                terms,
                whom,
                mode=mode,  # type: ignore[arg-type]  # click.Choice has checked it
                count=count,
                interval_s=interval_s,
                report=report,
            )
        except WrongIdentity as fault:
            return _outcome(summary_of(whom, pongs), fault)
        except SystemExit:  # a signal, or the alarm of the deadline
            partial = summary_of(whom, pongs)
            output.emit({"event": "summary", **_fields(partial)}, _summary_line(partial))
            raise
    return _outcome(view, _verdict(view))


def _outcome(view: PingView, failure: KodectlError | None) -> Outcome:
    return Outcome({"event": "summary", **_fields(view)}, _summary_line(view), failure=failure)


def _fields(view: PongView | PingView) -> dict[str, object]:
    return {name: getattr(view, name) for name in view.__struct_fields__}


def _pong_line(pong: PongView) -> str:
    if pong.rtt_ms is None:
        return f"{pong.seq}: no answer at stage {pong.stage}: {pong.reason}"
    relayed = " through a relay" if pong.path == "relay" else ""
    return f"{pong.seq}: {pong.addr} answered over {pong.mode}{relayed} in {pong.rtt_ms:.2f} ms"


def _summary_line(view: PingView) -> str:
    loss = "-" if view.loss is None else f"{view.loss:.0%}"
    line = f"{view.sent} sent, {view.received} answered, {loss} lost"
    if view.received:
        times = (view.min_ms, view.average_ms, view.p95_ms, view.max_ms)
        line += ", min/avg/p95/max " + "/".join("-" if time is None else f"{time:.2f}" for time in times) + " ms"
    return line


def _verdict(view: PingView) -> KodectlError | None:
    if not view.sent:
        return DeadlineReached("the deadline passed before the first ping")
    if not view.received:
        message = f"no answer from {view.target} at stage {view.stage}: {view.reason}"
        return NegativeAnswer(message, code="unreachable", hint=f"kodectl explain {view.reason}")
    if view.received < view.sent:
        return Degraded(f"{view.sent - view.received} of {view.sent} pings were not answered", code="packet_loss")
    if view.relayed == view.received:
        return Degraded("answers came through a relay only", code="relay_only")
    return None
