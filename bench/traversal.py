"""What traversal costs beside others, in one run: ICE beside aioice, relaying beside coturn, QUIC beside aioquic and TCP,
the birthday spray beside its theory.

    python bench/traversal.py [--runs 50] [--seconds 2] [--sprays 200] [--only ice|turn|quic|spray]

Prints the JSON lines of bench/ice.py, turn.py, quic.py and spray.py, each with the name of its bench, and a table of what
they come to. Needs root (a lab of network namespaces) for ice, and coturn, aioice and aioquic to compare with. Compare
within a run: absolute figures depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
Lines = Sequence[dict[str, Any]]
Row = tuple[str, str, str]
"""What, figures, and what is expected of them."""

ICE_RATIOS = {"host": 0.3, "srflx": 0.3, "relay": 0.5}
"""Of our median to aioice's, at most."""


def lines_of(bench: str, command: Sequence[str]) -> list[dict[str, Any]]:
    """What the bench prints, which is printed here as it comes."""
    found = []
    with subprocess.Popen([sys.executable, *command], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for text in process.stdout:
            found.append({"bench": bench, **json.loads(text)})
            print(json.dumps(found[-1]), flush=True)
    if process.returncode:
        raise SystemExit(f"bench/{bench}.py has failed")
    return found


def ice_rows(lines: Lines) -> Iterator[Row]:
    for way, limit in ICE_RATIOS.items():
        theirs, ours = (
            next(line for line in lines if line["way"] == way and line["controlling"] == agent)
            for agent in ("aioice", "ours")
        )
        stalls = sum(ours["stalls"])
        yield (
            f"ICE, {way}: controlling / controlled",
            f"{both(ours['median_ms'])} ms, longest {both(ours['max_ms'])}, stalls {stalls}; "
            f"aioice {both(theirs['median_ms'])} ms; ratio {both(ours['ratio'])}",
            f"ratio <= {limit}, no stall",
        )


def both(values: Sequence[float]) -> str:
    return " / ".join(str(value) for value in values)


def turn_rows(lines: Lines) -> Iterator[Row]:
    for line in lines:
        yield (
            f"TURN, {line['data_bytes']} B: {line['server']}",
            f"{line['packets_per_s']:,.0f} packets/s, {line['server_cpu_us']:.1f} us CPU each; "
            f"ratio to coturn {line['packets_per_s_ratio']}, of CPU {line['server_cpu_us_ratio']}",
            "",
        )


def quic_rows(lines: Lines) -> Iterator[Row]:
    for line in lines:
        if "median_ms" in line:
            figures = f"{line['median_ms']:.1f} ms median, {line['p95_ms']:.1f} p95"
        elif "mb_per_s" in line:
            figures = f"{line['mb_per_s']:.0f} MB/s"
            if "messages_per_s" in line:
                figures += f", {line['messages_per_s']:,.0f} messages/s"
        else:
            figures = line.get("error", "")
        yield f"QUIC: {line.get('what', 'failed')}", figures, ""


def spray_rows(lines: Lines) -> Iterator[Row]:
    for line in lines:
        shares = ", ".join(
            f"{second} s {share:.2f} ({line['theory'][second]:.2f})" for second, share in line["hit"].items()
        )
        yield f"spray, {line['where']}", f"{shares}; {line['sigma']} sigma", "as the theory (in parentheses)"


def table(rows: Sequence[Row]) -> str:
    lines = ["| what | figures | expected |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50, help="of each way and pair of ICE agents")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each stream and relay")
    parser.add_argument("--sprays", type=int, default=200, help="on virtual time, for each share of lost packets")
    parser.add_argument("--only", choices=("ice", "turn", "quic", "spray"), help="leave the others out")
    asked = parser.parse_args()
    benches: dict[str, tuple[list[str], Callable[[Lines], Iterator[Row]]]] = {
        "ice": (["bench/ice.py", str(asked.runs), "--alike"], ice_rows),
        "turn": (["bench/turn.py", str(asked.seconds)], turn_rows),
        "quic": (["-m", "bench.quic", "--seconds", str(asked.seconds)], quic_rows),
        "spray": (["bench/spray.py", str(asked.sprays)], spray_rows),
    }
    rows: list[Row] = []
    for bench, (command, rows_of) in benches.items():
        if asked.only in (None, bench):
            rows += rows_of(lines_of(bench, command))
    print(table(rows))


if __name__ == "__main__":
    main()
