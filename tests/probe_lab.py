"""`kodectl nat probe` as a user runs it, behind routers of every kind, with servers that are honest, dead or lie."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from subprocess import PIPE
from typing import Any, NamedTuple

from conftest import environment
from lying_servers import PORT, Lie
from natlab import Host, Kind, Lab

TESTS = Path(__file__).parent
PYTHONPATH = {"PYTHONPATH": str(TESTS.parent)}
SIDE_BY_SIDE = 12
"""Probes at a time: they wait for most of their time, and start for some of it."""
DEAD = f"30.0.0.1:{PORT}"
"""Outside of what the lab's internet has: a black hole."""

EXPECTED = {
    Kind.OPEN: "open",
    Kind.FIREWALLED: "firewalled",
    Kind.FULL_CONE: "full_cone",
    Kind.RESTRICTED: "restricted",
    Kind.PORT_RESTRICTED: "port_restricted",
    Kind.SYMMETRIC: "symmetric",
    Kind.SYMMETRIC_SEQUENTIAL: "symmetric",
    Kind.SYMMETRIC_BY_ADDRESS: "symmetric",
    Kind.CGNAT: "port_restricted",
    Kind.CARRIER: "full_cone",
    Kind.IGD: "port_restricted",
    Kind.BLOCKED: "blocked",
}
SIX_LIES = (
    Lie.OWN_OTHER_ADDRESS,
    Lie.THIRD_PARTY,
    Lie.FALSE_MAPPED_PORT,
    Lie.FALSE_MAPPED_IP,
    Lie.RANDOM_PORTS,
    Lie.SILENT_TO_CHANGE_REQUEST,
)


class Probe(NamedTuple):
    """A probe to run: the host behind `kind`, with these arguments."""

    kind: Kind
    arguments: tuple[str, ...]


class Result(NamedTuple):
    kind: Kind
    exit: int
    data: dict[str, Any]
    warnings: list[str]

    @property
    def judgement(self) -> str:
        nat_type = self.data["nat_type"]
        if nat_type is None:
            return "null" if self.data["why"]["nat_type"] else "null without a reason"
        return "right" if nat_type == EXPECTED[self.kind] else "wrong"


class ProbeLab:
    """`coturn` and `kodectl` are honest servers with two addresses, `plain` is one with one."""

    def __init__(self, lab: Lab, home: Path, kinds: Iterable[Kind] = EXPECTED, **options: Any) -> None:
        self.lab = lab
        self.hosts = {kind: lab.behind(kind, **options) for kind in kinds}
        self.environment = environment(home)
        coturn, plain = lab.public("coturn", addresses=2), lab.public("plain")
        lab.coturn(coturn)
        lab.coturn(plain)
        self.coturn, self.plain = f"{coturn.ip}:{PORT}", f"{plain.ip}:{PORT}"
        self._victim = coturn.addresses[1]
        self._liars: dict[Lie, str] = {}
        ours = lab.public("kodectl", addresses=2)
        self.kodectl = f"{ours.ip}:{PORT}"
        listen = ["--listen", self.kodectl, "--alt-ip", ours.addresses[1]]
        self._serve(ours, [sys.executable, "-m", "kodectl", "nat", "serve", "--json", *listen])

    def liar(self, lie: Lie) -> str:
        """With two addresses. Who names a third party names the other address of coturn."""
        if lie not in self._liars:
            host = self.lab.public(lie.value, addresses=2)
            third = f"{self._victim}:{PORT + 1}"
            program = str(TESTS / "lying_servers.py")
            self._serve(host, [sys.executable, program, lie.value, *host.addresses, "--third", third])
            self._liars[lie] = f"{host.ip}:{PORT}"
        return self._liars[lie]

    def _serve(self, host: Host, command: list[str]) -> None:
        """Until it has said something, which is that it is ready."""
        process = host.popen(command, cwd=TESTS.parent, env=self.environment | PYTHONPATH, stdout=PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline(), f"{command} did not start"

    def run(self, probe: Probe) -> Result:
        command = [sys.executable, "-m", "kodectl", "nat", "probe", "--json", *probe.arguments]
        done = self.hosts[probe.kind].run(command, cwd=TESTS.parent, env=self.environment)
        document = json.loads(done.stdout)
        data = document.get("data") or document["error"].get("details")
        assert data is not None, done.stdout
        return Result(probe.kind, done.returncode, data, [warning["code"] for warning in document["warnings"]])

    def run_all(self, probes: Sequence[Probe], side_by_side: int = SIDE_BY_SIDE) -> list[Result]:
        with ThreadPoolExecutor(side_by_side) as pool:
            return list(pool.map(self.run, probes))


def servers(*names: str, gateway: bool = False) -> tuple[str, ...]:
    options = [option for name in names for option in ("--server", name)]
    return (*options, *([] if gateway else ["--no-gateway"]))


def table(results: Iterable[Result]) -> str:
    """Kind by kind: how many are right, null (why), wrong, and the median and longest time of the probe itself."""
    by_kind: dict[Kind, list[Result]] = {}
    for result in results:
        by_kind.setdefault(result.kind, []).append(result)
    lines = [f"{'':22}{'right':>6}{'null':>6}{'wrong':>6}{'median':>9}{'longest':>9}  why null"]
    for kind, found in by_kind.items():
        judged = Counter(result.judgement for result in found)
        times = [result.data["took_ms"] / 1000 for result in found]
        why = Counter(result.data["why"]["nat_type"] for result in found if result.judgement == "null")
        reasons = ", ".join(f"{reason} {number}" for reason, number in why.most_common())
        figures = (
            f"{judged['right']:>6}{judged['null']:>6}{judged['wrong']:>6}{median(times):>7.2f} s{max(times):>7.2f} s"
        )
        lines.append(f"{kind.value:22}{figures}  {reasons}")
    return "\n".join(lines)
