"""How cost grows: a lookup with the size of the network, and a node with the number of its peers.

    python bench/growth.py lookups [--sizes 100,1000,10000] [--lookups 1000] [--seed 1]
    python bench/growth.py peers [--counts 1,2,5,10,25,50,100,200] [--rates 0,500] [--seconds 8]

One JSON line a figure; bench/plots.py draws them.

`lookups` is **simulation**: the node's own code for discovery and table on virtual time, with cheap cryptography, 20 to 80 ms
one way and 2 % of the datagrams lost. Each lookup is for the exact id of a random node, from another random one, fifty under
way at once. Seconds of a lookup are virtual ones; `cpu_s` is what the simulation itself took of this machine.

`peers` is a node as the command runs it, and so many real links over loopback from another process. At a rate of 0 they do
nothing but answer heartbeats; else they publish so many signed transactions of 200 B a second in all, each of which comes from
three peers (fewer where there are fewer) and goes on to those that have not brought it. Memory is told after some seconds
only: messages are remembered for ten minutes, and what that takes is in docs/operating.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

COPIES = 3
SIZE = 200
SETTLE_S = 6.0
LATENCY_S, SPREAD_S, LOSS = 0.05, 0.03, 0.02


def say(**figures: object) -> None:
    print(
        json.dumps({name: round(one, 4) if isinstance(one, float) else one for name, one in figures.items()}),
        flush=True,
    )


# -- by the size of the network ----------------------------------------------------------------------------------------


def lookups(size: int, count: int, seed: int) -> None:
    from kodectl.sim.dht import DhtNetwork
    from kodectl.sim.garbage import seldom_collected
    from kodectl.sim.network import PathModel

    began, cpu_began = time.monotonic(), time.process_time()
    network = DhtNetwork(size, seed, PathModel(latency_s=LATENCY_S, spread_s=SPREAD_S, loss=LOSS))
    with seldom_collected(), network.world:
        network.build()
        built_s, cpu_built_s = time.monotonic() - began, time.process_time() - cpu_began
        found = network.lookups(count, network.nodes)
    say(
        bench="growth lookups",
        simulated=True,
        nodes=size,
        lookups=count,
        seed=seed,
        found=sum(one.found for one in found) / count,
        messages=spread([one.messages for one in found]),
        rounds=spread([one.rounds for one in found]),
        virtual_s=spread([one.elapsed_s for one in found]),
        cpu_s={"build": round(cpu_built_s, 1), "lookups": round(time.process_time() - cpu_began - cpu_built_s, 1)},
        wall_s={"build": round(built_s, 1), "lookups": round(time.monotonic() - began - built_s, 1)},
        resident_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": round(ordered[len(ordered) // 2], 4),
        "p95": round(ordered[len(ordered) * 95 // 100], 4),
        "most": round(ordered[-1], 4),
    }


# -- by the number of peers --------------------------------------------------------------------------------------------


def peers(count: int, rate: int, seconds: float) -> None:
    import operated  # its peers, without those who watch
    import psutil

    with tempfile.TemporaryDirectory() as directory:
        environment = {**os.environ, "KODECTL_BOOTSTRAP": ""}
        node = subprocess.Popen(node_command(directory, count), stdout=subprocess.PIPE, text=True, env=environment)
        others: list[subprocess.Popen[str]] = []
        try:
            ready = json.loads(operated.wait_for_line(node))["data"]
            operated.drain(node)
            process = psutil.Process(node.pid)
            alone = process.memory_info().rss
            others.append(operated.start("peers", ready["enode"], *map(str, (count, rate, min(COPIES, count), SIZE))))
            operated.wait_for_line(others[0])
            time.sleep(SETTLE_S)
            began, cpu_began = time.monotonic(), operated.cpu_s(process)
            time.sleep(seconds)
            elapsed_s, cpu_s = time.monotonic() - began, operated.cpu_s(process) - cpu_began
            resident = process.memory_info().rss
            told: dict[str, Any] = operated.reports_of(others)
        finally:
            for one in [*others, node]:
                one.kill()
                one.wait()
    say(
        bench="growth peers",
        peers=count,
        rate=rate,
        sent_per_s=told["sent_per_s"],
        links_lost=told["peers"]["links_lost"],
        cpu_ms_per_s=cpu_s / elapsed_s * 1000,
        resident_mb=resident / (1 << 20),
        resident_alone_mb=alone / (1 << 20),
    )


def node_command(directory: str, count: int) -> list[str]:
    # Of all slots some are kept for peers that it dials itself.
    slots = str(2 * max(10, count))
    places = [
        "--datadir",
        f"{directory}/node",
        "--listen",
        "127.0.0.1:0",
        "--discovery-port",
        "0",
        "--api",
        "127.0.0.1:0",
    ]
    options = [
        "--network",
        "bench",
        "--max-peers",
        slots,
        "--no-lan",
        "--nat",
        "none",
        "--json",
        "-q",
    ]
    return [sys.executable, "-m", "kodectl", "node", "run", *places, *options]


def each_alone(role: str, *arguments: object) -> None:
    """In a process of its own, so that none has the memory of the one before."""
    subprocess.run([sys.executable, __file__, role, "--one", *map(str, arguments)], check=True)


def numbers(text: str) -> list[int]:
    return [int(one) for one in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    roles = parser.add_subparsers(dest="role", required=True)
    by_size = roles.add_parser("lookups")
    by_size.add_argument("--sizes", type=numbers, default="100,1000,10000")
    by_size.add_argument("--lookups", type=int, default=1000)
    by_size.add_argument("--seed", type=int, default=1)
    by_peers = roles.add_parser("peers")
    by_peers.add_argument("--counts", type=numbers, default="1,2,5,10,25,50,100,200")
    by_peers.add_argument("--rates", type=numbers, default="0,500")
    by_peers.add_argument("--seconds", type=float, default=8.0)
    for role in (by_size, by_peers):
        role.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "lookups":
        if options.one:
            lookups(*map(int, options.one))
            return
        for size in options.sizes:
            each_alone("lookups", size, options.lookups, options.seed)
        return
    if options.one:
        count, rate, seconds = options.one
        peers(int(count), int(rate), float(seconds))
        return
    for rate in options.rates:
        for count in options.counts:
            each_alone("peers", count, rate, options.seconds)


if __name__ == "__main__":
    main()
