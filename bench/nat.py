"""How long a node takes to know its NAT, to have its ports mapped, and to notice that something has changed.

Runs in network namespaces of its own and needs root (the lab of tests/natlab). One JSON line for each figure:
    python bench/nat.py [--runs 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from lab_nodes import LabNode, open_network  # noqa: E402
from natlab import Host, Kind, Lab  # noqa: E402

KINDS = [
    Kind.OPEN,
    Kind.FULL_CONE,
    Kind.RESTRICTED,
    Kind.PORT_RESTRICTED,
    Kind.SYMMETRIC,
    Kind.SYMMETRIC_SEQUENTIAL,
    Kind.CGNAT,
    Kind.BLOCKED,
]
METHODS = ("upnp", "natpmp", "pcp")
OBSERVERS = 6
SETTLED_S = 17.0
"""A router in its first second, or that is asked for its second time within six, cannot be told from one that has started
again: by then it has been looked at twice."""


class Bench:
    def __init__(self, lab: Lab, home: Path, first: str) -> None:
        self.lab = lab
        self.home = home
        self.first = first
        self.started = 0

    def begin(self, host: Host, *options: str) -> LabNode:
        self.started += 1
        return LabNode(host, self.home, f"node{self.started}", "--bootstrap", self.first, *options)

    def verdict(self, kind: Kind) -> dict[str, float]:
        """From the start of the process; the time at which the first and only verdict is out."""
        began = time.monotonic()
        node = self.begin(self.lab.behind(kind), "--nat", "none")
        node.wait(lambda status: status.nat.nat_type is not None)
        took_s = time.monotonic() - began
        node.leave()
        return {"verdict_s": took_s}

    def mapped(self, method: str) -> dict[str, float]:
        began = time.monotonic()
        node = self.begin(self.lab.behind(Kind.IGD, igd=(method,)))
        node.wait(lambda status: status.nat.port_mapping.tcp and status.nat.port_mapping.udp)
        mapped_s = time.monotonic() - began
        node.wait(lambda status: status.nat.reachable_udp and status.nat.reachable_tcp)
        proved_s = time.monotonic() - began
        time.sleep(SETTLED_S)
        router = node.host.router
        router.restart()
        restarted = time.monotonic()
        rules = ["nft", "list", "chain", "inet", "miniupnpd", "upnp_arriving"]
        node.wait(lambda status: router.namespace.run(rules).stdout.count("dnat") == 2)
        back_s = time.monotonic() - restarted
        node.leave()
        return {"mapped_s": mapped_s, "proved_s": proved_s, "back_after_restart_s": back_s}

    def changed(self, change: str) -> dict[str, float]:
        node = self.begin(self.lab.behind(Kind.FULL_CONE, preserve_ports=False), "--nat", "none")
        before = node.wait(lambda status: status.nat.nat_type and status.nat.observed_port).nat
        getattr(node.host.router, change)()
        began = time.monotonic()
        node.wait(
            lambda status: (
                (status.nat.observed_address, status.nat.observed_port)
                not in ((before.observed_address, before.observed_port), (before.observed_address, None))
            )
        )
        noticed_s = time.monotonic() - began
        node.leave()
        return {"noticed_s": noticed_s}


def in_a_black_hole(home: Path) -> dict[str, float]:
    """STUN servers, router, bootstrap node and name server are silent, and a neighbour is on the LAN."""
    with Lab() as lab:
        one = lab.behind(Kind.PORT_RESTRICTED, is_silent=True)
        other = lab.behind(router=one.router)
        silent = ["--lan", "--stun", "198.51.100.1:3478", "--stun", "stun.example.org:3478"]
        bootstrap = ["--bootstrap", f"enode://{'ab' * 32}@seed.example.org:30303?discport=30301"]
        began = time.monotonic()
        nodes = [LabNode(host, home, f"silent{time.monotonic_ns()}", *silent, *bootstrap) for host in (one, other)]
        for node in nodes:
            node.wait(lambda status: status.peers == 1)
        took_s = time.monotonic() - began
        began = time.monotonic()
        nodes[0].leave()
        return {"lan_peer_s": took_s, "stop_s": time.monotonic() - began}


def report(what: str, runs: int, measure: Callable[[], dict[str, float]]) -> None:
    found: list[dict[str, Any]] = [measure() for _ in range(runs)]
    for name in found[0]:
        times = [each[name] for each in found]
        line = {"what": what, "figure": name, "runs": runs, "median": statistics.median(times), "max": max(times)}
        print(json.dumps({key: round(value, 2) if isinstance(value, float) else value for key, value in line.items()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as directory, Lab() as lab:
        home = Path(directory)
        bench = Bench(lab, home, open_network(lab, home, OBSERVERS)[0].wait().enode)
        for kind in KINDS:
            report(f"node behind {kind.value}", runs, lambda kind=kind: bench.verdict(kind))
        for method in METHODS:
            report(f"router with {method} alone", runs, lambda method=method: bench.mapped(method))
        for change in ("forget", "change_address"):
            report(f"router: {change}", runs, lambda change=change: bench.changed(change))
        report("nothing answers", runs, lambda: in_a_black_hole(home))


if __name__ == "__main__":
    main()
