"""`kodectl node run` on hosts of the lab."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from natlab import Host, Lab

from kodectl.api.files import SOCKET_FILE
from kodectl.cli.client import Endpoint, NodeClient
from kodectl.errors import KodectlError
from kodectl.node.views import PeersView, StatusView, TableView

REPOSITORY = Path(__file__).parents[1]
LYING_NODE = Path(__file__).parent / "lying_node.py"
PATIENCE_S = 90.0
"""With a busy machine, and what takes half a minute by design; how long things really take is measured in bench/."""


class LabNode:
    """Its API's socket is a file, which network namespaces do not hide."""

    def __init__(
        self, host: Host, home: Path, name: str, *options: str, program: tuple[str, ...] = ("-m", "kodectl")
    ) -> None:
        self.host = host
        self.datadir = home / name
        self.log = home / f"{name}.log"
        self._output = home / f"{name}.out"
        command = [sys.executable, *program, "node", "run", "--datadir", str(self.datadir), "--json", "--no-lan"]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("KODECTL_")}
        environment = {**kept, "HOME": str(home), "KODECTL_BOOTSTRAP": "", "PYTHONPATH": str(REPOSITORY)}
        with self.log.open("a") as log, self._output.open("a") as out:
            self.process = host.popen([*command, *options], stdout=out, stderr=log, env=environment, cwd=REPOSITORY)
        self._client = NodeClient(Endpoint(unix=self.datadir / SOCKET_FILE), 5.0)

    def status(self) -> StatusView | None:
        try:
            return self._client.get("/api/network/status", StatusView)
        except KodectlError:
            return None

    def peers(self) -> list[dict[str, Any]]:
        return msgspec.to_builtins(self._client.get("/api/network/peers", PeersView).peers)

    def table(self) -> TableView:
        return self._client.get("/api/network/routing", TableView)

    def wait(self, holds: Callable[[StatusView], Any] = lambda status: True) -> StatusView:
        """The first status of which that is true."""
        ends = time.monotonic() + PATIENCE_S
        while True:
            status = self.status()
            if status is not None and holds(status):
                return status
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < ends, f"{status}\n{self.log.read_text()}"
            time.sleep(0.05)

    def events(self) -> list[dict[str, Any]]:
        """What it has printed so far."""
        return [json.loads(line)["data"] for line in self._output.read_text().splitlines()]

    def leave(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(15) == 0, self.log.read_text()


def open_network(lab: Lab, home: Path, honest: int, liars: int = 0) -> list[LabNode]:
    """Nodes with public addresses that all know each other; the first is the one to begin with."""
    first = LabNode(lab.public("observer"), home, "observer0", "--nat", "none")
    enode = first.wait().enode
    others = [
        LabNode(lab.public("observer"), home, f"observer{number}", "--bootstrap", enode, "--nat", "none")
        for number in range(1, honest)
    ]
    lying = [
        LabNode(
            lab.public("liar"), home, f"liar{number}", "--bootstrap", enode, "--nat", "none", program=(str(LYING_NODE),)
        )
        for number in range(liars)
    ]
    nodes = [first, *others, *lying]
    for node in nodes:
        node.wait(lambda status: status.table_size == len(nodes) - 1)
    for node in nodes[:honest]:
        node.wait(lambda status: status.nat.reachable_udp and status.nat.reachable_tcp)
    return nodes
