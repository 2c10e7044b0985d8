"""Many nodes as processes on one machine: they find each other, survive a massacre, and come back."""

import json
import random
from typing import Any

import pytest

PEERS_LIMIT_S = 60.0
GONE_LIMIT_S = 120.0
BACK_LIMIT_S = 60.0
SIZES = [pytest.param(8, 5, id="8"), pytest.param(30, 8, id="30", marks=pytest.mark.slow)]


class Network:
    """`size` nodes, of which all know the first."""

    def __init__(self, nodes, size: int) -> None:
        self._nodes = nodes
        self.first = nodes.start("0")
        self.members = {"0": self.first}
        self.options = ("--bootstrap", self.first.enode)
        for number in range(1, size):
            self.members[str(number)] = nodes.launch(str(number), *self.options)
        for node in self.members.values():
            node.wait_ready()

    def ask(self, node, *command: str) -> Any:
        """The data of a `node` command's JSON answer."""
        done = self._nodes.kodectl(*command, "--json", "--datadir", str(node.datadir))
        return json.loads(done.stdout)["data"]

    def peers(self, node) -> set[str]:
        return {peer["id"] for peer in self.ask(node, "node", "peers")["peers"]}

    def finds(self, asker, target) -> bool:
        done = self._nodes.kodectl("dht", "find-node", target.id, "--json", "--bootstrap", asker.enode)
        return done.returncode == 0

    def put(self, key: str) -> None:
        done = self._nodes.kodectl("dht", "put", key, "value", "--bootstrap", self.first.enode)
        assert done.returncode == 0, done.stderr

    def records(self, node) -> int:
        return self.ask(node, "node", "status")["records"]

    def kill(self, name: str):
        node = self.members.pop(name)
        node.process.kill()
        node.process.wait()
        return node

    def restart(self, name: str):
        self.members[name] = self._nodes.start(name, *self.options)
        return self.members[name]


@pytest.mark.parametrize(("size", "least_peers"), SIZES)
def test_network_of_processes(nodes, eventually, size, least_peers):
    network = Network(nodes, size)
    everybody = list(network.members.values())
    eventually(lambda: all(len(network.peers(node)) >= least_peers for node in everybody), PEERS_LIMIT_S)
    for number in range(size):
        network.put(f"key {number}")
    records = network.records(network.members["2"])
    assert records >= size // 4
    # These take longer than the second after which what was put is on the disk.
    rng = random.Random(size)
    for _ in range(size):
        asker, target = rng.sample(everybody, 2)
        assert network.finds(asker, target)

    # A third dies without a word, the bootstrap node among them.
    dead = {name: network.kill(name) for name in ("0", *(str(number) for number in range(2, size, 3)))}
    dead_ids = {node.id for node in dead.values()}
    living = list(network.members.values())
    for _ in range(size):
        asker, target = rng.sample(living, 2)
        assert network.finds(asker, target)
    eventually(lambda: not any(network.peers(node) & dead_ids for node in living), GONE_LIMIT_S)

    # One of them comes back, with its key, its records and its peers.
    reborn = network.restart("2")
    assert reborn.id == dead["2"].id
    assert network.records(reborn) >= records
    eventually(lambda: len(network.peers(reborn)) >= min(4, len(living) - 1), BACK_LIMIT_S)
    assert network.finds(reborn, living[0])
