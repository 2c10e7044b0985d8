"""kodectl beside its peers, in one run: every figure that has a peer, or a mark of its own.

    python bench/beside [--runs 5] [--seconds 3] [--only ROW,...] [--peers NAME,...] [--environments DIR]

One JSON line a measurement, then a table (Markdown) of medians, with ratios to kodectl's. The peers are installed with
pip, each into an environment of its own below DIR; one that cannot be installed or run has a row that says why.

    questions    what an answer costs the node that gives it, 16 questions under way, about 400 contacts offered to its table
    crowd        what a fresh DHT node weighs, with 20 contacts, without sessions, values or traffic
    network      100 nodes in 4 processes: lookups for random ids to the end, values put and got, one errand at a time; and
                 what a node of such a network weighs after some of them
    broadcast    10 nodes in 2 processes, degree 4, all publish as fast as they may
    connection   one, over loopback TCP, one process on each side: 60 KiB and 200 B messages, its set-up, idle ones
    hub          bench/operated.py at 5,000 messages/s
    simulator    1,000 nodes on virtual time

Each peer has a program in bench/peers/, run by its environment's Python with one argument, its role in JSON; it answers with
JSON lines, and takes more orders as lines. Where the role is not its first answer:

    serve, ask   {"ready", "id", "table"}; {"answers", "failures", "contacts": in the last answer} at both ends of the window
    crowd        {"bytes_per_node", "contacts": of the node with the fewest}
    network      {"places": [ip, port, id]}; then {"do": "join" | "look_up" | "put" | "get" | "weigh"}
    mesh         {"places"}; {"do": "link"}; {"do": "publish"}: {"delivered", "elapsed_s", "cpu_s"}
    take, give   a place; {"do": "bulk" | "small" | "set_up"}

Contacts that are made up are loopback addresses that nobody listens at. The processes' CPU is read from /proc at both ends of
a window. The runs are interleaved, so that what else the machine does falls on all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import platformdirs
from programs import PACKAGES, Failed, install
from rows import ROWS

WORK = {
    "kodectl": "authenticated and encrypted; the origin of broadcasts and values verified; k 16; limit of questions lifted",
    "kodectl_unverified": "the same, the origin of broadcasts not verified by each node",
    "kademlia": "nothing signed or encrypted, k 16",
    "pyipv8": "each packet signed, k 8; limits of questions lifted; values unsigned; broadcast: flooding, UDP",
    "opendht": "C++; nothing signed or encrypted, k 8; limits of questions lifted",
    "libp2p": "Noise, Yamux; gossipsub, messages signed; its protection against spam off",
}
Found = dict[tuple[str, str, str], list[dict[str, float]]]
Reasons = dict[tuple[str, str], str]


def run(
    rows: Sequence[str], peers: Sequence[str], runs: int, seconds: float, environments: Path
) -> tuple[Found, Reasons]:
    found: Found = {}
    reasons: Reasons = {}
    pythons: dict[str, str] = {}
    for peer in peers:
        try:
            pythons[peer] = install(peer, environments)
        except Failed as error:
            reasons.update({(row, peer): str(error) for row in rows})
    for number in range(runs):
        for row in rows:
            for peer in (peer for peer in ROWS[row].peers if peer in pythons):
                line: dict[str, Any] = {"row": row, "peer": peer, "run": number + 1}
                try:
                    for figure, values in ROWS[row].measure(pythons[peer], peer, seconds).items():
                        found.setdefault((row, figure, peer), []).append(values)
                        line[figure] = {name: round(value, 3) for name, value in values.items()}
                except Failed as error:
                    reasons[row, peer] = line["error"] = str(error)
                print(json.dumps(line), flush=True)
    return found, reasons


def median_of(runs: list[dict[str, float]]) -> float:
    return statistics.median(values["value"] for values in runs)


def table(rows: Sequence[str], peers: Sequence[str], found: Found, reasons: Reasons) -> Iterator[str]:
    yield "| what | mark | who | median | least to most | runs | to kodectl's | besides | what it does |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        for name, figure in ROWS[row].figures.items():
            ours = found.get((row, name, "kodectl"))
            for peer in (peer for peer in ROWS[row].peers if peer in peers):
                values = found.get((row, name, peer))
                begin = f"| {name}, {figure.unit} | {figure.mark if peer.startswith('kodectl') else ''} | {peer} |"
                if values is None:
                    if (row, peer) in reasons:
                        yield f"{begin} - | - | 0 | - | {reasons[row, peer]} | {WORK[peer]} |"
                    continue
                median = median_of(values)
                least, most = (pick(one["value"] for one in values) for pick in (min, max))
                ratio = f"{median / median_of(ours):.2f}" if ours else "-"
                rest = ", ".join(f"{key} {value:.3g}" for key, value in values[-1].items() if key != "value")
                yield (
                    f"{begin} {median:,.4g} | {least:,.4g} to {most:,.4g} | {len(values)} | {ratio} | {rest} | {WORK[peer]} |"
                )


def chosen(parser: argparse.ArgumentParser, text: str, known: Sequence[str]) -> list[str]:
    names = [name for name in text.split(",") if name]
    if unknown := set(names) - set(known):
        parser.error(f"not known: {', '.join(sorted(unknown))}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python bench/beside", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="the window of each")
    parser.add_argument("--only", default=",".join(ROWS), help="rows, of " + ", ".join(ROWS))
    parser.add_argument("--peers", default=",".join(PACKAGES), help="beside whom, of " + ", ".join(PACKAGES))
    cache = platformdirs.user_cache_path("kodectl-bench")
    parser.add_argument("--environments", type=Path, default=cache, help=f"where peers are installed [{cache}]")
    options = parser.parse_args()
    if options.runs < 1 or options.seconds <= 0:
        parser.error("--runs and --seconds must be more than 0")
    rows = chosen(parser, options.only, list(ROWS))
    peers = ["kodectl", "kodectl_unverified", *chosen(parser, options.peers, list(PACKAGES))]
    found, reasons = run(rows, peers, options.runs, options.seconds, options.environments)
    print("\n" + "\n".join(table(rows, peers, found, reasons)))


if __name__ == "__main__":
    main()
