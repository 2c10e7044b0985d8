"""Every pair of NATs, with real nodes behind real ones: who connects, by what way, and how fast.

    python tests/matrix.py --runs 20 > table.md          # as root; the table of docs/connectivity.md

Four ordinary open nodes are all the help there is: they are bootstrap nodes, rendezvous nodes and relays. Two nodes of
every kind are laid once; then one pair after the other is connected by `kodectl node connect ID` and parted again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from lab_nodes import REPOSITORY, LabNode, open_network
from natlab import Host, Kind, Lab

from kodectl.errors import KodectlError

OPEN_NODES = 4
KINDS = (
    Kind.OPEN,
    Kind.FULL_CONE,
    Kind.RESTRICTED,
    Kind.PORT_RESTRICTED,
    Kind.SYMMETRIC,
    Kind.SYMMETRIC_SEQUENTIAL,
    Kind.CGNAT,
    Kind.BLOCKED,
)
USABLE_S = 2.0
DIRECT_S = 5.0
SPRAYED_S = 20.0
RELAYED_WATCH_S = 1.0
"""How long a pair that is to stay relayed is looked at."""
PARTED_LIMIT_S = 15.0
STEP_S = 0.05
ROUND_S = 42.0
"""From one connection of a pair to its next: nodes spray the same network once in 40 s (`node.spraying`)."""
LOG_LINES = 40
"""Of a node that does not answer."""
NAMES = {
    Kind.SYMMETRIC_SEQUENTIAL: "sequential",
    Kind.PORT_RESTRICTED: "port-restr.",
}

_SYMMETRIC = {Kind.SYMMETRIC, Kind.SYMMETRIC_SEQUENTIAL}
_FILTERS_PORTS = {Kind.PORT_RESTRICTED, Kind.CGNAT}


def direct_within_s(here: Kind, there: Kind) -> float | None:
    """What the two NATs allow; None: a relay it stays."""
    pair = {here, there}
    if Kind.OPEN in pair:
        return DIRECT_S
    if Kind.BLOCKED in pair:
        # By TCP: simultaneous open needs a port that is the same towards everybody.
        return None if pair & {Kind.SYMMETRIC, Kind.SYMMETRIC_SEQUENTIAL} else DIRECT_S
    if pair <= _SYMMETRIC:
        return None
    if Kind.SYMMETRIC in pair and pair & _FILTERS_PORTS:
        return SPRAYED_S
    return DIRECT_S


class Outcome(NamedTuple):
    """Seconds from the command to the answer, and to a direct path (None: it stayed on the relay). `way`: the transport and
    the types of the candidates in the end."""

    usable_s: float
    direct_s: float | None
    way: str


class Failed(Exception):
    """A pair did not connect."""


class Machine(NamedTuple):
    node: LabNode
    id: str

    def kodectl(self, *arguments: str) -> dict[str, Any]:
        """The command as a user types it, beside the node."""
        command = [sys.executable, "-m", "kodectl", *arguments, "--datadir", str(self.node.datadir), "--json"]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPOSITORY)
        return json.loads(done.stdout)

    def peer(self, node_id: str) -> dict[str, Any] | None:
        try:
            view = self.node.peers()
        except KodectlError as error:
            said = "\n".join(self.node.log.read_text().splitlines()[-LOG_LINES:])
            raise Failed(f"{error}; the node's process: {self.node.process.poll()}; it said:\n{said}") from error
        return next((peer for peer in view if peer["id"] == node_id), None)


class Network:
    """A lab with its open nodes, and machines of each kind."""

    def __init__(self, lab: Lab, home: Path, open_nodes: int = OPEN_NODES) -> None:
        self.lab = lab
        self.home = home
        self.open = open_network(lab, home, open_nodes)
        self._first = self.open[0].wait().enode

    def lay(self, host: Host, name: str, *options: str) -> Machine:
        """A node that has just been started; see `settle`."""
        node = LabNode(host, self.home, name, "--bootstrap", self._first, *options)
        return Machine(node, node.wait().id)

    def lay_kind(self, kind: Kind, name: str) -> Machine:
        host = self.lab.public(name) if kind is Kind.OPEN else self.lab.behind(kind)
        return self.lay(host, name, "--nat", "none")

    def settle(self, machines: Iterable[Machine]) -> None:
        """Until each knows what it is behind, and is known where it has to be."""
        for machine in machines:
            machine.node.wait(lambda status: status.nat.state != "unknown" and is_known(status.nat))


def is_known(nat: Any) -> bool:
    """Reached over TCP, or with its rendezvous nodes told and relays at hand."""
    return bool(nat.reachable_tcp) or (nat.rendezvous is not None and len(nat.rendezvous) >= 3 and nat.relays >= 1)


def connect(one: Machine, other: Machine, direct_s: float | None) -> Outcome:
    """Raises Failed."""
    began = time.monotonic()
    answer = one.kodectl("node", "connect", other.id, "--timeout", "20")
    if not answer["ok"]:
        raise Failed(json.dumps(answer["error"]))
    usable_s = answer["elapsed_ms"] / 1000
    deadline = began + (direct_s if direct_s is not None else RELAYED_WATCH_S)
    while True:
        peer = one.peer(other.id)
        now = time.monotonic()
        is_direct = peer is not None and peer["path"] == "direct"
        if is_direct or now >= deadline:
            return Outcome(usable_s, now - began if is_direct else None, way_of(peer))
        time.sleep(STEP_S)


def way_of(peer: dict[str, Any] | None) -> str:
    if peer is None:
        return "gone"
    pair = peer["pair"]
    return f"{peer['transport']} {pair['local_type']}-{pair['remote_type']}" if pair else peer["transport"]


def part(one: Machine, other: Machine) -> None:
    """Both have forgotten that they were connected, and would not redial."""
    ends = time.monotonic() + PARTED_LIMIT_S
    one.kodectl("node", "disconnect", other.id)
    while one.peer(other.id) is not None or other.peer(one.id) is not None:
        if time.monotonic() > ends:
            raise Failed("they do not part")
        time.sleep(STEP_S)


@contextmanager
def laid(kinds: Sequence[Kind], home: Path) -> Iterator[tuple[Network, dict[Kind, tuple[Machine, Machine]]]]:
    """Two machines of every kind, settled."""
    with Lab() as lab:
        network = Network(lab, home)
        machines = {
            kind: (network.lay_kind(kind, f"{kind.value}-1"), network.lay_kind(kind, f"{kind.value}-2"))
            for kind in kinds
        }
        network.settle(machine for pair in machines.values() for machine in pair)
        yield network, machines


def measure(kinds: Sequence[Kind], runs: int) -> dict[tuple[Kind, Kind], list[Outcome | str]]:
    """Text for a run that failed."""
    found: dict[tuple[Kind, Kind], list[Outcome | str]] = {cell: [] for cell in product(kinds, kinds)}
    with tempfile.TemporaryDirectory() as home, laid(kinds, Path(home)) as (_, machines):
        for run in range(runs):
            next_round = time.monotonic() + ROUND_S
            for here, there in found:
                one, other = machines[here][0], machines[there][1]
                try:
                    if one.peer(other.id) is not None:
                        part(one, other)
                    outcome: Outcome | str = connect(one, other, direct_within_s(here, there))
                    part(one, other)
                except Failed as failed:
                    outcome = str(failed)
                found[here, there].append(outcome)
                print(f"{run + 1} {here.value} {there.value}: {outcome}", file=sys.stderr, flush=True)
            if run + 1 < runs:
                time.sleep(max(0.0, next_round - time.monotonic()))
    return found


def verdict(here: Kind, there: Kind, outcomes: Sequence[Outcome | str]) -> str:
    """Empty where the pair does what it is to do."""
    failures = [outcome for outcome in outcomes if isinstance(outcome, str)]
    good = [outcome for outcome in outcomes if isinstance(outcome, Outcome)]
    if failures:
        return f"{len(failures)} failed"
    if statistics.median(outcome.usable_s for outcome in good) > USABLE_S:
        return "slow"
    share = sum(outcome.direct_s is not None for outcome in good) / len(good)
    expected = direct_within_s(here, there)
    least = 0.0 if expected is None else 0.95 if expected == SPRAYED_S else 1.0
    return "" if share >= least else f"direct {share:.0%}"


def table(found: dict[tuple[Kind, Kind], list[Outcome | str]], kinds: Sequence[Kind]) -> str:
    """Markdown: a row for who asks, a column for who is asked; usable and direct, median / p95 in seconds."""
    names = [NAMES.get(kind, kind.value.replace("_", " ")) for kind in kinds]
    lines = ["| from \\ to | " + " | ".join(names) + " |", "|---" * (len(kinds) + 1) + "|"]
    for here, name in zip(kinds, names, strict=True):
        cells = [cell_text(here, there, found[here, there]) for there in kinds]
        lines.append(f"| **{name}** | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell_text(here: Kind, there: Kind, outcomes: Sequence[Outcome | str]) -> str:
    good = [outcome for outcome in outcomes if isinstance(outcome, Outcome)]
    if not good:
        return "fails"
    usable = figures([outcome.usable_s for outcome in good])
    direct = [outcome.direct_s for outcome in good if outcome.direct_s is not None]
    way = statistics.mode(outcome.way for outcome in good)
    shown = f"{way}<br>{usable}"
    if direct:
        shown += f"<br>direct {figures(direct)}"
        if len(direct) < len(good):
            shown += f" ({len(direct) / len(good):.0%})"
    wrong = verdict(here, there, outcomes)
    return f"{shown}<br>**{wrong}**" if wrong else shown


def figures(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    p95 = ordered[max(0, math.ceil(0.95 * len(ordered)) - 1)]
    return f"{statistics.median(ordered):.2f} / {p95:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--kinds", nargs="*", default=[kind.value for kind in KINDS])
    asked = parser.parse_args()
    kinds = [Kind(name) for name in asked.kinds]
    found = measure(kinds, asked.runs)
    print(table(found, kinds))
    verdicts = {cell: verdict(*cell, outcomes) for cell, outcomes in found.items()}
    wrong = [f"{here.value} to {there.value}: {text}" for (here, there), text in verdicts.items() if text]
    print("\n".join(wrong), file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
