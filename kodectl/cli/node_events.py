"""`kodectl node events`: what happens in a running node, as it happens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from kodectl.cli.command import command, examples
from kodectl.cli.node_target import on_node
from kodectl.cli.options import MAX_LIMIT_S, Parsed
from kodectl.cli.output import Output
from kodectl.node.topics import TOPIC_OF, TYPES_OF

if TYPE_CHECKING:
    from kodectl.cli.client import NodeClient

SHOWN_CHARS = 160
"""Of one value in text: an enode whole, the beginning of a payload."""


class Place(NamedTuple):
    """Where a reader is: the number of the last event that it has, and of which run of the node that number is."""

    seq: int
    run: str | None = None

    def __str__(self) -> str:
        return f"{self.seq}@{self.run}" if self.run is not None else str(self.seq)


def parse_place(text: str) -> Place:
    number, _, run = text.partition("@")
    if number.isascii() and number.isdigit() and len(number) <= 15:
        return Place(int(number), run or None)
    raise ValueError("the number of an event, or NUMBER@RUN as this command tells at its end")


@command(
    "events",
    epilog=examples(
        "kodectl node events",
        "kodectl node events --topic peer --topic nat",
        "kodectl node events --topic block --since 120 --jsonl",
        "kodectl node events --no-follow --json",
    ),
)
@click.option(
    "--since",
    type=Parsed(parse_place, "number"),
    default="0",
    show_default=True,
    metavar="SEQ[@RUN]",
    help="After this event's number; 0: all that are kept.",
)
@click.option(
    "--topic",
    "topics",
    type=click.Choice([*TYPES_OF, *TOPIC_OF]),
    multiple=True,
    metavar="NAME",
    help="A topic (node, peer, nat, dht, message) or a type of event; may be given several times.",
)
@click.option("--follow/--no-follow", default=True, show_default=True, help="Go on as things happen.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many events.")
@on_node(deadline_s=MAX_LIMIT_S)
def events(
    output: Output, client: NodeClient, since: Place, topics: tuple[str, ...], follow: bool, count: int | None
) -> None:
    """Show what happens, one event a line.

    Every event has a number, by which --since goes on after an interruption; a connection that breaks is taken up again.
    Events that are gone already are told as a `gap`. Exit code 5: the node has left."""
    left = count
    for message in _followed(output, client, since, topics) if follow else _kept(client, since, topics):
        output.emit(message, _line(message))
        if left is not None and "seq" in message:
            left -= 1
            if not left:
                return


def _followed(output: Output, client: NodeClient, since: Place, topics: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    from kodectl.cli.event_stream import Follower
    from kodectl.errors import NodeUnreachable

    follower = Follower(client, topics, since)
    try:
        yield from follower.messages()
    except NodeUnreachable as error:
        if follower.place != since:
            error.hint = f"kodectl node events --since {follower.place}"
        raise


def _kept(client: NodeClient, since: Place, topics: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    from kodectl.node.views import EventsView

    # Up to what has happened by now: a busy node always has more.
    end = client.get("/api/events", EventsView, {"topics": ""}).next
    place = since
    while True:
        query = {"since": place.seq, "run": place.run, "topics": ",".join(topics) or None}
        page = client.get("/api/events", EventsView, query)
        if page.missed != 0:
            yield {"type": "gap", "missed": page.missed}
        for event in page.events:
            if event.seq > end:
                return
            yield {name: getattr(event, name) for name in event.__struct_fields__}
        if page.next >= end:
            return
        place = place._replace(seq=page.next, run=page.run)


def _line(message: dict[str, Any]) -> str:
    if "seq" not in message:
        missed = message.get("missed")
        return f"gap: {'the node has been restarted, and' if missed is None else missed} events are gone"
    type_ = message["type"]
    data = [f"{name}={_shown(value)}" for name, value in message["data"].items() if value not in (None, type_)]
    return "  ".join([str(message["seq"]), message["ts"], type_, *data])


def _shown(value: object) -> str:
    """As JSON, but for a single word; what is long is cut."""
    text = value if isinstance(value, str) and value.isprintable() and '"' not in value and " " not in value else ""
    text = text or json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 3]}..."
