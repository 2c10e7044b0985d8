"""kodectl beside its peers, in one run: what an answer costs the node that gives it, and what a DHT node weighs.

    python bench/beside.py [--runs 5] [--seconds 3] [--peers kademlia,pyipv8] [--environments DIR]

One JSON line a measurement, then a table (Markdown) of medians, with ratios to kodectl's. The peers are installed with
pip, each into an environment of its own below DIR; one that cannot be installed or run has a row that says why.

Each peer has a program in bench/peers/, run by its environment's Python with one argument, an order in JSON, and answers
with JSON lines. The orders, and the answers to them:

    {"role": "serve", "contacts": 400}
        {"ready": port, "id": hex, "table": contacts kept}; it serves until it is ended
    {"role": "ask", "what": "ping" or "find_node", "port", "node_id", "under_way", "warm_up_s", "seconds"}
        {"answers", "failures", "contacts": in the last answer}, when the window begins and again when it ends
    {"role": "crowd", "count": 50}
        {"bytes_per_node": resident memory that so many more nodes took, "contacts": of the node with the fewest}

The contacts in their tables are loopback addresses that nobody listens at: kademlia and pyipv8 send packets to some of them.
`contacts` in the table is how many an answer holds, or each node of the crowd; without it two figures are not of the same work.
Memory is of discovery and table alone, fresh, without sessions, values or traffic: no figure of a node at work.
The processes' CPU is read from /proc at both ends of the window. The runs are interleaved, so that what else the machine
does falls on all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs

HERE = Path(__file__).parent
PACKAGES = {"kademlia": "kademlia~=2.2.3", "pyipv8": "pyipv8~=3.2.0"}
WORK = {
    "kodectl": "authenticated (a session's key), k 16",
    "kademlia": "nothing signed or encrypted, k 16",
    "pyipv8": "each packet signed, k 8; its limit of 10 questions in 5 s lifted",
}
QUESTIONS = ("ping", "find_node")
CONTACTS = 400
UNDER_WAY = 16
CROWD = 50
WARM_UP_S = 1.0
ANSWER_LIMIT_S = 60.0
INSTALL_LIMIT_S = 600.0


class Failed(Exception):
    """A peer that could not be measured, and why."""


def install(peer: str, environments: Path) -> str:
    """The Python that runs the peer; what is there already is not installed anew."""
    if peer not in PACKAGES:
        return sys.executable
    where = environments / peer
    python = where / "bin" / "python"
    if not (where / "installed").exists():
        venv.create(where, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", PACKAGES[peer]]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"cannot be installed within {INSTALL_LIMIT_S:g} s") from error
        if ended.returncode:
            raise Failed(f"cannot be installed: {last_line(ended.stderr)}")
        (where / "installed").touch()
    return str(python)


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no word of why"])[-1][:200]


@contextmanager
def program(python: str, peer: str, **order: object) -> Iterator[subprocess.Popen[str]]:
    command = [python, str(HERE / "peers" / f"{peer}_peer.py"), json.dumps(order)]
    quiet = subprocess.DEVNULL if peer in PACKAGES else None
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=quiet, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def answer(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise Failed(f"ended with {process.wait(ANSWER_LIMIT_S)}")
    return json.loads(line)


def cpu_s(process: subprocess.Popen[str]) -> float:
    """User's and system's time of all of a process's threads."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_question(python: str, peer: str, what: str, seconds: float) -> dict[str, float]:
    with program(python, peer, role="serve", contacts=CONTACTS) as server:
        ready = answer(server)
        order = {"what": what, "port": ready["ready"], "node_id": ready["id"], "under_way": UNDER_WAY}
        with program(python, peer, role="ask", warm_up_s=WARM_UP_S, seconds=seconds, **order) as asker:
            began, cpu_began = answer(asker), cpu_s(server)
            ended, cpu_ended = answer(asker), cpu_s(server)
    answers = ended["answers"] - began["answers"]
    if not answers:
        raise Failed(f"no {what} was answered")
    return {
        "value": (cpu_ended - cpu_began) / answers * 1e6,
        "rate": answers / seconds,
        "failures": ended["failures"],
        "table": ready["table"],
        "contacts": ended["contacts"],
    }


