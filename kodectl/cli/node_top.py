"""`kodectl node top`: a running node at a glance, in the terminal."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import click

from kodectl.cli.command import command, examples
from kodectl.cli.node_target import on_node
from kodectl.cli.options import MAX_LIMIT_S, Parsed
from kodectl.cli.output import Format, Output

if TYPE_CHECKING:
    from kodectl.cli.client import NodeClient
    from kodectl.cli.node_top_look import Looker
    from kodectl.cli.node_top_state import State

MIN_INTERVAL_S = 0.2
MAX_INTERVAL_S = 3600.0
SORTS = ("latency", "trust", "since", "bytes")


def parse_interval(text: str) -> float:
    try:
        interval_s = float(text)
    except ValueError:
        interval_s = 0.0
    if not MIN_INTERVAL_S <= interval_s <= MAX_INTERVAL_S:
        raise ValueError(f"seconds, from {MIN_INTERVAL_S:g} to {MAX_INTERVAL_S:g}")
    return interval_s


@command(
    "top",
    epilog=examples(
        "kodectl node top",
        "kodectl node top --sort bytes --interval 5",
        "kodectl node top --once",
        "kodectl node top --jsonl --interval 10 | jq -c '[.ts, .data.verdict.level, .data.status.peers]'",
    ),
)
@click.option("--sort", type=click.Choice(SORTS), default="latency", show_default=True, help="Order of the peers.")
@click.option(
    "--interval",
    "interval_s",
    type=Parsed(parse_interval, "seconds"),
    default="1",
    show_default=True,
    metavar="SECONDS",
    help="Between two looks at the node.",
)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many looks.")
@click.option("--once", is_flag=True, help="Look once, print that with all peers, and end.")
@on_node(deadline_s=MAX_LIMIT_S)
def top(output: Output, client: NodeClient, sort: str, interval_s: float, count: int | None, once: bool) -> None:
    """Show the node live: how it does, peers, traffic, buckets, NAT, events.

    q ends it, ? shows the keys. A node that goes away is waited for. Where there is no terminal, it looks once and prints that;
    with --count so many times, with --jsonl one document each look, without end. Exit code 5: no node answers."""
    from kodectl.cli.node_top_look import Looker
    from kodectl.cli.node_top_terminal import is_for_people

    looker = Looker(client, sort)
    looks = 1 if once else count
    if output.format is Format.JSONL:
        _stream(output, looker, sort, interval_s, looks)
    elif looks == 1 or output.structured or not is_for_people():
        _stream(output, looker, sort, interval_s, looks or 1)
    else:
        _live(output, looker, sort, interval_s, looks)


def _stream(output: Output, looker: Looker, sort: str, interval_s: float, looks: int | None) -> None:
    from kodectl.cli.node_top_state import begin, looked

    state: State | None = None
    due = time.monotonic()
    while looks != 0:
        look = looker.look()
        state = begin(look, sort) if state is None else looked(state, look)
        output.emit(look.view, "" if output.structured else _printed(state))
        looks = None if looks is None else looks - 1
        due = max(due + interval_s, time.monotonic())
        if looks != 0:
            time.sleep(max(0.0, due - time.monotonic()))


def _printed(state: State) -> str:
    import shutil
    import sys

    from kodectl.cli.node_top_frame import frame
    from kodectl.cli.node_top_terminal import ansi, glyphs_for

    width = shutil.get_terminal_size().columns
    return ansi(frame(state, width, None, glyphs_for(sys.stdout)).lines, width)


def _live(output: Output, looker: Looker, sort: str, interval_s: float, looks: int | None) -> None:
    from kodectl.cli.node_top_live import live
    from kodectl.cli.node_top_state import begin
    from kodectl.cli.node_top_terminal import Terminal

    state = begin(looker.look(), sort)
    has_colour = output.color == "always" or (output.color == "auto" and not os.environ.get("NO_COLOR"))
    live(Terminal(colour=has_colour), state, looker, interval_s, looks)
