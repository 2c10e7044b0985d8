"""How soon a birthday spray connects a NAT that draws its ports with one that filters by them, beside the theory.

    python bench/spray.py [RUNS] [LAB_RUNS]

One JSON line for each place. `hit` is the share of runs that were connected at each second: on virtual time with a
round trip of 100 ms, without and with losses, and in a lab of network namespaces (root; `LAB_RUNS` of them, none by default).
`theory` is 1 - exp(-pairs / 64512), where pairs are those of an opened and a tried port (`core.spray.chance`): the
way that the hitting packet itself takes is given to it. `sigma` is how far the two are apart where they differ most,
in standard deviations of so many runs. `packets` are those of one side: median and most.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "sim"), str(TESTS / "lab")]

from natlab import Kind, Lab  # noqa: E402
from punching import introduce  # noqa: E402
from test_punching import UdpSide  # noqa: E402
from test_spray import LATENCY_S, Scene  # noqa: E402

from kodectl.core.spray import chance  # noqa: E402

RUNS = 1_000
SECONDS = (1, 2, 3, 4, 6, 8, 10, 15, 20)
LOSSES = (0.0, 0.02, 0.1)
AFTER_HIT_S = 5 * LATENCY_S
"""The way of the packet that hits, a check of the side that was hit, and its nomination."""


class Run(NamedTuple):
    """`took_s`: None where it did not connect. `sent`: by the side that sent more."""

    took_s: float | None
    sent: int


def simulated(seed: int, loss: float) -> Run:
    scene = Scene(f"bench {loss} {seed}", loss=loss)
    try:
        scene.spray()
        took_s = scene.run()
        return Run(took_s, max(side.spraying.sent for side in (scene.many, scene.one) if side.spraying is not None))
    finally:
        scene.close()


def in_the_lab() -> Run:
    with Lab() as lab:
        sides = UdpSide(lab.behind(Kind.SYMMETRIC), "many"), UdpSide(lab.behind(Kind.PORT_RESTRICTED), "ports")
        introduce(*sides)
        told = [side.end()[1][-1] for side in sides]
    took = [one["ms"] / 1_000 for one in told if one["event"] == "connected"]
    return Run(max(took) if len(took) == 2 else None, max(one["sent"] for one in told))


def line(where: str, runs: Sequence[Run], way_s: float) -> dict[str, Any]:
    """`way_s`: what passes between the packet that hits and the connection."""
    took = sorted(run.took_s for run in runs if run.took_s is not None)
    hit = {second: sum(one <= second for one in took) / len(runs) for second in SECONDS}
    theory = {second: chance(second - way_s) for second in SECONDS}
    deviations = [
        (hit[second] - share) / math.sqrt(share * (1 - share) / len(runs)) for second, share in theory.items()
    ]
    return {
        "where": where,
        "runs": len(runs),
        "connected": len(took),
        "hit": {second: round(share, 3) for second, share in hit.items()},
        "theory": {second: round(share, 3) for second, share in theory.items()},
        "sigma": round(max(deviations, key=abs), 1),
        "median_s": round(median(took), 2) if took else None,
        "p95_s": round(took[math.ceil(0.95 * len(took)) - 1], 2) if took else None,
        "packets": [round(median(run.sent for run in runs)), max(run.sent for run in runs)],
    }


def main(runs: int, lab_runs: int) -> None:
    for loss in LOSSES:
        done = [simulated(seed, loss) for seed in range(runs)]
        print(json.dumps(line(f"virtual time, {loss:.0%} lost", done, AFTER_HIT_S)), flush=True)
    if lab_runs:
        print(json.dumps(line("lab", [in_the_lab() for _ in range(lab_runs)], 0.0)), flush=True)


if __name__ == "__main__":
    main(*(int(text) for text in sys.argv[1:]), *(RUNS, 0)[len(sys.argv) - 1 :])
