"""`kodectl dht crawl`: every node of the network, asked from here."""

from __future__ import annotations

import io
import select
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kodectl.cli.command import command, examples
from kodectl.cli.interrupts import DeadlineAlarm
from kodectl.cli.options import Parsed, setting, time_limits
from kodectl.cli.output import Outcome, Output
from kodectl.cli.wording import milliseconds, short_id
from kodectl.errors import DeadlineReached, Degraded, KodectlError, LocalMisuse, NegativeAnswer, NodeUnreachable

if TYPE_CHECKING:
    from kodectl.node.crawl_views import CrawledNode, CrawlView, StateLine
    from kodectl.node.crawling import Crawler, Progress
    from kodectl.runtime.base import Runtime
    from kodectl.store.crawl_file import CrawlFile

MAX_NODES = 100_000
"""Eight ids are kept for each that may be reached, half a kilobyte each: that is 400 MB against the worst of liars."""
MAX_RATE = 10_000.0
SHOWN = 5
"""Clients and networks named in the text of the summary; the document has all."""
ADDRESS_WIDTH = 21
"""Of most addresses: IPv4 and a port."""
READER_LOOK_S = 0.05


def parse_count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 8 or not 1 <= int(text) <= MAX_NODES:
        raise ValueError(f"a number from 1 to {MAX_NODES}")
    return int(text)


def parse_rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= MAX_RATE:
        raise ValueError(f"a number of questions a second above 0, at most {MAX_RATE:.0f}")
    return rate


@command(
    "crawl",
    epilog=examples(
        "kodectl dht crawl --bootstrap 'enode://...'",
        "kodectl dht crawl --state nodes.jsonl --rate 50 --handshake --jsonl",
        "kodectl dht crawl --state nodes.jsonl --resume",
    ),
)
@click.option(
    "--state", type=click.Path(path_type=Path), metavar="FILE", help="Write down what is found, line by line."
)
@click.option("--resume", is_flag=True, help="Go on with the crawl of that file; a new one begins where there is none.")
@click.option(
    "--rate",
    type=Parsed(parse_rate, "n"),
    default="100",
    show_default=True,
    metavar="N",
    help="Questions a second, over all nodes.",
)
@click.option(
    "--max-nodes",
    type=Parsed(parse_count, "n"),
    default="10000",
    show_default=True,
    metavar="N",
    help="End when so many have answered.",
)
@click.option("--handshake", is_flag=True, help="Dial each node that answers, for its client and network.")
@setting("bootstrap", "network")
@time_limits(timeout_s=5, deadline_s=3600)
@click.pass_obj
def crawl(
    output: Output,
    state: Path | None,
    resume: bool,
    rate: float,
    max_nodes: int,
    handshake: bool,
    bootstrap: tuple[str, ...],
    network: str,
    timeout_s: float,
    deadline_s: float,
) -> Outcome:
    """Find every node of the network, and say which answer.

    Shows each node as soon as it is clear what becomes of it, those that do not answer at the end. A node counts when it has
    proved its identity. With --state an interrupted crawl goes on later without asking, or telling, anything twice.
    Exit code 3: nothing found; 4: only a part, for a limit was reached."""
    began = time.monotonic()
    from kodectl.cli.errand import terms_of, world
    from kodectl.core.crawl import CrawlTerms
    from kodectl.node.crawling import Crawler

    if resume and state is None:
        raise LocalMisuse("--resume needs the file of the crawl", hint="name it with --state FILE")
    if not (bootstrap or resume):
        raise _no_bootstrap()
    # The alarm of the deadline counts from here, imports and all.
    terms = terms_of(bootstrap, network, timeout_s, max(0.0, deadline_s - (time.monotonic() - began)))
    output.start_logging()
    with _notebook(state, resume) as notebook, world() as runtime:

        def report(node: CrawledNode) -> None:
            _wait_for_reader(runtime)
            output.emit(node, node_line(node))

        def progress(so_far: Progress) -> None:
            output.progress(_progress_line(so_far))

        crawler = Crawler(
            runtime,
            terms,
            CrawlTerms(max_nodes, rate, handshake),
            notebook=notebook,
            report=report,
            progress=progress,
        )
        remembered = 0 if isinstance(notebook, _Nothing) else _go_on(notebook, crawler, network)
        if not (bootstrap or remembered):
            raise _no_bootstrap()
        try:
            ended = crawler.run()
        except SystemExit as end:
            notebook.sync()
            view = crawler.summary("deadline" if isinstance(end, DeadlineAlarm) else "interrupted")
            output.emit(view, summary_text(view))
            if state is not None:
                output.note(_how_to_go_on(state))
            raise
    view = crawler.summary(ended)
    failure = _failure_of(view, state)
    if failure is None and view.reachable <= len(bootstrap) - len(view.bootstrap_troubles):
        output.warn(
            "only_bootstrap_found",
            "the bootstrap nodes know nobody else",
            "name another node that is longer in the network: --bootstrap enode://...",
        )
    return Outcome(view, summary_text(view), failure=failure)


