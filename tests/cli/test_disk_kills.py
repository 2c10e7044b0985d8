"""`kodectl node run` on a real directory, killed at random moments: what it has acknowledged is there after the next start."""

from __future__ import annotations

import base64
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
LIMIT_S = 60.0
WRITERS = 3
START_S = 1.0
"""About what a start takes: kills are spread over it."""
MAX_WAL_BYTES = 8 * 1024 * 1024
"""Twice the size at which the log goes back into the file."""


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=LIMIT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(LIMIT_S)
        self.sock.connect(os.fspath(self._path))


class Client:
    """One connection to a node's API."""

    def __init__(self, datadir: Path) -> None:
        self._connection = UnixConnection(datadir / "api.sock")

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        sent = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json"} if sent else {}
        self._connection.request(method, path, sent, headers)
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())

    def close(self) -> None:
        self._connection.close()


class Ledger:
    """What was acknowledged, and what was only asked for: that may be there or not."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}
        self.asked: dict[str, int] = {}
        self.banned: dict[str, bool | None] = {}
        """None: asked for, not answered."""
        self.count = 0
        self._lock = threading.Lock()

    def write(self, client: Client, number: int, rng: random.Random) -> None:
        """One order. Raises OSError or HTTPException when the node is killed meanwhile."""
        if rng.random() < 0.7:
            key = f"{number}-{rng.randrange(40)}"
            self.asked[key] = turn = self.asked.get(key, 0) + 1
            value = base64.b64encode(f"{turn} ".encode() * 100).decode()
            status, answer = client.ask("PUT", f"/api/dht/{key}", {"value": value, "ttl_s": 86_400})
            assert status == 200, answer
            self.values[key] = turn
        else:
            # Of its own for each writer: who is banned and unbanned at the same time is neither.
            node_id = f"{1 + number:02x}{rng.randrange(20):062x}"
            order = "unban" if self.banned.get(node_id) else "ban"
            self.banned[node_id] = None
            status, answer = client.ask("POST", f"/api/network/{order}/{node_id}")
            assert status == 200, answer
            self.banned[node_id] = order == "ban"
        with self._lock:
            self.count += 1

    def check(self, client: Client) -> None:
        for key, turn in self.values.items():
            status, answer = client.ask("GET", f"/api/dht/{key}")
            assert status == 200, (key, turn, answer)
            (record,) = answer["records"]
            assert int(base64.b64decode(record["value"]).split()[0]) in (turn, self.asked[key]), (key, turn)
        for node_id, banned in self.banned.items():
            if banned is not None:
                # Where nobody listens, and nobody else was just dialled.
                target = f"enode://{node_id}@127.0.0.1:{20 * int(node_id[:2], 16) + int(node_id[2:], 16)}?discport=1"
                _, answer = client.ask("POST", "/api/network/connect", {"target": target, "timeout_s": 1.0})
                assert (answer["outcome"] == "banned") is banned, (node_id, answer)


class Writer(threading.Thread):
    """Gives orders until the node is gone."""

    def __init__(self, ledger: Ledger, datadir: Path, number: int, seed: int) -> None:
        super().__init__(daemon=True)
        self._ledger, self._datadir, self._number = ledger, datadir, number
        self._rng = random.Random(seed)
        self.failure: BaseException | None = None

    def run(self) -> None:
        client = Client(self._datadir)
        try:
            while True:
                self._ledger.write(client, self._number, self._rng)
        except (OSError, http.client.HTTPException):
            pass  # killed
        except BaseException as error:
            self.failure = error
        finally:
            client.close()


def killed_under_writes(nodes: Any, ledger: Ledger, rng: random.Random, writes: int) -> float:
    """Starts the node, looks whether all is there, writes, kills it; answers how long the start took by its own clock."""
    node = nodes.start("a")
    started_s = json.loads(node.output.read_text().splitlines()[0])["elapsed_ms"] / 1000
    assert node.ready["warnings"] == []
    client = Client(node.datadir)
    ledger.check(client)
    client.close()
    writers = [Writer(ledger, node.datadir, number, rng.randrange(2**32)) for number in range(WRITERS)]
    enough = ledger.count + rng.randrange(writes)
    for writer in writers:
        writer.start()
    deadline = time.monotonic() + LIMIT_S
    while ledger.count < enough and any(writer.is_alive() for writer in writers):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    node.leave(signal.SIGKILL)
    for writer in writers:
        writer.join(LIMIT_S)
        assert writer.failure is None, writer.failure
    assert "Traceback" not in node.log.read_text()
    assert (node.datadir / "node.db-wal").stat().st_size < MAX_WAL_BYTES
    return started_s


def killed_while_starting(nodes: Any, after_s: float) -> None:
    """Or just after it."""
    node = nodes.launch("a")
    try:
        node.process.wait(after_s)
    except subprocess.TimeoutExpired:
        node.leave(signal.SIGKILL)
    assert node.process.returncode == -signal.SIGKILL, node.log.read_text()
    assert "Traceback" not in node.log.read_text()


def killed_often(nodes: Any, seed: int, kills: int, writes: int) -> list[float]:
    rng, ledger = random.Random(seed), Ledger()
    starts = []
    for _ in range(kills):
        if starts and rng.random() < 0.2:
            killed_while_starting(nodes, rng.uniform(0.0, 1.2 * START_S))
        else:
            starts.append(killed_under_writes(nodes, ledger, rng, writes))
    node = nodes.start("a")
    client = Client(node.datadir)
    ledger.check(client)
    client.close()
    assert node.leave() == 0
    print(f"{ledger.count} orders acknowledged, {len(ledger.values)} values, {len(ledger.banned)} bans")
    return starts


def test_killed_under_writes_it_has_what_it_acknowledged(nodes: Any) -> None:
    killed_often(nodes, 1, 1, 200)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
def test_killed_two_hundred_times_it_has_what_it_acknowledged(nodes: Any, seed: int) -> None:
    starts = killed_often(nodes, seed, 50, 600)
    quarter = len(starts) // 4
    median = [sorted(part)[quarter // 2] for part in (starts[:quarter], starts[-quarter:])]
    print(
        f"starts: median of the first {quarter} {median[0]:.3f} s, of the last {median[1]:.3f} s, longest {max(starts):.3f} s"
    )
