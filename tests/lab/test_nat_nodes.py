"""Running nodes behind real NATs: what they find out about themselves, with six open nodes as observers."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from natlab import Host, Kind, Lab, skip_without_lab

from kodectl.api.files import SOCKET_FILE
from kodectl.cli.client import Endpoint, NodeClient
from kodectl.errors import KodectlError
from kodectl.node.views import StatusView

pytestmark = [pytest.mark.lab, skip_without_lab]

REPOSITORY = Path(__file__).parents[2]
OBSERVERS = 6
LIMIT_S = 30.0
"""Of patience on a busy machine; how long it really takes is measured by bench/nat.py."""


class LabNode:
    """`kodectl node run` on a host of the lab. Its API's socket is a file, which namespaces do not hide."""

    def __init__(self, host: Host, home: Path, name: str, *options: str) -> None:
        self.host = host
        self.datadir = home / name
        self.log = home / f"{name}.log"
        command = [sys.executable, "-m", "kodectl", "node", "run", "--datadir", str(self.datadir), "--json", "--no-lan"]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("KODECTL_")}
        environment = {**kept, "HOME": str(home), "KODECTL_BOOTSTRAP": "", "PYTHONPATH": str(REPOSITORY)}
        with self.log.open("a") as log, (home / f"{name}.out").open("w") as out:
            self.process = host.popen([*command, *options], stdout=out, stderr=log, env=environment, cwd=REPOSITORY)
        self._client = NodeClient(Endpoint(unix=self.datadir / SOCKET_FILE), 5.0)

    def status(self) -> StatusView | None:
        try:
            return self._client.get("/api/network/status", StatusView)
        except KodectlError:
            return None

    def wait(self, holds: Callable[[StatusView], Any], limit_s: float = LIMIT_S) -> StatusView:
        ends = time.monotonic() + limit_s
        while True:
            status = self.status()
            if status is not None and holds(status):
                return status
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < ends, f"{status}\n{self.log.read_text()}"
            time.sleep(0.1)

    def events(self) -> list[dict[str, Any]]:
        lines = (self.datadir.parent / f"{self.datadir.name}.out").read_text().splitlines()
        return [json.loads(line)["data"] for line in lines]


@pytest.fixture(scope="module")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, list[LabNode], Path]]:
    home = tmp_path_factory.mktemp("nat")
    with Lab() as lab:
        first = LabNode(lab.public("observer"), home, "observer0")
        enode = first.wait(lambda status: True).enode
        others = [
            LabNode(lab.public("observer"), home, f"observer{number}", "--bootstrap", enode)
            for number in range(1, OBSERVERS)
        ]
        observers = [first, *others]
        for observer in observers:
            observer.wait(lambda status: status.table_size == OBSERVERS - 1 and status.nat.reachable_udp)
        yield lab, observers, home


# What a node says of itself: NAT type, what others can do, UDP and TCP reachable, part in the DHT.
EXPECTED = {
    Kind.OPEN: ("open", "direct", True, True, "server"),
    Kind.FULL_CONE: ("full_cone", "direct", True, False, "server"),
    Kind.RESTRICTED: ("restricted", "hole_punching", False, False, "client"),
    Kind.PORT_RESTRICTED: ("port_restricted", "hole_punching", False, False, "client"),
    Kind.SYMMETRIC: ("symmetric", "turn_relay", False, False, "client"),
    Kind.SYMMETRIC_SEQUENTIAL: ("symmetric", "turn_relay", False, False, "client"),
    Kind.CGNAT: ("port_restricted", "hole_punching", False, False, "client"),
    Kind.BLOCKED: ("blocked", "turn_relay", False, None, "client"),
}


def verdict(status: StatusView) -> tuple[str | None, str, bool | None, bool | None, str]:
    nat = status.nat
    return nat.nat_type, nat.state, nat.reachable_udp, nat.reachable_tcp, status.dht_mode


@pytest.mark.parametrize("kind", EXPECTED, ids=lambda kind: kind.value)
def test_a_node_knows_its_nat(internet, kind):
    lab, observers, home = internet
    host = lab.behind(kind)
    node = LabNode(host, home, kind.value, "--bootstrap", observers[0].status().enode, "--nat", "none")
    status = node.wait(lambda status: verdict(status) == EXPECTED[kind])
    if kind is not Kind.BLOCKED:
        assert status.nat.observed_address == host.external_ip
        assert status.enode.split("@")[1].startswith(host.external_ip + ":")
    print(node.log.read_text()); t=time.monotonic(); node.process.terminate()
    assert node.process.wait(10) in (0, 143); print("stop", time.monotonic()-t); print(node.log.read_text()[-300:])
