"""Draws what bench/growth.py found, as small SVG files.

    python bench/growth.py lookups > figures.jsonl; python bench/growth.py peers >> figures.jsonl
    python bench/plots.py figures.jsonl docs/figures

Needs matplotlib, which nothing else here does: `python -m venv plots && plots/bin/pip install matplotlib`. The same figures
give the same files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update(
    {"svg.hashsalt": "kodectl", "svg.fonttype": "none", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}
)

from matplotlib import pyplot as plt  # noqa: E402  (after the choice of the backend)

WIDE, HIGH = 3.2, 2.6
Line = dict[str, Any]


def draw_lookups(found: list[Line], where: Path) -> None:
    """Three panels: messages, rounds and virtual seconds of a lookup by the number of nodes."""
    figure, panels = plt.subplots(1, 3, figsize=(3 * WIDE, HIGH), layout="constrained")
    sizes = [one["nodes"] for one in found]
    for panel, (name, title) in zip(
        panels, (("messages", "messages"), ("rounds", "rounds"), ("virtual_s", "seconds (virtual)")), strict=True
    ):
        for which, mark in (("median", "o-"), ("p95", "s--")):
            panel.plot(sizes, [one[name][which] for one in found], mark, label=which)
        panel.set(xscale="log", xlabel="nodes", title=title)
        panel.set_ylim(bottom=0)
    for panel in panels:
        panel.legend()
    figure.suptitle("One lookup for an exact id - simulation, round trips of 40 to 160 ms, 2 % loss")
    save(figure, where / "growth-lookups.svg")


def draw_peers(found: list[Line], where: Path) -> None:
    """Two panels: CPU and resident memory of one node by the number of its peers, a line for each rate."""
    figure, panels = plt.subplots(1, 2, figsize=(2.4 * WIDE, HIGH), layout="constrained")
    for rate in sorted({one["rate"] for one in found}):
        of_rate = sorted((one for one in found if one["rate"] == rate), key=lambda one: one["peers"])
        label = f"{rate:,} messages/s" if rate else "idle"
        for panel, name in zip(panels, ("cpu_ms_per_s", "resident_mb"), strict=True):
            panel.plot(
                [one["peers"] for one in of_rate], [one[name] for one in of_rate], "o-", label=label, markersize=4
            )
    for panel, title in zip(panels, ("CPU, ms each second", "resident memory, MB"), strict=True):
        panel.set(xlabel="peers", title=title)
        panel.set_ylim(bottom=0)
        panel.legend()
    figure.suptitle("One node on loopback - real sockets and cryptography")
    save(figure, where / "growth-peers.svg")


def save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    lines = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines() if line.startswith("{")]
    for bench, draw in (("growth lookups", draw_lookups), ("growth peers", draw_peers)):
        if found := [one for one in lines if one.get("bench") == bench]:
            draw(found, Path(sys.argv[2]))


if __name__ == "__main__":
    main()