def _no_bootstrap() -> NodeUnreachable:
    return NodeUnreachable(
        "no bootstrap node is given", code="no_bootstrap_answered", hint="name one: --bootstrap enode://..."
    )


class _Nothing:
    """The notebook of a crawl without a state file."""

    def append(self, line: StateLine) -> None:
        pass

    def sync(self) -> None:
        pass


@contextmanager
def _notebook(state: Path | None, resume: bool) -> Iterator[CrawlFile | _Nothing]:
    if state is None:
        yield _Nothing()
        return
    from kodectl.store.crawl_file import open_crawl

    with open_crawl(state, resume=resume) as file:
        yield file


def _go_on(file: CrawlFile, crawler: Crawler, network: str) -> int:
    """Tells the crawler what its earlier runs have written; how many lines that were."""
    from kodectl.errors import WireError

    count = 0
    for count, line in enumerate(file.lines(), 1):
        try:
            crawler.remember(line)
        except WireError as error:
            raise file.foreign(count + 1, error.message) from error
    file.begin(network)
    return count


def _wait_for_reader(runtime: Runtime) -> None:
    """Until stdout takes a line: to wait in the write would hold up the hub, and answers under way would be given up."""
    try:
        descriptor = sys.stdout.fileno()
    except (ValueError, io.UnsupportedOperation):
        return  # in this process, for somebody who keeps it in memory
    while not select.select([], [descriptor], [], 0)[1]:
        runtime.event().wait(READER_LOOK_S)


def _failure_of(view: CrawlView, state: Path | None) -> KodectlError | None:
    if not (view.found or view.unfinished or view.bootstrap_troubles) and view.ended == "deadline":
        return DeadlineReached("the deadline passed before a bootstrap node answered")
    if not (view.reachable or view.unfinished):
        return NegativeAnswer(f"nothing was found: {_why_nothing(view)}", code="nothing_found")
    if view.ended == "complete":
        return None
    why = {
        "deadline": "the deadline passed",
        "max_nodes": "--max-nodes have answered",
        "too_many_silent": "too many of those that are named do not answer",
    }[view.ended]
    more = " --max-nodes N" if view.ended == "max_nodes" else ""
    hint = _how_to_go_on(state) + more if state is not None else None
    left = view.waiting + view.unfinished
    message = f"only a part of the network was crawled: {why}, and {left} nodes are still to be asked"
    return Degraded(message, code="crawl_partial", hint=hint)


def _how_to_go_on(state: Path) -> str:
    return f"go on with it: kodectl dht crawl --state {shlex.quote(str(state))} --resume"


def _why_nothing(view: CrawlView) -> str:
    if view.bootstrap_troubles:
        return f"no bootstrap node answered: {'; '.join(view.bootstrap_troubles)}"
    return f"none of the {view.unreachable} nodes that were asked answered ({_counts(view.by_reason)})"


def node_line(node: CrawledNode) -> str:
    """Each part under those of the line before, whatever of the network has come by then."""
    where = f"{short_id(node.id)}  {node.addr:{ADDRESS_WIDTH}}"
    named = f"named by {node.sources}"
    if not node.reachable:
        return f"unreachable  {where}  {node.reason or '-':>9}  {named}"
    hello = node.client or ("" if node.handshake is None else f"no handshake: {node.handshake}")
    known = f"knows {node.told}" + ("" if node.drawn else " or more")
    line = f"reachable    {where}  {milliseconds(node.rtt_ms) or '-':>9}  {named:12}  {known:9}  {hello}"
    return line.rstrip()


def _progress_line(so_far: Progress) -> str:
    return f"{so_far.reached} reached, {so_far.silent} silent, {so_far.waiting} to ask, {so_far.questions} questions"


def summary_text(view: CrawlView) -> str:
    lines = [
        f"{view.found} nodes found: {view.reachable} reachable, {view.unreachable} unreachable"
        + (f" ({_counts(view.by_reason)})" if view.by_reason else "")
    ]
    if view.by_client:
        clients = [f"{one.client} {one.nodes}" for one in view.by_client]
        unknown = [f"unknown {view.clients_unknown}"] if view.clients_unknown else []
        lines.append(f"clients: {_first(clients + unknown)}")
    if view.by_network:
        lines.append(f"networks: {_first([f'{one.network} {one.nodes}' for one in view.by_network])}")
    if view.unasked:
        lines.append(f"{view.unasked} were only named, and not asked ({_counts(view.unasked_by_reason)})")
    if view.conflicts:
        lines.append(f"{view.conflicts} are named at more than one address")
    asked = f"{view.questions} questions in {view.elapsed_s:.1f} s"
    lines.append(asked + (f", {view.waiting} nodes still to be asked" if view.waiting else ""))
    if view.unfinished:
        lines.append(f"{view.unfinished} more have answered, and there was more to ask them")
    return "\n".join(lines)


def _first(texts: list[str]) -> str:
    more = [f"and {len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
    return ", ".join(texts[:SHOWN] + more)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
