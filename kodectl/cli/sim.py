"""`kodectl sim`: a whole network on virtual time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from kodectl.cli.command import command, examples
from kodectl.cli.interrupts import DeadlineAlarm
from kodectl.cli.options import Parsed, seconds
from kodectl.cli.output import Outcome, Output
from kodectl.cli.wording import duration
from kodectl.errors import Degraded, KodectlError

if TYPE_CHECKING:
    from kodectl.sim.course import Course
    from kodectl.sim.report import SimReport, Spread

STEP_S = 1.0
"""Of virtual time, between two looks at the progress."""
FAULTS_SHOWN = 5


def parse_mix(text: str) -> dict[str, float]:
    """The kinds themselves are the scenario's to judge."""
    what = "KIND=SHARE,..., such as open=6,port_restricted=3,symmetric=1"
    mix: dict[str, float] = {}
    for part in text.split(","):
        kind, separator, share = part.partition("=")
        try:
            mix[kind.strip()] = float(share)
        except ValueError:
            raise ValueError(what) from None
        if not separator or not 0.0 <= mix[kind.strip()] <= 1e6:
            raise ValueError(what)
    return mix


def per_minute(name: str, default: str, help_: str) -> click.Option:
    return click.Option(
        [f"--{name}", f"{name}_per_min"],
        type=click.FloatRange(0.0),
        default=default,
        show_default=True,
        metavar="N",
        help=f"{help_} a minute, in the whole network.",
    )


@command(
    "sim",
    epilog=examples(
        "kodectl sim",
        "kodectl sim --nodes 100 --loss 0.05 --churn 20 --duration 600 --seed 7 --json",
        "kodectl sim --nat open=4,symmetric=8,blocked=2",
    ),
    params=[
        per_minute("churn", "2", "Nodes that go, half of them without a word, while another one comes,"),
        per_minute("messages", "20", "Transactions"),
        per_minute("connects", "10", "Connections by id"),
        per_minute("values", "10", "Values that one node puts and another one gets,"),
    ],
)
@click.option("--nodes", type=int, default=20, show_default=True, metavar="N", help="How many nodes join.")
@click.option("--seed", type=int, default=1, show_default=True, metavar="N", help="The same one gives the same run.")
@seconds("duration", 120, "Virtual time, after everybody has joined.")
@click.option(
    "--nat",
    "mix",
    type=Parsed(parse_mix, "mix"),
    metavar="KIND=SHARE,...",
    help="What nodes are behind: open, full_cone, restricted, port_restricted, symmetric, sequential, blocked.",
)
@click.option("--latency", "latency_ms", type=float, default=50, show_default=True, metavar="MS", help="One way.")
@click.option("--loss", type=float, default=0.01, show_default=True, metavar="PART", help="Of the datagrams, lost.")
@click.option("--duplication", type=float, default=0.0, show_default=True, metavar="PART", help="Come twice.")
@click.option("--reordering", type=float, default=0.0, show_default=True, metavar="PART", help="Are overtaken.")
@seconds("deadline", 3600, "Limit for the whole command, in real time.")
@click.pass_obj
def sim(
    output: Output,
    mix: dict[str, float] | None,
    latency_ms: float,
    deadline_s: float,
    **given: float,
) -> Outcome:
    """Play a network of whole nodes on virtual time, and tell what came of it.

    Nodes join behind NATs, some go and others come, and all the while they broadcast, connect by id, put and get values. The code
    is the node's own; only clock and network are simulated, and the cryptography is a cheap one. The same options and seed give
    the same run, packet for packet. Exit code 4: something did not come off; 1: a node let out an exception, which is a bug."""
    import logging

    from kodectl.sim.course import Course
    from kodectl.sim.garbage import seldom_collected
    from kodectl.sim.scenario import DEFAULT_MIX, Scenario

    began = time.monotonic()
    if output.verbosity:
        output.start_logging()
    else:
        # A hundred nodes tell of what befalls them, which is the scenario.
        logging.getLogger("kodectl").addHandler(logging.NullHandler())
    scenario = Scenario(mix=mix or DEFAULT_MIX, latency_s=latency_ms / 1_000.0, **given)  # type: ignore[arg-type]
    with seldom_collected(), Course(scenario) as course:
        try:
            while not course.is_over:
                course.advance(STEP_S)
                output.progress(progress_line(course))
        except SystemExit as end:
            report = course.report(time.monotonic() - began, _how_ended(end))
            output.emit(report, report_text(report))
            raise
        report = course.report(time.monotonic() - began)
    return Outcome(report, report_text(report), failure=failure_of(report))


def _how_ended(end: SystemExit) -> str:
    return "deadline" if isinstance(end, DeadlineAlarm) else "interrupted"


def failure_of(report: SimReport) -> KodectlError | None:
    if report.faults:
        count = len(report.faults)
        return KodectlError(
            f"{count} exceptions came out of simulated nodes: {report.faults[0]}",
            code="simulation_fault",
            hint=f"report it with the options of this run and --seed {report.seed}",
        )
    if report.troubles:
        return Degraded(f"not everything came off: {', '.join(report.troubles)}", code="simulation_troubled")
    return None


def progress_line(course: Course) -> str:
    linked = len(course.population.linked)
    now, end = duration(course.world.now), duration(course.length_s)
    return f"{now} of {end}, {linked} of {len(course.population.present)} nodes linked"


def report_text(report: SimReport) -> str:
    nodes, messages, connects, values = report.nodes, report.messages, report.connects, report.values
    kinds = ", ".join(f"{count} {kind}" for kind, count in nodes.by_kind.items())
    failed = "".join(f", {count} {why}" for why, count in connects.failed.items())
    lines = [
        f"nodes       {nodes.at_end} at the end ({kinds}); {nodes.came} came ({nodes.came_again} again), "
        f"{nodes.went} went ({nodes.crashed} crashed); {nodes.unlinked} without a peer",
        f"first peer  {_spread(nodes.first_peer_s)}",
        f"peers       median {_plain(nodes.peers.median)}, most {_plain(nodes.peers.max)}",
        f"messages    {messages.published} published, {messages.wanted - messages.missing} of {messages.wanted} "
        f"deliveries made; {_spread(messages.delay_s)}",
        f"connects    {connects.asked} asked: {connects.direct} direct, {connects.relayed} relayed, "
        f"{connects.gone} gone meanwhile{failed}; {_spread(connects.usable_s)}",
        f"values      {values.put} put, {values.not_put} not; {values.got} got, {values.lost} lost; "
        f"put {_spread(values.put_s)}; get {_spread(values.get_s)}",
        *(f"fault       {fault}" for fault in report.faults[:FAULTS_SHOWN]),
        f"{duration(report.virtual_s)} of virtual time in {report.wall_s:.1f} s, seed {report.seed}, "
        f"trace {report.trace[:16]}" + ("" if report.ended == "complete" else f"; ended early: {report.ended}"),
    ]
    return "\n".join(lines)


def _spread(spread: Spread) -> str:
    if spread.median is None or spread.p95 is None:
        return "-"
    return f"median {spread.median * 1e3:.0f} ms, 95 % within {spread.p95 * 1e3:.0f} ms"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