def measure_crowd(python: str, peer: str) -> dict[str, float]:
    with program(python, peer, role="crowd", count=CROWD) as process:
        found = answer(process)
        return {"value": found["bytes_per_node"] / 1000, "nodes": CROWD, "contacts": found["contacts"]}


def measure(python: str, peer: str, what: str, seconds: float) -> dict[str, float]:
    return measure_crowd(python, peer) if what == "memory" else measure_question(python, peer, what, seconds)


MEASUREMENTS = {"ping": "server CPU us", "find_node": "server CPU us", "memory": "kB a DHT node"}


def run(
    peers: list[str], runs: int, seconds: float, environments: Path
) -> tuple[dict[Any, list[dict[str, float]]], dict[Any, str]]:
    values: dict[Any, list[dict[str, float]]] = {}
    reasons: dict[Any, str] = {}
    pythons = {}
    for peer in peers:
        try:
            pythons[peer] = install(peer, environments)
        except Failed as error:
            reasons.update({(what, peer): str(error) for what in MEASUREMENTS})
    for number in range(runs):
        for what in MEASUREMENTS:
            for peer, python in pythons.items():
                line: dict[str, object] = {"what": what, "peer": peer, "run": number + 1, "unit": MEASUREMENTS[what]}
                try:
                    figures = measure(python, peer, what, seconds)
                    values.setdefault((what, peer), []).append(figures)
                    line.update({name: round(figure, 2) for name, figure in figures.items()})
                except Failed as error:
                    reasons[what, peer] = line["error"] = str(error)
                print(json.dumps(line), flush=True)
    return values, reasons


def median_of(runs: list[dict[str, float]]) -> float:
    return statistics.median(figures["value"] for figures in runs)


def table(peers: list[str], values: dict[Any, list[dict[str, float]]], reasons: dict[Any, str]) -> Iterator[str]:
    yield "| what | who | median | least - most | runs | to kodectl's | contacts | what it does |"
    yield "|---|---|---|---|---|---|---|---|"
    for what, unit in MEASUREMENTS.items():
        ours = median_of(values[what, "kodectl"]) if (what, "kodectl") in values else None
        for peer in peers:
            begin = f"| {what}, {unit} | {peer} |"
            found = values.get((what, peer))
            if not found:
                yield f"{begin} - | - | 0 | - | - | {reasons[what, peer]} |"
                continue
            median, contacts = median_of(found), found[-1]["contacts"]
            ratio = f"{median / ours:.2f}" if ours else "-"
            failed = f"; in some runs: {reasons[what, peer]}" if (what, peer) in reasons else ""
            least, most = (pick(figures["value"] for figures in found) for pick in (min, max))
            spread = f"{least:.1f} - {most:.1f}"
            yield f"{begin} {median:.1f} | {spread} | {len(found)} | {ratio} | {contacts:g} | {WORK[peer]}{failed} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="the window of each")
    parser.add_argument("--peers", default=",".join(PACKAGES), help="beside whom, of " + ", ".join(PACKAGES))
    cache = platformdirs.user_cache_path("kodectl-bench")
    parser.add_argument("--environments", type=Path, default=cache, help=f"where peers are installed [{cache}]")
    options = parser.parse_args()
    peers = [peer for peer in options.peers.split(",") if peer]
    if unknown := set(peers) - set(PACKAGES):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    if options.runs < 1 or options.seconds <= 0:
        parser.error("--runs and --seconds must be more than 0")
    peers = ["kodectl", *peers]
    values, reasons = run(peers, options.runs, options.seconds, options.environments)
    print("\n" + "\n".join(table(peers, values, reasons)))


if __name__ == "__main__":
    main()
