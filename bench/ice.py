"""How long two ICE agents take from "the other side is known" to "connected": ours, aioice, and one of each.

    python bench/ice.py [RUNS] [--alike]

One JSON line for each way of connecting and each pair of agents: milliseconds as each side measured them itself, the
controlling side first, and how many runs stalled for half a second; `ratio` is that of the medians of ours to those of
aioice with aioice. `host`: one machine; `srflx`: behind two port-restricted NATs, with a STUN server; `relay`: relayed
candidates alone, through coturn. Runs in a lab of network namespaces, and needs root. `--alike` leaves out the pairs of one
of each.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "lab")]

from natlab import Kind, Lab  # noqa: E402
from punching import aioice, event, ours  # noqa: E402
from test_nat_punch import USER, Scene  # noqa: E402

RUNS = 20
STALL_MS = 500.0
"""What one lost first check costs."""
PAIRS = (("aioice", "aioice"), ("ours", "ours"), ("ours", "aioice"), ("aioice", "ours"))


def command(agent: str, role: str, options: Sequence[str]) -> list[str]:
    return ours(role, "--count", "1", *options) if agent == "ours" else aioice(role, 1, *options)


def ways(scene: Scene) -> Iterator[tuple[str, tuple[Kind, Kind], tuple[str, ...]]]:
    yield "host", (Kind.OPEN, Kind.OPEN), ()
    yield "srflx", (Kind.PORT_RESTRICTED, Kind.PORT_RESTRICTED), ("--stun", scene.server)
    yield "relay", (Kind.SYMMETRIC, Kind.SYMMETRIC), ("--turn", f"{USER}@{scene.server}", "--relay-only")


def measure(scene: Scene, kinds: Sequence[Kind], agents: Sequence[str], options: Sequence[str]) -> tuple[float, float]:
    commands = [
        command(agent, role, options) for agent, role in zip(agents, ("controlling", "controlled"), strict=True)
    ]
    controlling, controlled = (event(lines, "connected")["ms"] for _, lines in scene.punch(kinds, commands))
    return controlling, controlled


def main(runs: int, pairs: Sequence[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as home, Lab() as lab:
        scene = Scene(lab, Path(home))
        for way, kinds, options in ways(scene):
            reference: list[float] = []
            for agents in pairs:
                sides = list(zip(*(measure(scene, kinds, agents, options) for _ in range(runs)), strict=True))
                medians = [median(side) for side in sides]
                reference = reference or medians
                print(json.dumps(line(way, agents, sides, medians, reference)), flush=True)


def line(
    way: str,
    agents: Sequence[str],
    sides: Sequence[Sequence[float]],
    medians: Sequence[float],
    reference: Sequence[float],
) -> dict[str, Any]:
    return {
        "way": way,
        "controlling": agents[0],
        "controlled": agents[1],
        "median_ms": [round(value, 2) for value in medians],
        "p95_ms": [round(quantiles(side, n=20)[-1], 2) for side in sides],
        "max_ms": [round(max(side), 2) for side in sides],
        "stalls": [sum(value >= STALL_MS for value in side) for side in sides],
        "ratio": [round(value / base, 3) for value, base in zip(medians, reference, strict=True)],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=int, nargs="?", default=RUNS)
    parser.add_argument("--alike", action="store_true", help="leave out the pairs of one of each")
    asked = parser.parse_args()
    if asked.runs < 2:
        parser.error("two runs at least: a percentile is asked of them")
    main(asked.runs, [pair for pair in PAIRS if not asked.alike or pair[0] == pair[1]])
